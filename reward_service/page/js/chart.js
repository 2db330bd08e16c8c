// Curves and bars as SVG, each with its numbers as a table beneath.

import { h, rounded, svg } from "./dom.js";

const WIDTH = 320, HEIGHT = 160, LEFT = 38, RIGHT = 8, TOP = 8, BOTTOM = 20;

// `series`: [{name, values}], one value (or null) for each x.
export function curves(title, xName, xs, series) {
  const given = series.filter(({ values }) => values.some((value) => value !== null));
  if (!xs.length || !given.length) return null;
  const all = given.flatMap(({ values }) => values.filter((value) => value !== null));
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (low >= 0) [low, high] = [0, high > 0.3 && high <= 1 ? 1 : high || 1];
  else if (low === high) [low, high] = [low - 1, high + 1];
  const x = (value) => LEFT + (WIDTH - LEFT - RIGHT) * (xs.length < 2 ? 0.5 : (value - xs[0]) / (xs.at(-1) - xs[0] || 1));
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low));
  const lines = given.map(({ name, values }, number) => {
    const points = xs.map((at, index) => (values[index] === null ? null : [x(at), y(values[index])])).filter(Boolean);
    const path = points.map(([px, py], index) => `${index ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    return points.length > 1
      ? svg("path", { d: path, class: `series line-${number % 6}` }, svg("title", {}, name))
      : svg("circle", { cx: points[0][0], cy: points[0][1], r: 3, class: `series line-${number % 6}` });
  });
  const ticks = [low, (low + high) / 2, high].map((value) => [
    svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "axis" }),
    svg("text", { x: LEFT - 4, y: y(value) + 3, class: "tick", "text-anchor": "end" }, rounded(value, 3)),
  ]);
  const ends = [...new Set([xs[0], xs.at(-1)])].map((at) =>
    svg("text", { x: x(at), y: HEIGHT - 6, class: "tick", "text-anchor": at === xs[0] ? "start" : "end" }, String(at)));
  return h("figure", {},
    h("figcaption", {}, title, h("span", { class: "dim" }, `by ${xName}`)),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by ${xName}` }, ticks, ends, lines),
    h("div", { class: "legend" }, given.map(({ name, values }, number) =>
      h("span", {}, svg("svg", { viewBox: "0 0 18 8", width: 18, height: 8, "aria-hidden": "true" },
        svg("path", { d: "M0 4H18", class: `series line-${number % 6}` })),
        ` ${name} ${rounded(values.findLast((value) => value !== null), 3)}`))),
    h("details", {}, h("summary", {}, "numbers"), h("div", { class: "scroll" }, numbers(xName, xs, given))));
}

function numbers(xName, xs, series) {
  return h("table", {},
    h("thead", {}, h("tr", {}, h("th", { class: "number" }, xName), series.map(({ name }) => h("th", { class: "number" }, name)))),
    h("tbody", {}, xs.map((at, index) => h("tr", {}, h("td", { class: "number" }, String(at)),
      series.map(({ values }) => h("td", { class: "number" }, rounded(values[index], 4)))))));
}

export function bars(title, found) {
  if (!found.length) return null;
  const most = Math.max(...found.map(({ count }) => count));
  const low = Math.min(...found.map((bar) => bar.low)), high = Math.max(...found.map((bar) => bar.high));
  const x = (value) => LEFT + (WIDTH - LEFT - RIGHT) * ((value - low) / (high - low || 1));
  const height = (count) => (HEIGHT - TOP - BOTTOM) * (count / most);
  return h("figure", {},
    h("figcaption", {}, title, h("span", { class: "dim" }, "distribution")),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Distribution of ${title}` },
      found.map((bar) => svg("rect", {
        x: x(bar.low), width: Math.max(2, x(bar.high) - x(bar.low) - 1), y: HEIGHT - BOTTOM - height(bar.count),
        height: height(bar.count), class: "bar",
      }, svg("title", {}, `${rounded(bar.low)} to ${rounded(bar.high)}: ${bar.count}`))),
      [[low, "start"], [high, "end"]].map(([value, anchor]) =>
        svg("text", { x: x(value), y: HEIGHT - 6, class: "tick", "text-anchor": anchor }, rounded(value))),
      svg("text", { x: LEFT - 4, y: TOP + 8, class: "tick", "text-anchor": "end" }, String(most))));
}
