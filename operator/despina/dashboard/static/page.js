// Keeps a page as it is now. The server renders everything; here texts and curves are put into what is there, and parts
// that are to be made anew are fetched as a document and taken over. Nothing is ever parsed from a string.
const body = document.body, list = body.dataset.view === "list";
const STALE_AFTER = 40_000, RETRY = 5_000;
let stream = "", last = "", heard = 0, source = null, timer = 0;

const $ = (id) => document.getElementById(id);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

function live(level, icon, word) {
  const place = $("live");
  if (place.dataset.level === level && $("live-word").textContent === word) return;
  place.dataset.level = level;
  place.firstElementChild.textContent = icon;
  $("live-word").textContent = word;
}

function say(text) { $("said").textContent = text; }

function lost() {
  if (heard && $("live").dataset.level !== "warn") say(`The page is stale since ${clock(heard)}`);
  live("warn", "▲", heard ? `stale since ${clock(heard)}` : "no connection yet");
}

// One row, or one program's figures.
function put(node, said) {
  for (const [name, text] of Object.entries(said.cells)) {
    for (const cell of node.querySelectorAll(`[data-f="${CSS.escape(name)}"]`)) {
      if (cell.textContent !== text) cell.textContent = text;
    }
  }
  for (const [name, d] of Object.entries(said.paths)) {
    const line = node.querySelector(`[data-d="${CSS.escape(name)}"]`);
    if (line && line.getAttribute("d") !== d) line.setAttribute("d", d);
  }
}

function setLevel(node, level) {
  for (const part of [node, ...node.querySelectorAll(".state")]) if (part.dataset.level) part.dataset.level = level;
}

const rows = new Map();
function findRows() {
  rows.clear();
  for (const row of document.querySelectorAll(".row")) rows.set(row.dataset.key, row);
}

function putRow(said) {
  const row = rows.get(said.key);
  if (!row) return;
  const word = row.querySelector('[data-f="word"]').textContent;
  put(row, said);
  setLevel(row, said.level);
  if (word !== said.cells.word) {
    say(`${said.key}: ${said.cells.word}`);
    row.classList.add("fresh");
    setTimeout(() => row.classList.remove("fresh"), 1200);
  }
}

function putProgram(said) {
  const word = document.querySelector('[data-row] [data-f="word"]').textContent;
  put(document, said);
  setLevel(document.querySelector(".now"), said.level);
  if (word !== said.cells.word) say(`State: ${said.cells.word}`);
}

// Parts are made anew by the server and taken over whole, with what was open and where the keyboard was. An answer that
// a later one has overtaken tells of the past; what was not answered is asked again, for nothing else may change for long.
let asked = 0, taken = 0, again = 0;
function refresh() {
  const ask = new XMLHttpRequest(), number = ++asked;
  const fail = () => { if (number === asked) again = setTimeout(refresh, RETRY); };
  clearTimeout(again);
  ask.open("GET", location.href);
  ask.setRequestHeader("Accept", "text/html");
  ask.responseType = "document";
  ask.timeout = STALE_AFTER;
  ask.onerror = ask.ontimeout = fail;
  ask.onload = () => {
    if (ask.status === 401 || ask.status === 404) return location.reload();
    if (ask.status !== 200 || !ask.response) return fail();
    if (number < taken) return;
    taken = number;
    const at = document.activeElement?.id;
    for (const fresh of ask.response.querySelectorAll("[data-part]")) take(fresh);
    if (at && document.activeElement?.id !== at) $(at)?.focus({ preventScroll: true });
    body.dataset.shape = ask.response.body.dataset.shape ?? "";
    if (list) { findRows(); filter(); observe(); }
  };
  ask.send();
}

function take(fresh) {
  const old = document.querySelector(`[data-part="${CSS.escape(fresh.dataset.part)}"]`);
  if (!old || old.isEqualNode(fresh)) return;
  const opened = [...old.querySelectorAll("details")].map((one) => one.open);
  fresh.querySelectorAll("details").forEach((one, i) => { one.open = opened[i] ?? false; });
  old.replaceWith(document.adoptNode(fresh));
}

function shape() { return list ? document.querySelector('[data-part="programs"]').dataset.shape : body.dataset.shape; }

function connect() {
  clearTimeout(timer);
  source?.close();
  const query = new URLSearchParams({ shape: shape(), last });
  if (!list) for (const name of ["namespace", "name", "range"]) query.set(name, body.dataset[name]);
  source = new EventSource(`/events?${query}`);
  const on = (kind, act) => source.addEventListener(kind, (message) => {
    heard = Date.now();
    if (message.lastEventId) last = message.lastEventId;
    live("ok", "✓", "live");
    act(JSON.parse(message.data));
  });
  on("hello", (said) => {
    if (stream) refresh();  // the browser asks for the stream again with what the page was made from at first
    stream = said.stream;
    show();
  });
  on("beat", () => {});
  on("row", putRow);
  on("page", putProgram);
  on("refresh", refresh);
  on("bye", () => { source.close(); location.reload(); });
  source.onerror = () => {
    lost();
    if (source.readyState !== EventSource.CLOSED) return;
    refresh();  // whoever is signed out is led to the form
    timer = setTimeout(connect, RETRY);
  };
}
setInterval(() => { if (heard && Date.now() - heard > STALE_AFTER) { lost(); connect(); } }, RETRY);

// What is on the screen, for more than that is neither sent nor asked for.
const seen = new Set();
const watcher = list ? new IntersectionObserver((entries) => {
  for (const one of entries) one.isIntersecting ? seen.add(one.target) : seen.delete(one.target);
  show();
}) : null;
let shown = "";

function observe() {
  watcher.disconnect();
  seen.clear();
  shown = "";
  for (const row of rows.values()) watcher.observe(row);
}

function show() {
  if (!list || !stream) return;
  const keys = [...seen].map((row) => row.dataset.key).slice(0, 250), said = JSON.stringify({ stream, keys });
  if (said === shown) return;
  shown = said;
  fetch("/view", { method: "POST", headers: { "Content-Type": "application/json" }, body: said })
    .then((answer) => { if (!answer.ok) throw answer; })
    .catch(() => { if (shown === said) setTimeout(() => { shown = ""; show(); }, RETRY); });
}

// Search while typing; without this script the form does the same.
function filter() {
  const typed = $("q").value.trim().toLowerCase();
  let count = 0;
  for (const [key, row] of rows) { row.hidden = !key.toLowerCase().includes(typed); count += !row.hidden; }
  $("nothing").hidden = count > 0 || rows.size === 0;
}

function move(by) {
  const links = [...document.querySelectorAll(".row:not([hidden]) .name a")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + by, 0), links.length - 1)].focus();
}

function typing(target) { return target.matches?.("input, select, textarea, [contenteditable]"); }

addEventListener("keydown", (press) => {
  if (press.ctrlKey || press.metaKey || press.altKey) return;
  if (press.key === "Escape" && press.target === $("q")) { $("q").value = ""; filter(); $("q").blur(); return; }
  if (typing(press.target)) return;
  if (press.key === "/" && $("q")) { press.preventDefault(); $("q").focus(); $("q").select(); }
  if (list && press.key === "j") move(1);
  if (list && press.key === "k") move(-1);
  if (!list && press.key === "u") location.assign("/");
});

// Buttons ask once more.
addEventListener("submit", (sent) => {
  const form = sent.target, dialog = $("sure");
  if (!form.dataset.sure || !dialog || form.dataset.yes) return;
  sent.preventDefault();
  $("sure-what").textContent = `${form.dataset.sure}?`;
  $("sure-hint").textContent = form.dataset.hint;
  $("sure-yes").textContent = form.dataset.sure;
  dialog.onclose = () => { if (dialog.returnValue === "yes") { form.dataset.yes = "1"; form.requestSubmit(); } };
  dialog.returnValue = "no";
  dialog.showModal();
});

if (list) {
  findRows();
  observe();
  $("q").addEventListener("input", filter);
  $("q").form.querySelectorAll("select, [type=checkbox]").forEach((one) => one.addEventListener("change", () => one.form.submit()));
}
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (shown) => { if (shown.persisted) connect(); });
connect();
