# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which sources of a dataset have a final record, and what the next run needs to know about it."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import Optional

import msgspec

from .database import connect
from .dataset import Dataset

__all__ = ("KnownRecord", "known_records")


class KnownRecord(msgspec.Struct, frozen=True):
    """The part of the final record of a source that the next run needs."""

    content_id: Optional[str]
    """Identifies the content that was audited; ``None`` if it could not be read."""
    status: str
    """``audited``, ``partly unknown`` or ``failed``."""
    audited_at: datetime
    """When the audit ended, in UTC, without a time zone."""
    audit_id: str
    """ID of the audit, also in the name of the file of its tasks."""


def known_records(dataset: Dataset) -> dict[str, KnownRecord]:
    """Return the final records of *dataset* by the name of the source.

    :raises InputError: If a file of the dataset is damaged or missing.
    """
    with closing(connect(dataset)) as connection:
        rows = connection.execute(
            "SELECT source, content_id, status, audited_at, audit_id FROM audits"
        ).fetchall()
    return {source: KnownRecord(*rest) for source, *rest in rows}
