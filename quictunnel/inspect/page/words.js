// Numbers, times and bytes in words, and elements of the page. Text is set by textContent alone, never as markup.

export const byId = (id) => document.getElementById(id);

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, action) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

export function size(count) {
  if (count < 1000) return `${count} B`;
  for (const unit of ["kB", "MB", "GB", "TB"]) {
    count /= 1000;
    if (count < 999.5) return `${count.toFixed(count < 99.95 ? 1 : 0)} ${unit}`;
  }
  return "a lot";
}

export function seconds(value) {
  if (value < 1) return `${(value * 1000).toFixed(value < 0.1 ? 1 : 0)} ms`;
  return value < 100 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export function clock(time) {
  return new Date(time * 1000).toTimeString().slice(0, 8);
}

// The bytes of a value that the server sent as {text} or {base64}.
export function bytesOf(said) {
  if (said.base64 === undefined) return new TextEncoder().encode(said.text);
  return Uint8Array.from(atob(said.base64), (character) => character.charCodeAt(0));
}

export function dump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const hex = [...row].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = [...row].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}
