# SPDX-License-Identifier: LGPL-2.1-or-later
"""A snapshot of the tasks of a kernel, to be compared with another. It is made now, or read from a file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional, Union

import msgspec

from ..errors import InputError, UsageError
from ..records import Frame, KernelAudit, KernelInfo, Reason, Symbol, TaskStack, Verdict
from .labels import function_of
from .waiting import waiting_function

__all__ = ("Seen", "Snapshot", "as_snapshot", "is_saved_snapshot", "saved_snapshot", "snapshot_of")

_SCHEMAS = ("drgn-tools.tasks/1", "drgn-tools.stack/1")
_SAVE = "save the output of drgn-tools tasks --frames --format json"
_NO_SNAPSHOT = "is not the output of drgn-tools tasks --format json"
_BEGINS_JSON = re.compile(rb"""\s*(?:\{|\[\s*[\[\]{"])""")
"""The beginning of a JSON object, or of an array of anything but numbers. No core begins so, and the kernel's log
begins with ``[    0.0``."""
_START_BYTES = 256
_SHOWN_CHARS = 40


class Seen(msgspec.Struct, frozen=True):
    """A task in one snapshot."""

    task: TaskStack
    """The task. If the snapshot was saved without ``--frames``, it has no frames."""
    function: Optional[str]
    """Name of the function that the task waits in or was interrupted in, or the address if there is no symbol; ``None``
    in user mode, or if it is not known."""
    has_stack: bool
    """Whether the frames of :attr:`task` are its stack. They are not for a task on a CPU of a running kernel."""


class Snapshot(msgspec.Struct, frozen=True):
    """The tasks of a kernel at one moment."""

    kernel: KernelInfo
    """The kernel."""
    tasks: tuple[Seen, ...]
    """Its tasks."""
    problems: tuple[str, ...] = ()
    """As :attr:`.KernelAudit.problems`."""


def snapshot_of(
    kernel: KernelInfo, tasks: Iterable[TaskStack], problems: Iterable[str] = ()
) -> Snapshot:
    """Return a snapshot.

    :param tasks: Its tasks; read before *problems* is.
    """
    return Snapshot(kernel, tuple(map(_seen, tasks)), tuple(problems))


def as_snapshot(found: Union[KernelAudit, Snapshot]) -> Snapshot:
    """Return an audit as a snapshot.

    :raises UsageError: if *found* is neither
    """
    if not isinstance(found, (KernelAudit, Snapshot)):
        raise UsageError(
            f"{type(found).__name__} is neither an audit nor a saved snapshot: audit_kernel(prog) makes an audit,"
            " saved_snapshot(path) reads a snapshot from a file"
        )
    return (
        found if isinstance(found, Snapshot) else snapshot_of(found.kernel, found, found.problems)
    )


def _seen(task: TaskStack) -> Seen:
    frame = waiting_function(task)
    # A stack that was freed is known to be empty. A stack that could not be read at all is not known.
    has_stack = bool(task.frames) or task.verdict is Verdict.RELIABLE
    if frame is None or frame.user_mode:
        return Seen(task, None, has_stack)
    return Seen(task, function_of(frame) or hex(frame.ip), has_stack)


# ---- a snapshot that was saved


class _SavedFrame(msgspec.Struct):
    ip: str
    symbol: Optional[str]
    module: Optional[str]
    regs: Optional[str]
    user_mode: bool


class _SavedTask(msgspec.Struct):
    task: str
    pid: int
    tgid: int
    comm: str
    state: str
    cpu: int
    on_cpu: bool
    kthread: bool
    verdict: Verdict
    reason: Optional[str]
    why: Optional[str]
    function: Optional[str]
    flags: tuple[str, ...] = ()
    frames: Optional[tuple[_SavedFrame, ...]] = None
    full_name: Optional[str] = None
    process: Optional[str] = None
    ppid: Optional[int] = None
    start_time_ns: Optional[int] = None
    switches: Optional[int] = None


class _Document(msgspec.Struct):
    schema: str
    kernel: KernelInfo
    tasks: tuple[_SavedTask, ...]
    problems: tuple[str, ...] = ()


class _Named(msgspec.Struct):
    schema: Optional[str] = None


def is_saved_snapshot(path: str) -> bool:
    """Return whether a file begins like JSON, of any schema; false if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _BEGINS_JSON.match(file.read(_START_BYTES)) is not None
    except (OSError, ValueError):
        return False


def saved_snapshot(path: Union[str, Path]) -> Snapshot:
    """Read a snapshot from the output of ``tasks --frames --format json`` or ``stack --all --format json``.

    Without ``--frames`` the stacks are missing. Then the stack of a task is only known to be the same if the
    task has not run in between.

    :raises InputError: if the file cannot be read, or is not such an output
    """
    try:
        data = Path(path).read_bytes()
        wrong = _other_schema(data)
        if wrong is not None:
            raise InputError(f"{path}: {wrong}")
        document = msgspec.json.decode(data, type=_Document)
        tasks = tuple(map(_seen_before, document.tasks))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except msgspec.ValidationError:
        # The text of the error names our fields with Python types.
        raise InputError(
            f"{path}: {_NO_SNAPSHOT}: a value in it is missing, or has the wrong type; {_SAVE}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InputError(f"{path}: {_NO_SNAPSHOT}, or is cut short") from None
    except RecursionError:
        raise InputError(f"{path}: {_NO_SNAPSHOT}: values in it are too deeply nested") from None
    except _DamagedError as error:
        raise InputError(f"{path}: {_NO_SNAPSHOT}: {error}") from None
    return Snapshot(
        msgspec.structs.replace(document.kernel, source=f"{path} ({document.kernel.source})"),
        tasks,
        document.problems,
    )


def _other_schema(data: bytes) -> Optional[str]:
    """Return what a document without states of tasks is; ``None`` if its schema has states of tasks.

    :raises msgspec.DecodeError: if it is not JSON
    """
    try:
        schema = msgspec.json.decode(data, type=_Named).schema
    except msgspec.ValidationError:  # not an object, or its schema is not text
        return _NO_SNAPSHOT
    if schema in _SCHEMAS:
        return None
    if schema is None or not schema.startswith("drgn-tools."):
        return _NO_SNAPSHOT
    if schema.rpartition("/")[0] in {known.rpartition("/")[0] for known in _SCHEMAS}:
        return f"has the schema {schema[:_SHOWN_CHARS]!r}, which this version cannot read"
    return f"has the schema {schema[:_SHOWN_CHARS]!r}, which does not have the states of tasks; {_SAVE}"


class _DamagedError(Exception):
    """A value of a saved snapshot is not what we write."""


def _seen_before(saved: _SavedTask) -> Seen:
    known: Any = {field: getattr(saved, field) for field in _AS_SAVED}
    task = TaskStack(
        **known,
        task=_number(saved.task),
        reason=_reason(saved.reason),
        brief=saved.why,
        frames=tuple(map(_frame, saved.frames or ())),
    )
    seen = _seen(task)
    if saved.frames is not None:
        return seen
    return Seen(task, None if saved.function is None else saved.function.partition("+")[0], False)


_AS_SAVED = (
    "pid", "tgid", "comm", "state", "cpu", "on_cpu", "kthread", "verdict", "why", "flags",
    "full_name", "process", "ppid", "start_time_ns", "switches",
)  # fmt: skip


def _reason(text: Optional[str]) -> Optional[Reason]:
    try:
        return None if text is None else Reason(text)
    except ValueError:
        return None  # a reason of a later version; the sentence has it


def _frame(saved: _SavedFrame) -> Frame:
    return Frame(
        _number(saved.ip),
        None if saved.symbol is None else _symbol(saved.symbol, saved.module),
        regs=None if saved.regs is None else _number(saved.regs),
        user_mode=saved.user_mode,
    )


def _symbol(text: str, module: Optional[str]) -> Symbol:
    name, _, offset = text.rpartition("+")
    return Symbol(name, _number(offset), module)


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise _DamagedError(f"{text[:40]!r} is not an address") from None
