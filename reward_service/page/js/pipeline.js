// How the pipeline is doing: queues, actors with their versions, dead letters.

import { get } from "./api.js";
import { h, rounded, show } from "./dom.js";

const RENEW_MS = 2000;

export async function pipeline(_, signal) {
  const place = h("div", { class: "cards" });
  show(h("h1", {}, "Pipeline"), place);
  while (!signal.aborted) {
    try {
      place.replaceChildren(...panels(await get("pipeline", {}, signal)));
    } catch (problem) {
      place.replaceChildren(h("p", { class: "notice" }, problem.message));
    }
    await new Promise((done) => setTimeout(done, RENEW_MS));
  }
}

function panels(found) {
  const newest = Math.max(found.published_version ?? -1, ...found.actors.map((actor) => actor.policy_version));
  return [
    panel("Streams", ["stream", "entries", "oldest", "held", "dead"], found.streams.map((s) =>
      [s.name, s.depth, `${rounded(s.age_s, 0)} s`, s.pending, s.dead])),
    panel("Actors", ["actor", "address", "device", "policy version"], found.actors.map((a) =>
      [a.id, a.address, a.device, a.policy_version < newest ? `${a.policy_version} (behind ${newest})` : a.policy_version])),
    panel("Dead letters", ["letter", "error", "deliveries", "moved"], found.dead_letters.map((x) =>
      [x.name, x.error, x.deliveries, `${rounded(x.age_s / 60, 0)} min ago`])),
  ];
}

function panel(title, columns, rows) {
  return h("section", { class: "panel", "aria-label": title }, h("h2", {}, title),
    rows.length
      ? h("div", { class: "scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, String(cell))))))))
      : h("p", { class: "dim" }, "none"));
}
