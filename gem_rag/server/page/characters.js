// Positions: the server counts characters (code points), JavaScript counts UTF-16 units.

/** Whether a text has characters of two units, so that the two counts differ. @param {string} text */
const isWide = (text) => /[\ud800-\udbff]/.test(text);

/**
 * The unit at which each of some characters begins.
 * @param {string} text
 * @param {number[]} positions in characters, in any order
 * @returns {number[]} in units, in that order
 */
export function unitsOf(text, positions) {
  if (!isWide(text)) return positions.map((position) => Math.min(position, text.length));
  const order = positions.map((_, i) => i).sort((a, b) => positions[a] - positions[b]);
  const units = new Array(positions.length).fill(text.length);
  let unit = 0;
  let character = 0;
  for (const i of order) {
    while (character < positions[i] && unit < text.length) {
      unit += /** @type {number} */ (text.codePointAt(unit)) > 0xffff ? 2 : 1;
      character += 1;
    }
    units[i] = unit;
  }
  return units;
}

/**
 * The part of a text between two characters.
 * @param {string} text
 * @param {number} start
 * @param {number} end
 */
export function slice(text, start, end) {
  const [from, to] = unitsOf(text, [start, end]);
  return text.slice(from, to);
}

/**
 * The answering sentence of a citation; where none was made out, the one nearest to some words.
 * @param {Citation} citation
 * @param {string} [about] such as the question
 */
export function sentenceOf(citation, about = "") {
  if (citation.quote_start === null || citation.quote_end === null) return nearest(citation.text, about);
  const from = citation.quote_start - citation.start;
  return oneLine(slice(citation.text, from, citation.quote_end - citation.start));
}

/** A passage on one line, from the sentence on that shares most words with others. @param {string} text @param {string} about */
function nearest(text, about) {
  const sentences = text.split(/(?<=[.!?])\s+|\n+/).filter((sentence) => /^(?!#).*\w/u.test(sentence));
  const wanted = wordsOf(about);
  const shared = sentences.map((sentence) => [...wordsOf(sentence)].filter((word) => wanted.has(word)).length);
  const flat = oneLine(sentences.slice(shared.indexOf(Math.max(...shared))).join(" ") || text);
  if (flat.length <= 240) return flat;
  return flat.slice(0, flat.lastIndexOf(" ", 240)) + " …";
}

/** Its different words, small words aside. @param {string} text */
const wordsOf = (text) => new Set(text.toLowerCase().match(/[\p{L}\p{N}]{4,}/gu) ?? []);

/** @param {string} text */
const oneLine = (text) => text.replace(/\s+/g, " ").trim();
