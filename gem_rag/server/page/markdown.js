// Markdown to nodes. The text may come out of a document that wants to do harm, so three things
// hold: HTML in it is shown as the characters it is, images are never fetched (an address of
// somebody else's is how a document sends away what stands beside it), and what is left passes
// DOMPurify, which lets through the elements below and no others.

import { Marked } from "./vendor/marked.js";
import "./vendor/purify.js";

const ALLOWED = {
  ALLOWED_TAGS: [
    "p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "a",
    "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6",
    "table", "thead", "tbody", "tr", "th", "td",
  ],
  ALLOWED_ATTR: ["href", "align", "start"],
  ADD_URI_SAFE_ATTR: ["align", "start"], // or the next line is held against them
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

/** @type {Record<string, string>} */
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/** @param {string} text */
const escaped = (text) => text.replace(/[&<>"]/g, (character) => ENTITIES[character]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    /** @param {{text: string}} token */
    html: ({ text }) => escaped(text),
    /** @param {{text: string, href: string}} token */
    image: ({ text, href }) => escaped(text || href),
  },
});

/**
 * The blocks of a text: paragraphs, lists, tables, code. What follows a block does not change it,
 * but for the last one.
 * @param {string} text
 * @returns {{raw: string, nodes: () => DocumentFragment}[]}
 */
export function blocksOf(text) {
  return marked
    .lexer(text)
    .filter((token) => token.type !== "space")
    .map((token) => ({ raw: token.raw, nodes: () => fragmentOf(token) }));
}

/** @param {import("./vendor/marked.js").Token} token */
function fragmentOf(token) {
  const fragment = DOMPurify.sanitize(marked.parser([token]), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) inFrame(table, "table-frame");
  for (const code of fragment.querySelectorAll("pre")) withCopy(inFrame(code, "code-frame"), code);
  return fragment;
}

/** @param {Element} element @param {string} name */
function inFrame(element, name) {
  const frame = document.createElement("div");
  frame.className = name;
  element.replaceWith(frame);
  frame.append(element);
  element.setAttribute("tabindex", "0"); // what scrolls in itself is reached by keyboard
  return frame;
}

/** @param {HTMLElement} frame @param {Element} code */
function withCopy(frame, code) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent ?? "");
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  frame.append(button);
}
