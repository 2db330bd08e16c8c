// Choices among a few values; one of a filter goes to the same view with another value.

import { h } from "./dom.js";
import { goWith } from "./route.js";

// `options` are pairs of a value and its text.
export const optionsOf = (options, chosen) =>
  options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));

export function choice(name, label, options, chosen) {
  return h("label", {}, label,
    h("select", { name, onchange: ({ target }) => goWith({ [name]: target.value }) }, optionsOf(options, chosen)));
}
