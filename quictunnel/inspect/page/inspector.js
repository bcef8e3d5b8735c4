// The inspector's page: the list of exchanges, and what a person does. What visitors and the origin said is shown by
// textContent alone, never as markup.
import { ask, download, errorOf, hasToken, request, unlock } from "./api.js";
import { clearDetail, showDetail } from "./detail.js";
import { closeEditor, isEditing, openEditor, sendEdited } from "./editor.js";
import { foundIn, isFound, onFound, searchSoon } from "./search.js";
import { byId, clock, element, seconds, size } from "./words.js";

const RETRY = 1000; // ms between tries to follow again
const REFRESH = 500; // ms between updates of an exchange that is not complete
const METHODS = 30; // methods offered in the filter: anybody may invent more

const exchanges = new Map(); // number -> summary, oldest first
const rows = new Map(); // number -> <tr>
let most = 500;
let about = { port: 0, target: "", public: "", unseen: 0 };
let chosen = 0;
let isPaused = false;
let held = []; // news that came while paused
let isDrawn = true;
let detailTimer = 0;
let detailWanted = false;
let shown = null; // the exchange in the details

// Following.

async function follow() {
  for (;;) {
    try {
      const response = await request("/api/events");
      if (response.status === 401) {
        lock();
        return;
      }
      if (!response.ok) {
        show("lost", await errorOf(response));
      } else {
        show("live", "Live");
        await read(response.body.getReader());
        show("lost", "The tunnel has ended.");
      }
    } catch {
      show("lost", "The tunnel has ended.");
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
}

// Say what to do without the token, instead of an empty list.
function lock() {
  show("lost", "No access");
  byId("refused").textContent = hasToken()
    ? "The token is not the one of this tunnel. Each tunnel has a new token when it is opened."
    : "The address was opened without its token, which is the part after #.";
  setLocked(true);
  byId("address").focus();
}

function setLocked(isLocked) {
  byId("locked").hidden = !isLocked;
  for (const id of ["tools", "exchanges", "keys"]) byId(id).hidden = isLocked;
}

function show(state, text) {
  byId("link").className = state;
  byId("link").textContent = text;
}

async function read(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const event = rest.slice(0, end);
      rest = rest.slice(end + 2);
      const match = /^event: (\w+)\ndata: (.*)$/s.exec(event);
      if (match) heard(match[1], JSON.parse(match[2]));
    }
  }
}

function heard(kind, news) {
  if (isPaused) {
    // The last "all" makes everything before it old; of the rest, the newest of each exchange counts.
    held = kind === "all" ? [[kind, news]] : [...held, [kind, news]];
    if (held.length > 100) held = [squeezed(held)];
    return;
  }
  take(kind, news);
  draw();
}

function squeezed(events) {
  const changed = new Map();
  const gone = new Set();
  let all = null;
  for (const [kind, news] of events) {
    if (kind === "all") { all = news; changed.clear(); gone.clear(); }
    for (const each of (kind === "all" ? news.exchanges : news.changed)) changed.set(each.id, each);
    for (const number of news.gone || []) { changed.delete(number); gone.add(number); }
  }
  const unseen = events[events.length - 1][1].unseen;
  return all ? ["all", { ...all, exchanges: [...changed.values()], unseen }]
             : ["changed", { changed: [...changed.values()], gone: [...gone], unseen }];
}

function take(kind, news) {
  if (kind === "all") {
    about = news;
    most = news.most;
    exchanges.clear();
    for (const each of news.exchanges) exchanges.set(each.id, each);
  } else {
    about.unseen = news.unseen;
    for (const each of news.changed) exchanges.set(each.id, each);
    for (const number of news.gone) exchanges.delete(number);
  }
  while (exchanges.size > most) exchanges.delete(exchanges.keys().next().value);
  if (chosen && (kind === "all" || news.changed.some((each) => each.id === chosen))) refresh();
  searchSoon(false);
}

// The list.

function draw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => { isDrawn = true; drawNow(); });
}

function drawNow() {
  byId("about").textContent = about.public ? `${about.public} → ${about.target}` : about.target;
  const body = byId("rows");
  for (const [number, row] of rows) {
    if (!exchanges.has(number)) { row.remove(); rows.delete(number); }
  }
  const matches = filter();
  let shown = 0;
  for (const [number, each] of exchanges) {
    let row = rows.get(number);
    if (!row) {
      row = newRow(number);
      rows.set(number, row);
      body.prepend(row);
    }
    if (row.drawn !== each) { fill(row, each); row.drawn = each; }
    row.hidden = !matches(each);
    row.setAttribute("aria-selected", number === chosen);
    shown += !row.hidden;
  }
  offerMethods();
  byId("empty").hidden = exchanges.size > 0;
  const unseen = about.unseen ? ` · ${about.unseen} connections not recorded` : "";
  byId("count").textContent = (shown === exchanges.size ? `${shown}` : `${shown} of ${exchanges.size}`) + unseen;
}

function newRow(number) {
  const row = document.createElement("tr");
  row.dataset.number = number;
  row.setAttribute("role", "row");
  for (let at = 0; at < 8; at++) {
    const cell = document.createElement("td");
    if (at > 4) cell.className = "number";
    row.append(cell);
  }
  return row;
}

function fill(row, each) {
  const [number, method, path, status, time, duration, sent, received] = row.children;
  number.textContent = each.id;
  method.textContent = each.kind === "raw" ? "bytes" : each.method;
  path.textContent = each.kind === "raw" ? each.note : each.target;
  path.title = path.textContent;
  if (each.replay_of) {
    const tag = element("span", undefined, "tag");
    tag.textContent = `${each.is_edited ? "edited replay" : "replay"} of #${each.replay_of}`;
    path.prepend(tag, " ");
  }
  status.textContent = statusText(each);
  status.className = statusClass(each);
  time.textContent = clock(each.began);
  duration.textContent = each.duration === null ? "" : seconds(each.duration);
  sent.textContent = size(each.sent);
  received.textContent = each.kind === "websocket" ? `${each.frames} msg` : size(each.received);
}

function statusText(each) {
  if (each.status) return each.state === "broken" ? `${each.status} ✕` : String(each.status);
  return each.state === "open" ? "…" : each.state === "broken" ? "broken" : "";
}

function statusClass(each) {
  if (each.state === "broken") return "broken";
  return each.status ? `s${String(each.status)[0]}` : "open";
}

function filter() {
  const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const method = byId("method").value;
  const status = byId("status").value;
  return (each) => {
    if (method && each.method !== method) return false;
    if (status && !(each.kind === status || each.state === status || String(each.status)[0] === status)) return false;
    const text = `${each.method} ${each.target} ${each.status} ${each.type} ${each.note}`.toLowerCase();
    return isFound(each.id) || words.every((word) => text.includes(word));
  };
}

function offerMethods() {
  const select = byId("method");
  const known = new Set([...select.options].map((option) => option.value));
  for (const each of exchanges.values()) {
    if (each.method && !known.has(each.method) && known.size < METHODS) {
      known.add(each.method);
      const option = document.createElement("option");
      option.value = option.textContent = each.method;
      select.append(option);
    }
  }
}

function choose(number) {
  const before = rows.get(chosen);
  if (before) before.setAttribute("aria-selected", false);
  const isOther = chosen !== number;
  chosen = number;
  const row = rows.get(number);
  if (row) {
    row.setAttribute("aria-selected", true);
    row.scrollIntoView({ block: "nearest" });
  }
  byId("right").hidden = !number;
  byId("exchanges").classList.toggle("split", Boolean(number));
  if (isOther) {
    closeEditor();
    clearDetail();
    shown = null;
  }
  if (number && isOther) {
    byId("command").hidden = true;
    byId("said").textContent = "";
    detailWanted = false;
    clearTimeout(detailTimer);
    detailTimer = 0;
    refresh();
  }
}

function step(by) {
  const visible = [...byId("rows").children].filter((row) => !row.hidden);
  if (!visible.length) return;
  const at = visible.findIndex((row) => Number(row.dataset.number) === chosen);
  const next = at < 0 ? (by > 0 ? 0 : visible.length - 1) : Math.min(visible.length - 1, Math.max(0, at + by));
  choose(Number(visible[next].dataset.number));
}

// One exchange.

function refresh() {
  if (detailTimer) { detailWanted = true; return; }
  detailTimer = setTimeout(() => {
    detailTimer = 0;
    if (detailWanted) { detailWanted = false; refresh(); }
  }, REFRESH);
  load(chosen);
}

async function load(number) {
  try {
    const each = await ask(`/api/exchanges/${number}`);
    if (number !== chosen) return;
    shown = each;
    showDetail(each);
    byId("found").textContent = foundIn(number);
  } catch (error) {
    if (number === chosen) byId("said").textContent = error.message;
  }
}

// What a person does.

async function replay() {
  if (!chosen || byId("replay").disabled) return;
  try {
    const { id } = await ask(`/api/exchanges/${chosen}/replay`, { method: "POST" });
    choose(id);
    byId("said").textContent = "Sent to the local server.";
  } catch (error) {
    byId("said").textContent = error.message;
  }
}

async function copyAsCurl() {
  if (!chosen || byId("curl").disabled) return;
  try {
    const { command, note } = await ask(`/api/exchanges/${chosen}/curl`);
    byId("command").textContent = command;
    byId("command").hidden = false;
    try {
      await navigator.clipboard.writeText(command);
      byId("said").textContent = `Copied. ${note}`.trim();
    } catch {
      byId("said").textContent = `Here it is; the browser does not let this page copy. ${note}`.trim();
    }
  } catch (error) {
    byId("said").textContent = error.message;
  }
}

function edit() {
  if (shown && !byId("edit").disabled) openEditor(shown, about.target);
}

async function send() {
  const number = await sendEdited();
  if (!number) return;
  choose(number);
  byId("said").textContent = "Sent to the local server.";
  byId("title").focus();
}

async function exportHar(path, name, said) {
  try {
    await download(path, name);
    said.textContent = `${name} is downloaded.`;
  } catch (error) {
    said.textContent = error.message;
  }
}

async function clear() {
  try {
    await ask("/api/clear", { method: "POST" });
    choose(0);
  } catch (error) {
    show("lost", error.message);
  }
}

function pause() {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", isPaused);
  byId("pause").textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused) {
    for (const [kind, news] of held) take(kind, news);
    held = [];
    draw();
  }
}

const KEYS = {
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  PageDown: () => step(10),
  PageUp: () => step(-10),
  Home: () => step(-exchanges.size),
  End: () => step(exchanges.size),
  Enter: () => byId("title").focus(),
  ArrowRight: () => byId("title").focus(),
  Escape: () => { choose(0); byId("rows").focus(); },
  r: replay,
  e: edit,
  c: copyAsCurl,
  "/": () => byId("text").focus(),
};

document.addEventListener("keydown", (event) => {
  const at = event.target;
  if (isEditing() && byId("editor").contains(at)) {
    if (event.key === "Escape") { closeEditor(); byId("edit").focus(); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !byId("locked").hidden) return;
  if (at.matches("input, select, textarea")) {
    if (event.key === "Escape") byId("rows").focus();
    return;
  }
  if (at.matches("button, summary") && event.key === "Enter") return;
  const isInDetail = byId("right").contains(at);
  if (isInDetail && event.key !== "Escape" && event.key.length > 1) return; // arrows scroll it
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});
byId("rows").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) choose(Number(row.dataset.number));
});
byId("tools").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["text", "method", "status"]) byId(id).addEventListener("input", draw);
for (const id of ["text", "everywhere"]) byId(id).addEventListener("input", () => { searchSoon(true); draw(); });
onFound(() => { draw(); byId("found").textContent = chosen ? foundIn(chosen) : ""; });
byId("pause").addEventListener("click", pause);
byId("clear").addEventListener("click", clear);
byId("replay").addEventListener("click", replay);
byId("curl").addEventListener("click", copyAsCurl);
byId("edit").addEventListener("click", edit);
byId("editor").addEventListener("submit", (event) => { event.preventDefault(); send(); });
byId("edit-cancel").addEventListener("click", () => { closeEditor(); byId("edit").focus(); });
byId("har").addEventListener("click", () => {
  exportHar(`/api/exchanges/${chosen}/har`, `quictunnel-${chosen}.har`, byId("said"));
});
byId("har-all").addEventListener("click", () => {
  exportHar("/api/har", "quictunnel.har", byId("searched"));
});
byId("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  unlock(byId("address").value);
  byId("address").value = "";
  setLocked(false);
  byId("rows").focus();
  follow();
});
byId("close").addEventListener("click", () => { choose(0); byId("rows").focus(); });
byId("rows").focus();
follow();
