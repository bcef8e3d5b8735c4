// The operator's page: signs in, follows the events of the edge, and shows its state.

import { Chart } from "/charts.js";
import { confirm } from "/confirm.js";
import { byId, element, say } from "/dom.js";
import { Feed, Refused, ask, token } from "/feed.js";
import { Table } from "/tables.js";
import * as format from "/format.js";

const HOUR = 360; // samples
const LATE = 0.25; // seconds of loop lag that people notice
const WEEK = 7 * 86400;

// Views.

const tiles = {};
for (const [name, title] of [
  ["visitors", "Visitors"],
  ["rateIn", "Bytes in"],
  ["rateOut", "Bytes out"],
  ["tunnels", "Tunnels"],
  ["sessions", "Sessions"],
  ["came", "Visitors since start"],
  ["lag", "Loop lag"],
  ["certificate", "Certificate valid for"],
  ["uptime", "Up for"],
]) {
  const value = element("dd", { id: `tile-${name}` });
  const tile = element("div", {}, element("dt", {}, title), value);
  tiles[name] = { tile, value };
  byId("tiles").append(tile);
}

let now = 0; // when the snapshot that is shown was made

const charts = [
  [new Chart("Visitors", [""], format.number), [(sample) => sample.visitors]],
  [new Chart("Arrivals", ["a second"], (value) => value.toFixed(1)), [(sample, every) => sample.came / every]],
  [
    new Chart("Bytes", ["in", "out"], format.rate),
    [(sample, every) => sample.bytes_in / every, (sample, every) => sample.bytes_out / every],
  ],
];
byId("charts").append(...charts.map(([chart]) => chart.element));

function nextTry(certificate) {
  if (certificate.is_ordering) return "now";
  const at = certificate.next_try;
  return at === null ? "–" : `in ${format.duration(at - now)}`;
}

const path = (kind, id, what) => `/${kind}/${encodeURIComponent(id)}/${what}`;
const host = (address) => (address.includes(":") ? `[${address}]` : address);

const trace = (one) => ({
  title: "Trace this session?",
  text:
    `The events of the QUIC connection of ${one.owner} at ${one.address} are written to a file, until you stop it, ` +
    "the session ends or the file has 16 MiB. Tracing costs the edge some CPU time.",
  yes: "Trace the session",
  path: path("sessions", one.id, "qlog"),
  done: ({ file }) => `The session of ${one.owner} is traced${file ? ` to ${file}` : " as soon as it resumes"}.`,
  calm: true,
});
const endOfTrace = (one) => ({
  title: "Stop tracing this session?",
  text: one.qlog ? `The file is kept: ${one.qlog}` : "The file is kept.",
  yes: "Stop tracing",
  path: path("sessions", one.id, "qlog"),
  method: "DELETE",
  done: (answer) =>
    `The session of ${one.owner} is ${answer.is_traced ? "still traced, because --qlog traces all" : "no longer traced"}.` +
    (answer.file ? ` The file is ${answer.file}.` : ""),
  calm: true,
});

const tables = {
  tunnels: new Table(
    byId("tunnels"),
    "Tunnels",
    [
      { head: "Name", text: (one) => one.name, link: (one) => one.url },
      { head: "TCP port", number: true, text: (one) => String(one.tcp_port ?? "–") },
      { head: "Owner", text: (one) => one.owner },
      { head: "Clients", number: true, text: (one) => (one.members ? String(one.members) : "awaited") },
      { head: "Visitors", number: true, text: (one) => format.number(one.visitors) },
      { head: "In", number: true, text: (one) => format.bytes(one.bytes_in) },
      { head: "Out", number: true, text: (one) => format.bytes(one.bytes_out) },
      { head: "In now", number: true, text: (one) => format.rate(one.rate_in) },
      { head: "Out now", number: true, text: (one) => format.rate(one.rate_out) },
      { head: "Held for", number: true, text: (one) => format.duration(one.age) },
    ],
    {
      key: (one) => one.name,
      empty: "No tunnel is open.",
      home: byId("tunnels-title"),
      actions: [
        {
          head: "Close",
          label: () => "Close",
          name: (one) => `Close tunnel ${one.name}`,
          run: (one) =>
            confirm({
              title: "Close this tunnel?",
              text:
                `${one.name} of ${one.owner} ends, with its ${one.visitors} visitors. ` +
                "Its client does not request it again on its own.",
              yes: "Close the tunnel",
              path: path("tunnels", one.name, "close"),
              done: () => `Tunnel ${one.name} is closed.`,
            }),
        },
      ],
    },
  ),
  sessions: new Table(
    byId("sessions"),
    "Sessions and their links",
    [
      { head: "Owner", text: (one) => one.owner },
      { head: "Address", text: (one) => one.address },
      { head: "Software", long: true, text: (one) => one.software },
      { head: "Engine", text: (one) => one.engine },
      { head: "State", text: (one) => (one.is_away ? "away" : "linked") },
      { head: "RTT", number: true, text: ({ link }) => (link ? format.milliseconds(link.rtt) : "–") },
      { head: "Loss", number: true, text: ({ link }) => (link ? format.percent(link.loss) : "–") },
      { head: "In flight", number: true, text: ({ link }) => (link ? format.bytes(link.bytes_in_flight) : "–") },
      { head: "Window", number: true, text: ({ link }) => (link ? format.bytes(link.congestion_window) : "–") },
      { head: "Visitors", number: true, text: (one) => format.number(one.streams) },
      { head: "Tunnels", number: true, text: (one) => String(one.tunnels.length) },
      { head: "Since", number: true, text: (one) => format.duration(one.age) },
    ],
    {
      key: (one) => one.id,
      empty: "No client is connected.",
      home: byId("sessions-title"),
      actions: [
        {
          head: "Trace",
          calm: true,
          label: (one) => (one.is_traced ? "Stop tracing" : "Trace"),
          name: (one) => `${one.is_traced ? "Stop tracing" : "Trace"} session of ${one.owner} at ${one.address}`,
          run: (one) => confirm(one.is_traced ? endOfTrace(one) : trace(one)),
        },
        {
          head: "End",
          label: () => "End",
          name: (one) => `End session of ${one.owner} at ${one.address}`,
          run: (one) =>
            confirm({
              title: "End this session?",
              text:
                `The client ${one.owner} at ${one.address} is disconnected, with ${one.tunnels.length} tunnels and ` +
                `${one.streams} visitors. It does not reconnect on its own; to lock it out, revoke its token.`,
              yes: "End the session",
              path: path("sessions", one.id, "end"),
              done: () => `The session of ${one.owner} is ended.`,
            }),
        },
      ],
    },
  ),
  visitors: new Table(
    byId("visitors"),
    "Active visitors, the newest first",
    [
      { head: "Address", text: (one) => `${host(one.address)}:${one.port}` },
      { head: "Tunnel", text: (one) => one.tunnel },
      { head: "Kind", text: (one) => (one.tls ? one.tls.replace("TLSv", "TLS ") : one.kind) },
      { head: "State", text: (one) => (one.is_waiting ? "waiting" : "in") },
      { head: "In", number: true, text: (one) => format.bytes(one.bytes_in) },
      { head: "Out", number: true, text: (one) => format.bytes(one.bytes_out) },
      { head: "For", number: true, text: (one) => format.duration(one.age) },
    ],
    {
      key: (one) => one.id,
      empty: "No visitor is connected.",
      home: byId("visitors-title"),
      actions: [
        {
          head: "End",
          label: () => "End",
          name: (one) => `End visitor ${one.address} port ${one.port}`,
          run: (one) =>
            confirm({
              title: "End this visitor?",
              text: `The connection of ${one.address}, port ${one.port}, to ${one.tunnel} is reset.`,
              yes: "End the visitor",
              path: path("visitors", one.id, "end"),
              done: () => `Visitor ${one.address} port ${one.port} is ended.`,
            }),
        },
      ],
    },
  ),
  certificates: new Table(
    byId("certificates"),
    "Certificates for visitors",
    [
      { head: "Names", long: true, text: (one) => one.names.join(", ") },
      { head: "From", text: (one) => (one.by_acme ? "ACME" : "files or development") },
      { head: "Valid for", number: true, text: (one) => format.until(one.expires_at, now) },
      { head: "Next try", number: true, text: (one) => nextTry(one) },
      { head: "Last error", long: true, text: (one) => one.last_error || "–" },
    ],
    { key: (one) => one.names.join(), empty: "No certificate." },
  ),
};
const talker = (head) => [
  { head, long: true, text: (one) => one.who },
  { head: "Traffic", number: true, text: (one) => format.bytes(one.bytes) },
  { head: "Visitors", number: true, text: (one) => format.number(one.visitors) },
];
const nobody = { key: (one) => one.who, empty: "No traffic yet." };
const addresses = new Table(byId("addresses"), "Addresses with the most traffic", talker("Address"), nobody);
const busiest = new Table(byId("busiest"), "Tunnels with the most traffic", talker("Tunnel"), nobody);

// Updates.

let samples = [];
let every = 10;
let before = null;

function drawHour() {
  for (const [chart, series] of charts) chart.draw(series.map((value) => samples.map((one) => value(one, every))));
}

function showErrors({ items, total }) {
  say(byId("errors-count"), format.number(total));
  const shown = items.map((one) => `${one.at} ${one.message}`).join("\n");
  if (byId("errors").dataset.shown === shown) return;
  byId("errors").dataset.shown = shown;
  const lines = items.map((one) => {
    const level = element("span", { class: "level", "data-level": one.level }, one.level);
    return element("li", {}, element("time", {}, format.clock(one.at)), level, element("span", {}, one.message));
  });
  byId("errors").replaceChildren(...(lines.length ? lines : [element("li", { class: "soft" }, "None.")]));
}

function showTraces(sessions) {
  const lines = sessions
    .filter((one) => one.is_traced)
    .map((one) => `${one.owner} at ${one.address} is traced ${one.qlog ? `to ${one.qlog}` : "as soon as it resumes"}`);
  const list = byId("traces");
  list.hidden = !lines.length;
  if (list.dataset.shown === lines.join("\n")) return;
  list.dataset.shown = lines.join("\n");
  list.replaceChildren(...lines.map((line) => element("li", {}, line)));
}

function showEdge(edge, at) {
  const last = before;
  const passed = last && at > last.at && edge.process === last.edge.process ? at - last.at : 0;
  const rate = (name) => (passed ? Math.max(0, edge[name] - last.edge[name]) / passed : 0);
  before = { at, edge };
  const texts = {
    visitors: format.number(edge.visitors),
    rateIn: format.rate(rate("bytes_in")),
    rateOut: format.rate(rate("bytes_out")),
    tunnels: format.number(edge.tunnels),
    sessions: edge.sessions_away ? `${edge.sessions} (${edge.sessions_away} away)` : format.number(edge.sessions),
    came: format.number(edge.visitors_came),
    lag: format.milliseconds(edge.loop_lag),
    certificate: format.until(edge.certificate_expires_at, at),
    uptime: format.duration(edge.uptime),
  };
  for (const [name, text] of Object.entries(texts)) say(tiles[name].value, text);
  tiles.lag.tile.classList.toggle("bad", edge.loop_lag >= LATE);
  const left = edge.certificate_expires_at === null ? Infinity : edge.certificate_expires_at - at;
  tiles.certificate.tile.classList.toggle("bad", left < WEEK);
  say(byId("domain"), `*.${edge.domain}`);
  const engine = `${edge.engine.name} ${edge.engine.version}`;
  say(byId("about"), `quictunnel ${edge.version} · engine ${engine} · process ${edge.process}`);
  document.title = `${edge.visitors} · ${edge.domain} · quictunnel edge`;
  state(edge.is_draining ? "draining" : "live");
  byId("drain").disabled = edge.is_draining;
}

function showSnapshot(snapshot) {
  now = snapshot.at;
  showEdge(snapshot.edge, snapshot.at);
  for (const [name, table] of Object.entries(tables)) {
    const { items, total } = snapshot[name];
    table.show(items);
    say(byId(`${name}-count`), total > items.length ? `${items.length} of ${format.number(total)}` : format.number(total));
  }
  addresses.show(snapshot.talkers.addresses);
  busiest.show(snapshot.talkers.tunnels);
  showErrors(snapshot.errors);
  showTraces(snapshot.sessions.items);
  const { sample } = snapshot;
  if (sample && (!samples.length || samples.at(-1).at < sample.at)) {
    samples = [...samples, sample].slice(-HOUR);
    drawHour();
  }
}

const STATES = { live: "live", draining: "draining", lost: "unreachable, retrying", off: "signed out" };

function state(name) {
  byId("state").dataset.state = name;
  say(byId("state"), STATES[name]);
}

// Signing in and out.

let feed = null;

function follow() {
  feed?.stop();
  byId("login").hidden = true;
  byId("view").hidden = false;
  byId("edge-actions").hidden = false;
  feed = new Feed({
    async onBegin() {
      const past = await ask("/history");
      samples = past.samples;
      every = past.every;
      drawHour();
    },
    onSnapshot: showSnapshot,
    onLost: () => state("lost"),
    onRefused: (error) => signOut(error.message),
  });
  feed.run();
}

function signOut(why = "") {
  feed?.stop();
  feed = null;
  before = null;
  token.forget();
  state("off");
  document.title = "quictunnel edge";
  byId("view").hidden = true;
  byId("edge-actions").hidden = true;
  byId("login").hidden = false;
  say(byId("login-error"), why);
  say(byId("domain"), "");
  say(byId("about"), "");
  byId("token").value = "";
  byId("token").focus();
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  try {
    await ask("/edge");
    byId("token").value = "";
    follow();
    byId("content").focus();
  } catch (error) {
    signOut(error instanceof Refused ? error.message : "The edge could not be reached.");
  }
});
byId("sign-out").addEventListener("click", () => signOut());
byId("drain").addEventListener("click", () =>
  confirm({
    title: "Drain this edge?",
    text: "It accepts no new visitors and clients, lets active visitors finish within its grace period, and ends.",
    yes: "Drain the edge",
    path: "/drain",
    done: () => "The edge is draining.",
  }),
);

token.fromAddress();
if (token.get()) follow();
else signOut();
