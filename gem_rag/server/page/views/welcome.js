// The first screen: a place to drop files; or, once there is something, what one might ask.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { ask } from "../asking.js";
import { documentCount, isBusy } from "../documents.js";
import { examples } from "../examples.js";
import { set, state } from "../store.js";
import { progressView } from "./documents.js";
import { chooseFiles } from "./files.js";
import { bar, icon } from "./parts.js";

export function welcomeView() {
  if (state.server === "loading") return loadingView();
  if (!state.countsKnown) return html`<div class="welcome"></div>`;
  return documentCount() === 0 && !isBusy() ? firstVisit() : whatToAsk();
}

const loadingView = () => html`
  <div class="welcome">
    <h1>One moment</h1>
    <p class="welcome-lead">The model is being loaded into memory; the first time it is fetched as well. You may ask already: the question waits.</p>
    <div class="welcome-progress">${bar(null, "Loading the model")}</div>
  </div>`;

const firstVisit = () => html`
  <div class="welcome">
    <h1>Ask your documents</h1>
    <p class="welcome-lead">Add a few files and ask. Every answer points at the line it comes from, and nothing leaves this computer.</p>
    <button type="button" class="drop-zone" @click=${chooseFiles}>
      ${icon("file-plus")}
      <span class="drop-title">Drop files or a folder here</span>
      <span class="small quiet">or click to choose them</span>
    </button>
    ${state.about?.folders?.allowed === false ? nothing : html`
      <p class="welcome-or"><button type="button" class="button" @click=${() => set({ dialog: "folder" })}>
        ${icon("folder-plus")} Keep a folder in step</button></p>`}
    <p class="small quiet welcome-kinds">${kinds()}</p>
  </div>`;

const whatToAsk = () => html`
  <div class="welcome">
    <h1>What would you like to know?</h1>
    ${isBusy() ? html`<div class="welcome-progress">${progressView()}
      <p class="small quiet">You may ask already: answers come from what has been read so far.</p></div>` : nothing}
    <ul class="examples" aria-label="Examples">
      ${examples().map((question) => html`
        <li><button type="button" class="example" dir="auto" @click=${() => ask(question)}>
          <span>${question}</span>${icon("arrow-up")}</button></li>`)}
    </ul>
  </div>`;

function kinds() {
  const suffixes = (state.about?.limits?.suffixes ?? []).map((suffix) => suffix.replace(".", "").toUpperCase());
  const known = ["PDF", "DOCX", "HTML", "MD", "TXT", "PPTX", "XLSX", "CSV"].filter((kind) => suffixes.includes(kind));
  return known.length === 0 ? "" : `${known.join(", ")} and ${suffixes.length - known.length} other kinds of text and code`;
}
