// The view of names, their owners, and bans.

import { OWNER, banOf, detail } from "/columns.js";
import { confirm } from "/confirm.js";
import { byId, say } from "/dom.js";
import { ask } from "/feed.js";
import { release } from "/hold.js";
import { List } from "/list.js";
import { Table } from "/tables.js";
import * as format from "/format.js";

const OWNERS = 100; // lines of the history
const EVERY = 5000; // milliseconds between requests for the history

const state = (one) => (one.is_banned ? "banned" : one.is_held ? "in use" : "free for its owner");

const names = new List("names", {
  path: "/names",
  caption: "Names, ports and bans",
  columns: [
    {
      head: "Name",
      text: (one) => one.name,
      link: (one) => (one.kind === "name" ? detail(one.name) : "#/names"),
      sort: "name",
    },
    { head: "Kind", text: (one) => one.kind, sort: "kind" },
    { ...OWNER, sort: "owner" },
    { head: "State", text: state, bad: (one) => one.is_banned },
    { head: "Last used, or banned", text: (one) => format.moment(one.last_used), sort: "last_used" },
  ],
  choices: { label: "Show", options: [["", "all"], ["owned", "with an owner"], ["banned", "banned"]] },
  key: (one) => one.name,
  empty: "No name has an owner.",
  actions: [
    {
      head: "Release",
      calm: true,
      label: (one) => (one.is_banned ? "Lift the ban" : "Release"),
      name: (one) => (one.is_banned ? `Lift the ban of ${one.name}` : `Release ${one.name}`),
      run: releaseName,
    },
    {
      head: "Ban",
      label: () => "Ban",
      name: (one) => `Ban ${one.name}`,
      shown: (one) => !one.is_banned,
      run: (one) => confirm(banOf(one.name, `The tunnel of ${one.name} ends, and no token may have it again.`, refresh)),
    },
  ],
});

const owners = new Table(
  byId("owners"),
  "Owners of names by day",
  [
    { head: "From", text: (one) => format.moment(one.since) },
    { head: "Until", text: (one) => format.moment(one.until) },
    { head: "Name", text: (one) => one.name || "(others)" },
    OWNER,
    { head: "Bound", number: true, text: (one) => format.number(one.held) },
    { head: "Visitors", number: true, text: (one) => format.number(one.visitors) },
    { head: "Port", number: true, text: (one) => String(one.port ?? "–") },
    { head: "Clients", text: clientsOf },
  ],
  { key: (one) => `${one.name} ${one.owner} ${one.since}`, empty: "Nothing yet." },
);

export function clientsOf(one) {
  return [...new Set([one.client, one.last_client])].filter(Boolean).join(" to ") || "–";
}

let asked = -EVERY;

async function showOwners() {
  asked = performance.now();
  const query = new URLSearchParams({ limit: OWNERS });
  const name = byId("owners-name").value.trim();
  if (name) query.set("name", name);
  const { items } = await ask(`/names/history?${query}`);
  owners.show(items);
  say(byId("owners-count"), items.length < OWNERS ? String(items.length) : `the last ${OWNERS}`);
}

const ignored = () => {}; // the list above says that the edge cannot be reached

byId("owners-search").addEventListener("submit", (event) => event.preventDefault());
byId("owners-name").addEventListener("input", () => {
  release();
  showOwners().catch(ignored);
});

function refresh() {
  names.refresh();
}

export function tick() {
  names.tick();
  if (performance.now() - asked >= EVERY) showOwners().catch(ignored);
}

function releaseName(one) {
  const text = one.is_banned
    ? `${one.name} may be used again.`
    : `Any token may request ${one.name} from now on. A tunnel that has it now keeps it until it ends.`;
  confirm({
    title: one.is_banned ? "Lift this ban?" : "Release this name?",
    text,
    yes: one.is_banned ? "Lift the ban" : "Release it",
    path: "/names/release",
    body: { name: one.name },
    calm: true,
    done: () => {
      refresh();
      return one.is_banned ? `The ban of ${one.name} is lifted.` : `${one.name} is released.`;
    },
  });
}

byId("ban-name").addEventListener("click", () =>
  confirm({
    title: "Ban a name or an address",
    text: "The tunnels and visitors that it concerns end. To ban an owner, revoke the token.",
    yes: "Ban it",
    path: "/names/ban",
    body: ({ name }) => ({ name }),
    fields: [
      {
        name: "name",
        label: "Name, port, address or network",
        hint: "Such as shop, app.example.com, :20022, 203.0.113.9 or 203.0.113.0/24.",
        required: "",
        maxlength: 300,
      },
    ],
    done: (answer) => {
      refresh();
      return `${answer.name} is banned.`;
    },
  }),
);
