// Three questions that the user's own documents can answer, made of their headings.

import * as api from "./api.js";
import { documents } from "./documents.js";
import { changed } from "./store.js";
import { fileName } from "./words.js";

const HOW_MANY = 3;
/** @type {Map<string, string | null>} by document: null while its headings are fetched */
const made = new Map();

/** Up to three questions; more of them once the headings have come. */
export function examples() {
  const ready = documents.rows.filter((document) => document?.state === "ready").slice(0, HOW_MANY);
  const questions = [];
  for (const document of ready) {
    const { id, name } = /** @type {Doc} */ (document);
    if (!made.has(id)) make(id, name);
    const question = made.get(id);
    if (question) questions.push(question);
  }
  return [...new Set(questions)];
}

/** @param {string} id @param {string} name */
async function make(id, name) {
  made.set(id, null);
  try {
    const { passages } = await api.documents.get(id);
    made.set(id, questionOf(passages, fileName(name)));
    changed();
  } catch {
    made.delete(id); // the server is away; the page says so
  }
}

/** @param {Passage[]} passages @param {string} name */
function questionOf(passages, name) {
  const headings = passages.map(({ heading }) => heading.split(" > ").at(-1) ?? "");
  const good = headings.filter((heading) => /^.{4,48}$/.test(heading));
  const heading = good[1] ?? good[0]; // the first is often the title
  return heading ? `What does ${name} say about “${heading}”?` : `What is ${name} about?`;
}
