// What the operator can do with a session.

import { path } from "/columns.js";
import { confirm } from "/confirm.js";
import * as format from "/format.js";

const trace = (one) => ({
  title: "Trace this session?",
  text:
    `The events of the QUIC connection of ${format.owner(one)} at ${one.address} are written to a file, until you stop it, ` +
    "the session ends or the file has 16 MiB. Tracing costs the edge some CPU time.",
  yes: "Trace the session",
  path: path("sessions", one.id, "qlog"),
  done: ({ file }) => `The session of ${format.owner(one)} is traced${file ? ` to ${file}` : " as soon as it resumes"}.`,
  calm: true,
});

const endOfTrace = (one) => ({
  title: "Stop tracing this session?",
  text: one.qlog ? `The file is kept: ${one.qlog}` : "The file is kept.",
  yes: "Stop tracing",
  path: path("sessions", one.id, "qlog"),
  method: "DELETE",
  done: (answer) =>
    `The session of ${format.owner(one)} is ${answer.is_traced ? "still traced, because --qlog traces all" : "no longer traced"}.` +
    (answer.file ? ` The file is ${answer.file}.` : ""),
  calm: true,
});

export const SESSION_ACTIONS = [
  {
    head: "Trace",
    calm: true,
    label: (one) => (one.is_traced ? "Stop tracing" : "Trace"),
    name: (one) => `${one.is_traced ? "Stop tracing" : "Trace"} session of ${format.owner(one)} at ${one.address}`,
    run: (one) => confirm(one.is_traced ? endOfTrace(one) : trace(one)),
  },
  {
    head: "End",
    label: () => "End",
    name: (one) => `End session of ${format.owner(one)} at ${one.address}`,
    run: (one) =>
      confirm({
        title: "End this session?",
        text:
          `The client ${format.owner(one)} at ${one.address} is disconnected, with ${one.tunnels.length} tunnels and ` +
          `${one.streams} visitors. It does not reconnect on its own; to lock it out, revoke its token.`,
        yes: "End the session",
        path: path("sessions", one.id, "end"),
        done: () => `The session of ${format.owner(one)} is ended.`,
      }),
  },
];
