// Numbers, times and names as people read them.

const NUMBER = new Intl.NumberFormat("en");

/** @param {number} n @param {string} one @param {string} [many] */
export function count(n, one, many = one + "s") {
  return `${NUMBER.format(n)} ${n === 1 ? one : many}`;
}

/** 40 ms, 1.2 s, 2 min 5 s. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** How long something will still take, roughly. @param {number} seconds */
export function timeLeft(seconds) {
  if (seconds < 5) return "a few seconds left";
  if (seconds < 55) return `${Math.ceil(seconds / 5) * 5} seconds left`;
  if (seconds < 3570) return `${count(Math.round(seconds / 60) || 1, "minute")} left`;
  return `${count(Math.round(seconds / 360) / 10, "hour")} left`;
}

/** When something was, for a list. @param {string} when ISO 8601 */
export function ago(when) {
  const then = Date.parse(when);
  const minutes = (Date.now() - then) / 60_000;
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ago`;
  return new Date(then).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

/** Which of the groups of a list a time falls in. @param {string} when ISO 8601 */
export function dayOf(when) {
  const then = Date.parse(when);
  const midnight = new Date().setHours(0, 0, 0, 0);
  const days = Math.ceil((midnight - then) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days <= 7) return "Last seven days";
  if (days <= 30) return "Last thirty days";
  return "Earlier";
}

/** The file's name in a path or address. @param {string} source */
export function fileName(source) {
  return source.split(/[\\/]/).filter(Boolean).at(-1) ?? source;
}

/** Where a passage stands: heading and page. @param {{heading: string, page: number | null}} place */
export function placeOf(place) {
  const heading = place.heading.split(" > ").at(-1) ?? "";
  return [heading, place.page === null ? "" : `page ${place.page}`].filter(Boolean).join(" · ");
}

/** A conversation's name: its first question, shortened. @param {string} question */
export function titleOf(question) {
  const flat = question.replace(/\s+/g, " ").trim();
  return flat.length <= 60 ? flat : flat.slice(0, flat.lastIndexOf(" ", 60) || 60) + " …";
}
