# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person sees of a run while it lasts, and its figures when it is over."""

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
_FAILURES_TOLD = 5


class Progress:
    """Counts outcomes; on a terminal also a bar with rate and time left."""

    def __init__(self, total: int, console: Console, quiet: bool) -> None:
        self.total = total
        self.counts: Counter[str] = Counter()
        """By status, and ``quarantined``, ``unchanged``."""
        self.tasks = 0
        self.audit_s = 0.0
        """Time that the audits themselves took, added up."""
        self._began = time.monotonic()
        self._console = console
        self._said = ""
        self._next_line = self._began + _LINE_EVERY_S
        self._bar = tqdm(
            total=total,
            unit="source",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            disable=quiet or not is_terminal(sys.stderr),
        )

    @property
    def done(self) -> int:
        """How many sources have their final record."""
        return sum(self.counts.values()) - self.counts["quarantined"]

    def add(self, outcome: Outcome) -> None:
        """One more is done."""
        if outcome.unchanged:
            self.counts["unchanged"] += 1
        else:
            record = outcome.record
            self.counts[record["status"]] += 1
            self.counts["quarantined"] += bool(record["quarantined"])
            self.tasks += record.get("tasks") or 0
            self.audit_s += record.get("seconds") or 0.0
            if record["status"] == "failed":
                self._tell_failure(record["source"], record["line"])
        self._said = ""
        self._bar.set_postfix(failed=self.counts["failed"], refresh=False)
        self._bar.update()

    def tick(self) -> None:
        """Time goes by: the clock of the bar moves; where there is none, a line now and then."""
        self._bar.refresh()
        if self._bar.disable and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            self._console.note(
                f"{self.done} of {self.total} sources, {self.counts['failed']} failed"
            )

    def _tell_failure(self, source: str, line: str) -> None:
        if self.counts["failed"] <= _FAILURES_TOLD:
            # What is found out late does not name the file.
            named = line if os.path.basename(source) in line else f"{source}: {line}"
            self._write("failed", named)
        elif self.counts["failed"] == _FAILURES_TOLD + 1:
            self._write("failed", "more; the report has them all")

    def say(self, text: str) -> None:
        """Said once, however often it is said."""
        if text == self._said:
            return
        self._said = text
        self._write("note", text)

    def _write(self, kind: str, text: str) -> None:
        if self._bar.disable:
            self._console.problem(kind, text)
        else:
            self._bar.write(f"drgn-tools: {kind}: {escape(text)}", file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def figures(self) -> list[str]:
        """What the run came to."""
        took_s = time.monotonic() - self._began
        counts = self.counts
        quarantined = f" ({counts['quarantined']} quarantined)" if counts["quarantined"] else ""
        unchanged = f", {counts['unchanged']} unchanged" if counts["unchanged"] else ""
        new = self.done - counts["unchanged"]
        lines = [
            f"{self.done} of {self.total} sources: {counts['audited']} audited, "
            f"{counts['partly unknown']} partly unknown, {counts['failed']} failed{quarantined}{unchanged}"
        ]
        if new:
            lines.append(
                f"{took_s:.1f} s, {new / took_s:.1f} sources a second; {self.tasks} tasks; "
                f"the audits by themselves took {self.audit_s:.1f} s"
            )
        return lines
