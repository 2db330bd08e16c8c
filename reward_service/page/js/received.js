// A prompt as the policy received it: control tokens as they are written, those of an image counted. Asked for when opened.

import { get } from "./api.js";
import { h } from "./dom.js";

const asked = new Map(); // answers of the API, by trace

function promptsOf(trace) {
  const key = `${trace.run}/${trace.id}`;
  if (!asked.has(key)) asked.set(key, get(`traces/${trace.id}/prompt`));
  asked.get(key).catch(() => asked.delete(key));
  return asked.get(key);
}

// `choose` takes the prompt that is meant out of those of the trace.
export function received(trace, title, choose) {
  const place = h("div", {}, h("p", { class: "dim" }, "Loading …"));
  const box = h("details", { class: "received" }, h("summary", {}, title), place);
  box.addEventListener("toggle", async () => {
    try {
      place.replaceChildren(...shown(choose(await promptsOf(trace))));
    } catch (problem) {
      place.replaceChildren(h("p", { class: "dim" }, problem.message));
    }
  }, { once: true });
  return box;
}

function shown(prompt) {
  if (!prompt?.tokens) return [h("p", { class: "dim" }, "The tokens of this prompt were not recorded.")];
  const counted = {};
  for (const { text, count } of prompt.parts) if (count > 1) counted[text] = (counted[text] ?? 0) + count;
  const of = Object.entries(counted).map(([text, count]) => `${text} × ${count}`).join(", ");
  return [
    h("p", { class: "dim" }, `${prompt.tokens} tokens${of ? `, among them ${of}` : ""}`),
    h("div", { class: "response", tabindex: 0, "aria-label": "Rendered prompt" }, prompt.parts.map(({ text, count, is_control: control }) =>
      (control ? h("span", { class: "control" }, count > 1 ? `${text} × ${count}` : text) : text))),
  ];
}
