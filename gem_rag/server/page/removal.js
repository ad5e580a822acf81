// Removing can be undone for ten seconds: only then is the server told, or when the page is left,
// or when something is asked, so that nothing is answered from what was removed.

import { ApiError } from "./api.js";
import { changed, notice, state, unnotice } from "./store.js";

const SECONDS = 10;

/** @type {Map<string, {commit: (leaving?: boolean) => Promise<unknown>, after: () => Promise<unknown>, timer: number, notice: number}>} */
const pending = new Map();

/**
 * Remove something in ten seconds.
 * @param {string} id
 * @param {string} text what the user reads
 * @param {(leaving?: boolean) => Promise<unknown>} commit tells the server
 * @param {() => Promise<unknown>} after what is shown is fetched anew
 */
export function removeLater(id, text, commit, after) {
  state.removing.add(id);
  const undo = () => {
    forget(id);
    state.removing.delete(id);
    changed();
  };
  pending.set(id, {
    commit,
    after,
    timer: window.setTimeout(() => removeNow(id), SECONDS * 1000),
    notice: notice(text, { action: "Undo", act: undo, seconds: SECONDS }),
  });
  changed();
}

/** Whatever waits to be removed is removed now. */
export async function removeAllNow() {
  await Promise.all([...pending.keys()].map(removeNow));
}

/** @param {string} id */
async function removeNow(id) {
  const removal = forget(id);
  if (removal === undefined) return;
  try {
    await removal.commit();
  } catch (error) {
    const gone = error instanceof ApiError && error.status === 404;
    if (!gone) notice(`Not removed: ${/** @type {Error} */ (error).message}`, { kind: "error" });
  }
  await removal.after();
  state.removing.delete(id);
  changed();
}

/** @param {string} id */
function forget(id) {
  const removal = pending.get(id);
  if (removal !== undefined) {
    pending.delete(id);
    clearTimeout(removal.timer);
    unnotice(removal.notice);
  }
  return removal;
}

addEventListener("pagehide", () => {
  for (const { commit } of pending.values()) commit(true).catch(() => {});
});
