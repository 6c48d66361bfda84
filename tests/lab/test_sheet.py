# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reader of the answer sheet, and the check of what is in it, on sheets made by hand."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import struct
from pathlib import Path
from typing import Optional

import drgn
import pytest

from . import dump
from .check import CASES, faults_of
from .sheet import MAGIC, Sheet, SheetError, find_sheet, read_sheet, read_whole_sheet
from .variants import variant_named

_AT = 0xFFFF888000001000
_PHYSICAL = 0x301000

_Frame = tuple[int, int, int, bool, bytes, bytes]


def _frame(ip: int, regs: int, at: int, user_mode: bool, call_name: bytes, name: bytes) -> bytes:
    size = 32 + len(call_name) + len(name)
    padded = (size + 7) & ~7
    head = struct.pack("<QQQBxHHH", ip, regs, at, user_mode, len(call_name), len(name), padded)
    return head + call_name + name + bytes(padded - size)


def _task(
    pid: int, comm: bytes, ret: int, entries: list[int], frames: list[_Frame], *, on_cpu: int = 0
) -> bytes:
    body = struct.pack(f"<{len(entries)}Q", *entries) + b"".join(_frame(*f) for f in frames)
    head = struct.pack(
        "<IiQiiIIiiiiiiQQQiIII16sII168s",
        288 + len(body), ret, 0xFFFF888000100000 + pid, pid, pid, 0x200000 if pid == 2 else 0, 1,
        0, 0, on_cpu, -1, -1, 1, 0xFFFFC90000000000, 0xFFFFC90000003E00, 0xFFFFC90000003F58, 0,
        len(entries), len(frames), 0, comm, 168, 0, bytes(range(168)),
    )  # fmt: skip
    return head + body


def _sheet(tasks: list[bytes], **changes: int) -> bytes:
    fields = {
        "version": 1, "header": 80, "record": 288, "frame": 32, "records": len(tasks),
        "left_out": 0, "cpus": 2, "word": 8, "self": _AT, "bytes": 80 + sum(map(len, tasks)),
    }  # fmt: skip
    fields.update(changes)
    return struct.pack("<16s8IQQ16s", MAGIC, *fields.values(), b"frame_pointer") + b"".join(tasks)


_TASKS = [
    _task(
        7,
        b"reader\0junk",
        -22,
        [0x111, 0x222],
        [
            (0x111, 0, 0x1008, False, b"f+0x1/0x2", b"f+0x1/0x2"),
            (0x222, 0x2000, 0x2080, False, b"g+0x9/0x9", b"h+0x0/0x4 [m]"),
            (0, 0x3000, 0x3080, True, b"", b""),
        ],
    ),
    _task(2, b"\xff\x1b[31m", 0, [], []),
    _task(3, b"held", 1, [0x111], [], on_cpu=1),
]


def _program(data: bytes, *, virtual: bool = True, physical: bool = True) -> drgn.Program:
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))

    def read(address: int, count: int, offset: int, is_physical: bool) -> bytes:
        return data[offset : offset + count]

    if virtual:
        prog.add_memory_segment(_AT, len(data), read)
    if physical:
        whole = bytes(_PHYSICAL) + data
        size = (len(whole) + (2 << 20) - 1) & ~((1 << 20) - 1)
        whole += bytes(size - len(whole))
        prog.add_memory_segment(0, size, lambda a, n, o, p: whole[o : o + n], True)
    return prog


def test_everything_comes_back() -> None:
    sheet = read_whole_sheet(_program(_sheet(_TASKS)), _AT)
    assert (sheet.address, sheet.unwinder, sheet.cpus, sheet.word_bytes) == (
        _AT,
        "frame_pointer",
        2,
        8,
    )
    reader, kthread, held = sheet.tasks
    assert (reader.pid, reader.comm, reader.ret, reader.entries) == (
        7,
        b"reader",
        -22,
        (0x111, 0x222),
    )
    assert reader.reliable is False
    assert reader.depth == 2
    assert [frame.at for frame in reader.frames] == [0x1008, 0x2080, 0x3080]
    assert reader.frames[1].call_name == "g+0x9/0x9"
    assert reader.frames[1].name == "h+0x0/0x4 [m]"
    assert not reader.frames[1].user_mode
    assert reader.user_frames == (reader.frames[2],)
    assert reader.entry_regs == 0xFFFFC90000003F58
    assert reader.entry_regs_bytes == bytes(range(168))
    assert reader.curr is None
    assert reader.idle_of is None
    assert kthread.kthread
    assert kthread.reliable is True
    assert kthread.comm == b"\xff\x1b[31m"
    assert not held.comparable


def test_no_reliable_stack_traces() -> None:
    (task,) = read_sheet(_program(_sheet([_task(1, b"x", -38, [], [])])), _AT)
    assert task.reliable is None


def test_found_by_its_magic() -> None:
    prog = _program(_sheet(_TASKS))
    assert find_sheet(prog) == _AT
    assert len(read_sheet(prog)) == 3


def test_found_by_its_symbol() -> None:
    prog = _program(_sheet(_TASKS), physical=False)
    pointer = 0xFFFFFFFF81000000
    prog.add_memory_segment(pointer, 8, lambda a, n, o, p: struct.pack("<Q", _AT)[o : o + n])
    symbol = drgn.Symbol("rs_sheet", pointer, 8, drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT)

    def finder(
        prog: drgn.Program, name: Optional[str], address: Optional[int], one: bool
    ) -> list[drgn.Symbol]:
        return [symbol] if name == "rs_sheet" else []

    prog.register_symbol_finder("test", finder, enable_index=0)
    assert find_sheet(prog) == _AT


def test_magic_that_knows_another_address_is_no_sheet() -> None:
    with pytest.raises(SheetError, match="no answer sheet"):
        find_sheet(_program(_sheet(_TASKS, self=_AT + 8)))


def test_no_sheet() -> None:
    with pytest.raises(SheetError, match="not made by the lab"):
        find_sheet(_program(bytes(4096)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_sheet(_TASKS, version=2), "version 2; this reader knows 1"),
        (_sheet(_TASKS, record=296), "version 1"),
        (_sheet(_TASKS, left_out=5), "no room for 5 tasks"),
        (_sheet(_TASKS, self=_AT + 8), "no answer sheet at"),
        (_sheet(_TASKS, bytes=1 << 40), "bytes"),
        (_sheet(_TASKS, bytes=8), "bytes"),
        (_sheet(_TASKS, bytes=1 << 20), "not in the dump"),
        (_sheet(_TASKS, records=4), "middle of a task|not"),
        (_sheet(_TASKS, records=2), "too many"),
        (bytes(80), "no answer sheet at"),
        (_sheet(_TASKS)[:40], "not in the dump"),
    ],
)
def test_damaged_sheet(data: bytes, message: str) -> None:
    with pytest.raises(SheetError, match=message):
        read_whole_sheet(_program(data, physical=False), _AT)


def test_a_damaged_byte_is_an_error_or_stays_in_the_task_that_it_is_in() -> None:
    good = _sheet(_TASKS)
    want = read_whole_sheet(_program(good), _AT)
    begins = list(itertools.accumulate(map(len, _TASKS), initial=80))[:-1]
    errors = same = other = 0
    for at in range(16, len(good)):
        in_task = bisect.bisect_right(begins, at) - 1  # -1: in the header
        for value in (0x00, 0x7F, 0xFF):
            data = bytearray(good)
            data[at] = value
            try:
                sheet = read_whole_sheet(_program(bytes(data), physical=False), _AT)
            except SheetError:
                assert value != good[at]
                errors += 1
                continue
            assert len(sheet.tasks) == len(want.tasks)
            differ = [i for i, task in enumerate(sheet.tasks) if task != want.tasks[i]]
            assert differ in ([], [in_task])
            assert in_task < 0 or dataclasses.replace(sheet, tasks=want.tasks) == want
            same += sheet == want
            other += sheet != want
    assert min(errors, same, other) > 100


def _faults(
    tasks: list[bytes], *, console: str = "", cannot: Optional[set[str]] = None
) -> list[str]:
    prog = _program(_sheet(tasks))
    sheet = read_whole_sheet(prog, _AT)
    variant = dataclasses.replace(variant_named("fp-lsb"), cannot=frozenset(cannot or ()))
    return faults_of(variant, sheet, prog, console)


def test_an_empty_sheet_lacks_every_case() -> None:
    faults = _faults([])
    for case in CASES:
        assert any(fault.startswith(f"{case.name}: ") for fault in faults), case.name


def test_what_a_kernel_cannot_is_not_missing() -> None:
    assert _faults([], cannot={case.name for case in CASES}) == []


def test_walks_that_differ_and_complaints_are_faults() -> None:
    everything = {case.name for case in CASES}
    walks = _task(9, b"odd", 1, [0x111], [(0x999, 0, 0, False, b"f", b"f")])
    assert _faults([walks], cannot=everything) == ["b'odd' (9): the two walks differ"]
    console = "[ 1.0] BUG: scheduling while atomic: x\nfine\n"
    assert _faults([], console=console, cannot=everything) == [
        "the kernel complained: BUG: scheduling while atomic: x"
    ]


def test_another_unwinder_is_a_fault() -> None:
    prog = _program(_sheet([]))
    sheet: Sheet = dataclasses.replace(read_whole_sheet(prog, _AT), unwinder="guess")
    variant = dataclasses.replace(
        variant_named("fp-lsb"), cannot=frozenset(case.name for case in CASES)
    )
    assert faults_of(variant, sheet, prog, "") == ["the unwinder is guess, not frame_pointer"]


def test_a_machine_that_says_nothing_is_asked_for_its_sheet(
    demo_core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dump._has_sheet(Path(demo_core))
    # Not booted far enough to have VMCOREINFO, or not frozen yet.
    early = tmp_path / "core"
    early.write_bytes(b"")
    assert not dump._has_sheet(early)

    def no_sheet(prog: drgn.Program) -> int:
        raise SheetError("none")

    monkeypatch.setattr(dump, "find_sheet", no_sheet)
    assert not dump._has_sheet(Path(demo_core))
