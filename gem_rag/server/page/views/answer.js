// One question with its answer, in every state an answer can be in.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { guard } from "../vendor/lit-html/directives/guard.js";
import "../elements/answer-text.js";
import { again, copy, edit, goOn, stop, tryAgain } from "../asking.js";
import { sentenceOf } from "../characters.js";
import { isAnswering } from "../conversations.js";
import { documentCount } from "../documents.js";
import { choose } from "../settings.js";
import { drawNow, set, state } from "../store.js";
import { openCitation } from "../viewing.js";
import { count, duration, placeOf } from "../words.js";
import { fileLabel, icon, iconButton, spinner } from "./parts.js";

/** @param {Turn} turn */
export function turnView(turn) {
  const { answer } = turn;
  const live = ["finding", "queued", "writing"].includes(answer.state);
  return html`
    <article class="turn" aria-busy=${live}>
      ${state.editing === turn.key ? editView(turn) : html`<h2 class="question" dir="auto">${turn.question}</h2>`}
      ${answer.citations.length > 0 ? sourcesView(answer) : nothing}
      ${bodyView(turn)} ${endView(turn)} ${live ? nothing : toolsView(turn)}
    </article>`;
}

/** @param {Turn} turn */
function editView(turn) {
  const later = state.conversation.turns.length - 1 - state.conversation.turns.indexOf(turn);
  /** @param {Event} event */
  const send = (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    edit(turn, String(new FormData(form).get("question")));
  };
  /** @param {KeyboardEvent} event */
  const keys = (event) => {
    const form = /** @type {HTMLTextAreaElement} */ (event.target).form;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form?.requestSubmit();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      set({ editing: 0 });
    }
  };
  return html`
    <form class="edit" @submit=${send}>
      <textarea name="question" class="field" dir="auto" rows="2" aria-label="Your question" .value=${turn.question} @keydown=${keys}></textarea>
      <div class="edit-row">
        <span class="small quiet">${laterWords(later)}</span>
        <button type="button" class="button" @click=${() => set({ editing: 0 })}>Cancel</button>
        <button class="primary">Ask</button>
      </div>
    </form>`;
}

/** @param {number} later questions after one that is edited */
function laterWords(later) {
  if (later < 1) return "";
  return later === 1 ? "The question after it will go." : `The ${later} questions after it will go.`;
}

/** @param {Answer} answer */
const sourcesView = ({ citations }) => html`
  <ul class="sources" aria-label="Sources">
    ${citations.map((citation, i) => html`
      <li>
        <button type="button" class="source" @click=${() => openCitation(citations, i)}>
          <span class="source-number">${i + 1}</span>
          <span class="source-words">
            ${fileLabel(citation.name)}
            <span class="source-place">${placeOf(citation) || "passage"}</span>
          </span>
        </button>
      </li>`)}
  </ul>`;

/** @param {Turn} turn */
function bodyView({ question, answer }) {
  if (answer.state === "queued") return queuedView(answer);
  if (answer.state === "nothing") return nothingView(answer, question);
  if (answer.state === "finding" && answer.text === "") {
    return html`<p class="status">${spinner()} Looking through your documents…</p>`;
  }
  const { text, citations, state: now } = answer;
  const whole = now !== "writing" && now !== "finding";
  return html`
    <answer-text class=${whole ? "" : "writing"} .answer=${{ text, citations, whole }} @click=${cited(citations)}></answer-text>`;
}

/** @param {Citation[]} citations */
const cited = (citations) => (/** @type {Event} */ event) => {
  const button = /** @type {Element} */ (event.target).closest(".cite");
  if (button instanceof HTMLElement) openCitation(citations, Number(button.dataset.number) - 1);
};

/** @param {Answer} answer */
function queuedView({ retryAt }) {
  const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  const why = state.server === "loading" ? "The model is still being loaded." : "Others are being answered just now.";
  return html`
    <p class="status">${icon("clock")} ${why} Your question waits;
      ${seconds > 0 ? html`asked again in ${seconds} s.` : "asking now…"}
      <button type="button" class="button small-button" @click=${stop}>Stop waiting</button>
    </p>`;
}

/** @param {Answer} answer @param {string} question */
const nothingView = ({ nearest }, question) => html`
  <p class="nothing">${state.countsKnown && documentCount() === 0 ? "There are no documents yet." : "Not in your documents."}</p>
  ${nearest.length === 0 ? nothing : html`
    <p class="small quiet nearest-title">The nearest passages</p>
    <ul class="nearest">
      ${nearest.slice(0, 3).map((citation, i) => html`
        <li>
          <button type="button" class="near" @click=${() => openCitation(nearest.slice(0, 3), i)}>
            <span class="near-words" dir="auto">${sentenceOf(citation, question)}</span>
            <span class="near-place">${fileLabel(citation.name)}<span>${placeOf(citation)}</span></span>
          </button>
        </li>`)}
    </ul>`}`;

/** How it ended, where that is not by itself. @param {Turn} turn */
function endView(turn) {
  const { answer } = turn;
  const button = (/** @type {string} */ label, /** @type {() => void} */ act) =>
    html`<button type="button" class="button small-button" ?disabled=${isAnswering(state.conversation)} @click=${act}>${label}</button>`;
  if (answer.state === "stopped") return html`<p class="end">Stopped. ${button("Go on", () => goOn(turn))}</p>`;
  if (answer.state === "interrupted") {
    const kept = answer.text ? " What came is kept." : "";
    return html`<p class="end">${icon("triangle-alert")} The answer broke off.${kept} ${button("Go on", () => goOn(turn))}</p>`;
  }
  if (answer.state === "failed") {
    return html`<p class="end bad" role="alert">${icon("circle-alert")} <span>${answer.error}</span> ${button("Try again", () => tryAgain(turn))}</p>`;
  }
  if (answer.finish === "length") {
    return html`<p class="end">The answer reached its longest length. ${button("Let it be longer", () => longer(turn))}</p>`;
  }
  const cut = answer.usage.truncated_tokens ?? 0;
  if (cut > 0) return html`<p class="end">The passages were longer than the model reads: their last ${count(cut, "token")} were left out.</p>`;
  return nothing;
}

/** @param {Turn} turn */
function longer(turn) {
  const now = state.settings.max_tokens ?? state.about?.defaults?.max_tokens ?? 256;
  choose({ max_tokens: Math.min(2 * now, state.about?.limits?.max_tokens ?? 2 * now) });
  goOn(turn);
}

/** @param {Turn} turn */
function toolsView(turn) {
  const { answer } = turn;
  const busy = isAnswering(state.conversation);
  const last = state.conversation.turns.at(-1) === turn;
  return html`
    <div class="tools">
      ${answer.text && answer.state !== "nothing" ? iconButton("copy", "Copy the answer", () => copy(answer)) : nothing}
      ${last ? iconButton("refresh-cw", "Ask again, for other words", () => again(turn), { disabled: busy }) : nothing}
      ${iconButton("pencil", "Edit the question", () => startEditing(turn), { disabled: busy })}
      ${tookView(answer)}
    </div>`;
}

/** @param {Turn} turn */
function startEditing(turn) {
  state.editing = turn.key;
  drawNow();
  const field = /** @type {HTMLTextAreaElement | null} */ (document.querySelector(".edit textarea"));
  field?.focus();
  field?.select();
}

/** What it took. @param {Answer} answer */
function tookView({ timings, usage, citations, finish }) {
  if (timings.total === undefined) return nothing;
  const facts = factsOf(timings, usage, finish);
  const short = facts.filter(({ short }) => short).map(({ short }) => short);
  return html`
    <details class="took">
      <summary>${icon("gauge")}<span>${short.join(", ")}</span></summary>
      <div class="took-panel">
        <table>
          <tbody>
            ${facts.map(({ name, value }) => html`<tr><th scope="row">${name}</th><td>${value}</td></tr>`)}
          </tbody>
        </table>
        ${citations.length === 0 ? nothing : html`
          <table class="scores">
            <thead><tr><th scope="col">Passage</th><th scope="col">meaning</th><th scope="col">words</th><th scope="col">rank</th></tr></thead>
            <tbody>
              ${citations.map((citation, i) => html`
                <tr><th scope="row">${i + 1}</th><td>${score(citation.score)}</td><td>${score(citation.word_score)}</td><td>${score(citation.rank_score)}</td></tr>`)}
            </tbody>
          </table>`}
      </div>
    </details>`;
}

/** @param {number | null} value */
const score = (value) => (value === null ? "–" : value.toFixed(2));

/**
 * @param {Record<string, number>} timings
 * @param {Record<string, number>} usage
 * @param {string} finish
 * @returns {{name: string, value: string, short?: string}[]}
 */
function factsOf(timings, usage, finish) {
  const { retrieve = 0, rank = 0, first_token: first, generate = 0, total } = timings;
  const { prompt_tokens: read = 0, cached_tokens: kept = 0, completion_tokens: written = 0 } = usage;
  const facts = [{ name: "Found in", value: duration(retrieve), short: `found in ${duration(retrieve + rank)}` }];
  if (rank > 0) facts.push({ name: "Ranked in", value: duration(rank), short: "" });
  if (first !== undefined) {
    facts.push({ name: "First word after", value: duration(first), short: `first word after ${duration(first)}` });
    const writing = generate - first;
    if (written > 1 && writing > 0) {
      const rate = `${Math.round((written - 1) / writing)} tokens/s`;
      facts.push({ name: "Written at", value: rate, short: rate });
    }
    facts.push({ name: "Written", value: count(written, "token"), short: "" });
    const afresh = kept > 0 ? "passage not read again" : "passage read now";
    facts.push({ name: "Read now", value: `${read - kept} of ${count(read, "token")}`, short: afresh });
    facts.push({ name: "From a kept reading", value: count(kept, "token"), short: "" });
  }
  facts.push({ name: "In all", value: duration(total), short: "" });
  if (finish) facts.push({ name: "Ended by", value: finish.replace("_", " "), short: "" });
  return facts;
}

/** All turns of the conversation. */
export function turnsView() {
  const { conversation, editing } = state;
  const busy = isAnswering(conversation);
  return repeat(conversation.turns, (turn) => turn.key, (turn) => {
    const last = turn === conversation.turns.at(-1);
    // What is over is drawn once, however long the conversation: only the last answer grows.
    return last || editing === turn.key ? turnView(turn) : guard([turn.answer.state, busy, last], () => turnView(turn));
  });
}
