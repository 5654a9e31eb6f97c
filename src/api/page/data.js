// What is known, and how it gets here.
const STANDBY = 1, HELD = 2, EXPIRING = 4, QUARANTINED = 8, COMPRESSED = 16;

const S = {
  lanes: [], byInstance: new Map(), policies: [], etag: null,
  status: null, schedules: new Map(), plan: null, verdicts: new Map(), queue: [], events: [],
  may: { read: true, write: false, admin: false, known: false }, token: null,
  isThere: null, planError: null, noFeed: false, tab: "lanes", filter: "", shown: [], lane: -1, place: -1, loaded: false,
};

/// An answer, or an Error with the problem document.
async function ask(method, url, body, headers) {
  const all = { accept: "application/json", ...headers };
  if (S.token) all.authorization = `Bearer ${S.token}`;
  if (body !== undefined) all["content-type"] = "application/json";
  const answer = await fetch(url, { method, headers: all, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  if (answer.status === 304) return null;
  const text = await answer.text();
  let value = null;
  try { value = JSON.parse(text); } catch { /* No JSON: said below. */ }
  if (!answer.ok || value === null) {
    const error = new Error((value && value.detail) || `the worker answered ${answer.status}`);
    error.status = answer.status;
    error.problem = value;
    throw error;
  }
  if (answer.headers.get("etag")) Object.defineProperty(value, "etag", { value: answer.headers.get("etag") });
  return value;
}
const get = url => ask("GET", url);

/// A lane with its columns unpacked.
function lane_of(raw, policies) {
  let t = 0;
  const at = Float64Array.from(raw.at, step => (t += step));
  const map = object => new Map(Object.entries(object || {}).map(([place, value]) => [Number(place), value]));
  const refs = map(raw.ref_count);
  return {
    instance: raw.instance, there: raw.there, forkOf: raw.fork_of || null, ids: raw.ids, at, flags: raw.flags,
    policy: n => { const p = raw.policy.length === 1 ? raw.policy[0] : raw.policy[n]; return p < 0 || p === undefined ? null : policies[p]; },
    policies: [...new Set(raw.policy)].filter(p => p >= 0).map(p => policies[p]),
    names: map(raw.names), refs, forks: map(raw.forks), others: map(raw.other_ids), bytes: raw.allocated_bytes,
    forkCount: [...refs.values()].reduce((sum, n) => sum + n, 0), n: at.length,
  };
}
const id_of = (lane, n) => lane.others.get(n) || `${stamp(lane.at[n])}-${lane.ids.slice(8 * n, 8 * n + 8)}`;
function place_of(lane, id) {
  const tail = id.slice(16);
  for (let at = lane.ids.indexOf(tail); at >= 0; at = lane.ids.indexOf(tail, at + 1)) if (at % 8 === 0 && id_of(lane, at / 8) === id) return at / 8;
  return -1;
}
/// Where a snapshot is, if it is.
function find(id, instance) {
  for (const lane of instance ? [S.byInstance.get(instance)] : S.lanes) {
    const n = lane ? place_of(lane, id) : -1;
    if (n >= 0) return { lane, n };
  }
  return null;
}

const by_name = new Intl.Collator("en", { numeric: true }).compare;

async function load_timeline() {
  const view = await ask("GET", "/v1/timeline", undefined, S.etag ? { "if-none-match": S.etag } : {});
  if (!view) return;
  S.etag = view.etag;
  S.policies = view.policies;
  S.unreadable = view.unreadable;
  const chosen = S.shown[S.lane], id = chosen && S.place >= 0 && S.place < chosen.n ? id_of(chosen, S.place) : null;
  set_lanes(view.lanes.map(raw => lane_of(raw, view.policies)));
  restore_choice(chosen, id);
}
function restore_choice(chosen, id) {
  if (!chosen) return;
  S.lane = S.shown.findIndex(lane => lane.instance === chosen.instance);
  S.place = S.lane >= 0 && id ? place_of(S.shown[S.lane], id) : -1;
}
/// Only those that something happened to.
async function load_some(instances) {
  const view = await get(`/v1/timeline?${instances.map(name => `instance=${encodeURIComponent(name)}`).join("&")}`);
  const chosen = S.shown[S.lane], id = chosen && S.place >= 0 && S.place < chosen.n ? id_of(chosen, S.place) : null;
  const fresh = new Map(view.lanes.map(raw => [raw.instance, lane_of(raw, view.policies)]));
  const is_shown = lane => lane.n > 0 || (lane.there && !lane.forkOf);
  const rest = S.lanes.filter(lane => !instances.includes(lane.instance));
  S.etag = null;
  set_lanes([...rest, ...[...fresh.values()].filter(is_shown)]);
  restore_choice(chosen, id);
}
function set_lanes(lanes) {
  S.lanes = lanes;
  S.byInstance = new Map(lanes.map(lane => [lane.instance, lane]));
  S.loaded = true;
  arrange();
}

const RANK = { failing: 0, "tags unreadable": 1, running: 2, due: 2 };
const rank = lane => Math.min(...(S.schedules.get(lane.instance) || []).map(s => RANK[s.state] ?? 3), 3);
/// Which lanes are shown, in which order: what needs somebody first, then by name.
function arrange() {
  const words = S.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = lane => [lane.instance, ...lane.policies, ...(S.schedules.get(lane.instance) || []).flatMap(s => [s.policy, s.state])].join(" ").toLowerCase();
  const fits = lane => !words.length || words.every(word => text(lane).includes(word));
  const ranks = new Map(S.lanes.map(lane => [lane, rank(lane)]));
  S.shown = S.lanes.filter(fits).sort((a, b) => ranks.get(a) - ranks.get(b) || by_name(a.instance, b.instance));
  if (S.lane >= S.shown.length) S.lane = S.place = -1;
}

async function load_status() {
  S.status = await get("/v1/status");
  S.schedules = new Map();
  for (const one of S.status.policies) {
    if (!one.instance) continue;
    if (!S.schedules.has(one.instance)) S.schedules.set(one.instance, []);
    S.schedules.get(one.instance).push(one);
  }
  const chosen = S.shown[S.lane];
  arrange();
  if (chosen) S.lane = S.shown.indexOf(chosen);
}
async function load_plan() {
  S.plan = await get("/v1/prune/next");
  S.verdicts = new Map();
  for (const entry of S.plan.entries) S.verdicts.set(entry.snapshot_id, entry);
}
async function load_queue() {
  const view = await get("/v1/queue?limit=200");
  S.queue = view.requests;
}
async function load_may() {
  // A worker that does not know of rights is looked at only.
  try { S.may = { ...await get("/v1/whoami"), known: true }; } catch { S.may = { read: true, write: false, admin: false, known: false }; }
}
