// Documents: what is there, what is added, what goes.

import * as api from "./api.js";
import { PagedList } from "./paged.js";
import { removeLater } from "./removal.js";
import { changed, notice, set, state } from "./store.js";
import { count } from "./words.js";

const FILES_AT_ONCE = 20;

/** @type {PagedList<Doc>} */
export const documents = new PagedList((query) => api.documents.list(query));
/** @type {PagedList<Doc>} */
export const failed = new PagedList((query) => api.documents.list({ ...query, state: "failed" }));

/**
 * Send files to the server, a few at a time.
 * @param {{file: File, name: string}[]} files
 */
export async function addFiles(files) {
  if (files.length === 0) return;
  state.uploading.total += files.length;
  changed();
  const refused = [];
  let error = "";
  for (const batch of batches(files)) {
    try {
      refused.push(...(await api.documents.add(batch)).refused);
    } catch (problem) {
      error = /** @type {Error} */ (problem).message;
    }
    state.uploading.done += batch.length;
    changed();
  }
  if (state.uploading.done === state.uploading.total) state.uploading = { done: 0, total: 0 };
  tell(refused, error);
  documents.refresh();
  changed();
}

/** @param {{name: string, error: any}[]} refused @param {string} error */
function tell(refused, error) {
  if (error) notice(`Not added: ${error}`, { kind: "error", seconds: 10 });
  else if (refused.length > 0) {
    const { name, error: first } = refused[0];
    const others = refused.length > 1 ? `, and ${count(refused.length - 1, "other")}` : "";
    notice(`Not added: ${name}${others}. ${first?.message ?? first}`, { kind: "error", seconds: 10 });
  }
}

/** @template T @param {T[]} all */
function* batches(all) {
  for (let i = 0; i < all.length; i += FILES_AT_ONCE) yield all.slice(i, i + FILES_AT_ONCE);
}

/**
 * The files of what was dropped, those in folders among it.
 * @param {DataTransfer} dropped
 * @returns {Promise<{file: File, name: string}[]>}
 */
export async function filesOf(dropped) {
  const entries = [...dropped.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (entries.some((entry) => entry === null)) {
    return [...dropped.files].map((file) => ({ file, name: file.name }));
  }
  return (await Promise.all(entries.map((entry) => within(/** @type {FileSystemEntry} */ (entry))))).flat();
}

/** @param {FileSystemEntry} entry @returns {Promise<{file: File, name: string}[]>} */
async function within(entry) {
  if (entry.name.startsWith(".")) return [];
  if (entry.isFile) {
    const file = await new Promise((take, fail) => /** @type {any} */ (entry).file(take, fail));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  const found = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((take, fail) => reader.readEntries(take, fail));
    if (some.length === 0) return found; // it gives a hundred at a time
    for (const each of some) found.push(...(await within(each)));
  }
}

/** @param {Doc} document */
export function removeDocument({ id, name }) {
  removeLater(
    id,
    `“${name}” is removed.`,
    (leaving) => api.documents.remove(id, leaving),
    () => documents.refresh(),
  );
  if (state.open?.id === id) set({ open: null });
}

/** @param {Promise<unknown>} done what was asked of the server @param {string} problem */
async function told(done, problem) {
  try {
    await done;
  } catch (error) {
    notice(`${problem}: ${/** @type {Error} */ (error).message}`, { kind: "error" });
  }
  documents.refresh();
}

/** @param {Doc} document */
export const readAgain = ({ id }) => told(api.documents.again(id), "Not read again");

export const tryFailedAgain = () => told(api.documents.failedAgain(), "Not tried again");

/** @param {Folder} folder */
export const removeFolder = ({ id }) => told(api.folders.remove(id), "Not removed");

/** Whether something is being read, or on its way to be. */
export const isBusy = () => state.progress?.state === "indexing" || state.uploading.total > 0;

/** How many documents there are, those that are still to be read among them. */
export const documentCount = () => state.counts.ready + state.counts.queued + state.counts.failed;
