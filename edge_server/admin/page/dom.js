// Elements, made without HTML: whatever a visitor or a client says of itself stays text.

export function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set text where it has changed, so that screen readers and selections are left alone. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
