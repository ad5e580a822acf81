// <document-text>: a document's text, every character of it where it stands, with passages marked.
// It is cut into pieces that the browser lays out only when they are looked at.

import { unitsOf } from "../characters.js";

const PIECE = 2000;
const LONGEST = 8000; // of a line without an end
const CHARACTERS_A_LINE = 80;
const LINE_PX = 26;
const PLAIN = /\.(c|cc|cfg|cpp|cs|css|csv|go|h|ini|java|js|json|jsonl|kt|log|py|rb|rs|sh|sql|toml|ts|tsv|xml|yaml|yml)$/i;

/** @typedef {{start: number, end: number, kind: string}} Mark in units */
/** @typedef {{kind: string, from: number, to: number}} Piece in units */

export class DocumentText extends HTMLElement {
  #text = "";
  #name = "";
  /** @type {Passage[]} */
  #passages = [];
  /** @type {Citation[]} */
  #citations = [];
  #at = -1;
  #round = 0;

  /** @param {OpenDocument} open */
  set shown({ text, name, passages, citations, at, round }) {
    if (round === this.#round && text === this.#text) return;
    this.#round = round;
    this.#text = text;
    this.#name = name;
    this.#passages = passages;
    this.#citations = citations;
    this.#at = at;
    this.#draw();
    this.#reveal();
  }

  #draw() {
    const marks = this.#marks();
    const pages = this.#pages();
    this.classList.toggle("plain", PLAIN.test(this.#name));
    const fragment = document.createDocumentFragment();
    for (const piece of piecesOf(this.#text, !PLAIN.test(this.#name), [...pages.keys()])) {
      const page = pages.get(piece.from);
      if (page !== undefined) fragment.append(pageLine(page));
      fragment.append(this.#element(piece, marks));
    }
    this.replaceChildren(fragment);
  }

  /** What is marked, in units: the passages, then the sentence that answers. @returns {Mark[]} */
  #marks() {
    const current = this.#citations[this.#at];
    const inside = this.#citations.filter((citation) => citation.document === current?.document);
    const spans = inside.map(({ start, end }) => ({ start, end, kind: "passage" }));
    if (current) spans.push({ start: current.start, end: current.end, kind: "current" });
    if (current?.quote_start != null && current.quote_end != null) {
      spans.push({ start: current.quote_start, end: current.quote_end, kind: "quote" });
    }
    const units = unitsOf(this.#text, spans.flatMap(({ start, end }) => [start, end]));
    return spans.map(({ kind }, i) => ({ kind, start: units[2 * i], end: units[2 * i + 1] }));
  }

  /** Where pages begin, in units. */
  #pages() {
    const first = this.#passages.filter(({ page }, i) => page !== null && page !== this.#passages[i - 1]?.page);
    const units = unitsOf(this.#text, first.map(({ start }) => start));
    return new Map(first.map(({ page }, i) => [units[i], /** @type {number} */ (page)]));
  }

  /** @param {Piece} piece @param {Mark[]} marks */
  #element({ kind, from, to }, marks) {
    const element = document.createElement("div");
    element.className = `piece ${kind}`;
    element.dir = "auto";
    element.style.containIntrinsicBlockSize = `auto ${height(this.#text, from, to)}px`;
    const inside = marks.filter(({ start, end }) => start < to && end > from);
    if (kind === "table") this.#rows(element, from, to, inside);
    else if (kind === "heading") this.#heading(element, from, to, inside);
    else this.#put(element, from, to, inside);
    return element;
  }

  /** Characters, in marks where they are marked. @param {Element} into @param {number} from @param {number} to @param {Mark[]} marks */
  #put(into, from, to, marks) {
    const cuts = new Set([from, to]);
    for (const at of marks.flatMap(({ start, end }) => [start, end])) if (at > from && at < to) cuts.add(at);
    const edges = [...cuts].sort((a, b) => a - b);
    for (let i = 0; i + 1 < edges.length; i++) {
      const kinds = marks.filter(({ start, end }) => start <= edges[i] && end > edges[i]);
      const part = this.#text.slice(edges[i], edges[i + 1]);
      into.append(kinds.length === 0 ? part : marked(part, kinds));
    }
  }

  /** @param {Element} element @param {number} from @param {number} to @param {Mark[]} marks */
  #heading(element, from, to, marks) {
    const [signs] = /** @type {RegExpMatchArray} */ (this.#text.slice(from, to).match(/^#+\s*/));
    element.setAttribute("role", "heading");
    element.setAttribute("aria-level", String(Math.min(6, signs.trim().length + 2)));
    this.#put(syntaxIn(element), from, from + signs.length, marks);
    this.#put(element, from + signs.length, to, marks);
  }

  /** The lines of a table as rows, what is between the bars as cells. @param {Element} element @param {number} from @param {number} to @param {Mark[]} marks */
  #rows(element, from, to, marks) {
    for (const [start, end] of linesOf(this.#text.slice(from, to), [])) {
      const line = this.#text.slice(from + start, from + end);
      if (/^[\s|:-]+$/.test(line)) {
        this.#put(syntaxIn(element), from + start, from + end, marks);
        continue;
      }
      const row = document.createElement("div");
      row.className = "table-row";
      let at = from + start;
      for (const part of line.split(/(\s*\|\s*)/)) {
        const isText = !part.includes("|") && part.trim() !== "";
        const into = isText ? row.appendChild(document.createElement("span")) : syntaxIn(row);
        this.#put(into, at, at + part.length, marks);
        at += part.length;
      }
      element.append(row);
    }
  }

  /** Bring the sentence that answers, or its passage, into view; and the keyboard there. */
  #reveal() {
    // The bars of a table are there, and marked, but not shown.
    const shown = (/** @type {string} */ kind) => this.querySelector(`mark.${kind}:not(.table .syntax *)`);
    const found = shown("quote") ?? shown("current");
    if (!(found instanceof HTMLElement)) {
      this.scrollTop = 0;
      this.focus({ preventScroll: true });
      return;
    }
    found.tabIndex = -1;
    found.scrollIntoView({ block: "center" });
    found.focus({ preventScroll: true });
    // What stood above was an estimate; now that it is laid out, once more.
    requestAnimationFrame(() => found.scrollIntoView({ block: "center" }));
  }
}

/** @param {string} text @param {Mark[]} marks */
function marked(text, marks) {
  const element = document.createElement("mark");
  element.className = marks.map(({ kind }) => kind).join(" ");
  element.textContent = text;
  return element;
}

/** A place for characters that say how the rest is meant. @param {Element} parent */
function syntaxIn(parent) {
  const element = document.createElement("i");
  element.className = "syntax";
  return parent.appendChild(element);
}

/** @param {number} page */
function pageLine(page) {
  const line = document.createElement("div");
  line.className = "page-line";
  line.textContent = `Page ${page}`;
  return line;
}

/** A guess at how tall a piece will be. @param {string} text @param {number} from @param {number} to */
function height(text, from, to) {
  let lines = 0;
  for (let at = from; at < to; lines++) {
    const end = text.indexOf("\n", at);
    const next = end < 0 || end >= to ? to : end + 1;
    lines += Math.floor((next - at) / CHARACTERS_A_LINE);
    at = next;
  }
  return Math.max(1, lines) * LINE_PX;
}

/**
 * A text as pieces: headings, tables and code by themselves, and what is between them.
 * @param {string} text
 * @param {boolean} typeset whether `#` is a heading, and so on
 * @param {number[]} cuts where a piece has to begin
 * @returns {Piece[]}
 */
export function piecesOf(text, typeset, cuts = []) {
  /** @type {Piece[]} */
  const pieces = [];
  const begins = new Set(cuts);
  let fenced = false;
  for (const [from, to] of linesOf(text, cuts)) {
    const line = typeset ? text.slice(from, Math.min(to, from + 200)) : "";
    const fence = /^\s*(```|~~~)/.test(line);
    const kind = fenced || fence ? "code" : kindOf(line);
    if (fence) fenced = !fenced;
    const last = pieces.at(-1);
    const goesOn = last !== undefined && last.kind === kind && kind !== "heading" && !begins.has(from);
    if (goesOn && (kind !== "text" || last.to - last.from < PIECE)) last.to = to;
    else pieces.push({ kind, from, to });
  }
  return pieces;
}

/** @param {string} line */
function kindOf(line) {
  if (/^#{1,6}\s/.test(line)) return "heading";
  return /^\s*\|.*\|?\s*$/.test(line) ? "table" : "text";
}

/** Lines with their ends; one that does not end is cut. @param {string} text @param {number[]} cuts */
function* linesOf(text, cuts) {
  const sorted = [...cuts].sort((a, b) => a - b);
  let next = 0;
  for (let from = 0; from < text.length; ) {
    while (next < sorted.length && sorted[next] <= from) next += 1;
    const end = text.indexOf("\n", from);
    let to = Math.min(end < 0 ? text.length : end + 1, sorted[next] ?? Infinity);
    if (to - from > LONGEST) to = Math.max(text.lastIndexOf(" ", from + LONGEST) + 1, from + PIECE);
    yield [from, to];
    from = to;
  }
}

customElements.define("document-text", DocumentText);
