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

/** The answering sentence of a citation, or the beginning of its passage. @param {Citation} citation */
export function sentenceOf(citation) {
  if (citation.quote_start === null || citation.quote_end === null) return opening(citation.text);
  const from = citation.quote_start - citation.start;
  return oneLine(slice(citation.text, from, citation.quote_end - citation.start));
}

/** The first sentences of a passage, on one line. @param {string} text */
function opening(text) {
  const flat = oneLine(text);
  if (flat.length <= 240) return flat;
  return flat.slice(0, flat.lastIndexOf(" ", 240)) + " …";
}

/** @param {string} text */
const oneLine = (text) => text.replace(/\s+/g, " ").trim();
