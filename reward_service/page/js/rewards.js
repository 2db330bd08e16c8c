// How an answer and its rewards look, wherever they are shown.

import { h, rounded } from "./dom.js";

// What the description is worth for the prompt's own question; `visual` is the mean over all that it was asked.
export const ownVisual = (rewards) => rewards.visual_own ?? rewards.visual;

export function pattern(accuracy, visual) {
  if (accuracy === null || accuracy === undefined || visual === null || visual === undefined) return "missing";
  if (accuracy > 0) return visual > 0 ? "both_right" : "shortcut";
  return visual > 0 ? "sufficient_only" : "both_wrong";
}

export const PATTERNS = {
  shortcut: "answer right, description insufficient (shortcut)",
  both_right: "answer right, description sufficient",
  sufficient_only: "answer wrong, description sufficient",
  both_wrong: "answer wrong, description insufficient",
  missing: "a reward is missing",
};

export const mark = (value) =>
  value === null || value === undefined
    ? h("span", { class: "missing", title: "missing" }, "?")
    : h("span", { class: value > 0 ? "right" : "wrong" }, value > 0 ? "✓" : "✗");

const SHARES = ["accuracy", "visual", "format", "requery_format", "judge"]; // 0 is bad and 1 is good

// The class of a cell's colour.
export function tint(name, value) {
  if (!SHARES.includes(name)) return "";
  return value >= 1 ? "all" : value > 0 ? "some" : "none";
}

export const signalBadge = (hasSignal) =>
  (hasSignal === false ? h("span", { class: "missing", title: "All advantages are 0: nothing is learned from this group." }, "no signal") : null);

export function rewardTable(rewards) {
  return h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}, "reward"), h("th", { class: "number" }, "value"), h("th", {}, "why"))),
    h("tbody", {}, Object.entries(rewards).map(([name, { value, explanation }]) =>
      h("tr", {},
        h("td", {}, name),
        h("td", { class: value === null ? "number missing" : "number" }, value === null ? "missing" : rounded(value, 3)),
        h("td", {}, explanation)))));
}
