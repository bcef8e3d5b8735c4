// The API and its events. The token is sent in a header that only this page's script adds. It is stored for this tab
// and this origin (sessionStorage), not in a cookie, because cookies ignore ports.

const KEY = "quictunnel-token";
const API = "/api/v1";
const [SOON, LATE] = [500, 5000]; // milliseconds before the next try
const SILENT = 5000; // milliseconds without an event after which the connection is closed

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
  /** Take the token from the fragment of the URL and remove it there. */
  fromAddress() {
    const found = new URLSearchParams(location.hash.slice(1)).get("token");
    if (found) {
      this.set(found);
      history.replaceState(null, "", location.pathname);
    }
  },
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function asked(path, { body, ...options } = {}) {
  const headers = { Authorization: `Bearer ${token.get()}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return fetch(API + path, {
    ...options,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "omit",
    cache: "no-store",
    redirect: "error",
  });
}

/**
 * Return the response as JSON. `body` is sent as JSON. Throws Refused with the edge's message, or TypeError when it
 * cannot be reached.
 */
export async function ask(path, method = "GET", body = undefined) {
  const response = await asked(path, { method, body });
  const answer = await response.json();
  if (!response.ok) throw new Refused(response.status, answer.message);
  return answer;
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Follow the events until stopped: `onBegin` after each connect, `onSnapshot`, `onLost`, `onRefused`. */
export class Feed {
  constructor(events) {
    this.events = events;
    this.stopped = new AbortController();
  }

  stop() {
    this.stopped.abort();
  }

  async run() {
    let wait = SOON;
    while (!this.stopped.signal.aborted) {
      try {
        await this.follow(() => (wait = SOON));
      } catch (error) {
        if (this.stopped.signal.aborted) return;
        if (error instanceof Refused && (error.status === 401 || error.status === 429)) {
          this.events.onRefused(error);
          return;
        }
      }
      if (this.stopped.signal.aborted) return;
      this.events.onLost();
      await pause(wait);
      wait = Math.min(LATE, wait * 2);
    }
  }

  async follow(onNews) {
    const silence = new AbortController();
    const later = () => setTimeout(() => silence.abort(), SILENT);
    let timer = later();
    try {
      const response = await asked("/events", { signal: AbortSignal.any([silence.signal, this.stopped.signal]) });
      if (!response.ok) throw new Refused(response.status, (await response.json()).message);
      await this.events.onBegin();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done || this.stopped.signal.aborted) return;
        clearTimeout(timer);
        timer = later();
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        // Of several events at once, only the last one is current.
        const newest = parts.pop()?.split("\n").find((line) => line.startsWith("data: "));
        if (newest) {
          onNews();
          this.events.onSnapshot(JSON.parse(newest.slice("data: ".length)));
        }
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
