// How it is found and answered; what is not set here is as the server has it.

import { html } from "../vendor/lit-html/lit-html.js";
import { choose, chooseDefaults, chooseTheme, theme } from "../settings.js";
import { state } from "../store.js";

const MODES = { hybrid: "Meaning and words", vector: "Meaning alone", words: "Words alone" };
const THEMES = { system: "As the system", light: "Light", dark: "Dark" };

/** @type {Required<Settings>} */
const BEFORE_IT_IS_KNOWN = { k: 16, context: 1, mode: "hybrid", temperature: 0, max_tokens: 256, threshold: "auto", sources: [] };

export function settingsView() {
  const defaults = state.about?.defaults ?? {};
  /** @type {Required<Settings>} */
  const now = { ...BEFORE_IT_IS_KNOWN, ...defaults, threshold: "auto", ...state.settings };
  return html`
    <div class="settings">
      ${row("Look", "", selectOf("look", THEMES, theme(), chooseTheme))}
      ${row("Find by", "Words find names and numbers, meaning finds what is said otherwise.",
        selectOf("mode", MODES, now.mode, (mode) => choose({ mode: /** @type {any} */ (mode) })))}
      ${row("Passages compared", "How many are found and put in order; more is slower.",
        numberOf("k", now.k, 1, 100, 1, (k) => choose({ k })))}
      ${row("Passages answered from", "One is quickest. More helps where an answer stands in several places.",
        numberOf("context", now.context, 1, 16, 1, (context) => choose({ context })))}
      ${row("Freedom of wording", "0 is the likeliest wording each time; 1 is free.",
        numberOf("temperature", now.temperature, 0, 2, 0.1, (temperature) => choose({ temperature })))}
      ${row("Longest answer", "In tokens; a token is about three quarters of a word.",
        numberOf("max_tokens", now.max_tokens, 16, state.about?.limits?.max_tokens ?? 4096, 16, (max_tokens) => choose({ max_tokens })))}
      ${thresholdRow(now.threshold, defaults.threshold)}
    </div>
    <div class="dialog-row">
      <button type="button" class="button" @click=${chooseDefaults}>Back to the defaults</button>
      <span class="small quiet about">${aboutWords()}</span>
    </div>`;
}

/** @param {"auto" | number | null} now @param {number} measured */
function thresholdRow(now, measured) {
  const kinds = { auto: "As measured", own: "A number", off: "Always answer" };
  const kind = now === "auto" ? "auto" : now === null ? "off" : "own";
  /** @param {string} name */
  const take = (name) => choose({ threshold: name === "auto" ? "auto" : name === "off" ? null : (measured ?? 0) });
  const number = numberOf("threshold", typeof now === "number" ? now : 0, 0, 1, 0.05, (threshold) => choose({ threshold }));
  return row("“Not in your documents”", "Said where no passage is good enough. A higher number says it more often.",
    html`${selectOf("sureness", kinds, kind, take)} ${kind === "own" ? number : ""}`);
}

/** @param {string} name @param {string} note @param {unknown} control */
const row = (name, note, control) => html`
  <div class="setting"><div><span class="setting-name">${name}</span>${note ? html`<span class="small quiet">${note}</span>` : ""}</div>
    <div class="setting-control">${control}</div></div>`;

/** @type {Record<string, string>} */
const LABELS = {
  look: "Look", mode: "Find by", sureness: "Not in your documents", k: "Passages compared", threshold: "Least confidence",
  context: "Passages answered from", temperature: "Freedom of wording", max_tokens: "Longest answer",
};

/** @param {string} id @param {Record<string, string>} options @param {string} now @param {(name: string) => void} take */
const selectOf = (id, options, now, take) => html`
  <select class="field" aria-label=${LABELS[id]} @change=${(/** @type {Event} */ event) => take(/** @type {HTMLSelectElement} */ (event.target).value)}>
    ${Object.entries(options).map(([name, words]) => html`<option value=${name} ?selected=${name === now}>${words}</option>`)}
  </select>`;

/** @param {string} id @param {number} now @param {number} min @param {number} max @param {number} step @param {(value: number) => void} take */
const numberOf = (id, now, min, max, step, take) => html`
  <input class="field number" type="number" aria-label=${LABELS[id]} min=${min} max=${max} step=${step} .value=${String(now ?? "")}
    @change=${(/** @type {Event} */ event) => {
      const field = /** @type {HTMLInputElement} */ (event.target);
      if (field.value !== "" && field.checkValidity()) take(field.valueAsNumber);
      else field.reportValidity();
    }}>`;

function aboutWords() {
  const { about } = state;
  if (!about?.model) return "";
  return `${about.model.name}, index in ${about.index}`;
}
