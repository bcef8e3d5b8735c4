// Tables with stable rows: a row exists as long as its item, so a focused button keeps the focus while values change.

import { element, say } from "/dom.js";
import { isHeld, onRelease } from "/hold.js";

const HEAD = 1.18; // characters of a heading for one of a cell, whose font is larger

/**
 * Columns: {head, text(row), number, width, long, short, link(row), title(row), bad(row), sort}. `width`: of a number, in
 * characters, so that nothing moves when it changes; `sort`: name of the column for the server.
 * `actions`: {head, label(row), name(row), run(row), calm, link(row), shown(row)}, each a button or a link at the end of
 * each row; `calm`: not destructive. `home`: element that gets the focus when its row is removed.
 */
export class Table {
  constructor(table, caption, columns, { key, empty, actions = [], home, onSort } = {}) {
    this.columns = columns;
    this.actions = actions;
    this.key = key;
    this.home = home;
    this.rows = new Map();
    this.pending = null;
    this.body = element("tbody");
    this.heads = columns.map((column) => heading(column, onSort));
    const heads = [...this.heads];
    if (actions.length) {
      const names = actions.map(({ head }) => head).join(", ");
      heads.push(element("th", { scope: "col" }, element("span", { class: "quiet" }, names)));
    }
    this.nothing = element("tr", {}, element("td", { class: "empty", colspan: heads.length }, empty));
    table.append(
      element("caption", { class: "quiet" }, caption),
      element("thead", {}, element("tr", {}, ...heads)),
      this.body,
    );
    onRelease(() => this.pending && this.show(this.pending));
  }

  /** Mark the column that the rows are sorted by: its name, with "-" before it for the largest first. */
  mark(sort) {
    this.columns.forEach((column, index) => {
      if (!column.sort) return;
      const way = sort === column.sort ? "ascending" : sort === `-${column.sort}` ? "descending" : "none";
      this.heads[index].setAttribute("aria-sort", way);
    });
  }

  /** Show items. While the rows are held, only values change, unless `isForced`. */
  show(items, isForced = false) {
    if (isHeld() && this.rows.size && !isForced) {
      this.pending = items;
      this.update(items);
      return;
    }
    this.pending = null;
    const wanted = new Set(items.map(this.key));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      // Keyboard users at this row continue from the table, not from the top of the page.
      if (row.element.contains(document.activeElement)) this.home?.focus();
      row.element.remove();
      this.rows.delete(key);
    }
    this.nothing.remove();
    items.forEach((item, index) => {
      const key = this.key(item);
      const row = this.rows.get(key) ?? this.made(key);
      row.item = item;
      this.fill(row);
      const there = this.body.children[index] ?? null;
      if (there !== row.element) this.body.insertBefore(row.element, there);
    });
    if (!items.length) this.body.append(this.nothing);
  }

  /** Show new values in the rows that exist, and mark those whose item has ended. */
  update(items) {
    const newest = new Map(items.map((item) => [this.key(item), item]));
    for (const [key, row] of this.rows) {
      if (newest.has(key)) {
        row.item = newest.get(key);
        this.fill(row);
        continue;
      }
      if (row.element.contains(document.activeElement)) this.home?.focus(); // which ends the hold
      row.element.classList.add("gone");
    }
  }

  made(key) {
    const cells = this.columns.map(({ number, long, short, link }) => {
      const cell = element("td", { class: number ? "number" : long ? "text" : short ? "short" : "" });
      if (link) cell.append(element("a"));
      return cell;
    });
    const row = { element: element("tr", {}, ...cells), cells };
    row.buttons = this.actions.map(({ run, calm, link }) => {
      if (link) return element("a", { rel: "noreferrer noopener", target: "_blank" });
      const button = element("button", { type: "button", class: calm ? "" : "danger" });
      button.addEventListener("click", () => run(row.item));
      return button;
    });
    if (row.buttons.length) row.element.append(element("td", { class: "actions-cell" }, ...row.buttons));
    this.rows.set(key, row);
    return row;
  }

  fill({ element: line, item, cells, buttons }) {
    line.classList.remove("gone");
    this.columns.forEach(({ text, link, title, bad }, index) => {
      const target = link ? cells[index].firstChild : cells[index];
      say(target, text(item));
      if (link) target.setAttribute("href", link(item));
      if (title) cells[index].setAttribute("title", title(item));
      if (bad) cells[index].classList.toggle("bad", bad(item));
    });
    this.actions.forEach(({ label, name, link, shown }, index) => {
      say(buttons[index], label(item));
      buttons[index].setAttribute("aria-label", name(item));
      if (link) buttons[index].setAttribute("href", link(item));
      if (shown) buttons[index].hidden = !shown(item);
    });
  }
}

function heading({ head, number, width, sort }, onSort) {
  const made = element("th", { scope: "col", class: number ? "number" : "" });
  if (number) made.style.minWidth = `calc(${(width ?? 8) * HEAD}ch + var(--gap))`;
  if (!sort || !onSort) {
    made.append(head);
    return made;
  }
  const button = element("button", { type: "button", class: "sort" }, head);
  button.addEventListener("click", () => onSort(sort, Boolean(number)));
  made.append(button);
  made.setAttribute("aria-sort", "none");
  return made;
}
