"use strict";

/* The labelling page. It asks and tells the server below its own path, and no other.
   An answer is painted at once and marked as pending until the server has it on its disk. */

const VIEWS = [
  ["next", "Next to label"], ["unlabelled", "Unlabelled"], ["labelled", "Labelled"], ["mine", "Mine"],
  ["doubted", "Doubted"], ["disagreed", "Disagreed"], ["skipped", "Skipped"],
];
const NOTES = {
  next: "The samples from which labels reach most of the pool. In italics: what is predicted.",
  unlabelled: "What has no label yet.",
  labelled: "What people said.",
  mine: "What you said, the newest first.",
  doubted: "Labels that the others contradict, the surest first. Answer again where they are wrong.",
  disagreed: "People say different things of these. Your answer here settles it.",
  skipped: "What you skipped.",
  class: "Look for mistakes: an answer here corrects the prediction and becomes a label.",
  like: "The first one, and what is most like it.",
  copies: "The first one, and what is nearly the same.",
  audit: "Drawn at random. Nothing is shown of what is predicted, so that your answers can judge it.",
};
const KEYS = [
  ["1 … 9", "the first nine classes"], ["/ or Enter", "another class, or a new one: type its name"],
  ["x", "none of these"], ["s", "skip"], ["u", "undo your last step"], ["Backspace", "take the label away"],
  ["arrows", "move"], ["Shift + arrows", "select"], ["Ctrl + A", "select all"], ["Esc", "select nothing, or back to the next samples"],
  ["space", "zoom; answer there, too"], ["a", "accept what is predicted of this row"], ["A", "accept it of the whole screen, such as what m or a class shows"],
  ["m", "more like this"], ["d", "near-duplicates of this"], ["v", "go through the views"], ["n", "other samples"], ["?", "these keys"],
];
const WORDS = { none: "none of these", skip: "skipped" };
const LEFT = ["unlabelled", "doubted", "disagreed", "skipped"]; // views that a sample leaves when it is answered
const OF_A_CLASS = ["unlabelled", "labelled", "mine", "doubted", "disagreed", "skipped"]; // views that can be narrowed to one
const FEWEST = 6, MOST = 60, PAGE = 60, MEMBERS = 24;
const LISTED = 200; // tiles that the server tells at once, at the most

const byId = (id) => document.getElementById(id);
const grid = byId("grid");
const state = {
  view: "next", of: null, sample: null, tiles: [], sections: [], cursor: 0, anchor: 0, selected: new Set(),
  ahead: [], names: new Map(), first: [], summary: null, total: 0, editing: null, choose: null, choices: [], choice: 0,
  turn: 0, predicted: -1, turning: false,
};

// Asking the server

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, { ...options, credentials: "same-origin" });
  } catch {
    throw { status: 0, error: "The server does not answer. Nothing more is kept until it does: start graphfsl annotate again." };
  }
  const isJson = (answer.headers.get("content-type") || "").startsWith("application/json");
  const told = isJson ? await answer.json() : { error: (await answer.text()).trim() };
  if (!answer.ok) throw { status: answer.status, ...told };
  return told;
}

function ask(question, fields = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  return call(`api/${question}?${query}`);
}

let sending = Promise.resolve();
function send(action, body) { // one after the other, in the order in which they were given
  const request = `${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  const sent = sending.then(() => call(`api/${action}`, { ...(typeof body === "function" ? body() : body), request }));
  sending = sent.catch(() => {});
  return sent;
}

let saidUntil = 0;
function say(text) {
  byId("said").textContent = text;
  clearTimeout(saidUntil);
  saidUntil = setTimeout(() => { byId("said").textContent = ""; }, 3500);
}

let alarmUntil = 0;
function alarm(error) {
  byId("alarm").textContent = error.error || String(error);
  clearTimeout(alarmUntil);
  alarmUntil = setTimeout(() => { byId("alarm").textContent = ""; }, 9000);
}

// Painting

function nameOf(value) {
  if (value === null || value === undefined) return "";
  return WORDS[value] || state.names.get(value) || "…";
}

function element(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeTile(tile, position) {
  const box = element("div", "tile");
  box.id = `tile-${tile.n}`;
  box.setAttribute("role", "option");
  const picture = element("img");
  picture.alt = "";
  picture.loading = position < MOST ? "eager" : "lazy";
  picture.decoding = "async";
  picture.src = `picture/${tile.n}/small?v=${encodeURIComponent(tile.v)}`;
  const words = element("div", "words");
  words.append(element("span", "label"), element("span", "score"));
  box.append(picture, words);
  box.addEventListener("click", (event) => clicked(position, event));
  box.addEventListener("dblclick", () => zoom());
  tile.box = box;
  paint(tile, position);
  return box;
}

function paint(tile, position) {
  if (!tile.box) return;
  const label = tile.box.querySelector(".label"), score = tile.box.querySelector(".score");
  const answered = tile.own !== null && tile.own !== undefined;
  const shown = answered ? tile.own : tile.guess;
  label.textContent = nameOf(shown);
  label.classList.toggle("guess", !answered);
  let aside = !answered && tile.score ? tile.score.toFixed(2) : "";
  const others = Object.entries(tile.others || {});
  if (others.length) aside = others.map(([user, value]) => `${user}: ${nameOf(value)}`).join(", ");
  if (tile.doubt) aside = `${nameOf(tile.doubt.says)}? ${tile.doubt.p.toFixed(2)}`;
  score.textContent = aside;
  const marks = tile.box.classList;
  marks.toggle("answered", answered);
  marks.toggle("pending", Boolean(tile.pending));
  marks.toggle("doubted", Boolean(tile.doubt));
  marks.toggle("two-lines", Boolean(tile.doubt) || others.length > 0);
  marks.toggle("selected", state.selected.has(position));
  marks.toggle("cursor", position === state.cursor);
  tile.box.setAttribute("aria-selected", String(state.selected.has(position)));
  const what = answered ? nameOf(tile.own) : shown ? `predicted ${nameOf(shown)} ${aside}` : "no label";
  tile.box.setAttribute("aria-label", `${tile.name}: ${what}`);
}

function repaint() {
  state.tiles.forEach(paint);
  const tile = state.tiles[state.cursor];
  if (tile) grid.setAttribute("aria-activedescendant", `tile-${tile.n}`);
  else grid.removeAttribute("aria-activedescendant");
  if (byId("zoom").open) showZoomed();
}

function showTiles(sections) {
  state.turning = false;
  state.sections = sections.filter(([, tiles]) => tiles.length);
  state.tiles = state.sections.flatMap(([, tiles]) => tiles);
  state.selected.clear();
  grid.replaceChildren();
  let position = 0;
  for (const [name, tiles] of state.sections) {
    const group = element("div", "section");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", name || byId("heading").textContent);
    if (name) {
      const heading = element("div", "section-name", name);
      heading.setAttribute("role", "presentation");
      group.append(heading);
    }
    for (const tile of tiles) group.append(makeTile(tile, position++));
    grid.append(group);
  }
  byId("empty").hidden = state.tiles.length > 0;
  grid.hidden = state.tiles.length === 0;
  if (!state.tiles.length) byId("empty").textContent = emptyText();
  moveTo(Math.min(state.cursor, state.tiles.length - 1));
}

function emptyText() {
  if (state.view === "next") return "Every sample has an answer, or is with somebody else. Look through the classes, or export.";
  return "Nothing here.";
}

function moveTo(position, extend = false) {
  state.cursor = Math.max(0, Math.min(position, state.tiles.length - 1));
  if (extend) {
    state.selected.clear();
    const [from, to] = [Math.min(state.anchor, state.cursor), Math.max(state.anchor, state.cursor)];
    for (let i = from; i <= to; i++) state.selected.add(i);
  } else {
    state.anchor = state.cursor;
  }
  repaint();
  const tile = state.tiles[state.cursor];
  if (tile && tile.box) tile.box.scrollIntoView({ block: "nearest" });
}

function clicked(position, event) {
  grid.focus({ preventScroll: true });
  const touch = window.matchMedia("(pointer: coarse)").matches;
  if (event.shiftKey) { moveTo(position, true); return; }
  if (event.ctrlKey || event.metaKey || touch) {
    state.cursor = state.anchor = position;
    if (state.selected.has(position)) state.selected.delete(position); else state.selected.add(position);
    repaint();
    return;
  }
  state.selected.clear();
  moveTo(position);
}

// Answers

function chosen() {
  const positions = state.selected.size ? [...state.selected].sort((a, b) => a - b) : [state.cursor];
  return positions.map((i) => state.tiles[i]).filter(Boolean);
}

function answer(tiles, valueOf, bulk = false) {
  if (state.turning) { say("The next samples are coming."); return; } // what is shown is answered
  if (!tiles.length) { say("There is nothing to answer here."); return; }
  const before = tiles.map((tile) => ({ tile, own: tile.own, how: tile.how }));
  const { view } = state;
  for (const tile of tiles) {
    tile.own = valueOf(tile) === "clear" ? null : valueOf(tile);
    tile.answered = true; // since it was shown
    tile.pending = (tile.pending || 0) + 1;
  }
  const values = tiles.map((tile) => [tile, valueOf(tile)]);
  state.selected.clear();
  moveOn();
  const audit = view === "audit" && state.summary && state.summary.audit ? state.summary.audit.audit : null;
  send("answer", () => ({
    view, bulk, audit,
    answers: values.map(([tile, value]) => ({ n: tile.n, value, seen: tile.seen || 0 })),
  })).then((told) => {
    for (const tile of tiles) tile.pending -= 1;
    told.tiles.forEach(takeOver);
    repaint();
    if (view === state.view) turnOver();
    refreshSoon();
  }).catch((error) => {
    state.turning = false;
    for (const { tile, own, how } of before) { tile.pending -= 1; tile.own = own; tile.how = how; }
    if (error.tiles) error.tiles.forEach(takeOver);
    repaint();
    const advice = error.status === 409 ? "Answered in another tab meanwhile; it is shown now. Answer again to change it." : null;
    alarm(advice ? { error: advice } : error);
  });
}

function takeOver(told) {
  for (const tile of state.tiles) if (tile.n === told.n && !tile.pending) Object.assign(tile, told);
}

function moveOn() {
  const free = (i) => state.tiles[i] && (state.tiles[i].own === null || state.tiles[i].own === undefined);
  if (state.view !== "next" && state.view !== "audit" && state.view !== "unlabelled") { moveTo(state.cursor + 1); return; }
  for (let step = 1; step <= state.tiles.length; step++) {
    const i = (state.cursor + step) % state.tiles.length;
    if (free(i)) { moveTo(i); return; }
  }
  state.turning = state.view !== "unlabelled";
  repaint();
}

function acceptable(tiles) {
  return tiles.filter((tile) => tile.guess && (tile.own === null || tile.own === undefined));
}

function accept(tiles) {
  const some = acceptable(tiles);
  if (!some.length) { say("Nothing is predicted of these that is not answered."); return; }
  answer(some, (tile) => tile.guess, true);
  say(`Accepted what is predicted of ${some.length}.`);
}

function row() {
  const tile = state.tiles[state.cursor];
  if (!tile) return [];
  return state.tiles.filter((other) => other.box.offsetTop === tile.box.offsetTop);
}

async function undo() {
  state.turning = false;
  try {
    const told = await send("undo", { view: state.view });
    say(`Undone: ${told.what}`);
    await readClasses();
    const known = new Set(state.tiles.map((tile) => tile.n));
    told.tiles.forEach(takeOver);
    const lost = told.tiles.filter((tile) => !known.has(tile.n));
    if (state.view === "next" && lost.length) {
      state.cursor = 0;
      showTiles([["", [...lost, ...state.tiles]]]);
      keepScreen();
    } else {
      const first = told.tiles.length ? state.tiles.findIndex((tile) => tile.n === told.tiles[0].n) : -1;
      if (first >= 0) moveTo(first); else repaint();
    }
    refreshSoon();
  } catch (error) { alarm(error); }
}

// Screens

function screenful() {
  const width = byId("grid").clientWidth || window.innerWidth;
  const narrow = window.innerWidth <= 704;
  const columns = narrow ? 3 : Math.max(1, Math.floor((width + 10) / 146));
  const rows = Math.max(2, Math.floor((window.innerHeight - (narrow ? 330 : 230)) / (narrow ? 160 : 185)));
  return Math.max(FEWEST, Math.min(MOST, columns * rows));
}

async function deal() {
  const shown = [...state.tiles, ...state.ahead].map((tile) => tile.n);
  const told = await call("api/deal", { count: screenful(), shown });
  return told.tiles;
}

async function prefetch() {
  if (state.view !== "next" || state.ahead.length) return;
  const turn = state.turn;
  try {
    const tiles = await deal();
    if (turn !== state.turn || state.ahead.length) return;
    state.ahead = tiles;
    for (const tile of tiles) new Image().src = `picture/${tile.n}/small?v=${encodeURIComponent(tile.v)}`;
  } catch (error) { alarm(error); }
}

function turnOver() { // the next screen, once everything on this one is answered
  const open = (tile) => tile.own === null || tile.own === undefined || tile.pending;
  if (!state.tiles.length || state.tiles.some(open)) return;
  if (state.view === "next") nextScreen();
  else if (state.view === "audit") openView("audit");
}

async function nextScreen() {
  state.turn += 1;
  let tiles = state.ahead;
  state.ahead = [];
  try {
    if (!tiles.length) tiles = await deal();
    state.cursor = 0;
    showTiles([["", tiles]]);
    keepScreen();
    prefetch();
  } catch (error) { alarm(error); }
}

let keeping = 0;
function keepScreen() {
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    if (state.view !== "next") return;
    call("api/screen", { samples: state.tiles.map((tile) => tile.n), cursor: state.cursor }).catch(() => {});
  }, 250);
}

async function openView(view, fields = {}) {
  state.turn += 1;
  const turn = state.turn;
  state.view = view;
  state.of = fields.of === undefined ? (view === "class" ? state.of : null) : fields.of;
  state.sample = fields.sample === undefined ? null : fields.sample;
  state.cursor = 0;
  state.ahead = []; // dealt before: answered since in another view, perhaps, or asked by an audit
  paintViews();
  state.turning = true;
  try {
    const sections = await sectionsOf(view);
    if (turn !== state.turn) return;
    showTiles(sections);
    grid.focus({ preventScroll: true });
    if (view === "next") { keepScreen(); prefetch(); }
    if (view === "audit" && !state.tiles.length) { say("The audit is whole."); openView("next"); refreshSoon(); }
  } catch (error) { alarm(error); }
}

async function sectionsOf(view) {
  byId("more").hidden = true;
  if (view === "next") {
    state.tiles = [];
    const kept = await ask("screen");
    const open = kept.tiles.some((tile) => tile.own === null);
    state.cursor = open ? kept.cursor : 0;
    if (open) return [["", kept.tiles]];
    return [["", await deal()]];
  }
  if (view === "class") {
    const about = { view, of: state.of, limit: MEMBERS };
    const [sure, unsure, given] = await Promise.all([
      ask("grid", { ...about, order: "sure" }), ask("grid", { ...about, order: "unsure" }),
      ask("grid", { view: "labelled", of: state.of, limit: MEMBERS }),
    ]);
    const members = new Map([...unsure.tiles, ...sure.tiles].filter((tile) => tile.guess).map((tile) => [tile.n, tile]));
    const ranked = [...members.values()].sort((a, b) => a.score - b.score);
    const half = Math.min(MEMBERS, Math.ceil(ranked.length / 2));
    const least = ranked.slice(0, half), surest = ranked.slice(half).reverse().slice(0, MEMBERS);
    return [["The least sure", least], ["The surest", surest], [`Labelled (${given.total})`, given.tiles]];
  }
  const told = await ask("grid", gridFields(0));
  state.total = told.total;
  byId("more").hidden = told.tiles.length >= told.total;
  return [["", told.tiles]];
}

function gridFields(offset) {
  const fields = { view: state.view, of: state.of, sample: state.sample, offset, limit: PAGE };
  if (state.view !== "unlabelled") return fields; // only there scores are asked for, and shown
  return { ...fields, order: byId("order").value, low: byId("low").value, high: byId("high").value };
}

async function showMore() {
  try {
    const fields = gridFields(0);
    const left = LEFT.includes(state.view) ? state.tiles.filter((tile) => tile.answered).length : 0;
    const offset = state.tiles.length - left;
    const told = await ask("grid", { ...fields, offset });
    const known = new Set(state.tiles.map((tile) => tile.n));
    let more = told.tiles.filter((tile) => !known.has(tile.n));
    const isEnd = offset + told.tiles.length >= told.total;
    if (isEnd || !more.length) more = await unseen(known, fields);
    if (JSON.stringify(gridFields(0)) !== JSON.stringify(fields)) return; // another view is shown meanwhile
    state.cursor = state.tiles.length;
    showTiles([["", [...state.tiles, ...more]]]);
    byId("more").hidden = isEnd && more.length < PAGE;
  } catch (error) { alarm(error); }
}

async function unseen(known, fields) { // predictions, and with them the order, change while a list is gone through
  const found = [];
  for (let offset = 0, total = 1; offset < total && found.length < PAGE; offset += LISTED) {
    const told = await ask("grid", { ...fields, offset, limit: LISTED });
    total = told.total;
    for (const tile of told.tiles.filter((one) => !known.has(one.n))) {
      known.add(tile.n);
      found.push(tile);
    }
  }
  return found;
}

function paintViews() {
  for (const button of byId("views").children) {
    button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  }
  const named = Object.fromEntries(VIEWS);
  const headings = { class: nameOf(state.of), like: "More like this", copies: "Near-duplicates of this", audit: "Audit" };
  byId("heading").textContent = named[state.view] || headings[state.view];
  byId("note").textContent = NOTES[state.view] || "";
  byId("filters").hidden = !OF_A_CLASS.includes(state.view);
  byId("scores").hidden = state.view !== "unlabelled";
  byId("filter-class").textContent = state.of ? nameOf(state.of) : "any class";
}

// What the server knows

let refreshing = 0;
function refreshSoon(wait = 150) {
  clearTimeout(refreshing);
  refreshing = setTimeout(refresh, wait);
}

async function refresh() {
  try {
    const told = await ask("summary", { bar: byId("threshold").value });
    takeSummary(told);
    refreshSoon(told.ready ? 8000 : 500);
  } catch (error) {
    alarm(error);
    refreshSoon(3000);
  }
}

async function readClasses() { takeClasses((await ask("classes", { limit: 200 })).classes); }

function takeClasses(classes) {
  for (const one of classes) state.names.set(one.class, one.name);
  const before = JSON.stringify(state.first);
  state.first = classes;
  if (before !== JSON.stringify(classes)) paintClasses();
}

function takeSummary(told) {
  state.summary = told;
  takeClasses(told.first);
  const name = told.folder.split("/").filter(Boolean).pop() || told.folder;
  byId("title").textContent = name;
  document.title = `${name} – label`;
  byId("who").textContent = told.users.length > 1 ? told.user : "";
  const given = told.labelled / told.samples, sure = told.sure / told.samples;
  byId("bar-given").style.width = `${100 * given}%`;
  byId("bar-sure").style.width = `${100 * sure}%`;
  const percent = (100 * (given + sure)).toFixed(1);
  const text = `${count(told.labelled)} of ${count(told.samples)} labelled by people; with predictions of ${told.called} ${told.bar.toFixed(2)} or more ${percent} %`;
  byId("progress").textContent = text;
  byId("bar").setAttribute("aria-label", text);
  for (const [view, number] of [["doubted", told.doubted], ["disagreed", told.disagreed], ["skipped", told.skipped]]) {
    const button = byId("views").querySelector(`[data-view=${view}]`);
    button.textContent = number ? `${Object.fromEntries(VIEWS)[view]} ${count(number)}` : Object.fromEntries(VIEWS)[view];
    button.hidden = !number && state.view !== view && (view === "disagreed" ? told.users.length < 2 : false);
  }
  paintFacts(told);
  if (told.shown !== state.predicted) {
    state.predicted = told.shown;
    if (state.view === "next") takeGuesses();
  }
}

async function takeGuesses() {
  const shown = (await ask("screen")).tiles;
  const told = new Map(shown.map((tile) => [tile.n, tile]));
  for (const tile of state.tiles) {
    const now = told.get(tile.n);
    if (now && !tile.pending) { tile.guess = now.guess; tile.score = now.score; }
  }
  repaint();
}

function count(number) { return number.toLocaleString("en"); }

function paintClasses() {
  const list = byId("classes");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  list.replaceChildren();
  for (const one of state.first) {
    const line = element("li");
    const choose = element("button", "choose");
    choose.type = "button";
    if (one.key) choose.append(element("kbd", "", one.key));
    choose.append(element("span", "name", one.name), element("span", "count", `${count(one.given)} + ${count(one.predicted)}`));
    choose.title = `${one.name}: ${count(one.given)} labelled, ${count(one.predicted)} predicted`;
    choose.addEventListener("click", () => answer(chosen(), () => one.class));
    const look = element("button", "small", "›");
    look.type = "button";
    look.setAttribute("aria-label", `Look through ${one.name}`);
    look.addEventListener("click", () => openView("class", { of: one.class }));
    const edit = element("button", "small", "⋯");
    edit.type = "button";
    edit.setAttribute("aria-label", `Rename, merge or delete ${one.name}`);
    edit.addEventListener("click", () => openEditor(one));
    [choose, look, edit].forEach((button, i) => { button.dataset.id = `${one.class} ${i}`; });
    line.append(choose, look, edit);
    list.append(line);
  }
  const again = focused && list.querySelector(`[data-id="${focused}"]`);
  if (again) again.focus({ preventScroll: true }); // counts change while somebody goes through them
}

function paintFacts(told) {
  const lines = [[told.state, ""]];
  if (told.audit) lines.push([auditText(told.audit), "finding"]);
  if (told.classes > told.first.length) lines.push([`${count(told.classes)} classes; the first ${told.first.length} are shown. Press / for the others.`, ""]);
  if (told.held_out) {
    const borne = told.called === "confidence" ? "bear the scores out: they are called confidence" : "do not bear the scores out yet";
    lines.push([`${count(told.held_out)} single answers, held out from the others, ${borne}.`, ""]);
  }
  if (told.plateau) {
    const share = (100 * told.plateau.changed).toFixed(1);
    const words = `The last ${count(told.plateau.labels)} labels changed ${share} % of ${count(told.plateau.samples)} predictions.`;
    lines.push([told.plateau.helps_little ? `${words} More labels of this kind help little now: audit, and look through the classes.` : words, told.plateau.helps_little ? "finding" : ""]);
  }
  if (told.agreement) {
    const kappa = told.agreement.kappa === null ? "" : `, Cohen's kappa ${told.agreement.kappa.toFixed(2)}`;
    lines.push([`Of ${count(told.agreement.samples)} samples asked twice ${count(told.agreement.same)} got the same answer${kappa}.`, "finding"]);
  }
  if (told.unreadable) lines.push([`${count(told.unreadable)} files cannot be read and are left out.`, "warning"]);
  for (const notice of told.notices) lines.push([notice, "warning"]);
  byId("facts").replaceChildren(...lines.map(([text, kind]) => element("li", kind, text)));
}

function auditText(audit) {
  if (audit.open) return `Audit: ${count(audit.answered)} of ${count(audit.asked)} answered. The result is told when all are.`;
  if (!audit.judged) return "Audit: everything was skipped or answered elsewhere, so that it tells nothing.";
  const percent = (x) => (100 * x).toFixed(1);
  const skipped = audit.skipped ? `; ${count(audit.skipped)} were skipped` : "";
  const elsewhere = audit.elsewhere ? `; ${count(audit.elsewhere)} were answered elsewhere meanwhile, and are left out` : "";
  return `Audit: ${count(audit.right)} of ${count(audit.judged)} predictions were right, ${percent(audit.accuracy)} % (95 % interval ${percent(audit.low)} to ${percent(audit.high)} %), of the ${count(audit.population)} samples that nobody had answered when it began${skipped}${elsewhere}.`;
}

// Dialogs

function openChooser(title, taken, mayMake = true) {
  state.choose = { taken, mayMake };
  state.choices = [];
  state.listed = null;
  byId("chooser-title").textContent = title;
  byId("chooser-text").value = "";
  byId("chooser").showModal();
  byId("chooser-text").focus();
  listChoices();
}

let listing = 0;
async function listChoices() {
  const turn = ++listing;
  const text = byId("chooser-text").value;
  try {
    const told = await ask("classes", { text, limit: 50 });
    if (turn !== listing) return;
    state.listed = text;
    const typed = text.trim().split(/\s+/).join(" ").normalize("NFC");
    state.choices = told.classes.map((one) => ({ ...one, text: one.name }));
    for (const one of told.classes) state.names.set(one.class, one.name);
    const exact = state.choices.some((one) => one.name === typed);
    if (state.choose.mayMake && typed && !exact) state.choices.push({ make: typed, text: `New class “${typed}”` });
    state.choice = 0;
    paintChoices();
  } catch (error) { alarm(error); }
}

function paintChoices() {
  const list = byId("chooser-list");
  list.replaceChildren(...state.choices.map((one, i) => {
    const line = element("li", "", one.text);
    line.id = `choice-${i}`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", String(i === state.choice));
    line.addEventListener("click", () => take(i));
    return line;
  }));
  const chosen = list.children[state.choice];
  if (chosen) {
    byId("chooser-text").setAttribute("aria-activedescendant", chosen.id);
    chosen.scrollIntoView({ block: "nearest" });
  } else byId("chooser-text").removeAttribute("aria-activedescendant");
}

async function takeTyped() { // never what fits an earlier text
  if (state.listed !== byId("chooser-text").value) await listChoices();
  if (state.listed === byId("chooser-text").value) take(state.choice);
}

async function take(i) {
  const one = state.choices[i];
  if (!one || state.taking) return;
  state.taking = true;
  const { taken } = state.choose;
  try {
    let own = one.class;
    if (one.make) {
      own = (await send("class", { action: "class", name: one.make })).class;
      state.names.set(own, one.make);
      await readClasses();
    }
    byId("chooser").close();
    grid.focus({ preventScroll: true });
    taken(own);
  } catch (error) { alarm(error); }
  state.taking = false;
}

function chooseClass() {
  const tiles = chosen();
  openChooser("Class", (own) => answer(tiles, () => own));
}

function openEditor(one) {
  state.editing = one;
  byId("editor-title").textContent = one.name;
  byId("editor-name").value = one.name;
  byId("editor").showModal();
}

async function editClass(fields) {
  try {
    await send("class", { class: state.editing.class, ...fields });
    byId("editor").close();
    grid.focus({ preventScroll: true });
    await readClasses();
    repaint();
    refreshSoon();
    say("Done. Press u to undo it.");
    if (state.view === "next") { const kept = await ask("screen"); kept.tiles.forEach(takeOver); repaint(); } else openView(state.view === "class" ? "next" : state.view);
  } catch (error) { alarm(error); }
}

function zoom() {
  if (!state.tiles.length) return;
  showZoomed();
  if (!byId("zoom").open) byId("zoom").showModal();
}

function showZoomed() {
  const tile = state.tiles[state.cursor];
  const source = `picture/${tile.n}/large?v=${encodeURIComponent(tile.v)}`;
  if (byId("zoom-picture").getAttribute("src") !== source) byId("zoom-picture").src = source;
  byId("zoom-picture").alt = tile.name;
  byId("zoom-name").textContent = tile.name;
  const answered = tile.own !== null && tile.own !== undefined;
  byId("zoom-label").textContent = answered ? nameOf(tile.own) : tile.guess ? `${nameOf(tile.guess)}?` : "";
}

async function beginAudit() {
  try {
    await send("audit", { count: Number(byId("audit-count").value) });
    byId("audit").close();
    await refresh();
    openView("audit");
  } catch (error) { alarm(error); }
}

async function writeExport() {
  byId("export-made").textContent = "Writing …";
  try {
    const told = await send("export", {
      bar: Number(byId("export-bar").value), validation: Number(byId("export-validation").value), links: !byId("export-copies").checked,
    });
    const gone = told.gone ? ` Without ${count(told.gone)} whose file went away.` : "";
    byId("export-made").textContent = `${told.folder}: ${count(told.given)} labels of people, ${count(told.predicted)} predictions.${gone}`;
  } catch (error) { byId("export-made").textContent = ""; alarm(error); }
}

async function openHistory() {
  const told = await ask("history");
  byId("history-list").replaceChildren(...told.events.map((event) => {
    const line = element("li", event.undone ? "undone" : "", `${event.at.slice(0, 16).replace("T", " ")} ${event.user}: ${event.what}`);
    line.value = event.id;
    return line;
  }));
  byId("history").showModal();
}

function goOn() {
  if (state.summary && state.summary.audit && state.summary.audit.open) openView("audit");
  else { byId("audit").showModal(); byId("audit-count").select(); }
}

// Keys

function columns() {
  const top = state.tiles[0] && state.tiles[0].box.offsetTop;
  const first = state.tiles.findIndex((tile) => tile.box.offsetTop !== top);
  return first < 0 ? state.tiles.length || 1 : first;
}

const ACTIONS = {
  x: () => answer(chosen(), () => "none"),
  s: () => answer(chosen(), () => "skip"),
  u: undo,
  a: () => accept(state.selected.size ? chosen() : row()),
  A: () => accept(state.tiles),
  " ": zoom,
  "/": chooseClass,
  Enter: chooseClass,
  Backspace: () => answer(chosen().filter((tile) => tile.own), () => "clear"),
  Delete: () => answer(chosen().filter((tile) => tile.own), () => "clear"),
  m: () => state.tiles[state.cursor] && openView("like", { sample: state.tiles[state.cursor].n }),
  d: () => state.tiles[state.cursor] && openView("copies", { sample: state.tiles[state.cursor].n }),
  n: () => (state.view === "next" ? nextScreen() : openView("next")),
  v: () => { const shown = VIEWS.map(([view]) => view); openView(shown[(shown.indexOf(state.view) + 1) % shown.length]); },
  "?": () => byId("help").showModal(),
  all: () => { state.tiles.forEach((_, i) => state.selected.add(i)); repaint(); },
  Escape: () => { if (state.selected.size) { state.selected.clear(); repaint(); } else if (state.view !== "next") openView("next"); },
  ArrowLeft: (event) => moveTo(state.cursor - 1, event.shiftKey),
  ArrowRight: (event) => moveTo(state.cursor + 1, event.shiftKey),
  ArrowUp: (event) => moveTo(state.cursor - columns(), event.shiftKey),
  ArrowDown: (event) => moveTo(state.cursor + columns(), event.shiftKey),
  Home: (event) => moveTo(0, event.shiftKey),
  End: (event) => moveTo(state.tiles.length - 1, event.shiftKey),
};

function pressed(event) {
  const dialog = document.querySelector("dialog[open]");
  const typing = event.target.matches("input, select, textarea");
  if (typing || (dialog && dialog.id !== "zoom")) return;
  const onButton = event.target.matches("button");
  if (onButton && (event.key === "Enter" || event.key === " ")) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") {
    ACTIONS.all();
    event.preventDefault();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (dialog && (event.key === " " || event.key === "Escape")) {
    dialog.close();
    event.preventDefault();
    return;
  }
  if (dialog && !(/^[1-9xsu]$/.test(event.key) || event.key.startsWith("Arrow"))) return;
  if (/^[1-9]$/.test(event.key)) {
    const one = state.first[Number(event.key) - 1];
    if (one) answer(chosen(), () => one.class);
    else say("There is no such class yet: press / and type its name.");
    event.preventDefault();
    return;
  }
  const action = ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
  if (state.view === "next" && event.key.startsWith("Arrow")) keepScreen();
}

function typed(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps) {
    const most = state.choices.length - 1;
    state.choice = Math.max(0, Math.min(most, state.choice + steps[event.key]));
    paintChoices();
    event.preventDefault();
  } else if (event.key === "Enter" && !event.isComposing) {
    takeTyped();
    event.preventDefault();
  }
}

// Beginning

function begin() {
  for (const [view, name] of VIEWS) {
    const button = element("button", "", name);
    button.type = "button";
    button.dataset.view = view;
    button.addEventListener("click", () => openView(view));
    byId("views").append(button);
  }
  for (const [key, words] of KEYS) byId("keys").append(element("dt", "", key), element("dd", "", words));
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => { byId(button.dataset.close).close(); grid.focus({ preventScroll: true }); });
  }
  for (const button of document.querySelectorAll("[data-key]")) {
    button.addEventListener("click", (event) => { ACTIONS[button.dataset.key](event); grid.focus({ preventScroll: true }); });
  }
  byId("new-class").addEventListener("click", chooseClass);
  byId("open-help").addEventListener("click", () => byId("help").showModal());
  byId("open-audit").addEventListener("click", goOn);
  byId("open-history").addEventListener("click", openHistory);
  byId("open-export").addEventListener("click", () => { byId("export-bar").value = byId("threshold").value; byId("export-made").textContent = ""; byId("export").showModal(); });
  byId("audit-go").addEventListener("click", beginAudit);
  byId("export-go").addEventListener("click", writeExport);
  byId("editor-rename").addEventListener("click", () => editClass({ action: "rename", name: byId("editor-name").value }));
  byId("editor-delete").addEventListener("click", () => editClass({ action: "delete" }));
  byId("editor-merge").addEventListener("click", () => openChooser(`Merge “${state.editing.name}” into`, (into) => editClass({ action: "merge", into }), false));
  for (const [fields, button] of [["#editor-name", "editor-rename"], ["#audit-count", "audit-go"], ["#export input", "export-go"]]) {
    for (const field of document.querySelectorAll(fields)) {
      field.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); byId(button).click(); } });
    }
  }
  byId("chooser-text").addEventListener("input", listChoices);
  byId("chooser-text").addEventListener("keydown", typed);
  byId("more").addEventListener("click", showMore);
  byId("threshold").addEventListener("input", () => { byId("threshold-value").textContent = Number(byId("threshold").value).toFixed(2); refreshSoon(50); });
  for (const id of ["low", "high", "order"]) byId(id).addEventListener("change", () => openView(state.view, { of: state.of }));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filter-class").addEventListener("click", () => {
    if (state.of) openView(state.view, { of: null });
    else openChooser("Only this class", (of) => openView(state.view, { of }), false);
  });
  document.addEventListener("keydown", pressed);
  window.addEventListener("beforeunload", (event) => { if (state.tiles.some((tile) => tile.pending)) event.preventDefault(); });
  refresh().then(() => openView("next"));
}

begin();
