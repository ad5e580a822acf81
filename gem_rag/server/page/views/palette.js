// Ctrl+K: find a conversation, a document, or something to do.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import * as api from "../api.js";
import { newConversation, openConversation } from "../conversations.js";
import { changed, set } from "../store.js";
import { openDocument } from "../viewing.js";
import { chooseFiles } from "./files.js";
import { icon } from "./parts.js";

/** @typedef {{icon: string, text: string, note: string, act: () => void}} Entry */

const A_KIND = 6;

/** @type {Entry[]} */
const ACTIONS = [
  { icon: "plus", text: "New conversation", note: "", act: newConversation },
  { icon: "paperclip", text: "Add documents", note: "", act: chooseFiles },
  { icon: "folder-plus", text: "Keep a folder in step", note: "", act: () => set({ dialog: "folder" }) },
  { icon: "sliders-horizontal", text: "Settings", note: "", act: () => set({ dialog: "settings" }) },
  { icon: "keyboard", text: "Keys", note: "", act: () => set({ dialog: "keys" }) },
];

let q = "";
/** @type {Entry[]} */
let entries = [];
let at = 0;
let round = 0;

/** Begin with nothing entered. */
export function startPalette() {
  q = "";
  search();
}

async function search() {
  const mine = ++round;
  const asked = q.trim();
  const [talks, papers] = await Promise.all([
    api.conversations.list({ q: asked, limit: A_KIND }).catch(() => ({ rows: [] })),
    api.documents.list({ q: asked, limit: A_KIND }).catch(() => ({ rows: [] })),
  ]);
  if (mine !== round) return;
  const words = asked.toLowerCase();
  entries = [
    ...talks.rows.map((talk) => ({ icon: "message-square", text: talk.title, note: "Conversation", act: () => openConversation(talk.id) })),
    ...papers.rows.map((paper) => ({ icon: "file-text", text: paper.name, note: "Document", act: () => openDocument(paper) })),
    ...ACTIONS.filter(({ text }) => text.toLowerCase().includes(words)),
  ];
  at = 0;
  changed();
}

export function paletteView() {
  return html`
    <div class="palette-input">
      ${icon("search", "quiet")}
      <input role="combobox" aria-expanded="true" aria-controls="found" aria-label="Find conversations and documents" autofocus
        aria-activedescendant=${entries.length > 0 ? `found-${at}` : nothing} placeholder="Find conversations and documents"
        .value=${q} @input=${typed} @keydown=${keys}>
      <kbd>Esc</kbd>
    </div>
    <ul id="found" class="found" role="listbox" aria-label="Found">
      ${entries.map((entry, i) => html`
        <li id=${`found-${i}`} role="option" aria-selected=${i === at} class=${i === at ? "chosen" : ""} @click=${() => take(entry)} @pointermove=${() => point(i)}>
          ${icon(entry.icon)}<span class="found-text" dir="auto">${entry.text}</span><span class="small quiet">${entry.note}</span>
        </li>`)}
    </ul>
    ${entries.length === 0 ? html`<p class="quiet found-none">Nothing is named like that.</p>` : nothing}`;
}

/** @param {Event} event */
function typed(event) {
  q = /** @type {HTMLInputElement} */ (event.target).value;
  search();
}

/** @param {KeyboardEvent} event */
function keys(event) {
  if (event.key === "Enter" && entries[at]) {
    event.preventDefault();
    take(entries[at]);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    point((at + (event.key === "ArrowDown" ? 1 : -1) + entries.length) % (entries.length || 1));
    requestAnimationFrame(() => document.getElementById(`found-${at}`)?.scrollIntoView({ block: "nearest" }));
  }
}

/** @param {number} index */
function point(index) {
  if (index === at) return;
  at = index;
  changed();
}

/** @param {Entry} entry */
function take(entry) {
  set({ dialog: "" });
  // Closing gives the keyboard back to where it was; what is chosen may take it from there.
  requestAnimationFrame(entry.act);
}
