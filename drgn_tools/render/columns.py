# SPDX-License-Identifier: LGPL-2.1-or-later
"""The columns of the tables, for each kind of record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from ..analysis.flatten import TaskFrame, TaskRegs
from ..analysis.grouping import StackGroup
from ..analysis.hung import HungTask
from ..analysis.labels import frame_label, function_label, mode_name, place, symbol_text
from ..analysis.patch_question import TaskAnswer
from ..analysis.snapshot import Seen
from ..analysis.task_diff import ChangeKind, TaskChange
from ..analysis.waiting import kernel_frames, waiting_function
from ..arch.registry import arch_named
from ..records import KERNEL_WIDE, Frame, TaskStack
from .colours import ANSWER_COLOURS, VERDICT_COLOURS
from .table import Cell, Column
from .waits import duration, wait_label

__all__ = (
    "DIFF",
    "FRAMES",
    "GROUPS",
    "HUNG",
    "LIVEPATCH",
    "PLANNED_LIVEPATCH",
    "RAW",
    "TASKS",
    "TASKS_WITH_FRAMES",
    "regs_columns",
)

_LETTERS_MAX = 4
_NAMES_MAX = 4
_PIDS_MAX = 6
_FILL = 44
"""Characters in a line of many names, or of many PIDs."""


def _hex(value: int) -> str:
    return f"{value:x}"


def _flags(task: TaskStack) -> str:
    return f"({', '.join(task.flags)})" if task.flags else ""


def _why(task: TaskStack) -> str:
    if task.reason in KERNEL_WIDE:  # the sentence is in a note above the table
        return task.reason.value
    return _with_crash(task, task.why) or _flags(task)


def _brief(task: TaskStack) -> str:
    return _with_crash(task, task.brief) or _flags(task)


def _with_crash(task: TaskStack, why: Optional[str]) -> Optional[str]:
    # In a crash dump this is the first task to look for.
    return f"{why} (crashed)" if why and "crashed" in task.flags else why


def _regs_letters(task: TaskStack) -> str:
    # A letter for each pt_regs, innermost first: "ku" is a fault in a system call.
    letters = "".join(mode_name(regs.user_mode)[0] for regs in task.regs)
    if len(letters) <= _LETTERS_MAX:
        return letters or "-"
    return "".join(f"{letters.count(letter)}{letter}" for letter in "ku" if letter in letters)


def _function(task: TaskStack) -> str:
    frame = waiting_function(task)
    if frame is None:
        return "-"
    if frame.user_mode:
        return "(user)"
    return function_label(frame) if frame.symbol else "(no symbol)"


def _marked(frame: Frame) -> str:
    label = f"{frame.ip:x} (user mode)" if frame.user_mode else frame_label(frame)
    if frame.regs is not None and not frame.user_mode:
        label += " (pt_regs)"
    return f"{label} (guessed)" if frame.guessed else label


def _why_and_stack(why: str, task: TaskStack) -> list[str]:
    if why and not task.frames:
        return [why, ""]
    return [*([f"{why}:"] if why else []), *_stack_lines(task.frames)]


def _stack_lines(frames: Sequence[Frame]) -> list[str]:
    # The empty line separates the stacks of two rows.
    return [*map(_marked, frames), ""] if frames else ["-", ""]


_WHO = (
    Column("PID", lambda task: str(task.pid), right=True),
    Column("COMM", lambda task: task.name, floor=15),
    Column("S", lambda task: task.state, field="state"),
    Column("CPU", lambda task: str(task.cpu), right=True, optional=1),
)
_HOW_MUCH = (
    Column("DEPTH", lambda task: str(len(kernel_frames(task))), right=True, optional=2),
    Column("REGS", _regs_letters, optional=3),
)

TASKS = (
    *_WHO,
    Column("VERDICT", lambda task: task.verdict.value, colours=VERDICT_COLOURS),
    Column("WHY", _why, floor=30, brief=_brief),
    *_HOW_MUCH,
    Column("FUNCTION", _function, floor=12),
)
"""Columns of a :class:`TaskStack`: one line each."""

TASKS_WITH_FRAMES = (
    *_WHO,
    Column("VERDICT", lambda task: task.verdict.value, colours=VERDICT_COLOURS),
    *_HOW_MUCH,
    Column(
        "WHY: STACK",
        lambda task: _why_and_stack(_why(task), task),
        floor=36,
        brief=lambda task: _why_and_stack(_brief(task), task),
        field="frames",
    ),
)
"""Columns of a :class:`TaskStack` with its stack, one line for each frame."""


def _ip_of_regs(found: TaskRegs) -> str:
    regs = found.regs
    ip = regs[arch_named(found.task.arch).regs.ip_name]
    return _hex(ip) if regs.user_mode else place(ip, symbol_text(regs), regs.module)


def _syscall_number(found: TaskRegs) -> str:
    # A system call number, or a small negative number such as -1.
    layout = arch_named(found.task.arch).regs
    value = found.regs.registers.get(layout.syscall_name)
    if value is None:
        return "-"  # entry code was interrupted before it had saved this
    signed = layout.signed(layout.syscall_name, value)
    return str(signed) if abs(signed) < 1 << 16 else _hex(value)


def _sp_of_regs(found: TaskRegs) -> str:
    # Before v5.3, x86-32 does not save it in kernel mode.
    sp = arch_named(found.task.arch).regs.stack_pointer(found.regs.registers)
    return "-" if sp is None else _hex(sp)


def regs_columns(arch: str) -> tuple[Column, ...]:
    """Return the columns of a :class:`TaskRegs`. A register has the machine's name for it.

    :param arch: As in :attr:`KernelInfo.arch`
    """
    layout = arch_named(arch).regs
    return (
        Column("PID", lambda found: str(found.task.pid), right=True),
        Column("COMM", lambda found: found.task.name, floor=11),
        Column("PT_REGS", lambda found: _hex(found.regs.address), field="address"),
        Column("ENTRY", lambda found: found.regs.entry or "-", floor=10),
        Column("MODE", lambda found: mode_name(found.regs.user_mode)[:4], optional=2),
        Column(layout.ip_name.upper(), _ip_of_regs, floor=18, field="ip"),
        Column("SP", _sp_of_regs, right=True),
        Column(
            layout.syscall_name.upper(), _syscall_number, right=True, optional=1, field="orig_ax"
        ),
    )


def _each_look(
    of: Callable[[Seen], object], cell: Callable[[Seen], str]
) -> Callable[[TaskChange], Cell]:
    """Return the cell of a change: if the values of *of* differ, a line before and a line after; otherwise one line."""

    def lines(change: TaskChange) -> Cell:
        before, after = change.before, change.after
        if before and after and change.kind is ChangeKind.CHANGED and of(before) != of(after):
            return [cell(before) or "-", cell(after) or "-"]
        last = after or before
        return cell(last) if last else ""

    return lines


def _state(seen: Seen) -> str:
    return seen.task.state


def _judgement(seen: Seen) -> object:
    return seen.task.verdict, seen.task.reason


def _ran(change: TaskChange) -> str:
    return "" if change.ran is None else "yes" if change.ran else "no"


def _waits_in(seen: Seen) -> str:
    if seen.function is not None:
        return seen.function
    return _function(seen.task)


def _waits_or_parts(change: TaskChange) -> Cell:
    if change.what != ("stack",) or change.parting is None:
        return _each_look(_waits_in, _waits_in)(change)
    # It waits in the same function, but its callers differ.
    return [frame_label(frame) if frame else "-" for frame in change.parting]


DIFF = (
    Column("CHANGE", lambda change: change.kind.value),
    Column("PID", lambda change: str(change.last.pid), right=True),
    Column("COMM", lambda change: change.last.name, floor=15),
    Column("RAN", _ran),
    Column("S", _each_look(_state, _state), field="state"),
    Column(
        "VERDICT",
        _each_look(_judgement, lambda seen: seen.task.verdict.value),
        colours=VERDICT_COLOURS,
    ),
    Column(
        "WHY",
        _each_look(_judgement, lambda seen: _why(seen.task)),
        floor=16,
        brief=_each_look(_judgement, lambda seen: _brief(seen.task)),
        distinct=True,
    ),
    Column("FUNCTION", _waits_or_parts, floor=18, distinct=True),
)
"""Columns of a :class:`TaskChange`: a value that has changed has two lines, before and after."""

_PATCH_STATES = {0: "old", 1: "new"}


def _answer(found: TaskAnswer) -> str:
    return found.answer.value.replace("_", " ")


def _why_held(found: TaskAnswer) -> list[str]:
    if found.function is None or found.frame is None:
        return [found.why or "", *found.notes]
    module = f" [{found.module}]" if found.module is not None else ""
    frame = found.stack.frames[found.frame]
    # In a patched function, the frame is in the replacement, which has a symbol of its own.
    other = frame.symbol is not None and frame.symbol.name != found.function
    in_ = f": {function_label(frame)}" if other else ""
    return [f"{found.function}{module} (#{found.frame}{in_})", *found.notes]


def _why_held_briefly(found: TaskAnswer) -> list[str]:
    if found.function is None and found.why == found.stack.why:
        brief = None if found.stack.reason in KERNEL_WIDE else found.stack.brief
        return [brief or found.why or "", *found.notes]
    return _why_held(found)


_HELD_BACK = (
    Column("PID", lambda found: str(found.stack.pid), right=True),
    Column("COMM", lambda found: found.stack.name, floor=15),
    Column("S", lambda found: found.stack.state, field="state"),
)
_ANSWER = (
    Column("ANSWER", _answer, colours=ANSWER_COLOURS),
    Column("WHY", _why_held, floor=20, brief=_why_held_briefly, wrap=True),
    Column(
        "LEAVES WHEN",
        lambda found: found.leaves_when or "",
        floor=22,
        wrap=True,
        field="leaves_when",
    ),
)

LIVEPATCH = (
    *_HELD_BACK,
    Column(
        "CODE",
        lambda found: _PATCH_STATES.get(found.stack.patch_state, "-"),
        optional=1,
        field="patch_state",
    ),
    *_ANSWER,
)
"""Columns of a :class:`TaskAnswer`."""

PLANNED_LIVEPATCH = (*_HELD_BACK, *_ANSWER)
"""The same about a patch that is not loaded: no task has moved."""

_INDENT_MAX = 8


def _indented(task: HungTask) -> str:
    # tabulate strips spaces at the beginning of a cell.
    return "." * 2 * min(task.depth, _INDENT_MAX) + task.blocked.stack.comm


def _not_run_for(task: HungTask) -> str:
    at_most = "<" if task.blocked.stamp == "last_arrival" else ""
    return f"{at_most}{duration(task.blocked.seconds)}"


HUNG = (
    Column("PID", lambda task: str(task.blocked.stack.pid), right=True),
    Column("COMM", _indented, floor=15),
    Column("S", lambda task: task.blocked.stack.state, field="state"),
    Column("FOR", _not_run_for, right=True, field="not_run_s"),
    Column(
        "WAITS FOR", lambda task: wait_label(task.blocked), floor=40, wrap=True, field="waits_for"
    ),
)
"""Columns of a :class:`HungTask`."""

FRAMES = (
    Column("PID", lambda found: str(found.task.pid), right=True),
    Column("COMM", lambda found: found.task.name, floor=10),
    Column("#", lambda found: str(found.number), right=True, field="frame"),
    Column("IP", lambda found: _hex(found.frame.ip), right=True),
    Column("SYMBOL", lambda found: _symbol(found), floor=18),
    Column("STACK", lambda found: found.frame.stack),
    Column(
        "PT_REGS",
        lambda found: "-" if found.frame.regs is None else _hex(found.frame.regs),
        field="regs",
    ),
)
"""Columns of a :class:`TaskFrame`."""


RAW = (
    Column("PID", lambda word: str(word.task.pid), right=True),
    Column("STACK", lambda word: word.stack),
    Column("ADDRESS", lambda word: _hex(word.address), right=True),
    Column("VALUE", lambda word: "-" if word.value is None else _hex(word.value), right=True),
    Column("#", lambda word: "" if word.frame is None else str(word.frame), right=True),
    Column("KIND", lambda word: word.kind or ""),
    Column("LABEL", lambda word: word.label or "", floor=18),
)
"""Columns of a :class:`RawWord`."""


def _symbol(found: TaskFrame) -> str:
    frame = found.frame
    if frame.user_mode:
        return "(user mode)"
    return frame_label(frame) if frame.symbol else "-"


def _verdict_lines(group: StackGroup) -> list[str]:
    return [group.verdict.value, *([group.reason.value] if group.reason else [])]


def _who_lines(group: StackGroup) -> list[str]:
    names = _names(group)
    # Many names do not get a line each: they would fill the table.
    many = len(names) > _NAMES_MAX
    lines = _filled([*(f"{name}," for name in names[:-1]), names[-1]]) if many else names
    return [*lines, *_filled(["pid", *map(str, group.pids)])]


def _who_lines_briefly(group: StackGroup) -> list[str]:
    names = _names(group)
    more_names = len(names) - _NAMES_MAX
    pids = " ".join(map(str, group.pids[:_PIDS_MAX]))
    more_pids = len(group.pids) - _PIDS_MAX
    return [
        *names[:_NAMES_MAX],
        *([f"and {more_names} other names"] if more_names > 0 else []),
        f"pid {pids}{f' +{more_pids}' if more_pids > 0 else ''}",
    ]


def _names(group: StackGroup) -> list[str]:
    return [f"{comm} x{count}" if count > 1 else comm for comm, count in group.comms]


def _filled(words: Sequence[str]) -> list[str]:
    # textwrap would break lines inside names: at spaces, newlines and hyphens.
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= _FILL:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


GROUPS = (
    Column("COUNT", lambda group: str(group.count), right=True),
    Column("VERDICT", _verdict_lines, colours=VERDICT_COLOURS),
    Column("TASKS", _who_lines, floor=20, brief=_who_lines_briefly, field="comms"),
    Column("STACK", lambda group: _stack_lines(group.frames), floor=20, field="frames"),
)
"""Columns of a :class:`StackGroup`."""
