// Keeps the rows of all tables in their places while somebody points at one of them or has the focus there. Values
// change in place; rows that come wait, and rows that end stay and are marked.

const HOLD = 30000; // milliseconds after the last movement or key; then the tables go on without it

let until = 0;
let timer = null;
const listeners = new Set();

export const isHeld = () => until > performance.now();

/** Call `listener` whenever the tables may change again. */
export const onRelease = (listener) => listeners.add(listener);

function hold() {
  until = performance.now() + HOLD;
  clearTimeout(timer);
  timer = setTimeout(release, HOLD);
  document.body.classList.add("held");
}

/** Let the tables change: nobody is there any more, or the operator has asked for a change. */
export function release() {
  if (!until) return;
  until = 0;
  clearTimeout(timer);
  document.body.classList.remove("held");
  for (const listener of listeners) listener();
}

const isRow = (target) => target instanceof Element && target.closest("tbody") !== null;

document.addEventListener("pointermove", ({ target, pointerType }) => {
  if (pointerType === "touch") return;
  if (isRow(target)) hold();
  else if (!isRow(document.activeElement)) release();
});
document.documentElement.addEventListener("pointerleave", () => {
  if (!isRow(document.activeElement)) release();
});
document.addEventListener("focusin", ({ target }) => (isRow(target) ? hold() : release()));
document.addEventListener("keydown", () => {
  if (isRow(document.activeElement)) hold();
});
