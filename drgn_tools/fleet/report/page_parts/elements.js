// SPDX-License-Identifier: LGPL-2.1-or-later
// Everything in DATA came out of dumps: it reaches the page as text nodes and attribute
// values only, never as markup.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const AUDITS = DATA.audits; // columns; a row is one source, or those of many hosts in one
const VERDICTS = ["reliable", "unreliable", "unknown"];
const STATUSES = ["audited", "partly", "failed"];
const STATUS_WORDS = { audited: "audited", partly: "partly unknown", failed: "failed" };
const RELEASES = [...new Set(DATA.kernels.map((kernel) => kernel.release))].filter(
  (release) => release !== null,
);
const NO_HOST = -1; // of sources whose host is not known, as an index of DATA.hosts
const NO_HOST_NAME = "(not known)";
const ROWS_AT_FIRST = 200;
const ROWS_MORE = 500;
const STACKS_MOST = 20; // that an open function lists
const FRAME_PX = 18;
const FRAME_MIN_PX = 0.7;

const shown = { release: null, host: null, from: null, to: null, verdicts: new Set(VERDICTS) };

// ---- text

const numbers = new Intl.NumberFormat("en-US");
const natural = new Intl.Collator("en", { numeric: true });
const count = (number) => numbers.format(number);

function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  if (part && share < 0.1) return "< 0.1 %";
  if (part < whole && share > 99.9) return "> 99.9 %";
  return `${share.toFixed(1)} %`;
}

function minute(seconds) {
  return seconds === null
    ? "–"
    : new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
}

function day(seconds) {
  return minute(seconds).slice(0, 10);
}

function of(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

// ---- elements

function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== false && value !== undefined)
      element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null)); // strings become text nodes
  return element;
}

const byId = (id) => document.getElementById(id);
const swatch = (kind) => el("i", { class: `swatch ${kind}`, "aria-hidden": "true" });
const word = (kind, text) => el("span", { class: "word" }, swatch(kind), text);

function sized(element, property, share) {
  element.style[property] = `${(100 * share).toFixed(3)}%`;
  return element;
}

function shareBar(tally) {
  const whole = tasksOf(tally);
  const parts = VERDICTS.filter((verdict) => shown.verdicts.has(verdict) && tally[verdict]);
  return el(
    "div",
    { class: "shares", "aria-hidden": "true" },
    ...parts.map((verdict) => sized(el("i", { class: verdict }), "width", tally[verdict] / whole)),
  );
}

function filterButton(text, choose) {
  return el(
    "button",
    { type: "button", class: "link", title: "Show only this", onclick: choose },
    text,
  );
}

// ---- the one tooltip

const tips = new WeakMap(); // element -> what its tip says: a function that returns lines, the first a name

function showTip(element, x, y) {
  const [title, ...lines] = tips.get(element)();
  const tip = byId("tip");
  tip.replaceChildren(el("b", {}, title), ...lines.map((line) => el("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 8))}px`;
  tip.style.top = `${y + height + 24 < innerHeight ? y + 16 : Math.max(4, y - height - 10)}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

document.addEventListener("pointermove", (event) => {
  const element = event.target.closest?.("[data-tip]");
  if (element && tips.has(element)) showTip(element, event.clientX, event.clientY);
  else hideTip();
});
document.addEventListener("scroll", hideTip, true);
