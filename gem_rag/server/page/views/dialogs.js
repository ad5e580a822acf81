// One dialog at a time: settings, keys, the server's key, a folder, which documents, removing.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { keyed } from "../vendor/lit-html/directives/keyed.js";
import * as api from "../api.js";
import { removeConversation } from "../conversations.js";
import { failed, removeDocument, removeFolder, tryFailedAgain } from "../documents.js";
import { KEYS } from "../keyboard.js";
import { unlock } from "../server.js";
import { changed, set, state } from "../store.js";
import { count, fileName } from "../words.js";
import { paletteView, startPalette } from "./palette.js";
import { iconButton, spinner } from "./parts.js";
import { refreshScope, scopeView } from "./scope.js";
import { settingsView } from "./settings.js";

/** What the server said against what was entered; and whether it is asked just now. */
let problem = "";
let asking = false;

/** @type {Record<Exclude<DialogName, "">, {title: string, view: () => unknown}>} */
const DIALOGS = {
  settings: { title: "Settings", view: settingsView },
  keys: { title: "Keys", view: keysView },
  key: { title: "This server wants a key", view: keyView },
  folder: { title: "Keep a folder in step", view: folderView },
  scope: { title: "Answer from", view: scopeView },
  remove: { title: "Remove", view: removeView },
  failed: { title: "Could not be read", view: failedView },
  palette: { title: "Find", view: paletteView },
};

export const dialogView = () => html`
  <dialog id="dialog" class=${`dialog ${state.dialog}`} aria-labelledby="dialog-title" @close=${closed} @click=${outside} @cancel=${cancelled}>
    ${state.dialog === "" ? nothing : keyed(state.dialog, insideView(state.dialog))}
  </dialog>`;

/** @param {Exclude<DialogName, "">} name */
const insideView = (name) => html`
  <div class="dialog-inside">
    <header class=${name === "palette" ? "unseen" : "dialog-head"}>
      <h2 id="dialog-title">${titleOf(name)}</h2>
      ${name === "key" || name === "palette" ? nothing : iconButton("x", "Close", close)}
    </header>
    ${DIALOGS[name].view()}
  </div>`;

/** @param {Exclude<DialogName, "">} name */
function titleOf(name) {
  if (name !== "remove") return DIALOGS[name].title;
  return state.subject !== null && "path" in state.subject ? "No longer keep this folder in step" : "Remove";
}

/** Show the dialog that the state names, or none. Called after each drawing. */
export function syncDialog() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));
  if (state.dialog !== "" && !dialog.open) {
    if (state.dialog === "palette") startPalette();
    if (state.dialog === "scope") refreshScope();
    dialog.showModal();
  }
  if (state.dialog === "" && dialog.open) dialog.close();
}

const close = () => set({ dialog: "" });

function closed() {
  problem = "";
  if (state.dialog !== "") close();
}

/** @param {Event} event */
function cancelled(event) {
  if (state.dialog === "key") event.preventDefault(); // nothing works without it
}

/** @param {Event} event */
function outside(event) {
  if (event.target === event.currentTarget && state.dialog !== "key") close();
}

function keysView() {
  return html`
    <table class="keys">
      <tbody>
        ${KEYS.map(({ keys, does }) => html`<tr><td>${keys.map((key) => html`<kbd>${key}</kbd> `)}</td><th scope="row">${does}</th></tr>`)}
      </tbody>
    </table>`;
}

/** A form with one field, whose value is given to the server. @param {(value: string) => Promise<unknown>} give */
function given(give) {
  return async (/** @type {Event} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const value = String(new FormData(form).get("value")).trim();
    if (value === "" || asking) return;
    asking = true;
    problem = "";
    changed();
    try {
      await give(value);
      close();
    } catch (error) {
      problem = /** @type {Error} */ (error).message;
    }
    asking = false;
    changed();
  };
}

const problemView = () => (problem ? html`<p class="bad small" role="alert">${problem}</p>` : nothing);

function keyView() {
  return html`
    <form @submit=${given(unlock)}>
      <p class="quiet">It was set, or printed, where <code>gem-rag serve</code> was started. You are asked once in this browser.</p>
      <input class="field" type="password" name="value" aria-label="Key" autocomplete="current-password" autofocus required>
      ${problemView()}
      <div class="dialog-row"><button class="primary" ?disabled=${asking}>${asking ? spinner() : nothing} Unlock</button></div>
    </form>`;
}

function folderView() {
  const roots = state.about?.folders?.roots ?? [];
  const below = roots.length > 0 ? ` It has to lie below ${roots.join(" or ")}.` : "";
  return html`
    <form @submit=${given(api.folders.add)}>
      <p class="quiet">Its files are read now, and again whenever they change: what is new is added, what is gone is removed.${below}</p>
      <input class="field" name="value" aria-label="Folder on this computer" placeholder="/home/me/notes" autofocus required spellcheck="false">
      ${problemView()}
      <div class="dialog-row">
        <button type="button" class="button" @click=${close}>Cancel</button>
        <button class="primary" ?disabled=${asking}>${asking ? spinner() : nothing} Add folder</button>
      </div>
    </form>`;
}

function removeView() {
  const { subject } = state;
  if (subject === null) return nothing;
  const { words, act } = removalOf(subject);
  const go = () => {
    close();
    act();
  };
  return html`
    <p class="remove-words">${words}</p>
    <div class="dialog-row">
      <button type="button" class="button" autofocus @click=${close}>Keep</button>
      <button type="button" class="primary danger" @click=${go}>Remove</button>
    </div>`;
}

/** What goes. @param {Doc | Folder | ConversationSummary} subject */
function removalOf(subject) {
  if ("path" in subject) {
    const words = `“${fileName(subject.path)}” is no longer looked at, and its documents can no longer be asked. The files stay where they are.`;
    return { words, act: () => removeFolder(subject) };
  }
  if ("chunks" in subject) {
    const what = subject.chunks > 0 ? ` with its ${count(subject.chunks, "passage")}` : "";
    const file = subject.folder === null ? "The copy that was added here is deleted." : "The file stays where it is, and is left out from now on.";
    return { words: `“${subject.name}”${what} goes, and can no longer be asked. ${file}`, act: () => removeDocument(subject) };
  }
  return { words: `The conversation “${subject.title}” goes, with all its questions and answers.`, act: () => removeConversation(subject) };
}

function failedView() {
  if (failed.known && failed.rows.length === 0) return html`<p class="quiet">All documents are read.</p>`;
  return html`
    <ul class="failed-list">
      ${failed.rows.slice(0, 100).map((document) => (document === undefined ? nothing : html`
        <li><strong>${document.name}</strong><span class="small quiet">${document.error}</span></li>`))}
    </ul>
    ${failed.rows.length > 100 ? html`<p class="small quiet">and ${count(failed.rows.length - 100, "other")}</p>` : nothing}
    <div class="dialog-row">
      <button type="button" class="primary" @click=${() => { close(); tryFailedAgain(); }}>Try again</button>
    </div>`;
}
