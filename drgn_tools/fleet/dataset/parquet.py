# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the Parquet files of a dataset: the record of a source, and its tasks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Optional, Union

import pyarrow as pa
import pyarrow.parquet as pq

from ...analysis.hung import HungReport
from ...analysis.labels import frame_label, function_label, symbol_text
from ...analysis.patch_question import TaskAnswer
from ...analysis.record_fields import HUNG_TASK, TASK
from ...records import Frame, SavedRegs, TaskStack
from .schema import AUDITS, FRAME_TYPE, REGS_TYPE, TASKS
from .stack_hash import stack_hash

__all__ = ("audit_file", "tasks_file")

_HUNG_FIELDS = {
    "waits_for": "waits_for",
    "wait_name": "name",
    "wait_detail": "detail",
    "holder_pid": "holder_pid",
    "not_run_s": "not_run_s",
}
"""Column -> field of :data:`~drgn_tools.analysis.record_fields.HUNG_TASK`."""


def audit_file(record: Mapping[str, Any]) -> bytes:
    """Return the content of a Parquet file with one row of :data:`AUDITS`.

    :param record: Values by column. A column without a value is null.
    :raises ValueError: If a value does not fit into its column.
    :raises OverflowError: If a number does not fit into its column.
    """
    columns = [pa.array([record.get(field.name)], field.type) for field in AUDITS]
    return _parquet(pa.Table.from_arrays(columns, schema=AUDITS))


def tasks_file(
    audit_id: str,
    tasks: Sequence[TaskStack],
    answers: Sequence[TaskAnswer] = (),
    hung: Optional[HungReport] = None,
) -> bytes:
    """Return the content of a Parquet file with the rows of :data:`TASKS`, in the order of *tasks*.

    :param audit_id: The ``audit_id`` of the record that the tasks belong to.
    :param answers: The answer of each task about a live patch; empty if there was no question.
    :param hung: Which of the tasks hang; ``None`` if that was not computed.
    """
    waiting = {} if hung is None else {found.blocked.stack.task: found for found in hung.tasks()}
    rows = [waiting.get(task.task) for task in tasks]
    given: dict[str, Sequence[Any]] = {
        "audit_id": [audit_id] * len(tasks),
        "patch_answer": [found.answer.value for found in answers] or [None] * len(tasks),
        "patch_function": [_patched_function(found) for found in answers] or [None] * len(tasks),
        **{
            column: [None if found is None else HUNG_TASK[field](found) for found in rows]
            for column, field in _HUNG_FIELDS.items()
        },
        "hangup": [
            None
            if hung is None or found is None or found.hangup is None
            else hung.hangups[found.hangup].kind.value
            for found in rows
        ],
    }
    columns = [
        pa.array(given[field.name], field.type)
        if field.name in given
        else _COLUMN[field.name](tasks)
        for field in TASKS
    ]
    return _parquet(pa.Table.from_arrays(columns, schema=TASKS))


def _patched_function(found: TaskAnswer) -> Optional[str]:
    if found.function is None or found.module is None:
        return found.function
    return f"{found.function} [{found.module}]"


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


# ---- records to columns
#
# Lists are built as a flat array with offsets. Building a row for each frame would take
# longer than the audit.


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
    # A member is the attribute with the same name, unless it is special.
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


def _symbols(records: Iterable[Union[Frame, SavedRegs]]) -> pa.Array:
    return pa.array([symbol_text(record) for record in records], pa.string())


def _caller_labels(frames: Iterable[Optional[Frame]]) -> pa.Array:
    return pa.array((frame and frame_label(frame) for frame in frames), pa.string())


def _interrupted_functions(task: TaskStack) -> list[str]:
    return [
        function_label(frame)
        for frame in task.frames
        if frame.regs is not None and not frame.user_mode
    ]


_frame_structs = _structs(FRAME_TYPE, {"symbol": _symbols})
_regs_structs = _structs(
    REGS_TYPE,
    {
        "symbol": _symbols,
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
    "patch_state": lambda task: task.patch_state,
}
"""Columns that JSON does not have, or writes differently."""

_COLUMN: dict[str, Callable[[Sequence[TaskStack]], pa.Array]] = {
    **{field.name: _scalar(field) for field in TASKS},
    "flags": lambda tasks: _lists((task.flags for task in tasks), _texts),
    "frames": lambda tasks: _lists((task.frames for task in tasks), _frame_structs),
    "regs": lambda tasks: _lists((task.regs for task in tasks), _regs_structs),
    "cpu_registers": lambda tasks: _registers(task.cpu_registers for task in tasks),
    "cpu_caller": lambda tasks: _caller_labels(task.cpu_caller for task in tasks),
    "interrupted": lambda tasks: _lists(map(_interrupted_functions, tasks), _texts),
}
