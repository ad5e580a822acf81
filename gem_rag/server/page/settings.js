// What the user chose, kept in this browser.

import { set, state } from "./store.js";

const KEY = "gem-rag:settings";
const LEFT = "gem-rag:left";
const THEME = "gem-rag:theme";

export function loadSettings() {
  try {
    state.settings = { sources: [], ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    state.settings = { sources: [] }; // somebody else's words: begin anew
  }
  state.leftFolded = localStorage.getItem(LEFT) === "folded";
}

/** @param {Partial<Settings>} part */
export function choose(part) {
  set({ settings: { ...state.settings, ...part } });
  localStorage.setItem(KEY, JSON.stringify(state.settings));
}

/** Everything as the server has it. */
export function chooseDefaults() {
  set({ settings: { sources: state.settings.sources } });
  localStorage.setItem(KEY, JSON.stringify(state.settings));
}

export function fold() {
  set({ leftFolded: !state.leftFolded });
  localStorage.setItem(LEFT, state.leftFolded ? "folded" : "open");
}

/** @returns {string} "system", "light" or "dark" */
export const theme = () => document.documentElement.dataset.theme ?? "system";

/** @param {string} name */
export function chooseTheme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem(THEME, name);
  set({});
}
