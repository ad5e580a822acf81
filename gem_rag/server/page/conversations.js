// Conversations: the server keeps them; the page lists, opens, renames and removes.

import * as api from "./api.js";
import { PagedList } from "./paged.js";
import { removeLater } from "./removal.js";
import { changed, notice, set, state } from "./store.js";

/** @type {PagedList<ConversationSummary>} */
export const conversations = new PagedList((query) => api.conversations.list(query));

/** Conversations in which an answer is on its way: the server has not all of it yet. @type {Set<Conversation>} */
export const underWay = new Set();

/** Whether an answer is on its way in a conversation. @param {Conversation} conversation */
export const isAnswering = (conversation) => underWay.has(conversation);

let lastKey = 0;

/** @param {string} question @param {Partial<Answer>} answer @param {string} [id] @returns {Turn} */
export function turnOf(question, answer, id = "") {
  return { key: ++lastKey, id, question, answer: { ...blank(), ...answer } };
}

/** @returns {Answer} */
const blank = () => ({
  text: "",
  state: "finding",
  citations: [],
  nearest: [],
  timings: {},
  usage: {},
  finish: "",
  error: "",
  seed: Math.floor(Math.random() * 2 ** 31),
  temperature: null,
  retryAt: 0,
});

/** Start anew: the server hears of it with the first question. */
export function newConversation() {
  state.conversation = { id: "", title: "", turns: [] };
  state.atEnd = true;
  set({ leftOpen: false, editing: 0 });
  address("");
  focusInput();
}

/** Show one that is kept. @param {string} id */
export async function openConversation(id) {
  const live = [...underWay].find((conversation) => conversation.id === id);
  state.conversation = live ?? { id, title: "", turns: [] };
  state.atEnd = true;
  set({ leftOpen: false, opening: live === undefined, editing: 0 });
  address(id);
  if (live !== undefined) return;
  try {
    const kept = await api.conversations.get(id);
    if (state.conversation.id !== id) return; // another was opened meanwhile
    state.conversation = { id, title: kept.title, turns: turnsOf(kept.messages) };
  } catch (error) {
    if (error instanceof api.ApiError && error.status === 404) {
      notice("This conversation is not there any more.");
      newConversation();
    } else if (error instanceof api.ApiError && error.status !== 401) {
      notice(`Not opened: ${error.message}`, { kind: "error" });
    }
  } finally {
    set({ opening: false });
  }
  focusInput();
}

/** Questions with their answers. @param {Message[]} messages */
export function turnsOf(messages) {
  /** @type {Turn[]} */
  const turns = [];
  for (const message of messages) {
    if (message.role === "user") {
      turns.push(turnOf(message.content, { state: "interrupted" }, message.id));
    } else if (turns.length > 0) {
      Object.assign(turns[turns.length - 1].answer, keptAnswer(message));
    }
  }
  return turns;
}

/** @param {Message} message @returns {Partial<Answer>} */
function keptAnswer(message) {
  const finish = message.finish_reason ?? "";
  return {
    text: message.content,
    state: stateOf(finish),
    citations: message.citations ?? [],
    nearest: message.nearest ?? [],
    timings: message.timings ?? {},
    usage: message.usage ?? {},
    finish,
  };
}

/** How an answer ended, by the server's word for it. @param {string} finish @returns {AnswerState} */
export function stateOf(finish) {
  if (finish === "nothing_found") return "nothing";
  return finish === "cancelled" || finish === "" ? "interrupted" : "done";
}

/** @param {ConversationSummary} conversation @param {string} title */
export async function rename(conversation, title) {
  const name = title.trim();
  if (name === "" || name === conversation.title) return;
  try {
    await api.conversations.rename(conversation.id, name);
  } catch (error) {
    notice(`Not renamed: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    return;
  }
  if (state.conversation.id === conversation.id) state.conversation.title = name;
  conversations.refresh();
  changed();
}

/** @param {ConversationSummary} conversation */
export function removeConversation({ id, title }) {
  removeLater(
    id,
    `“${title}” is removed.`,
    (leaving) => api.conversations.remove(id, leaving),
    () => conversations.refresh(),
  );
  if (state.conversation.id === id) newConversation();
}

/** The conversation that the address names, if any. */
export function fromAddress() {
  return decodeURIComponent(location.hash.match(/^#c=(.+)$/)?.[1] ?? "");
}

/** @param {string} id */
export function address(id) {
  history.replaceState(null, "", id ? `#c=${encodeURIComponent(id)}` : location.pathname);
}

/** Put the cursor where one asks, but on a touch screen, where that brings up a keyboard. */
export function focusInput() {
  if (matchMedia("(pointer: coarse)").matches) return;
  document.getElementById("question")?.focus({ preventScroll: true });
}
