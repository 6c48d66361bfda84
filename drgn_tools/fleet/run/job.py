# SPDX-License-Identifier: LGPL-2.1-or-later
"""What travels between client, worker and cell: a job there, an outcome back. Plain values only."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from .source import Source

__all__ = ("Cause", "Job", "Limits", "Outcome")


class Cause(str, enum.Enum):
    """Why a source has no audit. Closed; it only ever grows."""

    INPUT = "input"
    """It cannot be opened or is no Linux kernel (exit code 3)."""
    TYPES = "types"
    """No usable types (exit code 4)."""
    BUG = "bug"
    """A bug of ours (exit code 70)."""
    CRASHED = "crashed"
    """The process that looked at it died (exit code 128 + signal)."""
    TIME_LIMIT = "time limit"
    """It took longer than a dump may (exit code 124, as of timeout(1))."""
    MEMORY_LIMIT = "memory limit"
    """It took more memory than a dump may (exit code 137, as of the OOM killer)."""
    WORKER_LOST = "worker lost"
    """Each worker that had it died (exit code 137)."""

    def __str__(self) -> str:
        return self.value

    @property
    def quarantines(self) -> bool:
        """Is it of a kind that another try may not show, and that harms who tries?"""
        return self not in (Cause.INPUT, Cause.TYPES, Cause.BUG)


@dataclass(frozen=True)
class Limits:
    """What one dump may take."""

    seconds: float = 300.0
    """Time on the clock."""
    memory_bytes: int = 2 << 30
    """Memory of the process: heap and private mappings (RLIMIT_DATA)."""
    retries: int = 2
    """Further attempts for one that kills or outlasts its process, each in a process of its own."""
    max_tasks: Optional[int] = None
    """As ``--max-tasks`` of ``drgn-tools tasks``."""


@dataclass(frozen=True)
class Job:
    """One source to audit."""

    source: Source
    """Which."""
    key: str
    """:func:`~drgn_tools.fleet.dataset.dataset.source_key` of it."""
    known: Optional[str] = None
    """``content_id`` of its final record, if it has one: then nothing need be done if it is that still."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """The reverse of :meth:`as_json`."""
        source = dict(values["source"])
        source["symbols"] = tuple(source["symbols"])
        return cls(Source(**source), values["key"], values["known"])


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    record: Mapping[str, Any] = field(default_factory=dict)
    """Values by column of :data:`~drgn_tools.fleet.dataset.schema.AUDITS`."""
    tasks: Optional[bytes] = None
    """A Parquet file of its tasks; ``None`` if there was no audit."""
    unchanged: bool = False
    """Its content is what it was: no record, the one that is there is final."""
