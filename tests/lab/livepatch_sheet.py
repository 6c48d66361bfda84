# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads what a kernel said about each task in a transition (livepatch_modules/answers.h)."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import drgn

from .sheet import SheetError

__all__ = (
    "LivepatchAnswer",
    "LivepatchSheet",
    "SaidLine",
    "lines_said",
    "read_livepatch_sheet",
)

MAGIC = b"LAB-LIVEPATCH"
VERSION = 1

_ENTRIES = 100
_HEADER = struct.Struct("<16s5I2iIQ16s")
_RECORD = struct.Struct(f"<Q10i2I16s48s{_ENTRIES}Q")
_MAX_TASKS = 1 << 16


@dataclass(frozen=True)
class LivepatchAnswer:
    """What the kernel said about one task. It is asked about every task, also one that is done."""

    task: int
    """Address of the ``struct task_struct``."""
    pid: int
    tgid: int
    comm: bytes
    """Without the NUL and what follows it."""
    ret: int
    """What klp_check_and_switch_task() returned: 0 or a negative errno. -ENODATA: no transition."""
    func: str
    """``klp_func::old_name`` that it gave with -EADDRINUSE, else ""."""
    reliable: int
    """What stack_trace_save_tsk_reliable() returned for 100 entries: their number, or an errno."""
    entries: tuple[int, ...]
    """The return addresses that it stored, innermost first; also those before it failed."""
    patch_state: int
    """``task_struct::patch_state``: -1 idle, 0 unpatched, 1 patched."""
    pending: bool
    """TIF_PATCH_PENDING."""
    curr: bool
    """task_curr(): the current task of a CPU."""
    on_cpu: bool
    cpu: int
    idle_of: Optional[int]
    """The CPU whose idle task this is."""
    state: int
    """``task_struct::__state``."""
    flags: int
    """PF_... bits."""


@dataclass(frozen=True)
class LivepatchSheet:
    """The answers of one moment."""

    address: int
    """Virtual address of the header."""
    moment: str
    patch: int
    """Address of the ``struct klp_patch`` in transition, or 0."""
    target: int
    """klp_target_state: -1 none, 0 unpatched, 1 patched."""
    writer: int
    """Pid of the task that asked. It was asked as current: it is on a CPU, and not "running"."""
    tasks: tuple[LivepatchAnswer, ...]
    """Every thread of the task list, then the idle task of every possible CPU."""

    def kind_of(self, answer: LivepatchAnswer) -> str:
        """What klp_try_switch_task() makes of it, in its order.

        "done", "free" (it is switched when it is asked next), "running", "unreliable", "blocked",
        or "none" without a transition.
        """
        if not self.patch:
            return "none"
        if answer.patch_state == self.target:
            return "done"
        return {
            0: "free",
            -errno.EBUSY: "running",
            -errno.EINVAL: "unreliable",
            -errno.EADDRINUSE: "blocked",
        }.get(answer.ret, f"errno {-answer.ret}")

    def named(self, comm: str) -> list[LivepatchAnswer]:
        """Tasks of a name."""
        return [answer for answer in self.tasks if answer.comm == comm.encode()]


def read_livepatch_sheet(prog: drgn.Program, address: int) -> LivepatchSheet:
    """Reads the sheet at a virtual address.

    :raises SheetError: there is none, or not one this reader knows
    """
    try:
        header = _HEADER.unpack(prog.read(address, _HEADER.size))
        magic, version, header_bytes, record_bytes, count, left_out = header[:6]
        target, writer, _, patch, moment = header[6:]
        if magic.rstrip(b"\0") != MAGIC:
            raise SheetError(f"no sheet of a live patch at {address:#x}")
        if (version, header_bytes, record_bytes) != (VERSION, _HEADER.size, _RECORD.size):
            raise SheetError(f"sheet of version {version}; this reader knows {VERSION}")
        if left_out:
            raise SheetError(f"the sheet had no room for {left_out} tasks")
        if count > _MAX_TASKS:
            raise SheetError(f"sheet of {count} tasks")
        data = prog.read(address + _HEADER.size, count * _RECORD.size)
    except drgn.FaultError as e:
        raise SheetError(f"the sheet at {address:#x} is not in the dump: {e}") from e
    return LivepatchSheet(
        address, _text(moment), patch, target, writer, tuple(_answers(data, count))
    )


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("ascii", "replace")


def _answers(data: bytes, count: int) -> Iterator[LivepatchAnswer]:
    for fields in _RECORD.iter_unpack(data[: count * _RECORD.size]):
        task, pid, tgid, ret, reliable, patch_state, pending, curr, on_cpu, cpu, idle_of = fields[
            :11
        ]
        state, flags, comm, func = fields[11:15]
        entries = fields[15:]
        yield LivepatchAnswer(
            task=task,
            pid=pid,
            tgid=tgid,
            comm=comm.split(b"\0", 1)[0],
            ret=ret,
            func=_text(func),
            reliable=reliable,
            entries=entries[: entries.index(0)] if 0 in entries else entries,
            patch_state=patch_state,
            pending=bool(pending),
            curr=bool(curr),
            on_cpu=bool(on_cpu),
            cpu=cpu,
            idle_of=None if idle_of < 0 else idle_of,
            state=state,
            flags=flags,
        )


# ----------------------------------------------------------------- what it said on the console

_STAMP = r"\[ *(?P<time>\d+\.\d+)\] "
_LINE = re.compile(
    rf"{_STAMP}livepatch: klp_try_switch_task: (?P<comm>.*):(?P<pid>\d+) "
    r"(?:(?P<running>is running)|(?P<unreliable>has an unreliable stack)"
    r"|is sleeping on function (?P<func>\S+))\r?$",
    re.M,
)


@dataclass(frozen=True)
class SaidLine:
    """What klp_try_switch_task() said of a task that it did not switch (pr_debug())."""

    seconds: float
    """Since the machine started."""
    comm: str
    pid: int
    kind: str
    """"running", "unreliable" or "blocked"; see :meth:`LivepatchSheet.kind_of`."""
    func: str
    """On which function, of "blocked"."""


def lines_said(console: str) -> list[SaidLine]:
    """All of them, in order. There is a round of them every second of a transition."""
    return [
        SaidLine(
            float(match["time"]),
            match["comm"],
            int(match["pid"]),
            "running" if match["running"] else "unreliable" if match["unreliable"] else "blocked",
            match["func"] or "",
        )
        for match in _LINE.finditer(console)
    ]
