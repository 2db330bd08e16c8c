// The list of groups: filters, pages, and new ones as they come.

import { get, live } from "./api.js";
import { optionsOf } from "./choice.js";
import { ago, h, show } from "./dom.js";
import { lazyImage } from "./images.js";
import { restored } from "./place.js";
import { plain } from "./question.js";
import { mark, ownVisual, pattern, PATTERNS, signalBadge } from "./rewards.js";
import { chosenOf, purposeOf } from "./runs.js";
import { go, link } from "./route.js";

const PAGE = 20, LONGEST_PAGE = 100; // groups
const REWARDS = { format: "format", accuracy: "answer", visual: "description" };
const RANGES = Object.keys(REWARDS).flatMap((name) => [`min_${name}`, `max_${name}`]);
const OF_GROUPS = ["step", "min_right", "max_right", "has_signal"]; // what single traces cannot be told by as they come
const RARER = ["missing", "truncated", ...OF_GROUPS.slice(1), ...RANGES];
export const FILTERS = ["pattern", "step", "min_version", "max_version", "data_source", "purpose", "q", "order", ...RARER];
const ORDERS = {
  "": "newest first", oldest: "oldest first", most_wrong: "most wrong answers", most_right: "most right answers",
  most_shortcuts: "most shortcuts",
};

const MOST_COUNTED = 1000; // by the API

let usual = "train"; // purpose that is listed unless another is chosen

export let listed = []; // ids of the groups shown last, for going from one to the next
export let listedFilters = {};

export async function groups({ filters, runs }, signal) {
  const chosen = Object.fromEntries(FILTERS.map((name) => [name, filters.get(name) ?? ""]));
  fill(chosen);
  const run = chosenOf(await runs);
  usual = purposeOf(run);
  const purpose = chosen.purpose || usual;
  const wanted = { ...chosen, purpose: purpose === "all" ? "" : purpose };
  offer(run?.data_sources ?? [], purpose);
  const list = h("ol", { class: "list", "aria-label": "Groups" });
  const more = h("button", { type: "button", hidden: true }, "More");
  const news = h("button", { class: "news", type: "button", hidden: true, "aria-live": "polite", onclick: () => reload() });
  let cursor = null;

  const count = h("span", { class: "dim", role: "status" });

  async function page(limit = PAGE) {
    let found;
    more.disabled = true; // a second click would list the same again
    try {
      found = await get("groups", { ...wanted, cursor, limit }, signal).finally(() => (more.disabled = false));
    } catch (problem) {
      if (signal.aborted) return;
      more.hidden = true;
      list.replaceChildren(h("li", {}, h("p", { class: "notice", role: "alert" }, problem.message)));
      return;
    }
    if (found.count !== null) count.textContent = countOf(found.count);
    cursor = found.next_cursor;
    list.append(...found.groups.map((group) => row(group, chosen)));
    listed.push(...found.groups.map((group) => group.id));
    more.hidden = cursor === null;
    if (!listed.length) list.append(h("li", {}, h("p", {}, "No group fits.")));
  }

  async function reload() {
    cursor = null;
    listed = [];
    fresh.clear();
    news.hidden = true;
    list.replaceChildren();
    await page();
  }

  const fresh = new Set();
  listed = [];
  listedFilters = chosen;
  more.addEventListener("click", () => page());
  show(h("h1", {}, "Groups ", count), form, news, list, more);
  const before = restored()?.items ?? 0; // where one comes back
  do await page(Math.min(LONGEST_PAGE, Math.max(PAGE, before - listed.length)));
  while (!signal.aborted && cursor !== null && listed.length < before);
  if (chosen.order || OF_GROUPS.some((name) => chosen[name])) return;
  live(wanted, (trace) => {
    if (listed.includes(trace.group_id)) return;
    fresh.add(trace.group_id);
    news.hidden = false;
    news.textContent = `${fresh.size} new: show`;
  }, signal);
}

const all = ["", "all"];

// The filters: the same element from one list to the next, so that what is typed while a list comes is kept.
const form = filterForm();

function filterForm() {
  const select = (name, label, options) => h("label", {}, label, h("select", { name }, optionsOf(options)));
  const input = (name, label, attributes) => h("label", {}, label, h("input", { name, ...attributes }));
  const made = h("form", { class: "filters", role: "search", "aria-label": "Filters" },
    select("pattern", "Reward pattern", [all, ...Object.entries(PATTERNS).filter(([name]) => name !== "missing")]),
    input("step", "Step", { type: "number", min: 1 }),
    input("min_version", "Version from", { type: "number", min: 0 }),
    input("max_version", "to", { type: "number", min: 0 }),
    select("data_source", "Data source", [all]),
    select("purpose", "Purpose", [["train", "training"], ["evaluation", "evaluation"], ["all", "all"]]),
    input("q", "Words", { type: "search", id: "words" }),
    select("order", "Order", Object.entries(ORDERS)),
    h("button", {}, "Show"),
    h("a", {}, "clear"),
    h("details", { class: "rarer" }, h("summary", {}, "More filters"), h("div", { class: "filters" },
      input("min_right", "Right answers from", { type: "number", min: 0 }),
      input("max_right", "to", { type: "number", min: 0, "aria-label": "Right answers to" }),
      select("has_signal", "Signal", [all, ["true", "some advantage is not 0"], ["false", "no signal"]]),
      select("missing", "Missing rewards", [all, ["true", "in some answer"], ["false", "not in some answer"]]),
      select("truncated", "Truncated", [all, ["true", "some answer"], ["false", "not some answer"]]),
      Object.entries(REWARDS).flatMap(([name, label]) => [
        input(`min_${name}`, `Reward ${label} from`, { type: "number", step: "any" }),
        input(`max_${name}`, "to", { type: "number", step: "any", "aria-label": `Reward ${label} to` })]))));
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(made));
    go("groups", "", { ...given, purpose: given.purpose === usual ? "" : given.purpose });
  });
  made.addEventListener("change", (event) => {
    if (event.target.tagName === "SELECT") made.requestSubmit();
  });
  return made;
}

// Has the form show the filters of the address.
function fill(chosen) {
  offer([chosen.data_source].filter(Boolean), chosen.purpose || usual);
  for (const name of FILTERS) if (name !== "purpose") form.elements[name].value = chosen[name];
  form.querySelector("a").href = link("groups");
  if (RARER.some((name) => chosen[name])) form.querySelector("details").open = true;
}

// Has the form offer these data sources, and the one that is chosen; and show what purpose is listed.
function offer(sources, purpose) {
  form.elements.purpose.value = purpose;
  const { data_source: select } = form.elements;
  const { value } = select;
  const offered = [...new Set([...sources, value])].filter(Boolean);
  select.replaceChildren(...optionsOf([all, ...offered.map((name) => [name, name])]));
  select.value = value;
}

const countOf = (count) => (count === 1 ? "1 fits" : `${count}${count < MOST_COUNTED ? "" : " or more"} fit`);

function row(group, filters) {
  const [sha] = group.images;
  const image = sha ? lazyImage(sha, { class: "thumb", alt: "" }) : null;
  const facts = [
    group.step === null ? null : `step ${group.step}`,
    `version ${[...new Set(group.members.map((member) => member.policy_version))].join(", ")}`,
    group.data_source, group.purpose, ago(group.recorded_at),
  ];
  return h("li", { class: image ? null : "bare" }, image, h("div", {},
    h("a", { class: "question", href: link("group", group.id, filters), "data-item": true },
      plain(group.question)),
    h("div", { class: "dim" }, `${group.id} · ${facts.filter(Boolean).join(" · ")} · wanted: ${group.reference_answer}`),
    h("div", { class: "badges" }, h("span", {}, `${group.right} of ${group.members.length} right`), signalBadge(group.has_signal),
      h("a", { href: link("prompts", group.prompt_key) }, "over versions")),
    h("div", { class: "members" }, group.members.map((member) => {
      const visual = ownVisual(member.rewards);
      const kind = pattern(member.rewards.accuracy, visual);
      return h("span", { class: `member ${kind}`, title: PATTERNS[kind] },
        h("span", { class: "said" }, member.answer || "no answer"),
        h("span", { "aria-label": `answer ${member.rewards.accuracy > 0 ? "right" : "wrong"}` }, "A", mark(member.rewards.accuracy)),
        h("span", { "aria-label": `description ${visual > 0 ? "sufficient" : "insufficient"}` }, "D", mark(visual)),
        member.truncated ? h("span", { class: "missing" }, "truncated") : null);
    }))));
}
