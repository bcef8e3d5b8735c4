// The view of the visitors that left.

import { BAN_ADDRESS, VISIT_COLUMNS } from "/columns.js";
import { List } from "/list.js";

const visits = new List("visits", {
  path: "/visits",
  caption: "Visits, the newest first",
  columns: VISIT_COLUMNS,
  choices: { label: "Show", options: [["", "all"], ["failed", "not served to the end"]] },
  key: (one) => one.id,
  empty: "No visitor has left.",
  actions: [BAN_ADDRESS],
});

export const tick = () => visits.tick();
