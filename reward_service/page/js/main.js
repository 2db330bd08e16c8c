// The page: one view at a time, by the address; keys; light and dark.

import { h, show } from "./dom.js";
import { get } from "./api.js";
import * as comparison from "./comparison.js";
import * as curves from "./curves.js";
import { group } from "./group.js";
import * as groups from "./groups.js";
import { lazyImage } from "./images.js";
import { pipeline } from "./pipeline.js";
import { enter, restored } from "./place.js";
import { prompt, FILTERS as PROMPT_FILTERS } from "./prompt.js";
import { go, link, route } from "./route.js";
import { showRuns } from "./runs.js";

// Views by name, with the filters that each knows. Names of the API's routes lead to what its ids mean.
const VIEWS = {
  groups: { show: (asked, signal) => (asked.id ? group : groups.groups)(asked, signal), filters: groups.FILTERS },
  group: { show: group, filters: groups.FILTERS, isGroups: true },
  traces: { show: answer, filters: groups.FILTERS, isGroups: true },
  prompts: { show: prompt, filters: PROMPT_FILTERS, isGroups: true },
  curves: { show: curves.curvesView, filters: curves.FILTERS },
  comparison: { show: comparison.comparison, filters: comparison.FILTERS },
  pipeline: { show: pipeline, filters: [] },
  steps: { show: ({ id }) => location.replace(link("groups", "", { step: id })), filters: [] },
  runs: { show: ({ id }) => location.replace(link("groups", "", { run: id })), filters: [] },
  images: { show: ({ id }) => show(h("h1", {}, "Image"), lazyImage(id, { alt: `Image ${id}` }, `There is no image ${id}.`)), filters: [] },
};
const NAMED = ["groups", "curves", "pipeline", "comparison"]; // in the header
let leaving = new AbortController();

async function render() {
  enter();
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const asked = route();
  const view = VIEWS[asked.view];
  showLinks();
  for (const anchor of document.querySelectorAll("header nav a")) {
    const here = anchor.dataset.view === (view?.isGroups ? "groups" : asked.view);
    here ? anchor.setAttribute("aria-current", "page") : anchor.removeAttribute("aria-current");
  }
  const runs = get("runs", { run: "" }, signal);
  runs.then((found) => {
    showRuns(found);
    showLinks();
  }, () => {}); // the view tells what is wrong
  const wrong = misspelt(asked, view);
  if (wrong) return show(h("p", { class: "notice" }, wrong));
  try {
    await view.show({ ...asked, runs }, signal);
    const { scrolled } = restored() ?? { scrolled: asked.view === "traces" ? null : 0 };
    if (!signal.aborted && scrolled !== null) window.scrollTo(0, scrolled);
  } catch (problem) {
    if (!signal.aborted) show(h("p", { class: "notice" }, problem.message));
  }
}

function showLinks() {
  for (const anchor of document.querySelectorAll("header nav a")) anchor.href = link(anchor.dataset.view);
}

// What the address has that is not known; empty where all is.
function misspelt({ view: name, filters }, view) {
  if (!view) return `There is no view '${name}'; there are ${NAMED.join(", ")}.`;
  const known = ["run", ...view.filters];
  const unknown = [...filters.keys()].filter((filter) => !known.includes(filter));
  return unknown.length ? `The view '${name}' has no filter '${unknown.join("', '")}'; it has ${known.join(", ")}.` : "";
}

// One answer, among the others to its prompt.
async function answer(asked, signal) {
  const { group_id: id } = await get(`traces/${asked.id}`, {}, signal);
  await group({ ...asked, id }, signal);
  const box = document.querySelector(`[data-trace="${CSS.escape(asked.id)}"]`);
  if (box) box.querySelector("details").open = true;
  box?.scrollIntoView({ block: "center" });
  box?.focus({ preventScroll: true });
}

function step(by) {
  const items = [...document.querySelectorAll("[data-item]")];
  const now = items.findIndex((item) => item === document.activeElement);
  const next = items[Math.max(0, Math.min(items.length - 1, now + by))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  n: () => document.querySelector("[data-key=n]")?.click(),
  p: () => document.querySelector("[data-key=p]")?.click(),
  u: () => document.querySelector("[data-key=u]")?.click(),
  s: () => go("groups", "", { pattern: "shortcut" }),
  "/": () => document.getElementById("words")?.focus(),
  1: () => go("groups"),
  2: () => go("curves"),
  3: () => go("pipeline"),
  4: () => go("comparison"),
  "?": () => document.getElementById("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement?.blur();
  const typing = event.target.matches("input, select, textarea") || document.querySelector("dialog[open]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const theme = dark ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("themechange"));
  localStorage.setItem("vision-sr1-theme", theme);
});
const theme = localStorage.getItem("vision-sr1-theme");
if (theme) document.documentElement.dataset.theme = theme;

window.addEventListener("hashchange", render);
render();
