# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where frames are in the source, and what was inlined there: :func:`with_source_lines`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drgn import Program
from msgspec.structs import replace

from ..bounded_cache import BoundedCache
from ..memory import UNUSABLE
from ..records import Frame, SourceLine, TaskStack

__all__ = ("with_source_lines",)

_MAX_FRAMES = 100_000
"""Different frames that are cached; most of them are on many stacks."""
_MAX_LINES = 100
"""Most functions that are shown for one address with inlining; damaged DWARF may have any number."""


def with_source_lines(prog: Program, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
    """Yield the records with :attr:`.Frame.source` wherever the program has DWARF for the code.

    A frame without DWARF stays as it is: in a kernel that was opened without symbols, in a module
    whose symbols were not given, in code that the kernel generated at run time. Callers that
    frame pointers do not show (:attr:`.SavedRegs.caller`) do not get source lines either.

    :param prog: Program that the records were made from
    """
    known: BoundedCache[Frame, Frame] = BoundedCache(_MAX_FRAMES)
    for task in tasks:
        frames = tuple(_with_source(prog, frame, known) for frame in task.frames)
        yield task if frames == task.frames else replace(task, frames=frames)


def _with_source(prog: Program, frame: Frame, known: BoundedCache[Frame, Frame]) -> Frame:
    if frame.user_mode:
        return frame
    found = known.get(frame)
    if found is None:
        lines = _source_lines(prog, frame.ip if frame.exact else frame.ip - 1)
        found = known[frame] = replace(frame, source=lines) if lines else frame
    return found


def _source_lines(prog: Program, address: int) -> tuple[SourceLine, ...]:
    """Return the source lines of an address, innermost inlined function first.

    :param address: Virtual address of an instruction; for a return address the byte before it, the last of the call
    """
    try:
        found = prog.source_location(address)
        lines = [found[i] for i in range(len(found))]
        # The last one is the function itself.
        shown = [*lines[: _MAX_LINES - 1], lines[-1]] if len(lines) > _MAX_LINES else lines
        return tuple(
            SourceLine(line.name(), line.filename, line.line, line.column) for line in shown
        )
    except UNUSABLE:
        return ()
