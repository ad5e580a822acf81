// Files from the disk: chosen, or dropped anywhere on the page.

import { html } from "../vendor/lit-html/lit-html.js";
import { addFiles, filesOf } from "../documents.js";
import { set, state } from "../store.js";
import { icon } from "./parts.js";

/** Let the user choose files. */
export function chooseFiles() {
  const input = document.createElement("input");
  input.type = "file";
  input.multiple = true;
  input.accept = (state.about?.limits?.suffixes ?? []).join(",");
  input.addEventListener("change", () => {
    addFiles([...(input.files ?? [])].map((file) => ({ file, name: file.name })));
  });
  input.click();
}

/** Take what is dropped on the page. */
export function watchDrops() {
  let depth = 0; // enter and leave come for every element passed over
  const has = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragenter", (event) => {
    if (!has(event)) return;
    depth += 1;
    set({ dragging: true });
  });
  addEventListener("dragleave", (event) => {
    if (has(event) && --depth === 0) set({ dragging: false });
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    set({ dragging: false });
    if (event.dataTransfer !== null && has(event)) addFiles(await filesOf(event.dataTransfer));
  });
}

export const dropView = () => html`
  <div class="drop-over" aria-hidden="true">
    <div>${icon("file-plus")}<p>Drop files or folders to add them to your documents</p></div>
  </div>`;
