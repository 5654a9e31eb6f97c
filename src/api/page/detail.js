// One snapshot, or one instance; and what may be done with it by whoever may.
const D = { open: null, turn: 0 };
const fact = (word, ...value) => [el("dt", {}, word), el("dd", {}, ...value)];

function close_detail() {
  D.open = null;
  D.turn++;
  $("detail").hidden = true;
  $("lanes").focus({ preventScroll: true });
}
function frame_detail(label, ...parts) {
  const box = $("detail");
  box.setAttribute("aria-label", label);
  box.replaceChildren(el("button", { type: "button", class: "quiet close", "aria-label": "Close", onclick: close_detail }, "✕"), ...parts.flat().filter(Boolean));
  box.hidden = false;
}
/// Puts the time line on it, and shows it.
function reveal(instance, id) {
  let row = S.shown.findIndex(lane => lane.instance === instance);
  if (row < 0 && S.filter) { set_filter(""); row = S.shown.findIndex(lane => lane.instance === instance); }
  const place = row >= 0 && id ? place_of(S.shown[row], id) : -1;
  if (row < 0 || (id && place < 0)) { if (id) show_snapshot(id, instance); return; }
  if (S.tab === "lanes" || !is_narrow()) choose(row, place);
  if (id) show_snapshot(id, instance); else show_instance(instance);
}

async function show_snapshot(id, instance) {
  const turn = ++D.turn;
  const is_new = D.open !== id;
  D.open = id;
  D.instance = instance;
  if (is_new) frame_detail("Snapshot", el("h2", {}, title_of(instance, id, taken_of(id))), el("p", { class: "lead mono" }, id));
  let s, forks;
  try {
    [s, forks] = await Promise.all([get(`/v1/${path("snapshots", id)}`), get(`/v1/${path("snapshots", id, "forks")}`)]);
  } catch (error) {
    if (turn === D.turn) frame_detail("Snapshot", el("h2", {}, title_of(instance, id, taken_of(id))), el("p", { class: "done bad" }, error.message));
    return;
  }
  if (turn !== D.turn) return;
  const had_focus = $("detail").contains(document.activeElement);
  draw_snapshot(s, forks.forks);
  if (had_focus) $("detail").querySelector("button").focus({ preventScroll: true });
}
function taken_of(id) {
  const found = find(id);
  return found ? found.lane.at[found.n] : now();
}
function draw_snapshot(s, forks) {
  const taken = seconds(s.created_at), chips = [];
  if (s.state !== "ready") chips.push(tag(s.state === "expiring" ? "goes with its last fork" : s.state, s.state === "quarantined" ? "bad" : "warn"));
  s.holds.forEach(hold => chips.push(tag(`held: ${hold}`, "hold")));
  Object.entries(s.tags).forEach(([key, value]) => chips.push(tag(`${key}=${value}`)));
  const memory = s.compression_state === "none" ? [] : fact("memory", s.compression_state, s.compressed_size_bytes ? `, ${bytes(s.compressed_size_bytes)} of ${bytes(s.uncompressed_size_bytes || 0)}` : "", s.compression_error ? `: ${s.compression_error}` : "");
  const others = s.ref_count - forks.length;
  const fork_words = s.ref_count ? [forks.slice(0, 30).map(f => f.name).join(", "), forks.length > 30 ? ` and ${number(forks.length - 30)} more` : "", others > 0 ? `${forks.length ? ", and " : ""}${number(others)} queued` : ""] : ["none"];
  frame_detail(`Snapshot ${s.name}`, el("h2", {}, s.name), el("p", { class: "lead" }, `of ${s.instance}, ${ago(taken)}, ${full(taken)}`),
    chips.length ? el("p", { class: "chips" }, ...chips) : null, verdict_of(s.id),
    el("dl", { class: "facts" }, ...fact("policy", s.policy || "by hand"), ...fact("kind", s.kind === "standby" ? "with memory" : "stopped, disks only"),
      ...fact(s.ref_count ? `${count(s.ref_count, "fork")}` : "forks", el("span", { class: s.ref_count ? "tag-like" : "dim" }, ...fork_words)),
      ...fact("size", `${bytes(s.allocated_bytes)} on disk, ${bytes(s.size_bytes)} long`), ...fact("frees", s.reclaimable_bytes ? bytes(s.reclaimable_bytes) : s.ref_count ? "nothing while forks need it" : "nothing by itself"),
      ...memory, ...(s.pool_count ? fact("ready", `${number(s.pool_count)} in the pool`) : []), ...(s.digests === "pending" ? fact("digests", "still to be made") : []),
      ...(s.parent ? fact("fork of", link(snapshot_words(s.parent), () => show_snapshot(s.parent, s.instance))) : []), ...(s.imported_from ? fact("imported", s.imported_from) : []),
      ...(s.quarantined_because ? fact("why", s.quarantined_because) : []), ...(s.tags_unread ? fact("tags", s.tags_unread) : []), ...fact("id", el("code", {}, s.id))),
    acts_of(s));
}
/// The next slot in its policy's own zone, where that is another than UTC.
const slot_words = p => p.next_slot_local && p.timezone !== "UTC" ? `${p.next_slot_local.slice(0, 16).replace("T", " ")} in ${p.timezone}` : full(seconds(p.next_slot));
/// What the next prune does with it, as far as it was told.
function verdict_of(id) {
  const entry = S.verdicts.get(id) || (S.plan && S.plan.soon.find(one => one.snapshot_id === id));
  if (!entry) return null;
  const words = { remove: "Goes with the next prune", blocked: "Would go, but must stay", keep: `Stays until ${entry.next_change_at ? full(seconds(entry.next_change_at)) : "something changes"}` };
  return el("div", { class: `verdict ${entry.verdict}` }, el("b", {}, words[entry.verdict]), el("ul", {}, ...entry.reasons.filter(r => r.side !== "pass").map(r => el("li", {}, `${r.rule}: ${r.text}`))));
}

function show_instance(instance) {
  D.turn++;
  D.open = `instance ${instance}`;
  D.instance = instance;
  const row = S.shown.findIndex(lane => lane.instance === instance);
  if (row >= 0 && S.lane !== row && !is_narrow()) choose(row, -1);
  draw_instance(instance);
}
function draw_instance(instance) {
  const lane = S.byInstance.get(instance), all = S.schedules.get(instance) || [];
  const facts = lane ? [...fact("snapshots", number(lane.n)), ...fact("forks", number(lane.forkCount)), ...fact("stored", bytes(lane.bytes)),
    ...(lane.n ? [...fact("newest", `${ago(lane.at[lane.n - 1])}, ${full(lane.at[lane.n - 1])}`), ...fact("oldest", `${ago(lane.at[0])}, ${full(lane.at[0])}`)] : [])] : [];
  const rows = all.map(p => el("div", { class: `verdict ${p.state === "failing" ? "remove" : p.state === "tags unreadable" ? "blocked" : ""}` }, el("b", {}, p.policy, " "), tag(p.state === "failing" ? `failing, ${count(p.failures, "time")}` : p.state, STATES[p.state]),
    el("ul", {}, el("li", {}, p.last_success_at ? `last ${ago(seconds(p.last_success_at))}, ${full(seconds(p.last_success_at))}` : "nothing taken yet"),
      p.next_slot ? el("li", {}, `next ${ago(seconds(p.next_slot))}, ${slot_words(p)}`) : null, p.last_error ? el("li", {}, p.last_error) : null)));
  frame_detail(`Instance ${instance}`, el("h2", {}, instance), el("p", { class: "lead" }, lane && !lane.there ? "It is no longer there; its snapshots are." : lane && lane.forkOf ? `A fork of ${snapshot_words(lane.forkOf)}` : all.length ? "" : "No policy takes it."), rows,
    el("dl", { class: "facts" }, ...facts), S.may.write && lane && lane.there ? el("div", { class: "acts" }, el("button", { type: "button", class: "main", onclick: () => ask_take(instance) }, "Take a snapshot")) : null);
}
function refresh_detail() {
  if (!D.open) return;
  if (D.open.startsWith("instance ")) draw_instance(D.instance); else show_snapshot(D.open, D.instance);
}

// What changes something. None of it is there for who may only look.
function acts_of(s) {
  if (!S.may.write) return null;
  const held = s.holds.includes("page");
  const button = (text, cls, act) => el("button", { type: "button", class: cls, onclick: act }, text);
  return el("div", { class: "acts" }, s.state === "ready" ? button("Fork", "main", () => ask_fork(s)) : null,
    held ? button("Release", "", () => change("Released.", "DELETE", `/v1/${path("snapshots", s.id, "holds", "page")}`)) : button("Hold", "", () => change("Held until released.", "PUT", `/v1/${path("snapshots", s.id, "holds", "page")}`)),
    button("Remove", "danger", () => ask_remove(s)));
}
/// Asks, and does it if the answer is yes. `field` is a text to be given, if there is one.
function confirm_then(title, text, word, cls, field, act) {
  const dialog = $("ask"), input = field ? el("input", { autocomplete: "off", spellcheck: "false", maxlength: "80", required: field.required }) : null;
  dialog.replaceChildren(el("h2", { id: "ask-title" }, title), el("p", {}, text), el("form", { method: "dialog", onsubmit: async e => {
    if (!e.submitter || e.submitter.value !== "yes") return;
    e.preventDefault();
    e.submitter.disabled = true;
    const why = await act(input ? input.value.trim() : null);
    if (!why) { dialog.close(); return; }
    e.submitter.disabled = false;
    dialog.querySelectorAll(".done").forEach(one => one.remove());
    dialog.append(el("p", { class: "done bad", role: "alert" }, why));
  } }, field ? el("label", {}, field.label, input) : null,
  // The first is what Enter presses; the style puts it last.
  el("button", { value: "yes", class: `main ${cls}` }, word), el("button", { value: "no", formnovalidate: true }, "Cancel")));
  dialog.showModal();
  if (input) input.focus();
}
/// Changes something; the words of the problem come back, or nothing.
async function change(said, method, url, body) {
  try {
    await ask(method, url, body);
    $("say").textContent = said;
    soon("timeline", "status", "plan", "queue");
    refresh_detail();
    return null;
  } catch (error) {
    const forks = error.problem && error.problem.forks;
    const why = error.message + (forks && forks.length ? ` (${forks.slice(0, 10).join(", ")}${forks.length > 10 ? ", …" : ""})` : "");
    if (!$("ask").open) $("detail").append(el("p", { class: "done bad", role: "alert" }, why));
    return why;
  }
}
const ask_take = instance => confirm_then(`Take a snapshot of ${instance}`, "It is copied while the instance is at rest for a moment.", "Take", "", { label: "Name, if it is to have one" },
  name => change("Taken.", "POST", "/v1/snapshots", name ? { instance, name } : { instance }));
const ask_fork = s => confirm_then(`Fork ${s.name}`, "The fork becomes an instance of its own; the snapshot stays as long as it lives.", "Fork", "", { label: "Name of the fork", required: true },
  name => change("Asked for.", "POST", `/v1/${path("snapshots", s.id, "forks")}`, { name }));
const ask_remove = s => s.ref_count
  ? confirm_then(`Remove ${s.name} with its last fork`, `${count(s.ref_count, "fork")} need it now. It goes when the last of them is gone, and takes no new ones.`, "Remove later", "danger", null, () => change("Marked.", "DELETE", `/v1/${path("snapshots", s.id)}?defer=true`))
  : confirm_then(`Remove ${s.name}`, "It goes to the trash, and can be brought back with snapkeep undelete until the grace is over.", "Remove", "danger", null, () => change("Removed.", "DELETE", `/v1/${path("snapshots", s.id)}`));
function ask_prune() {
  const { hash, remove } = S.plan;
  confirm_then(`Remove ${count(remove, "snapshot")}`, "Exactly the plan that is shown, or nothing if it is another one by now. They go to the trash, and can be brought back until the grace is over.", "Prune", "danger", null, () => change("Pruned.", "POST", "/v1/prune", { hash }));
}
function ask_token() {
  confirm_then("Change things from here", "Over TCP this page only looks. The token of [api] token_file lets it do more; it is kept until the page is closed, and nowhere else.", "Unlock", "", { label: "Token", required: true }, async token => {
    S.token = token;
    await load_may();
    if (S.may.write) { draw_all(); refresh_detail(); return null; }
    S.token = null;
    await load_may();
    return "This token lets nobody change anything.";
  });
  $("ask").querySelector("input").type = "password";
}
