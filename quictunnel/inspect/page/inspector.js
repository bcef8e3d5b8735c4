// The inspector's page. What visitors and the origin said is shown by textContent alone, never as markup.
"use strict";

const RETRY = 1000; // ms between tries to follow again
const REFRESH = 500; // ms between updates of an exchange that is not complete
const DUMPED = 16 * 1024; // bytes of a hex dump that are put on the page at once; a click brings all
const METHODS = 30; // methods offered in the filter: anybody may invent more

const byId = (id) => document.getElementById(id);
const token = takeToken();
const exchanges = new Map(); // number -> summary, oldest first
const rows = new Map(); // number -> <tr>
let most = 500;
let about = { port: 0, public: "", unseen: 0 };
let chosen = 0;
let isPaused = false;
let held = []; // news that came while paused
let isDrawn = true;
let detailTimer = 0;
let detailWanted = false;

function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname); // not for whoever looks over a shoulder
  }
  return given || sessionStorage.getItem("token") || "";
}

async function ask(path, method = "GET") {
  const response = await fetch(path, { method, headers: { authorization: `Bearer ${token}` } });
  const isJson = (response.headers.get("content-type") || "").startsWith("application/json");
  const value = isJson ? await response.json() : { error: (await response.text()).trim() };
  if (!response.ok) throw new Error(value.error || `The inspector answered ${response.status}.`);
  return value;
}

// Following.

async function follow() {
  for (;;) {
    try {
      const response = await fetch("/api/events", { headers: { authorization: `Bearer ${token}` } });
      if (!response.ok) {
        const said = await response.text();
        let why = said.trim();
        try { why = JSON.parse(said).error; } catch { /* it is plain text */ }
        show("lost", why);
        if (response.status === 401) return;
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
}

// The list.

function draw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => { isDrawn = true; drawNow(); });
}

function drawNow() {
  byId("about").textContent = about.public ? `${about.public} → localhost:${about.port}` : `localhost:${about.port}`;
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
  const unseen = about.unseen ? ` · ${about.unseen} connections not looked into` : "";
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
    const tag = document.createElement("span");
    tag.className = "tag";
    tag.textContent = `replay of #${each.replay_of}`;
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
    return words.every((word) => text.includes(word));
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
  document.querySelector("main").classList.toggle("split", Boolean(number));
  if (number && isOther) {
    byId("parts").replaceChildren();
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
    if (number === chosen) detail(each);
  } catch (error) {
    if (number === chosen) byId("said").textContent = error.message;
  }
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function detail(each) {
  const isRaw = each.kind === "raw";
  byId("title").textContent = isRaw ? `#${each.id} bytes` : `#${each.id} ${each.method} ${each.target}`;
  byId("replay").disabled = each.no_replay !== "";
  byId("replay").title = each.no_replay || "Send this request to the local server again";
  byId("curl").disabled = !each.has_request;
  byId("notes").replaceChildren(...each.notes.map((note) => element("li", note)));
  const facts = [
    ["Status", each.status ? `${each.status} ${each.reason}` : each.state],
    ["State", each.state],
    ["Interim", each.interim.join(", ")],
    ["Time", new Date(each.began * 1000).toLocaleString()],
    ["First byte after", each.waited === null ? "" : seconds(each.waited)],
    ["Duration", each.duration === null ? "" : seconds(each.duration)],
    ["Visitor", each.visitor],
    ["Connection", each.connection ? `${each.connection}` : ""],
    ["Replay of", each.replay_of ? `#${each.replay_of}` : ""],
  ];
  byId("facts").replaceChildren(
    ...facts.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  const parts = [...message(isRaw ? "From the visitor" : "Request", each.request),
                 ...message(isRaw ? "From the origin" : "Response", each.response)];
  if (each.kind === "websocket") parts.push(...messages(each));
  replaceKeepingPlace(parts);
}

function replaceKeepingPlace(parts) {
  const place = byId("right").scrollTop;
  byId("parts").replaceChildren(...parts);
  byId("right").scrollTop = place;
}

function message(name, said) {
  const parts = [element("h3", `${name} · ${size(said.body.size)}`)];
  if (said.start) parts.push(element("pre", said.start, "start"));
  if (said.headers.length) {
    const table = element("table", undefined, "headers");
    for (const [key, value] of said.headers) {
      const row = element("tr");
      row.append(element("td", key), element("td", value));
      table.append(row);
    }
    parts.push(table);
  }
  if (said.body.size > said.body.kept) {
    parts.push(element("p", `Only ${size(said.body.kept)} of ${size(said.body.size)} are kept.`, "quiet"));
  }
  if (said.body.note) parts.push(element("p", said.body.note, "quiet"));
  if (said.body.size) parts.push(...content(said.body));
  return parts;
}

function content(body) {
  if (body.base64 !== undefined) {
    const bytes = Uint8Array.from(atob(body.base64), (character) => character.charCodeAt(0));
    const pre = element("pre", dump(bytes.subarray(0, DUMPED)), "bytes body");
    if (bytes.length <= DUMPED) return [pre];
    const more = element("button", `Show all ${size(bytes.length)}`);
    more.addEventListener("click", () => { pre.textContent = dump(bytes); more.remove(); });
    return [pre, more];
  }
  const pretty = indented(body.text);
  const pre = element("pre", pretty ?? body.text, "body");
  if (pretty === null || pretty === body.text) return [pre];
  const toggle = element("button", "As it came");
  toggle.addEventListener("click", () => {
    const isPretty = pre.textContent === pretty;
    pre.textContent = isPretty ? body.text : pretty;
    toggle.textContent = isPretty ? "Indented" : "As it came";
  });
  return [pre, toggle];
}

function indented(text) {
  if (!/^\s*[[{]/.test(text)) return null;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}

function dump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const hex = [...row].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = [...row].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}

function messages(each) {
  const parts = [element("h3", `Messages · ${each.frames}`)];
  if (each.messages_dropped) {
    parts.push(element("p", `The first ${each.messages_dropped} are not kept any more.`, "quiet"));
  }
  const list = element("ul", undefined, "messages");
  for (const said of each.messages) {
    const item = element("li");
    const cut = said.is_cut ? " …" : "";
    const arrow = said.way === "request" ? "→" : "←";
    item.append(
      element("span", `${arrow} ${said.kind}`), element("span", seconds(said.at)),
      element("span", size(said.size) + (said.note ? ` · ${said.note}` : "")),
      said.base64 !== undefined
        ? element("pre", dump(Uint8Array.from(atob(said.base64), (character) => character.charCodeAt(0)).subarray(0, 256)),
                  "bytes")
        : element("pre", said.text.slice(0, 4096) + cut));
    list.append(item);
  }
  parts.push(list);
  return parts;
}

// Words.

function size(count) {
  if (count < 1000) return `${count} B`;
  for (const unit of ["kB", "MB", "GB", "TB"]) {
    count /= 1000;
    if (count < 999.5) return `${count.toFixed(count < 99.95 ? 1 : 0)} ${unit}`;
  }
  return "a lot";
}

function seconds(value) {
  if (value < 1) return `${(value * 1000).toFixed(value < 0.1 ? 1 : 0)} ms`;
  return value < 100 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

function clock(time) {
  return new Date(time * 1000).toTimeString().slice(0, 8);
}

// What a person does.

async function replay() {
  if (!chosen || byId("replay").disabled) return;
  try {
    const { id } = await ask(`/api/exchanges/${chosen}/replay`, "POST");
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

async function clear() {
  try {
    await ask("/api/clear", "POST");
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
  c: copyAsCurl,
  "/": () => byId("text").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target;
  if (at.matches("input, select")) {
    if (event.key === "Escape") byId("rows").focus();
    return;
  }
  if (at.matches("button") && event.key === "Enter") return;
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
byId("pause").addEventListener("click", pause);
byId("clear").addEventListener("click", clear);
byId("replay").addEventListener("click", replay);
byId("curl").addEventListener("click", copyAsCurl);
byId("close").addEventListener("click", () => { choose(0); byId("rows").focus(); });
byId("rows").focus();
follow();
