// The time line: only the lanes in sight are drawn.
const L = { kind: "age", scale: null, rows: new Map(), height: 54, width: 0, who: 212 };
const GAP = 7;

function measure() {
  const narrow = matchMedia("(max-width:640px)").matches;
  L.height = narrow ? 84 : 54;
  L.who = narrow ? 0 : 212;
  L.narrow = narrow;
  L.width = $("lanes").clientWidth - L.who;
  const oldest = S.lanes.reduce((least, lane) => lane.n ? Math.min(least, lane.at[0]) : least, now() - 2 * HOUR);
  L.scale = make_scale(L.kind, Math.max(120, L.width), oldest, narrow);
}
function draw_axis() {
  const axis = $("axis");
  axis.replaceChildren(...L.scale.ticks.map(tick => {
    const mark = el("span", {}, tick.text);
    mark.style.left = `${L.who + tick.x}px`;
    return mark;
  }));
  const mark = el("span", { class: "now" }, "now");
  mark.style.left = `${L.who + L.scale.x_now}px`;
  axis.append(mark);
}
/// Everything again.
function draw_lanes() {
  if (!S.loaded) return;
  measure();
  draw_axis();
  $("sky").style.height = `${S.shown.length * L.height}px`;
  $("lanes").setAttribute("aria-rowcount", S.shown.length);
  L.rows.forEach(row => row.remove());
  L.rows.clear();
  draw_sight();
  const of = S.filter ? ` of ${number(S.lanes.length)}` : "";
  $("shown").textContent = S.lanes.length ? `${number(S.shown.length)}${of} ${S.lanes.length === 1 ? "instance" : "instances"}` : "";
  draw_nothing();
}
function draw_sight() {
  const lanes = $("lanes");
  const first = Math.max(0, Math.floor(lanes.scrollTop / L.height) - 2);
  const last = Math.min(S.shown.length, Math.ceil((lanes.scrollTop + lanes.clientHeight) / L.height) + 2);
  for (const [n, row] of L.rows) if (n < first || n >= last) { row.remove(); L.rows.delete(n); }
  for (let n = first; n < last; n++) {
    if (L.rows.has(n)) continue;
    const row = row_of(n);
    L.rows.set(n, row);
    $("sky").append(row);
  }
  const chosen = L.rows.get(S.lane);
  const mark = chosen && chosen.querySelector(".cursor");
  const active = mark ? "chosen" : chosen ? `lane-${S.lane}` : null;
  if (active) lanes.setAttribute("aria-activedescendant", active); else lanes.removeAttribute("aria-activedescendant");
}
function redraw(n) {
  const row = L.rows.get(n);
  if (!row) return;
  row.remove();
  L.rows.delete(n);
}

/// How an instance does, in a mark and few words.
function standing(lane) {
  const all = S.schedules.get(lane.instance) || [];
  const worst = all.find(s => s.state === "failing") || all.find(s => s.state === "tags unreadable");
  if (worst && worst.state === "failing") return { mark: "s-bad", cls: "failing", text: `failing, ${count(worst.failures, "time")}: ${worst.last_error || ""}`, word: "failing" };
  if (worst) return { mark: "s-warn", text: worst.last_error || "tags unreadable", word: "tags unreadable" };
  const running = all.find(s => s.state === "running");
  if (running) return { mark: "s-due", text: `${running.policy}: a snapshot is being taken`, word: "running" };
  if (!lane.there) return { mark: "s-none", text: "no longer there", word: "gone" };
  const next = all.map(s => seconds(s.next_slot)).filter(Boolean).sort((a, b) => a - b)[0];
  const names = all.map(s => s.policy).join(", ");
  if (next) return { mark: "s-ok", text: `${names}, next ${ago(next)}`, next, word: "ok" };
  if (all.length) return { mark: "s-none", text: `${names}: ${all[0].state}`, word: all[0].state };
  return { mark: "s-none", text: lane.forkOf ? "a fork" : "no policy", word: "no policy" };
}
function shape(mark) {
  const at = { class: mark };
  if (mark === "s-bad" || mark === "s-warn") return svg("path", { ...at, d: "M5 0 10 9.5H0Z" });
  return svg("circle", { ...at, cx: 5, cy: 5, r: mark === "s-ok" ? 4.2 : 3.8 });
}
function row_of(n) {
  const lane = S.shown[n], how = standing(lane);
  const who = el("div", { class: `who ${how.cls || ""}`, role: "rowheader", title: `${lane.instance}\n${how.text}` },
    svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, shape(how.mark)),
    el("span", { class: "name" }, lane.instance), el("span", { class: "n" }, number(lane.n)), el("span", { class: "sub" }, how.text));
  if (L.narrow) who.append(who.querySelector(".n"));
  const row = el("div", { class: "lane", role: "row", id: `lane-${n}`, "aria-rowindex": n + 1, "aria-selected": String(n === S.lane),
    "aria-label": `${lane.instance}, ${how.text}, ${count(lane.n, "snapshot")}, ${count(lane.forkCount, "fork")}` }, who, track(lane, n, how));
  row.style.top = `${n * L.height}px`;
  return row;
}
/// Snapshots that would lie on one another are one mark.
function groups(lane) {
  const all = [], x = L.scale.x;
  let group = null;
  for (let n = 0; n < lane.n; n++) {
    if (lane.at[n] < L.scale.from) continue;
    const at = x(lane.at[n]);
    if (group && at - group.to < GAP + 2) { group.to = at; group.last = n; } else all.push(group = { from: at, to: at, first: n, last: n });
  }
  return all;
}
function track(lane, row, how) {
  const y = L.narrow ? 14 : 18, w = Math.max(120, L.width), h = L.height - (L.narrow ? 30 : 0);
  const g = svg("svg", { class: "track", role: "presentation", width: w, height: h, "data-row": row });
  for (const tick of L.scale.ticks) g.append(svg("line", { class: "grid", x1: tick.x, x2: tick.x, y1: 0, y2: h }));
  g.append(svg("line", { class: "nowline", x1: L.scale.x_now, x2: L.scale.x_now, y1: 0, y2: h }));
  const all = groups(lane);
  if (all.length) g.append(svg("line", { class: "wire", x1: all[0].from, x2: L.scale.x_now, y1: y, y2: y }));
  hang_forks(g, lane, all, y, w);
  for (const group of all) draw_group(g, lane, group, y);
  if (how.next) {
    const at = Math.min(w - 8, Math.max(L.scale.x_now + 13, L.scale.x(how.next)));
    g.append(svg("circle", { class: "next", cx: at, cy: y, r: 4.4 }, svg("title", {}, `next snapshot ${ago(how.next)}, ${full(how.next)}`)));
  }
  if (row === S.lane && S.place >= 0) draw_cursor(g, lane, all, y);
  return g;
}
/// What is special about a snapshot, over its mark.
function draw_group(g, lane, group, y) {
  const n = group.last - group.first + 1;
  const held = [], bad = [], goes = [], stays = [];
  for (let at = group.first; at <= group.last; at++) {
    const flags = lane.flags[at], verdict = S.verdicts.size ? S.verdicts.get(id_of(lane, at)) : null;
    if (!flags && !verdict) continue;
    const x = L.scale.x(lane.at[at]);
    if (flags & HELD) held.push(x);
    if (flags & QUARANTINED) bad.push(x);
    if (verdict) (verdict.verdict === "remove" ? goes : stays).push(x);
  }
  if (n === 1) {
    const cold = !(lane.flags[group.first] & STANDBY);
    const mark = lane.policy(group.first) ? svg("circle", { class: cold ? "dot cold" : "dot", cx: group.from, cy: y, r: cold ? 4 : 4.6 })
      : svg("path", { class: cold ? "dot cold" : "dot", d: `M${group.from} ${y - 5.6}l5.6 5.6-5.6 5.6-5.6-5.6z` });
    mark.append(svg("title", {}, describe(lane, group.first)));
    g.append(mark);
    const name = lane.names.get(group.first);
    if (name && !L.narrow) g.append(svg("text", { class: "label", x: group.from + 8, y: y - 7 }, name.length > 18 ? name.slice(0, 17) + "…" : name));
  } else {
    const wide = Math.max(13, group.to - group.from + 9.2), from = (group.from + group.to - wide) / 2;
    const words = `${count(n, "snapshot")}, from ${full(lane.at[group.first])} to ${full(lane.at[group.last])}`;
    g.append(svg("rect", { class: "many", x: from, y: y - 6.5, width: wide, height: 13, rx: 6.5 }, svg("title", {}, words)));
    const text = number(n);
    if (wide > 9 + 6 * text.length) g.append(svg("text", { class: "count", x: from + wide / 2, y: y + 3.6 }, text));
  }
  if (held.length) g.append(n === 1 ? svg("circle", { class: "ring", cx: held[0], cy: y, r: 8.4 }) : svg("path", { class: "ring pins", d: held.map(x => `M${x} ${y - 8.5}v17`).join("") }));
  if (bad.length) g.append(svg("path", { class: "broken", d: bad.map(x => `M${x + 3} ${y - 11}l6 6m0-6l-6 6`).join("") }));
  const bars = (all, at) => all.map(x => `M${x - 5.5} ${at}h11`).join("");
  if (goes.length) g.append(svg("path", { class: "goes", d: bars(goes, y + 10) }));
  if (stays.length) g.append(svg("path", { class: "stays", d: bars(stays, y - 10.5) }));
}
/// Forks hang below what they are forks of.
function hang_forks(g, lane, all, y, w) {
  if (!lane.refs.size) return;
  const low = y + 20, hanging = [];
  for (const group of all) {
    let sum = 0, names = [], at = group.from;
    for (let n = group.first; n <= group.last; n++) {
      const refs = lane.refs.get(n);
      if (!refs) continue;
      sum += refs;
      at = L.scale.x(lane.at[n]);
      names = names.concat(lane.forks.get(n) || []);
    }
    if (sum) hanging.push({ sum, names, at });
  }
  hanging.forEach((one, n) => {
    const end = n + 1 < hanging.length ? hanging[n + 1].at : w;
    g.append(svg("path", { class: "stem", d: `M${one.at} ${y}V${low - 6}q0 6 6 6h4` }));
    g.append(svg("rect", { class: "leaf", x: one.at + 10, y: low - 4, width: 8, height: 8, rx: 2 }));
    const room = end - one.at - 30;
    const first = one.names[0], more = one.sum - 1;
    const words = first ? (more ? [`${first} and ${number(more)} more`, `${first} +${number(more)}`] : [first]) : [];
    const text = [...words, number(one.sum)].find(words => words.length * 6.1 <= room + 8);
    if (text) g.append(svg("text", { class: "twig", x: one.at + 22, y: low + 4 }, text));
  });
}
function draw_cursor(g, lane, all, y) {
  const group = all.find(one => one.first <= S.place && S.place <= one.last);
  if (!group) return;
  const at = L.scale.x(lane.at[S.place]);
  g.append(svg("circle", { class: "cursor", id: "chosen", role: "gridcell", cx: at, cy: y, r: 8, "aria-label": describe(lane, S.place) }));
}
/// A snapshot in words, for whoever does not see the marks.
function describe(lane, n) {
  const flags = lane.flags[n], verdict = S.verdicts.get(id_of(lane, n));
  const parts = [lane.names.get(n) || `snapshot of ${full(lane.at[n])}`, ago(lane.at[n]), flags & STANDBY ? "standby" : "stopped",
    lane.policy(n) || "by hand", lane.refs.get(n) ? count(lane.refs.get(n), "fork") : "", flags & HELD ? "held" : "",
    flags & EXPIRING ? "goes with its last fork" : "", flags & QUARANTINED ? "quarantined" : "", flags & COMPRESSED ? "compressed" : "",
    verdict ? (verdict.verdict === "remove" ? "goes with the next prune" : "would go but must stay") : ""];
  return parts.filter(Boolean).join(", ");
}

/// Chooses a lane, and a snapshot of it (-1: none), and brings both into sight.
function choose(row, place) {
  const before = S.lane;
  S.lane = row;
  S.place = place;
  const lanes = $("lanes"), top = row * L.height;
  if (top < lanes.scrollTop) lanes.scrollTop = top;
  if (top + L.height > lanes.scrollTop + lanes.clientHeight) lanes.scrollTop = top + L.height - lanes.clientHeight;
  redraw(before);
  redraw(row);
  draw_sight();
  const lane = S.shown[row];
  if (lane) $("say").textContent = place >= 0 ? describe(lane, place) : `${lane.instance}, ${standing(lane).text}`;
}
/// The snapshot of a lane nearest to a place.
function nearest(lane, x) {
  let best = -1, least = Infinity;
  for (let n = lane.n - 1; n >= 0; n--) {
    if (lane.at[n] < L.scale.from) break;
    const off = Math.abs(L.scale.x(lane.at[n]) - x);
    if (off < least) { least = off; best = n; }
  }
  return best;
}
function draw_legend() {
  const y = 8, mark = (...parts) => svg("svg", { viewBox: "0 0 20 16", "aria-hidden": "true" }, ...parts);
  const items = [
    [mark(svg("circle", { class: "dot", cx: 10, cy: y, r: 4.6 })), "with memory"],
    [mark(svg("circle", { class: "dot cold", cx: 10, cy: y, r: 4 })), "disks only"],
    [mark(svg("path", { class: "dot", d: "M10 2.4l5.6 5.6-5.6 5.6L4.4 8z" })), "by hand"],
    [mark(svg("circle", { class: "dot", cx: 10, cy: y, r: 4.2 }), svg("rect", { class: "ring", x: 2, y: 0, width: 16, height: 16, rx: 8 })), "held"],
    [mark(svg("path", { class: "stem", d: "M4 0V4q0 4 4 4h2" }), svg("rect", { class: "leaf", x: 10, y: 4, width: 8, height: 8, rx: 2 })), "forks"],
    [mark(svg("circle", { class: "dot", cx: 10, cy: 6, r: 4.2 }), svg("path", { class: "goes", d: "M3 14H17" })), "goes next"],
    [mark(svg("circle", { class: "dot", cx: 10, cy: 10, r: 4.2 }), svg("path", { class: "stays", d: "M3 2H17" })), "blocked"],
    [mark(svg("circle", { class: "next", cx: 10, cy: y, r: 4.4 })), "next slot"],
  ];
  $("legend").replaceChildren(...items.map(([picture, text]) => el("li", {}, picture, text)));
}
function draw_nothing() {
  const nothing = $("nothing"), is_empty = S.shown.length === 0;
  nothing.hidden = !is_empty;
  $("lanes").hidden = is_empty;
  $("axis").hidden = is_empty;
  $("legend").hidden = is_empty;
  if (!is_empty) return;
  if (S.filter) {
    nothing.replaceChildren(el("h2", {}, "No instance fits"), el("p", {}, `Nothing is called ${S.filter}, and no policy of that name has an instance. Esc shows all.`));
    return;
  }
  const root = S.status ? S.status.worker.instances : "the instances root";
  nothing.replaceChildren(el("h2", {}, "No instances yet"),
    el("p", {}, "Each directory in ", el("code", {}, root), " is an instance. Put one there, and its snapshots appear here."),
    el("pre", {}, "snapkeep snapshot NAME           # take one now\nsnapkeep fork NAME/SNAPSHOT web  # make a fork of it\nsnapkeep check --next 5          # when it is taken"));
}
