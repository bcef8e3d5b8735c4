// A list that the edge searches, sorts and cuts into pages; the beginning in the usual order may come with the events.

import { byId, element, say } from "/dom.js";
import { ask } from "/feed.js";
import { release } from "/hold.js";
import { Table } from "/tables.js";
import * as format from "/format.js";

export const PAGE = 50; // entries
const EVERY = 2000; // milliseconds between requests for a list that is shown
const TYPING = 250; // milliseconds after a key until the search begins

/**
 * The list of `name`, in the element with the id `${name}-list`, below a heading `${name}-title` that has the count.
 * `choices`: {label, options: [[value, text], ...]}, values of the parameter `only`. Other options are those of Table.
 */
export class List {
  constructor(name, { path, caption, columns, choices, parameters = {}, ...options }) {
    this.name = name;
    this.path = path;
    this.parameters = parameters;
    this.offset = 0;
    this.sort = "";
    this.only = "";
    this.search = "";
    this.asked = 0;
    this.number = 0;
    this.isNew = false; // the operator has asked for other rows, which appear also under the pointer
    const table = element("table", { id: name });
    this.table = new Table(table, caption, columns, {
      home: byId(`${name}-title`),
      onSort: (column, isNumber) => this.sortBy(column, isNumber),
      ...options,
    });
    const scroll = element("div", { class: "scroll", role: "region", tabindex: 0 }, table);
    scroll.setAttribute("aria-labelledby", `${name}-title`);
    byId(`${name}-list`).append(this.tools(caption, choices), scroll, this.pager(caption));
  }

  get isDefault() {
    return !this.offset && !this.sort && !this.only && !this.search;
  }

  /** Show the beginning of the list, or request it if something else is wanted. */
  tick(page = null) {
    if (page && this.isDefault) this.show(page);
    else if (performance.now() - this.asked >= EVERY) this.refresh();
  }

  async refresh() {
    const number = (this.number += 1);
    this.asked = performance.now();
    const given = { limit: PAGE, offset: this.offset, search: this.search, sort: this.sort, only: this.only };
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...given, ...this.parameters })) if (value) query.set(name, value);
    try {
      const page = await ask(`${this.path}?${query}`);
      if (number !== this.number) return; // another request is newer
      say(this.failed, "");
      this.show(page);
    } catch (error) {
      say(this.failed, error.message || "The edge could not be reached.");
    }
  }

  /** Begin anew with what the operator has chosen. */
  changed(change) {
    Object.assign(this, { offset: 0, isNew: true }, change);
    release();
    this.refresh();
  }

  show({ items, total }) {
    if (!items.length && total && this.offset) {
      this.changed({ offset: Math.floor((total - 1) / PAGE) * PAGE }); // the list has become shorter
      return;
    }
    this.table.show(items, this.isNew);
    this.isNew = false;
    say(
      byId(`${this.name}-count`),
      total > items.length ? `${items.length} of ${format.number(total)}` : format.number(total),
    );
    say(this.place, `${this.offset + Math.min(1, items.length)}–${this.offset + items.length} of ${format.number(total)}`);
    this.before.disabled = !this.offset;
    this.after.disabled = this.offset + items.length >= total;
    this.pages.classList.toggle("idle", total <= PAGE && !this.offset);
  }

  sortBy(column, isNumber) {
    const [first, second] = isNumber ? [`-${column}`, column] : [column, `-${column}`];
    const sort = this.sort === first ? second : this.sort === second ? "" : first;
    this.table.mark(sort);
    this.changed({ sort });
  }

  tools(caption, choices) {
    const search = element("input", { type: "search", id: `${this.name}-search`, maxlength: 100, spellcheck: "false" });
    let timer = null;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.changed({ search: search.value.trim() }), TYPING);
    });
    const label = element("label", { for: search.id }, "Search", element("span", { class: "quiet" }, ` ${caption}`));
    this.failed = element("span", { class: "error", role: "alert" });
    const tools = element("div", { class: "tools" }, label, search);
    if (choices) {
      const select = element("select", { id: `${this.name}-only` });
      select.append(...choices.options.map(([value, text]) => element("option", { value }, text)));
      select.addEventListener("change", () => this.changed({ only: select.value }));
      tools.append(element("label", { for: select.id }, choices.label), select);
    }
    tools.append(this.failed);
    return tools;
  }

  pager(caption) {
    this.before = element("button", { type: "button", "aria-label": `Previous page of ${caption}` }, "Previous");
    this.after = element("button", { type: "button", "aria-label": `Next page of ${caption}` }, "Next");
    this.place = element("span");
    this.before.addEventListener("click", () => this.changed({ offset: Math.max(0, this.offset - PAGE) }));
    this.after.addEventListener("click", () => this.changed({ offset: this.offset + PAGE }));
    this.pages = element("div", { class: "pager idle" }, this.before, this.place, this.after);
    return this.pages;
  }
}
