# SPDX-License-Identifier: LGPL-2.1-or-later
"""The columns of a dataset have the names and the order of the fields in JSON."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.record_fields import FRAME, KERNEL, REGS, TASK_WITH_FRAMES
from drgn_tools.fleet.dataset.schema import AUDITS, FRAME_TYPE, REGS_TYPE, TASKS


def test_a_task_has_the_fields_of_json_and_more() -> None:
    names = [field.name for field in TASKS]
    more = {"stack_hash", "interrupted", "brief", "patch_state", "patch_answer", "patch_function"}
    more |= {"waits_for", "wait_name", "wait_detail", "holder_pid", "not_run_s", "hangup"}
    assert names[0] == "audit_id"
    assert [name for name in names[1:] if name not in more] == list(TASK_WITH_FRAMES)
    assert more <= set(names)


def test_frames_and_registers_have_the_fields_of_json() -> None:
    assert [field.name for field in FRAME_TYPE] == list(FRAME)
    assert [field.name for field in REGS_TYPE] == list(REGS)


def test_an_audit_has_the_fields_of_its_kernel() -> None:
    names = [field.name for field in AUDITS]
    # A manifest may name the host, so it stands beside the source.
    of_kernel = [name for name in KERNEL if name not in ("source", "host")]
    assert [name for name in names if name in of_kernel] == of_kernel
    assert {"source", "host"} <= set(names)
