# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reader of a kernel's answers about live patches, and their check, without a machine."""

from __future__ import annotations

import struct
from dataclasses import replace

import drgn
import pytest

from .livepatch import MOMENTS
from .livepatch_check import EXPECTED, faults_of_moment
from .livepatch_sheet import (
    MAGIC,
    LivepatchAnswer,
    LivepatchSheet,
    lines_said,
    read_livepatch_sheet,
)
from .sheet import SheetError
from .variants import variant_named, variants_of

_AT = 0xFFFFC90000001000
_PATCH = 0xFFFFFFFFC0300000
_EBUSY, _EINVAL, _EADDRINUSE = -16, -22, -98


def _header(count: int, **changes: int) -> bytes:
    fields = {"version": 1, "header": 72, "record": 920, "count": count, "left_out": 0}
    fields.update(changes)
    return struct.pack("<16s5I2iIQ16s", MAGIC, *fields.values(), 1, 77, 0, _PATCH, b"stalled")


def _record(pid: int, comm: bytes, ret: int, func: bytes, entries: list[int]) -> bytes:
    return struct.pack(
        "<Q10i2I16s48s100Q",
        0xFFFF888000100000 + pid, pid, pid, ret, len(entries), 0, 1, 0, 0, 1, -1, 2, 0x40,
        comm, func, *entries, *[0] * (100 - len(entries)),
    )  # fmt: skip


def _program(data: bytes) -> drgn.Program:
    platform = drgn.Platform(drgn.Architecture.X86_64)
    prog = drgn.Program(platform)
    prog.add_memory_segment(_AT, len(data), lambda a, n, offset, p: data[offset : offset + n])
    return prog


def test_everything_comes_back() -> None:
    entries = [0xFFFFFFFF81000100, 0xFFFFFFFFC0400010]
    data = _header(1) + _record(7, b"w-old-d\0junk", _EADDRINUSE, b"lab_old_sleep", entries)
    sheet = read_livepatch_sheet(_program(data), _AT)
    assert (sheet.moment, sheet.patch, sheet.target, sheet.writer) == ("stalled", _PATCH, 1, 77)
    (answer,) = sheet.tasks
    assert answer == LivepatchAnswer(
        task=0xFFFF888000100007,
        pid=7,
        tgid=7,
        comm=b"w-old-d",
        ret=_EADDRINUSE,
        func="lab_old_sleep",
        reliable=2,
        entries=tuple(entries),
        patch_state=0,
        pending=True,
        curr=False,
        on_cpu=False,
        cpu=1,
        idle_of=None,
        state=2,
        flags=0x40,
    )
    assert sheet.named("w-old-d") == [answer]
    assert sheet.named("w-old") == []


def test_a_hundred_entries_have_no_end() -> None:
    data = _header(1) + _record(7, b"deep", _EINVAL, b"", [1] * 100)
    assert read_livepatch_sheet(_program(data), _AT).tasks[0].entries == (1,) * 100


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(72), "no sheet"),
        (_header(0, version=2), "version 2"),
        (_header(0, record=8), "version 1; this reader knows 1"),
        (_header(0, left_out=3), "no room for 3 tasks"),
        (_header(1 << 30), "1073741824 tasks"),
        (_header(2) + _record(7, b"x", 0, b"", []), "not in the dump"),
        (b"LAB-", "not in the dump"),
    ],
)
def test_what_is_no_sheet(data: bytes, message: str) -> None:
    with pytest.raises(SheetError, match=message):
        read_livepatch_sheet(_program(data), _AT)


def _sheet(
    *answers: LivepatchAnswer, moment: str = "stalled", patch: int = _PATCH
) -> LivepatchSheet:
    return LivepatchSheet(_AT, moment, patch, 1 if patch else -1, 77, answers)


_IDLE = LivepatchAnswer(
    1, 0, 0, b"swapper/0", 0, "", 3, (1, 2, 3), 1, False, False, False, 0, 0, 0, 2
)


def test_kinds_are_those_of_the_kernel_in_its_order() -> None:
    sheet = _sheet()
    waiting = replace(_IDLE, patch_state=0)
    kinds = {
        0: "free",
        _EBUSY: "running",
        _EINVAL: "unreliable",
        _EADDRINUSE: "blocked",
        -1: "errno 1",
    }
    assert {ret: sheet.kind_of(replace(waiting, ret=ret)) for ret in kinds} == kinds
    # Who is done is not asked.
    assert sheet.kind_of(replace(_IDLE, ret=_EBUSY)) == "done"
    assert _sheet(patch=0).kind_of(waiting) == "none"


def _as_expected(name: str, wanted: str) -> LivepatchAnswer:
    kind, _, func = wanted.partition(" ")
    ret = {"blocked": _EADDRINUSE, "unreliable": _EINVAL, "running": _EBUSY}.get(kind, 0)
    done = 1 if kind == "done" else 0
    return replace(_IDLE, comm=name.encode(), ret=ret, func=func, patch_state=done, idle_of=None)


def _good(unwinder_says: str) -> list[LivepatchAnswer]:
    tasks = {**EXPECTED["stalled"], "k-spin/1a": "running", "k-spin/1b": unwinder_says}
    return [_IDLE, *(_as_expected(name, wanted) for name, wanted in tasks.items())]


def test_a_good_sheet_has_no_faults() -> None:
    orc = _sheet(*_good("blocked lab_old_spin"))
    assert faults_of_moment(variant_named("klp-stalled-stock-6.12"), orc, "") == []
    fault = _as_expected("w-kfault", "unreliable")
    frame_pointers = _sheet(*_good("unreliable"), fault)
    assert faults_of_moment(variant_named("klp-stalled"), frame_pointers, "") == []
    before = _sheet(_IDLE, moment="before", patch=0)
    assert faults_of_moment(variant_named("klp-stalled"), before, "") == []


def test_every_case_that_is_missing_is_a_fault() -> None:
    variant = variant_named("klp-stalled")
    tasks = [*_good("unreliable"), _as_expected("w-kfault", "unreliable")]
    for missing in tasks:
        rest = [task for task in tasks if task is not missing]
        assert faults_of_moment(variant, _sheet(*rest), "") != [], missing.comm


def test_other_faults() -> None:
    variant = variant_named("klp-stalled")
    tasks = [*_good("unreliable"), _as_expected("w-kfault", "unreliable")]
    found = faults_of_moment(variant, _sheet(*tasks), "[ 1.0] WARNING: CPU: 0\n")
    assert found == ["the kernel complained: WARNING: CPU: 0"]
    found = faults_of_moment(variant, _sheet(*tasks, moment="before"), "")
    assert found == ["a transition is under way"]
    twice = _sheet(*tasks, _as_expected("w-same1", "blocked same_name"))
    assert faults_of_moment(variant, twice, "") == ["w-same1: done, blocked same_name, not done"]


_SAID = """\
[    3.1] livepatch: enabling patch 'lab_patch1'
[   13.75] livepatch: klp_try_switch_task: w-old:1 s:94 is sleeping on function lab_old_sleep\r
[   13.76] livepatch: klp_try_switch_task: w-too-deep:101 has an unreliable stack
[   13.77] livepatch: klp_try_switch_task: swapper/1:0 is running
"""


def test_lines_of_the_console() -> None:
    found = [
        (line.seconds, line.comm, line.pid, line.kind, line.func) for line in lines_said(_SAID)
    ]
    assert found == [
        (13.75, "w-old:1 s", 94, "blocked", "lab_old_sleep"),
        (13.76, "w-too-deep", 101, "unreliable", ""),
        (13.77, "swapper/1", 0, "running", ""),
    ]


def test_each_scenario_says_what_it_is_for() -> None:
    for variant in variants_of("livepatch"):
        if variant.live:
            continue
        moments = MOMENTS[variant.livepatch]
        assert moments[-1] in EXPECTED
        assert set(moments[:-1]) <= {"before"}
