# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the client, a Dask worker and a sandbox exchange: a job in one direction, an outcome in the other.

Both consist of plain values only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Optional

import msgspec

from ...analysis.planned_patch import PlannedPatch
from .source import Source

__all__ = ("Cause", "Job", "Limits", "Outcome")


class Cause(str, enum.Enum):
    """Why a source could not be audited. Later versions may add causes, but never remove one."""

    INPUT = "input"
    """The core cannot be opened, or is not of a Linux kernel (exit code 3)."""
    TYPES = "types"
    """There are no usable types (exit code 4)."""
    BUG = "bug"
    """A bug of ours (exit code 70)."""
    CRASHED = "crashed"
    """The sandbox process died (exit code 128 + signal)."""
    TIME_LIMIT = "time limit"
    """The audit exceeded :attr:`Limits.seconds` (exit code 124, that of timeout(1))."""
    MEMORY_LIMIT = "memory limit"
    """The audit exceeded :attr:`Limits.memory_bytes` (exit code 137, that of the OOM killer)."""
    WORKER_LOST = "worker lost"
    """Each Dask worker that had the job died (exit code 137)."""

    def __str__(self) -> str:
        return self.value

    @property
    def quarantines(self) -> bool:
        """Whether the cause harms the auditing process, so that the source is quarantined."""
        return self not in (Cause.INPUT, Cause.TYPES, Cause.BUG)


class Limits(msgspec.Struct, frozen=True):
    """The limits of the audit of one dump."""

    seconds: float = 300.0
    """Elapsed time."""
    memory_bytes: int = 2 << 30
    """Memory of the sandbox process: heap and private mappings (RLIMIT_DATA)."""
    retries: int = 2
    """Attempts after the first, each in a new process, if the process dies or exceeds a limit."""
    max_tasks: Optional[int] = None
    """Audit no more tasks than this; ``None`` for all."""


class Job(msgspec.Struct, frozen=True):
    """One source to audit."""

    source: Source
    """The source."""
    key: str
    """:func:`~drgn_tools.fleet.dataset.dataset.source_key` of its name."""
    known: Optional[str] = None
    """``content_id`` of its final record. If its content is still the same, nothing is done."""
    patch: Optional[PlannedPatch] = None
    """A live patch that is not loaded, about which each task is asked."""

    def as_json(self) -> dict[str, Any]:
        """Return the job as plain values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """Return the job whose :meth:`as_json` returned *values*."""
        return msgspec.convert(values, cls)


class Outcome(msgspec.Struct, frozen=True):
    """The result of a job."""

    record: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """The record of the source: values by column of :data:`~drgn_tools.fleet.dataset.schema.AUDITS`."""
    tasks: Optional[bytes] = None
    """Content of the Parquet file of its tasks; ``None`` if it could not be audited."""
    unchanged: bool = False
    """The content has not changed since the final record, which is kept. :attr:`record` is empty."""
