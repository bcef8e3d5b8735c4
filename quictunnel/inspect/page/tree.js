// A JSON value as a tree that opens on demand. Nodes are made when they are opened, so neither a deep nor a wide
// value makes more of them than a person asks for.
import { button, element } from "./words.js";

const OPENED = 100; // nodes that are open from the start
const OPENED_DEPTH = 3;
const PORTION = 100; // children that a node shows at once
const UNFOLDED = 2000; // nodes that "Unfold all" opens at most
const UNFOLDED_DEPTH = 30; // levels that it opens: browsers lay deeply nested elements out slowly
const TEXT = 2000; // characters of a string that are shown at once

export function tree(value) {
  const root = element("div", undefined, "tree");
  const budget = { left: OPENED };
  const top = node("", value, 0, budget);
  if (top.matches("details")) top.open = true;
  root.append(top);
  if (!top.matches("details")) return [root];
  const said = element("span", "", "quiet");
  const unfold = button("Unfold all", () => {
    said.textContent = unfoldAll(root) ? "" : `Stopped after ${UNFOLDED} values or ${UNFOLDED_DEPTH} levels.`;
  });
  const fold = button("Fold all", () => {
    for (const each of root.querySelectorAll("details")) each.open = each === top;
  });
  const tools = element("p", undefined, "views");
  tools.append(unfold, fold, said);
  return [root, tools];
}

function node(key, value, depth, budget) {
  budget.left -= 1;
  if (value === null || typeof value !== "object") return leaf(key, value);
  const isArray = Array.isArray(value);
  const keys = isArray ? null : Object.keys(value);
  const count = isArray ? value.length : keys.length;
  const details = element("details");
  const summary = element("summary");
  if (key !== "") summary.append(element("span", key, "key"), ": ");
  const what = isArray ? (count === 1 ? "item" : "items") : count === 1 ? "key" : "keys";
  summary.append(isArray ? "[…]" : "{…}", element("span", ` ${count} ${what}`, "quiet"));
  details.append(summary);
  let made = 0;
  const fill = (left) => {
    const end = Math.min(count, made + PORTION);
    for (; made < end; made++) {
      const name = isArray ? String(made) : keys[made];
      details.append(node(name, isArray ? value[made] : value[name], depth + 1, left));
    }
    if (made < count) {
      const more = button(`Show ${Math.min(PORTION, count - made)} of ${count - made} more`, () => {
        more.remove();
        fill({ left: 0 });
      });
      details.append(more);
    }
  };
  const firstFill = () => { if (made === 0) fill(details.budget ?? { left: 0 }); };
  details.fillNow = firstFill;
  details.addEventListener("toggle", () => { if (details.open) firstFill(); });
  if (depth < OPENED_DEPTH && count <= budget.left) {
    details.budget = budget;
    firstFill();
    details.open = true;
  }
  return details;
}

function leaf(key, value) {
  const line = element("div", undefined, "leaf");
  if (key !== "") line.append(element("span", key, "key"), ": ");
  const text = JSON.stringify(value);
  const shown = element("span", text.length > TEXT ? `${text.slice(0, TEXT)}…` : text, `value ${typeof value}`);
  line.append(shown);
  if (text.length > TEXT) {
    const more = button(`Show all ${text.length} characters`, () => { shown.textContent = text; more.remove(); });
    line.append(" ", more);
  }
  return line;
}

// Open every node. Return false if there are too many.
function unfoldAll(root) {
  let level = [...root.children];
  let count = 0;
  for (let depth = 0; level.length; depth++) {
    count += level.length;
    if (depth === UNFOLDED_DEPTH || count > UNFOLDED) return false;
    for (const each of level) {
      each.fillNow();
      each.open = true;
    }
    level = level.flatMap((each) => [...each.querySelectorAll(":scope > details")]);
  }
  return true;
}
