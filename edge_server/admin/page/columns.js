// Columns and actions that several views have.

import { confirm } from "/confirm.js";
import * as format from "/format.js";

export const detail = (name) => `#/tunnels/${encodeURIComponent(name)}`;

export const path = (kind, id, what = "") => `/${kind}/${encodeURIComponent(id)}${what && `/${what}`}`;

export const OWNER = { head: "Owner", short: true, text: format.owner, title: (one) => one.owner ?? "" };

export const SORTED_OWNER = { ...OWNER, sort: "owner" };

export const TUNNEL = { head: "Tunnel", short: true, text: (one) => one.tunnel, link: (one) => detail(one.tunnel), sort: "tunnel" };

const address = (one) => `${format.host(one.address)}:${one.port}`;

const kind = (one) => (one.tls ? one.tls.replace("TLSv", "TLS ") : one.kind);

/** Columns of active visitors. */
export const VISITOR_COLUMNS = [
  { head: "Address", text: address, sort: "address" },
  TUNNEL,
  OWNER,
  { head: "Kind", text: kind },
  { head: "State", text: (one) => (one.is_waiting ? "waiting" : "in") },
  { head: "In", number: true, text: (one) => format.bytes(one.bytes_in), sort: "bytes_in" },
  { head: "Out", number: true, text: (one) => format.bytes(one.bytes_out), sort: "bytes_out" },
  { head: "For", number: true, width: 11, text: (one) => format.duration(one.age), sort: "age" },
];

/** Columns of visitors that have left. */
export const VISIT_COLUMNS = [
  { head: "Ended", text: (one) => format.clock(one.ended_at), sort: "ended_at" },
  { head: "Address", text: address, sort: "address" },
  TUNNEL,
  SORTED_OWNER,
  { head: "Kind", text: (one) => one.kind },
  { head: "For", number: true, width: 11, text: (one) => format.elapsed(one.duration), sort: "duration" },
  { head: "First byte", number: true, text: (one) => (one.first_byte === null ? "–" : format.elapsed(one.first_byte)) },
  { head: "In", number: true, text: (one) => format.bytes(one.bytes_in), sort: "bytes_in" },
  { head: "Out", number: true, text: (one) => format.bytes(one.bytes_out), sort: "bytes_out" },
  { head: "End", long: true, text: (one) => one.reason, bad: (one) => one.is_failure },
];

export const END_VISITOR = {
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
};

export const banOf = (name, text, done = () => {}) => ({
  title: `Ban ${name}?`,
  text,
  yes: "Ban it",
  path: "/names/ban",
  body: { name },
  done: (answer) => {
    done();
    return `${answer.name} is banned.`;
  },
});

export const BAN_ADDRESS = {
  head: "Ban",
  label: () => "Ban",
  name: (one) => `Ban address ${one.address}, port ${one.port}`,
  shown: (one) => one.address !== "",
  run: (one) =>
    confirm(
      banOf(one.address, `Neither visitors nor clients may connect from ${one.address}. Those that are connected end.`),
    ),
};

export const CLOSE_TUNNEL = {
  head: "Close",
  label: () => "Close",
  name: (one) => `Close tunnel ${one.name}`,
  run: (one) =>
    confirm({
      title: "Close this tunnel?",
      text:
        `${one.name} of ${format.owner(one)} ends, with its ${one.visitors} visitors. ` +
        "Its client does not request it again on its own.",
      yes: "Close the tunnel",
      path: path("tunnels", one.name, "close"),
      done: () => `Tunnel ${one.name} is closed.`,
    }),
};
