# SPDX-License-Identifier: LGPL-2.1-or-later
"""What json, jsonl and csv say of each record: the names, their order, their values.

This is the contract with programs that read our output (docs/commands.md).
Within a schema number a field is only ever added, and only at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional, Union

from ..analysis.queries import TaskFrame, TaskRegs, kernel_frames, waiting_function
from ..arch.registry import arch_named
from ..records import Frame, Symbol
from .labels import frame_label

__all__ = (
    "FRAME",
    "FRAME_CSV",
    "GROUP",
    "GROUP_CSV",
    "KERNEL",
    "REGS",
    "REGS_OF_TASK",
    "TASK",
    "TASK_WITH_FRAMES",
    "TASK_WITH_FRAMES_CSV",
    "Fields",
    "as_object",
    "regs_csv",
)

Fields = Mapping[str, Callable[[Any], Any]]
"""Name of a field -> how to get it from its record. Plain JSON values only; addresses as hex text."""


def as_object(fields: Fields, record: Any) -> dict[str, Any]:
    """The JSON object that *fields* make of *record*."""
    return {name: get(record) for name, get in fields.items()}


def _address(value: Optional[int]) -> Optional[str]:
    return None if value is None else hex(value)


def _text(symbol: Optional[Symbol]) -> Optional[str]:
    return None if symbol is None else str(symbol)


def _addresses(values: Optional[Mapping[str, int]]) -> Optional[dict[str, str]]:
    return None if values is None else {name: hex(value) for name, value in values.items()}


KERNEL: Fields = {
    "source": lambda kernel: kernel.source,
    "release": lambda kernel: kernel.release,
    "build_id": lambda kernel: kernel.build_id,
    "arch": lambda kernel: kernel.arch,
    "unwinder": lambda kernel: kernel.unwinder,
    "encoding": lambda kernel: kernel.encoding,
    "reliable_stacktrace": lambda kernel: kernel.reliable_stacktrace,
    "types": lambda kernel: kernel.types,
    "cpus": lambda kernel: kernel.cpus,
    "notes": lambda kernel: list(kernel.notes),
    "last_words": lambda kernel: list(kernel.last_words),
}
"""Of a :class:`~drgn_tools.records.KernelInfo`."""

FRAME: Fields = {
    "ip": lambda frame: _address(frame.ip),
    "symbol": lambda frame: _text(frame.symbol),
    "module": lambda frame: frame.module,
    "stack": lambda frame: frame.stack,
    "regs": lambda frame: _address(frame.regs),
    "user_mode": lambda frame: frame.user_mode,
}
"""Of a :class:`~drgn_tools.records.Frame`."""

REGS: Fields = {
    "address": lambda regs: _address(regs.address),
    "entry": lambda regs: regs.entry,
    "user_mode": lambda regs: regs.user_mode,
    "registers": lambda regs: _addresses(regs.registers),
    "symbol": lambda regs: _text(regs.symbol),
    "module": lambda regs: regs.module,
    "caller": lambda regs: regs.caller and frame_label(regs.caller),
}
"""Of :class:`~drgn_tools.records.SavedRegs`."""

_IDENTITY: Fields = {
    "task": lambda task: _address(task.task),
    "pid": lambda task: task.pid,
    "tgid": lambda task: task.tgid,
    "comm": lambda task: task.comm,
}

_STATE: Fields = {
    "state": lambda task: task.state,
    "cpu": lambda task: task.cpu,
    "on_cpu": lambda task: task.on_cpu,
    "kthread": lambda task: task.kthread,
    "verdict": lambda task: task.verdict.value,
    "reason": lambda task: task.reason and task.reason.value,
    "why": lambda task: task.why,
    "flags": lambda task: list(task.flags),
}

_STACK: Fields = {
    "frames": lambda task: [as_object(FRAME, frame) for frame in task.frames],
    "regs": lambda task: [as_object(REGS, regs) for regs in task.regs],
}

_SUMMARY: Fields = {
    "reason_frame": lambda task: task.reason_frame,
    "depth": lambda task: len(kernel_frames(task)),
    "kernel_regs": lambda task: sum(not regs.user_mode for regs in task.regs),
    "user_regs": lambda task: sum(regs.user_mode for regs in task.regs),
    "function": lambda task: _symbol_or_address(waiting_function(task)),
}


def _symbol_or_address(frame: Optional[Frame]) -> Optional[str]:
    return None if frame is None or frame.user_mode else _text(frame.symbol) or hex(frame.ip)


TASK: Fields = {**_IDENTITY, **_STATE, **_SUMMARY}
"""Of a :class:`~drgn_tools.records.TaskStack`, without its stack."""

TASK_WITH_FRAMES: Fields = {
    **_IDENTITY,
    **_STATE,
    **_STACK,
    **_SUMMARY,
    "cpu_registers": lambda task: _addresses(task.cpu_registers),
    "cpu_caller": lambda task: task.cpu_caller and frame_label(task.cpu_caller),
}
"""Of a :class:`~drgn_tools.records.TaskStack`."""


def _of_task(name: str) -> Callable[[Union[TaskFrame, TaskRegs]], Any]:
    get = TASK[name]
    return lambda found: get(found.task)


def _of_regs(name: str) -> Callable[[TaskRegs], Any]:
    get = REGS[name]
    return lambda found: get(found.regs)


def _register(name: str) -> Callable[[TaskRegs], Any]:
    return lambda found: _address(found.regs.registers.get(name))


REGS_OF_TASK: Fields = {
    **{name: _of_task(name) for name in _IDENTITY},
    "address": _of_regs("address"),
    "entry": _of_regs("entry"),
    "user_mode": _of_regs("user_mode"),
    "ip": _register("ip"),
    "symbol": _of_regs("symbol"),
    "module": _of_regs("module"),
    "sp": _register("sp"),
    "orig_ax": _register("orig_ax"),
    "registers": _of_regs("registers"),
}
"""Of a :class:`~drgn_tools.analysis.queries.TaskRegs`: whose they are, what matters most, then all of them."""

GROUP: Fields = {
    "count": lambda group: group.count,
    "verdict": lambda group: group.verdict.value,
    "reason": lambda group: group.reason and group.reason.value,
    "why": lambda group: group.why,
    "comms": lambda group: [{"comm": comm, "count": count} for comm, count in group.comms],
    "pids": lambda group: list(group.pids),
    "frames": lambda group: [as_object(FRAME, frame) for frame in group.frames],
}
"""Of a :class:`~drgn_tools.analysis.queries.StackGroup`. ``frames`` is the stack of the first of ``pids``."""


def _of_frame(name: str) -> Callable[[TaskFrame], Any]:
    get = FRAME[name]
    return lambda found: get(found.frame)


def _labels(frames: Iterable[Frame]) -> list[str]:
    return [frame_label(frame) for frame in frames]


# A csv file is flat: what is an object in JSON becomes a column for each of its
# members, or a list of names.

TASK_WITH_FRAMES_CSV: Fields = {**TASK, "frames": lambda task: _labels(task.frames)}
"""Of a :class:`~drgn_tools.records.TaskStack`, its stack in one cell."""

FRAME_CSV: Fields = {
    **{name: _of_task(name) for name in (*_IDENTITY, "verdict", "reason")},
    "frame": lambda found: found.number,
    **{name: _of_frame(name) for name in FRAME},
}
"""Of a :class:`~drgn_tools.analysis.queries.TaskFrame`."""

GROUP_CSV: Fields = {
    **GROUP,
    "comms": lambda group: [comm for comm, _ in group.comms],
    "frames": lambda group: _labels(group.frames),
}
"""Of a :class:`~drgn_tools.analysis.queries.StackGroup`."""


def regs_csv(arch: str) -> Fields:
    """Of a :class:`~drgn_tools.analysis.queries.TaskRegs`, a column for each register.

    :param arch: as in :attr:`KernelInfo.arch`; it says which registers there are.
    """
    fields = dict(REGS_OF_TASK)
    del fields["registers"]
    names = arch_named(arch).regs.names
    return {**fields, **{name: _register(name) for name in names}}
