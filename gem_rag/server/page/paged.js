// A long list of which only the parts that are looked at are fetched.

import { changed } from "./store.js";

const PART = 100;

/** @template T */
export class PagedList {
  /** As long as the whole list; what was not looked at yet is undefined. @type {(T | undefined)[]} */
  rows = [];
  known = false;
  q = "";
  /** @type {Set<number>} */
  #asked = new Set();
  #round = 0;
  #looked = [0, 0];

  /** @param {(query: {q: string, offset: number, limit: number}) => Promise<{rows: T[], total: number}>} fetch */
  constructor(fetch) {
    this.fetch = fetch;
  }

  /** Somebody looks at these rows. @param {number} from @param {number} to */
  look(from, to) {
    this.#looked = [from, to];
    const asked = [];
    for (let at = Math.floor(from / PART); at * PART < Math.max(to, 1); at++) {
      if (!this.#asked.has(at)) asked.push(this.#get(at));
    }
    return Promise.all(asked);
  }

  /** Fetch anew what is looked at. */
  refresh() {
    this.#round += 1;
    this.#asked.clear();
    return this.look(this.#looked[0], this.#looked[1]);
  }

  /** Only what matches. @param {string} q */
  filter(q) {
    this.q = q;
    return this.refresh();
  }

  /** @param {number} at */
  async #get(at) {
    const round = this.#round;
    this.#asked.add(at);
    try {
      const { rows, total } = await this.fetch({ q: this.q, offset: at * PART, limit: PART });
      if (round !== this.#round) return;
      const all = this.rows.slice(0, total);
      all.length = total;
      rows.forEach((row, i) => (all[at * PART + i] = row));
      this.rows = all;
      this.known = true;
    } catch {
      this.#asked.delete(at); // the server is gone, or wants a key: the page says so, and asks again
    }
    changed();
  }
}
