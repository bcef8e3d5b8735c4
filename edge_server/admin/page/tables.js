// Tables with stable rows: a row exists as long as its item, so a focused button keeps the focus while values change.

import { element, say } from "/dom.js";

/**
 * Columns: {head, text(row), number, long, link(row)}. `actions`: {head, label(row), name(row), run(row), calm}, each a
 * button at the end of each row; `calm`: not destructive. `home`: element that gets the focus when its row is removed.
 */
export class Table {
  constructor(table, caption, columns, { key, empty, actions = [], home } = {}) {
    this.columns = columns;
    this.actions = actions;
    this.key = key;
    this.home = home;
    this.rows = new Map();
    this.body = element("tbody");
    const heads = columns.map(({ head, number }) => element("th", { scope: "col", class: number ? "number" : "" }, head));
    if (actions.length) {
      const heading = actions.map(({ head }) => head).join(", ");
      heads.push(element("th", { scope: "col" }, element("span", { class: "quiet" }, heading)));
    }
    this.nothing = element("tr", {}, element("td", { class: "empty", colspan: heads.length }, empty));
    table.append(
      element("caption", { class: "quiet" }, caption),
      element("thead", {}, element("tr", {}, ...heads)),
      this.body,
    );
  }

  show(items) {
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

  made(key) {
    const cells = this.columns.map(({ number, long, link }) => {
      const cell = element("td", { class: number ? "number" : long ? "text" : "" });
      if (link) cell.append(element("a", { rel: "noreferrer noopener", target: "_blank" }));
      return cell;
    });
    const row = { element: element("tr", {}, ...cells), cells };
    row.buttons = this.actions.map(({ run, calm }) => {
      const button = element("button", { type: "button", class: calm ? "" : "danger" });
      button.addEventListener("click", () => run(row.item));
      return button;
    });
    if (row.buttons.length) row.element.append(element("td", {}, ...row.buttons));
    this.rows.set(key, row);
    return row;
  }

  fill({ item, cells, buttons }) {
    this.columns.forEach(({ text, link }, index) => {
      const target = link ? cells[index].firstChild : cells[index];
      say(target, text(item));
      if (link) target.setAttribute("href", link(item));
    });
    this.actions.forEach(({ label, name }, index) => {
      say(buttons[index], label(item));
      buttons[index].setAttribute("aria-label", name(item));
    });
  }
}
