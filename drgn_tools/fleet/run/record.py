# SPDX-License-Identifier: LGPL-2.1-or-later
"""The final record of a source, as values by column of the schema."""

from __future__ import annotations

import secrets
import socket
import time
from typing import Any

from ... import __version__
from ...program.redact import redacted
from .job import Cause
from .source import Source

__all__ = ("Facts", "failed", "of_source")

Facts = dict[str, Any]
"""Values by column of :data:`~drgn_tools.fleet.dataset.schema.AUDITS`. A column that is missing is null."""


def of_source(source: Source) -> Facts:
    """Return the part of the record of a source that does not depend on its audit."""
    facts: Facts = {
        "source": source.name,
        "audit_id": secrets.token_hex(8),
        "tags": dict(source.tags),
        "tool": __version__,
        "worker": socket.gethostname(),
        "audited_at": time.time_ns() // 1000,
    }
    if source.host is not None:
        facts["host"] = source.host
    if source.time_us is not None:
        facts.update(time=source.time_us, time_from="manifest")
    return facts


def failed(source: Source, cause: Cause, exit_code: int, line: str) -> Facts:
    """Return the record of a source that could not be audited.

    :param exit_code: Exit code of ``drgn-tools tasks`` on this source.
    :param line: The error in one line. It may be text of a library, or of a process that died.
        User info and query of the source's URL are removed from it.
    """
    return {
        **of_source(source),
        "status": "failed",
        "exit_code": exit_code,
        "cause": cause.value,
        "line": redacted(line, source.core, source.name),
        "quarantined": cause.quarantines,
    }
