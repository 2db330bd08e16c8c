// Plots by uPlot. All plots of a view have one x axis: they zoom together, and show their values at the same x.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { h, significant } from "./dom.js";

const HEIGHT = 170, AXIS_WIDTH = 54;
const NEAR_PX = 24; // a click leads to a point that is not further away
const DOUBLE_CLICK_MS = 250; // a second click within it resets the zoom
const COLOURS = 6;
const SHARED_EVENTS = ["mousemove", "mouseleave"];
const WHOLE = [1, 2, 5].flatMap((digit) => [0, 1, 2, 3, 4, 5, 6].map((power) => digit * 10 ** power)).sort((a, b) => a - b);

const axes = new Set(); // of the view that is shown

// The x axis of a view's plots, until the signal ends them. `zoom` is [from, to] or null; `changed` hears of another.
export class SharedAxis {
  constructor(zoom, changed, signal) {
    this.zoom = zoom;
    this.changed = changed;
    this.plots = new Set();
    this.bars = new Set(); // beside the plots, with an axis of their own
    this.key = `axis-${Math.random()}`;
    axes.add(this);
    signal.addEventListener("abort", () => this.remove());
  }

  range() {
    if (this.zoom) return this.zoom;
    const ends = [...this.plots].filter(({ xs }) => xs?.length).flatMap(({ xs }) => [xs[0], xs.at(-1)]);
    const low = Math.min(...ends), high = Math.max(...ends);
    return low < high ? [low, high] : [low - 0.5, high + 0.5];
  }

  zoomTo(zoom) {
    this.zoom = zoom;
    this.changed(zoom);
    this.redraw();
  }

  redraw() {
    const [min, max] = this.range();
    for (const { u } of this.plots) u?.setScale("x", { min, max });
  }

  remove() {
    for (const plot of [...this.plots, ...this.bars]) plot.remove();
    axes.delete(this);
  }
}

// One plot. `href(x, number)` is the address of what lies behind a point of a series.
export class Plot {
  constructor(axis, { title, xName, href }) {
    this.axis = axis;
    this.title = title;
    this.xName = xName;
    this.href = href;
    this.place = h("div", { class: "plot", role: "img", tabindex: 0, "aria-label": `${title} by ${xName}` });
    this.at = h("span", { class: "dim" });
    this.legend = h("div", { class: "legend" });
    this.table = h("div", { class: "scroll" });
    this.details = h("details", {}, h("summary", {}, "numbers"), this.table);
    this.details.addEventListener("toggle", () => this.fillTable());
    this.element = h("figure", {}, h("figcaption", {}, title, this.at), this.place, this.legend, this.details);
    this.resized = new ResizeObserver(() => this.u?.setSize({ width: this.place.clientWidth, height: HEIGHT }));
    this.resized.observe(this.place);
    this.place.addEventListener("keydown", (event) => this.key(event));
    axis.plots.add(this);
  }

  // Shows `series`, [{name, values}] with one value or null for each x; the zoom and open numbers stay.
  update(xs, series, smoothing) {
    const names = JSON.stringify([series.map(({ name }) => name), smoothing > 0]);
    const isNew = names !== this.names;
    this.xs = xs;
    this.series = series.map(({ name, values }) => ({ name, values, shown: smoothed(values, smoothing) }));
    const lines = this.series.map(({ shown }) => shown), raw = smoothing > 0 ? series.map(({ values }) => values) : [];
    const data = [xs, ...lines, ...raw];
    if (isNew) this.make(data);
    else this.u.setData(data, false);
    this.names = names;
    this.axis.redraw();
    this.showValues();
    this.fillTable();
  }

  make(data) {
    this.u?.destroy();
    this.markers = this.series.map((_, number) => h("span", { class: `marker line-${number % COLOURS}`, "aria-hidden": "true" }));
    this.values = this.series.map(() => h("span", {}));
    this.legend.replaceChildren(...this.series.map(({ name }, number) =>
      h("span", {}, this.markers[number], ` ${name} `, this.values[number])));
    const line = { stroke: () => getComputedStyle(this.element).borderTopColor, width: 1 };
    const axis = { stroke: () => getComputedStyle(this.at).color, grid: line, ticks: line, font: "11px system-ui, sans-serif",
      values: (_, splits) => splits.map(significant) };
    const lines = data.slice(1).map((_, place) => {
      const isRaw = place >= this.series.length, marker = this.markers[place % this.series.length];
      return { stroke: () => getComputedStyle(marker).color, alpha: isRaw ? 0.35 : 1, width: isRaw ? 1 : 1.8, spanGaps: true };
    });
    this.u = new uPlot({
      width: this.place.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      scales: { x: { time: false, range: () => this.axis.range() }, y: { range: (_, low, high) => yRange(low, high) } },
      axes: [{ ...axis, incrs: WHOLE, size: 28 }, { ...axis, size: AXIS_WIDTH, space: 34 }],
      cursor: {
        sync: { key: this.axis.key, scales: ["x", null], setSeries: false, filters: { pub: (type) => SHARED_EVENTS.includes(type) } },
        drag: { x: true, y: false, setScale: false, dist: 4 },
        bind: { dblclick: () => () => this.reset() },
        points: { size: 7 },
      },
      series: [{}, ...lines],
      hooks: { setCursor: [() => this.showValues()], setSelect: [() => this.selected()] },
    }, data, this.place);
    this.u.over.addEventListener("click", (event) => this.clicked(event));
    this.u.over.addEventListener("mousemove", () =>
      this.u.over.classList.toggle("leads", this.nearest(this.u.cursor.left, this.u.cursor.top) !== null));
  }

  selected() {
    const { left, width } = this.u.select;
    if (!width) return;
    this.selectedAt = performance.now();
    this.u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.axis.zoomTo([this.u.posToVal(left, "x"), this.u.posToVal(left + width, "x")]);
  }

  reset() {
    clearTimeout(this.opening);
    this.axis.zoomTo(null);
  }

  // The address behind the point that is nearest to a place in the plot, in pixels; null where none is near.
  nearest(left, top) {
    const index = this.u.posToIdx(left), x = this.u.valToPos(this.xs[index], "x");
    const far = this.series.map(({ shown }) =>
      (shown[index] === null ? Infinity : Math.hypot(x - left, this.u.valToPos(shown[index], "y") - top)));
    const least = Math.min(...far);
    return least <= NEAR_PX ? this.href(this.xs[index], far.indexOf(least)) : null;
  }

  clicked(event) {
    if (performance.now() - this.selectedAt < DOUBLE_CLICK_MS) return; // the end of a selection
    const { left, top } = this.u.over.getBoundingClientRect();
    const address = this.nearest(event.clientX - left, event.clientY - top);
    clearTimeout(this.opening);
    if (address && event.detail === 1) this.opening = setTimeout(() => (location.hash = address), DOUBLE_CLICK_MS);
  }

  // Arrows go from point to point, Enter opens one, Escape resets the zoom.
  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], now = this.u.cursor.idx ?? this.xs.length;
    if (by) {
      const next = Math.max(0, Math.min(this.xs.length - 1, now + by));
      this.u.setCursor({ left: this.u.valToPos(this.xs[next], "x"), top: 1 }, true, true);
    } else if (event.key === "Enter" && now < this.xs.length) {
      location.hash = this.href(this.xs[now], this.series.findIndex(({ values }) => values[now] !== null));
    } else if (event.key === "Escape") this.reset();
    else return;
    event.preventDefault();
  }

  // At the cursor; without one, the last.
  showValues() {
    const index = this.u?.cursor.idx ?? null;
    this.at.textContent = index === null ? `by ${this.xName}` : `${this.xName} ${this.xs[index]}`;
    this.series.forEach(({ values, shown }, number) => {
      const at = index ?? shown.findLastIndex((value) => value !== null);
      const raw = values === shown || values[at] === null ? "" : ` (${significant(values[at])})`;
      this.values[number].textContent = significant(shown[at]) + raw;
    });
  }

  fillTable() {
    if (!this.details.open) return;
    this.table.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, h("th", { class: "number" }, this.xName), this.series.map(({ name }) => h("th", { class: "number" }, name)))),
      h("tbody", {}, this.xs.map((x, index) => h("tr", {}, h("td", { class: "number" }, String(x)),
        this.series.map(({ values }, number) => h("td", { class: "number" },
          values[index] === null ? "–" : h("a", { href: this.href(x, number) }, significant(values[index])))))))));
  }

  remove() {
    clearTimeout(this.opening);
    this.resized.disconnect();
    this.u?.destroy();
    this.axis.plots.delete(this);
  }
}

// Rewards and rates have 0 to 1; what has no negative values begins at 0.
function yRange(low, high) {
  if (low === null) return [0, 1];
  if (low >= 0) return [0, high > 0.3 && high <= 1 ? 1 : high * 1.05 || 1];
  const room = 0.05 * (high - low) || Math.abs(low);
  return [low - room, high + room];
}

// Exponential moving average without a bias to 0 (as TensorBoard's); weight 0: the values as they are.
export function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0, mass = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

// In other colours.
function repaint() {
  for (const axis of axes) for (const { u } of [...axis.plots, ...axis.bars]) u?.redraw(false);
}

document.addEventListener("themechange", repaint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
