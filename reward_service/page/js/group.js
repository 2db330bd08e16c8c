// One group: the image, the question, and its answers side by side.

import { copyLink } from "./answer_link.js";
import { get, post } from "./api.js";
import { h, rounded, show } from "./dom.js";
import { lazyImage } from "./images.js";
import { mark, ownVisual, pattern, PATTERNS, rewardTable } from "./rewards.js";
import { link } from "./route.js";
import { chosenOf } from "./runs.js";
import { listed, listedFilters } from "./groups.js";

export async function group({ id, filters, runs }, signal) {
  const found = await get(`groups/${id}`, {}, signal);
  const canRescore = runs.then((known) => chosenOf(known)?.can_rescore);
  const prompt = found.traces[0];
  const place = listed.indexOf(id);
  const beside = (step, text, key) => {
    const other = place < 0 ? undefined : listed[place + step];
    return other === undefined ? null
      : h("a", { href: link("group", other, listedFilters), "data-key": key }, text);
  };
  show(
    h("p", {}, h("a", { href: link("groups", "", Object.fromEntries(filters)), "data-key": "u" }, "← Groups"), " ",
      beside(-1, "previous", "p"), " ", beside(1, "next", "n")),
    h("h1", {}, `Group ${found.id}`),
    h("div", { class: "group" },
      h("section", { class: "prompt", "aria-label": "Prompt" },
        prompt.images.map((sha, number) =>
          lazyImage(sha, { alt: `Image ${number + 1} of the question` }, "This image was not kept.")),
        h("p", { class: "question" }, prompt.question.replaceAll("<image>", "").trim()),
        h("table", {}, h("tbody", {},
          fact("wanted", prompt.reference_answer), fact("data source", prompt.data_source),
          fact("purpose", prompt.purpose), fact("step", found.step ?? "not learned from"),
          fact("trace id in logs", prompt.trace_id || "–"))),
        h("div", { class: "legend", "aria-label": "Segments" },
          ["description", "think", "answer"].map((name) => h("span", { class: `segment-${name}` }, name)))),
      h("section", { class: "answers", "aria-label": "Answers" },
        found.traces.map((trace, number) => answer(trace, number, { ...found, canRescore })))));
}

const fact = (name, value) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(value)));

function answer(trace, number, { advantages, requery_advantages: ofRequeries, tokens, canRescore }) {
  const visual = ownVisual(trace.rewards)?.value;
  const kind = pattern(trace.rewards.accuracy?.value, visual);
  const own = Object.entries(advantages).map(([name, values]) => [name, values[number]]);
  const response = h("div", { class: "response", tabindex: 0, "aria-label": "Response" }, trace.response);
  const colours = h("div", { role: "group", "aria-label": "Colours of tokens" });
  const box = h("article", { class: `answerbox ${kind}`, tabindex: -1, "data-item": true, "data-trace": trace.id, "aria-label": `Answer ${number + 1}` },
    h("h2", {}, `${number + 1}`, h("span", {}, "answer ", mark(trace.rewards.accuracy?.value)),
      h("span", {}, "description ", mark(visual)),
      trace.rewards.grader_disagreement?.value > 0 ? h("span", { class: "wrong" }, "graders differ") : null,
      h("span", { class: "dim" }, `version ${trace.policy_version} · ${trace.tokens} tokens · ${trace.finish_reason}`), copyLink(trace)),
    h("p", { class: "dim" }, PATTERNS[kind]),
    colours, response,
    trace.requeries.map((requery, index) => h("details", { open: true },
      h("summary", {}, `Re-query${trace.requeries.length > 1 ? ` ${index + 1}` : ""}: answered ${requery.answer || "nothing"} from the description alone`),
      requery.question === null ? null : h("p", { class: "question" }, requery.question.replaceAll("<image>", "").trim(),
        h("span", { class: "dim" }, ` · wanted: ${requery.reference_answer}`)),
      h("p", { class: "dim" }, `version ${requery.policy_version}${requery.same_weights ? ", the same weights" : ", other weights"}` +
        `${requery.shared ? "; asked for another answer with the same description" : ""}`),
      h("div", { class: "response", tabindex: 0, "aria-label": "Prompt of the re-query" }, requery.prompt),
      h("div", { class: "response requeried", tabindex: 0, "aria-label": "Response to the re-query" }, requery.response))),
    trace.requeries.length ? null : h("p", { class: "dim" }, "No re-query: there was no description to ask about, or nobody answered."),
    trace.judgement ? h("details", {}, h("summary", {}, `Judge ${trace.judgement.model}: ${trace.judgement.answer || "no answer"}`),
      h("div", { class: "response" }, trace.judgement.response)) : null,
    h("div", { class: "scroll" }, rewardTable(trace.rewards)),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, own.map(([name]) => h("th", { class: "number" }, `A ${name}`)))),
      h("tbody", {}, h("tr", {}, own.map(([, value]) =>
        h("td", { class: value === null ? "number missing" : "number" }, value === null ? "masked" : rounded(value, 3))))))),
    rescore(trace, canRescore));
  const components = own.map(([name, value]) => ({ name, value, sets: tokens[name], requeries: ofRequeries[name]?.[number] }));
  colour(trace, components, box, response, colours);
  return box;
}

// Whether token sets contain a token of the response, by the segment that the token is in.
const contain = (sets, segment) =>
  sets.includes("response") || sets.includes(segment === "description" ? "description" : "reasoning");

const colourOf = (shade) =>
  (shade ? `rgba(${shade < 0 ? "220, 70, 50" : "40, 160, 90"}, ${(0.75 * Math.abs(shade)).toFixed(2)})` : "");

// Tokens in colours: by segment at once, by log-probability or an advantage on demand.
async function colour(trace, components, box, response, buttons) {
  let tokens;
  try {
    ({ tokens } = await get(`traces/${trace.id}/tokens`));
  } catch (problem) {
    return; // the text is shown as it is
  }
  const ways = {
    segments: (token) => ({ class: token.segment ? `segment-${token.segment}` : "" }),
    "log-probability": (token) => ({ shade: Math.max(-1, token.logprob / 3) }),
  };
  const shadeOf = (advantage) => Math.max(-1, Math.min(1, advantage / 2));
  const ofRequeries = {};
  for (const { name, value, sets, requeries } of components) {
    if (value === null) continue;
    ways[`advantage ${name}`] = (token) => ({ shade: contain(sets, token.segment) ? shadeOf(value) : 0 });
    ofRequeries[`advantage ${name}`] = requeries;
  }
  const paint = (name) => {
    for (const [place, requery] of box.querySelectorAll(".requeried").entries())
      requery.style.backgroundColor = colourOf(shadeOf(ofRequeries[name]?.[place] ?? 0));
    response.replaceChildren(...tokens.map((token) => {
      const { shade, ...attributes } = ways[name](token);
      const title = `${token.logprob.toFixed(3)} · version ${token.policy_version}${token.segment ? ` · ${token.segment}` : ""}`;
      const element = h("span", { title, ...attributes }, token.text);
      if (shade) element.style.backgroundColor = colourOf(shade);
      return element;
    }));
    for (const button of buttons.children) button.setAttribute("aria-pressed", button.textContent === name);
  };
  buttons.append(...Object.keys(ways).map((name) =>
    h("button", { type: "button", "aria-pressed": "false", onclick: () => paint(name) }, name)));
  paint("segments");
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
          h("li", {}, `${name}: ${rounded(result.rewards[name].before.value)} → ${rounded(result.rewards[name].now.value)} (${result.rewards[name].now.explanation})`)))
        : h("p", { class: "dim" }, "Every reward is what it was."));
    } catch (problem) {
      place.replaceChildren(h("p", { class: "dim" }, problem.message));
    }
  });
  return h("div", {}, button, place);
}
