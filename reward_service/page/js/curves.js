// Curves of the run, renewed while it goes on: rewards, shortcut rate, lengths, KL, and what the learner logs.

import { get } from "./api.js";
import { bars, curves } from "./chart.js";
import { h, show } from "./dom.js";
import { chosenOf } from "./runs.js";
import { go } from "./route.js";

const RENEW_MS = 5000;

export async function curvesView({ filters, runs }, signal) {
  const source = filters.get("data_source") ?? "", purpose = filters.get("purpose") || "train";
  const place = h("div", { class: "cards" });
  const sources = chosenOf(await runs)?.data_sources ?? [];
  const choose = (name, label, options, chosen) => h("label", {}, label,
    h("select", { name, onchange: (event) => go("curves", "", { data_source: source, purpose, [name]: event.target.value }) },
      options.map(([value, text]) => h("option", { value, selected: value === chosen }, text))));
  show(h("h1", {}, "Curves"), h("div", { class: "filters" },
    choose("purpose", "Purpose", [["train", "training"], ["evaluation", "evaluation"]], purpose),
    choose("data_source", "Data source", [["", "all"], ...sources.map((name) => [name, name])], source)), place);
  while (!signal.aborted) {
    const [statistics, learner] = await Promise.all([get("statistics", { data_source: source, purpose }, signal), get("scalars", {}, signal)]);
    if (signal.aborted) return;
    const open = new Set([...place.querySelectorAll("details[open]")].map((d) => d.parentElement.dataset.title));
    place.replaceChildren(...panels(statistics, learner));
    for (const figure of place.querySelectorAll("figure")) {
      figure.dataset.title = figure.querySelector("figcaption").textContent;
      if (open.has(figure.dataset.title)) figure.querySelector("details").open = true;
    }
    await new Promise((done) => setTimeout(done, RENEW_MS));
  }
}

function panels({ overall, data_sources: sources }, learner) {
  const { curve } = overall;
  const versions = curve.policy_versions;
  const of = (...names) => names.filter((name) => name in curve.rewards).map((name) => ({ name, values: curve.rewards[name] }));
  const known = ["accuracy", "visual", "format", "response_tokens"];
  const others = Object.keys(curve.rewards).filter((name) => !known.includes(name));
  const family = (name) => Object.entries(learner.scalars).filter(([key]) => key.startsWith(`${name}/`))
    .map(([key, values]) => ({ name: key.slice(name.length + 1), values }));
  const charts = [
    curves("Rewards", "policy version", versions, of("accuracy", "visual", "format")),
    curves("Shortcuts and disagreement", "policy version", versions, [
      { name: "shortcut rate", values: curve.shortcut_rate }, { name: "disagreement", values: curve.disagreement }]),
    curves("Response length (tokens)", "policy version", versions, of("response_tokens")),
    curves("Other rewards", "policy version", versions, of(...others)),
    curves("KL to the reference", "step", learner.steps, family("kl")),
    curves("Entropy (nats per token)", "step", learner.steps, family("entropy")),
    curves("pass@k", "step", learner.steps, family("pass_at")),
    curves("Loss", "step", learner.steps, family("loss")),
    curves("Gradient norm", "step", learner.steps, family("grad_norm")),
    curves("Staleness and mismatch", "step", learner.steps, [...family("staleness"), ...family("mismatch_kl")]),
    sources.length > 1
      ? curves("Accuracy by data source", "policy version", versions, sources.slice(0, 6).map(({ data_source: name, curve: own }) =>
        ({ name, values: versions.map((version) => own.rewards.accuracy?.[own.policy_versions.indexOf(version)] ?? null) })))
      : null,
  ].filter(Boolean);
  const distributions = Object.entries(overall.rewards).map(([name, found]) => bars(name, found.distribution)).filter(Boolean);
  return charts.length || distributions.length
    ? [h("section", { class: "charts", "aria-label": "Curves" }, charts),
      h("section", { class: "charts", "aria-label": "Distributions" }, distributions)]
    : [h("p", { class: "notice" }, "Nothing is recorded yet.")];
}
