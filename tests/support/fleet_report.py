# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the report on a dataset in tests, and compute its figures again from the records.

Needs the extra ``drgn-tools[fleet]``: import it below ``pytest.importorskip``.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Optional

import pytest

from drgn_tools.commands.main import main
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.query import query_lines
from drgn_tools.fleet.report.report import report_lines
from drgn_tools.records import Verdict

from .fleet_dataset import FLEET, Source

Rows = list[dict[str, Any]]

ALL = 1_000_000
"""More rows than any section has."""


def sections(
    dataset: Dataset, names: Sequence[str] = (), top: Optional[int] = ALL
) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("\n".join(report_lines(dataset, names, top, "json", None)))
    return found


def rows(dataset: Dataset, section: str, top: Optional[int] = ALL) -> Rows:
    found: Rows = sections(dataset, [section], top)["sections"][section]["rows"]
    return found


def sql(dataset: Dataset, query: str, format: str = "json") -> Any:
    text = "\n".join(query_lines(dataset, query, format))
    return json.loads(text) if format == "json" else text


def iso(when: Optional[datetime]) -> Optional[str]:
    return when and when.replace(tzinfo=None).isoformat() + "Z"


def seen(sources: Iterable[Source]) -> tuple[Optional[str], Optional[str]]:
    times = sorted(source["time"] for source in sources if source["time"])
    return (iso(times[0]), iso(times[-1])) if times else (None, None)


def share(sources: Iterable[Source]) -> Any:
    counts = Counter(task.verdict for source in sources for task in source.tasks or ())
    judged = counts[Verdict.RELIABLE] + counts[Verdict.UNRELIABLE]
    return pytest.approx(counts[Verdict.UNRELIABLE] / judged) if judged else None


def count(sources: Iterable[Source]) -> dict[str, int]:
    counts = Counter(task.verdict for source in sources for task in source.tasks or ())
    return {
        "tasks": sum(counts.values()),
        **{verdict.value: counts[verdict] for verdict in Verdict},
    }


def by(sources: Iterable[Source], *columns: str) -> dict[Any, list[Source]]:
    groups: dict[Any, list[Source]] = defaultdict(list)
    for source in sources:
        groups[tuple(source[column] for column in columns)].append(source)
    return groups


def distinct(sources: Iterable[Source], column: str) -> list[Any]:
    return sorted({source[column] for source in sources if source[column] is not None})


AUDITED = [source for source in FLEET if source["status"] != "failed"]

COLUMNS = {
    "summary": "sources audited partly_unknown failed quarantined hosts releases builds first_seen "
    "last_seen tasks reliable unreliable unknown unreliable_share seconds peak_memory_bytes tools",
    "kernels": "release arch unwinder builds audits hosts tasks reliable unreliable unknown "
    "unreliable_share first_seen last_seen",
    "hosts": "host sources failed releases tasks reliable unreliable unknown unreliable_share "
    "first_seen last_seen",
    "functions": "function count tasks audits hosts releases entries first_seen last_seen",
    "reasons": "verdict reason tasks audits hosts releases first_seen last_seen",
    "stacks": "stack_hash verdict reason tasks audits hosts releases first_seen last_seen source "
    "pid comm functions",
    "livepatch": "patch answer function tasks audits hosts releases comms on_hosts first_seen "
    "last_seen",
    "hung": "hangup waits_for what function tasks longest_s audits hosts releases comms on_hosts "
    "first_seen last_seen",
    "outliers": "kind source host release value unit median score detail",
    "failures": "status source host exit_code cause attempts quarantined line",
}
"""Programs rely on these: add to them, but never remove any."""


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["fleet", "report", *argv])
    return (code, *capsys.readouterr())
