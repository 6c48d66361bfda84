# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section about live patches: who holds one back, and which kernels would refuse it."""

from __future__ import annotations

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.report import report_lines

from ...support.fleet_dataset import FLEET, PATCHED_FUNCTION, Source, write_dataset
from ...support.fleet_report import COLUMNS, rows

NO_SYMBOL = f"{PATCHED_FUNCTION}: there is no such symbol"
OTHER_KERNEL = "it was built for 6.13.0, this is 6.12.117"


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three hosts that were asked; two would refuse the patch. One of those has no name."""
    asked = [source for source in FLEET if source.record.get("patch") is not None]
    assert len(asked) == 3
    refusals = ([], [NO_SYMBOL], [OTHER_KERNEL, NO_SYMBOL])
    sources = [
        Source({**source.record, "patch_refusals": said}, source.tasks, source.answers)
        for source, said in zip(asked, refusals)
    ]
    sources[2].record["host"] = None
    return write_dataset(tmp_path_factory.mktemp("refusing") / "dataset", sources)


def test_a_row_for_each_refusal_before_who_holds_it_back(refusing: Dataset) -> None:
    found = rows(refusing, "livepatch")
    assert all(" ".join(row) == COLUMNS["livepatch"] for row in found)
    answers = [row["answer"] for row in found]
    assert answers[:2] == ["refused", "refused"]
    assert "refused" not in answers[2:]
    assert answers[2:] == ["in_function", "running", "unreliable"]
    assert [
        (row["patch"], row["function"], row["tasks"], row["audits"], row["hosts"], row["comms"])
        for row in found[:2]
    ] == [
        (PATCHED_FUNCTION, NO_SYMBOL, 0, 2, 1, []),
        (PATCHED_FUNCTION, OTHER_KERNEL, 0, 1, 0, []),
    ]
    # A source that has no host is named itself.
    assert [row["on_hosts"] for row in found[:2]] == [
        ["/var/crash/web-2/vmcore", "web-1"],
        ["/var/crash/web-2/vmcore"],
    ]
    assert found[2]["on_hosts"] == ["/var/crash/web-2/vmcore", "web-0", "web-1"]
    assert (found[0]["first_seen"], found[0]["last_seen"]) != (None, None)


def test_without_refusals_there_is_no_such_row(fleet: Dataset) -> None:
    found = rows(fleet, "livepatch")
    assert found
    assert "refused" not in {row["answer"] for row in found}


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_refusal_can_be_read_in_the_table(refusing: Dataset, width: int) -> None:
    lines = list(report_lines(refusing, ["livepatch"], None, "table", width))
    assert all(len(line) <= width for line in lines)
    heading = lines[2]
    begin, end = heading.index("FUNCTION"), heading.index("TASKS")
    text = " ".join(" ".join(line[begin:end] for line in lines[3:]).split())
    assert NO_SYMBOL in text
    assert OTHER_KERNEL in text
    assert sum("refused" in line for line in lines) == 2
