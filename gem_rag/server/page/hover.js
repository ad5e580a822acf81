// Pointing at a number in an answer shows the sentence it stands for.

import { sentenceOf } from "./characters.js";
import { placeOf } from "./words.js";

const WAIT_MS = 120;
/** @type {HTMLElement | null} */
let card = null;
let timer = 0;

export function watchCitations() {
  for (const name of ["pointerover", "focusin"]) addEventListener(name, enter);
  for (const name of ["pointerout", "focusout", "pointerdown"]) addEventListener(name, leave);
  addEventListener("scroll", leave, { capture: true, passive: true });
}

/** @param {Event} event */
function enter(event) {
  const button = event.target instanceof Element ? event.target.closest(".cite") : null;
  if (!(button instanceof HTMLElement)) return;
  if (event instanceof PointerEvent && event.pointerType === "touch") return; // it opens the document
  clearTimeout(timer);
  timer = window.setTimeout(() => show(button), WAIT_MS);
}

function leave() {
  clearTimeout(timer);
  card?.hidePopover();
}

/** @param {HTMLElement} button */
function show(button) {
  const text = button.closest("answer-text");
  const citation = /** @type {any} */ (text)?.citation?.(Number(button.dataset.number));
  if (!citation || !button.isConnected) return;
  card ??= make();
  const [sentence, place] = card.children;
  sentence.textContent = sentenceOf(citation);
  place.textContent = [citation.name, placeOf(citation)].filter(Boolean).join(" · ");
  card.showPopover();
  const { left, top, bottom } = button.getBoundingClientRect();
  const { width, height } = card.getBoundingClientRect();
  card.style.left = `${Math.max(8, Math.min(left - 16, innerWidth - width - 8))}px`;
  card.style.top = `${top > height + 16 ? top - height - 8 : bottom + 8}px`;
}

function make() {
  const made = document.createElement("div");
  made.className = "hover-card";
  made.popover = "manual";
  made.setAttribute("aria-hidden", "true"); // the button's label says the same
  made.append(document.createElement("p"), document.createElement("p"));
  made.children[0].setAttribute("dir", "auto");
  document.body.append(made);
  return made;
}
