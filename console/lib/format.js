// Texts for numbers and times.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const precise = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });

/** @param {number | null | undefined} number */
export const count = (number) => (number == null ? '–' : number >= 100_000 ? short.format(number) : whole.format(number));
/** @param {number | null | undefined} number */
export const rate = (number) => (number == null ? '–' : number >= 1000 ? short.format(number) : number >= 10 ? whole.format(number) : precise.format(number));
const significant = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 4 });
/** A number of a plot, of any size. @param {number} value */
export const number = (value) => significant.format(value);
/** @param {number | null | undefined} share */
export const percent = (share) => (share == null ? '–' : `${precise.format(share * 100)}\u00a0%`);

/** @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms == null) return '–';
  if (ms < 1000) return `${ms < 10 ? precise.format(ms) : whole.format(ms)}\u00a0ms`;
  if (ms < 60_000) return `${precise.format(ms / 1000)}\u00a0s`;
  if (ms < 3_600_000) return `${whole.format(ms / 60_000)}\u00a0min`;
  if (ms < 172_800_000) return `${whole.format(ms / 3_600_000)}\u00a0h`;
  return `${whole.format(ms / 86_400_000)}\u00a0days`;
}

/** @param {number} bytes */
export const bytes = (bytes) => `${short.format(bytes)}B`.replace(/(\d)(\D?B)$/, '$1 $2').replace('KB', 'kB');

/** Local date and time. @param {string | number | null | undefined} text */
export function time(text) {
  if (!text) return '–';
  const date = new Date(text);
  const two = (number) => String(number).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** Local time with milliseconds. @param {string} text */
export const clock = (text) => `${time(text).slice(11)}.${String(new Date(text).getMilliseconds()).padStart(3, '0')}`;

/** @param {string | null | undefined} text */
export const ago = (text) => (text ? `${duration(Math.max(1, Math.round((Date.now() - Date.parse(text)) / 1000)) * 1000)} ago` : 'never');

/** A value as it is shown in a table. @param {any} value */
export const value = (value) => (typeof value === 'string' ? value : JSON.stringify(value) ?? '–');

/** Name of an actor without the id of its token. @param {string} actor */
export const who = (actor) => actor.replace(/^token:[0-9a-f]{16}:/, '').replace(/^user:/, '').replace(/ \(token:[0-9a-f]{16}:(.*)\)$/, ' · $1');

/** Value of an input of type datetime-local as RFC 3339. @param {string} local */
export const rfc3339 = (local) => (local ? new Date(local).toISOString() : '');

/** RFC 3339 as the value of an input of type datetime-local. @param {Date} date */
export const local = (date) => new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);

/** Members of an object in the order of their names, so that two documents can be compared. @param {any} value @returns {any} */
export function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (!value || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

/** @param {any} value */
export const pretty = (value) => JSON.stringify(value, null, 2) ?? '';
