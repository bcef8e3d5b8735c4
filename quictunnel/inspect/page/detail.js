// One exchange: what is known of it, its messages and its bodies.
import { content } from "./content.js";
import { Timeline } from "./timeline.js";
import { byId, element, seconds, size } from "./words.js";

let timeline = null;
let drawn = new Map(); // part -> {value, elements}: what has not changed stays on the page as it is

export function clearDetail() {
  timeline = null;
  drawn = new Map();
  byId("parts").replaceChildren();
}

export function showDetail(each) {
  const isRaw = each.kind === "raw";
  byId("title").textContent = isRaw ? `#${each.id} bytes` : `#${each.id} ${each.method} ${each.target}`;
  byId("replay").disabled = each.no_replay !== "";
  byId("replay").title = each.no_replay || "Send this request to the local server again";
  byId("edit").disabled = each.no_edit !== "";
  byId("edit").title = each.no_edit || "Change this request, then send it to the local server";
  byId("curl").disabled = byId("har").disabled = !each.has_request;
  byId("notes").replaceChildren(...each.notes.map((note) => element("li", note)));
  byId("facts").replaceChildren(...facts(each).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  const path = `/api/exchanges/${each.id}`;
  const parts = [];
  if (each.frames && each.kind === "http") parts.push(...messages(each));
  parts.push(...message(isRaw ? "From the visitor" : "Request", each.request, `${path}/request/image`),
             ...message(isRaw ? "From the origin" : "Response", each.response, `${path}/response/image`));
  if (each.kind === "websocket") parts.push(...messages(each));
  const place = byId("right").scrollTop;
  const present = byId("parts").children;
  const isSame = parts.length === present.length && parts.every((part, at) => part === present[at]);
  if (!isSame) byId("parts").replaceChildren(...parts);
  byId("right").scrollTop = place;
}

function facts(each) {
  const replay = each.is_edited ? `#${each.replay_of}, edited` : `#${each.replay_of}`;
  return [
    ["Status", each.status ? `${each.status} ${each.reason}` : each.state],
    ["State", each.state],
    ["Interim", each.interim.join(", ")],
    ["Time", new Date(each.began * 1000).toLocaleString()],
    ["First byte after", each.waited === null ? "" : seconds(each.waited)],
    ["Duration", each.duration === null ? "" : seconds(each.duration)],
    ["Visitor", each.visitor],
    ["Connection", each.connection ? `${each.connection}` : ""],
    ["Replay of", each.replay_of ? replay : ""],
  ].filter(([, value]) => value);
}

function messages(each) {
  if (timeline === null || timeline.number !== each.id) timeline = new Timeline(each);
  timeline.update(each);
  return timeline.parts;
}

function message(name, said, path) {
  const value = JSON.stringify(said);
  const before = drawn.get(name);
  if (before && before.value === value) return before.elements;
  const elements = newMessage(name, said, path);
  drawn.set(name, { value, elements });
  return elements;
}

function newMessage(name, said, path) {
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
    parts.push(element("p", `Only ${size(said.body.kept)} of ${size(said.body.size)} are stored.`, "quiet"));
  }
  if (said.body.note) parts.push(element("p", said.body.note, "quiet"));
  if (said.body.size) parts.push(...content(said.body, path));
  return parts;
}
