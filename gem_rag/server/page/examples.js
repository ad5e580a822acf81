// Three questions that the user's own documents can answer, made of their headings.

import * as api from "./api.js";
import { documents } from "./documents.js";
import { changed } from "./store.js";
import { fileName } from "./words.js";

const HOW_MANY = 3;
/** Of each document; none while its headings are fetched. @type {Map<string, string[]>} */
const made = new Map();

/** Up to three questions, of as many documents as there are; more of them once the headings have come. */
export function examples() {
  const ready = documents.rows.filter((document) => document?.state === "ready").slice(0, HOW_MANY);
  const ofEach = ready.map((document) => of(/** @type {Doc} */ (document)));
  const questions = [];
  for (let i = 0; i < HOW_MANY; i++) questions.push(...ofEach.flatMap((some) => some.slice(i, i + 1)));
  return [...new Set(questions)].slice(0, HOW_MANY);
}

/** @param {Doc} document */
function of({ id, name }) {
  if (!made.has(id)) make(id, name);
  return made.get(id) ?? [];
}

/** @param {string} id @param {string} name */
async function make(id, name) {
  made.set(id, []);
  try {
    const { passages } = await api.documents.get(id);
    made.set(id, questionsOf(passages, fileName(name)));
    changed();
  } catch {
    made.delete(id); // the server is away; the page says so
  }
}

/** @param {Passage[]} passages @param {string} name */
function questionsOf(passages, name) {
  const headings = passages.map(({ heading }) => heading.split(" > ").at(-1) ?? "");
  const good = [...new Set(headings)].filter((heading) => /^.{4,48}$/.test(heading));
  if (good.length > 1) good.shift(); // the first is the title, most often
  const questions = good.slice(0, HOW_MANY).map((heading) => `What does ${name} say about “${heading}”?`);
  return questions.length > 0 ? questions : [`What is ${name} about?`];
}
