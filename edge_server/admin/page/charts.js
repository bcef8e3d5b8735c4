// Small charts of the last hour, as SVG.

import { element, say } from "/dom.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [360, 96];

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A chart of one or two lines. `show` formats a value. */
export class Chart {
  constructor(title, names, show) {
    this.title = title;
    this.names = names;
    this.show = show;
    const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
    this.svg = drawn("svg", { class: "chart", role: "img", ...box });
    this.area = drawn("path", { class: "area", d: "" });
    this.lines = names.map((_, index) => drawn("path", { class: index ? "line second" : "line", d: "" }));
    const base = drawn("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 });
    this.svg.append(base, this.area, ...this.lines);
    this.values = names.map((_, index) => element("b", { class: index ? "key-second" : "key-first" }));
    this.most = element("span");
    const heads = names.flatMap((name, index) => [` ${name} `, this.values[index]]);
    this.element = element(
      "figure",
      {},
      element("figcaption", {}, element("span", {}, title, ...heads), this.most),
      this.svg,
      element("figcaption", { "aria-hidden": "true" }, element("span", {}, "an hour ago"), element("span", {}, "now")),
    );
  }

  /** `series`: a list of values for each line, the oldest first, of at most 360. */
  draw(series) {
    const top = Math.max(1e-9, ...series.flat());
    const latest = series.map((values) => values.at(-1) ?? 0);
    series.forEach((values, index) => {
      const points = values.map((value, at) => [
        WIDTH - (values.length - 1 - at),
        (HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1),
      ]);
      const line = points.map(([x, y], at) => `${at ? "L" : "M"}${x} ${y}`).join("");
      this.lines[index].setAttribute("d", line);
      if (index === 0) {
        const ends = points.length ? `L${WIDTH} ${HEIGHT}L${points[0][0]} ${HEIGHT}Z` : "";
        this.area.setAttribute("d", line + ends);
      }
      say(this.values[index], this.show(latest[index]));
    });
    const most = series[0].length ? `at most ${this.show(Math.max(...series.flat()))}` : "no samples yet";
    say(this.most, most);
    const values = this.names.map((name, index) => `${name} ${this.show(latest[index])}`.trim()).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}, last hour: ${values}; ${most}`);
  }
}
