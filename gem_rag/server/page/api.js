// Every request the page makes. Errors are `ApiError`s with the server's own words.

import { eventsOf } from "./sse.js";

export class ApiError extends Error {
  /** @param {number} status 0 where the server cannot be reached @param {string} message @param {string} code @param {number} after seconds */
  constructor(status, message, code = "", after = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.after = after;
  }
}

/** @type {() => void} */
let keyNeeded = () => {};

/** Have this called when the server wants a key. @param {() => void} ask */
export function onKeyNeeded(ask) {
  keyNeeded = ask;
}

/**
 * @param {string} path below /api
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
async function request(path, options) {
  let response;
  try {
    response = await fetch(`/api/${path}`, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is gem-rag serve still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) keyNeeded();
  throw await refusal(response);
}

/** @param {Response} response */
async function refusal(response) {
  const after = Number(response.headers.get("Retry-After") ?? 0);
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? `The server answered ${response.status}.`;
  return new ApiError(response.status, message, said?.error?.code ?? "", after);
}

/** @param {string} path @returns {Promise<any>} */
const get = async (path) => (await request(path)).json();

/** @param {string} path @param {unknown} body @param {RequestInit} [options] */
const send = (path, body, options) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    ...options,
  });

/** @param {string} path @param {boolean} [leaving] the page is being left: it is sent all the same */
const remove = (path, leaving = false) => request(path, { method: "DELETE", keepalive: leaving });

/**
 * Part of a long list, and how long it is in all.
 * @param {string} path
 * @param {{q?: string, state?: string, offset?: number, limit?: number}} query
 * @returns {Promise<{rows: any[], total: number}>}
 */
async function part(path, { q = "", state = "", offset = 0, limit = 100 }) {
  const query = new URLSearchParams({ offset: String(offset), limit: String(limit) });
  if (q) query.set("q", q);
  if (state) query.set("state", state);
  const response = await request(`${path}?${query}`);
  const rows = await response.json();
  return { rows, total: Number(response.headers.get("X-Total-Count") ?? rows.length) };
}

/** @param {string} id */
const at = (id) => encodeURIComponent(id);

/** @returns {Promise<ServerSettings>} */
export const settings = () => get("settings");

/** @param {string} key */
export const signIn = (key) => send("auth", { key });

/**
 * Ask: the events of an answer, as they come.
 * @param {object} question
 * @param {AbortSignal} signal
 */
export async function* ask(question, signal) {
  const response = await send("ask", question, { signal });
  try {
    yield* eventsOf(response);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The connection broke.");
  }
}

/** The passages that come nearest to a question, best first. @param {object} question @returns {Promise<Citation[]>} */
export const search = async (question) => (await (await send("search", question)).json()).citations;

export const documents = {
  /** @param {{q?: string, state?: string, offset?: number, limit?: number}} query */
  list: (query) => part("documents", query),
  /** @param {string} id */
  get: (id) => get(`documents/${at(id)}`),
  /** @param {string} id @param {boolean} [leaving] */
  remove: (id, leaving) => remove(`documents/${at(id)}`, leaving),
  /** @param {string} id */
  again: (id) => send(`documents/${at(id)}/reindex`, {}),
  failedAgain: () => send("documents/reindex", { failed: true }),
  /** @param {{file: File, name: string}[]} files @returns {Promise<{documents: Doc[], refused: {name: string, error: any}[]}>} */
  async add(files) {
    const body = new FormData();
    for (const { file, name } of files) body.append("files", file, name);
    return (await request("documents", { method: "POST", body })).json();
  },
};

export const folders = {
  /** @param {string} path */
  add: (path) => send("folders", { path }),
  /** @param {string} id */
  remove: (id) => remove(`folders/${at(id)}`),
};

export const conversations = {
  /** @param {{q?: string, offset?: number, limit?: number}} query */
  list: (query) => part("conversations", query),
  /** @returns {Promise<ConversationSummary>} */
  create: async () => (await send("conversations", {})).json(),
  /** @param {string} id @returns {Promise<ConversationSummary & {messages: Message[]}>} */
  get: (id) => get(`conversations/${at(id)}`),
  /** @param {string} id @param {string} title */
  rename: (id, title) => send(`conversations/${at(id)}`, { title }, { method: "PATCH" }),
  /** @param {string} id @param {boolean} [leaving] */
  remove: (id, leaving) => remove(`conversations/${at(id)}`, leaving),
  /** @param {string} id @param {"markdown" | "json"} format the address of a file to keep */
  exported: (id, format) => `/api/conversations/${at(id)}/export?format=${format}`,
};
