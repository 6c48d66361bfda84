# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which sources a run has to audit, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Optional

from ...analysis.planned_patch import PlannedPatch
from ..dataset.dataset import source_key
from ..dataset.known import KnownRecord
from .job import Job
from .source import Source

__all__ = ("planned_jobs",)


def planned_jobs(
    sources: Iterable[Source],
    known: Mapping[str, KnownRecord],
    redo: Optional[str] = None,
    patch: Optional[PlannedPatch] = None,
) -> list[Job]:
    """Return a job for each source: first those without a record, then those that were audited longest ago.

    So runs with ``--limit`` get through all sources.

    :param known: The final records by the name of the source.
    :param redo: ``failed`` or ``all`` to audit these even if their content is the same.
    :param patch: :attr:`.Job.patch` of each.
    """
    jobs = [
        Job(source, source_key(source.name), _known_content(known.get(source.name), redo), patch)
        for source in sources
    ]
    return sorted(jobs, key=lambda job: _turn(job, known.get(job.source.name)))


def _known_content(record: Optional[KnownRecord], redo: Optional[str]) -> Optional[str]:
    if record is None or redo == "all" or (redo == "failed" and record.status == "failed"):
        return None
    return record.content_id


def _turn(job: Job, record: Optional[KnownRecord]) -> tuple[int, datetime]:
    if record is None:
        return 0, datetime.min
    return 2 if job.known else 1, record.audited_at
