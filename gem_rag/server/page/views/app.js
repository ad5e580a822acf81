// The whole page: left column, conversation, document, and what lies over them.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import * as api from "../api.js";
import { isAnswering, newConversation } from "../conversations.js";
import { set, state, unnotice } from "../store.js";
import { closeDocument } from "../viewing.js";
import { turnsView } from "./answer.js";
import { composerView, newestView } from "./composer.js";
import { dialogView } from "./dialogs.js";
import { documentView } from "./document.js";
import { dropView } from "./files.js";
import { bar, icon, iconButton, spinner } from "./parts.js";
import { railView, sidebarView } from "./sidebar.js";
import { welcomeView } from "./welcome.js";

export const appView = () => html`
  <a class="skip" href="#question" @click=${skip}>To where you ask</a>
  <div class="frame ${state.leftFolded ? "folded" : ""} ${state.open ? "with-document" : ""}">
    ${sidebarView()} ${railView()}
    <div class="shade ${state.leftOpen ? "shown" : ""}" @click=${() => set({ leftOpen: false })}></div>
    <main class="main">
      ${bannerView()} ${headView()}
      <div class="scroll" id="scroll" @scroll=${scrolled}>
        <div class="column">${contentView()}</div>
      </div>
      ${newestView()}
      <div class="foot"><div class="column">${composerView()}</div></div>
    </main>
    ${state.open ? html`<div class="document-shade" @click=${closeDocument}></div>${documentView(state.open)}` : nothing}
  </div>
  ${dialogView()} ${noticesView()} ${state.dragging ? dropView() : nothing}
  <div class="unseen" role="status" aria-live="polite">${state.said}</div>`;

function contentView() {
  if (state.opening) return html`<p class="status">${spinner()} Opening…</p>`;
  return state.conversation.turns.length === 0 ? welcomeView() : html`<div class="turns">${turnsView()}</div>`;
}

function bannerView() {
  if (state.server === "gone") {
    return html`
      <div class="banner" role="alert">${icon("wifi-off")}
        <span><strong>The server is away.</strong> Trying again by itself; nothing you typed is lost.</span></div>`;
  }
  if (state.server === "loading" && state.conversation.turns.length > 0) {
    return html`<div class="loading">${bar(null, "Loading the model")}<p class="small quiet">The model is being loaded.</p></div>`;
  }
  return nothing;
}

function headView() {
  const { id, title, turns } = state.conversation;
  return html`
    <header class="head">
      ${iconButton("menu", "Conversations and documents", () => set({ leftOpen: true }), { extra: "menu-button" })}
      <h1 class="head-title" dir="auto" title=${title}>${title || "New conversation"}</h1>
      ${id === "" || turns.length === 0 ? nothing : exportView(id)}
      ${iconButton("plus", "New conversation", newConversation, { extra: "new-button" })}
    </header>`;
}

/** @param {string} id */
const exportView = (id) => html`
  <details class="menu">
    <summary class="icon-button" aria-label="Keep this conversation as a file" title="Keep as a file">${icon("download")}</summary>
    <div class="menu-list">
      <a href=${api.conversations.exported(id, "markdown")} download @click=${closeMenu}>Markdown</a>
      <a href=${api.conversations.exported(id, "json")} download @click=${closeMenu}>JSON</a>
    </div>
  </details>`;

/** @param {Event} event */
function closeMenu(event) {
  const menu = /** @type {Element} */ (event.target).closest("details");
  if (menu) menu.open = false;
}

const noticesView = () => html`
  <div class="notices">
    ${state.notices.map(({ id, text, kind, action, act }) => html`
      <div class="notice ${kind}">
        <span>${text}</span>
        ${act === null ? nothing : html`<button type="button" class="notice-action" @click=${act}>${action}</button>`}
        ${iconButton("x", "Close this line", () => unnotice(id))}
      </div>`)}
  </div>`;

/** @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("question")?.focus();
}

let lastTop = 0;

/** The view follows what is written unless the user looked up. @param {Event} event */
function scrolled(event) {
  const box = /** @type {HTMLElement} */ (event.target);
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
  if (atEnd !== state.atEnd && (atEnd || box.scrollTop < lastTop)) set({ atEnd });
  lastTop = box.scrollTop;
}

/** Called after each drawing. */
export function followEnd() {
  const box = document.getElementById("scroll");
  if (box !== null && state.atEnd && state.conversation.turns.length > 0) box.scrollTop = box.scrollHeight;
}

/** Something on the page tells the time: it is drawn again each second. */
export const tellsTime = () =>
  isAnswering(state.conversation) && state.conversation.turns.some(({ answer }) => answer.state === "queued");
