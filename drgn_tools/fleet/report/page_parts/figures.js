// SPDX-License-Identifier: LGPL-2.1-or-later
// The figures on top, and what is not listed.

function figure(term, value, small) {
  return el(
    "div",
    { class: "figure" },
    el(
      "dl",
      {},
      el("dt", {}, term),
      el("dd", { "data-figure": term }, value, small ? el("small", {}, small) : ""),
    ),
  );
}

function verdictFigure(tally) {
  const whole = allTasks(tally);
  const parts = VERDICTS.map((verdict) =>
    el(
      "span",
      { class: shown.verdicts.has(verdict) ? null : "off" },
      swatch(verdict),
      verdict,
      el("b", { "data-figure": verdict }, count(tally[verdict])),
      percent(tally[verdict], whole),
    ),
  );
  return el(
    "div",
    { class: "figure verdict-figure" },
    el("dl", {}, el("dt", {}, "verdicts"), el("dd", {}, shareBar(tally))),
    el("div", { class: "legend" }, ...parts),
  );
}

function drawFigures(all) {
  const statuses = STATUSES.filter((status) => all[status] && status !== "failed");
  const everything = isEverythingShown();
  byId("figures").replaceChildren(
    figure(
      "sources",
      count(all.sources),
      statuses.map((status) => `${count(all[status])} ${STATUS_WORDS[status]}`).join(", "),
    ),
    figure("failed", count(all.failed), percent(all.failed, all.sources)),
    figure(
      "hosts",
      everything ? count(DATA.totals.hosts) : hostCount(all),
      all.withoutHost ? `${of(all.withoutHost, "source")} without a name` : null,
    ),
    figure("kernels", count(all.releases.size), of(all.builds.size, "build ID")),
    figure("tasks", count(tasksOf(all))),
    verdictFigure(all),
  );
}

function drawNotices() {
  const left = DATA.left_out;
  const notices = [];
  if (left.stacks)
    notices.push(
      `${of(left.stacks, "rarer stack")} with ${of(left.tasks, "task")} are not listed one by one; in the graph they are “(stacks not listed)”, and the functions they were interrupted in are not counted. All are in the dataset.`,
    );
  if (left.hosts)
    notices.push(
      `${of(left.hosts, "host")} with ${of(left.sources, "source")} are taken together as “${DATA.hosts[DATA.other_hosts]}”, which keeps the page small. All are in the dataset.`,
    );
  if (left.without_host)
    notices.push(
      `${of(left.without_host, "source")} whose host is not known are taken together, which keeps the page small. All are in the dataset.`,
    );
  notices.push(...left.sections);
  byId("notices").replaceChildren(
    ...notices.map((text) => el("p", { class: "notice", role: "note" }, text)),
  );
}
