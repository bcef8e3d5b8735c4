// The view of the tokens: create, limit and revoke them.

import { path } from "/columns.js";
import { confirm } from "/confirm.js";
import { byId, element, say } from "/dom.js";
import { List } from "/list.js";
import * as format from "/format.js";

const shownExpiry = (one) => (one.expires === null ? "never" : format.moment(one.expires));

const RIGHTS = [
  ["Tunnels", (one) => format.limit(one.tunnels)],
  ["Visitors", (one) => format.limit(one.visitors)],
  ["Names", (one) => format.names(one.names)],
  ["Domains", (one) => format.names(one.domains)],
  ["TCP ports", (one) => one.tcp_ports ?? "all"],
  ["Bandwidth", (one) => (one.bandwidth === null ? "all" : format.rate(one.bandwidth))],
];

/** The rights and limits of a token that are not those of every token. */
function limits(one) {
  const different = RIGHTS.map(([head, text]) => [head, text(one)]).filter(
    ([head, text]) => text !== (head === "Domains" ? "none" : "all"),
  );
  return different.map(([head, text]) => `${head.toLowerCase().replace("tcp", "TCP")}: ${text}`).join("; ") || "none of its own";
}

const tokens = new List("tokens", {
  path: "/tokens",
  caption: "Tokens, the newest first",
  columns: [
    { head: "Note", long: true, text: (one) => one.note || "–", sort: "note" },
    { head: "Key", text: (one) => one.key, sort: "key" },
    { head: "State", text: (one) => one.state, bad: (one) => one.state !== "good", sort: "state" },
    { head: "Rights and limits", long: true, text: limits },
    { head: "Expires", text: shownExpiry, sort: "expires" },
    { head: "Created", text: (one) => format.moment(one.created), sort: "created" },
  ],
  choices: { label: "Show", options: [["", "all"], ["good", "good"], ["expired", "expired"], ["revoked", "revoked"]] },
  key: (one) => one.key,
  empty: "No token.",
  actions: [
    {
      head: "Change",
      calm: true,
      label: () => "Change",
      name: (one) => `Change token ${one.key}${one.note && ` of ${one.note}`}`,
      shown: (one) => one.state !== "revoked",
      run: change,
    },
    {
      head: "Revoke",
      label: () => "Revoke",
      name: (one) => `Revoke token ${one.key}${one.note && ` of ${one.note}`}`,
      shown: (one) => one.state !== "revoked",
      run: revoke,
    },
  ],
});

export const tick = () => tokens.tick();

const FIELDS = [
  { name: "note", label: "Note", hint: "The owner or the purpose; shown wherever the owner is.", maxlength: 200 },
  { name: "tunnels", label: "Tunnels at once", hint: "Empty: no limit of its own.", inputmode: "numeric", pattern: "[0-9]{1,9}" },
  { name: "visitors", label: "Visitors at once", hint: "Empty: no limit of its own.", inputmode: "numeric", pattern: "[0-9]{1,9}" },
  { name: "names", label: "Names", hint: "Such as shop,shop-*. An exact name is reserved for this token. none: only random names. Empty: all." },
  { name: "domains", label: "Custom domains", hint: "Such as app.example.com,*.example.org, none, or all." },
  { name: "tcp_ports", label: "Public TCP ports", hint: "Such as 20000-20009, or none. Empty: all." },
  { name: "bandwidth", label: "Bytes a second", hint: "500k, 10M or 1G, in each direction. Empty: no limit." },
  { name: "expires", label: "Expires", hint: "After 12h, 30d or 8w, or on a day such as 2027-01-31 (UTC). Empty: never." },
];

function rate(value) {
  if (value === null) return "";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (value % size === 0) return `${value / size}${unit}`;
  return String(value);
}

const texts = (one) => ({
  note: one.note,
  tunnels: one.tunnels === null ? "" : String(one.tunnels),
  visitors: one.visitors === null ? "" : String(one.visitors),
  names: one.names === null ? "" : format.names(one.names).replaceAll(" ", ""),
  domains: format.names(one.domains).replaceAll(" ", ""),
  tcp_ports: one.tcp_ports ?? "",
  bandwidth: rate(one.bandwidth),
  expires: one.expires === null ? "" : format.moment(one.expires),
});

function asValue(name, text) {
  if (name === "note") return text;
  if (name === "domains") return text || "none";
  if (text === "") return null;
  return name === "tunnels" || name === "visitors" ? Number(text) : text;
}

/** The fields of a form that differ from what they were, as the API takes them. */
function changed(values, before) {
  const different = Object.entries(values).filter(([name, text]) => text !== before[name]);
  return Object.fromEntries(different.map(([name, text]) => [name, asValue(name, text)]));
}

const withValues = (before) => FIELDS.map((field) => ({ ...field, value: before[field.name] }));

const EMPTY = { note: "", tunnels: "", visitors: "", names: "", domains: "none", tcp_ports: "", bandwidth: "", expires: "" };

byId("create-token").addEventListener("click", () =>
  confirm({
    title: "Create a token",
    text: "A client that has it may open tunnels, within these rights and limits.",
    yes: "Create the token",
    path: "/tokens",
    body: (values) => changed(values, EMPTY),
    fields: withValues(EMPTY),
    calm: true,
    done: (answer) => {
      tokens.refresh();
      showSecret(answer);
      return `Token ${answer.entry.key} is created.`;
    },
  }),
);

function change(one) {
  const before = texts(one);
  confirm({
    title: `Change token ${one.key}`,
    text: "A change takes effect within a second. Tunnels that the new rights and limits forbid end, with their visitors.",
    yes: "Change the token",
    path: path("tokens", one.key),
    method: "PATCH",
    body: (values) => changed(values, before),
    fields: withValues(before),
    calm: true,
    done: () => {
      tokens.refresh();
      return `Token ${one.key} is changed.`;
    },
  });
}

function revoke(one) {
  confirm({
    title: "Revoke this token?",
    text:
      `Token ${one.key}${one.note && ` of ${one.note}`} is refused from now on, for good. Its sessions end, with their ` +
      "tunnels and visitors.",
    yes: "Revoke the token",
    path: path("tokens", one.key, "revoke"),
    done: () => {
      tokens.refresh();
      return `Token ${one.key} is revoked.`;
    },
  });
}

// The new token, which is shown once.

const secret = byId("secret");

function showSecret({ token, credential, entry }) {
  say(byId("secret-token"), token);
  say(byId("secret-credential"), credential ?? "");
  byId("secret-login").hidden = !credential;
  const rights = [["Note", (one) => one.note || "–"], ...RIGHTS, ["Expires", shownExpiry]];
  byId("secret-rights").replaceChildren(
    ...rights.map(([head, text]) => element("div", {}, element("dt", {}, head), element("dd", {}, text(entry)))),
  );
  secret.showModal();
}

for (const button of secret.querySelectorAll("[data-copy]")) {
  const text = button.textContent;
  button.addEventListener("click", async () => {
    const shown = byId(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(shown.textContent);
      say(button, "Copied");
    } catch {
      getSelection().selectAllChildren(shown); // no clipboard without TLS: select it for Ctrl+C
      say(button, "Selected: press Ctrl+C");
    }
  });
  secret.addEventListener("close", () => say(button, text));
}
byId("secret-close").addEventListener("click", () => secret.close());
secret.addEventListener("close", () => {
  say(byId("secret-token"), "");
  say(byId("secret-credential"), "");
});
