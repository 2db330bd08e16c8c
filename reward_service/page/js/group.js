// One group: the question, its answers by rewards, and each answer in full when opened.

import { copyLink } from "./answer_link.js";
import { get, post } from "./api.js";
import { colours } from "./colours.js";
import { h, rounded, show } from "./dom.js";
import { matrix } from "./matrix.js";
import { plain, questionPanel } from "./question.js";
import { received } from "./received.js";
import { mark, ownVisual, pattern, PATTERNS, rewardTable, signalBadge } from "./rewards.js";
import { link } from "./route.js";
import { chosenOf } from "./runs.js";
import { listed, listedFilters } from "./groups.js";

export async function group({ id, filters, runs }, signal) {
  const found = await get(`groups/${id}`, {}, signal);
  const canRescore = runs.then((known) => chosenOf(known)?.can_rescore);
  const prompt = found.traces[0];
  const answers = found.traces.map((trace) => trace.answer_text);
  const switcher = colours(found);
  const cards = found.traces.map((trace, number) => card(trace, number, answers[number], switcher, canRescore));
  const boxes = cards.map((article) => article.firstElementChild);
  const open = (number) => {
    boxes[number].open = true;
    boxes[number].firstElementChild.focus();
    boxes[number].scrollIntoView({ block: "start" });
  };
  const all = h("button", { type: "button", onclick: () => {
    const opens = boxes.some((box) => !box.open);
    for (const box of boxes) box.open = opens;
  } });
  const label = () => (all.textContent = boxes.some((box) => !box.open) ? "Open all answers" : "Fold all answers");
  for (const box of boxes) box.addEventListener("toggle", label);
  label();
  const right = found.traces.filter((trace) => trace.rewards.accuracy?.value > 0).length;
  show(
    h("p", {}, h("a", { href: link("groups", "", Object.fromEntries(filters)), "data-key": "u" }, "← Groups"), " ", beside(id, -1, "previous", "p"), " ",
      beside(id, 1, "next", "n")),
    h("h1", {}, `Group ${found.id}`),
    h("p", { class: "badges" }, h("span", {}, `${right} of ${found.traces.length} right`), signalBadge(found.has_signal),
      h("a", { href: link("prompts", found.prompt_key) }, "this prompt over versions")),
    h("div", { class: "group" },
      questionPanel(prompt, {
        wanted: prompt.reference_answer, "data source": prompt.data_source, purpose: prompt.purpose,
        step: found.step ?? "not learned from", "trace id in logs": prompt.trace_id || "–",
      }, received(prompt, "Prompt as the policy received it", ({ prompt: own }) => own)),
      h("div", { class: "answers-side" },
        matrix(found, answers, open),
        h("div", { class: "colours" }, switcher.buttons, switcher.legend, all),
        h("section", { class: "answers", "aria-label": "Answers" }, cards))));
  if (boxes.length === 1) boxes[0].open = true;
}

function beside(id, step, text, key) {
  const place = listed.indexOf(id);
  const other = place < 0 ? undefined : listed[place + step];
  return other === undefined ? null : h("a", { href: link("group", other, listedFilters), "data-key": key }, text);
}

function card(trace, number, said, switcher, canRescore) {
  const visual = ownVisual(trace.rewards)?.value;
  const kind = pattern(trace.rewards.accuracy?.value, visual);
  const response = h("div", { class: "response", tabindex: 0, "aria-label": "Response" }, trace.response);
  const requeried = trace.requeries.map((requery) =>
    h("div", { class: "response", tabindex: 0, "aria-label": "Response to the re-query" }, requery.response));
  const box = h("details", {},
    h("summary", { "data-item": true }, h("h2", {}, `${number + 1}`, h("span", { class: "said" }, said || "no answer"),
      h("span", {}, "answer ", mark(trace.rewards.accuracy?.value)),
      h("span", {}, "description ", mark(visual)),
      trace.rewards.grader_disagreement?.value > 0 ? h("span", { class: "wrong" }, "graders differ") : null,
      h("span", { class: "dim" }, `version ${trace.policy_version} · ${trace.tokens} tokens · ${trace.finish_reason === "length" ? "truncated" : trace.finish_reason}`))),
    h("p", { class: "dim" }, PATTERNS[kind], " ", copyLink(trace)),
    response,
    trace.requeries.map((requery, index) => requeryBox(trace, requery, index, requeried[index])),
    trace.requeries.length ? null : h("p", { class: "dim" }, "No re-query: there was no description to ask about, or nobody answered."),
    trace.judgement ? h("details", {}, h("summary", {}, `Judge ${trace.judgement.model}: ${trace.judgement.answer || "no answer"}`),
      h("div", { class: "response" }, trace.judgement.response)) : null,
    h("div", { class: "scroll" }, rewardTable(trace.rewards)),
    rescore(trace, canRescore));
  box.addEventListener("toggle", () => switcher.card(number, response, requeried), { once: true });
  return h("article", { class: `answerbox ${kind}`, tabindex: -1, "data-trace": trace.id, "aria-label": `Answer ${number + 1}` }, box);
}

function requeryBox(trace, requery, index, response) {
  return h("details", { open: true },
    h("summary", {}, `Re-query${trace.requeries.length > 1 ? ` ${index + 1}` : ""}: answered ${requery.answer || "nothing"} from the description alone`),
    requery.question === null ? null : h("p", { class: "question" }, plain(requery.question),
      h("span", { class: "dim" }, ` · wanted: ${requery.reference_answer}`)),
    h("p", { class: "dim" }, `version ${requery.policy_version}${requery.same_weights ? ", the same weights" : ", other weights"}` +
      `${requery.shared ? "; asked for another answer with the same description" : ""}`),
    h("div", { class: "response", tabindex: 0, "aria-label": "Prompt of the re-query" }, requery.prompt),
    received(trace, "Re-query as the policy received it", ({ requeries }) => requeries[index]),
    response);
}

// Where recorded answers can be scored again, which `isPossible` will tell.
function rescore(trace, isPossible) {
  const place = h("div", { "aria-live": "polite" });
  const button = h("button", { type: "button", hidden: true }, "Score again");
  isPossible.then((is) => (button.hidden = !is), () => {});
  button.addEventListener("click", async () => {
    try {
      const result = await post(`traces/${trace.id}/rescore`);
      place.replaceChildren(result.changed.length
        ? h("ul", {}, result.changed.map((name) =>
          h("li", {}, `${name}: ${rounded(result.rewards[name].before?.value)} → ${rounded(result.rewards[name].now?.value)} (${result.rewards[name].now?.explanation ?? "no longer given"})`)))
        : h("p", { class: "dim" }, "Every reward is what it was."));
    } catch (problem) {
      place.replaceChildren(h("p", { class: "dim" }, problem.message));
    }
  });
  return h("div", {}, button, place);
}
