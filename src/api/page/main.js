// Loads, follows, and answers keys.
const TABS = ["prune", "schedules", "queue", "events"];
const is_narrow = () => matchMedia("(max-width:980px)").matches;

function draw_all() {
  draw_head();
  draw_alerts();
  draw_lanes();
  draw_prune();
  draw_schedules();
  draw_queue();
}

// What is to be loaded again. Nothing is loaded twice at once, nor more often than a tenth of the time, however many events come.
const LOAD = { timeline: load_timeline, status: load_status, plan: load_plan, queue: load_queue };
const W = { wanted: new Set(), some: new Set(), busy: false, timer: 0, took: 0 };
function soon(...what) {
  what.forEach(one => W.wanted.add(one));
  if (!W.timer && !W.busy) W.timer = setTimeout(load_wanted, Math.max(300, 9 * W.took));
}
async function load_wanted() {
  W.timer = 0;
  if (document.hidden) return;
  W.busy = true;
  const began = performance.now(), what = [...W.wanted], some = [...W.some];
  W.wanted.clear();
  W.some.clear();
  const jobs = what.map(one => LOAD[one]());
  if (some.length && !what.includes("timeline")) jobs.push(some.length > 20 ? load_timeline() : load_some(some));
  const done = await Promise.allSettled(jobs);
  note(done);
  W.took = performance.now() - began;
  W.busy = false;
  draw_all();
  if (D.open && (D.open.startsWith("instance ") || some.includes(D.instance) || what.includes("timeline"))) refresh_detail();
  if (W.wanted.size || W.some.size) soon();
}
/// Whether the worker answered.
function note(done) {
  const failed = done.filter(one => one.status === "rejected").map(one => one.reason);
  // A problem document is an answer, too; what a proxy says in the worker's place is none.
  if (failed.some(error => !error.problem)) S.isThere = false;
  else if (done.length) S.isThere = true;
  S.planError = (failed.find(error => error.problem) || {}).message;
}

// Events: which of them change what.
function heed(e) {
  if (e.event === "worker.heartbeat") return;
  const [noun] = e.event.split(".");
  const instance = e.instance || null;
  if (noun === "fork" || noun === "pool") soon("queue", "status");
  if (e.event === "worker.started" || noun === "store" || noun === "config") soon("timeline", "status", "plan", "queue");
  if (noun === "snapshot" || noun === "prune" || noun === "instance") {
    if (instance) W.some.add(instance); else if (e.event !== "prune.planned") W.wanted.add("timeline");
    soon("status", "plan");
  }
  if (noun === "fork") {
    const found = e.snapshot ? find(e.snapshot) : null;
    if (found) W.some.add(found.lane.instance); else W.wanted.add("timeline");
    soon("plan");
  }
  if (noun === "schedule" || noun === "slot") soon("status");
}
const F = { since: null, stop: null, wait: 1000 };
/// The list first, so that the page has something to show; then what comes.
async function first_events() {
  try {
    const list = await get("/v1/events?limit=100");
    F.since = list.next;
    S.events = list.events;
  } catch (error) {
    S.noFeed = error.status === 404;
  }
  draw_events();
}
async function follow() {
  if (S.noFeed || F.stop) return;
  const stop = F.stop = new AbortController();
  try {
    const headers = { accept: "text/event-stream", ...(S.token ? { authorization: `Bearer ${S.token}` } : {}) };
    const answer = await fetch(`/v1/events${F.since ? `?since=${encodeURIComponent(F.since)}` : ""}`, { headers, signal: stop.signal, cache: "no-store" });
    if (!answer.ok) throw Error(answer.status);
    if (S.isThere === false) { S.isThere = true; soon("timeline", "status", "plan", "queue"); }
    await read_stream(answer.body.pipeThrough(new TextDecoderStream()).getReader());
  } catch { /* It is tried again below. */ }
  const is_ours = F.stop === stop;
  if (is_ours) F.stop = null;
  if (stop.signal.aborted || !is_ours) return;
  soon("status");
  F.wait = Math.min(15000, F.wait * 1.6);
  setTimeout(follow, F.wait);
}
async function read_stream(reader) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    F.wait = 1000;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    const fresh = [];
    for (const part of parts) {
      const of = name => (part.split("\n").find(line => line.startsWith(`${name}: `)) || "").slice(name.length + 2);
      if (of("id")) F.since = of("id");
      const name = of("event");
      if (name === "lagged" || name === "reset") soon("timeline", "status", "plan", "queue");
      else if (name) fresh.push(JSON.parse(of("data")));
      if (name === "lagged") $("say").textContent = `${number(JSON.parse(of("data")).missed)} events were missed.`;
    }
    if (fresh.length) { add_events(fresh); fresh.forEach(heed); }
  }
}
/// A page that nobody sees follows nothing.
function seen_or_not() {
  if (document.hidden) { if (F.stop) F.stop.abort(); F.stop = null; return; }
  soon("timeline", "status", "plan", "queue");
  follow();
}

function show_tab(name, with_focus) {
  S.tab = name;
  document.querySelector(".frame").dataset.tab = name;
  const shown = TABS.includes(name) ? name : S.panel || "prune";
  S.panel = shown;
  const is_wide = !is_narrow();
  for (const one of TABS) $(`panel-${one}`).hidden = one !== shown;
  for (const one of ["lanes", ...TABS]) {
    const is_on = is_wide ? one === shown : one === name, button = $(`tab-${one}`);
    button.setAttribute("aria-selected", String(is_on));
    button.tabIndex = is_on ? 0 : -1;
    if (is_on && with_focus) button.focus();
  }
  if (name === "lanes" && S.loaded) draw_lanes();
}
function set_filter(text) {
  if ($("filter").value !== text) $("filter").value = text;
  S.filter = text.trim();
  const chosen = S.shown[S.lane];
  arrange();
  S.lane = chosen ? S.shown.indexOf(chosen) : -1;
  if (S.lane < 0) S.place = -1;
  $("lanes").scrollTop = 0;
  draw_lanes();
}
const THEMES = ["auto", "light", "dark"];
function set_theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  $("theme").replaceChildren(el("span", { class: "word" }, "Theme: "), name);
  $("theme").dataset.name = name;
  try { localStorage.setItem("theme", name); } catch { /* Not kept, then. */ }
}
const next_theme = () => set_theme(THEMES[(THEMES.indexOf($("theme").dataset.name) + 1) % THEMES.length]);
function set_span(kind) {
  L.kind = kind;
  for (const button of $("spans").children) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
  draw_lanes();
}

function move(key) {
  if (!S.shown.length) return;
  const lane = S.shown[Math.max(0, S.lane)], n = lane.n;
  if (key === "ArrowDown" || key === "ArrowUp") {
    const row = S.lane < 0 ? 0 : Math.max(0, Math.min(S.shown.length - 1, S.lane + (key === "ArrowDown" ? 1 : -1)));
    // The snapshot below, at about the same time.
    const x = S.lane >= 0 && S.place >= 0 ? L.scale.x(lane.at[S.place]) : null;
    choose(row, x === null ? -1 : nearest(S.shown[row], x));
    return;
  }
  if (!n) { choose(Math.max(0, S.lane), -1); return; }
  const newest = n - 1, at = S.place;
  const place = key === "Home" ? 0 : key === "End" ? newest : at < 0 ? newest : Math.max(0, Math.min(newest, at + (key === "ArrowRight" ? 1 : -1)));
  choose(Math.max(0, S.lane), place);
}
function open_chosen() {
  const lane = S.shown[S.lane];
  if (!lane) return;
  if (S.place >= 0) show_snapshot(id_of(lane, S.place), lane.instance); else show_instance(lane.instance);
  $("detail").querySelector("button").focus({ preventScroll: true });
}
function on_escape() {
  if (!$("detail").hidden) close_detail();
  else if (S.filter) set_filter("");
  else $("lanes").focus();
}
function on_key(e) {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
  const is_typing = e.target.matches("input");
  if (e.key === "Escape") { on_escape(); e.preventDefault(); return; }
  if (is_typing) {
    if (e.key === "Enter" || e.key === "ArrowDown") { $("lanes").focus(); if (S.lane < 0) move("ArrowDown"); e.preventDefault(); }
    return;
  }
  const is_moving = ["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Home", "End"].includes(e.key);
  const tabs = e.target.closest("[role=tab]");
  if (tabs && (e.key === "ArrowLeft" || e.key === "ArrowRight")) {
    const all = is_narrow() ? ["lanes", ...TABS] : TABS, at = all.indexOf(tabs.id.slice(4));
    show_tab(all[(at + (e.key === "ArrowRight" ? 1 : all.length - 1)) % all.length], true);
  } else if (is_moving && !e.target.closest(".side, .detail")) move(e.key);
  else if (e.key === "Enter" && (e.target === $("lanes") || e.target === document.body)) open_chosen();
  else if (e.key === "/") { $("filter").focus(); $("filter").select(); }
  else if (e.key === "?") $("help").showModal();
  else if (e.key === "t") next_theme();
  else if (TABS[Number(e.key) - 1]) show_tab(TABS[Number(e.key) - 1], true);
  else return;
  e.preventDefault();
}
/// A mark, a name, or the empty track: what is nearest.
function on_click(e) {
  const row = e.target.closest(".lane");
  if (!row) return;
  const n = Number(row.id.slice(5)), lane = S.shown[n], track = e.target.closest(".track");
  const x = track ? e.clientX - track.getBoundingClientRect().left : 0;
  const place = track ? nearest(lane, x) : -1;
  const is_near = place >= 0 && Math.abs(L.scale.x(lane.at[place]) - x) < 24;
  choose(n, is_near ? place : -1);
  if (is_near) show_snapshot(id_of(lane, place), lane.instance); else show_instance(lane.instance);
}

function listen() {
  document.addEventListener("keydown", on_key);
  document.addEventListener("visibilitychange", seen_or_not);
  $("sky").addEventListener("click", on_click);
  $("lanes").addEventListener("scroll", () => requestAnimationFrame(draw_sight), { passive: true });
  $("filter").addEventListener("input", e => set_filter(e.target.value));
  $("theme").addEventListener("click", next_theme);
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("unlock").addEventListener("click", ask_token);
  for (const one of ["lanes", ...TABS]) $(`tab-${one}`).addEventListener("click", () => show_tab(one));
  for (const [kind, word] of SPANS) $("spans").append(el("button", { type: "button", "data-kind": kind, "aria-pressed": String(kind === L.kind), onclick: () => set_span(kind) }, word));
  let width = 0;
  new ResizeObserver(() => {
    const is = $("lanes").clientWidth || document.documentElement.clientWidth;
    if (is === width) return;
    width = is;
    show_tab(S.tab);
    draw_lanes();
  }).observe(document.documentElement);
}
async function start() {
  let theme = "auto";
  try { theme = localStorage.getItem("theme") || "auto"; } catch { /* As the system has it. */ }
  set_theme(THEMES.includes(theme) ? theme : "auto");
  draw_legend();
  show_tab("lanes");
  listen();
  const lanes = Promise.allSettled([load_timeline(), load_status(), load_may()]);
  note(await lanes);
  draw_all();
  performance.mark("drawn");
  document.body.dataset.ready = "lanes";
  note(await Promise.allSettled([load_plan(), load_queue(), first_events()]));
  draw_all();
  document.body.dataset.ready = "all";
  follow();
  setInterval(() => soon("status", "queue"), 15000);
  setInterval(() => soon("timeline", "plan"), 60000);
  setInterval(() => { if (!document.hidden && S.isThere === false) soon("timeline", "status", "plan", "queue"); }, 4000);
}
start();
