# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fields of each record as data: their names, their order, their values.

JSON, CSV and the Parquet files of a fleet have the same fields. Other programs rely on them
(docs/commands.md): within one schema number, fields are only added, and only at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional, Union

from ..arch.base import RegsLayout
from ..arch.registry import ARCHES, arch_named
from ..records import Frame
from .flatten import TaskFrame, TaskRegs
from .labels import frame_label, symbol_text
from .raw_word import RawWord
from .snapshot import Seen
from .task_diff import TaskChange
from .waiting import kernel_frames, waiting_function

__all__ = (
    "CHANGE",
    "CHANGE_CSV",
    "CPU_QUEUE",
    "FRAME",
    "FRAME_CSV",
    "FRAME_WITH_SOURCE",
    "GROUP",
    "GROUP_CSV",
    "HANGUP",
    "HUNG_TASK",
    "KERNEL",
    "PATCH",
    "PATCH_ANSWER",
    "PLAN",
    "RAW_WORD",
    "REGS",
    "REGS_OF_TASK",
    "TASK",
    "TASK_WITH_FRAMES",
    "TASK_WITH_FRAMES_CSV",
    "TASK_WITH_SOURCE",
    "Fields",
    "as_object",
    "regs_csv",
)

Fields = Mapping[str, Callable[[Any], Any]]
"""Name of a field -> the function that reads it from a record.

Values are plain JSON values. Addresses and registers are hexadecimal text (``"0xffff888100000000"``).
"""


def as_object(fields: Fields, record: Any) -> dict[str, Any]:
    """Return *record* as a JSON object.

    :param fields: The fields of this kind of record.
    """
    return {name: get(record) for name, get in fields.items()}


def _address(value: Optional[int]) -> Optional[str]:
    return None if value is None else hex(value)


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
    "host": lambda kernel: kernel.host,
    "uptime_s": lambda kernel: kernel.uptime_s,
    "boot_id": lambda kernel: kernel.boot_id,
}
"""Fields of a :class:`~drgn_tools.records.KernelInfo`."""

FRAME: Fields = {
    "ip": lambda frame: _address(frame.ip),
    "symbol": symbol_text,
    "module": lambda frame: frame.module,
    "stack": lambda frame: frame.stack,
    "regs": lambda frame: _address(frame.regs),
    "user_mode": lambda frame: frame.user_mode,
    "exact": lambda frame: frame.exact,
    "guessed": lambda frame: frame.guessed,
}
"""Fields of a :class:`~drgn_tools.records.Frame`."""

REGS: Fields = {
    "address": lambda regs: _address(regs.address),
    "entry": lambda regs: regs.entry,
    "user_mode": lambda regs: regs.user_mode,
    "registers": lambda regs: _addresses(regs.registers),
    "symbol": symbol_text,
    "module": lambda regs: regs.module,
    "caller": lambda regs: regs.caller and frame_label(regs.caller),
}
"""Fields of :class:`~drgn_tools.records.SavedRegs`."""

_SOURCE_LINE: Fields = {
    "function": lambda line: line.function,
    "file": lambda line: line.file,
    "line": lambda line: line.line,
    "column": lambda line: line.column,
}

FRAME_WITH_SOURCE: Fields = {
    **FRAME,
    "source": lambda frame: [as_object(_SOURCE_LINE, line) for line in frame.source],
}
"""The same, with the source lines that ``stack`` adds."""

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
    return None if frame is None or frame.user_mode else symbol_text(frame) or hex(frame.ip)


_ORIGIN: Fields = {
    "full_name": lambda task: task.full_name,
    "process": lambda task: task.process,
    "ppid": lambda task: task.ppid,
    "start_time_ns": lambda task: task.start_time_ns,
    "switches": lambda task: task.switches,
}

TASK: Fields = {**_IDENTITY, **_STATE, **_SUMMARY, **_ORIGIN}
"""Fields of a :class:`~drgn_tools.records.TaskStack` without its stack."""

TASK_WITH_FRAMES: Fields = {
    **_IDENTITY,
    **_STATE,
    **_STACK,
    **_SUMMARY,
    "cpu_registers": lambda task: _addresses(task.cpu_registers),
    "cpu_caller": lambda task: task.cpu_caller and frame_label(task.cpu_caller),
    **_ORIGIN,
}
"""Fields of a :class:`~drgn_tools.records.TaskStack`."""


TASK_WITH_SOURCE: Fields = {
    **TASK_WITH_FRAMES,
    "frames": lambda task: [as_object(FRAME_WITH_SOURCE, frame) for frame in task.frames],
}
"""The same, with source lines."""

PATCH_ANSWER: Fields = {
    "task": lambda found: _address(found.stack.task),
    "pid": lambda found: found.stack.pid,
    "tgid": lambda found: found.stack.tgid,
    "comm": lambda found: found.stack.comm,
    "state": lambda found: found.stack.state,
    "patch_state": lambda found: found.stack.patch_state,
    "answer": lambda found: found.answer.value,
    "function": lambda found: found.function,
    "object": lambda found: found.function and (found.module or "vmlinux"),
    "frame": lambda found: found.frame,
    "reason": lambda found: found.stack.reason and found.stack.reason.value,
    "why": lambda found: found.why,
    "leaves_when": lambda found: found.leaves_when,
    "notes": lambda found: list(found.notes),
}
"""Fields of a :class:`~drgn_tools.analysis.patch_question.TaskAnswer`."""

_PATCH_FUNCTION: Fields = {
    "name": lambda func: func.name,
    "sympos": lambda func: func.sympos,
    "old_addr": lambda func: _address(func.old_addr),
    "old_size": lambda func: func.old_size,
    "new_addr": lambda func: _address(func.new_addr),
    "new_size": lambda func: func.new_size,
    "nop": lambda func: func.nop,
}

_PATCH_OBJECT: Fields = {
    "name": lambda obj: obj.name or "vmlinux",
    "patched": lambda obj: obj.patched,
    "functions": lambda obj: [as_object(_PATCH_FUNCTION, func) for func in obj.functions],
}

PATCH: Fields = {
    "name": lambda listed: listed.patch.name,
    "enabled": lambda listed: listed.patch.enabled,
    "transition": lambda listed: listed.transition,
    "replace": lambda listed: listed.patch.replace,
    "objects": lambda listed: [as_object(_PATCH_OBJECT, obj) for obj in listed.patch.objects],
    "forced": lambda listed: listed.patch.forced,
}
"""Fields of a :class:`~drgn_tools.analysis.livepatch.ListedPatch`."""

PLAN: Fields = {
    "name": lambda plan: plan.patch.name,
    "replace": lambda plan: plan.patch.replace,
    "refusals": lambda plan: list(plan.refusals),
    "objects": lambda plan: [as_object(_PATCH_OBJECT, obj) for obj in plan.patch.objects],
}
"""Fields of a :class:`~drgn_tools.analysis.plan.Plan`."""


def _of_wait(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function from a HungTask or a Hangup to a value of its wait; ``None`` if it has no wait."""

    def get_or_none(found: Any) -> Any:
        return None if found.wait is None else get(found.wait)

    return get_or_none


def _of_blocked(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda task: get(task.blocked)


def _of_sleeper(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda task: get(task.blocked.stack)


def _pid_of(holder: Any) -> Optional[int]:
    return None if holder is None or holder.task is None else int(holder.task.pid)


_WAIT: Fields = {
    "waits_for": _of_wait(lambda wait: wait.kind.value),
    "address": _of_wait(lambda wait: _address(wait.address)),
    "name": lambda found: found.name,
    "detail": _of_wait(lambda wait: wait.detail),
    "readers": _of_wait(lambda wait: wait.readers),
    "free": _of_wait(lambda wait: wait.is_free),
    "holder": lambda found: None if found.holder is None else _address(found.holder.address),
    "holder_pid": lambda found: _pid_of(found.holder),
    "holder_exited": lambda found: None if found.holder is None else found.holder.has_exited,
    "last_holder_pid": lambda found: _pid_of(found.hint),
}

HUNG_TASK: Fields = {
    **{name: _of_sleeper(get) for name, get in _IDENTITY.items()},
    "state": _of_sleeper(TASK["state"]),
    "function": _of_sleeper(TASK["function"]),
    **{name: _of_blocked(get) for name, get in _WAIT.items()},
    "mode": _of_blocked(_of_wait(lambda wait: wait.mode)),
    "waiter": _of_blocked(_of_wait(lambda wait: _address(wait.waiter))),
    "not_run_s": lambda task: _seconds(task.blocked.seconds),
    "stamp": lambda task: task.blocked.stamp,
    "seen_hung_s": lambda task: _seconds(task.blocked.seen_seconds),
    "hangup": lambda task: task.hangup,
    "depth": lambda task: None if task.hangup is None else task.depth,
}
"""Fields of a :class:`~drgn_tools.analysis.hung.HungTask`."""


def _seconds(value: Optional[float]) -> Optional[float]:
    return None if value is None else round(value, 3)


HANGUP: Fields = {
    "kind": lambda hangup: hangup.kind.value,
    "count": lambda hangup: hangup.count,
    "deadlock_pids": lambda hangup: (
        [blocked.stack.pid for blocked in hangup.root] if hangup.kind.value == "deadlock" else []
    ),
    **_WAIT,
    "pids": lambda hangup: [blocked.stack.pid for _, blocked in hangup.members()],
}
"""Fields of a :class:`~drgn_tools.analysis.hangups.Hangup`."""

CPU_QUEUE: Fields = {
    "cpu": lambda queue: queue.cpu,
    "pid": lambda queue: None if queue.current is None else queue.current.pid,
    "comm": lambda queue: None if queue.current is None else queue.current.comm,
    "idle": lambda queue: queue.is_idle,
    "waiting_pids": lambda queue: [stack.pid for stack in queue.waiting],
}
"""Fields of a :class:`~drgn_tools.analysis.run_queues.CpuQueue`."""


def _of_task(name: str) -> Callable[[Union[TaskFrame, TaskRegs, RawWord]], Any]:
    get = TASK[name]
    return lambda found: get(found.task)


def _of_regs(name: str) -> Callable[[TaskRegs], Any]:
    get = REGS[name]
    return lambda found: get(found.regs)


def _of_seen(name: str) -> Callable[[Seen], Any]:
    get = TASK[name]
    return lambda seen: get(seen.task)


def _of_last(name: str) -> Callable[[TaskChange], Any]:
    get = TASK[name]
    return lambda change: get(change.last)


def _of_snapshot(which: str, get: Callable[[Seen], Any]) -> Callable[[TaskChange], Any]:
    def value(change: TaskChange) -> Any:
        seen = change.before if which == "before" else change.after
        return None if seen is None else get(seen)

    return value


def _parting_label(change: TaskChange, which: int) -> Optional[str]:
    frame = None if change.parting is None else change.parting[which]
    return None if frame is None else frame_label(frame)


def _register(name: str) -> Callable[[TaskRegs], Any]:
    return lambda found: _address(found.regs.registers.get(name))


def _named_by(name: Callable[[RegsLayout], str]) -> Callable[[TaskRegs], Any]:
    """Return a function for a register that every machine has, but under different names."""
    return lambda found: _register(name(arch_named(found.task.arch).regs))(found)


def _stack_pointer(found: TaskRegs) -> Any:
    return _address(arch_named(found.task.arch).regs.stack_pointer(found.regs.registers))


REGS_OF_TASK: Fields = {
    **{name: _of_task(name) for name in _IDENTITY},
    "address": _of_regs("address"),
    "entry": _of_regs("entry"),
    "user_mode": _of_regs("user_mode"),
    "ip": _named_by(lambda layout: layout.ip_name),
    "symbol": _of_regs("symbol"),
    "module": _of_regs("module"),
    "sp": _stack_pointer,
    "orig_ax": _named_by(lambda layout: layout.syscall_name),
    "registers": _of_regs("registers"),
}
"""Fields of a :class:`~drgn_tools.analysis.flatten.TaskRegs`: the task, the registers that matter most, all registers."""

RAW_WORD: Fields = {
    **{name: _of_task(name) for name in _IDENTITY},
    "stack": lambda word: word.stack,
    "address": lambda word: _address(word.address),
    "value": lambda word: _address(word.value),
    "kind": lambda word: word.kind,
    "frame": lambda word: word.frame,
    "label": lambda word: word.label,
}
"""Fields of a :class:`~drgn_tools.analysis.raw_stack.RawWord`."""

GROUP: Fields = {
    "count": lambda group: group.count,
    "verdict": lambda group: group.verdict.value,
    "reason": lambda group: group.reason and group.reason.value,
    "why": lambda group: group.why,
    "comms": lambda group: [{"comm": comm, "count": count} for comm, count in group.comms],
    "pids": lambda group: list(group.pids),
    "frames": lambda group: [as_object(FRAME, frame) for frame in group.frames],
}
"""Fields of a :class:`~drgn_tools.analysis.grouping.StackGroup`. ``frames`` is the stack of the first of ``pids``."""

_SEEN: Fields = {
    "task": lambda seen: _address(seen.task.task),
    "pid": lambda seen: seen.task.pid,
    "comm": lambda seen: seen.task.comm,
    **{name: _of_seen(name) for name in ("state", "cpu", "on_cpu", "verdict", "reason", "why")},
    "function": lambda seen: seen.function,
    "switches": lambda seen: seen.task.switches,
}

_CHANGE: Fields = {
    "change": lambda change: change.kind.value,
    "what": lambda change: list(change.what),
    "ran": lambda change: change.ran,
    **{name: _of_last(name) for name in ("pid", "tgid", "comm", "full_name", "kthread")},
}

_PARTING: Fields = {
    "parts_before": lambda change: _parting_label(change, 0),
    "parts_after": lambda change: _parting_label(change, 1),
}

CHANGE: Fields = {
    **_CHANGE,
    "before": lambda change: change.before and as_object(_SEEN, change.before),
    "after": lambda change: change.after and as_object(_SEEN, change.after),
    **_PARTING,
}
"""Fields of a :class:`~drgn_tools.analysis.task_diff.TaskChange`."""

CHANGE_CSV: Fields = {
    **_CHANGE,
    **{f"before_{name}": _of_snapshot("before", get) for name, get in _SEEN.items()},
    **{f"after_{name}": _of_snapshot("after", get) for name, get in _SEEN.items()},
    **_PARTING,
}
"""The same, with a column for each member of ``before`` and ``after``."""


def _of_frame(name: str) -> Callable[[TaskFrame], Any]:
    get = FRAME[name]
    return lambda found: get(found.frame)


def _labels(frames: Iterable[Frame]) -> list[str]:
    return [frame_label(frame) for frame in frames]


# CSV has no objects. A JSON object becomes one column for each of its members, or a
# list of names.

TASK_WITH_FRAMES_CSV: Fields = {
    **_IDENTITY,
    **_STATE,
    **_SUMMARY,
    "frames": lambda task: _labels(task.frames),
    **_ORIGIN,
}
"""Fields of a :class:`~drgn_tools.records.TaskStack`, with its stack in one column."""

FRAME_CSV: Fields = {
    **{name: _of_task(name) for name in (*_IDENTITY, "verdict", "reason")},
    "frame": lambda found: found.number,
    **{name: _of_frame(name) for name in FRAME},
    "source": lambda found: list(map(str, found.frame.source)),
}
"""Fields of a :class:`~drgn_tools.analysis.flatten.TaskFrame`."""

GROUP_CSV: Fields = {
    **GROUP,
    "comms": lambda group: [comm for comm, _ in group.comms],
    "frames": lambda group: _labels(group.frames),
}
"""Fields of a :class:`~drgn_tools.analysis.grouping.StackGroup`, without objects in them."""


def regs_csv(arch: Optional[str]) -> Fields:
    """Return the fields of a :class:`~drgn_tools.analysis.flatten.TaskRegs` with a column for each register.

    :param arch: As in :attr:`KernelInfo.arch`. It determines which registers there are; ``None``: those of
        all architectures.
    """
    fields = dict(REGS_OF_TASK)
    del fields["registers"]
    arches = ARCHES if arch is None else (arch_named(arch),)
    names = (name for each in arches for name in each.regs.names if name not in fields)
    return {**fields, **{name: _register(name) for name in names}}
