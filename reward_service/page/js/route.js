// Deep links: everything that a view shows is in the address, `#/view/id?filter=value`.

export function route() {
  const [path, text = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view: view || "groups", id: rest.map(decodeURIComponent).join("/"), filters: new URLSearchParams(text) };
}

// The run that is looked at; empty: the one that the service serves.
export const chosenRun = () => route().filters.get("run") ?? "";

export function link(view, id = "", filters = {}) {
  const given = Object.entries({ run: chosenRun(), ...filters }).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given).toString();
  return `#/${view}${id ? `/${id}` : ""}${text ? `?${text}` : ""}`;
}

export function go(view, id, filters) {
  location.hash = link(view, id, filters);
}
