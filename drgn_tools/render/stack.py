# SPDX-License-Identifier: LGPL-2.1-or-later
"""One stack drawn in full, in the style of an oops and of crash's ``bt``::

    PID: 51  TASK: ff1100000261d000  CPU: 1  STATE: S  COMMAND: "reader"
    TGID: 42  PPID: 1  PROCESS: "server"
    VERDICT: unreliable at #7: page fault in rep_stos_alternative+0x40
        #6  ffffffff82001236  asm_exc_page_fault+0x26
     => #7  ffffffff81f25d40  rep_stos_alternative+0x40
        ┌ page fault from kernel mode, pt_regs at ff2000000045fd38
        │ RIP: 0010:ffffffff81f25d40
        │ RSP: 0018:ff2000000045fde8  EFLAGS: 00050202  ORIG_RAX: ffffffffffffffff
        │ RAX: 0000000000000000  RBX: 0000000000001000  RCX: 0000000000000040
          ...
        └
        #8  ffffffff8130d0c4  vfs_read+0x8f

Each ``pt_regs`` is drawn where the unwinder finds it: the frames above it are what
the CPU did after the interrupt or exception. Registers fit into 80 columns, other lines into 100, unless
a symbol's name is very long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Optional

import msgspec

from ..analysis.labels import frame_label, mode_name
from ..arch.base import Arch
from ..arch.registry import arch_named
from ..records import Frame, KernelInfo, TaskStack
from ..terminal.colour import painted
from ..terminal.escape import escape
from .colours import VERDICT_COLOURS

__all__ = ("draw_stack", "draw_stacks", "head_lines")


def draw_stack(task: TaskStack, kernel: Optional[KernelInfo] = None, colour: bool = False) -> str:
    """Return the stack of a task as text, with every register of every ``pt_regs``.

    :param kernel: Kernel of the task. The stack of the task that crashed it gets the headlines
        from its log.
    :param colour: Whether the text has colours, for a terminal.
    :return: Lines joined by newlines, without one at the end; safe for a terminal.
    """
    headlines = kernel.last_words if kernel and "crashed" in task.flags else ()
    return "\n".join(_lines(task, arch_named(task.arch), headlines, colour))


def draw_stacks(
    tasks: Iterable[TaskStack], kernel: Optional[KernelInfo] = None, colour: bool = False
) -> Iterator[str]:
    """Yield the text of :func:`draw_stack` for each task, and an empty line between two tasks.

    :param kernel: Kernel of the tasks, as for :func:`draw_stack`.
    :param colour: As for :func:`draw_stack`.
    """
    for number, task in enumerate(tasks):
        if number > 0:
            yield ""
        yield draw_stack(task, kernel, colour)


def head_lines(
    task: TaskStack, headlines: Sequence[str] = (), colour: bool = False
) -> Iterator[str]:
    """Return the lines above a stack: which task it is, and the verdict.

    :param headlines: Lines of the kernel's log about it; not escaped
    """
    verdict_colour = VERDICT_COLOURS.get(task.verdict.value) if colour else None
    yield painted(_identity(task, arch_named(task.arch).digits), "bold" if colour else None)
    yield from _family(task)
    for line in headlines:
        yield f"LOG: {escape(line)}"
    yield painted(_verdict(task), verdict_colour)
    if task.flags:
        yield f"FLAGS: {escape(', '.join(task.flags))}"


def _lines(task: TaskStack, arch: Arch, headlines: Sequence[str], colour: bool) -> Iterator[str]:
    digits = arch.digits
    verdict_colour = VERDICT_COLOURS.get(task.verdict.value) if colour else None
    yield from head_lines(task, headlines, colour)
    regs_by_address = {regs.address: regs for regs in task.regs}
    # Stacks are marked as in an oops: <NMI> ... </NMI>, <IRQ> ... If there is only the task's own
    # stack, no marks are needed.
    several = any(frame.stack != "task" for frame in task.frames)
    stack: Optional[str] = None if several else "task"
    guessed = False
    for number, frame in enumerate(task.frames):
        yield from _change_of_stack(stack, frame.stack)
        stack = frame.stack
        if frame.user_mode and "ends_early" in task.flags:
            yield "     ... frames are missing here: the unwinder went no further"
        if frame.guessed and not guessed:
            yield "     ... from here on the frames are guesses, which the kernel does not trust"
            guessed = True
        for inlined in frame.source[:-1]:
            yield f"         {'inlined':{digits}}  {escape(str(inlined))}"
        is_marked = number == task.reason_frame
        line = _frame(frame, number, digits, is_marked)
        yield painted(line, verdict_colour if is_marked else None)
        regs = None if frame.regs is None else regs_by_address.get(frame.regs)
        if regs is not None:
            what = f"{escape(regs.entry or 'unknown entry')} from {mode_name(regs.user_mode)} mode"
            title = f"{what}, pt_regs at {regs.address:0{digits}x}"
            yield from _box(title, regs.registers, arch)
            if regs.caller is not None:
                yield _skipped(regs.caller, digits)
        if number == 0 and task.cpu_registers is not None:
            yield from _box(f"registers of CPU {task.cpu}", task.cpu_registers, arch)
            if task.cpu_caller is not None:
                yield _skipped(task.cpu_caller, digits)
    reaches_user_mode = bool(task.frames) and task.frames[-1].user_mode
    if "ends_early" in task.flags and (task.on_cpu or not reaches_user_mode):
        yield "     ... the unwinder could not go on"
    yield from _change_of_stack(stack, None if several else "task")


def _identity(task: TaskStack, digits: int) -> str:
    running = " (running)" if task.on_cpu else ""
    kthread = "  (kernel thread)" if task.kthread else ""
    return (
        f"PID: {task.pid}  TASK: {task.task:0{digits}x}"
        f"  CPU: {task.cpu}{running}  STATE: {escape(task.state)}"
        f'  COMMAND: "{escape(task.name)}"{kthread}'
    )


def _family(task: TaskStack) -> Iterator[str]:
    # On a second line, because one line would not fit into 80 columns.
    is_thread = task.tgid != task.pid
    parts = (
        f"TGID: {task.tgid}" if is_thread else "",
        # Not for kernel threads: their parent is always kthreadd.
        f"PPID: {task.ppid}" if task.ppid and not task.kthread else "",
        f'PROCESS: "{escape(task.process)}"' if is_thread and task.process is not None else "",
    )
    if any(parts):
        yield "  ".join(filter(None, parts))


def _verdict(task: TaskStack) -> str:
    at = "" if task.reason_frame is None else f" at #{task.reason_frame}"
    why = f": {escape(task.why)}" if task.why else ""
    return f"VERDICT: {task.verdict.value}{at}{why}"


def _change_of_stack(before: Optional[str], after: Optional[str]) -> Iterator[str]:
    if before != after:
        if before is not None:
            yield f"     </{escape(before).upper()}>"
        if after is not None:
            yield f"     <{escape(after).upper()}>"


def _frame(frame: Frame, number: int, digits: int, marked: bool) -> str:
    arrow = "=>" if marked else ""
    if frame.user_mode:
        where = "(user mode)"
    else:
        where = escape(frame_label(frame)) if frame.symbol else "(no symbol)"
        if frame.source:
            where += f" at {escape(str(msgspec.structs.replace(frame.source[-1], function=None)))}"
    return f"{arrow:>3} {f'#{number}':>3}  {frame.ip:0{digits}x}  {where}"


def _skipped(caller: Frame, digits: int) -> str:
    """Return the line of a caller that the walk skipped, marked as in an oops."""
    return f"      ?  {caller.ip:0{digits}x}  {escape(frame_label(caller))}"


def _box(title: str, registers: Mapping[str, int], arch: Arch) -> Iterator[str]:
    yield f"     ┌ {title}"
    for row in _register_rows(registers, arch):
        yield f"     │ {row}"
    yield "     └"


def _register_rows(registers: Mapping[str, int], arch: Arch) -> Iterator[str]:
    values = dict(registers.items())
    return (row.format_map(values) for row in _register_formats(tuple(values), arch))


@lru_cache(maxsize=16)
def _register_formats(names: tuple[str, ...], arch: Arch) -> tuple[str, ...]:
    """Return a format string for each row of registers with these names."""
    rows = []
    shown: set[str] = set()
    for row in arch.register_rows:
        entries = [name for name in row if all(part in names for part in name.split(":"))]
        shown.update(part for name in entries for part in name.split(":"))
        if entries:
            rows.append("  ".join(_register_format(name, arch) for name in entries))
    # Show every saved register, even if this kernel saves more.
    rows.extend(_register_format(name, arch) for name in names if name not in shown)
    return tuple(rows)


def _register_format(name: str, arch: Arch) -> str:
    *segment, name = name.split(":")
    selector = f"{{{segment[0]}:04x}}:" if segment else ""
    value_digits = 4 if name in arch.segments else 8 if name == "flags" else arch.digits
    return f"{arch.register_title(name)}: {selector}{{{name}:0{value_digits}x}}"
