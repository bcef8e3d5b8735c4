// The view of one tunnel: its last hour, its visitors, its owners, and what the log says of it.

import { Chart } from "/charts.js";
import { BAN_ADDRESS, CLOSE_TUNNEL, END_VISITOR, OWNER, VISITOR_COLUMNS, VISIT_COLUMNS, banOf } from "/columns.js";
import { confirm } from "/confirm.js";
import { byId, element, say } from "/dom.js";
import { showRecords } from "/errors.js";
import { Refused, ask } from "/feed.js";
import { release } from "/hold.js";
import { List } from "/list.js";
import { clientsOf } from "/names.js";
import { Table } from "/tables.js";
import * as format from "/format.js";

const EVERY = 2000; // milliseconds between requests

const charts = [
  [new Chart("Visitors", [""], format.number), [(one) => one.visitors]],
  [new Chart("Arrivals", ["a second"], (value) => value.toFixed(1)), [(one, every) => one.came / every]],
  [new Chart("Bytes", ["in", "out"], format.rate), [(one, every) => one.bytes_in / every, (one, every) => one.bytes_out / every]],
];
byId("tunnel-charts").append(...charts.map(([chart]) => chart.element));

const withoutTunnel = (columns) => columns.filter(({ head }) => head !== "Tunnel");

const visitors = new List("tunnel-visitors", {
  path: "/visitors",
  caption: "Visitors of this tunnel",
  columns: withoutTunnel(VISITOR_COLUMNS),
  key: (one) => one.id,
  empty: "No visitor is connected.",
  actions: [END_VISITOR],
});

const visits = new List("tunnel-visits", {
  path: "/visits",
  caption: "Visits of this tunnel",
  columns: withoutTunnel(VISIT_COLUMNS),
  choices: { label: "Show", options: [["", "all"], ["failed", "not served to the end"]] },
  key: (one) => one.id,
  empty: "No visitor has left.",
  actions: [BAN_ADDRESS],
});

const events = new Table(
  byId("tunnel-events"),
  "Owners of this name by day",
  [
    { head: "From", text: (one) => format.moment(one.since) },
    { head: "Until", text: (one) => format.moment(one.until) },
    OWNER,
    { head: "Bound", number: true, text: (one) => format.number(one.held) },
    { head: "Released", number: true, text: (one) => format.number(one.released) },
    { head: "Banned", number: true, text: (one) => format.number(one.banned) },
    { head: "Visitors", number: true, text: (one) => format.number(one.visitors) },
    { head: "Clients", text: clientsOf },
  ],
  { key: (one) => `${one.owner} ${one.since}`, empty: "Nothing yet." },
);

const FACTS = [
  ["Owner", format.owner],
  ["Key of the token", (one) => one.owner],
  ["TCP port", (one) => String(one.tcp_port ?? "–")],
  ["Clients", (one) => (one.members ? String(one.members) : "awaited")],
  ["Visitors", (one) => format.number(one.visitors)],
  ["Visitors in all", (one) => format.number(one.came)],
  ["Bytes in", (one) => format.bytes(one.bytes_in)],
  ["Bytes out", (one) => format.bytes(one.bytes_out)],
  ["In now", (one) => format.rate(one.rate_in)],
  ["Out now", (one) => format.rate(one.rate_out)],
  ["Held for", (one) => format.duration(one.age)],
  ["TLS ends", (one) => (one.is_passthrough ? "at the local service" : "at the edge")],
];
const facts = FACTS.map(([head]) => element("dd"));
byId("tunnel-facts").append(
  ...FACTS.map(([head], index) => element("div", {}, element("dt", {}, head), facts[index])),
);
const url = element("a", { rel: "noreferrer noopener", target: "_blank" });
const close = element("button", { type: "button", class: "danger" }, "Close the tunnel");
const ban = element("button", { type: "button", class: "danger" }, "Ban the name");
byId("tunnel-actions").append(url, close, ban);

let name = "";
let current = null;
let asked = -EVERY;

close.addEventListener("click", () => CLOSE_TUNNEL.run(current));
ban.addEventListener("click", () => confirm(banOf(name, `The tunnel of ${name} ends, and no token may have it again.`)));

/** Show another tunnel. */
export function open(wanted) {
  name = wanted;
  current = null;
  asked = -EVERY;
  say(byId("tunnel-title"), `Tunnel ${name}`);
  say(byId("tunnel-missing"), "");
  for (const value of facts) say(value, "–");
  for (const list of [visitors, visits]) list.table.show([], true);
  visitors.parameters = { only: name };
  visits.parameters = { tunnel: name };
  release();
}

function show(found) {
  current = found.tunnel;
  say(byId("tunnel-missing"), current ? "" : "Nobody has this name now.");
  FACTS.forEach(([, text], index) => say(facts[index], current ? text(current) : "–"));
  say(url, current ? current.url : "");
  if (current) url.setAttribute("href", current.url);
  close.disabled = !current;
  for (const [chart, series] of charts)
    chart.draw(series.map((value) => found.samples.map((one) => value(one, found.every))));
  visitors.tick(found.visitors);
  visits.tick(found.visits);
  events.show(found.events);
  showRecords(byId("tunnel-errors"), found.errors);
}

export async function tick() {
  if (performance.now() - asked < EVERY) return;
  asked = performance.now();
  const wanted = name;
  try {
    const found = await ask(`/tunnels/${encodeURIComponent(wanted)}`);
    if (wanted === name) show(found);
  } catch (error) {
    const isUnknown = error instanceof Refused && error.status === 404;
    if (wanted === name) say(byId("tunnel-missing"), isUnknown ? "Nothing is known of this name." : error.message);
  }
}
