// The words in which two texts differ, as the API found them.

import { h } from "./dom.js";

const TAGS = { removed: "del", added: "ins" };

// White space before removed and added words is left as it is.
export const wordDiff = (parts) => parts.map(({ kind, text }) =>
  (kind === "same" ? text : [/^\s*/.exec(text)[0], h(TAGS[kind], {}, text.trimStart())])).flat();

export const isSame = (parts) => parts.every(({ kind }) => kind === "same");

export const wordLegend = (before, now) => [h("del", {}, `only in ${before}`), h("ins", {}, `only in ${now}`)];
