// Creates elements without HTML: input from visitors and clients stays text.

export function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set the text only if it has changed, so that screen readers and selections are not disturbed. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
