# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit one source in this process: from its core to its record and its tasks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from drgn import Program

from ...analysis.audit import audit_kernel
from ...analysis.hung import hung_report
from ...errors import DrgnToolsError, TypesError
from ...program.core_file import AUTO
from ...program.open import input_error_if_vanished, open_program
from ...records import KernelAudit
from ..dataset.parquet import tasks_file
from .facts import (
    facts_of_audit,
    facts_of_file,
    facts_of_hung,
    facts_of_machine,
    microseconds,
)
from .fetch import Core
from .identity import file_id, joint_id
from .job import Cause, Job, Outcome
from .livepatch import ask_about_patch
from .out_of_memory import is_out_of_memory
from .record import Facts, failed, of_source
from .remote import errors_of
from .source import Source

__all__ = ("audit_source",)


def audit_source(
    job: Job,
    max_tasks: Optional[int] = None,
    identified: Callable[[Facts], None] = lambda facts: None,
) -> Outcome:
    """Audit the source of *job*, unless its content has not changed since its final record.

    :param max_tasks: As for :func:`~drgn_tools.analysis.audit.audit_kernel`.
    :param identified: Called before the dump is opened, with the facts that are known by then. If the
        dump ends this process, these facts are the last.
    :return: The outcome. A source that cannot be audited has a ``failed`` record.
    :raises MemoryError: If there is too little memory.
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
    facts: Facts = {}
    try:
        if source.core:
            facts["content_id"] = _content_id(job, core, max_tasks)
            if facts["content_id"] == job.known:
                return Outcome(unchanged=True)
            facts.update(facts_of_file(core))
        else:
            facts.update(time=microseconds(time.time()), time_from="now")
        identified(facts)
        prog = _open(source, core, scratch)
        audit = _audit(prog, max_tasks, facts)
        answers = ask_about_patch(prog, audit, job.patch)
        hung = hung_report(prog, audit.tasks)
    except DrgnToolsError as e:
        if is_out_of_memory(e):
            raise MemoryError from e
        cause = Cause.TYPES if isinstance(e, TypesError) else Cause.INPUT
        return Outcome({**facts, **failed(source, cause, e.exit_code, str(e))})
    record = {
        **facts,
        **facts_of_audit(audit),
        **answers.facts,
        **facts_of_hung(hung),
        **of_source(source),
    }
    return Outcome(record, tasks_file(record["audit_id"], audit.tasks, answers.of_tasks, hung))


def _open(source: Source, core: Core, scratch: Path) -> Program:
    if not source.core:
        return open_program(kernel=True, modules=False)
    return open_program(
        core=core.path,
        symbols=source.symbols,
        vmcoreinfo=source.vmcoreinfo,
        unpack_into=scratch,
        modules=False,
    )


def _audit(prog: Program, max_tasks: Optional[int], facts: Facts) -> KernelAudit:
    # Adds to facts.
    with input_error_if_vanished(prog):
        audit = audit_kernel(prog, max_tasks=max_tasks)
        facts.update(facts_of_machine(prog))
    return audit


def _content_id(job: Job, core: Core, max_tasks: Optional[int]) -> str:
    # Everything that the record depends on.
    source, patch = job.source, () if job.patch is None else (job.patch,)
    files, info = list(source.symbols), []
    if source.vmcoreinfo is not None:
        info = [AUTO if source.vmcoreinfo == AUTO else "VMCOREINFO"]
        files += [] if source.vmcoreinfo == AUTO else [source.vmcoreinfo]
    given = (source.host, source.time_us, sorted(source.tags.items()), max_tasks, *patch, *info)
    ids = []
    for path in files:
        with errors_of(path):
            ids.append(file_id(path))
    return joint_id((core.content_id(), *ids, repr(given)))
