// What the page shows, in one object; whoever changes it says so, and it is drawn once a frame.

export const state = {
  /** @type {ServerState} */ server: "connecting",
  /** What the server said of itself. @type {ServerSettings | null} */ about: null,

  /** @type {Conversation} */ conversation: { id: "", title: "", turns: [] },
  /** Its words are on their way. */
  opening: false,
  /** What stands in the input. */
  draft: "",
  /** The turn whose question is being edited: its key. */
  editing: 0,

  /** Documents by state. */
  counts: { ready: 0, queued: 0, failed: 0 },
  countsKnown: false,
  /** @type {Folder[]} */ folders: [],
  /** @type {Progress | null} */ progress: null,
  /** Files on their way to the server: how many of how many. */
  uploading: { done: 0, total: 0 },
  /** Documents and conversations that go unless the user takes it back. @type {Set<string>} */
  removing: new Set(),

  /** @type {OpenDocument | null} */ open: null,

  /** @type {Settings} */ settings: { sources: [] },
  /** @type {DialogName} */ dialog: "",
  /** What the dialog is about. @type {Doc | Folder | ConversationSummary | null} */
  subject: null,
  /** The left column: over the page (narrow), and folded (wide). */
  leftOpen: false,
  leftFolded: false,
  /** Something is dragged over the page. */
  dragging: false,
  /** @type {Notice[]} */ notices: [],
  /** What a screen reader says next. */
  said: "",
  /** The view is at the end of the conversation. */
  atEnd: true,
};

/** @type {() => void} */
let draw = () => {};
let waiting = false;

/** Have `drawing` called once a frame after changes. @param {() => void} drawing */
export function onChange(drawing) {
  draw = drawing;
}

/** Say that `state` is other than it was. */
export function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

/** Draw at once: what is typed next goes to what is shown now. */
export const drawNow = () => draw();

/** Change `state` and say so; a dialog is opened or closed at once. @param {Partial<typeof state>} part */
export function set(part) {
  const moves = part.dialog !== undefined && part.dialog !== state.dialog;
  Object.assign(state, part);
  if (moves) drawNow();
  else changed();
}

/** Have a screen reader say this once. @param {string} text */
export function say(text) {
  set({ said: text });
}

let lastNotice = 0;

/**
 * A line at the bottom that goes by itself.
 * @param {string} text
 * @param {{kind?: "plain" | "error", action?: string, act?: () => void, seconds?: number}} [options]
 * @returns {number} its id, for `unnotice`
 */
export function notice(text, { kind = "plain", action = "", act, seconds = 6 } = {}) {
  const id = ++lastNotice;
  state.notices = [...state.notices.slice(-2), { id, text, kind, action, act: act ?? null }];
  setTimeout(() => unnotice(id), seconds * 1000);
  say(text);
  return id;
}

/** Take a notice away. @param {number} id */
export function unnotice(id) {
  set({ notices: state.notices.filter((each) => each.id !== id) });
}
