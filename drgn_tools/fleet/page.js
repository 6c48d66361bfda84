// SPDX-License-Identifier: LGPL-2.1-or-later
// Everything in DATA came out of dumps: it reaches the page as text nodes and attribute
// values only, never as markup.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const AUDITS = DATA.audits; // columns; a row is one source, or those of many hosts in one
const VERDICTS = ["reliable", "unreliable", "unknown"];
const STATUSES = ["audited", "partly", "failed"];
const STATUS_WORDS = { audited: "audited", partly: "partly unknown", failed: "failed" };
const ROWS_AT_FIRST = 200;
const ROWS_MORE = 500;
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
  return seconds === null ? "–" : new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
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
    else if (value !== null && value !== false && value !== undefined) element.setAttribute(key, value);
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
  return el("button", { type: "button", class: "link", title: "Show only this", onclick: choose }, text);
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

// ---- which sources and tasks are shown

function isIn(audit) {
  return isInPlace(audit) && isInTime(AUDITS.bucket[audit]);
}

function isInPlace(audit) {
  if (shown.host !== null && AUDITS.host[audit] !== shown.host) return false;
  return shown.release === null || releaseOf(audit) === shown.release;
}

function isInTime(bucket) {
  return shown.from === null || (bucket >= shown.from && bucket <= shown.to);
}

function releaseOf(audit) {
  return DATA.kernels[AUDITS.kernel[audit]].release;
}

function isEverythingShown() {
  const { release, host, from, verdicts } = shown;
  return release === null && host === null && from === null && verdicts.size === VERDICTS.length;
}

function tasksOf(tally) {
  return VERDICTS.reduce((sum, verdict) => sum + (shown.verdicts.has(verdict) ? tally[verdict] : 0), 0);
}

// ---- counting

function newTally(more) {
  const zeros = { sources: 0, audited: 0, partly: 0, failed: 0, reliable: 0, unreliable: 0, unknown: 0 };
  return { ...zeros, hosts: new Set(), releases: new Set(), builds: new Set(), first: null, last: null, ...more };
}

function addPlace(tally, audit) {
  if (AUDITS.host[audit] !== null) tally.hosts.add(AUDITS.host[audit]);
  if (releaseOf(audit) !== null) tally.releases.add(releaseOf(audit));
  if (AUDITS.build[audit] !== null) tally.builds.add(AUDITS.build[audit]);
  const [first, last] = [AUDITS.first[audit], AUDITS.last[audit]];
  if (first !== null && (tally.first === null || first < tally.first)) tally.first = first;
  if (last !== null && (tally.last === null || last > tally.last)) tally.last = last;
}

function addAudit(tally, audit) {
  addPlace(tally, audit);
  tally.sources += AUDITS.sources[audit];
  for (const column of STATUSES) tally[column] += AUDITS[column][audit];
  for (const column of VERDICTS) tally[column] += AUDITS[column][audit];
  return tally;
}

function tallyBy(audits, keyOf) {
  const tallies = new Map();
  for (const audit of audits) {
    const key = keyOf(audit);
    if (key === null) continue;
    if (!tallies.has(key)) tallies.set(key, newTally({ key }));
    addAudit(tallies.get(key), audit);
  }
  return [...tallies.values()];
}

// A host that stands for all those not listed makes a count of hosts a lower bound.
function hostCount(tally) {
  const others = tally.hosts.has(DATA.other_hosts);
  return others ? `≥ ${count(tally.hosts.size)}` : count(tally.hosts.size);
}

function* countsOf(group) {
  // [how many audits further, tasks] one after the other
  for (let i = 0, audit = 0; i < group.counts.length; i += 2) {
    audit += group.counts[i];
    yield [audit, group.counts[i + 1]];
  }
}

function tallyGroup(group, key, isKept) {
  const tally = newTally({ key, group, tasks: 0 });
  for (const [audit, tasks] of countsOf(group)) {
    if (!isKept[audit]) continue;
    tally.tasks += tasks;
    tally.sources += AUDITS.sources[audit];
    addPlace(tally, audit);
  }
  return tally;
}

function tallyGroups(isKept) {
  return DATA.groups
    .map((group, key) => (shown.verdicts.has(group.verdict) ? tallyGroup(group, key, isKept) : null))
    .filter((tally) => tally && tally.tasks)
    .sort((a, b) => b.tasks - a.tasks);
}

function interruptedIn(group) {
  const names = group.frames.map((frame) => DATA.frames[frame]).filter((frame) => frame.mode === "kernel");
  return new Set(names.map(functionName));
}

function tallyFunctions(stacks) {
  const tallies = new Map();
  for (const stack of stacks.filter((stack) => stack.group.verdict === "unreliable")) {
    for (const name of interruptedIn(stack.group)) {
      if (!tallies.has(name)) tallies.set(name, newTally({ key: name, tasks: 0, stacks: 0 }));
      addStack(tallies.get(name), stack);
    }
  }
  return [...tallies.values()];
}

function addStack(tally, stack) {
  tally.tasks += stack.tasks;
  tally.stacks += 1;
  for (const kind of ["hosts", "releases", "builds"]) stack[kind].forEach((item) => tally[kind].add(item));
  if (stack.first !== null && (tally.first === null || stack.first < tally.first)) tally.first = stack.first;
  if (stack.last !== null && (tally.last === null || stack.last > tally.last)) tally.last = stack.last;
}

// ---- frames

function functionName(frame) {
  return frame.module ? `${frame.name} [${frame.module}]` : frame.name;
}

function placeName(frame) {
  return `${frame.name}${frame.offset}${frame.module ? ` [${frame.module}]` : ""}`;
}

function kernelFrames(group) {
  return group.frames.map((frame) => DATA.frames[frame]).filter((frame) => frame.mode !== "user");
}

function stackTitle(group) {
  const names = kernelFrames(group).slice(group.start).map((frame) => frame.name);
  if (!names.length) return `(${group.reason || "no stack"})`;
  return names.slice(0, 4).join(" ← ") + (names.length > 4 ? " …" : "");
}

// ---- tables

class Table {
  // columns: {name, label, kind: text, word, mono, id, number, time, bar; value(row): to sort and filter by;
  // show(row): what is seen, by default the value}. open(row): what a click on a row shows.
  constructor(id, { title, hint, columns, sort, descending = true, open = null, words = () => "" }) {
    Object.assign(this, { columns, sort, descending, open, words, rows: [], limit: ROWS_AT_FIRST });
    this.opened = new Set();
    this.section = byId(id);
    this.count = el("span", { class: "count", "aria-live": "polite" });
    this.input = el("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter ${title.toLowerCase()}`, autocomplete: "off", spellcheck: "false", oninput: () => this.#start() });
    this.headers = columns.map((column) => this.#header(column));
    this.body = el("tbody", { onclick: (event) => this.#clicked(event) });
    this.empty = el("div", { class: "nothing" }, "Nothing here.");
    this.more = el("button", { type: "button", class: "more", onclick: () => this.#showMore() });
    const table = el("table", { "aria-label": title }, el("thead", {}, el("tr", {}, ...this.headers)), this.body);
    this.section.append(
      el("div", { class: "head" }, el("h2", {}, title), this.count, this.input),
      hint ? el("p", { class: "hint" }, hint) : "",
      el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": title }, table, this.empty),
      this.more,
    );
  }

  setRows(rows) {
    this.rows = rows;
    this.#start();
  }

  filterBy(text) {
    this.input.value = text;
    this.#start();
    this.section.scrollIntoView();
  }

  #start() {
    this.limit = ROWS_AT_FIRST;
    this.draw();
  }

  #showMore() {
    this.limit += ROWS_MORE;
    this.draw();
  }

  #header(column) {
    const button = el("button", { type: "button", title: column.title, onclick: () => this.#sortBy(column) }, column.label);
    return el("th", { class: column.kind, scope: "col" }, button);
  }

  #sortBy(column) {
    const isNumber = !["text", "word", "mono", "id"].includes(column.kind);
    this.descending = this.sort === column.name ? !this.descending : isNumber;
    this.sort = column.name;
    this.#start();
  }

  #sorted(rows) {
    const column = this.columns.find((column) => column.name === this.sort);
    if (!column) return rows; // in the order they came
    const sign = this.descending ? -1 : 1;
    return rows.slice().sort((a, b) => compare(column.value(a), column.value(b), sign));
  }

  #matching() {
    const wanted = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return this.rows;
    return this.rows.filter((row) => {
      const text = this.#textOf(row);
      return wanted.every((part) => text.includes(part));
    });
  }

  #textOf(row) {
    const values = this.columns.filter((column) => column.kind !== "bar").map((column) => column.text?.(row) ?? column.value(row));
    return `${values.join("\n")}\n${this.words(row)}`.toLowerCase();
  }

  draw() {
    const rows = this.#sorted(this.#matching());
    this.count.textContent = rows.length === this.rows.length ? count(rows.length) : `${count(rows.length)} of ${count(this.rows.length)}`;
    this.headers.forEach((header, i) => this.#markSorted(header, this.columns[i]));
    this.visible = rows.slice(0, this.limit);
    this.body.replaceChildren(...this.visible.flatMap((row, i) => this.#drawRow(row, i)));
    this.empty.hidden = rows.length > 0;
    this.more.hidden = rows.length <= this.limit;
    this.more.textContent = `Show more (${count(rows.length - this.visible.length)} are not drawn yet)`;
  }

  #markSorted(header, column) {
    const order = this.descending ? "descending" : "ascending";
    header.setAttribute("aria-sort", column.name === this.sort ? order : "none");
  }

  #drawRow(row, i) {
    const cells = this.columns.map((column, j) => this.#drawCell(row, column, j === 0 && this.open));
    const line = el("tr", { "data-row": i }, ...cells);
    if (!this.open || !this.opened.has(row.key)) return [line];
    return [line, el("tr", { class: "opened" }, el("td", { colspan: this.columns.length }, this.open(row)))];
  }

  #drawCell(row, column, opens) {
    const seen = column.show ? column.show(row) : shownValue(column.kind, column.value(row));
    const cell = el("td", { class: column.wide ? `${column.kind} wide` : column.kind });
    if (opens) cell.append(el("button", { type: "button", class: "link opener", "aria-expanded": String(this.opened.has(row.key)) }, seen));
    else cell.append(seen);
    return cell;
  }

  #clicked(event) {
    const line = event.target.closest("tr[data-row]");
    const button = event.target.closest("button");
    if (!this.open || !line || (button && !button.classList.contains("opener"))) return;
    if (String(getSelection())) return; // somebody marks text to copy it
    const { key } = this.visible[line.dataset.row];
    if (!this.opened.delete(key)) this.opened.add(key);
    this.draw();
    this.body.querySelector(`tr[data-row="${line.dataset.row}"] .opener`).focus({ preventScroll: true });
  }
}

function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1; // nothing is last, whichever way
  if (b === null || b === undefined) return -1;
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : natural.compare(String(a), String(b)));
}

function shownValue(kind, value) {
  if (value === null || value === undefined) return "–";
  if (kind === "time") return minute(value);
  return typeof value === "number" ? count(value) : String(value);
}

const COLUMN = {
  sources: { name: "sources", label: "sources", kind: "number", value: (row) => row.sources },
  tasks: { name: "tasks", label: "tasks", kind: "number", value: tasksOf },
  unreliable: { name: "unreliable", label: "unreliable", kind: "number", value: (row) => row.unreliable },
  unknown: { name: "unknown", label: "unknown", kind: "number", value: (row) => row.unknown },
  share: {
    name: "share", label: "share", kind: "number", title: "Unreliable, of those that could be judged",
    value: shareOf, show: (row) => percent(row.unreliable, judged(row)),
  },
  bar: {
    name: "bar", label: "verdicts", kind: "bar", title: "Sorts by the share that is reliable",
    value: (row) => (allTasks(row) ? row.reliable / allTasks(row) : null), show: shareBar,
  },
  hosts: { name: "hosts", label: "hosts", kind: "number", value: (row) => row.hosts.size, show: hostCount },
  kernels: { name: "kernels", label: "kernels", kind: "number", title: "Kernel releases", value: (row) => row.releases.size },
  first: { name: "first", label: "first seen", kind: "time", value: (row) => row.first },
  last: { name: "last", label: "last seen", kind: "time", value: (row) => row.last },
};

function allTasks(tally) {
  return tally.reliable + tally.unreliable + tally.unknown;
}

function judged(tally) {
  return tally.reliable + tally.unreliable;
}

function shareOf(tally) {
  return judged(tally) ? tally.unreliable / judged(tally) : null;
}

function releaseCell(release) {
  return release === null ? "–" : filterButton(release, () => choose({ release }));
}

function hostCell(host) {
  return host === null ? "–" : filterButton(DATA.hosts[host], () => choose({ host }));
}

const tables = {
  functions: new Table("functions", {
    title: "Functions interrupted in unreliable stacks",
    hint: "Where an interrupt, exception or fault came while the kernel ran. Open one for its stacks.",
    sort: "tasks",
    open: functionDetail,
    columns: [
      { name: "function", label: "function", kind: "mono", wide: true, value: (row) => row.key },
      { ...COLUMN.tasks, value: (row) => row.tasks },
      { name: "stacks", label: "stacks", kind: "number", value: (row) => row.stacks },
      COLUMN.hosts, COLUMN.kernels, COLUMN.first, COLUMN.last,
    ],
  }),
  stacks: new Table("stacks", {
    title: "Stacks",
    hint: "Identical stacks of all hosts in one row; innermost function first, the scheduler left out. The filter looks at every function of a stack.",
    sort: "verdict",
    open: stackDetail,
    words: (row) => `${kernelFrames(row.group).map(functionName).join("\n")}\n${row.group.comms.join("\n")}`,
    columns: [
      { name: "stack", label: "stack", kind: "mono", wide: true, value: (row) => stackTitle(row.group) },
      { name: "verdict", label: "verdict", kind: "word", value: (row) => row.group.verdict, show: (row) => word(row.group.verdict, row.group.verdict) },
      { name: "reason", label: "reason", kind: "word", value: (row) => row.group.reason },
      { ...COLUMN.tasks, value: (row) => row.tasks },
      COLUMN.hosts, COLUMN.kernels, COLUMN.first, COLUMN.last,
      { name: "hash", label: "hash", kind: "id", value: (row) => row.group.hash },
    ],
  }),
  kernels: new Table("kernels", {
    title: "Kernels",
    sort: "unreliable",
    columns: [
      { name: "release", label: "release", kind: "text", value: (row) => kernelOf(row).release, show: (row) => releaseCell(kernelOf(row).release) },
      { name: "unwinder", label: "unwinder", kind: "word", value: (row) => kernelOf(row).unwinder },
      COLUMN.sources, COLUMN.hosts,
      { name: "builds", label: "builds", kind: "number", title: "Build IDs", value: (row) => row.builds.size },
      COLUMN.tasks, COLUMN.unreliable, COLUMN.share, COLUMN.bar, COLUMN.first, COLUMN.last,
    ],
  }),
  hosts: new Table("hosts", {
    title: "Hosts",
    sort: "unreliable",
    columns: [
      { name: "host", label: "host", kind: "text", value: (row) => DATA.hosts[row.key], show: (row) => hostCell(row.key) },
      COLUMN.sources, COLUMN.kernels,
      { name: "failed", label: "failed", kind: "number", value: (row) => row.failed },
      COLUMN.tasks, COLUMN.unreliable, COLUMN.share, COLUMN.bar, COLUMN.first, COLUMN.last,
    ],
  }),
  sources: new Table("sources", {
    title: "Sources",
    sort: "unreliable",
    columns: [
      { name: "source", label: "source", kind: "mono", wide: true, value: (row) => AUDITS.source[row.key] },
      { name: "host", label: "host", kind: "text", value: (row) => hostName(row.key), show: (row) => hostCell(AUDITS.host[row.key]) },
      { name: "release", label: "kernel", kind: "text", value: (row) => releaseOf(row.key), show: (row) => releaseCell(releaseOf(row.key)) },
      { ...COLUMN.first, label: "time" },
      { name: "status", label: "status", kind: "word", value: statusWord, show: (row) => word(statusOf(row), statusWord(row)) },
      COLUMN.tasks, COLUMN.unreliable, COLUMN.unknown, COLUMN.share,
      { name: "tags", label: "tags", kind: "text", value: (row) => AUDITS.tags[row.key], show: (row) => tagList(AUDITS.tags[row.key]) },
    ],
  }),
};

for (const section of DATA.sections) tables[section.name] = sectionTable(section);

function sectionTable({ name, title, hint, columns }) {
  return new Table(name, {
    title,
    hint,
    sort: null,
    columns: columns.map((column, i) => ({ name: column.name, label: column.label, kind: column.kind, value: (row) => row.cells[i] })),
  });
}

function kernelOf(row) {
  return DATA.kernels[row.key];
}

function hostName(audit) {
  return AUDITS.host[audit] === null ? null : DATA.hosts[AUDITS.host[audit]];
}

function statusOf(row) {
  return STATUSES.find((status) => row[status]);
}

function statusWord(row) {
  return STATUS_WORDS[statusOf(row)];
}

function tagList(tags) {
  return el("span", {}, ...tags.map((tag) => el("span", { class: "tag" }, tag)));
}

// ---- a stack that is open

function stackDetail(row) {
  const { group } = row;
  return el(
    "div",
    { class: "detail" },
    group.command ? el("code", { class: "command", tabindex: "0", "aria-label": "Command to go on with" }, group.command) : null,
    group.advice ? el("div", { class: "hint advice" }, group.advice) : null,
    el("ol", { class: "trace", "aria-label": "Frames, innermost first" }, ...group.frames.map(traceLine)),
    factList([
      ["verdict", word(group.verdict, group.reason ? `${group.verdict}: ${group.reason}` : group.verdict)],
      ["why", group.why],
      ["tasks", `${count(row.tasks)} in ${of(row.sources, "source")}`],
      ["named", group.comms.join(", ")],
      ["hosts", someOf([...row.hosts].map((host) => DATA.hosts[host]))],
      ["kernels", someOf([...row.releases])],
      ["seen", `${minute(row.first)} to ${minute(row.last)}`],
      ["hash", el("code", {}, group.hash)],
      ["example", group.source === null ? null : `${group.source}, PID ${group.pid}`],
    ]),
  );
}

function traceLine(index, number) {
  const frame = DATA.frames[index];
  const note = frame.mode ? `pt_regs, ${frame.mode} mode` : null;
  const stack = frame.stack === "task" ? null : `${frame.stack} stack`;
  const notes = [note, stack].filter(Boolean).join(", ");
  const kind = { kernel: "regs", user: "user" }[frame.mode];
  return el(
    "li",
    { class: kind },
    el("span", { class: "number" }, `#${number}`),
    el("span", {}, placeName(frame), notes && el("span", { class: "regs-note" }, `  ${notes}`)),
  );
}

function factList(facts) {
  const said = facts.filter(([, value]) => value !== null && value !== "");
  return el("dl", { class: "facts" }, ...said.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function someOf(names) {
  const sorted = names.sort(natural.compare);
  const rest = sorted.length - 12;
  return sorted.slice(0, 12).join(", ") + (rest > 0 ? ` and ${count(rest)} more` : "");
}

function functionDetail(row) {
  return el(
    "div",
    { class: "detail" },
    factList([
      ["hosts", someOf([...row.hosts].map((host) => DATA.hosts[host]))],
      ["kernels", someOf([...row.releases])],
    ]),
    el("div", {}, el("button", { type: "button", onclick: () => listStacksWith(row.key) }, `List its ${of(row.stacks, "stack")}`)),
  );
}

function listStacksWith(name) {
  tables.stacks.filterBy(name);
}

// ---- figures

function figure(term, value, small) {
  return el("div", { class: "figure" }, el("dl", {}, el("dt", {}, term), el("dd", { "data-figure": term }, value, small ? el("small", {}, small) : "")));
}

function verdictFigure(tally) {
  const whole = allTasks(tally);
  const parts = VERDICTS.map((verdict) =>
    el("span", { class: shown.verdicts.has(verdict) ? null : "off" }, swatch(verdict), verdict, el("b", { "data-figure": verdict }, count(tally[verdict])), percent(tally[verdict], whole)),
  );
  return el("div", { class: "figure verdict-figure" }, el("dl", {}, el("dt", {}, "verdicts"), el("dd", {}, shareBar(tally))), el("div", { class: "legend" }, ...parts));
}

function drawFigures(all) {
  const statuses = STATUSES.filter((status) => all[status] && status !== "failed");
  const everything = isEverythingShown();
  byId("figures").replaceChildren(
    figure("sources", count(all.sources), statuses.map((status) => `${count(all[status])} ${STATUS_WORDS[status]}`).join(", ")),
    figure("failed", count(all.failed), percent(all.failed, all.sources)),
    figure("hosts", everything ? count(DATA.totals.hosts) : hostCount(all)),
    figure("kernels", count(all.releases.size), of(all.builds.size, "build ID")),
    figure("tasks", count(tasksOf(all))),
    verdictFigure(all),
  );
}

function drawNotices() {
  const left = DATA.left_out;
  const notices = [];
  if (left.stacks) notices.push(`${of(left.stacks, "rarer stack")} with ${of(left.tasks, "task")} are not listed one by one; in the graph they are “(stacks not listed)”, and the functions they were interrupted in are not counted. All are in the dataset.`);
  if (left.hosts) notices.push(`${of(left.hosts, "host")} with ${of(left.sources, "source")} are taken together as “${DATA.hosts[DATA.other_hosts]}”: those with the fewest unreliable stacks. All are in the dataset.`);
  notices.push(...left.sections);
  byId("notices").replaceChildren(...notices.map((text) => el("p", { class: "notice", role: "note" }, text)));
}

// ---- the time line

function bucketName(bucket) {
  const { from, to } = DATA.buckets[bucket];
  if (from === null && to === null) return "no time known";
  if (from === null) return `before ${minute(to)}`;
  if (to === null) return `${minute(from)} and later`;
  return DATA.bucket_seconds < 86400 ? `${minute(from)} to ${minute(to).slice(11)}` : `${day(from)} to ${day(to - 1)}`;
}

function bucketLines(bucket, tally) {
  const statuses = STATUSES.filter((status) => tally[status]).map((status) => `${count(tally[status])} ${STATUS_WORDS[status]}`);
  const verdicts = VERDICTS.filter((verdict) => tally[verdict]).map((verdict) => `${count(tally[verdict])} ${verdict} (${percent(tally[verdict], allTasks(tally))})`);
  return [bucketName(bucket), `${of(tally.sources, "source")}${statuses.length ? `: ${statuses.join(", ")}` : ""}`, ...verdicts];
}

function drawBar(tally, bucket, most) {
  const whole = tasksOf(tally);
  const statuses = ["failed", "partly", "audited"].filter((status) => tally[status]);
  const verdicts = ["unreliable", "unknown", "reliable"].filter((verdict) => shown.verdicts.has(verdict) && tally[verdict]);
  const isChosen = shown.from !== null && isInTime(bucket);
  const bar = el(
    "button",
    {
      type: "button", class: isInTime(bucket) ? null : "dim", "data-tip": true, "data-bucket": bucket, disabled: !tally.sources,
      "aria-pressed": String(isChosen), "aria-label": bucketLines(bucket, tally).join("; "),
      onclick: (event) => chooseTime(bucket, event.shiftKey),
    },
    el("span", { class: "stack" }, ...statuses.map((status) => sized(el("i", { class: status }), "height", tally[status] / most))),
    el("span", { class: "verdicts" }, ...verdicts.map((verdict) => sized(el("i", { class: verdict }), "height", tally[verdict] / whole))),
  );
  tips.set(bar, () => bucketLines(bucket, tally));
  return bar;
}

function drawTimeline(audits) {
  const tallies = DATA.buckets.map(() => newTally());
  for (const audit of audits) addAudit(tallies[AUDITS.bucket[audit]], audit);
  const most = Math.max(1, ...tallies.map((tally) => tally.sources));
  const last = DATA.buckets.length - 1;
  const legend = [...STATUSES.map((status) => [status, STATUS_WORDS[status]]), ...VERDICTS.map((verdict) => [verdict, verdict])];
  byId("timeline").replaceChildren(
    asWideAs(
      tallies.length,
      el("div", { class: "bars", role: "group", "aria-label": "Sources and verdicts over time" }, ...tallies.map((tally, bucket) => drawBar(tally, bucket, most))),
      el("div", { class: "axis" }, ...[...new Set([0, last])].filter((bucket) => bucket in DATA.buckets).map((bucket) => el("span", {}, bucketName(bucket)))),
    ),
    el("div", { class: "legend" }, ...legend.map(([kind, text]) => el("span", {}, swatch(kind), text)), el("span", {}, `Tallest: ${of(most, "source")}`)),
  );
}

function asWideAs(bars, ...children) {
  const box = el("div", {}, ...children);
  box.style.maxWidth = `max(22rem, ${bars * 44}px)`;
  return box;
}

function chooseTime(bucket, isUpTo) {
  if (isUpTo && shown.from !== null) choose({ from: Math.min(shown.from, bucket), to: Math.max(shown.to, bucket) });
  else if (shown.from === bucket && shown.to === bucket) choose({ from: null, to: null });
  else choose({ from: bucket, to: bucket });
  byId("timeline").querySelector(`[data-bucket="${bucket}"]`).focus();
}

// ---- the flame graph

const flame = { root: null, path: [], nodes: new Map(), elements: new Map() };

function newNode(name, isRegs, parent) {
  return { name, isRegs, parent, key: `${name}${isRegs ? "\0" : ""}`, kids: new Map(), tasks: 0, reliable: 0, unreliable: 0, unknown: 0 };
}

function growTree(stacks) {
  const root = newNode("all", false, null);
  for (const { group, tasks } of stacks) {
    let node = addTasks(root, group.verdict, tasks);
    for (const [name, isRegs] of outermostFirst(group)) {
      const key = `${name}${isRegs ? "\0" : ""}`;
      if (!node.kids.has(key)) node.kids.set(key, newNode(name, isRegs, node));
      node = addTasks(node.kids.get(key), group.verdict, tasks);
    }
  }
  return root;
}

function addTasks(node, verdict, tasks) {
  node.tasks += tasks;
  node[verdict] += tasks;
  return node;
}

function outermostFirst(group) {
  const frames = kernelFrames(group).reverse();
  return frames.length ? frames.map((frame) => [functionName(frame), frame.mode === "kernel"]) : [[stackTitle(group), false]];
}

function zoomedNode() {
  // As far as the path still leads: a filter may have taken its end away.
  let node = flame.root;
  for (const key of flame.path) {
    if (!node.kids.has(key)) break;
    node = node.kids.get(key);
  }
  return node;
}

function pathTo(node) {
  return node.parent ? [...pathTo(node.parent), node.key] : [];
}

function chainTo(node) {
  return node.parent ? [...chainTo(node.parent), node] : [node];
}

function placeNodes(zoomed, width) {
  const placed = chainTo(zoomed).map((node, row) => ({ node, row, left: 0, share: 1, isAbove: node !== zoomed }));
  let undrawn = 0;
  const place = (parent, row, left) => {
    for (const node of [...parent.kids.values()].sort((a, b) => b.tasks - a.tasks || (a.key < b.key ? -1 : 1))) {
      const share = node.tasks / zoomed.tasks;
      if (share * width < FRAME_MIN_PX) {
        undrawn += node.tasks;
        continue;
      }
      placed.push({ node, row, left, share, isAbove: false });
      place(node, row + 1, left);
      left += share;
    }
  };
  place(zoomed, placed.length, 0);
  return { placed, undrawn };
}

function nodeLines(node) {
  const verdicts = VERDICTS.filter((verdict) => node[verdict]).map((verdict) => `${count(node[verdict])} ${verdict} (${percent(node[verdict], node.tasks)})`);
  const regs = node.isRegs ? ["interrupted here: kernel-mode pt_regs"] : [];
  return [node.parent ? node.name : "all stacks", `${of(node.tasks, "task")}, ${percent(node.tasks, flame.root.tasks)} of those shown`, ...verdicts, ...regs];
}

function drawFrame({ node, row, left, share, isAbove }, width) {
  const hasRoom = share * width > 22;
  const classes = ["frame", node.unreliable && "bad", node.isRegs && "regs", isAbove && "above", !hasRoom && "bare", isFound(node) && "found"];
  const frame = el("div", {
    class: classes.filter(Boolean).join(" "), role: "treeitem", tabindex: "-1", "data-tip": true,
    "aria-level": row + 1, "aria-label": nodeLines(node).join("; "),
  });
  if (hasRoom) frame.textContent = node.parent ? node.name : "all stacks";
  frame.style.top = `${row * FRAME_PX}px`;
  sized(sized(frame, "left", left), "width", share);
  frame.style.setProperty("--bad", `${(100 * node.unreliable) / node.tasks}%`);
  frame.style.setProperty("--open", `${(100 * node.unknown) / node.tasks}%`);
  tips.set(frame, () => nodeLines(node));
  flame.nodes.set(frame, node);
  flame.elements.set(node, frame);
  return frame;
}

function drawFlame() {
  const graph = byId("flame-graph");
  const width = graph.clientWidth || 1;
  const zoomed = zoomedNode();
  flame.nodes.clear();
  flame.elements.clear();
  const { placed, undrawn } = zoomed.tasks ? placeNodes(zoomed, width) : { placed: [], undrawn: 0 };
  graph.replaceChildren(...placed.map((place) => drawFrame(place, width)));
  graph.style.height = `${Math.max(2, ...placed.map(({ row }) => row + 1)) * FRAME_PX + 2}px`;
  graph.classList.toggle("searching", wantedFunction() !== "");
  flame.elements.get(zoomed)?.setAttribute("tabindex", "0");
  byId("flame-reset").disabled = byId("flame-list").disabled = !zoomed.parent;
  sayFlame(zoomed, undrawn);
}

function sayFlame(zoomed, undrawn) {
  const where = zoomed.parent ? `Zoomed into ${zoomed.name}: ${nodeLines(zoomed).slice(1).join("; ")}. ` : "";
  const rest = undrawn ? `${of(undrawn, "task")} (${percent(undrawn, zoomed.tasks)}) end in pieces too narrow to draw; zoom in to see them.` : "";
  byId("flame-said").textContent = zoomed.tasks ? where + rest : "No stack is shown.";
  const wanted = wantedFunction();
  byId("flame-found").textContent = wanted ? `${of(tasksWith(flame.root, wanted), "task")} (${percent(tasksWith(flame.root, wanted), flame.root.tasks)})` : "";
}

function wantedFunction() {
  return byId("flame-search").value.trim().toLowerCase();
}

function isFound(node) {
  const wanted = wantedFunction();
  return wanted !== "" && node.parent !== null && node.name.toLowerCase().includes(wanted);
}

function tasksWith(node, wanted) {
  if (isFound(node)) return node.tasks;
  return [...node.kids.values()].reduce((sum, kid) => sum + tasksWith(kid, wanted), 0);
}

function zoomTo(node) {
  hideTip();
  flame.path = pathTo(node);
  drawFlame();
  flame.elements.get(zoomedNode())?.focus({ preventScroll: true });
}

function neighbour(node, step) {
  const row = [...flame.elements.entries()].filter(([, element]) => element.style.top === flame.elements.get(node).style.top);
  return row[row.findIndex(([other]) => other === node) + step]?.[0];
}

function firstKid(node) {
  return [...flame.elements.keys()].find((other) => other.parent === node);
}

function flameKey(event) {
  const node = flame.nodes.get(event.target);
  if (!node) return;
  const zoomed = zoomedNode();
  const goals = { ArrowDown: () => firstKid(node), ArrowUp: () => node.parent, ArrowLeft: () => neighbour(node, -1), ArrowRight: () => neighbour(node, 1), Home: () => flame.root };
  if (event.key === "Enter" || event.key === " ") zoomTo(node);
  else if (event.key === "Escape") zoomTo(zoomed.parent || flame.root);
  else if (goals[event.key]) focusFrame(goals[event.key]());
  else return;
  event.preventDefault();
}

function focusFrame(node) {
  const frame = node && flame.elements.get(node);
  if (!frame) return;
  byId("flame-graph").querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  frame.setAttribute("tabindex", "0");
  frame.focus();
}

function flameFocused(event) {
  const node = flame.nodes.get(event.target);
  if (!node || !event.target.matches(":focus-visible")) return;
  const { left, bottom } = event.target.getBoundingClientRect();
  showTip(event.target, Math.max(0, left), bottom - 10);
}

// ---- choosing

function choose(change) {
  Object.assign(shown, change);
  draw();
}

function options(select, choices, chosen) {
  select.replaceChildren(
    el("option", { value: "" }, "all"),
    ...choices.map(([value, text]) => el("option", { value, selected: value === chosen }, text)),
  );
}

function setUpFilters() {
  const releases = [...new Set(DATA.kernels.map((kernel) => kernel.release))].filter((release) => release !== null).sort(natural.compare);
  const hosts = DATA.hosts.map((name, host) => [host, name]).sort((a, b) => natural.compare(a[1], b[1]));
  options(byId("release"), releases.map((release, i) => [i, release]));
  options(byId("host"), hosts);
  byId("release").addEventListener("change", (event) => choose({ release: event.target.value === "" ? null : releases[event.target.value] }));
  byId("host").addEventListener("change", (event) => choose({ host: event.target.value === "" ? null : Number(event.target.value) }));
  byId("verdicts").append(...VERDICTS.map(verdictBox));
  byId("time-chip").addEventListener("click", () => choose({ from: null, to: null }));
  byId("clear").addEventListener("click", (event) => {
    event.preventDefault();
    choose({ release: null, host: null, from: null, to: null, verdicts: new Set(VERDICTS) });
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  shown.releases = releases;
}

function verdictBox(verdict) {
  const toggle = (event) => {
    const verdicts = new Set(shown.verdicts);
    if (event.target.checked) verdicts.add(verdict);
    else verdicts.delete(verdict);
    choose({ verdicts });
  };
  return el("label", {}, el("input", { type: "checkbox", value: verdict, onchange: toggle }), swatch(verdict), verdict);
}

function drawFilters(all) {
  byId("release").value = shown.release === null ? "" : shown.releases.indexOf(shown.release);
  byId("host").value = shown.host === null ? "" : shown.host;
  for (const box of byId("verdicts").querySelectorAll("input")) box.checked = shown.verdicts.has(box.value);
  const chip = byId("time-chip");
  chip.hidden = shown.from === null;
  if (shown.from !== null) chip.textContent = shown.from === shown.to ? `${bucketName(shown.from)} ✕` : `${bucketName(shown.from)} … ${bucketName(shown.to)} ✕`;
  byId("clear").disabled = isEverythingShown();
  byId("selected").textContent = `${count(all.sources)} of ${of(DATA.totals.sources, "source")}, ${count(tasksOf(all))} of ${of(DATA.totals.tasks, "task")}`;
}

// ---- everything

function draw() {
  hideTip();
  const everyAudit = AUDITS.source.map((_, audit) => audit);
  const inPlace = everyAudit.filter(isInPlace);
  const audits = everyAudit.filter(isIn);
  const isKept = everyAudit.map(isIn);
  const all = audits.reduce(addAudit, newTally());
  const stacks = tallyGroups(isKept);
  drawFilters(all);
  drawFigures(all);
  drawTimeline(inPlace);
  drawTables(audits, isKept, stacks);
  flame.root = growTree(stacks);
  drawFlame();
}

function drawTables(audits, isKept, stacks) {
  const hasShown = (tally) => shown.verdicts.size === VERDICTS.length || tasksOf(tally) > 0;
  tables.functions.setRows(tallyFunctions(stacks));
  tables.stacks.setRows(stacks.filter((stack) => stack.group.hash !== null));
  tables.kernels.setRows(tallyBy(audits, (audit) => (releaseOf(audit) === null ? null : AUDITS.kernel[audit])).filter(hasShown));
  tables.hosts.setRows(tallyBy(audits, (audit) => AUDITS.host[audit]).filter(hasShown));
  tables.sources.setRows(audits.filter((audit) => AUDITS.source[audit] !== null).map((audit) => addAudit(newTally({ key: audit }), audit)).filter(hasShown));
  for (const { name, rows } of DATA.sections) tables[name].setRows(rows.filter((row) => row.audit === null || isKept[row.audit]));
}

function drawAbout() {
  const { first, last } = DATA.totals;
  const seen = first === null ? "" : ` · kernels as they were from ${minute(first)} to ${minute(last)}`;
  byId("about").textContent = `${DATA.dataset}${seen} · written ${minute(DATA.written)} by drgn-tools ${DATA.tool} · all times UTC`;
  document.title = `Stacks of a fleet: ${DATA.dataset}`;
}

function setUpFlame() {
  const graph = byId("flame-graph");
  graph.addEventListener("click", (event) => flame.nodes.has(event.target) && zoomTo(flame.nodes.get(event.target)));
  graph.addEventListener("keydown", flameKey);
  graph.addEventListener("focusin", flameFocused);
  graph.addEventListener("focusout", hideTip);
  byId("flame-search").addEventListener("input", drawFlame);
  byId("flame-reset").addEventListener("click", () => zoomTo(flame.root));
  byId("flame-list").addEventListener("click", () => listStacksWith(zoomedNode().name));
  byId("flame-legend").append(
    ...["reliable", "unknown"].map((verdict) => el("span", {}, swatch(verdict), verdict)),
    el("span", {}, swatch("some"), swatch("unreliable"), "few to all unreliable"),
    el("span", {}, "║ interrupted here"),
  );
  let width = graph.clientWidth;
  new ResizeObserver(() => {
    if (graph.clientWidth !== width) drawFlame();
    width = graph.clientWidth;
  }).observe(graph);
}

drawAbout();
drawNotices();
setUpFilters();
setUpFlame();
draw();
document.body.dataset.ready = "";
