# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stacks that a kernel printed on its console as it died, in a form to compare with ours.

A line of a trace that begins with ``?`` is not from the unwinder: it is a word of the stack that
points to kernel text. These lines are kept apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from drgn_tools import TaskStack
from drgn_tools.arch.registry import arch_named

__all__ = ("Entry", "Oops", "our_entries", "read_console", "what_both_saw")

_TIME = re.compile(r"^\[ *\d+\.\d+\] ?(?:\[[TC] *\d+\] ?)?")
_HEADER = re.compile(r"^CPU: (\d+) .*\bPID: (\d+) Comm: ")
_BORDER = re.compile(r"^ ?<(/?)([A-Z#0-9_]+)>$")
_CALL = re.compile(r"^ (\? )?([\w.]+\+0x[0-9a-f]+)/0x[0-9a-f]+((?: \[\w+\])?)$")
_BARE = re.compile(r"^ 0x[0-9a-f]+$")
_IP = re.compile(
    r"^[RE]IP: (?:([0-9a-f]{4}):)?"  # x86-32 prints no selector there
    r"(?:([\w.]+\+0x[0-9a-f]+)/0x[0-9a-f]+((?: \[\w+\])?)|(0x[0-9a-f]+))$"
)
_BEHIND = re.compile(r"^(?:Modules linked in|Kernel Offset|---\[ end)")
"""Lines that may directly follow a trace."""
_REGISTER = re.compile(
    r"\b(ORIG_[RE]AX|EFLAGS|RSP|[RE][A-Z0-9]{2}): (?:[0-9a-f]{4,8}:)?([0-9a-f]{8,16})\b"
)


class Entry(NamedTuple):
    """A line of a trace."""

    stack: str
    """Which stack it is on: ``TASK``, ``IRQ``, ``NMI``, ``#DF`` ..."""
    what: str
    """``name+0xoffset`` (and ``[module]``), or an address."""
    registers: Optional[Mapping[str, int]] = None
    """For a pt_regs, the registers that an oops prints; ``None`` for a call."""


@dataclass
class Oops:
    """One "Call Trace:"."""

    cpu: int
    pid: int
    entries: list[Entry] = field(default_factory=list)
    clues: list[Entry] = field(default_factory=list)
    """Lines with a ``?``."""
    from_regs: bool = False
    """Whether it begins where the CPU was interrupted, not in dump_stack()."""


def read_console(log: str) -> list[Oops]:
    """Every trace on a console, oldest first."""
    return list(_oopses(_TIME.sub("", line) for line in log.splitlines()))


def _oopses(lines: Iterator[str]) -> Iterator[Oops]:
    header: Optional[tuple[int, int]] = None
    oops: Optional[Oops] = None
    before: Optional[Entry] = None
    stack = "TASK"
    regs: Optional[dict[str, int]] = None
    for line in lines:
        if match := _HEADER.match(line):
            if oops is not None:
                yield oops
            header, oops, before, regs = (int(match[1]), int(match[2])), None, None, None
        elif line.startswith("Call Trace:") and header is not None:
            oops = Oops(*header, from_regs=before is not None)
            stack = "TASK"
            if before is not None:
                oops.entries.append(before)
            regs = None
        elif match := _BORDER.match(line):
            if oops is not None and match[1] and match[2] == "TASK":
                # The rest repeats the registers, or belongs to something else.
                yield oops
                header = oops = before = regs = None
            elif oops is not None and match[1]:
                stack = "TASK"  # which has no border on 5.10
            elif oops is not None:
                stack = match[2]
                if oops.from_regs and len(oops.entries) == 1:
                    # The registers came before the border of the stack they are on.
                    oops.entries[0] = oops.entries[0]._replace(stack=stack)
        elif oops is not None and _BEHIND.match(line):
            yield oops
            header = oops = before = regs = None
        elif match := _IP.match(line):
            regs = {"CS": int(match[1], 16)} if match[1] else {}
            what = (match[2] + match[3]) if match[2] else match[4]
            entry = Entry(stack, what, regs)
            if oops is None:
                before = entry
            else:
                oops.entries.append(entry)
        elif regs is not None and (found := _REGISTER.findall(line)):
            regs.update((name, int(value, 16)) for name, value in found)
        elif oops is not None and (match := _CALL.match(line)):
            entries = oops.clues if match[1] else oops.entries
            entries.append(Entry(stack, match[2] + match[3]))
        elif oops is not None and _BARE.match(line):
            oops.entries.append(Entry(stack, line.strip()))
    if oops is not None:
        yield oops


def our_entries(task: TaskStack) -> list[Entry]:
    """Return the trace of one of our records in the same form."""
    saved = {regs.address: regs.registers for regs in task.regs}
    entries = []
    for i, frame in enumerate(task.frames):
        name = f"{frame.ip:#x}" if frame.symbol is None else str(frame.symbol)
        what = f"{name} [{frame.module}]" if frame.module else name
        # The registers of the CPU itself are not on a stack: they belong to its innermost frame.
        registers = saved[frame.regs] if frame.regs is not None else None
        if i == 0 and registers is None:
            registers = task.cpu_registers
        title = arch_named(task.arch).register_title
        titled = None if registers is None else {title(n): v for n, v in registers.items()}
        entries.append(Entry(frame.stack.upper(), what, titled))
    return entries


def what_both_saw(oops: Oops, ours: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return both traces from the first frame that had not changed between them.

    The code that printed the console's trace ran on until the dump. So a trace of an oops
    begins at the registers that the oops printed, any other at the caller of panic().
    """
    theirs = list(oops.entries)
    if oops.from_regs:
        start = next(
            (
                i
                for i, entry in enumerate(ours)
                # At i == 0 the dump has the registers of the CPU: crash_kexec() was
                # given those of the oops.
                if (entry.registers is not None or i == 0) and entry.what == theirs[0].what
            ),
            len(ours),
        )
        both = theirs, list(ours[start:])
        # An oops prints its registers before it says which stack the trace is on.
        return tuple([rest[0]._replace(stack="?"), *rest[1:]] if rest else [] for rest in both)  # type: ignore[return-value]
    return _after_panic(theirs), _after_panic(ours)


def _after_panic(entries: Sequence[Entry]) -> list[Entry]:
    names = [entry.what.partition("+")[0] for entry in entries]
    return list(entries[names.index("panic") + 1 :]) if "panic" in names else []
