// <window-list>: rows of one height, of which only those in view are drawn, be there ten thousand.

import { html, render } from "../vendor/lit-html/lit-html.js";

const MORE = 8; // rows drawn above and below, so that Tab and quick scrolling find something

export class WindowList extends HTMLElement {
  /** @type {{count: number, height: number, row: (index: number) => unknown, look: (from: number, to: number) => void} | null} */
  #view = null;
  #from = -1;
  #to = -1;

  connectedCallback() {
    this.addEventListener("scroll", this.#draw, { passive: true });
    this.#sizes.observe(this);
  }

  disconnectedCallback() {
    this.#sizes.disconnect();
  }

  /** @param {{count: number, height: number, row: (index: number) => unknown, look: (from: number, to: number) => void}} view */
  set view(view) {
    this.#view = view;
    this.#draw();
  }

  #draw = () => {
    if (this.#view === null) return;
    const { count, height, row, look } = this.#view;
    const from = Math.max(0, Math.floor(this.scrollTop / height) - MORE);
    const to = Math.min(count, Math.ceil((this.scrollTop + this.clientHeight) / height) + MORE);
    if (from !== this.#from || to !== this.#to) {
      this.#from = from;
      this.#to = to;
      look(from, to);
    }
    const rows = [];
    for (let i = from; i < to; i++) rows.push(row(i));
    render(html`<div class="window-all"><div class="window-rows" role="list">${rows}</div></div>`, this);
    const all = /** @type {HTMLElement} */ (this.firstElementChild);
    all.style.height = `${count * height}px`;
    const shown = /** @type {HTMLElement} */ (all.firstElementChild);
    shown.style.transform = `translateY(${from * height}px)`;
  };

  #sizes = new ResizeObserver(() => this.#draw());
}

customElements.define("window-list", WindowList);
