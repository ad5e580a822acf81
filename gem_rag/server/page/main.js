// Where the page begins.

import { render } from "./vendor/lit-html/lit-html.js";
import { fromAddress, newConversation, openConversation } from "./conversations.js";
import { watchCitations } from "./hover.js";
import { watchKeys } from "./keyboard.js";
import { connect } from "./server.js";
import { loadSettings } from "./settings.js";
import { changed, onChange, state } from "./store.js";
import { appView, followEnd, tellsTime } from "./views/app.js";
import { fitInput } from "./views/composer.js";
import { syncDialog } from "./views/dialogs.js";
import { watchDrops } from "./views/files.js";

const root = /** @type {HTMLElement} */ (document.getElementById("app"));

function draw() {
  render(appView(), root);
  fitInput();
  syncDialog();
  followEnd();
  document.title = state.conversation.title || "Ask your documents";
}

async function start() {
  loadSettings();
  onChange(draw);
  watchKeys();
  watchCitations();
  watchDrops();
  root.replaceChildren();
  draw();
  setInterval(() => tellsTime() && changed(), 1000);
  await connect();
  const id = fromAddress();
  if (id) openConversation(id);
  else newConversation();
}

start();
