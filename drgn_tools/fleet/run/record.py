# SPDX-License-Identifier: LGPL-2.1-or-later
"""The final record of a source, as values by column of the schema."""

from __future__ import annotations

import secrets
import socket
import time
from typing import Any

from ... import __version__
from .job import Cause
from .source import Source

__all__ = ("Facts", "failed", "of_source")

Facts = dict[str, Any]
"""Values by column of :data:`~drgn_tools.fleet.dataset.schema.AUDITS`; what is not there is null."""


def of_source(source: Source) -> Facts:
    """What is known of a source, whatever becomes of it."""
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
    """The record of a source that could not be audited."""
    return {
        **of_source(source),
        "status": "failed",
        "exit_code": exit_code,
        "cause": cause.value,
        "line": line,
        "quarantined": cause.quarantines,
    }
