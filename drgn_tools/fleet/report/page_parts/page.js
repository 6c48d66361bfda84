// SPDX-License-Identifier: LGPL-2.1-or-later
// What is chosen is drawn.

function choose(change) {
  Object.assign(shown, change);
  draw();
}

function setUpSelect(id, names, onChosen, more = []) {
  const order = names
    .map((name, value) => ({ name, value }))
    .concat(more)
    .sort((a, b) => natural.compare(a.name, b.name));
  const chosen = (event) => onChosen(event.target.value === "" ? null : Number(event.target.value));
  byId(id).append(
    el("option", { value: "" }, "all"),
    ...order.map(({ name, value }) => el("option", { value }, name)),
  );
  byId(id).addEventListener("change", chosen);
}

function setUpFilters() {
  setUpSelect("release", RELEASES, (index) =>
    choose({ release: index === null ? null : RELEASES[index] }),
  );
  const nowhere = DATA.totals.without_host ? [{ name: NO_HOST_NAME, value: NO_HOST }] : [];
  setUpSelect("host", DATA.hosts, (host) => choose({ host }), nowhere);
  byId("verdicts").append(...VERDICTS.map(verdictBox));
  byId("time-chip").addEventListener("click", () => choose({ from: null, to: null }));
  byId("clear").addEventListener("click", (event) => {
    event.preventDefault();
    choose({ release: null, host: null, from: null, to: null, verdicts: new Set(VERDICTS) });
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}

function verdictBox(verdict) {
  const toggle = (event) => {
    const verdicts = new Set(shown.verdicts);
    if (event.target.checked) verdicts.add(verdict);
    else verdicts.delete(verdict);
    choose({ verdicts });
  };
  return el(
    "label",
    {},
    el("input", { type: "checkbox", value: verdict, onchange: toggle }),
    swatch(verdict),
    verdict,
  );
}

function drawFilters(all) {
  byId("release").value = shown.release === null ? "" : RELEASES.indexOf(shown.release);
  byId("host").value = shown.host === null ? "" : shown.host;
  for (const box of byId("verdicts").querySelectorAll("input"))
    box.checked = shown.verdicts.has(box.value);
  const chip = byId("time-chip");
  chip.hidden = shown.from === null;
  if (shown.from !== null)
    chip.textContent =
      shown.from === shown.to
        ? `${bucketName(shown.from)} ✕`
        : `${bucketName(shown.from)} … ${bucketName(shown.to)} ✕`;
  byId("clear").disabled = isEverythingShown();
  byId("selected").textContent =
    `${count(all.sources)} of ${of(DATA.totals.sources, "source")}, ${count(tasksOf(all))} of ${of(DATA.totals.tasks, "task")}`;
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
  tables.kernels.setRows(
    tallyBy(audits, (audit) => (releaseOf(audit) === null ? null : AUDITS.kernel[audit])).filter(
      hasShown,
    ),
  );
  tables.hosts.setRows(tallyBy(audits, hostOf).filter(hasShown));
  tables.sources.setRows(
    audits
      .filter((audit) => AUDITS.source[audit] !== null)
      .map((audit) => addAudit(newTally({ key: audit }), audit))
      .filter(hasShown),
  );
  for (const { name, rows } of DATA.sections)
    tables[name].setRows(rows.filter((row) => row.line === null || isKept[row.line]));
}

function drawAbout() {
  const { first, last } = DATA.totals;
  const seen =
    first === null ? "" : ` · kernels as they were from ${minute(first)} to ${minute(last)}`;
  byId("about").textContent =
    `${DATA.dataset}${seen} · written ${minute(DATA.written)} by drgn-tools ${DATA.tool} · all times UTC`;
  document.title = `Stacks of a fleet: ${DATA.dataset}`;
}

drawAbout();
drawNotices();
setUpFilters();
setUpFlame();
draw();
document.body.dataset.ready = "";
