// What an operator should look at first. The list has a fixed height, so nothing below it moves.

import { byId, element, say } from "/dom.js";
import * as format from "/format.js";

const LATE = 0.25; // seconds of loop lag that people notice
const WEEK = 7 * 86400;
const FULL = 0.9; // of the visitors that there may be
const RECENT = 900; // seconds for which a record of the log is recent
const RECORDS = 5;

const RANK = { bad: 0, warn: 1 };

function ofCertificate(one, now) {
  const name = one.names.length > 1 ? `${one.names[0]} and ${one.names.length - 1} more` : one.names[0];
  const left = one.expires_at === null ? null : one.expires_at - now;
  const failed = one.last_error ? ` The last order failed (${one.failures} in a row): ${one.last_error}` : "";
  const next = one.next_try === null ? "" : ` Next try at ${format.clock(one.next_try)}.`;
  if (left !== null && left <= 0) return { level: "bad", text: `The certificate of ${name} has expired.${failed}${next}` };
  if (left !== null && left < WEEK)
    return { level: failed ? "bad" : "warn", text: `The certificate of ${name} expires in ${format.until(one.expires_at, now)}.${failed}${next}` };
  if (left === null && failed) return { level: "bad", text: `There is no certificate for ${name}.${failed}${next}` };
  return failed ? { level: "warn", text: `The certificate of ${name} was not renewed.${failed}${next}` } : null;
}

function ofEdge(edge) {
  const found = [];
  if (edge.is_draining) found.push({ level: "warn", text: "The edge is draining: it accepts no new connections." });
  if (edge.loop_lag >= LATE)
    found.push({ level: "bad", text: `The event loop was late by ${format.milliseconds(edge.loop_lag)} within the last minute.` });
  if (edge.visitors_cap && edge.visitors >= FULL * edge.visitors_cap)
    found.push({ level: "bad", text: `${format.number(edge.visitors)} of at most ${format.number(edge.visitors_cap)} visitors are connected.` });
  if (edge.sessions_away)
    found.push({ level: "warn", text: `${edge.sessions_away} of ${edge.sessions} clients have lost their connection; their visitors wait.` });
  return found;
}

function ofLog(records, now) {
  const recent = records.filter((one) => one.at > now - RECENT);
  const found = recent.slice(0, RECORDS).map((one) => ({
    level: one.level === "warning" ? "warn" : "bad",
    text: `${format.clock(one.at)} ${one.message}`,
  }));
  if (recent.length > RECORDS) found.push({ level: "warn", text: `${recent.length - RECORDS} more warnings and errors in the last quarter of an hour.` });
  return found;
}

/** Show what needs attention, the worst first. */
export function showAttention({ at, edge, certificates, errors }) {
  const found = [
    ...certificates.items.map((one) => ofCertificate(one, at)).filter(Boolean),
    ...ofEdge(edge),
    ...ofLog(errors.items, at),
  ].sort((a, b) => RANK[a.level] - RANK[b.level]);
  say(byId("attention-count"), found.length ? String(found.length) : "");
  const list = byId("attention");
  const shown = JSON.stringify(found);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  const lines = found.map(({ level, text }) =>
    element("li", { "data-level": level }, element("b", {}, level === "bad" ? "Problem" : "Warning"), ` ${text}`),
  );
  list.replaceChildren(...(lines.length ? lines : [element("li", { class: "soft" }, "Nothing.")]));
}
