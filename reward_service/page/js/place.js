// Where one is in a view: kept with its entry of the browser's history, so that going back leads to the same place.

const KEY = "vision-sr1-place-";
let entry = null;

history.scrollRestoration = "manual"; // the browser would scroll before a list is there

// Keeps the place in the view that is left, and begins with the entry that the address belongs to now.
export function enter() {
  keep();
  entry = history.state?.entry ?? `${Date.now()}-${Math.random()}`;
  history.replaceState({ ...history.state, entry }, "");
}

// How many items of a list were there, and how far it was scrolled, when the view was left; null at the first visit.
export const restored = () => JSON.parse(sessionStorage.getItem(KEY + entry));

function keep() {
  if (entry === null) return;
  const items = document.querySelectorAll("#main [data-item]").length;
  sessionStorage.setItem(KEY + entry, JSON.stringify({ items, scrolled: window.scrollY }));
}

window.addEventListener("pagehide", keep);
