// A question on its way to its answer: ask, stop, ask again, edit, go on.

import * as api from "./api.js";
import { address, conversations, isAnswering, stateOf, turnOf, turnsOf, underWay } from "./conversations.js";
import { removeAllNow } from "./removal.js";
import { changed, notice, say, set, state } from "./store.js";
import { count, titleOf } from "./words.js";

const NEAREST = 3;
/** The temperature of what is asked again: at 0 it would be answered in the very same words. */
const OTHER_WORDS = 0.7;

/** Turns whose answer is on its way. @type {Map<Turn, AbortController>} */
const running = new Map();

/** Ask something new in the conversation that is shown. @param {string} question */
export async function ask(question) {
  const words = question.trim();
  const { conversation } = state;
  if (words === "" || isAnswering(conversation)) return;
  const turn = turnOf(words, {});
  conversation.turns.push(turn);
  if (!conversation.title) conversation.title = titleOf(words);
  set({ draft: "", atEnd: true });
  await answer(conversation, turn, false);
}

/** End an answer here; what came stays. */
export function stop() {
  for (const turn of state.conversation.turns) running.get(turn)?.abort();
}

/** Ask the same again, to be answered in other words. @param {Turn} turn */
export function again(turn) {
  const temperature = state.settings.temperature ?? state.about?.defaults?.temperature ?? 0;
  return replace(turn, turn.question, { temperature: temperature || OTHER_WORDS });
}

/** Ask what could not be answered. @param {Turn} turn */
export const tryAgain = (turn) => replace(turn, turn.question, {});

/** Ask something else in its place. @param {Turn} turn @param {string} question */
export async function edit(turn, question) {
  set({ editing: 0 });
  if (question.trim() !== "") await replace(turn, question.trim(), {});
}

/** Go on where an answer broke off: the same seed gives the same words. @param {Turn} turn */
export const goOn = (turn) => {
  const { text, citations, seed, temperature } = turn.answer;
  return replace(turn, turn.question, { text, citations, seed, temperature });
};

/** @param {Turn} old @param {string} question @param {Partial<Answer>} kept what stays while it is asked anew */
async function replace(old, question, kept) {
  const { conversation } = state;
  if (isAnswering(conversation)) return;
  const at = conversation.turns.indexOf(old);
  const turn = turnOf(question, kept, old.id);
  conversation.turns.splice(at, Infinity, turn);
  set({ atEnd: true });
  await answer(conversation, turn, true);
}

/** @param {Conversation} conversation @param {Turn} turn @param {boolean} replaces it is in the place of another */
async function answer(conversation, turn, replaces) {
  const controller = new AbortController();
  running.set(turn, controller);
  underWay.add(conversation);
  changed();
  try {
    await removeAllNow();
    if (conversation.id === "") await keep(conversation);
    if (replaces) turn.id = await idOf(conversation, turn);
    await inTurn(conversation, turn, controller.signal);
    if (turn.answer.state === "nothing") await nearest(turn);
  } catch (error) {
    turn.id = ""; // who knows how far the server came with it
    broke(turn.answer, /** @type {Error} */ (error));
  }
  running.delete(turn);
  underWay.delete(conversation);
  tell(turn.answer);
  changed();
  conversations.refresh();
}

/** Have the server keep a conversation. @param {Conversation} conversation */
async function keep(conversation) {
  conversation.id = (await api.conversations.create()).id;
  if (state.conversation === conversation) address(conversation.id);
  conversations.refresh();
}

/** What the server calls a question; "" where it never heard it. @param {Conversation} conversation @param {Turn} turn */
async function idOf(conversation, turn) {
  if (turn.id) return turn.id;
  const kept = turnsOf((await api.conversations.get(conversation.id)).messages);
  return kept[conversation.turns.indexOf(turn)]?.id ?? "";
}

/** Ask until there is a place. @param {Conversation} conversation @param {Turn} turn @param {AbortSignal} signal */
async function inTurn(conversation, turn, signal) {
  for (;;) {
    try {
      await take(turn, api.ask(request(conversation, turn), signal));
      return;
    } catch (error) {
      const wait = error instanceof api.ApiError && [429, 503].includes(error.status) && error.after;
      if (!wait) throw error;
      Object.assign(turn.answer, { state: "queued", retryAt: Date.now() + wait * 1000 });
      changed();
      await pause(wait * 1000, signal);
    }
  }
}

/** Where it is looked for, and how. */
function filters() {
  const { sources, mode } = state.settings;
  return { where: sources.length > 0 ? { $source: { $in: sources } } : null, mode };
}

/** @param {Conversation} conversation @param {Turn} turn */
function request(conversation, turn) {
  const { sources: _, ...options } = state.settings;
  return {
    ...options,
    ...filters(),
    temperature: turn.answer.temperature ?? options.temperature,
    question: turn.question,
    conversation: conversation.id,
    replaces: turn.id || null,
    seed: turn.answer.seed,
  };
}

/** Take an answer's events. @param {Turn} turn @param {AsyncGenerator<{event: string, data: any}>} events */
async function take(turn, events) {
  const { answer } = turn;
  const kept = answer.text;
  let text = "";
  for await (const { event, data } of events) {
    if (event === "sources") {
      Object.assign(answer, { state: "writing", citations: data });
    } else if (event === "token") {
      text += data.text;
      // What came before stays until the same words, made again, go beyond it.
      answer.text = kept.startsWith(text) ? kept : text;
    } else if (event === "done") {
      done(turn, data);
      return;
    } else if (event === "error") {
      throw new api.ApiError(200, data.error.message, data.error.code);
    }
    changed();
  }
  throw new api.ApiError(0, "The connection broke.");
}

/** @param {Turn} turn @param {any} data */
function done(turn, data) {
  turn.id = data.question_id ?? turn.id;
  Object.assign(turn.answer, {
    text: data.answer,
    state: stateOf(data.finish_reason),
    citations: data.citations,
    nearest: data.nearest ?? [],
    timings: data.timings,
    usage: data.usage,
    finish: data.finish_reason,
  });
}

/** What comes nearest to a question that the documents do not answer. @param {Turn} turn */
async function nearest({ question, answer }) {
  if (answer.nearest.length > 0) return;
  const { where, mode } = filters();
  answer.nearest = await api.search({ question, where, mode, k: NEAREST }).catch(() => []);
}

/** An answer that came to no end of its own. @param {Answer} answer @param {Error} error */
function broke(answer, error) {
  const lost = error instanceof api.ApiError && (error.status === 0 || error.code === "stopping");
  if (error.name === "AbortError") answer.state = "stopped";
  else answer.state = lost || answer.text ? "interrupted" : "failed";
  answer.error = error.message;
}

/** For those who listen to the page. @param {Answer} answer */
function tell(answer) {
  if (answer.state === "done") say(`Answer from ${count(answer.citations.length, "passage")}: ${answer.text}`);
  else if (answer.state === "nothing") say("Not in your documents.");
  else if (answer.state === "stopped") say("Stopped.");
  else say(`The answer did not come to its end. ${answer.error}`);
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
  return new Promise((go, end) => {
    const timer = setTimeout(go, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      end(new DOMException("stopped", "AbortError"));
    });
  });
}

/** Copy an answer, with its sources below. @param {Answer} answer */
export async function copy(answer) {
  const sources = answer.citations.map((citation, i) => `[${i + 1}] ${citation.name}`);
  await navigator.clipboard.writeText([answer.text, ...(sources.length ? ["", ...sources] : [])].join("\n"));
  notice("Copied.", { seconds: 2 });
}
