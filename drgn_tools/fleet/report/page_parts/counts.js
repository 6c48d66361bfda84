// SPDX-License-Identifier: LGPL-2.1-or-later
// What is chosen, and counting it.

// ---- which sources and tasks are shown

function isIn(audit) {
  return isInPlace(audit) && isInTime(AUDITS.bucket[audit]);
}

function isInPlace(audit) {
  if (shown.host !== null && hostOf(audit) !== shown.host) return false;
  return shown.release === null || releaseOf(audit) === shown.release;
}

function isInTime(bucket) {
  return shown.from === null || (bucket >= shown.from && bucket <= shown.to);
}

function releaseOf(audit) {
  return DATA.kernels[AUDITS.kernel[audit]].release;
}

function hostOf(audit) {
  return AUDITS.host[audit] ?? NO_HOST;
}

function hostName(host) {
  return host === NO_HOST ? NO_HOST_NAME : DATA.hosts[host];
}

function isEverythingShown() {
  const { release, host, from, verdicts } = shown;
  return release === null && host === null && from === null && verdicts.size === VERDICTS.length;
}

function tasksOf(tally) {
  return VERDICTS.reduce(
    (sum, verdict) => sum + (shown.verdicts.has(verdict) ? tally[verdict] : 0),
    0,
  );
}

// ---- counting

function newTally(more) {
  const zeros = {
    sources: 0,
    withoutHost: 0,
    audited: 0,
    partly: 0,
    failed: 0,
    reliable: 0,
    unreliable: 0,
    unknown: 0,
  };
  return {
    ...zeros,
    hosts: new Set(),
    releases: new Set(),
    builds: new Set(),
    first: null,
    last: null,
    ...more,
  };
}

function addPlace(tally, audit) {
  tally.hosts.add(hostOf(audit));
  if (releaseOf(audit) !== null) tally.releases.add(releaseOf(audit));
  if (AUDITS.build[audit] !== null) tally.builds.add(AUDITS.build[audit]);
  const [first, last] = [AUDITS.first[audit], AUDITS.last[audit]];
  if (first !== null && (tally.first === null || first < tally.first)) tally.first = first;
  if (last !== null && (tally.last === null || last > tally.last)) tally.last = last;
}

function addAudit(tally, audit) {
  addPlace(tally, audit);
  tally.sources += AUDITS.sources[audit];
  if (hostOf(audit) === NO_HOST) tally.withoutHost += AUDITS.sources[audit];
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

function knownHosts(tally) {
  return tally.hosts.size - tally.hosts.has(NO_HOST);
}

// A host that stands for all those not listed makes a count of hosts a lower bound.
function hostCount(tally) {
  const others = tally.hosts.has(DATA.other_hosts);
  return others ? `≥ ${count(knownHosts(tally))}` : count(knownHosts(tally));
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
    .map((group, key) =>
      shown.verdicts.has(group.verdict) ? tallyGroup(group, key, isKept) : null,
    )
    .filter((tally) => tally && tally.tasks)
    .sort((a, b) => b.tasks - a.tasks);
}

function interruptedIn(group) {
  const names = group.frames
    .map((frame) => DATA.frames[frame])
    .filter((frame) => frame.mode === "kernel");
  return new Set(names.map(functionName));
}

function tallyFunctions(stacks) {
  const tallies = new Map();
  for (const stack of stacks.filter((stack) => stack.group.verdict === "unreliable")) {
    for (const name of interruptedIn(stack.group)) {
      if (!tallies.has(name)) tallies.set(name, newTally({ key: name, tasks: 0, stacks: [] }));
      addStack(tallies.get(name), stack);
    }
  }
  return [...tallies.values()];
}

function addStack(tally, stack) {
  tally.tasks += stack.tasks;
  tally.stacks.push(stack);
  for (const kind of ["hosts", "releases", "builds"])
    stack[kind].forEach((item) => tally[kind].add(item));
  if (stack.first !== null && (tally.first === null || stack.first < tally.first))
    tally.first = stack.first;
  if (stack.last !== null && (tally.last === null || stack.last > tally.last))
    tally.last = stack.last;
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

// Runs of the same, as recursion makes them: [item, how often].
function folded(items) {
  const runs = [];
  for (const item of items) {
    const last = runs[runs.length - 1];
    if (last && last[0] === item) last[1] += 1;
    else runs.push([item, 1]);
  }
  return runs;
}

const times = (number) => (number > 1 ? ` ×${count(number)}` : "");
const stackWord = (frame) => functionName(frame) + (frame.mode === "kernel" ? " ⚡" : "");

// What was interrupted leads, however deep in a fault the task waits now: that is what one
// looks for, and the way into the fault is always the same.
function stackTitle(group) {
  const frames = kernelFrames(group);
  if (!frames.length) return `(${group.reason || "no stack"})`;
  const interrupted = frames.findIndex((frame) => frame.mode === "kernel");
  const lead = interrupted < 0 ? group.start : interrupted;
  const [first, ...callers] = folded(frames.slice(lead).map(stackWord)).map(
    ([name, number]) => name + times(number),
  );
  const waits = lead > group.start ? ` (in ${functionName(frames[group.start])})` : "";
  const shown = callers.slice(0, 3).map((name) => ` ← ${name}`);
  const further = callers.slice(3).filter((name) => name.includes(" ⚡"));
  const rest = further.slice(0, 2).map((name) => ` … ${name}`);
  return [first + waits, ...shown, ...rest, callers.length > 3 ? " …" : ""].join("");
}
