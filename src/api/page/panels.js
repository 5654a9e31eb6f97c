// The head of the page and the four lists beside the time line.
const MOST_ROWS = 100, MOST_EVENTS = 300;

/// What a snapshot is called: its own name, or its instance and when it was taken.
function title_of(instance, id, taken) {
  const lane = S.byInstance.get(instance), n = lane ? place_of(lane, id) : -1;
  const name = n >= 0 ? lane.names.get(n) : null;
  return name ? `${instance}/${name}` : `${instance}, ${moment(taken)}`;
}
const link = (text, act) => el("button", { type: "button", class: "link", onclick: act }, text);
const open_link = (entry, text) => link(text || title_of(entry.instance, entry.snapshot_id, seconds(entry.created_at)), () => reveal(entry.instance, entry.snapshot_id));
const tag = (text, cls) => el("span", { class: `tag ${cls || ""}` }, text);
const item = (head, right, ...why) => el("div", { class: "item" },
  el("div", { class: "head" }, head, right ? el("span", { class: "right" }, right) : null), ...why.filter(Boolean).map(text => el("p", { class: "why" }, text)));
const more = (n, all) => all > n ? el("p", { class: "why" }, `and ${number(all - n)} more`) : null;

function draw_head() {
  const pill = $("worker"), w = S.status && S.status.worker;
  const say = (text, cls) => { if (pill.textContent !== text) pill.textContent = text; pill.className = `pill ${cls}`; };
  if (S.isThere === false) say("no answer", "bad");
  else if (!w) say("connecting", "");
  else if (w.starting) say("starting", "warn");
  else if (w.started_at) say(`up ${span(now() - seconds(w.started_at))}`, "good");
  else say("reads only", "warn");
  if (!w) return;
  const bytes_of_all = S.lanes.reduce((sum, lane) => sum + lane.bytes, 0);
  const there = S.lanes.filter(lane => lane.there).length;
  const facts = [[there, there === 1 ? "instance" : "instances"], [w.snapshots, w.snapshots === 1 ? "snapshot" : "snapshots"], [w.forks, w.forks === 1 ? "fork" : "forks"]];
  const parts = facts.flatMap(([n, word]) => [el("b", {}, number(n)), ` ${word}, `]);
  $("totals").replaceChildren(...parts, el("b", {}, bytes(bytes_of_all)), " stored");
  $("totals").title = `${w.store}, snapkeep ${w.version}`;
  $("unlock").hidden = S.may.write || !S.may.known;
}

/// What somebody should look at, worst first; one line each.
function alerts() {
  const all = [], w = S.status && S.status.worker;
  if (S.isThere === false) all.push(["bad", "The worker does not answer", "What is shown is as it was; it is asked again every few seconds."]);
  if (!w) return all;
  if (w.root_lost) all.push(["bad", "The instances root is away", w.root_lost]);
  if (w.queue_closed) all.push(["bad", "The fork queue takes nothing", w.queue_closed]);
  const failing = S.status.policies.filter(p => p.state === "failing").sort((a, b) => b.failures - a.failures);
  if (failing.length === 1) {
    const [one] = failing;
    all.push(["bad", `${one.policy} fails for ${one.instance}`, `${count(one.failures, "time")} in a row: ${one.last_error || "no reason given"}`, ["Show", () => show_instance(one.instance)]]);
  } else if (failing.length) {
    const [worst] = failing;
    all.push(["bad", `${number(failing.length)} schedules fail`, `${worst.instance}, ${count(worst.failures, "time")} in a row: ${worst.last_error || "no reason given"}`, ["Show", () => show_tab("schedules")]]);
  }
  if (w.config_rejected.length) all.push(["warn", "The last configuration was refused", w.config_rejected.join("; ")]);
  if (w.clock && !w.clock.trusted) all.push(["warn", "The clock is not believed", `Nothing is removed by age${w.clock.why ? `: ${w.clock.why}` : ""}.`]);
  if (w.starting) all.push(["warn", "The worker is starting", w.starting]);
  if (S.unreadable) all.push(["warn", `${count(S.unreadable, "snapshot")} cannot be read`, "They are kept and never forked; snapkeep verify tells why."]);
  const blocked = S.plan ? S.plan.blocked : 0;
  if (blocked) all.push(["warn", `${count(blocked, "snapshot")} cannot go`, blocked_words(), ["Show", () => show_tab("prune")]]);
  return all;
}
/// Why, over all that were told of, most frequent first.
function blocked_words() {
  const causes = new Map();
  for (const entry of S.plan.entries) {
    if (entry.verdict !== "blocked") continue;
    for (const reason of entry.reasons.filter(r => r.side === "block")) causes.set(reason.rule, (causes.get(reason.rule) || 0) + 1);
  }
  const words = { live_forks: "by live forks", queued: "by queued forks", held: "by a hold", pinned: "by a reader", unreadable: "as they are unreadable", unmounted: "as the instances root is away", clock: "as the clock is not believed" };
  return [...causes].sort((a, b) => b[1] - a[1]).map(([rule, n]) => `${number(n)} ${words[rule] || rule}`).join(", ");
}
function draw_alerts() {
  const all = alerts(), box = $("alerts"), key = JSON.stringify(all.map(one => one.slice(0, 3)));
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.hidden = !all.length;
  box.replaceChildren(...all.map(([cls, head, text, act]) => el("div", { class: `alert ${cls}` }, el("b", {}, head), el("span", {}, text),
    act ? el("button", { type: "button", onclick: act[1] }, act[0]) : null)));
}

/// Text for the reasons of one side; without any, of all.
function why_of(entry, side) {
  const some = entry.reasons.filter(reason => reason.side === side);
  return (some.length ? some : entry.reasons).map(reason => `${reason.rule}${reason.count ? ` ${reason.count}` : ""}: ${reason.text}`).join("; ");
}
function draw_prune() {
  const panel = $("panel-prune"), plan = S.plan;
  const badge = $("n-prune");
  badge.textContent = plan && plan.remove + plan.blocked ? number(plan.remove + plan.blocked) : "";
  badge.className = plan && plan.blocked ? "warn" : "";
  if (!plan) {
    panel.replaceChildren(el("h2", {}, "Next prune"), el("p", { class: "lead" }, S.planError || "Being planned."));
    return;
  }
  const goes = plan.entries.filter(e => e.verdict === "remove"), stays = plan.entries.filter(e => e.verdict === "blocked");
  const all = plan.keep + plan.remove + plan.blocked;
  const free = goes.reduce((sum, e) => sum + e.reclaimable_bytes, 0);
  const parts = [el("h2", {}, plan.remove ? `The next prune takes ${number(plan.capped_by ? Math.min(plan.remove, plan.allowed || 0) : plan.remove)} of ${number(all)}` : "The next prune takes nothing"),
    el("p", { class: "lead" }, `${plan.every_seconds ? `It runs every ${span(plan.every_seconds)} and after each snapshot. ` : ""}${all ? `${count(plan.keep, "stays", "stay")}${plan.blocked ? `, ${number(plan.blocked)} would go but must stay` : ""}.` : ""}${free ? ` ${goes.length < plan.remove ? "More than " : ""}${bytes(free)} come free.` : ""}`)];
  if (plan.capped_by) parts.push(el("p", { class: "verdict blocked" }, `${number(plan.remove)} are to go, and [prune] ${plan.capped_by} lets ${number(plan.allowed || 0)} go in one run; the next runs go on.`));
  if (S.may.admin && plan.remove) parts.push(el("div", { class: "acts" }, el("button", { type: "button", class: "danger", onclick: ask_prune }, "Prune now")));
  const list = (head, all, of, row) => { if (all.length) parts.push(el("h3", {}, head), ...all.slice(0, MOST_ROWS).map(row), more(Math.min(all.length, MOST_ROWS), of)); };
  list("Goes", goes, plan.remove, e => item(open_link(e), e.reclaimable_bytes ? bytes(e.reclaimable_bytes) : null, why_of(e, "remove")));
  list("Would go, but must stay", stays, plan.blocked, e => item(open_link(e), e.reclaimable_bytes ? bytes(e.reclaimable_bytes) : null, why_of(e, "block"),
    e.forks.length ? `forks: ${e.forks.slice(0, 6).join(", ")}${e.forks.length > 6 ? ` and ${number(e.forks.length - 6)} more` : ""}` : null));
  list("Goes by age, if nothing changes", plan.soon, plan.soon.length, e => item(open_link(e), ago(seconds(e.next_change_at)), `${full(seconds(e.next_change_at))}; now ${why_of(e, "keep")}`));
  panel.replaceChildren(...parts.filter(Boolean));
}

const STATES = { failing: "bad", "tags unreadable": "warn", ok: "good", running: "good", due: "good" };
function draw_schedules() {
  const panel = $("panel-schedules"), all = S.status ? S.status.policies : [];
  const failing = all.filter(p => p.state === "failing").length;
  $("n-schedules").textContent = failing ? number(failing) : "";
  $("n-schedules").className = failing ? "bad" : "";
  const by_policy = new Map();
  for (const one of all) by_policy.set(one.policy, [...(by_policy.get(one.policy) || []), one]);
  const parts = [el("h2", {}, "Schedules")];
  if (S.status && !all.length) parts.push(el("p", { class: "lead" }, "There is no policy in the configuration, so nothing is taken by itself."));
  for (const [policy, pairs] of by_policy) parts.push(...draw_policy(policy, pairs));
  const open = new Set([...panel.querySelectorAll("details[open]")].map(one => one.dataset.policy));
  panel.replaceChildren(...parts.filter(Boolean));
  for (const one of panel.querySelectorAll("details")) if (open.has(one.dataset.policy)) one.open = true;
}
function draw_policy(policy, pairs) {
  const real = pairs.filter(p => p.instance), least = (key, best) => real.map(p => seconds(p[key])).filter(Boolean).sort((a, b) => best * (a - b))[0];
  const last = least("last_success_at", -1), next = least("next_slot", 1), bad = real.filter(p => p.state === "failing" || p.state === "tags unreadable");
  const words = [real.length ? count(real.length, "instance") : "no instance is selected", last ? `last ${ago(last)}` : real.length ? "nothing taken yet" : null, next ? `next ${ago(next)}` : null,
    pairs[0].timezone ? `in ${pairs[0].timezone}` : null];
  const row = p => item(link(p.instance, () => show_instance(p.instance)), tag(p.state === "failing" ? `failing, ${count(p.failures, "time")}` : p.state, STATES[p.state]),
    [p.last_success_at ? `last ${ago(seconds(p.last_success_at))}` : "nothing taken yet", p.next_slot ? `next ${ago(seconds(p.next_slot))}, ${moment(seconds(p.next_slot))}` : null,
      p.late_ms > 1000 ? `${span(p.late_ms / 1000)} late` : null, count(p.snapshots, "snapshot")].filter(Boolean).join(", "), p.last_error);
  const rest = real.filter(p => !bad.includes(p)).sort((a, b) => by_name(a.instance, b.instance));
  const parts = [el("h3", {}, policy), el("p", { class: "why" }, words.filter(Boolean).join(", ")), ...bad.slice(0, MOST_ROWS).map(row), more(Math.min(bad.length, MOST_ROWS), bad.length)];
  if (rest.length <= 6) parts.push(...rest.map(row));
  else {
    const list = el("details", { "data-policy": policy }, el("summary", {}, `${bad.length ? "the other " : "all "}${number(rest.length)}`));
    // Hundreds of rows are made when somebody wants to see them.
    list.addEventListener("toggle", () => { if (list.open && list.children.length === 1) list.append(...[...rest.slice(0, MOST_ROWS).map(row), more(MOST_ROWS, rest.length)].filter(Boolean)); });
    parts.push(list);
  }
  return parts;
}

const QUEUE = { failed: "bad", running: "good", queued: "", done: "", cancelled: "" };
function draw_queue() {
  const panel = $("panel-queue"), open = S.queue.filter(r => r.state === "queued" || r.state === "running");
  const rest = S.queue.filter(r => !open.includes(r)).sort((a, b) => (b.finished_at || "") < (a.finished_at || "") ? -1 : 1);
  const pending = S.status ? Math.max(S.status.worker.pending, open.length) : open.length;
  $("n-queue").textContent = pending ? number(pending) : "";
  const pool = S.status && S.status.worker.pool;
  const parts = [el("h2", {}, pending ? `${count(pending, "fork")} to be made` : "No fork is waiting"),
    pool ? el("p", { class: "lead" }, `${number(pool.ready)} of ${number(pool.wanted)} lie ready in the pool, ${bytes(pool.bytes)}.`) : null];
  const row = r => item(el("span", {}, r.name), tag(r.state, QUEUE[r.state]),
    [`of ${snapshot_words(r.snapshot_id)}`, r.finished_at ? ago(seconds(r.finished_at)) : `asked ${ago(seconds(r.queued_at))}`, r.memory && r.memory !== "none" ? `memory by ${r.memory}` : null, r.attempts > 1 ? `attempt ${r.attempts}` : null].filter(Boolean).join(", "), r.error);
  parts.push(...open.slice(0, MOST_ROWS).map(row), more(Math.min(open.length, MOST_ROWS), pending));
  if (rest.length) parts.push(el("h3", {}, "Lately"), ...rest.slice(0, MOST_ROWS).map(row));
  panel.replaceChildren(...parts.filter(Boolean));
}
function snapshot_words(id) {
  const found = find(id);
  return found ? title_of(found.lane.instance, id, found.lane.at[found.n]) : id;
}

// Fields that the line already shows, or that say nothing to a reader.
const PLAIN = new Set(["ts", "level", "event", "id", "key", "hash", "at"]);
function event_words(e) {
  const subject = e.instance || e.name || e.to || (e.snapshot ? snapshot_words(e.snapshot) : "");
  const error = e.error || (Array.isArray(e.why) ? e.why.join(", ") : e.why) || e.fell_back;
  if (error) return [subject, error].filter(Boolean).join(": ");
  const rest = Object.entries(e).filter(([key, value]) => !PLAIN.has(key) && !["instance", "name", "snapshot", "fork", "slot", "until"].includes(key) && value !== null && value !== "" && typeof value !== "object");
  const say = ([key, value]) => key.endsWith("bytes") ? `${key.replace(/_?bytes$/, "") || "size"} ${bytes(value)}` : key.endsWith("_ms") ? `${key.slice(0, -3)} ${number(value)} ms` : typeof value === "boolean" ? (value ? key : "") : `${key.replaceAll("_", " ")} ${typeof value === "number" ? number(value) : value}`;
  return [subject, ...rest.slice(0, 4).map(say).filter(Boolean)].filter(Boolean).join(", ");
}
function event_row(e, is_new) {
  const at = seconds(e.ts);
  return el("div", { class: `item ${e.level} ${is_new ? "new" : ""}` }, el("time", { datetime: e.ts, title: full(at) }, Math.abs(at - now()) < 20 * HOUR ? CLOCK_S.format(at * 1000) : DATE.format(at * 1000)),
    el("span", { class: "ev" }, e.event), el("span", { class: "what" }, event_words(e)));
}
function draw_events() {
  const flow = el("div", { class: "flow", id: "flow", role: "log", "aria-live": "off" }, ...S.events.map(e => event_row(e, false)).reverse());
  $("panel-events").replaceChildren(el("h2", {}, "Events"), el("p", { class: "lead", id: "flow-lead" }), flow);
  draw_flow_lead();
}
function draw_flow_lead() {
  const lead = $("flow-lead");
  if (!lead) return;
  const bad = S.events.filter(e => e.level !== "info").length;
  lead.textContent = S.noFeed ? "This worker keeps no events; look at its log." : !S.events.length ? "Nothing has happened since the worker started." : `The newest first${bad ? `; ${count(bad, "needs", "need")} a look` : ""}.`;
}
/// Puts new ones on top of what is there.
function add_events(all) {
  S.events.push(...all);
  if (S.events.length > MOST_EVENTS) S.events.splice(0, S.events.length - MOST_EVENTS);
  const flow = $("flow");
  if (!flow) { draw_events(); return; }
  flow.prepend(...all.slice(-MOST_EVENTS).map(e => event_row(e, true)).reverse());
  while (flow.children.length > MOST_EVENTS) flow.lastElementChild.remove();
  draw_flow_lead();
}
