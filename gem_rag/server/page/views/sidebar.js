// The left column: conversations above, documents below.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../elements/window-list.js";
import { conversations, newConversation, openConversation, rename } from "../conversations.js";
import { chooseTheme, fold, theme } from "../settings.js";
import { changed, drawNow, set, state } from "../store.js";
import { dayOf } from "../words.js";
import { documentsView } from "./documents.js";
import { chooseFiles } from "./files.js";
import { icon, iconButton } from "./parts.js";

const ROW = 36;
/** @type {Record<string, {icon: string, words: string, next: string}>} */
const LOOKS = {
  system: { icon: "sun-moon", words: "as the system", next: "light" },
  light: { icon: "sun", words: "light", next: "dark" },
  dark: { icon: "moon", words: "dark", next: "system" },
};
/** The conversation whose name is being written. */
let naming = "";

export const sidebarView = () => html`
  <nav class="side ${state.leftOpen ? "over" : ""}" id="side" aria-label="Conversations and documents">
    <div class="side-head">
      <span class="brand">${icon("gem")}<span>gem-rag</span></span>
      ${iconButton("panel-left", "Fold this column", fold, { extra: "fold" })}
      ${iconButton("x", "Close", () => set({ leftOpen: false }), { extra: "side-close" })}
    </div>
    <div class="side-top">
      <button type="button" class="side-button" @click=${newConversation}>${icon("plus")}<span>New conversation</span></button>
      <button type="button" class="side-button" @click=${() => set({ dialog: "palette" })}>
        ${icon("search")}<span>Find</span><kbd>Ctrl K</kbd></button>
    </div>
    <section class="side-part side-conversations" aria-label="Conversations">
      <div class="side-title"><h2>Conversations</h2></div>
      ${conversationsView()}
    </section>
    ${documentsView()}
    <div class="side-foot">
      <button type="button" class="side-button" @click=${() => set({ dialog: "settings" })}>${icon("sliders-horizontal")}<span>Settings</span></button>
      ${iconButton(LOOKS[theme()].icon, `Look: ${LOOKS[theme()].words}`, () => chooseTheme(LOOKS[theme()].next))}
      ${iconButton("keyboard", "Keys", () => set({ dialog: "keys" }))}
    </div>
  </nav>`;

/** The column folded to icons. */
export const railView = () => html`
  <nav class="rail" aria-label="Folded column">
    ${iconButton("panel-left", "Open the column", () => (matchMedia("(min-width: 1100px)").matches ? fold() : set({ leftOpen: true })))}
    ${iconButton("plus", "New conversation", newConversation)}
    ${iconButton("search", "Find", () => set({ dialog: "palette" }))}
    ${iconButton("paperclip", "Add documents", chooseFiles)}
    <span class="rail-gap"></span>
    ${iconButton("sliders-horizontal", "Settings", () => set({ dialog: "settings" }))}
  </nav>`;

function conversationsView() {
  if (conversations.known && conversations.rows.length === 0) {
    return html`<p class="small quiet side-empty">Your questions will be kept here.</p>`;
  }
  const rows = withDays(conversations.rows);
  return html`
    <window-list class="side-list" tabindex="-1" .view=${{
      count: rows.length,
      height: ROW,
      row: (/** @type {number} */ i) => rowView(rows[i], i, rows.length),
      // Headings stand between, so that a row's conversation comes a few places earlier.
      look: (/** @type {number} */ from, /** @type {number} */ to) => conversations.look(Math.max(0, from - 8), to),
    }}></window-list>`;
}

/** Rows with a heading before each day. @param {(ConversationSummary | undefined)[]} all */
function withDays(all) {
  /** @type {(ConversationSummary | string | undefined)[]} */
  const rows = [];
  let day = "";
  for (const conversation of Array.from(all)) {
    if (conversation !== undefined && dayOf(conversation.updated) !== day) {
      day = dayOf(conversation.updated);
      rows.push(day);
    }
    rows.push(conversation);
  }
  return rows;
}

/** @param {ConversationSummary | string | undefined} row @param {number} index @param {number} total */
function rowView(row, index, total) {
  if (row === undefined) return html`<div class="row waiting" role="listitem"></div>`;
  if (typeof row === "string") return html`<div class="row day" role="listitem">${row}</div>`;
  const here = row.id === state.conversation.id;
  const title = row.title || (here && state.conversation.title) || "Untitled";
  const going = state.removing.has(row.id);
  if (naming === row.id) return nameView(row);
  return html`
    <div class="row ${here ? "open" : ""} ${going ? "going" : ""}" role="listitem" aria-setsize=${total} aria-posinset=${index + 1}>
      <button type="button" class="row-main" dir="auto" title=${title} aria-current=${here ? "page" : nothing} ?disabled=${going}
        @click=${() => openConversation(row.id)}><span class="row-title">${title}</span></button>
      ${iconButton("pencil", `Rename ${title}`, () => startNaming(row.id), { extra: "row-tool", disabled: going })}
      ${iconButton("trash-2", `Remove ${title}`, () => set({ dialog: "remove", subject: row }), { extra: "row-tool", disabled: going })}
    </div>`;
}

/** @param {ConversationSummary} row */
function nameView(row) {
  const end = (/** @type {boolean} */ keep) => (/** @type {Event} */ event) => {
    if (naming !== row.id) return;
    naming = "";
    if (keep) rename(row, /** @type {HTMLInputElement} */ (event.target).value);
    changed();
  };
  /** @param {KeyboardEvent} event */
  const keys = (event) => {
    if (event.key === "Enter") end(true)(event);
    if (event.key === "Escape") {
      event.stopPropagation();
      end(false)(event);
    }
  };
  return html`
    <div class="row" role="listitem">
      <input class="field row-name" aria-label="Name of the conversation" .value=${row.title} @keydown=${keys} @blur=${end(true)}>
    </div>`;
}

/** @param {string} id */
function startNaming(id) {
  naming = id;
  drawNow();
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector(".row-name"));
  field?.focus();
  field?.select();
}
