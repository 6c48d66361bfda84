# SPDX-License-Identifier: LGPL-2.1-or-later
"""One source -> its record and its tasks, in this process."""

from __future__ import annotations

import errno
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from drgn import Object, Program

from ...analysis.audit import audit_kernel
from ...debuginfo.vmcoreinfo import vmcoreinfo
from ...errors import EXIT_OK, EXIT_PARTIAL, DrgnToolsError, TypesError
from ...memory import UNUSABLE
from ...program.open import input_error_if_vanished, open_program
from ...records import KernelAudit, Reason, TaskStack, Verdict
from ...render.fields import KERNEL, as_object
from ...render.summary import unreadable_line
from ..dataset.schema import tasks_file
from .fetch import Core
from .identity import file_id, joint_id
from .job import Cause, Job, Outcome
from .record import Facts, failed, of_source
from .remote import errors_of
from .source import Source

__all__ = ("audit_one", "is_for_want_of_memory")

_US = 1_000_000
_LAST_SECOND = 253402300799
"""Of the year 9999, which is as far as Python's datetime goes."""
_NO_NODENAME = "(none)"
"""UTS_NODENAME of include/linux/uts.h: what a machine is called that nobody has named."""


def audit_one(
    job: Job,
    max_tasks: Optional[int] = None,
    identified: Callable[[Facts], None] = lambda facts: None,
) -> Outcome:
    """Audit the source of *job*, unless its content is the one already known.

    A source that cannot be audited has an outcome as well.

    :param max_tasks: as of :func:`~drgn_tools.analysis.audit.audit_kernel`.
    :param identified: told what is known of it before it is opened, which may be the last that is heard.
    :raises MemoryError: there is too little of it.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="drgn-tools-") as scratch:
        outcome = _outcome(job, Path(scratch), max_tasks, identified)
    if outcome.unchanged:
        return outcome
    record = dict(outcome.record, seconds=time.monotonic() - began)
    return Outcome(record, outcome.tasks)


def _outcome(
    job: Job, scratch: Path, max_tasks: Optional[int], identified: Callable[[Facts], None]
) -> Outcome:
    source = job.source
    core = Core(source.core, str(scratch))
    about: Facts = {}
    try:
        if source.core:
            about["content_id"] = _content_id(source, core, max_tasks)
            if about["content_id"] == job.known:
                return Outcome(unchanged=True)
            about.update(_of_file(core))
        else:
            about.update(time=_us(time.time()), time_from="now")
        identified(about)
        prog = _open(source, core, scratch)
        with input_error_if_vanished(prog):
            audit = audit_kernel(prog, max_tasks=max_tasks)
            about.update(_of_machine(prog))
    except DrgnToolsError as e:
        if is_for_want_of_memory(e):
            raise MemoryError from e
        cause = Cause.TYPES if isinstance(e, TypesError) else Cause.INPUT
        return Outcome({**about, **failed(source, cause, e.exit_code, str(e))})
    record = {**about, **_of_audit(audit), **of_source(source)}
    return Outcome(record, tasks_file(record["audit_id"], audit.tasks))


def _open(source: Source, core: Core, scratch: Path) -> Program:
    if not source.core:
        return open_program(kernel=True)
    return open_program(core=core.path, symbols=source.symbols, unpack_into=scratch)


def _content_id(source: Source, core: Core, max_tasks: Optional[int]) -> str:
    # All that the record depends on.
    told = (source.host, source.time_us, sorted(source.tags.items()), max_tasks)
    symbols = []
    for path in source.symbols:
        with errors_of(path):
            symbols.append(file_id(path))
    return joint_id((core.content_id(), *symbols, repr(told)))


def is_for_want_of_memory(error: BaseException) -> bool:
    """Is there too little memory? drgn, and the system, say it as the error of what they were doing."""
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        cause = cause.__cause__
    return False


# ---- the record


def _of_file(core: Core) -> Facts:
    values: Facts = {"size_bytes": core.size_bytes()}
    modified_s = core.modified_s()
    if modified_s is not None:
        values.update(time=_us(modified_s), time_from="file")
    return values


def _of_machine(prog: Program) -> Facts:
    values: Facts = {"host": _nodename(prog)}
    crashed_s = vmcoreinfo(prog).get("CRASHTIME", "")
    if re.fullmatch("[0-9]{1,12}", crashed_s) and 0 < int(crashed_s) <= _LAST_SECOND:
        values.update(time=_us(int(crashed_s)), time_from="crash")
    return values


def _us(seconds: float) -> Optional[int]:
    return round(seconds * _US) if -_LAST_SECOND < seconds <= _LAST_SECOND else None


def _nodename(prog: Program) -> Optional[str]:
    """``uname -n``: init_uts_ns.name.nodename of the dump; ``None`` if it cannot be read."""
    try:
        address = prog.symbol("init_uts_ns").address
        names = Object(prog, "struct uts_namespace", address=address).name
        name = names.nodename.string_().decode("utf-8", "backslashreplace")
    except UNUSABLE:
        return None
    return None if name in ("", _NO_NODENAME) else name


def _of_audit(audit: KernelAudit) -> Facts:
    verdicts = Counter(task.verdict for task in audit.tasks)
    warnings = _warnings(audit.problems, audit.tasks)
    kernel = as_object(KERNEL, audit.kernel)
    del kernel["source"]
    return {
        **kernel,
        "problems": list(audit.problems),
        "status": "partly unknown" if warnings else "audited",
        "exit_code": EXIT_PARTIAL if warnings else EXIT_OK,
        "line": "; ".join(warnings) or None,
        "quarantined": False,
        "tasks": len(audit.tasks),
        **{verdict.value: verdicts[verdict] for verdict in Verdict},
    }


def _warnings(problems: Sequence[str], tasks: Sequence[TaskStack]) -> list[str]:
    # As `drgn-tools tasks` has them on stderr.
    unreadable = sum(task.reason is Reason.UNREADABLE for task in tasks)
    return [*problems, *([unreadable_line(unreadable)] if unreadable else [])]
