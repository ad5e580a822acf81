// The document beside the conversation, at its passage.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../elements/document-text.js";
import { sentenceOf } from "../characters.js";
import { closeDocument, step } from "../viewing.js";
import { placeOf } from "../words.js";
import { fileLabel, icon, iconButton, spinner } from "./parts.js";

/** @param {OpenDocument} open */
export function documentView(open) {
  const citation = open.citations[open.at];
  return html`
    <aside class="document" aria-label="Document">
      <div class="grip" aria-hidden="true" @touchstart=${swipe}></div>
      <header class="document-head">
        ${icon("file-text", "quiet")}
        <div class="document-title">
          <h2>${fileLabel(open.name)}</h2>
          ${citation && placeOf(citation) ? html`<span class="small quiet" dir="auto">${placeOf(citation)}</span>` : nothing}
        </div>
        ${open.citations.length > 1 ? stepsView(open) : nothing}
        ${iconButton("x", "Close the document", closeDocument)}
      </header>
      ${bodyView(open, citation)}
    </aside>`;
}

/** @param {OpenDocument} open */
const stepsView = (open) => html`
  <div class="steps">
    ${iconButton("chevron-left", "Passage before", () => step(-1))}
    <span class="small quiet">${open.at + 1} / ${open.citations.length}</span>
    ${iconButton("chevron-right", "Next passage", () => step(1))}
  </div>`;

/** @param {OpenDocument} open @param {Citation | undefined} citation */
function bodyView(open, citation) {
  if (open.state === "loading") return html`<p class="status document-status">${spinner()} Opening…</p>`;
  if (open.state === "shown") {
    return html`<document-text tabindex="0" role="document" aria-label=${open.name} .shown=${{ ...open }}></document-text>`;
  }
  return html`
    <div class="document-failed">
      ${icon("circle-alert")}
      <p>This document cannot be shown.</p>
      <p class="small quiet">${open.error}</p>
      ${citation === undefined ? nothing : html`
        <p class="small quiet">This is the passage as it was when you asked:</p>
        <blockquote dir="auto" aria-label="Passage">${citation.text.trim() || sentenceOf(citation)}</blockquote>`}
    </div>`;
}

/** Close the sheet by pulling it down. @param {TouchEvent} event */
function swipe(event) {
  const grip = /** @type {HTMLElement} */ (event.currentTarget);
  const sheet = /** @type {HTMLElement} */ (grip.closest(".document"));
  const from = event.touches[0].clientY;
  let by = 0;
  /** @param {TouchEvent} move */
  const pull = (move) => {
    by = Math.max(0, move.touches[0].clientY - from);
    sheet.style.transform = `translateY(${by}px)`;
  };
  const end = () => {
    grip.removeEventListener("touchmove", pull);
    sheet.style.transform = "";
    if (by > 80) closeDocument();
  };
  grip.addEventListener("touchmove", pull, { passive: true });
  grip.addEventListener("touchend", end, { once: true });
  grip.addEventListener("touchcancel", end, { once: true });
}

