// Two runs on the prompts that both were asked: means, and which prompts the second answers better or worse.

import { get, picture } from "./api.js";
import { h, rounded, show } from "./dom.js";
import { mark } from "./rewards.js";
import { go, link } from "./route.js";
import { chosenOf } from "./runs.js";

const REWARDS = { accuracy: "answer right", visual: "right by description", format: "valid format" };

export async function comparison({ filters, runs }, signal) {
  const known = await runs;
  const run = chosenOf(known);
  const others = known.filter((other) => other !== run);
  if (!run || !others.length) {
    show(h("h1", {}, "Comparison"), h("p", { class: "notice" }, "The store has the traces of one run only."));
    return;
  }
  const other = filters.get("other") || others[0].name, purpose = filters.get("purpose") ?? "";
  const found = await get("comparison", { run: run.name, other, purpose }, signal);
  const choose = (name, label, options, chosen) => h("label", {}, label,
    h("select", { name, onchange: (event) => go("comparison", "", { run: run.name, other, purpose, [name]: event.target.value }) },
      options.map(([value, text]) => h("option", { value, selected: value === chosen }, text))));
  const better = found.differences.filter((difference) => gain(difference) > 0);
  const worse = found.differences.filter((difference) => gain(difference) <= 0);
  show(
    h("h1", {}, `${run.name} and ${other}`),
    h("div", { class: "filters" },
      choose("other", "Compared with", others.map(({ name }) => [name, name]), other),
      choose("purpose", "Purpose", [["", "newest held-out answers"], ["train", "training"]], purpose)),
    h("p", { class: "dim" }, `${found.prompts} prompts were put to both` +
      found.versions.map((version, side) => (version === null ? "" : `; ${found.runs[side]} at version ${version}`)).join("") + "."),
    h("div", { class: "scroll" }, means(found)),
    list(`Better in ${other}`, better, found.runs),
    list(`Worse in ${other}`, worse, found.runs));
}

const gain = ({ rewards }) =>
  ["accuracy", "visual"].reduce((sum, name) => sum + (rewards[name][1] ?? 0) - (rewards[name][0] ?? 0), 0);

function means(found) {
  const rows = [["all", found], ...Object.entries(found.data_sources)];
  return h("table", { "aria-label": "Means" },
    h("thead", {}, h("tr", {}, h("th", {}, "data source"), h("th", { class: "number" }, "prompts"),
      Object.values(REWARDS).flatMap((label) => found.runs.map((run) => h("th", { class: "number" }, `${label}, ${run}`))))),
    h("tbody", {}, rows.map(([source, values]) => h("tr", {}, h("th", { scope: "row" }, source),
      h("td", { class: "number" }, String(values.prompts)),
      Object.keys(REWARDS).flatMap((name) => values.means[name].map((mean) => h("td", { class: "number" }, rounded(mean))))))));
}

function list(title, differences, runs) {
  if (!differences.length) return [];
  return [h("h2", {}, title), h("ol", { class: "list", "aria-label": title }, differences.map((difference) => {
    const image = h("img", { class: "thumb", alt: "", loading: "lazy" });
    if (difference.images.length) picture(difference.images[0]).then((url) => (image.src = url), () => (image.hidden = true));
    else image.hidden = true;
    return h("li", {}, image, h("div", {},
      h("div", { class: "question" }, difference.question.replaceAll("<image>", "").trim()),
      h("div", { class: "dim" }, `${difference.data_source} · wanted: ${difference.reference_answer}`),
      h("div", { class: "sides" }, runs.map((run, side) => said(run, difference, side)))));
  }))];
}

function said(run, difference, side) {
  const words = difference.said[side];
  const value = (name) => difference.rewards[name][side];
  return h("div", { class: "side" },
    h("a", { href: link("group", words.group_id, { run }), "data-item": true }, run), " ",
    h("span", {}, words.answer || "no answer", " ", mark(value("accuracy"))), " ",
    h("span", {}, "description ", mark(value("visual"))),
    h("div", { class: "response" }, words.description || "no description"),
    h("div", { class: "dim" }, `from the description alone: ${words.requery_answer || "nothing"}`));
}
