# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the outcomes of a run into its dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...errors import EXIT_BUG
from ..dataset.dataset import Dataset
from ..dataset.known import KnownRecord
from ..dataset.parquet import audit_file
from .job import Cause, Job, Outcome
from .record import failed
from .source import Source

__all__ = ("Recorder",)


class Recorder:
    """Commits outcomes, and keeps the status of the sources of a run."""

    def __init__(self, dataset: Dataset, known: Mapping[str, KnownRecord]) -> None:
        """
        :param dataset: The dataset, locked by this process.
        :param known: Its final records by the name of the source.
        """
        self._dataset = dataset
        self._status = {source: record.status for source, record in known.items()}

    def commit(self, job: Job, outcome: Outcome) -> Outcome:
        """Write *outcome* as the final record of its source, unless the source is unchanged.

        :return: The outcome as it was written: a failure if the dataset cannot store the record.
        :raises OSError: If it cannot be written.
        """
        if outcome.unchanged:
            return outcome
        outcome, audit = _stored(job, outcome)
        self._status[job.source.name] = outcome.record["status"]
        self._dataset.commit(job.key, outcome.record["audit_id"], audit, outcome.tasks)
        return outcome

    def incomplete(self, sources: Iterable[Source]) -> int:
        """Return how many of *sources* have a record that is failed or partly unknown.

        Sources without a record do not count.
        """
        return sum(self._status.get(source.name, "audited") != "audited" for source in sources)


def _stored(job: Job, outcome: Outcome) -> tuple[Outcome, bytes]:
    # A record that does not fit into the columns must not end this run and every later run.
    try:
        return outcome, audit_file(outcome.record)
    except (ValueError, OverflowError) as e:
        line = f"{job.source.name}: its record cannot be stored: {e}"
        outcome = Outcome(failed(job.source, Cause.BUG, EXIT_BUG, line))
        return outcome, audit_file(outcome.record)
