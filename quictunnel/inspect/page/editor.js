// A form to change a request before it is sent to the local server again.
import { ask } from "./api.js";
import { byId } from "./words.js";

const FRAMING = /^(content-length|transfer-encoding|trailer|expect)$/i; // the inspector computes them

let edited = null; // the exchange
let hasCrLf = false; // the recorded body's lines end with CR LF, which a text area turns to LF
let recordedText = null; // null: the body is no text

export function openEditor(each, origin) {
  edited = each;
  const body = each.request.body;
  byId("edit-method").value = each.method;
  byId("edit-target").value = each.target;
  byId("edit-headers").value =
    each.request.headers.filter(([name]) => !FRAMING.test(name)).map(([name, value]) => `${name}: ${value}`).join("\n");
  const text = body.base64 === undefined ? body.text : null;
  hasCrLf = text !== null && text.includes("\r\n") && !/(^|[^\r])\n/.test(text);
  byId("edit-body").value = text ?? "";
  recordedText = text === null ? null : byId("edit-body").value;
  byId("edit-hint").textContent =
    text === null ? "The body is not text. It is sent as it was recorded, unless you type another."
      : body.kept < body.size ? "Only the beginning of the body was stored. What is here is sent if you change it." : "";
  byId("edit-send").textContent = `Send to ${origin}`;
  byId("edit-error").textContent = "";
  byId("editor").hidden = false;
  byId("edit-method").focus();
}

export function closeEditor() {
  edited = null;
  byId("editor").hidden = true;
}

export const isEditing = () => edited !== null;

function bodyOf(text) {
  if (text === (recordedText ?? "")) return null;
  return hasCrLf ? text.replace(/\n/g, "\r\n") : text;
}

function headersOf(text) {
  return text.split("\n").filter((line) => line.trim()).map((line) => {
    const colon = line.indexOf(":");
    return colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1)];
  });
}

// Send the request; return the number of the new exchange, or 0 after an error.
export async function sendEdited() {
  const request = {
    method: byId("edit-method").value.trim().toUpperCase(),
    target: byId("edit-target").value.trim(),
    headers: headersOf(byId("edit-headers").value),
    body: bodyOf(byId("edit-body").value),
  };
  try {
    const { id } = await ask(`/api/exchanges/${edited.id}/edited`, { method: "POST", body: JSON.stringify(request) });
    closeEditor();
    return id;
  } catch (error) {
    byId("edit-error").textContent = error.message;
    return 0;
  }
}
