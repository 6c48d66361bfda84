// SPDX-License-Identifier: LGPL-2.1-or-later
// The tables of the page, and what a row of them opens.

const COLUMN = {
  sources: { name: "sources", label: "sources", kind: "number", value: (row) => row.sources },
  tasks: { name: "tasks", label: "tasks", kind: "number", value: tasksOf },
  unreliable: {
    name: "unreliable",
    label: "unreliable",
    kind: "number",
    value: (row) => row.unreliable,
  },
  unknown: { name: "unknown", label: "unknown", kind: "number", value: (row) => row.unknown },
  share: {
    name: "share",
    label: "share",
    kind: "number",
    title: "Unreliable, of those that could be judged",
    value: shareOf,
    show: (row) => percent(row.unreliable, judged(row)),
  },
  bar: {
    name: "bar",
    label: "verdicts",
    kind: "bar",
    title: "Sorts by the share that is reliable",
    value: (row) => (allTasks(row) ? row.reliable / allTasks(row) : null),
    show: shareBar,
  },
  hosts: {
    name: "hosts",
    label: "hosts",
    kind: "number",
    value: knownHosts,
    show: hostCount,
  },
  kernels: {
    name: "kernels",
    label: "kernels",
    kind: "number",
    title: "Kernel releases",
    value: (row) => row.releases.size,
  },
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
  return filterButton(hostName(host), () => choose({ host }));
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
      { name: "stacks", label: "stacks", kind: "number", value: (row) => row.stacks.length },
      COLUMN.hosts,
      COLUMN.kernels,
      COLUMN.first,
      COLUMN.last,
    ],
  }),
  stacks: new Table("stacks", {
    title: "Stacks",
    hint: "Identical stacks of all hosts in one row; innermost function first, the scheduler left out. ⚡ follows a function in which an interrupt, exception or fault came: the innermost of these leads, with where the task is now in brackets. The filter looks at every function of a stack.",
    sort: "verdict",
    open: stackDetail,
    words: (row) =>
      `${kernelFrames(row.group).map(functionName).join("\n")}\n${row.group.comms.join("\n")}`,
    columns: [
      {
        name: "stack",
        label: "stack",
        kind: "mono",
        wide: true,
        value: (row) => stackTitle(row.group),
      },
      {
        name: "verdict",
        label: "verdict",
        kind: "word",
        value: (row) => row.group.verdict,
        show: (row) => word(row.group.verdict, row.group.verdict),
      },
      { name: "reason", label: "reason", kind: "word", value: (row) => row.group.reason },
      { ...COLUMN.tasks, value: (row) => row.tasks },
      COLUMN.hosts,
      COLUMN.kernels,
      COLUMN.first,
      COLUMN.last,
      { name: "hash", label: "hash", kind: "id", value: (row) => row.group.hash },
    ],
  }),
  kernels: new Table("kernels", {
    title: "Kernels",
    sort: "unreliable",
    columns: [
      {
        name: "release",
        label: "release",
        kind: "text",
        value: (row) => kernelOf(row).release,
        show: (row) => releaseCell(kernelOf(row).release),
      },
      { name: "arch", label: "arch", kind: "word", value: (row) => kernelOf(row).arch },
      { name: "unwinder", label: "unwinder", kind: "word", value: (row) => kernelOf(row).unwinder },
      COLUMN.sources,
      COLUMN.hosts,
      {
        name: "builds",
        label: "builds",
        kind: "number",
        title: "Build IDs",
        value: (row) => row.builds.size,
      },
      COLUMN.tasks,
      COLUMN.unreliable,
      COLUMN.share,
      COLUMN.bar,
      COLUMN.first,
      COLUMN.last,
    ],
  }),
  hosts: new Table("hosts", {
    title: "Hosts",
    sort: "unreliable",
    columns: [
      {
        name: "host",
        label: "host",
        kind: "text",
        value: (row) => hostName(row.key),
        show: (row) => hostCell(row.key),
      },
      COLUMN.sources,
      COLUMN.kernels,
      { name: "failed", label: "failed", kind: "number", value: (row) => row.failed },
      COLUMN.tasks,
      COLUMN.unreliable,
      COLUMN.share,
      COLUMN.bar,
      COLUMN.first,
      COLUMN.last,
    ],
  }),
  sources: new Table("sources", {
    title: "Sources",
    sort: "unreliable",
    columns: [
      {
        name: "source",
        label: "source",
        kind: "mono",
        wide: true,
        value: (row) => AUDITS.source[row.key],
      },
      {
        name: "host",
        label: "host",
        kind: "text",
        value: (row) => hostName(hostOf(row.key)),
        show: (row) => hostCell(hostOf(row.key)),
      },
      {
        name: "release",
        label: "kernel",
        kind: "text",
        value: (row) => releaseOf(row.key),
        show: (row) => releaseCell(releaseOf(row.key)),
      },
      { ...COLUMN.first, label: "time" },
      {
        name: "status",
        label: "status",
        kind: "word",
        value: statusWord,
        show: (row) => word(statusOf(row), statusWord(row)),
      },
      COLUMN.tasks,
      COLUMN.unreliable,
      COLUMN.unknown,
      COLUMN.share,
      {
        name: "tags",
        label: "tags",
        kind: "text",
        value: (row) => AUDITS.tags[row.key],
        show: (row) => tagList(AUDITS.tags[row.key]),
      },
    ],
  }),
};

for (const section of DATA.sections) tables[section.name] = sectionTable(section);

function sectionTable({ name, title, hint, columns }) {
  return new Table(name, {
    title,
    hint,
    sort: null,
    columns: columns.map((column, i) => ({
      ...column,
      value: (row) => row.cells[i] ?? (column.name === "host" ? NO_HOST_NAME : null),
      show: column.kind === "measure" ? (row) => measured(row.cells[i], row.unit) : null,
    })),
  });
}

function measured(value, unit) {
  if (value === null) return "–";
  if (unit === "share") return percent(value, 1);
  if (unit === "bytes") return `${count(Math.round(value / 1048576))} MiB`;
  return unit === "seconds" ? `${value.toFixed(1)} s` : count(value);
}

function kernelOf(row) {
  return DATA.kernels[row.key];
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
    group.command
      ? el(
          "code",
          { class: "command", tabindex: "0", "aria-label": "Command to go on with" },
          group.command,
        )
      : null,
    group.advice ? el("div", { class: "hint advice" }, group.advice) : null,
    el(
      "ol",
      { class: "trace", "aria-label": "Frames, innermost first" },
      ...traceLines(group.frames),
    ),
    factList([
      [
        "verdict",
        word(group.verdict, group.reason ? `${group.verdict}: ${group.reason}` : group.verdict),
      ],
      ["why", group.why],
      ["tasks", `${count(row.tasks)} in ${of(row.sources, "source")}`],
      ["named", group.comms.join(", ")],
      ["hosts", someOf([...row.hosts].map(hostName))],
      ["kernels", someOf([...row.releases])],
      ["seen", `${minute(row.first)} to ${minute(row.last)}`],
      ["hash", el("code", {}, group.hash)],
      ["example", group.source === null ? null : `${group.source}, PID ${group.pid}`],
    ]),
  );
}

function traceLines(frames) {
  let number = 0;
  return folded(frames).map(([index, repeats]) => {
    const line = traceLine(index, number, repeats);
    number += repeats;
    return line;
  });
}

function traceLine(index, number, repeats) {
  const frame = DATA.frames[index];
  const note = frame.mode ? `pt_regs, ${frame.mode} mode` : null;
  const stack = frame.stack === "task" ? null : `${frame.stack} stack`;
  const notes = [note, stack].filter(Boolean).join(", ");
  const kind = { kernel: "regs", user: "user" }[frame.mode];
  return el(
    "li",
    { class: kind },
    el("span", { class: "number" }, `#${number}`),
    el("span", {}, placeName(frame) + times(repeats), notes && el("span", { class: "regs-note" }, `  ${notes}`)),
  );
}

function factList(facts) {
  const said = facts.filter(([, value]) => value !== null && value !== "");
  return el(
    "dl",
    { class: "facts" },
    ...said.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
}

function someOf(names) {
  const sorted = names.sort(natural.compare);
  const rest = sorted.length - 12;
  return sorted.slice(0, 12).join(", ") + (rest > 0 ? ` and ${count(rest)} more` : "");
}

// ---- a function that is open

function functionDetail(row) {
  const { length } = row.stacks;
  return el(
    "div",
    { class: "detail of-function" },
    ...row.stacks.slice(0, STACKS_MOST).map(stackToOpen),
    length > STACKS_MOST
      ? el(
          "button",
          { type: "button", onclick: () => listStacksWith(row.key) },
          `List all its ${count(length)} stacks`,
        )
      : null,
    factList([
      ["hosts", someOf([...row.hosts].map(hostName))],
      ["kernels", someOf([...row.releases])],
    ]),
  );
}

function stackToOpen(stack) {
  const facts = [of(stack.tasks, "task"), stack.group.reason, someOf([...stack.releases])];
  const box = el(
    "details",
    {},
    el(
      "summary",
      {},
      el("span", { class: "mono" }, stackTitle(stack.group)),
      el("span", { class: "hint" }, facts.filter(Boolean).join(", ")),
    ),
  );
  box.addEventListener("toggle", () => box.append(stackDetail(stack)), { once: true });
  return box;
}

function listStacksWith(name) {
  tables.stacks.filterBy(name);
}
