# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dataset holds: the columns of its two kinds of Parquet file, and records put into them.

``audits``: one row for each source, its final record. ``tasks``: one row for each task of
a source that could be audited. The same facts as in ``tasks --frames --format json``
(docs/commands.md) under the same names; addresses and registers are unsigned 64-bit numbers.
Within :data:`SCHEMA` a column is only ever added, and only at the end.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Optional

import pyarrow as pa
import pyarrow.parquet as pq

from ...analysis.fields import TASK
from ...analysis.labels import frame_label, function_label
from ...analysis.queries import kernel_frames
from ...records import Frame, TaskStack

__all__ = ("AUDITS", "SCHEMA", "TASKS", "audit_file", "stack_hash", "tasks_file")

SCHEMA = "drgn-tools.fleet/1"
"""Name and number of the schema, in ``dataset.json`` and in each file's metadata."""

_TEXTS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")

AUDITS = pa.schema(
    {
        "source": pa.string(),  # path, URL, or live:HOST@TIME; what the run was given
        "audit_id": pa.string(),  # joins with tasks
        "host": pa.string(),  # from the manifest, or the nodename in the dump
        "tags": pa.map_(pa.string(), pa.string()),  # from the manifest
        "time": _TIME,  # when the kernel was as it was found
        "time_from": pa.string(),  # manifest, crash (VMCOREINFO), file (mtime), now (live)
        "status": pa.string(),  # audited, partly unknown, failed
        "exit_code": pa.int32(),  # of `drgn-tools tasks -c SOURCE`; 124 and 128+N as in a shell
        "cause": pa.string(),  # of a failure: input, types, bug, crashed, time limit, memory limit, worker lost
        "line": pa.string(),  # of a failure the error, else what could not be looked at
        "quarantined": pa.bool_(),  # given up: each attempt killed or outlasted its process
        "attempts": pa.int32(),
        "content_id": pa.string(),  # of core and symbols
        "size_bytes": pa.int64(),
        "release": pa.string(),
        "build_id": pa.string(),
        "arch": pa.string(),
        "unwinder": pa.string(),
        "encoding": pa.string(),
        "reliable_stacktrace": pa.bool_(),
        "types": pa.string(),
        "cpus": pa.int64(),
        "notes": _TEXTS,
        "last_words": _TEXTS,
        "problems": _TEXTS,
        "tasks": pa.int64(),
        "reliable": pa.int64(),
        "unreliable": pa.int64(),
        "unknown": pa.int64(),
        "seconds": pa.float64(),  # of the attempt that gave the record
        "peak_memory_bytes": pa.int64(),  # of the process by then
        "worker": pa.string(),  # host that audited it
        "tool": pa.string(),  # version
        "audited_at": _TIME,
    },
    metadata={"schema": SCHEMA},
)
"""Columns of ``audits/*.parquet``. What is not known, or does not exist, is null."""

_FRAME = pa.struct(
    {
        "ip": pa.uint64(),
        "symbol": pa.string(),
        "module": pa.string(),
        "stack": pa.string(),
        "regs": pa.uint64(),
        "user_mode": pa.bool_(),
    }
)
_REGISTERS = pa.map_(pa.string(), pa.uint64())
_REGS = pa.struct(
    {
        "address": pa.uint64(),
        "entry": pa.string(),
        "user_mode": pa.bool_(),
        "registers": _REGISTERS,
        "symbol": pa.string(),
        "module": pa.string(),
        "caller": pa.string(),
    }
)

TASKS = pa.schema(
    {
        "audit_id": pa.string(),
        "task": pa.uint64(),
        "pid": pa.int64(),
        "tgid": pa.int64(),
        "comm": pa.string(),
        "state": pa.string(),
        "cpu": pa.int64(),
        "on_cpu": pa.bool_(),
        "kthread": pa.bool_(),
        "verdict": pa.string(),
        "reason": pa.string(),
        "why": pa.string(),
        "flags": _TEXTS,
        "frames": pa.list_(_FRAME),
        "regs": pa.list_(_REGS),
        "reason_frame": pa.int64(),  # index in frames, from 0
        "depth": pa.int64(),
        "kernel_regs": pa.int64(),
        "user_regs": pa.int64(),
        "function": pa.string(),  # as in the table: innermost that is not the scheduler, with offset
        "cpu_registers": _REGISTERS,
        "cpu_caller": pa.string(),
        "stack_hash": pa.string(),  # stack_hash()
        "interrupted": _TEXTS,  # functions of the kernel-mode pt_regs, innermost first
        "brief": pa.string(),
    },
    metadata={"schema": SCHEMA},
)
"""Columns of ``tasks/*.parquet``."""


def stack_hash(task: TaskStack) -> str:
    """What identical stacks share on every host, build and boot: 16 hex digits.

    Of the functions in the kernel, innermost first, each with its module and whether it is a
    ``pt_regs``; no offset, no address. A frame without a name counts as ``?``.
    """
    digest = hashlib.sha256()
    for frame in kernel_frames(task):
        name = function_label(frame) if frame.symbol else f"? [{frame.module}]"
        # What ends a part cannot be in it: a symbol is a C string.
        digest.update(f"{name}\0{'regs' if frame.regs is not None else ''}\0".encode())
    return digest.hexdigest()[:16]


def audit_file(record: Mapping[str, Any]) -> bytes:
    """A Parquet file of one row of :data:`AUDITS`.

    :param record: values by column; those not given are null.
    """
    columns = [pa.array([record.get(field.name)], field.type) for field in AUDITS]
    return _parquet(pa.Table.from_arrays(columns, schema=AUDITS))


def tasks_file(audit_id: str, tasks: Sequence[TaskStack]) -> bytes:
    """A Parquet file of the rows of :data:`TASKS`, in the order of *tasks*."""
    columns = [
        pa.array([audit_id] * len(tasks), field.type)
        if field.name == "audit_id"
        else _COLUMN[field.name](tasks)
        for field in TASKS
    ]
    return _parquet(pa.Table.from_arrays(columns, schema=TASKS))


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


# ---- from records to columns. Flat arrays and offsets: a row a frame would take longer than the audit.


def _registers(maps: Iterable[Optional[Mapping[str, int]]]) -> pa.Array:
    offsets: list[Optional[int]] = []
    names: list[str] = []
    values: list[int] = []
    for registers in maps:
        offsets.append(None if registers is None else len(names))
        names.extend(registers or ())
        values.extend((registers or {}).values())
    offsets.append(len(names))
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()), _texts(names), pa.array(values, pa.uint64())
    )


def _lists(lists: Iterable[Sequence[Any]], items: Callable[[list[Any]], pa.Array]) -> pa.Array:
    offsets = [0]
    flat: list[Any] = []
    for list_ in lists:
        flat.extend(list_)
        offsets.append(len(flat))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items(flat))


def _structs(
    type_: pa.StructType, special: Mapping[str, Callable[[list[Any]], pa.Array]]
) -> Callable[[list[Any]], pa.Array]:
    # Members are attributes of the record, but for the special ones.
    def build(records: list[Any]) -> pa.Array:
        columns = [
            special[field.name](records)
            if field.name in special
            else pa.array([getattr(record, field.name) for record in records], field.type)
            for field in type_
        ]
        return pa.StructArray.from_arrays(columns, fields=list(type_))

    return build


def _texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.string())


def _caller_labels(frames: Iterable[Optional[Frame]]) -> pa.Array:
    return pa.array((frame and frame_label(frame) for frame in frames), pa.string())


def _interrupted(task: TaskStack) -> list[str]:
    return [
        function_label(frame)
        for frame in task.frames
        if frame.regs is not None and not frame.user_mode
    ]


_frame_structs = _structs(_FRAME, {})
_regs_structs = _structs(
    _REGS,
    {
        "registers": lambda regs: _registers(saved.registers for saved in regs),
        "caller": lambda regs: _caller_labels(saved.caller for saved in regs),
    },
)


def _scalar(field: pa.Field) -> Callable[[Sequence[TaskStack]], pa.Array]:
    def build(tasks: Sequence[TaskStack]) -> pa.Array:
        get = _VALUE.get(field.name) or TASK[field.name]
        return pa.array([get(task) for task in tasks], field.type)

    return build


_VALUE: Mapping[str, Callable[[TaskStack], Any]] = {
    "task": lambda task: task.task,
    "stack_hash": stack_hash,
    "brief": lambda task: task.brief,
}
"""What JSON does not have, or writes in another way."""

_COLUMN: dict[str, Callable[[Sequence[TaskStack]], pa.Array]] = {
    **{field.name: _scalar(field) for field in TASKS},
    "flags": lambda tasks: _lists((task.flags for task in tasks), _texts),
    "frames": lambda tasks: _lists((task.frames for task in tasks), _frame_structs),
    "regs": lambda tasks: _lists((task.regs for task in tasks), _regs_structs),
    "cpu_registers": lambda tasks: _registers(task.cpu_registers for task in tasks),
    "cpu_caller": lambda tasks: _caller_labels(task.cpu_caller for task in tasks),
    "interrupted": lambda tasks: _lists(map(_interrupted, tasks), _texts),
}
