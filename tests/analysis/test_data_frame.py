# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records as a DataFrame of pandas: the columns of csv, and numbers that stay exact."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from drgn import Program
from msgspec.structs import replace

from drgn_tools import diff_tasks, hung_tasks, to_pandas
from drgn_tools.analysis import record_fields as fields
from drgn_tools.analysis.flatten import each_frame, saved_regs
from drgn_tools.analysis.grouping import group_stacks
from drgn_tools.errors import UsageError

from ..support.fabricated import AUDIT, SLEEPER, TASKS
from ..support.snapshots import EARLIER, LATER


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError) as error:
        to_pandas(TASKS)
    assert str(error.value) == "to_pandas() needs pandas: pip install 'drgn-tools[pandas]'"


@pytest.mark.parametrize(
    ("records", "columns"),
    [
        (AUDIT, fields.TASK),
        (list(each_frame(TASKS)), fields.FRAME_CSV),
        (list(saved_regs(TASKS)), fields.REGS_OF_TASK),
        (group_stacks(TASKS), fields.GROUP_CSV),
        (diff_tasks(EARLIER, LATER), fields.CHANGE_CSV),
        ([], fields.TASK),
    ],
)
def test_the_columns_are_those_of_csv(records: Any, columns: fields.Fields) -> None:
    pytest.importorskip("pandas", reason="needs the extra drgn-tools[pandas]")
    frame = to_pandas(records)
    assert list(frame.columns) == list(columns)
    rows = records.changes if hasattr(records, "changes") else list(records)
    assert len(frame) == len(rows)


def test_a_number_is_exact_beside_one_that_is_missing() -> None:
    pytest.importorskip("pandas", reason="needs the extra drgn-tools[pandas]")
    exact = (1 << 53) + 1  # no float
    frame = to_pandas([replace(SLEEPER, start_time_ns=exact), SLEEPER])
    assert frame["start_time_ns"][0] == exact
    assert frame["start_time_ns"].isna().tolist() == [False, True]


@pytest.mark.parametrize("records", [[1, 2], [SLEEPER, 1], ["text"], SLEEPER, None])
def test_what_are_no_records_of_one_kind_is_wrong_use(records: Any) -> None:
    pytest.importorskip("pandas", reason="needs the extra drgn-tools[pandas]")
    with pytest.raises(UsageError, match="records of one kind"):
        to_pandas(records)


def test_what_hangs(demo_program: Program) -> None:
    pytest.importorskip("pandas", reason="needs the extra drgn-tools[pandas]")
    report = hung_tasks(demo_program)
    frame = to_pandas(report)
    assert list(frame.columns) == list(fields.HUNG_TASK)
    assert len(frame) == len(report.blocked)
    hangs = frame[frame["hangup"].notna()]
    assert sorted(hangs["comm"]) == [
        "lab-unwoken",
        "w-futex-pi",
        "w-inode-lock",
        "w-mutex",
        "w-vfork",
    ]
    assert to_pandas(list(report.tasks())).equals(frame)
