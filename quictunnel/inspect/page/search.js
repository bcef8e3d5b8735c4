// Search in bodies, headers and messages, which the inspector does; the list is filtered with what it finds.
import { ask } from "./api.js";
import { byId } from "./words.js";

const DELAY = 300; // ms after the last key
const AGAIN = 2000; // ms between searches while requests arrive

let found = new Map(); // number -> {where, around}
let text = "";
let timer = 0;
let changed = () => {};

export function onFound(action) { changed = action; }

export const isFound = (number) => found.has(number);

export function foundIn(number) {
  const match = found.get(number);
  return match ? `Found in the ${match.where}: ${match.around.replace(/\s+/g, " ")}` : "";
}

export function searchSoon(isTyped) {
  const wanted = byId("everywhere").checked ? byId("text").value.trim() : "";
  if (wanted === "") {
    clearTimeout(timer);
    timer = 0;
    text = "";
    found = new Map();
    byId("searched").textContent = "";
    return;
  }
  if (!isTyped && (timer || text === "")) return;
  clearTimeout(timer);
  timer = setTimeout(search, isTyped ? DELAY : AGAIN, wanted);
}

async function search(wanted) {
  timer = 0;
  try {
    const result = await ask(`/api/search?text=${encodeURIComponent(wanted)}`);
    if (!byId("everywhere").checked || byId("text").value.trim() !== wanted) return;
    text = wanted;
    found = new Map(result.matches.map((match) => [match.number, match]));
    const what = result.is_complete ? `${result.searched} searched` : `only the last ${result.searched} searched`;
    byId("searched").textContent = `${found.size} found, ${what}`;
  } catch (error) {
    byId("searched").textContent = error.message;
  }
  changed();
}
