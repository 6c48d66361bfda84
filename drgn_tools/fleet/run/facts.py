# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the record of a source says about its file, its machine and its audit."""

from __future__ import annotations

import re
from typing import Optional

from drgn import Program

from ...analysis.hung import HungReport
from ...analysis.record_fields import KERNEL, as_object
from ...analysis.tally import Tally
from ...debuginfo.vmcoreinfo import vmcoreinfo
from ...errors import EXIT_OK, EXIT_PARTIAL
from ...kernel.machine import nodename
from ...records import KernelAudit, Verdict
from ...render.summary import audit_warnings
from .fetch import Core
from .record import Facts

__all__ = (
    "facts_of_audit",
    "facts_of_file",
    "facts_of_hung",
    "facts_of_machine",
    "microseconds",
)

_OF_THE_SOURCE = ("source", "host")
"""Facts of a kernel that a record takes from elsewhere: a manifest may name the host."""
_US = 1_000_000
_LAST_SECOND = 253402300799
"""Last second of the year 9999, the end of the range of Python's datetime."""


def facts_of_file(core: Core) -> Facts:
    """Return the size of the file of *core*, and the time when it was written.

    :raises InputError: If the file system cannot be asked.
    """
    facts: Facts = {"size_bytes": core.size_bytes()}
    modified_s = core.modified_s()
    if modified_s is not None:
        facts.update(time=microseconds(modified_s), time_from="file")
    return facts


def facts_of_machine(prog: Program) -> Facts:
    """Return the name of the machine and the time of the crash, as far as the dump has them.

    :param prog: A dump or the running kernel.
    """
    facts: Facts = {"host": nodename(prog)}
    crashed_s = vmcoreinfo(prog).get("CRASHTIME", "")
    if re.fullmatch("[0-9]{1,12}", crashed_s) and 0 < int(crashed_s) <= _LAST_SECOND:
        facts.update(time=microseconds(int(crashed_s)), time_from="crash")
    return facts


def facts_of_hung(report: HungReport) -> Facts:
    """Return how many tasks hang, and how many deadlocks there are."""
    return {
        "hung": sum(hangup.count for hangup in report.hangups),
        "deadlocks": len(report.deadlocks),
    }


def facts_of_audit(audit: KernelAudit) -> Facts:
    """Return the kernel, the counts by verdict and the status of *audit*."""
    tally = Tally(audit.tasks)
    warnings = audit_warnings(audit.problems, tally.unreadable)
    kernel = as_object(KERNEL, audit.kernel)
    for name in _OF_THE_SOURCE:
        del kernel[name]
    return {
        **kernel,
        "problems": list(audit.problems),
        "status": "partly unknown" if warnings else "audited",
        "exit_code": EXIT_PARTIAL if warnings else EXIT_OK,
        "line": "; ".join(warnings) or None,
        "quarantined": False,
        "tasks": tally.total,
        **{verdict.value: tally.verdicts[verdict] for verdict in Verdict},
    }


def microseconds(seconds: float) -> Optional[int]:
    """Return *seconds* since 1970 in microseconds, ``None`` if Python's datetime cannot have them."""
    return round(seconds * _US) if -_LAST_SECOND < seconds <= _LAST_SECOND else None
