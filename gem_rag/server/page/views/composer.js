// Where one asks.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { live } from "../vendor/lit-html/directives/live.js";
import { ask, stop } from "../asking.js";
import { isAnswering } from "../conversations.js";
import { set, state } from "../store.js";
import { count } from "../words.js";
import { chooseFiles } from "./files.js";
import { icon, iconButton } from "./parts.js";

export function composerView() {
  const answering = isAnswering(state.conversation);
  const { sources } = state.settings;
  return html`
    <form class="composer" @submit=${submit}>
      <textarea id="question" dir="auto" rows="1" autofocus placeholder=${placeholder()} aria-label="Your question"
        .value=${live(state.draft)} @input=${typed} @keydown=${keys}></textarea>
      <div class="composer-row">
        ${iconButton("paperclip", "Add documents", chooseFiles)}
        <button type="button" class="scope ${sources.length > 0 ? "narrowed" : ""}" @click=${() => set({ dialog: "scope" })}>
          ${icon("book-open")}<span>${sources.length > 0 ? `Only ${count(sources.length, "document")}` : "All documents"}</span>
        </button>
        <span class="composer-hint small quiet"><kbd>Enter</kbd> asks, <kbd>Shift</kbd> <kbd>Enter</kbd> breaks the line</span>
        ${answering
          ? html`<button type="button" class="send" aria-label="Stop" title="Stop" @click=${stop}>${icon("square")}</button>`
          : html`<button class="send" aria-label="Ask" title="Ask" ?disabled=${state.draft.trim() === ""}>${icon("arrow-up")}</button>`}
      </div>
    </form>`;
}

/** Back to the end of the conversation, where the view is not there. */
export const newestView = () =>
  state.atEnd || state.conversation.turns.length === 0 ? nothing : html`
    <div class="newest-place">
      <button type="button" class="newest" @click=${() => set({ atEnd: true })}>${icon("arrow-down")} Newest</button>
    </div>`;

function placeholder() {
  return state.conversation.turns.length > 0 ? "Ask a follow-up" : "Ask your documents";
}

/** @param {Event} event */
function submit(event) {
  event.preventDefault();
  ask(state.draft);
}

/** @param {Event} event */
function typed(event) {
  set({ draft: /** @type {HTMLTextAreaElement} */ (event.target).value });
}

/** @param {KeyboardEvent} event */
function keys(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask(state.draft);
}

/** The input is as tall as its text, up to six lines. */
export function fitInput() {
  const input = document.getElementById("question");
  if (!(input instanceof HTMLTextAreaElement) || input.dataset.fitted === input.value) return;
  input.dataset.fitted = input.value;
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, 6 * 24 + 16)}px`;
}
