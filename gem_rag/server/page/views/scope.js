// Which documents are answered from.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../elements/window-list.js";
import { documents } from "../documents.js";
import { choose } from "../settings.js";
import { changed, state } from "../store.js";
import { PagedList } from "../paged.js";
import * as api from "../api.js";
import { fileLabel } from "./parts.js";

/** Its own list, so that looking here does not filter the column. @type {PagedList<Doc>} */
const choices = new PagedList((query) => api.documents.list(query));

export function scopeView() {
  const { sources } = state.settings;
  if (!choices.known) choices.refresh();
  return html`
    <div class="scope-list">
      <label class="choice"><input type="radio" name="scope" .checked=${sources.length === 0} @change=${() => choose({ sources: [] })}>
        <span>All documents</span></label>
      <p class="small quiet">or only these:</p>
      <input type="search" class="field" placeholder="Find a document" aria-label="Find a document"
        @input=${(/** @type {InputEvent} */ event) => choices.filter(/** @type {HTMLInputElement} */ (event.target).value)}>
      <window-list class="scope-rows" tabindex="-1" .view=${{ count: choices.rows.length, height: 36, row, look: (/** @type {number} */ from, /** @type {number} */ to) => choices.look(from, to) }}></window-list>
      ${choices.known && choices.rows.length === 0 ? html`<p class="small quiet">${documents.rows.length === 0 ? "There are no documents yet." : "No document is named like that."}</p>` : nothing}
    </div>`;
}

/** @param {number} index */
function row(index) {
  const document = choices.rows[index];
  if (document === undefined) return html`<div class="row waiting" role="listitem"></div>`;
  const { source, name } = document;
  const chosen = state.settings.sources.includes(source);
  const toggle = () => {
    const others = state.settings.sources.filter((each) => each !== source);
    choose({ sources: chosen ? others : [...others, source] });
    changed();
  };
  return html`
    <div class="row" role="listitem"><label class="choice"><input type="checkbox" .checked=${chosen} @change=${toggle}>${fileLabel(name)}</label></div>`;
}

/** The list is asked for anew when the dialog opens. */
export const refreshScope = () => choices.refresh();
