// The dialogs before an action: a confirmation, and a form.

import { byId, element, say } from "/dom.js";
import { ask } from "/feed.js";
import { release } from "/hold.js";

const dialog = byId("confirm");
let current = null;

/**
 * Ask for confirmation, then send `method` to `path`, with `body` as JSON. `done(answer)` returns the message to show.
 * `calm`: the action is not destructive. `fields`: {name, label, hint, value, type, ...} of a form; `body(values)` then
 * returns the body.
 */
export function confirm({ title, text, yes, path, done, method = "POST", body, calm = false, fields = [] }) {
  current = { path, done, method, body };
  say(byId("confirm-title"), title);
  say(byId("confirm-text"), text);
  say(byId("confirm-yes"), yes);
  say(byId("confirm-error"), "");
  byId("confirm-fields").replaceChildren(...fields.map(field));
  byId("confirm-yes").disabled = false;
  byId("confirm-yes").classList.toggle("danger", !calm);
  dialog.classList.toggle("wide", fields.length > 2);
  dialog.showModal(); // keeps the focus inside, closes on Escape, and restores the focus afterwards
  const first = byId("confirm-fields").querySelector("input");
  (first ?? byId("confirm-no")).focus();
}

function field({ name, label, hint, value = "", ...attributes }) {
  const id = `field-${name}`;
  const input = element("input", { type: "text", spellcheck: "false", autocomplete: "off", ...attributes, id, name });
  input.value = value;
  const described = element("p", { class: "hint", id: `${id}-hint` }, hint ?? "");
  input.setAttribute("aria-describedby", described.id);
  return element("div", { class: "field" }, element("label", { for: id }, label), input, described);
}

const values = () =>
  Object.fromEntries([...byId("confirm-fields").querySelectorAll("input")].map(({ name, value }) => [name, value.trim()]));

byId("confirm-no").addEventListener("click", () => dialog.close());
byId("confirm-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { path, done, method, body } = current;
  byId("confirm-yes").disabled = true;
  try {
    const answer = await ask(path, method, typeof body === "function" ? body(values()) : body);
    dialog.close();
    say(byId("said"), done(answer));
    release();
  } catch (error) {
    say(byId("confirm-error"), error.message || "The edge could not be reached.");
    byId("confirm-yes").disabled = false;
  }
});
