// Two runs on the prompts that both were asked: which of them the second answers better or worse, means, and curves.

import { get } from "./api.js";
import { choice } from "./choice.js";
import { curvesOf, ofStep, ofVersion, plotControls, showPlots } from "./curves.js";
import { h, rounded, show } from "./dom.js";
import { lazyImage } from "./images.js";
import { mark } from "./rewards.js";
import { link, linkWith } from "./route.js";
import { chosenOf } from "./runs.js";

const REWARDS = { accuracy: "answer right", visual: "right by description", format: "valid format" };
export const FILTERS = ["other", "purpose", "data_source", "smooth", "from", "to"];

export async function comparison({ filters, runs }, signal) {
  const known = await runs;
  const run = chosenOf(known);
  const others = known.filter((other) => other !== run);
  if (!run || !others.length) {
    show(h("h1", {}, "Comparison"), h("p", { class: "notice" }, "The store has the traces of one run only."));
    return;
  }
  const other = filters.get("other") || others[0].name;
  const purpose = filters.get("purpose") ?? "", source = filters.get("data_source") ?? "";
  const found = await get("comparison", { run: run.name, other, purpose, data_source: source }, signal);
  const sources = [...new Set(known.filter(({ name }) => [run.name, other].includes(name)).flatMap((one) => one.data_sources))].sort();
  const curves = h("section", { class: "charts", "aria-label": "Curves" });
  const controls = plotControls(filters, signal, () => draw());
  const of = (sign) => found.differences.filter((difference) => Math.sign(gain(difference)) === sign);
  show(
    h("h1", {}, `${run.name} and ${other}`),
    h("div", { class: "filters" },
      choice("other", "Compared with", others.map(({ name }) => [name, name]), other),
      choice("purpose", "Purpose", [["", "newest held-out answers"], ["train", "training"]], purpose),
      choice("data_source", "Data source", [["", "all"], ...sources.map((name) => [name, name])], source)),
    h("p", { class: "dim" }, `${found.prompts} prompts were put to both` +
      found.versions.map((version, side) => (version === null ? "" : `; ${found.runs[side]} at version ${version}`)).join("") + "."),
    purpose === "" && found.purpose === ""
      ? h("p", { class: "notice" }, "One of the runs has no held-out answers: the comparison is over all answers.") : [],
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Means by data source" }, means(found, other)),
    list(`Better in ${other}`, of(1), found.better_in_second, found.runs),
    list(`Worse in ${other}`, of(-1), found.worse_in_second, found.runs),
    list(`Answer and description differ the other way round in ${other}`, of(0), found.mixed_in_second, found.runs),
    h("h2", {}, "Curves"), h("div", { class: "filters" }, ...controls.elements), curves);
  const plots = new Map();
  let pairs = [];
  const draw = () => showPlots(curves, plots, controls, pairs);
  const shown = purpose || found.purpose || "train";
  const [mine, theirs] = await Promise.all([run.name, other].map((name) => Promise.all([
    get("statistics", { run: name, purpose: shown, data_source: source }, signal), get("scalars", { run: name }, signal)])));
  pairs = paired([curvesOf(...mine), curvesOf(...theirs)], [run.name, other], { purpose: shown, data_source: source });
  draw();
}

// Each curve that both runs have, as one plot with a line for each run.
function paired([mine, theirs], runs, filters) {
  const lines = (curves) => new Map(curves.flatMap(({ title, by, xs, series }) =>
    series.map(({ name, values }) => [series.length > 1 || title !== name ? `${title}: ${name}` : title, { by, xs, values }])));
  const [first, second] = [lines(mine), lines(theirs)];
  return [...first].filter(([title]) => second.has(title)).map(([title, { by }]) => {
    const both = [first.get(title), second.get(title)];
    const xs = [...new Set(both.flatMap((line) => line.xs))].sort((a, b) => a - b);
    const series = both.map((line, side) => {
      const at = new Map(line.xs.map((x, place) => [x, line.values[place]]));
      return { name: runs[side], values: xs.map((x) => at.get(x) ?? null) };
    });
    const href = by === "step" ? (x, side) => ofStep(x, runs[side]) : (x, side) => ofVersion(x, { ...filters, run: runs[side] });
    return { title, by, xs, series, href };
  });
}

// A reward that either side lacks says nothing.
const gain = ({ rewards }) =>
  ["accuracy", "visual"].map((name) => rewards[name]).filter((both) => !both.includes(null)).reduce((sum, [mine, theirs]) => sum + (theirs - mine), 0);

function means(found, other) {
  const rows = [["all", found], ...Object.entries(found.data_sources)];
  const href = (source) => linkWith({ data_source: source });
  const named = (source) => (source === "all" ? source // smoothing and zoom are those of the click
    : h("a", { href: href(source), onclick: ({ target }) => (target.href = href(source)) }, source));
  return h("table", { "aria-label": "Means" },
    h("thead", {}, h("tr", {}, h("th", {}, "data source"), h("th", { class: "number" }, "prompts"),
      Object.values(REWARDS).flatMap((label) => [
        ...found.runs.map((run) => h("th", { class: "number" }, `${label}, ${run}`)),
        h("th", { class: "number", title: `prompts that ${other} has better, worse` }, "better, worse")]))),
    h("tbody", {}, rows.map(([source, values]) => h("tr", {}, h("th", { scope: "row" }, named(source)),
      h("td", { class: "number" }, String(values.prompts)),
      Object.keys(REWARDS).flatMap((name) => [
        ...values.means[name].map((mean) => h("td", { class: "number" }, rounded(mean, 3))),
        h("td", { class: "number" }, h("span", { class: "right" }, `+${values.better[name][1]}`), " ",
          h("span", { class: "wrong" }, `−${values.better[name][0]}`))])))));
}

function list(title, differences, count, runs) {
  if (!differences.length) return [];
  const shown = count > differences.length ? ` · the ${differences.length} that differ most, of ${count}` : "";
  return [h("h2", {}, title, h("span", { class: "dim" }, shown)), h("ol", { class: "list", "aria-label": title }, differences.map((difference) => {
    const [sha] = difference.images;
    const image = sha ? lazyImage(sha, { class: "thumb", alt: "" }) : null;
    return h("li", { class: image ? null : "bare" }, image, h("div", {},
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
