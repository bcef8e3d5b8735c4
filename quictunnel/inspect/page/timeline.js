// WebSocket messages and server-sent events in the order of their times. Rows are added as they come, and those on
// the page stay as they are.
import { button, bytesOf, dump, element, seconds, size } from "./words.js";

const ROWS = 300; // rows at first; a click brings the others
const TEXT = 4096; // characters of a message
const DUMPED = 1024; // bytes of a message in hex

export class Timeline {
  constructor(exchange) {
    this.number = exchange.id;
    this.title = element("h3");
    this.note = element("p", "", "quiet");
    this.list = element("ol", undefined, "messages");
    this.all = button("", () => { this.limit = Infinity; this.update(this.exchange); });
    this.hexadecimal = button("Hex", () => this.switchHex());
    this.hexadecimal.setAttribute("aria-pressed", "false");
    this.limit = ROWS;
    this.isHex = false;
    const tools = element("p", undefined, "views");
    tools.append(this.hexadecimal, this.all);
    this.parts = [this.title, this.note, tools, this.list];
  }

  update(exchange) {
    this.exchange = exchange;
    const dropped = exchange.messages_dropped;
    const isEvents = exchange.kind === "http";
    this.title.textContent = `${isEvents ? "Events" : "Messages"} · ${exchange.frames}`;
    this.note.textContent = dropped ? `The first ${dropped} are not stored any more.` : "";
    this.note.hidden = !dropped;
    const first = Math.max(0, exchange.messages.length - this.limit);
    const wanted = new Map();
    for (let at = first; at < exchange.messages.length; at++) wanted.set(dropped + at, exchange.messages[at]);
    const present = new Map();
    for (const row of [...this.list.children]) {
      if (wanted.has(row.sequence)) present.set(row.sequence, row);
      else row.remove();
    }
    let before = null;
    for (const [sequence, said] of [...wanted].reverse()) {
      const row = present.get(sequence) ?? this.row(sequence, said);
      if (row.nextSibling !== before || row.parentNode !== this.list) this.list.insertBefore(row, before);
      before = row;
    }
    this.all.hidden = first === 0;
    this.all.textContent = `Show ${first} earlier`;
  }

  row(sequence, said) {
    const row = element("li");
    row.sequence = sequence;
    row.said = said;
    const isSent = said.way === "request";
    row.className = isSent ? "sent" : "received";
    const direction = element("span", isSent ? "→" : "←", "way");
    direction.title = isSent ? "from the visitor" : "to the visitor";
    const facts = [said.kind, `+${seconds(said.at)}`, size(said.size) + (said.note ? ` · ${said.note}` : "")];
    row.append(direction, ...facts.map((text) => element("span", text)), element("pre"));
    this.write(row);
    return row;
  }

  write(row) {
    const { said } = row;
    const pre = row.querySelector("pre");
    const isHex = this.isHex || said.base64 !== undefined;
    pre.className = isHex ? "bytes" : "";
    const isCut = said.is_cut || (isHex ? bytesOf(said).length > DUMPED : said.text.length > TEXT);
    pre.textContent = (isHex ? dump(bytesOf(said).subarray(0, DUMPED)) : said.text.slice(0, TEXT)) + (isCut ? " …" : "");
  }

  switchHex() {
    this.isHex = !this.isHex;
    this.hexadecimal.setAttribute("aria-pressed", this.isHex);
    for (const row of this.list.children) this.write(row);
  }
}
