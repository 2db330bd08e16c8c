// What was asked: the images, the question, and facts about it.

import { h } from "./dom.js";
import { lazyImage } from "./images.js";

export const plain = (question) => question.replaceAll("<image>", "").trim();

export function questionPanel({ images, question }, facts, ...rest) {
  return h("section", { class: "prompt", "aria-label": "Prompt" },
    images.map((sha, number) => lazyImage(sha, { alt: `Image ${number + 1} of the question` }, "This image was not kept.")),
    h("p", { class: "question" }, plain(question)),
    h("table", {}, h("tbody", {}, Object.entries(facts).map(([name, value]) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(value)))))),
    ...rest);
}
