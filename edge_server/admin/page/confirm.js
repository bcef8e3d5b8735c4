// One question before anything is ended.

import { byId, say } from "/dom.js";
import { ask } from "/feed.js";

const dialog = byId("confirm");
let current = null;

/** Ask, and if the answer is yes do it: `path` is posted to. `done` is what is said then. */
export function confirm({ title, text, yes, path, done }) {
  current = { path, done };
  say(byId("confirm-title"), title);
  say(byId("confirm-text"), text);
  say(byId("confirm-yes"), yes);
  say(byId("confirm-error"), "");
  byId("confirm-yes").disabled = false;
  dialog.showModal(); // the focus is kept within, Escape closes, and afterwards it is where it was
}

byId("confirm-no").addEventListener("click", () => dialog.close());
byId("confirm-yes").addEventListener("click", async () => {
  const { path, done } = current;
  byId("confirm-yes").disabled = true;
  try {
    await ask(path, "POST");
    dialog.close();
    say(byId("said"), done);
  } catch (error) {
    say(byId("confirm-error"), error.message || "The edge could not be reached.");
    byId("confirm-yes").disabled = false;
  }
});
