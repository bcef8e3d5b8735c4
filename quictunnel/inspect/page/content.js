// Bodies of messages: JSON as a tree, forms as fields and files, images, text, and bytes as a hex dump.
import { blobOf } from "./api.js";
import { tree } from "./tree.js";
import { button, bytesOf, dump, element, size } from "./words.js";

const INDENTED_DEPTH = 32; // levels of JSON that are indented: the spaces of a deep value would fill the memory
const DUMPED = 16 * 1024; // bytes of a hex dump that are put on the page at once; a click brings all

const chosenViews = new Map(); // names of the views -> the one that was chosen last, which is kept for other bodies

// Elements for a body. `path`: the API's path of its image.
export function content(body, path) {
  const views = viewsOf(body, path);
  const names = Object.keys(views);
  if (names.length === 1) return views[names[0]]();
  const key = names.join();
  const place = element("div");
  const buttons = element("p", undefined, "views");
  const show = (name) => {
    chosenViews.set(key, name);
    for (const each of buttons.children) each.setAttribute("aria-pressed", each.textContent === name);
    place.replaceChildren(...views[name]());
  };
  for (const name of names) buttons.append(button(name, () => show(name)));
  show(chosenViews.get(key) ?? names[0]);
  return [buttons, place];
}

function viewsOf(body, path) {
  const views = {};
  if (body.image) views.Image = () => [picture(body.image, path)];
  if (body.form) views.Fields = () => fields(body.form, path);
  const json = body.text === undefined ? undefined : parsed(body.text);
  if (json !== undefined) {
    views.Tree = () => [wrapped(tree(json))];
    if (depthOf(body.text) <= INDENTED_DEPTH) {
      views.Indented = () => [element("pre", JSON.stringify(json, null, 2), "body")];
    }
  }
  if (body.text !== undefined) views["As it came"] = () => [element("pre", body.text, "body")];
  else views.Bytes = () => hex(body);
  return views;
}

function wrapped(parts) {
  const made = element("div", undefined, "body json");
  made.append(...parts);
  return made;
}

function parsed(text) {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Levels of brackets in JSON.
function depthOf(text) {
  let depth = 0;
  let most = 0;
  for (const [found] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}]/g)) {
    if (found === "[" || found === "{") most = Math.max(most, ++depth);
    else if (found.length === 1) depth--;
  }
  return most;
}

export function hex(said) {
  const bytes = bytesOf(said);
  const pre = element("pre", dump(bytes.subarray(0, DUMPED)), "bytes body");
  if (bytes.length <= DUMPED) return [pre];
  const more = button(`Show all ${size(bytes.length)}`, () => { pre.textContent = dump(bytes); more.remove(); });
  return [pre, more];
}

function picture(image, path) {
  if (image.no_view) return element("p", image.no_view, "quiet");
  const place = element("figure", undefined, "body picture");
  const caption = element("figcaption", `${image.type}, ${image.width} by ${image.height} pixels`, "quiet");
  place.append(caption);
  blobOf(path).then((blob) => {
    const shown = element("img");
    shown.alt = "The image";
    shown.src = URL.createObjectURL(blob);
    shown.addEventListener("load", () => URL.revokeObjectURL(shown.src));
    shown.addEventListener("error", () => shown.replaceWith(element("p", "The image is damaged.", "quiet")));
    place.prepend(shown);
  }).catch((error) => { caption.textContent = error.message; });
  return place;
}

function fields(form, path) {
  const parts = [];
  if (form.note) parts.push(element("p", form.note, "warning"));
  const table = element("table", undefined, "fields body");
  for (const [index, field] of form.fields.entries()) {
    const row = element("tr");
    const name = element("td", field.name);
    const value = element("td");
    if (field.filename !== null) {
      const kind = field.type ? `, ${field.type}` : "";
      value.append(element("p", `File ${field.filename || "without a name"} · ${size(field.size)}${kind}`, "quiet"));
    }
    if (field.image) value.append(picture(field.image, `${path}?field=${index}`));
    else if (field.base64 !== undefined) value.append(element("pre", dump(bytesOf(field).subarray(0, 256)), "bytes"));
    else if (field.size) value.append(element("pre", field.text));
    if (field.is_cut && !field.image) value.append(element("p", `Only the beginning of ${size(field.size)} is shown.`, "quiet"));
    row.append(name, value);
    table.append(row);
  }
  parts.push(table);
  return parts;
}
