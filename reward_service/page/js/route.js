// Deep links: everything that a view shows is in the address, `#/view/id?filter=value`.

export function route() {
  const [path, text = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view: view || "groups", id: rest.map(decoded).join("/"), filters: new URLSearchParams(text) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // as it is: no id has it, and the view tells that
  }
}

let opened = "", isOnly = true; // the run that the page was opened with, and whether the store has no other

// A service may come to serve another run; the page stays with the one that it was opened with, and so does its address.
export function stayWith(run, isOnlyRun) {
  opened ||= run;
  isOnly = isOnlyRun;
  if (!isOnly && !named()) remember({ run: opened });
}

const named = () => route().filters.get("run");

// The run that is looked at; empty: the one that the service serves.
export const chosenRun = () => named() ?? opened;

export function link(view, id = "", filters = {}) {
  const given = Object.entries({ run: named() ?? (isOnly ? "" : opened), ...filters }).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given).toString();
  const path = String(id).split("/").map(encodeURIComponent).join("/");
  return `#/${view}${path ? `/${path}` : ""}${text ? `?${text}` : ""}`;
}

export function go(view, id, filters) {
  location.hash = link(view, id, filters);
}

// The address as it is now, with other values of some filters.
export function linkWith(changes) {
  const { view, id, filters } = route();
  return link(view, id, { ...Object.fromEntries(filters), ...changes });
}

export function goWith(changes) {
  location.hash = linkWith(changes);
}

// Puts into the address what has changed in a view that stays.
export function remember(changes) {
  history.replaceState(history.state, "", linkWith(changes));
}
