// One switch for what the tokens of all answers are coloured by, with its legend.

import { get } from "./api.js";
import { h } from "./dom.js";
import { isSame, wordDiff, wordLegend } from "./words.js";

const SEGMENTS = ["description", "think", "answer"];
const LOGPROB_END = 3; // nats, in full colour
const ADVANTAGE_END = 2;
const DIFFERENCES = "differences from answer 1";

// Whether token sets contain a token of the response, by the segment that the token is in.
const contain = (sets, segment) =>
  sets.includes("response") || sets.includes(segment === "description" ? "description" : "reasoning");

const colourOf = (shade) =>
  (shade ? `rgba(${shade < 0 ? "220, 70, 50" : "40, 160, 90"}, ${(0.75 * Math.abs(shade)).toFixed(2)})` : "");

const bounded = (shade) => Math.max(-1, Math.min(1, shade));

// The switch, its legend, and `card`: what an answer's box is given to, once it is open.
export function colours({ traces, advantages, requery_advantages: ofRequeries, tokens: sets }) {
  const ways = {
    segments: {
      legend: SEGMENTS.map((name) => h("span", { class: `segment-${name}` }, name)),
      token: (token) => ({ class: token.segment ? `segment-${token.segment}` : "" }),
    },
    "log-probability": {
      legend: [scale("fall", `−${LOGPROB_END} nats or less`, "0")],
      token: (token) => ({ shade: bounded(token.logprob / LOGPROB_END) }),
    },
  };
  for (const [name, values] of Object.entries(advantages)) {
    const shade = (number) => bounded((values[number] ?? 0) / ADVANTAGE_END);
    ways[`advantage ${name}`] = {
      legend: [scale("both", `−${ADVANTAGE_END} or less`, `+${ADVANTAGE_END} or more`),
        h("span", { class: "dim" }, `trains: ${sets[name].join(", ")}; other tokens have no colour`)],
      token: (token, number) => ({ shade: contain(sets[name], token.segment) ? shade(number) : 0 }),
      requery: (number, place) => bounded((ofRequeries[name]?.[number][place] ?? 0) / ADVANTAGE_END),
    };
  }
  if (traces.length > 1) ways[DIFFERENCES] = { legend: wordLegend("answer 1", "the answer shown") };

  let chosen = "segments";
  const cards = new Map(); // by number: what paints an answer that has been opened
  const legend = h("div", { class: "legend", "aria-label": "Legend", "aria-live": "polite", role: "group" });
  const buttons = h("div", { class: "switch", role: "group", "aria-label": "Colours of tokens" }, Object.keys(ways).map((name) =>
    h("button", { type: "button", "aria-pressed": "false", onclick: () => choose(name) }, name)));

  function choose(name) {
    chosen = name;
    legend.replaceChildren(...ways[name].legend);
    for (const button of buttons.children) button.setAttribute("aria-pressed", String(button.textContent === name));
    for (const paint of cards.values()) paint();
  }

  function card(number, response, requeries) {
    const trace = traces[number];
    const asked = {};
    const once = (path, values) => (asked[path] ??= get(`traces/${trace.id}/${path}`, values));
    const paint = async () => {
      const name = chosen, way = ways[name];
      for (const [place, requery] of requeries.entries()) requery.style.backgroundColor = colourOf(way.requery?.(number, place));
      try {
        const children = way.token
          ? painted((await once("tokens")).tokens, (token) => way.token(token, number))
          : differing(number ? (await once("diff", { base: traces[0].id })).parts : null, trace.response);
        if (chosen === name) response.replaceChildren(...children);
      } catch (problem) {
        response.replaceChildren(trace.response); // without colours
      }
    };
    cards.set(number, paint);
    return paint();
  }

  choose(chosen);
  return { buttons, legend, card };
}

function painted(tokens, look) {
  return tokens.map((token) => {
    const { shade, ...attributes } = look(token);
    const title = `${token.logprob.toFixed(3)} · version ${token.policy_version}${token.segment ? ` · ${token.segment}` : ""}`;
    const element = h("span", { title, ...attributes }, token.text);
    if (shade) element.style.backgroundColor = colourOf(shade);
    return element;
  });
}

function differing(parts, response) {
  if (parts === null) return [response];
  return isSame(parts) ? [h("span", { class: "dim" }, "The same words as answer 1.")] : wordDiff(parts);
}

const scale = (kind, low, high) => h("span", { class: "scale" }, low, h("span", { class: `gradient ${kind}`, "aria-hidden": "true" }), high);
