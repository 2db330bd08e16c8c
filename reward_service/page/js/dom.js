// Elements from their parts. Texts are always texts, never markup: responses come from a model.

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Has a place contain these. A field that has the focus keeps it, where what comes has the same one.
export function replace(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  place.replaceChildren(...children.flat());
  const field = focused?.name ? place.querySelector(`[name="${CSS.escape(focused.name)}"]`) : null;
  (focused?.isConnected ? focused : field)?.focus({ preventScroll: true });
}

export const show = (...children) => replace(document.getElementById("main"), ...children);

export const rounded = (value, digits = 2) =>
  value === null || value === undefined ? "–" : Number(value.toFixed(digits)).toString();

// Three significant digits; whole numbers whole.
export const significant = (value) =>
  value === null || value === undefined ? "–"
    : Number.isInteger(value) || Math.abs(value) >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));

export const ago = (seconds) => {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 90) return `${Math.round(past)} s ago`;
  if (past < 5400) return `${Math.round(past / 60)} min ago`;
  return past < 172800 ? `${Math.round(past / 3600)} h ago` : new Date(1000 * seconds).toLocaleDateString();
};
