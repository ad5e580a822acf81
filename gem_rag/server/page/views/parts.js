// What several views are made of.

import { html, nothing } from "../vendor/lit-html/lit-html.js";

/** @param {string} name a symbol of icons.svg */
export const icon = (name, extra = "") =>
  html`<svg class="icon ${extra}" aria-hidden="true"><use href="icons.svg#${name}"></use></svg>`;

/** @param {string} name icon @param {string} label @param {(event: Event) => void} act @param {{extra?: string, disabled?: boolean}} [options] */
export const iconButton = (name, label, act, { extra = "", disabled = false } = {}) =>
  html`<button type="button" class="icon-button ${extra}" aria-label=${label} title=${label} ?disabled=${disabled} @click=${act}>${icon(name)}</button>`;

export const spinner = () => icon("loader-circle", "spin");

const TAIL = 10; // ".md" and what stands before it

/** A name that loses its middle where there is no room for all of it; it is heard whole. @param {string} name */
export const fileLabel = (name) => html`
  <span class="name" dir="auto" title=${name}>
    <span class="unseen">${name}</span>
    <span class="name-head" aria-hidden="true">${name.slice(0, -TAIL)}</span>
    <span class="name-tail" aria-hidden="true">${name.slice(-TAIL)}</span>
  </span>`;

/** @param {number | null} done 0 to 1; null where that is not known @param {string} label */
export const bar = (done, label) => html`
  <div class="bar" role="progressbar" aria-label=${label} aria-valuenow=${done === null ? nothing : Math.round(done * 100)}>
    <div class="bar-done ${done === null ? "unknown" : ""}" .style=${done === null ? "" : `width: ${(done * 100).toFixed(1)}%`}></div>
  </div>`;
