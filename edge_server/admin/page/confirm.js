// The confirmation dialog before an action.

import { byId, say } from "/dom.js";
import { ask } from "/feed.js";

const dialog = byId("confirm");
let current = null;

/** Ask for confirmation, then send `method` to `path`. `done(answer)` returns the message to show. `calm`: the action
 * is not destructive. */
export function confirm({ title, text, yes, path, done, method = "POST", calm = false }) {
  current = { path, done, method };
  say(byId("confirm-title"), title);
  say(byId("confirm-text"), text);
  say(byId("confirm-yes"), yes);
  say(byId("confirm-error"), "");
  byId("confirm-yes").disabled = false;
  byId("confirm-yes").classList.toggle("danger", !calm);
  dialog.showModal(); // keeps the focus inside, closes on Escape, and restores the focus afterwards
}

byId("confirm-no").addEventListener("click", () => dialog.close());
byId("confirm-yes").addEventListener("click", async () => {
  const { path, done, method } = current;
  byId("confirm-yes").disabled = true;
  try {
    const answer = await ask(path, method);
    dialog.close();
    say(byId("said"), done(answer));
  } catch (error) {
    say(byId("confirm-error"), error.message || "The edge could not be reached.");
    byId("confirm-yes").disabled = false;
  }
});
