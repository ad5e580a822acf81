/** What the page's modules speak of. Positions count characters (code points), as the server does. */

interface Citation {
  id: string;
  source: string;
  /** The document's id and name; null where the passage is of none. */
  document: string | null;
  name: string;
  start: number;
  end: number;
  text: string;
  heading: string;
  page: number | null;
  score: number | null;
  rank_score: number | null;
  word_score: number | null;
  /** The sentence that answers, as places in the document; null where none was made out. */
  quote_start: number | null;
  quote_end: number | null;
}

type AnswerState =
  | "finding" // nothing came yet
  | "queued" // every place is taken
  | "writing"
  | "done"
  | "nothing" // the documents do not say
  | "stopped" // by the user
  | "interrupted" // the stream broke, or the page was left
  | "failed";

interface Answer {
  text: string;
  state: AnswerState;
  citations: Citation[];
  /** Where nothing relevant was found: the passages that come closest. */
  nearest: Citation[];
  /** Seconds, by step. */
  timings: Record<string, number>;
  usage: Record<string, number>;
  finish: string;
  error: string;
  /** What it was drawn with: the same seed gives the same words, so that it can go on. */
  seed: number;
  /** null: as the settings have it. */
  temperature: number | null;
  /** Milliseconds since 1970 when it is tried again; only while queued. */
  retryAt: number;
}

/** A question and its answer; `id` is the question's at the server, "" while that is not known. */
interface Turn {
  key: number;
  id: string;
  question: string;
  answer: Answer;
}

interface ConversationSummary {
  id: string;
  title: string;
  updated: string;
}

interface Conversation {
  /** "" until the server keeps it. */
  id: string;
  title: string;
  turns: Turn[];
}

/** A message of a conversation as the server keeps it. */
interface Message {
  id: string;
  role: "user" | "assistant";
  content: string;
  finish_reason?: string | null;
  citations?: Citation[];
  nearest?: Citation[];
  timings?: Record<string, number>;
  usage?: Record<string, number>;
}

/** What the server says of itself. */
interface ServerSettings {
  key_needed: boolean;
  state: "loading" | "ready" | "stopping";
  model?: { name: string; max_context: number } | null;
  defaults?: Record<string, any> | null;
  limits?: { file_bytes: number; upload_bytes: number; files: number; max_tokens: number; suffixes: string[] };
  folders?: { allowed: boolean; roots: string[] };
  index?: string;
}

type DocumentState = "queued" | "indexing" | "ready" | "failed";

interface Doc {
  id: string;
  source: string;
  name: string;
  folder: string | null;
  state: DocumentState;
  chunks: number;
  error: string | null;
}

interface Folder {
  id: string;
  path: string;
  state: "looking" | "watching" | "away";
  documents: number;
  looked: string | null;
}

/** What is being read: `done` of `total` files, seconds left where that can be said. */
interface Progress {
  state: "indexing" | "idle";
  done: number;
  total: number;
  failed: number;
  seconds_left: number | null;
  current: string | null;
}

interface Passage {
  id: string;
  start: number;
  end: number;
  heading: string;
  page: number | null;
}

/** A document that is open beside the conversation. */
interface OpenDocument {
  id: string;
  name: string;
  state: "loading" | "shown" | "failed";
  error: string;
  text: string;
  passages: Passage[];
  /** The passages that one may step through, and which of them is in view (-1: none). */
  citations: Citation[];
  at: number;
  /** Grows each time a passage is asked for, the same one among it. */
  round: number;
}

/** What the user set; what is left out is the server's default. */
interface Settings {
  context?: number;
  k?: number;
  mode?: "hybrid" | "vector" | "words";
  temperature?: number;
  /** "auto": as the model was measured; null: always answer. */
  threshold?: "auto" | null | number;
  max_tokens?: number;
  /** Sources to answer from; empty is all. */
  sources: string[];
}

interface Notice {
  id: number;
  text: string;
  kind: "plain" | "error";
  action: string;
  act: (() => void) | null;
}

type ServerState = "connecting" | "loading" | "ready" | "gone" | "locked";

type DialogName = "" | "settings" | "keys" | "key" | "folder" | "scope" | "remove" | "failed" | "palette";
