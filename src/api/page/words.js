// Elements and words. Whatever comes from the store goes through text nodes and attributes only.
const $ = id => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";

function fill(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (tag, attrs, ...children) => fill(document.createElement(tag), attrs, children);
const svg = (tag, attrs, ...children) => fill(document.createElementNS(NS, tag), attrs, children);

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const UNITS = [[365 * DAY, "y"], [30 * DAY, "mo"], [DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [1, "s"]];

/// A span of seconds in one unit.
function span(seconds) {
  for (const [size, unit] of UNITS) if (seconds >= size * (unit === "y" ? 1 : unit === "mo" ? 2 : 1)) return `${Math.floor(seconds / size)} ${unit}`;
  return "0 s";
}
const now = () => Date.now() / 1000;
function ago(t) {
  const age = now() - t;
  return Math.abs(age) < 5 ? (age >= 0 ? "just now" : "now") : age > 0 ? `${span(age)} ago` : `in ${span(-age)}`;
}
const seconds = text => text ? Date.parse(text) / 1000 : null;
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const CLOCK_S = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const full = t => FULL.format(t * 1000);
/// A moment in few characters: the time today, else the date too.
function moment(t) {
  const is_near = Math.abs(t - now()) < 20 * HOUR;
  return is_near ? CLOCK.format(t * 1000) : `${DATE.format(t * 1000)}, ${CLOCK.format(t * 1000)}`;
}
function bytes(n) {
  let unit = 0;
  const names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  while (n >= 1024 && unit < names.length - 1) { n /= 1024; unit++; }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${names[unit]}`;
}
const number = n => n.toLocaleString("en");
const count = (n, one, many) => `${number(n)} ${n === 1 ? one : many || one + "s"}`;
const two = n => String(n).padStart(2, "0");
function stamp(t) {
  const d = new Date(t * 1000);
  return `${d.getUTCFullYear()}${two(d.getUTCMonth() + 1)}${two(d.getUTCDate())}-${two(d.getUTCHours())}${two(d.getUTCMinutes())}${two(d.getUTCSeconds())}`;
}
const path = (...parts) => parts.map(encodeURIComponent).join("/");
