// Is the server there, is the model loaded, what is it reading: watched for as long as the page is
// open. When the server goes away the page says so and finds it again by itself.

import * as api from "./api.js";
import { documents } from "./documents.js";
import { conversations, openConversation } from "./conversations.js";
import { changed, say, set, state } from "./store.js";

const RETRY_MS = 1500;
const LISTING_MS = 150;
let listing = 0;
let retrying = 0;
/** @type {EventSource | null} */
let source = null;

/** Ask the server how it is, until it answers; then listen. */
export async function connect() {
  try {
    state.about = await api.settings();
  } catch {
    set({ server: "gone" });
    again();
    return;
  }
  if (state.about.model === undefined && state.about.key_needed) {
    set({ server: "locked", dialog: "key" });
    return;
  }
  took(state.about.state);
  listen();
}

/** Give the server the key; it answers with a cookie that this page cannot read. @param {string} key */
export async function unlock(key) {
  await api.signIn(key);
  set({ dialog: "" });
  await connect();
}

function again() {
  clearTimeout(retrying);
  retrying = setTimeout(connect, RETRY_MS);
}

function listen() {
  source?.close();
  source = new EventSource("/api/events");
  on("state", (data) => took(data.state));
  on("indexing", (data) => set({ progress: data }));
  on("folders", (data) => set({ folders: data }));
  on("documents", (data) => {
    set({ counts: data, countsKnown: true });
    listSoon();
  });
  source.onerror = () => {
    source?.close();
    set({ server: "gone" });
    again();
  };
}

/** A thousand files are a few looks at the list. */
function listSoon() {
  listing ||= setTimeout(() => {
    listing = 0;
    documents.refresh();
  }, LISTING_MS);
}

/** @param {string} event @param {(data: any) => void} act */
function on(event, act) {
  source?.addEventListener(event, (message) => act(JSON.parse(message.data)));
}

/** @param {"loading" | "ready" | "stopping"} said */
async function took(said) {
  const before = state.server;
  state.server = said === "stopping" ? "gone" : said;
  changed();
  if (before === state.server || state.server === "gone") return;
  documents.refresh();
  conversations.refresh();
  const { id, turns } = state.conversation;
  if (id !== "" && turns.length === 0) openConversation(id); // it could not be opened before
  if (state.server !== "ready") return;
  if (before === "loading") say("The model is loaded.");
  if (!state.about?.defaults) set({ about: await api.settings() });
}

// A browser keeps six connections to a server; tabs that nobody looks at leave them to the others.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else if (state.server !== "locked") connect();
});

api.onKeyNeeded(() => set({ server: "locked", dialog: "key" }));
