# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show the progress of a run on stderr, and sum up its figures."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

from tqdm import tqdm

from ...terminal.console import Console, is_terminal
from ...terminal.escape import escape
from .job import Outcome

__all__ = ("Progress",)

_LINE_EVERY_S = 60.0
_FAILURES_SHOWN = 5


def _sources(number: int) -> str:
    return "1 source" if number == 1 else f"{number} sources"


class _Bar(tqdm):  # type: ignore[type-arg]
    # No monitor thread: tick() redraws the bar. Such a thread would take a Ctrl-C that comes
    # while the cluster starts.
    monitor_interval = 0


class Progress:
    """Counts outcomes. On a terminal it draws a bar with the rate and the time left."""

    def __init__(self, total: int, console: Console, quiet: bool) -> None:
        """
        :param total: Number of sources of the run.
        :param quiet: Draw no bar.
        """
        self.total = total
        self.counts: Counter[str] = Counter()
        """Number of sources by status, and number of those ``quarantined`` and ``unchanged``."""
        self.tasks = 0
        """Number of tasks in the new records."""
        self.audit_s = 0.0
        """Sum of the times that the audits took."""
        self._began = time.monotonic()
        self._console = console
        self._last_said = ""
        self._next_line = self._began + _LINE_EVERY_S
        self._bar = _Bar(
            total=total,
            unit="source",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            disable=quiet or not is_terminal(sys.stderr),
        )

    @property
    def done(self) -> int:
        """Number of sources that have their final record."""
        return sum(self.counts.values()) - self.counts["quarantined"]

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of a source."""
        if outcome.unchanged:
            self.counts["unchanged"] += 1
        else:
            record = outcome.record
            self.counts[record["status"]] += 1
            self.counts["quarantined"] += bool(record["quarantined"])
            self.tasks += record.get("tasks") or 0
            self.audit_s += record.get("seconds") or 0.0
            if record["status"] == "failed":
                self._show_failure(record["source"], record["line"])
        self._last_said = ""
        self._bar.set_postfix(failed=self.counts["failed"], refresh=False)
        self._bar.update()

    def tick(self) -> None:
        """Redraw the bar. Without a bar, write a line now and then."""
        self._bar.refresh()
        if self._bar.disable and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            self._console.note(
                f"{self.done} of {_sources(self.total)}, {self.counts['failed']} failed"
            )

    def _show_failure(self, source: str, line: str) -> None:
        if self.counts["failed"] <= _FAILURES_SHOWN:
            # An error that is found late does not name the file.
            named = line if os.path.basename(source) in line else f"{source}: {line}"
            self._write("failed", named)
        elif self.counts["failed"] == _FAILURES_SHOWN + 1:
            self._write("failed", "more; the report lists all of them")

    def say(self, text: str) -> None:
        """Write *text*, unless it was the last text."""
        if text == self._last_said:
            return
        self._last_said = text
        self._write("note", text)

    def _write(self, kind: str, text: str) -> None:
        if self._bar.disable:
            self._console.problem(kind, text)
        else:
            self._bar.write(f"drgn-tools: {kind}: {escape(text)}", file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def figures(self) -> list[str]:
        """Return lines with the figures of the run."""
        took_s = time.monotonic() - self._began
        counts = self.counts
        quarantined = f" ({counts['quarantined']} quarantined)" if counts["quarantined"] else ""
        unchanged = f", {counts['unchanged']} unchanged" if counts["unchanged"] else ""
        new = self.done - counts["unchanged"]
        lines = [
            f"{self.done} of {_sources(self.total)}: {counts['audited']} audited, "
            f"{counts['partly unknown']} partly unknown, {counts['failed']} failed{quarantined}{unchanged}"
        ]
        if new:
            tasks = "1 task" if self.tasks == 1 else f"{self.tasks} tasks"
            lines.append(
                f"{took_s:.1f} s, {new / took_s:.1f} sources a second; {tasks}; "
                f"the audits by themselves took {self.audit_s:.1f} s"
            )
        return lines
