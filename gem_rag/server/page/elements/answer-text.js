// <answer-text>: an answer's Markdown with its citations as small numbers. While it grows only the
// blocks that changed are drawn again.

import { sentenceOf } from "../characters.js";
import { blocksOf } from "../markdown.js";

const NUMBERS = /\[(\d{1,2})\]/g;

export class AnswerText extends HTMLElement {
  /** @type {{raw: string, element: HTMLElement}[]} */
  #drawn = [];
  #text = "";
  /** @type {Citation[]} */
  #citations = [];

  /** @param {{text: string, citations: Citation[], whole: boolean}} answer */
  set answer({ text, citations, whole }) {
    const cited = whole ? withNumbers(text, citations) : text;
    if (cited === this.#text && citations === this.#citations) return;
    if (citations !== this.#citations) this.#forget();
    this.#text = cited;
    this.#citations = citations;
    this.#update();
  }

  /** @param {number} number from 1 @returns {Citation | undefined} */
  citation(number) {
    return this.#citations[number - 1];
  }

  #forget() {
    this.#drawn = [];
    this.replaceChildren();
  }

  #update() {
    const blocks = blocksOf(this.#text);
    let same = 0;
    while (same < this.#drawn.length && this.#drawn[same].raw === blocks[same]?.raw) same += 1;
    for (const { element } of this.#drawn.splice(same)) element.remove();
    for (const block of blocks.slice(same)) {
      const element = document.createElement("div");
      element.dir = "auto";
      element.append(block.nodes());
      this.#number(element);
      this.append(element);
      this.#drawn.push({ raw: block.raw, element });
    }
  }

  /** Make buttons of the numbers in the text, but not of those in code. @param {HTMLElement} block */
  #number(block) {
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(/** @type {Text} */ (walker.currentNode));
    for (const node of texts) {
      if (node.parentElement?.closest("code, pre, a")) continue;
      const parts = node.data.split(NUMBERS); // every second part is a number
      if (parts.length === 1) continue;
      node.replaceWith(...parts.map((part, i) => (i % 2 ? this.#button(part) : part)));
    }
  }

  /** @param {string} number */
  #button(number) {
    const citation = this.#citations[Number(number) - 1];
    if (citation === undefined) return `[${number}]`;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "cite";
    button.dataset.number = number;
    button.textContent = number;
    const label = `Source ${number}, ${citation.name}: ${sentenceOf(citation)}`;
    button.setAttribute("aria-label", label);
    return button;
  }
}

/**
 * The text with numbers in it: where the model set none, those of what it was answered from.
 * @param {string} text
 * @param {Citation[]} citations
 */
function withNumbers(text, citations) {
  if (text.search(NUMBERS) >= 0 || !text.trim()) return text;
  const numbers = citations.map((_, i) => `[${i + 1}]`).join("");
  const end = text.trimEnd();
  return /(```|\|)$/.test(end) ? `${end}\n\n${numbers}` : `${end}\u00a0${numbers}`; // never at the beginning of a line
}

customElements.define("answer-text", AnswerText);
