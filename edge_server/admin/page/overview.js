// The overview: what needs attention, the edge as a whole, its last hour, and what is connected now.

import { showAttention } from "/attention.js";
import { Chart } from "/charts.js";
import { CLOSE_TUNNEL, END_VISITOR, SORTED_OWNER, OWNER, VISITOR_COLUMNS, detail } from "/columns.js";
import { byId, element, say } from "/dom.js";
import { showRecords } from "/errors.js";
import { List } from "/list.js";
import { SESSION_ACTIONS } from "/sessions.js";
import { Table } from "/tables.js";
import * as format from "/format.js";

const HOUR = 360; // samples
const LATE = 0.25; // seconds of loop lag that people notice
const WEEK = 7 * 86400;

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

const lists = {
  tunnels: new List("tunnels", {
    path: "/tunnels",
    caption: "Tunnels",
    columns: [
      { head: "Name", short: true, text: (one) => one.name, link: (one) => detail(one.name), sort: "name" },
      { head: "TCP port", number: true, text: (one) => String(one.tcp_port ?? "–") },
      SORTED_OWNER,
      { head: "Clients", number: true, text: (one) => (one.members ? String(one.members) : "awaited") },
      { head: "Visitors", number: true, text: (one) => format.number(one.visitors), sort: "visitors" },
      { head: "In", number: true, text: (one) => format.bytes(one.bytes_in), sort: "bytes_in" },
      { head: "Out", number: true, text: (one) => format.bytes(one.bytes_out), sort: "bytes_out" },
      { head: "In now", number: true, text: (one) => format.rate(one.rate_in), sort: "rate_in" },
      { head: "Out now", number: true, text: (one) => format.rate(one.rate_out), sort: "rate_out" },
      { head: "Held for", number: true, width: 11, text: (one) => format.duration(one.age), sort: "age" },
    ],
    key: (one) => one.name,
    empty: "No tunnel is open.",
    actions: [
      { head: "Open", label: () => "Open", name: (one) => `Open ${one.url}`, link: (one) => one.url },
      CLOSE_TUNNEL,
    ],
  }),
  sessions: new List("sessions", {
    path: "/sessions",
    caption: "Sessions and their links",
    columns: [
      OWNER,
      { head: "Address", text: (one) => one.address },
      { head: "Software", long: true, text: (one) => one.software },
      { head: "Engine", text: (one) => one.engine },
      { head: "State", text: (one) => (one.is_away ? "away" : "linked") },
      { head: "RTT", number: true, width: 6, text: ({ link }) => (link ? format.milliseconds(link.rtt) : "–") },
      { head: "Loss", number: true, width: 6, text: ({ link }) => (link ? format.percent(link.loss) : "–") },
      { head: "In flight", number: true, width: 6, text: ({ link }) => (link ? format.bytes(link.bytes_in_flight) : "–") },
      { head: "Window", number: true, width: 6, text: ({ link }) => (link ? format.bytes(link.congestion_window) : "–") },
      { head: "Visitors", number: true, width: 4, text: (one) => format.number(one.streams) },
      { head: "Tunnels", number: true, width: 4, text: (one) => String(one.tunnels.length) },
      { head: "Since", number: true, width: 11, text: (one) => format.duration(one.age) },
    ],
    key: (one) => one.id,
    empty: "No client is connected.",
    actions: SESSION_ACTIONS,
  }),
  visitors: new List("visitors", {
    path: "/visitors",
    caption: "Active visitors, the newest first",
    columns: VISITOR_COLUMNS,
    key: (one) => one.id,
    empty: "No visitor is connected.",
    actions: [END_VISITOR],
  }),
  certificates: new List("certificates", {
    path: "/certificates",
    caption: "Certificates for visitors",
    columns: [
      { head: "Names", long: true, text: (one) => one.names.join(", ") },
      { head: "From", text: (one) => (one.by_acme ? "ACME" : "files or development") },
      {
        head: "Valid for",
        number: true,
        text: (one) => format.until(one.expires_at, now),
        bad: (one) => one.expires_at !== null && one.expires_at - now < WEEK,
      },
      { head: "Next try", number: true, text: (one) => nextTry(one) },
      { head: "Last error", long: true, text: (one) => one.last_error || "–", bad: (one) => one.last_error !== "" },
    ],
    key: (one) => one.names.join(),
    empty: "No certificate.",
  }),
};
const talker = (head) => [
  { head, long: true, text: (one) => one.who },
  { head: "Traffic", number: true, text: (one) => format.bytes(one.bytes) },
  { head: "Visitors", number: true, text: (one) => format.number(one.visitors) },
];
const nobody = { key: (one) => one.who, empty: "No traffic yet." };
const addresses = new Table(byId("addresses"), "Addresses with the most traffic", talker("Address"), nobody);
const busiest = new Table(byId("busiest"), "Tunnels with the most traffic", talker("Tunnel"), nobody);

let samples = [];
let every = 10;
let before = null;

function drawHour() {
  for (const [chart, series] of charts) chart.draw(series.map((value) => samples.map((one) => value(one, every))));
}

function showTraces(sessions) {
  const lines = sessions
    .filter((one) => one.is_traced)
    .map((one) => `${format.owner(one)} at ${one.address} is traced ${one.qlog ? `to ${one.qlog}` : "as soon as it resumes"}`);
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
}

/** Begin with the samples of the last hour. */
export function begin(past) {
  samples = past.samples;
  every = past.every;
  drawHour();
}

/** Forget the state of the edge that was shown. */
export function forget() {
  before = null;
}

export function showSnapshot(snapshot, isShown) {
  now = snapshot.at;
  showEdge(snapshot.edge, snapshot.at);
  showAttention(snapshot);
  const { sample } = snapshot;
  if (sample && (!samples.length || samples.at(-1).at < sample.at)) {
    samples = [...samples, sample].slice(-HOUR);
    drawHour();
  }
  if (!isShown) return;
  for (const [name, list] of Object.entries(lists)) list.tick(snapshot[name]);
  addresses.show(snapshot.talkers.addresses);
  busiest.show(snapshot.talkers.tunnels);
  say(byId("errors-count"), format.number(snapshot.errors.total));
  showRecords(byId("errors"), snapshot.errors.items);
  showTraces(snapshot.sessions.items);
}
