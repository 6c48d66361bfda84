# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/fleet-report.md: its queries work, and it names every section and view."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.dataset.views import VIEWS
from drgn_tools.fleet.report.sections import SECTIONS

from ...support.fleet_dataset import Source, asked_about_patch, audited, failed, write_dataset
from ...support.fleet_report import sql

DOC = Path(__file__).parents[3] / "docs" / "fleet-report.md"


def _examples() -> list[str]:
    return re.findall(
        r'^ {4}drgn-tools fleet report fleet --sql "(.*)"', DOC.read_text(), re.MULTILINE
    )


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, demo_core: str) -> Dataset:
    """What "Try it" of docs/fleet.md makes."""
    text = (DOC.parent / "fleet.md").read_text()
    manifest = [json.loads(line) for line in re.findall(r'^ {4}({"core": .*})', text, re.MULTILINE)]
    assert len(manifest) == 3
    one = asked_about_patch(audited(demo_core))
    sources = [
        Source(
            {
                **one.record,
                "source": source["core"],
                "audit_id": source["host"],
                "host": source["host"],
                "tags": source["tags"],
                "time": datetime.fromisoformat(source["time"][:-1]),
            },
            one.tasks,
            one.answers,
            one.hung,
        )
        for source in manifest
    ]
    sources.append(failed("db2", 3, "input", "db2: is cut", time=datetime.now(timezone.utc)))
    return write_dataset(tmp_path_factory.mktemp("tried") / "dataset", sources)


@pytest.mark.parametrize("query", [*_examples(), "SELECT printf('0x%x', ip) AS ip FROM frames"])
def test_the_queries_of_the_docs_find_something(tried: Dataset, query: str) -> None:
    assert sql(tried, query)["rows"]


def test_the_docs_name_all_there_is() -> None:
    text = DOC.read_text()
    assert len(_examples()) == 7
    for name in (*SECTIONS, *VIEWS):
        assert f"| `{name}` |" in text
