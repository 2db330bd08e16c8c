// The distribution of a reward's values over all that it can be: of a constant one, a single bar.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { h, significant } from "./dom.js";

const HEIGHT = 150, AXIS_WIDTH = 54;

export class Bars {
  constructor(title) {
    this.place = h("div", { class: "plot", role: "img", "aria-label": `Distribution of ${title}` });
    this.at = h("span", { class: "dim" });
    this.marker = h("span", { class: "line-0" });
    this.element = h("figure", {}, h("figcaption", {}, title, this.at), this.marker, this.place);
    this.resized = new ResizeObserver(() => this.u?.setSize({ width: this.place.clientWidth, height: HEIGHT }));
    this.resized.observe(this.place);
  }

  // `distribution`: bars [low, high] with counts, as wide as one another; those of the range that are not in it are empty.
  update({ range: [low, high], distribution, mean, count }) {
    const width = distribution[0].high - distribution[0].low, number = Math.max(1, Math.round((high - low) / width));
    this.bins = Array.from({ length: number }, (_, place) => ({ low: low + place * width, high: low + (place + 1) * width, count: 0 }));
    for (const bar of distribution) {
      const place = Math.round((bar.low - low) / width);
      this.bins[place] = { ...this.bins[place], count: bar.count };
    }
    this.count = count;
    this.mean = mean;
    this.range = [low, high];
    const data = [this.bins.map((bin) => (bin.low + bin.high) / 2), this.bins.map((bin) => bin.count)];
    if (this.u) this.u.setData(data);
    else this.make(data);
    this.showValues();
  }

  make(data) {
    const colour = () => getComputedStyle(this.marker).color;
    const line = { stroke: () => getComputedStyle(this.element).borderTopColor, width: 1 };
    const axis = { stroke: () => getComputedStyle(this.at).color, ticks: line, font: "11px system-ui, sans-serif",
      values: (_, splits) => splits.map(significant) };
    this.u = new uPlot({
      width: this.place.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      scales: { x: { time: false, range: () => this.range }, y: { range: (_, low, high) => [0, high || 1] } },
      axes: [{ ...axis, grid: { show: false }, size: 28 }, { ...axis, grid: line, size: AXIS_WIDTH, space: 34 }],
      cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
      series: [{}, { stroke: colour, fill: colour, width: 0, paths: uPlot.paths.bars({ size: [0.9, 100] }), points: { show: false } }],
      hooks: { setCursor: [() => this.showValues()] },
    }, data, this.place);
  }

  showValues() {
    const bin = this.bins[this.u?.cursor.idx ?? -1];
    this.at.textContent = bin
      ? `${significant(bin.low)} to ${significant(bin.high)}: ${bin.count} of ${this.count}`
      : `mean ${significant(this.mean)} of ${this.count}`;
  }

  remove() {
    this.resized.disconnect();
    this.u?.destroy();
  }
}
