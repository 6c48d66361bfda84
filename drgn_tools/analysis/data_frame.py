# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records as a table of pandas: :func:`to_pandas`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..records import TaskStack
from . import record_fields as fields
from .flatten import TaskFrame, TaskRegs
from .grouping import StackGroup
from .hung import HungReport, HungTask
from .patch_question import TaskAnswer
from .raw_word import RawWord
from .record_fields import Fields
from .task_diff import TaskChange, TaskDiff

if TYPE_CHECKING:
    import pandas

__all__ = ("to_pandas",)

_FIELDS: dict[type, Fields] = {
    TaskStack: fields.TASK,
    TaskFrame: fields.FRAME_CSV,
    TaskRegs: fields.REGS_OF_TASK,
    StackGroup: fields.GROUP_CSV,
    TaskAnswer: fields.PATCH_ANSWER,
    TaskChange: fields.CHANGE_CSV,
    HungTask: fields.HUNG_TASK,
    RawWord: fields.RAW_WORD,
}
_NO_RECORDS = (
    "to_pandas() takes records of one kind, such as those of task_stacks() or of a % command"
)


def to_pandas(records: Iterable[Any]) -> pandas.DataFrame:
    """Return records as a ``pandas.DataFrame``, with a row for each.

    The columns are those of ``--format csv`` (docs/commands.md), so addresses are hexadecimal text.
    Columns have pandas' nullable types, so numbers stay exact if values are missing.

    :param records: Records of one kind: the tasks of an audit, what a ``%`` command returned, a
        :class:`~.task_diff.TaskDiff`, a :class:`~.hung.HungReport` (all tasks that sleep; ``hangup`` is missing
        for a task that does not hang)
    :raises UsageError: if pandas is not installed, or records of this kind have no columns
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise UsageError("to_pandas() needs pandas: pip install 'drgn-tools[pandas]'") from None
    if isinstance(records, TaskDiff):
        records = records.changes
    elif isinstance(records, HungReport):
        records = records.tasks()
    elif not isinstance(records, Iterable):
        raise UsageError(_NO_RECORDS)
    rows = list(records)
    kind = type(rows[0]) if rows else TaskStack
    columns = _FIELDS.get(kind)
    if columns is None or any(type(row) is not kind for row in rows):
        raise UsageError(_NO_RECORDS)
    table = {name: [get(row) for row in rows] for name, get in columns.items()}
    return pandas.DataFrame(
        {name: pandas.Series(values, dtype=_type_of(values)) for name, values in table.items()}
    )


def _type_of(values: Sequence[Any]) -> str:
    # pandas itself would turn numbers with a gap into floats. Text stays a Python string: some of pandas'
    # own string types do not accept lone surrogates.
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean"
    return "Int64" if kinds == {int} else "object"
