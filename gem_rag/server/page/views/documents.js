// Documents in the left column: progress, what failed, folders, and a line for each document.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../elements/window-list.js";
import { documentCount, documents, failed, isBusy, readAgain } from "../documents.js";
import { set, state } from "../store.js";
import { openDocument } from "../viewing.js";
import { ago, count, fileName, timeLeft } from "../words.js";
import { chooseFiles } from "./files.js";
import { bar, fileLabel, icon, iconButton, spinner } from "./parts.js";

const ROW = 36;
const FILTER_FROM = 8; // documents, from which on a filter helps

export const documentsView = () => html`
  <section class="side-part side-documents" aria-label="Documents">
    <div class="side-title">
      <h2>Documents</h2>
      ${state.countsKnown && documentCount() > 0 ? html`<span class="side-count">${documentCount().toLocaleString("en")}</span>` : nothing}
      ${state.about?.folders?.allowed === false ? nothing : iconButton("folder-plus", "Keep a folder in step", () => set({ dialog: "folder" }))}
      ${iconButton("plus", "Add documents", chooseFiles)}
    </div>
    ${isBusy() ? progressView() : nothing} ${failedView()} ${state.folders.map(folderView)} ${filterView()} ${listView()}
  </section>`;

export function progressView() {
  const { uploading, progress } = state;
  if (uploading.total > 0) {
    const words = `Adding ${uploading.done} of ${count(uploading.total, "file")}`;
    return html`<div class="progress">${bar(uploading.done / uploading.total, words)}<p class="small quiet">${words}</p></div>`;
  }
  if (progress === null || progress.state !== "indexing") return nothing;
  const { done, total, seconds_left: left, current } = progress;
  const words = `${done.toLocaleString("en")} of ${count(total, "file")}${left === null ? "" : `, ${timeLeft(left)}`}`;
  return html`
    <div class="progress" title=${current ?? ""}>
      ${bar(total > 0 ? done / total : null, "Reading documents")}
      <p class="small quiet">${words}</p>
    </div>`;
}

const failedView = () =>
  state.counts.failed === 0 ? nothing : html`
    <button type="button" class="failed-line" @click=${() => { failed.refresh(); set({ dialog: "failed" }); }}>
      ${icon("triangle-alert")} <span>${state.counts.failed.toLocaleString("en")} could not be read</span> ${icon("chevron-right")}
    </button>`;

/** @param {Folder} folder */
function folderView(folder) {
  const looked = folder.looked === null ? "" : `, looked at ${ago(folder.looked)}`;
  const said = {
    looking: "being looked through",
    watching: `${folder.documents == null ? "kept in step" : count(folder.documents, "document")}${looked}`,
    away: "not there just now; its documents are kept",
  }[folder.state];
  return html`
    <div class="folder" title=${folder.path}>
      ${icon("folder")}
      <span class="folder-words">${fileLabel(fileName(folder.path))}<span class="small quiet">${said}</span></span>
      ${iconButton("x", `No longer keep ${fileName(folder.path)} in step`, () => set({ dialog: "remove", subject: folder }), { extra: "row-tool" })}
    </div>`;
}

const filterView = () =>
  documentCount() < FILTER_FROM && documents.q === "" ? nothing : html`
    <input type="search" class="field side-filter" placeholder="Find a document" aria-label="Find a document"
      @input=${(/** @type {InputEvent} */ event) => documents.filter(/** @type {HTMLInputElement} */ (event.target).value)}>`;

function listView() {
  const { rows, known, q } = documents;
  if (known && rows.length === 0 && q !== "") return html`<p class="small quiet side-empty">No document is named like that.</p>`;
  if (known && rows.length === 0 && !isBusy()) return html`<p class="small quiet side-empty">Nothing here yet.</p>`;
  return html`
    <window-list class="side-list" tabindex="-1" .view=${{ count: rows.length, height: ROW, row: rowView, look: (/** @type {number} */ from, /** @type {number} */ to) => documents.look(from, to) }}></window-list>`;
}

/** @param {number} index */
function rowView(index) {
  const document = documents.rows[index];
  const total = documents.rows.length;
  if (document === undefined) return html`<div class="row waiting" role="listitem" aria-setsize=${total} aria-posinset=${index + 1}></div>`;
  const { id, name, state: now, chunks, error } = document;
  const going = state.removing.has(id);
  return html`
    <div class="row ${going ? "going" : ""} ${state.open?.id === id ? "open" : ""}" role="listitem" aria-setsize=${total} aria-posinset=${index + 1}>
      <button type="button" class="row-main" ?disabled=${going} @click=${() => openDocument(document)}>
        ${stateIcon(now)} ${fileLabel(name)}
        <span class="row-note" title=${error ?? ""}>${noteOf(now, chunks)}</span>
      </button>
      ${now === "ready" || now === "failed" ? iconButton("rotate-cw", `Read ${name} again`, () => readAgain(document), { extra: "row-tool" }) : nothing}
      ${iconButton("trash-2", `Remove ${name}`, () => set({ dialog: "remove", subject: document }), { extra: "row-tool", disabled: going })}
    </div>`;
}

/** @param {DocumentState} now */
function stateIcon(now) {
  if (now === "indexing") return spinner();
  if (now === "failed") return icon("triangle-alert", "bad");
  return icon(now === "queued" ? "clock" : "file-text", "quiet");
}

/** @param {DocumentState} now @param {number} chunks */
function noteOf(now, chunks) {
  if (now === "ready") return html`${chunks.toLocaleString("en")}<span class="unseen"> ${chunks === 1 ? "passage" : "passages"}</span>`;
  return { queued: "waits", indexing: "reading", failed: "failed" }[now];
}
