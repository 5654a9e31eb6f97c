// From times to places and back. By age each hour of today has as much room as each month of last year, which is how
// retention thins snapshots out; the other scales are even.
const SPANS = [["age", "By age"], ["day", "Day"], ["week", "Week"], ["month", "Month"], ["all", "All"]];
const KNEE = 20 * MINUTE;
const PAD = 14;

function make_scale(kind, width, oldest, is_narrow) {
  const t = now();
  const ahead = Math.round(Math.max(is_narrow ? 40 : 64, width * 0.09));
  const x_now = width - ahead, room = x_now - PAD;
  const all = Math.max(HOUR, t - oldest);
  if (kind === "age") {
    const most = Math.log1p(all * 1.04 / KNEE), next = Math.log1p(2 * DAY / KNEE);
    const x = when => when <= t ? x_now - room * Math.log1p((t - when) / KNEE) / most : x_now + (ahead - PAD) * Math.min(1, Math.log1p((when - t) / KNEE) / next);
    const marks = [HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 182 * DAY, 365 * DAY, 730 * DAY, 1826 * DAY];
    const words = { [7 * DAY]: "1 w", [14 * DAY]: "2 w", [30 * DAY]: "1 mo", [91 * DAY]: "3 mo", [182 * DAY]: "6 mo", [365 * DAY]: "1 y" };
    const ticks = marks.filter(age => age < all * 1.04).map(age => ({ x: x(t - age), text: words[age] || span(age) }));
    return { kind, x, x_now, ticks: spaced(ticks, x_now, is_narrow ? 38 : 52), from: 0 };
  }
  const length = { day: DAY, week: 7 * DAY, month: 31 * DAY, all: all * 1.02 }[kind];
  const x = when => when <= t ? x_now - room * (t - when) / length : Math.min(width - PAD, x_now + room * (when - t) / length);
  return { kind, x, x_now, ticks: spaced(calendar(t, length, x), x_now, is_narrow ? 48 : 64), from: t - length };
}
/// Those that have room, from now back.
function spaced(ticks, x_now, least) {
  let last = x_now;
  return ticks.filter(tick => {
    const fits = tick.x > 18 && last - tick.x >= least;
    if (fits) last = tick.x;
    return fits;
  });
}
/// Round moments of the reader's own zone, from now back.
function calendar(t, length, x) {
  const ticks = [], d = new Date(t * 1000);
  const step = length <= 1.5 * DAY ? "hours" : length <= 40 * DAY ? "days" : length <= 900 * DAY ? "months" : "years";
  d.setMinutes(0, 0, 0);
  if (step === "hours") d.setHours(d.getHours() - d.getHours() % 3);
  if (step !== "hours") d.setHours(0);
  if (step === "months" || step === "years") d.setDate(1);
  if (step === "years") d.setMonth(0);
  const month = new Intl.DateTimeFormat(undefined, { month: "short" });
  for (let n = 0; n < 60 && d.getTime() / 1000 > t - length; n++) {
    const at = d.getTime() / 1000;
    const text = step === "hours" ? CLOCK.format(d) : step === "days" ? DATE.format(d) : step === "years" || d.getMonth() === 0 ? String(d.getFullYear()) : month.format(d);
    ticks.push({ x: x(at), text });
    if (step === "hours") d.setHours(d.getHours() - 3);
    else if (step === "days") d.setDate(d.getDate() - 1);
    else if (step === "months") d.setMonth(d.getMonth() - 1);
    else d.setFullYear(d.getFullYear() - 1);
  }
  return ticks;
}
