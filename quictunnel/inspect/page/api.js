// Requests to the inspector's API, with the token of the page's address.

let token = takeToken();

function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname); // so that nobody reads it from the address bar
  }
  return given || sessionStorage.getItem("token") || "";
}

// The address of another tunnel at the same port differs in its token alone, so the browser does not load it anew.
addEventListener("hashchange", () => {
  takeToken();
  location.reload();
});

export const hasToken = () => token !== "";

// Use the token of a whole address, or a token alone.
export function unlock(text) {
  token = text.trim().split("#").pop();
  sessionStorage.setItem("token", token);
}

export function request(path, options = {}) {
  return fetch(path, { ...options, headers: { authorization: `Bearer ${token}` } });
}

export async function errorOf(response) {
  const said = await response.text();
  try {
    return JSON.parse(said).error;
  } catch {
    return said.trim() || `The inspector answered ${response.status}.`;
  }
}

export async function ask(path, options) {
  const response = await request(path, options);
  if (!response.ok) throw new Error(await errorOf(response));
  return response.json();
}

export async function blobOf(path) {
  const response = await request(path);
  if (!response.ok) throw new Error(await errorOf(response));
  return response.blob();
}

export async function download(path, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await blobOf(path));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
