// The runs of the store: which one is looked at, and the choice of another.

import { h, replace } from "./dom.js";
import { chosenRun, go, route, stayWith } from "./route.js";

export const chosenOf = (runs) =>
  runs.find((run) => (chosenRun() ? run.name === chosenRun() : run.is_served));

// What is shown of a run unless another purpose is chosen: its training, if it has any.
export const purposeOf = (run) => (run && run.purposes.length && !run.purposes.includes("train") ? "evaluation" : "train");

// The header: the name of the only run, or a choice; links of the views lead to the same run.
export function showRuns(runs) {
  const chosen = chosenOf(runs);
  if (chosen) stayWith(chosen.name, runs.length === 1);
  document.title = chosen ? `${chosen.name} – Vision-SR1 traces` : "Vision-SR1 traces";
  const place = document.getElementById("run");
  document.querySelector("[data-view=comparison]").hidden = runs.length < 2;
  if (runs.length < 2) {
    replace(place, chosen ? chosen.name : "Vision-SR1");
    return;
  }
  replace(place, h("select", { name: "run", "aria-label": "Run", onchange: (event) => changeRun(event.target.value) },
    runs.map((run) => h("option", { value: run.name, selected: run === chosen }, run.name))));
}

// To the same view; from what only one run has, to its list.
function changeRun(run) {
  const { view, id, filters } = route();
  const kept = view === "groups" || view === "curves" ? Object.fromEntries(filters) : {};
  const isOfAll = ["prompts", "images"].includes(view);
  go(["group", "traces"].includes(view) ? "groups" : view, isOfAll ? id : "", { ...kept, run });
}
