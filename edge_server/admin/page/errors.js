// Lists of log records.

import { element } from "/dom.js";
import * as format from "/format.js";

/** Show records in a list, which changes only when they do. */
export function showRecords(list, items) {
  const shown = items.map((one) => `${one.at} ${one.message}`).join("\n");
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  const lines = items.map((one) => {
    const level = element("span", { class: "level", "data-level": one.level }, one.level);
    return element("li", {}, element("time", {}, format.clock(one.at)), level, element("span", {}, one.message));
  });
  list.replaceChildren(...(lines.length ? lines : [element("li", { class: "soft" }, "None.")]));
}
