// The same prompt at every policy version that answered it: whether the policy learns to see.

import { get } from "./api.js";
import { choice } from "./choice.js";
import { h, rounded, show } from "./dom.js";
import { listedFilters } from "./groups.js";
import { questionPanel } from "./question.js";
import { mark, ownVisual, pattern, PATTERNS, tint } from "./rewards.js";
import { link } from "./route.js";
import { isSame, wordDiff, wordLegend } from "./words.js";

export const FILTERS = ["purpose"];
const ROWS = { accuracy: "answer right", visual: "description sufficient", format: "valid format" };

export async function prompt({ id, filters }, signal) {
  const purpose = filters.get("purpose") ?? "";
  const versions = [];
  const strip = h("div", { class: "scroll" });
  const summary = h("p", { class: "dim" });
  const list = h("ol", { class: "versions", "aria-label": "Versions" });
  const more = h("button", { type: "button", hidden: true }, "Later versions");
  let cursor = null;

  async function page() {
    more.disabled = true; // a second click would list the same again
    const found = await get(`prompts/${id}`, { purpose, cursor, limit: 50 }, signal).finally(() => (more.disabled = false));
    cursor = found.next_cursor;
    versions.push(...found.versions);
    strip.replaceChildren(stripOf(versions, (version) => {
      const item = document.getElementById(`version-${version}`);
      item.focus();
      item.scrollIntoView({ block: "start" });
    }));
    summary.textContent = sentence(versions);
    list.append(...found.versions.map(item));
    more.hidden = cursor === null;
    return found;
  }

  const purposes = [["", "both"], ["train", "training"], ["evaluation", "evaluation"]];
  const heading = [h("p", {}, h("a", { href: link("groups", "", listedFilters), "data-key": "u" }, "← Groups")), h("h1", {}, "One prompt over policy versions"),
    h("div", { class: "filters" }, choice("purpose", "Purpose", purposes, purpose))];
  let found;
  try {
    found = await page();
  } catch (problem) {
    if (!signal.aborted) show(heading, h("p", { class: "notice", role: "alert" }, problem.message));
    return;
  }
  more.addEventListener("click", page);
  show(heading,
    h("div", { class: "group" },
      questionPanel(found, { wanted: found.reference_answer, "data source": found.data_source }),
      h("div", { class: "answers-side" }, strip, summary,
        h("div", { class: "legend", "aria-label": "Legend", role: "group" },
          h("span", { class: "all" }, "all"), h("span", { class: "some" }, "some"), h("span", { class: "none" }, "none"),
          wordLegend("the version before", "this version")),
        list, more)));
}

// A reward of a version's answers: its mean, and in words; null where all are missing.
function summed({ answers }, name) {
  const given = answers.map(({ rewards }) => (name === "visual" ? ownVisual(rewards) : rewards[name])).filter((value) => value !== null && value !== undefined);
  if (!given.length) return null;
  const sum = given.reduce((total, value) => total + value, 0);
  return { mean: sum / given.length, words: `${rounded(sum)}/${given.length}` };
}

function stripOf(versions, open) {
  return h("table", { class: "matrix strip", "aria-label": "Rewards by policy version" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "version"), versions.map(({ policy_version: version }) =>
      h("th", { scope: "col" }, h("button", { type: "button", "aria-label": `Show version ${version}`, onclick: () => open(version) }, String(version)))))),
    h("tbody", {}, Object.entries(ROWS).map(([name, label]) => h("tr", {}, h("th", { scope: "row" }, label), versions.map((version) => {
      const found = summed(version, name);
      if (found === null) return h("td", { class: "missing", title: "missing" }, "?");
      return h("td", { class: tint(name, found.mean), title: `${label}: ${found.words}` },
        version.answers.length === 1 ? mark(found.mean) : found.words);
    })))));
}

function sentence(versions) {
  const [first, last] = [versions[0], versions.at(-1)];
  if (first === last) return `Only version ${first.policy_version} answered this prompt so far.`;
  const part = (name) => `${ROWS[name]} ${summed(first, name)?.words ?? "?"} → ${summed(last, name)?.words ?? "?"}`;
  return `From version ${first.policy_version} to ${last.policy_version}: ${part("accuracy")}, ${part("visual")}.`;
}

function item({ policy_version: version, answers, count, changes }) {
  const [first] = answers;
  return h("li", { id: `version-${version}`, class: "answerbox", tabindex: -1, "aria-label": `Version ${version}` },
    h("h2", {}, `Version ${version}`, h("span", { class: "dim" },
      [...new Set(answers.map(({ purpose }) => (purpose === "train" ? "training" : purpose)))].join(" and "),
      changes && isSame(changes) ? " · description unchanged" : "",
      count > answers.length ? ` · ${answers.length} of ${count} answers` : "")),
    h("div", { class: "response", "aria-label": "Description" }, description(first, changes)),
    h("p", { class: "dim" }, answers.length > 1 ? "The first answer's description. " : "",
      `From the description alone: ${first.requery_answer || "nothing"} `, mark(ownVisual(first.rewards))),
    h("div", { class: "members" }, answers.map((answer, place) => member(answer, place === 0))));
}

function description({ description: text }, changes) {
  if (!text && !changes?.length) return h("span", { class: "dim" }, "no description");
  return changes === null || isSame(changes) ? text : wordDiff(changes);
}

function member(answer, isFirst) {
  const visual = ownVisual(answer.rewards);
  const kind = pattern(answer.rewards.accuracy, visual);
  return h("a", { class: `member ${kind}`, href: link("traces", answer.id), title: PATTERNS[kind], "data-item": isFirst },
    h("span", { class: "said" }, answer.answer || "no answer"),
    h("span", { "aria-label": `answer ${answer.rewards.accuracy > 0 ? "right" : "wrong"}` }, "A", mark(answer.rewards.accuracy)),
    h("span", { "aria-label": `description ${visual > 0 ? "sufficient" : "insufficient"}` }, "D", mark(visual)));
}
