// The document beside the conversation: opened at a passage, stepped through, closed again.

import * as api from "./api.js";
import { changed, drawNow, say, set, state } from "./store.js";
import { placeOf } from "./words.js";

/** Where the keyboard was before; it goes back there. @type {HTMLElement | null} */
let opener = null;

/** Show a passage in its document. @param {Citation[]} citations those one may step through @param {number} at */
export async function openCitation(citations, at) {
  const { document: id, name } = citations[at];
  remember();
  if (state.open !== null && state.open.id === id && state.open.state === "shown") {
    Object.assign(state.open, { citations, at });
    showAt();
    return;
  }
  await show(id ?? "", name, citations, at);
}

/** Show a document from its beginning. @param {Doc} document */
export async function openDocument({ id, name }) {
  remember();
  await show(id, name, [], -1);
}

function remember() {
  const active = document.activeElement;
  if (active instanceof HTMLElement && active !== document.body && !active.closest(".document")) opener = active;
}

/** @param {string} id @param {string} name @param {Citation[]} citations @param {number} at */
async function show(id, name, citations, at) {
  /** @type {OpenDocument} */
  const opened = { id, name, state: "loading", error: "", text: "", passages: [], citations, at, round: 0 };
  set({ open: opened, leftOpen: false });
  try {
    const got = id === "" ? null : await api.documents.get(id);
    if (!got?.text) throw new Error(got?.error ?? "It is not read yet.");
    Object.assign(opened, { state: "shown", text: got.text, passages: got.passages });
  } catch (error) {
    const gone = id === "" || (error instanceof api.ApiError && error.status === 404);
    opened.state = "failed";
    opened.error = gone ? "It is not among your documents any more." : /** @type {Error} */ (error).message;
  }
  if (state.open === opened) showAt();
}

/** To the next passage of the answer, or the one before. @param {1 | -1} by */
export async function step(by) {
  const { open } = state;
  if (open === null || open.citations.length === 0) return;
  const at = (open.at + by + open.citations.length) % open.citations.length;
  await openCitation(open.citations, at);
}

function showAt() {
  const { open } = state;
  if (open === null) return;
  open.round += 1;
  changed();
  const citation = open.citations[open.at];
  if (citation) say(`${open.name}, ${placeOf(citation)}: passage ${open.at + 1} of ${open.citations.length}`);
}

/** Close it; the keyboard goes back to where it was opened from. */
export function closeDocument() {
  if (state.open === null) return;
  state.open = null;
  drawNow();
  if (opener?.isConnected) opener.focus();
  else document.getElementById("question")?.focus();
}
