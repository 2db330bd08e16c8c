// Answers by rewards and advantages: a group at a glance.

import { h, rounded } from "./dom.js";
import { tint } from "./rewards.js";

const FIRST = ["accuracy", "visual", "format"];

// `open` is called with the number of an answer that is to be shown.
export function matrix({ traces, advantages }, answers, open) {
  const names = Object.keys(traces[0].rewards);
  const rewards = [...FIRST.filter((name) => names.includes(name)), ...names.filter((name) => !FIRST.includes(name))];
  const components = Object.keys(advantages);
  return h("div", { class: "scroll" }, h("table", { class: "matrix", "aria-label": "Answers, rewards and advantages" },
    h("thead", {},
      h("tr", {}, h("th", { colspan: 2 }), h("th", { colspan: rewards.length, scope: "colgroup" }, "rewards"),
        components.length ? h("th", { colspan: components.length, scope: "colgroup" }, "advantages") : null),
      h("tr", {}, h("th", { scope: "col" }, "#"), h("th", { scope: "col" }, "answer"),
        [...rewards, ...components].map((name) => h("th", { scope: "col", class: "number" }, name)))),
    h("tbody", {}, traces.map((trace, number) => h("tr", {},
      h("th", { scope: "row" },
        h("button", { type: "button", "aria-label": `Show answer ${number + 1}`, onclick: () => open(number) }, String(number + 1))),
      h("td", { class: "said" }, answers[number] || "no answer", trace.finish_reason === "length" ? h("span", { class: "missing" }, " truncated") : null),
      rewards.map((name) => rewardCell(name, trace.rewards[name]?.value ?? null)),
      components.map((name) => advantageCell(advantages[name][number])))))));
}

const rewardCell = (name, value) =>
  (value === null
    ? h("td", { class: "number missing" }, "missing")
    : h("td", { class: `number ${tint(name, value)}` }, rounded(value, 3)));

function advantageCell(value) {
  if (value === null) return h("td", { class: "number missing" }, "masked");
  const cell = h("td", { class: "number" }, `${value > 0 ? "+" : ""}${rounded(value, 2)}`);
  if (value) cell.classList.add(value > 0 ? "all" : "none");
  return cell;
}
