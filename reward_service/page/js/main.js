// The page: one view at a time, by the address; keys; light and dark.

import { h, show } from "./dom.js";
import { get } from "./api.js";
import { comparison } from "./comparison.js";
import { curvesView } from "./curves.js";
import { group } from "./group.js";
import { groups } from "./groups.js";
import { pipeline } from "./pipeline.js";
import { go, link, route } from "./route.js";
import { showRuns } from "./runs.js";

const VIEWS = { groups, group, curves: curvesView, comparison, pipeline };
let leaving = new AbortController();

async function render() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const asked = route();
  for (const anchor of document.querySelectorAll("header nav a")) {
    const here = anchor.dataset.view === asked.view || (asked.view === "group" && anchor.dataset.view === "groups");
    anchor.href = link(anchor.dataset.view);
    here ? anchor.setAttribute("aria-current", "page") : anchor.removeAttribute("aria-current");
  }
  const runs = get("runs", {}, signal);
  runs.then(showRuns, () => {}); // the view says what is wrong
  try {
    await (VIEWS[asked.view] ?? groups)({ ...asked, runs }, signal);
    if (!signal.aborted && asked.view === "group") window.scrollTo(0, 0);
  } catch (problem) {
    if (!signal.aborted) show(h("p", { class: "notice" }, problem.message));
  }
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
  localStorage.setItem("vision-sr1-theme", theme);
});
const theme = localStorage.getItem("vision-sr1-theme");
if (theme) document.documentElement.dataset.theme = theme;

window.addEventListener("hashchange", render);
render();
