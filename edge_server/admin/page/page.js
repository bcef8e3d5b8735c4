// The operator's page: signs in, follows the events of the edge, and shows the view that the address names.

import { confirm } from "/confirm.js";
import { byId, say } from "/dom.js";
import { Feed, Refused, ask, token } from "/feed.js";
import { release } from "/hold.js";
import * as names from "/names.js";
import * as overview from "/overview.js";
import * as tokens from "/tokens.js";
import * as tunnel from "/tunnel.js";
import * as visits from "/visits.js";

const VIEWS = { overview: { tick() {} }, visits, tokens, names, tunnel };
const STATES = { live: "live", draining: "draining", lost: "unreachable, retrying", off: "signed out" };

let view = "";

// Views.

/** The view that the address names, and the tunnel that it shows. */
function wanted() {
  const [, name = "", id = ""] = location.hash.split("/");
  if (name === "tunnels" && id) {
    try {
      return ["tunnel", decodeURIComponent(id)];
    } catch {
      return ["overview", ""]; // the address is damaged
    }
  }
  return [name in VIEWS && name !== "tunnel" ? name : "overview", ""];
}

function showView() {
  const [name, id] = wanted();
  view = name;
  if (name === "tunnel") tunnel.open(id);
  for (const each of Object.keys(VIEWS)) byId(`view-${each}`).hidden = each !== name;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  release();
  VIEWS[name].tick();
}

window.addEventListener("hashchange", () => {
  showView();
  window.scrollTo(0, 0);
  byId("content").focus({ preventScroll: true });
});

// Updates.

function showSnapshot(snapshot) {
  const { edge } = snapshot;
  overview.showSnapshot(snapshot, view === "overview");
  VIEWS[view].tick();
  say(byId("domain"), `*.${edge.domain}`);
  const engine = `${edge.engine.name} ${edge.engine.version}`;
  say(byId("about"), `quictunnel ${edge.version} · engine ${engine} · process ${edge.process}`);
  const title = `${edge.visitors} · ${edge.domain} · quictunnel edge`;
  if (document.title !== title) document.title = title;
  state(edge.is_draining ? "draining" : "live");
  byId("drain").disabled = edge.is_draining;
}

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
  showView();
  feed = new Feed({
    onBegin: async () => overview.begin(await ask("/history")),
    onSnapshot: showSnapshot,
    onLost: () => state("lost"),
    onRefused: (error) => signOut(error.message),
  });
  feed.run();
}

function signOut(why = "") {
  feed?.stop();
  feed = null;
  overview.forget();
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
