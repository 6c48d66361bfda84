// SPDX-License-Identifier: LGPL-2.1-or-later
// Sources and verdicts over time.

function bucketName(bucket) {
  const { from, to } = DATA.buckets[bucket];
  if (from === null && to === null) return "no time known";
  if (from === null) return `before ${minute(to)}`;
  if (to === null) return `${minute(from)} and later`;
  return DATA.bucket_seconds < 86400
    ? `${minute(from)} to ${minute(to).slice(11)}`
    : `${day(from)} to ${day(to - 1)}`;
}

function bucketLines(bucket, tally) {
  const statuses = STATUSES.filter((status) => tally[status]).map(
    (status) => `${count(tally[status])} ${STATUS_WORDS[status]}`,
  );
  const verdicts = VERDICTS.filter((verdict) => tally[verdict]).map(
    (verdict) =>
      `${count(tally[verdict])} ${verdict} (${percent(tally[verdict], allTasks(tally))})`,
  );
  return [
    bucketName(bucket),
    `${of(tally.sources, "source")}${statuses.length ? `: ${statuses.join(", ")}` : ""}`,
    ...verdicts,
  ];
}

function drawBar(tally, bucket, most) {
  const whole = tasksOf(tally);
  const statuses = ["failed", "partly", "audited"].filter((status) => tally[status]);
  const verdicts = ["unreliable", "unknown", "reliable"].filter(
    (verdict) => shown.verdicts.has(verdict) && tally[verdict],
  );
  const isChosen = shown.from !== null && isInTime(bucket);
  const bar = el(
    "button",
    {
      type: "button",
      class: isInTime(bucket) ? null : "dim",
      "data-tip": true,
      "data-bucket": bucket,
      disabled: !tally.sources,
      "aria-pressed": String(isChosen),
      "aria-label": bucketLines(bucket, tally).join("; "),
      onclick: (event) => chooseTime(bucket, event.shiftKey),
    },
    el(
      "span",
      { class: "stack" },
      ...statuses.map((status) =>
        sized(el("i", { class: status }), "height", tally[status] / most),
      ),
    ),
    el(
      "span",
      { class: "verdicts" },
      ...verdicts.map((verdict) =>
        sized(el("i", { class: verdict }), "height", tally[verdict] / whole),
      ),
    ),
  );
  tips.set(bar, () => bucketLines(bucket, tally));
  return bar;
}

function drawTimeline(audits) {
  const tallies = DATA.buckets.map(() => newTally());
  for (const audit of audits) addAudit(tallies[AUDITS.bucket[audit]], audit);
  const most = Math.max(1, ...tallies.map((tally) => tally.sources));
  const legend = [
    ...STATUSES.map((status) => [status, STATUS_WORDS[status]]),
    ...VERDICTS.map((verdict) => [verdict, verdict]),
  ];
  byId("timeline").replaceChildren(
    asWideAs(
      tallies.length,
      el(
        "div",
        { class: "bars", role: "group", "aria-label": "Sources and verdicts over time" },
        ...tallies.map((tally, bucket) => drawBar(tally, bucket, most)),
      ),
      el(
        "div",
        { class: "axis" },
        ...namedBuckets().map((bucket) => el("span", {}, bucketName(bucket))),
      ),
    ),
    el(
      "div",
      { class: "legend" },
      ...legend.map(([kind, text]) => el("span", {}, swatch(kind), text)),
      el("span", {}, `Tallest: ${of(most, "source")}`),
    ),
  );
}

function namedBuckets() {
  // The first and the last; what has no time stands behind them.
  const timed = DATA.buckets.flatMap(({ from, to }, bucket) => (from === to ? [] : [bucket]));
  return timed.length > 1 ? [timed[0], timed[timed.length - 1]] : timed;
}

function asWideAs(bars, ...children) {
  const box = el("div", {}, ...children);
  box.style.maxWidth = `max(22rem, ${bars * 44}px)`;
  return box;
}

function chooseTime(bucket, isUpTo) {
  if (isUpTo && shown.from !== null)
    choose({ from: Math.min(shown.from, bucket), to: Math.max(shown.to, bucket) });
  else if (shown.from === bucket && shown.to === bucket) choose({ from: null, to: null });
  else choose({ from: bucket, to: bucket });
  byId("timeline").querySelector(`[data-bucket="${bucket}"]`).focus();
}
