// Keys that work everywhere on the page.

import { newConversation } from "./conversations.js";
import { set, state } from "./store.js";
import { closeDocument, openCitation, step } from "./viewing.js";

export const KEYS = [
  { keys: ["/"], does: "to where you ask" },
  { keys: ["Enter"], does: "ask" },
  { keys: ["Shift", "Enter"], does: "a new line" },
  { keys: ["Ctrl", "K"], does: "find conversations and documents" },
  { keys: ["[", "]"], does: "to the passage before, to the next" },
  { keys: ["Esc"], does: "close what is open" },
  { keys: ["Ctrl", "Shift", "O"], does: "new conversation" },
  { keys: ["?"], does: "this list" },
];

/** @param {KeyboardEvent} event */
function pressed(event) {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "k") return act(event, () => set({ dialog: "palette" }));
  if (command && event.shiftKey && event.key.toLowerCase() === "o") return act(event, newConversation);
  if (state.dialog !== "" || command || event.altKey) return;
  if (event.key === "Escape") return close(event);
  if (isTyping(event.target)) return;
  if (event.key === "/") act(event, () => document.getElementById("question")?.focus());
  else if (event.key === "?") act(event, () => set({ dialog: "keys" }));
  else if (event.key === "[") act(event, () => through(-1));
  else if (event.key === "]") act(event, () => through(1));
}

/** @param {KeyboardEvent} event @param {() => void} what */
function act(event, what) {
  event.preventDefault();
  what();
}

/** @param {KeyboardEvent} event */
function close(event) {
  const menu = /** @type {HTMLDetailsElement | null} */ (document.querySelector("details[open]"));
  if (menu !== null) {
    menu.open = false;
    menu.querySelector("summary")?.focus();
  } else if (state.open !== null) closeDocument();
  else if (state.leftOpen) set({ leftOpen: false });
  else return;
  event.preventDefault();
}

/** Through the passages of what is open, or of the last answer. @param {1 | -1} by */
function through(by) {
  if (state.open !== null && state.open.citations.length > 0) return step(by);
  const answered = state.conversation.turns.filter(({ answer }) => answer.citations.length > 0).at(-1);
  if (answered === undefined) return;
  const { citations } = answered.answer;
  return openCitation(citations, by === 1 ? 0 : citations.length - 1);
}

/** @param {EventTarget | null} target */
const isTyping = (target) =>
  target instanceof HTMLElement && target.closest("input, textarea, select, [contenteditable]") !== null;

export function watchKeys() {
  addEventListener("keydown", pressed);
}
