// Formats values for people. Nothing here touches the document.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function bytes(value) {
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.5 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export const rate = (value) => `${bytes(value)}/s`;

export const number = (value) => value.toLocaleString("en");

export function milliseconds(seconds) {
  const value = seconds * 1000;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}

export function until(moment, now) {
  if (moment === null) return "none";
  const days = (moment - now) / 86400;
  if (days > 3650) return "years";
  return days >= 2 ? `${Math.floor(days)} days` : moment <= now ? "expired" : duration(moment - now);
}

export const clock = (moment) => new Date(moment * 1000).toLocaleTimeString("en-GB");

export const percent = (part) => (part === null ? "–" : `${(part * 100).toFixed(part && part < 0.1 ? 2 : 1)} %`);

const two = (value) => String(value).padStart(2, "0");

/** A day and a time, in the time zone of the browser as all times of the page. */
export function moment(at) {
  const time = new Date(at * 1000);
  const day = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join("-");
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}`;
}

/** The owner of something: the note of its token, or else the key. */
export const owner = (one) => one.owner_name || one.owner || "–";

export const host = (address) => (address.includes(":") ? `[${address}]` : address);

/** A list of names, or null for all. */
export const names = (list) => (list === null ? "all" : list.join(", ") || "none");

export const limit = (value) => (value === null ? "all" : number(value));

/** A duration that may be short. */
export const elapsed = (seconds) => (seconds < 1 ? milliseconds(seconds) : seconds < 10 ? `${seconds.toFixed(1)} s` : duration(seconds));
