// Curves of the run, renewed while it goes on: rewards, shortcut rate, lengths, KL, and what the learner logs.

import { get } from "./api.js";
import { Bars } from "./bars.js";
import { choice } from "./choice.js";
import { h, show } from "./dom.js";
import { Plot, SharedAxis } from "./plot.js";
import { chosenOf, purposeOf } from "./runs.js";
import { link, remember } from "./route.js";

const RENEW_MS = 5000;
const SOURCES_SHOWN = 6;
export const FILTERS = ["purpose", "data_source", "smooth", "from", "to"];

export async function curvesView({ filters, runs }, signal) {
  const run = chosenOf(await runs);
  const source = filters.get("data_source") ?? "", purpose = filters.get("purpose") || purposeOf(run);
  const sources = run?.data_sources ?? [];
  const controls = plotControls(filters, signal, () => draw());
  const wrong = h("p", { class: "notice", hidden: true, role: "alert" });
  const curves = h("section", { class: "charts", "aria-label": "Curves" });
  const distributions = h("section", { class: "charts", "aria-label": "Distributions" });
  const empty = h("p", { class: "notice", hidden: true }, "Nothing is recorded yet.");
  show(h("h1", {}, "Curves"), h("div", { class: "filters" },
    choice("purpose", "Purpose", [["train", "training"], ["evaluation", "evaluation"]], purpose),
    choice("data_source", "Data source", [["", "all"], ...sources.map((name) => [name, name])], source),
    ...controls.elements),
  h("p", { class: "dim" }, "Drag to zoom, double-click for the whole range; a click on a point lists its groups. Step N makes policy version N."), wrong, empty, curves, h("h2", {}, "Distributions"), distributions);
  const plots = new Map(), bars = new Map();
  const places = { version: (x) => ofVersion(x, { purpose, data_source: source }), step: ofStep };
  let statistics, learner;

  function draw() {
    const found = curvesOf(statistics, learner);
    showPlots(curves, plots, controls, found.map((curve) => ({ ...curve, href: places[curve.by] })));
    for (const [name, values] of Object.entries(statistics.overall.rewards)) {
      if (!values.distribution.length) continue;
      if (!bars.has(name)) {
        bars.set(name, new Bars(name));
        controls.axis.bars.add(bars.get(name));
        distributions.append(bars.get(name).element);
      }
      bars.get(name).update(values);
    }
    empty.hidden = plots.size + bars.size > 0;
  }

  async function renew() {
    [statistics, learner] = await Promise.all([get("statistics", { data_source: source, purpose }, signal), get("scalars", {}, signal)]);
    if (!signal.aborted) draw();
  }

  await renew();
  repeat(renew, signal, (problem) => {
    wrong.hidden = !problem;
    wrong.textContent = problem?.message ?? "";
  });
}

// Until the signal ends it; `told` hears what is wrong with the last attempt, or null.
async function repeat(renew, signal, told) {
  while (!signal.aborted) {
    await new Promise((done) => setTimeout(done, RENEW_MS));
    try {
      if (!signal.aborted) await renew();
      told(null);
    } catch (problem) {
      if (!signal.aborted) told(problem);
    }
  }
}

// The axis of a view's plots with its zoom, and smoothing: both are in the address.
export function plotControls(filters, signal, redraw) {
  const slider = h("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: filters.get("smooth") ?? 0, "aria-label": "Smoothing" });
  const weight = h("output", {}, slider.value);
  const whole = h("button", { type: "button", hidden: true, onclick: () => axis.zoomTo(null) }, "Whole range");
  const ends = [filters.get("from"), filters.get("to")].map((end) => Number.parseFloat(end ?? ""));
  const axis = new SharedAxis(ends[0] < ends[1] ? ends : null, (zoom) => {
    whole.hidden = zoom === null;
    remember({ from: zoom?.[0].toFixed(1), to: zoom?.[1].toFixed(1) });
  }, signal);
  whole.hidden = axis.zoom === null;
  slider.addEventListener("input", () => {
    weight.textContent = slider.value;
    remember({ smooth: slider.value === "0" ? "" : slider.value });
    redraw();
  });
  return { axis, smoothing: () => Number(slider.value), elements: [h("label", {}, "Smoothing", h("span", {}, slider, " ", weight)), whole] };
}

// Has the plots at a place be those of `found`, in its order; those that are there keep their state.
export function showPlots(place, plots, { axis, smoothing }, found) {
  for (const { title, by, xs, series, href } of found) {
    if (!plots.has(title)) {
      plots.set(title, new Plot(axis, { title, xName: by === "step" ? "step" : "policy version", href }));
      place.append(plots.get(title).element);
    }
    plots.get(title).update(xs, series, smoothing());
  }
}

// Addresses of the groups behind a point.
export const ofVersion = (version, { purpose, ...filters }) =>
  link("groups", "", { ...filters, min_version: version, max_version: version, purpose: purpose === "train" ? "" : purpose });
export const ofStep = (step, run) => link("groups", "", { ...(run && { run }), step });

// [{title, by, xs, series}]: what there is to draw.
export function curvesOf({ overall, data_sources: sources }, { steps, scalars }) {
  const { policy_versions: versions, rewards, shortcut_rate: shortcuts, disagreement } = overall.curve;
  const of = (...names) => names.filter((name) => name in rewards).map((name) => ({ name, values: rewards[name] }));
  const known = ["accuracy", "visual", "format", "response_tokens"];
  const family = (name) => Object.entries(scalars).filter(([key]) => key.startsWith(`${name}/`))
    .map(([key, values]) => ({ name: key.slice(name.length + 1), values }));
  const bySource = sources.slice(0, SOURCES_SHOWN).map(({ data_source: name, curve: own }) =>
    ({ name, values: versions.map((version) => own.rewards.accuracy?.[own.policy_versions.indexOf(version)] ?? null) }));
  const byVersion = (title, series) => ({ title, by: "version", xs: versions, series });
  const byStep = (title, series) => ({ title, by: "step", xs: steps, series });
  const all = [
    byVersion("Rewards", of("accuracy", "visual", "format")),
    byVersion("Shortcuts and disagreement", [{ name: "shortcut rate", values: shortcuts }, { name: "disagreement", values: disagreement }]),
    byVersion("Response length (tokens)", of("response_tokens")),
    byVersion("Other rewards", of(...Object.keys(rewards).filter((name) => !known.includes(name)))),
    byStep("KL to the reference", family("kl")),
    byStep("Entropy (nats per token)", family("entropy")),
    byStep("pass@k", family("pass_at")),
    byStep("Loss", family("loss")),
    byStep("Gradient norm", family("grad_norm")),
    byStep("Staleness and mismatch", [...family("staleness"), ...family("mismatch_kl")]),
    ...(sources.length > 1 ? [byVersion("Accuracy by data source", bySource)] : []),
  ];
  return all.map((curve) => ({ ...curve, series: curve.series.filter(({ values }) => values.some((value) => value !== null)) }))
    .filter(({ xs, series }) => xs.length && series.length);
}
