# SPDX-License-Identifier: LGPL-2.1-or-later
"""The columns of a dataset have the names and the order of the fields in JSON."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.record_fields import FRAME, KERNEL, REGS, TASK_WITH_FRAMES
from drgn_tools.fleet.dataset.schema import AUDITS, FRAME_TYPE, REGS_TYPE, TASKS


def test_a_task_has_the_fields_of_json_and_more() -> None:
    names = [field.name for field in TASKS]
    more = ["stack_hash", "interrupted", "brief", "patch_state", "patch_answer", "patch_function"]
    assert names == ["audit_id", *TASK_WITH_FRAMES, *more]


def test_frames_and_registers_have_the_fields_of_json() -> None:
    assert [field.name for field in FRAME_TYPE] == list(FRAME)
    assert [field.name for field in REGS_TYPE] == list(REGS)


def test_an_audit_has_the_fields_of_its_kernel() -> None:
    names = [field.name for field in AUDITS]
    first = names.index("release")
    of_kernel = [name for name in KERNEL if name != "source"]
    assert names[first : first + len(of_kernel)] == of_kernel
    assert names[0] == "source"
