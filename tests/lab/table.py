# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints an answer sheet for a person."""

from __future__ import annotations

from pathlib import Path

import drgn

from .errors import LabError
from .sheet import SheetError, SheetTask, read_whole_sheet

__all__ = ("print_sheet",)


def _verdict(task: SheetTask) -> str:
    if not task.comparable:
        return "on a CPU"
    if task.reliable is None:
        return "unknown"
    return "reliable" if task.reliable else "unreliable"


def _regs(task: SheetTask) -> str:
    return "".join("u" if frame.user_mode else "k" for frame in task.frames if frame.regs) or "-"


def _line(task: SheetTask) -> str:
    inner = next((f.name for f in task.frames if f.ip and "schedule" not in f.call_name), "")
    comm = task.comm.decode("ascii", "backslashreplace")
    comm = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in comm)
    return (
        f"{task.pid:>5} {comm:<17} {_verdict(task):<10} {task.ret:>4} {task.depth:>5} "
        f"{_regs(task):<5} {inner}"
    )


def print_sheet(core: Path) -> None:
    """One line a task.

    :raises LabError: the file is no dump, or none of the lab
    """
    prog = drgn.Program()
    try:
        prog.set_core_dump(core)
        sheet = read_whole_sheet(prog)
    except (OSError, ValueError, SheetError) as e:
        raise LabError(f"{core}: {e}") from e
    print(
        f"{sheet.unwinder} unwinder, {sheet.cpus} CPUs, {len(sheet.tasks)} tasks, sheet at {sheet.address:#x}"
    )
    print(f"{'PID':>5} {'COMM':<17} {'VERDICT':<10} {'RET':>4} {'DEPTH':>5} REGS  INNERMOST")
    for task in sheet.tasks:
        print(_line(task))
