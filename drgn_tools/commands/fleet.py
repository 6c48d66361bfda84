# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-tools fleet``: call, report, exit code.

What the extra brings is imported where it is used: without it there is a sentence to say.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from ..errors import EXIT_BUG, EXIT_OK, EXIT_PARTIAL, InputError, UsageError
from ..fleet.run.job import Cause, Job, Limits, Outcome
from ..fleet.run.source import Source, list_sources
from ..program.core_file import shown
from ..terminal.console import Console, OutputError, table_width, write_lines
from ..terminal.parser import Arguments

if TYPE_CHECKING:
    from ..fleet.dataset.dataset import Dataset
    from ..fleet.run.cluster import Cluster

__all__ = ("fleet",)

_EXTRA = ("distributed", "duckdb", "fsspec", "pyarrow", "tqdm")


def fleet(args: Arguments, console: Console) -> int:
    """One ``drgn-tools fleet`` command; its exit code.

    :raises DrgnToolsError: it cannot be done.
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(f"fleet needs {', '.join(missing)}: pip install 'drgn-tools[fleet]'")
    return _COMMANDS[args.fleet_command](args, console)


# ---- run


class _Known(NamedTuple):
    content_id: Optional[str]
    status: str
    audited_at: datetime
    audit_id: str


def _run(args: Arguments, console: Console) -> int:
    from ..fleet.dataset.dataset import Dataset
    from ..fleet.run.cluster import Cluster
    from ..fleet.run.engine import run_jobs
    from ..fleet.run.progress import Progress

    if args.log_level != "debug":
        _silence_dask()
    listing = list_sources(args.sources)
    given = set(map(os.path.abspath, args.sources))  # as a manifest, say
    _tell_passed_over(
        [path for path in listing.passed_over if os.path.abspath(path) not in given], console
    )
    cluster = Cluster(args.scheduler, args.workers)
    live = _live(cluster) if args.live else []
    sources = [*listing.sources, *live]
    if not sources:
        raise UsageError("fleet run: there is no core among the sources")
    dataset = Dataset.create(Path(args.output))
    with dataset.locked():
        known = _known(dataset)
        dataset.remove_tasks_except({before.audit_id for before in known.values()})
        status_of = {source: before.status for source, before in known.items()}
        jobs = _jobs(sources, known, args.redo)
        progress = Progress(len(jobs), console, args.quiet)

        def commit(job: Job, outcome: Outcome) -> None:
            if not outcome.unchanged:
                outcome, audit = _stored(job, outcome)
                status_of[job.source.name] = outcome.record["status"]
                try:
                    dataset.commit(job.key, outcome.record["audit_id"], audit, outcome.tasks)
                except OSError as e:
                    raise OutputError(f"cannot write to {args.output}: {e.strerror}") from e
            progress.add(outcome)

        limits = Limits(args.time, args.memory, args.retries, args.max_tasks)
        try:
            run_jobs(jobs, limits, cluster, commit, progress, args.limit)
        except KeyboardInterrupt:
            console.say(
                f"interrupted: {progress.done} of {progress.total} sources are done; "
                "the same command goes on from there"
            )
            raise
        finally:
            progress.close()
    for line in progress.figures():
        console.note(line)
    console.note(f"drgn-tools fleet report {args.output} shows what was found")
    # With --limit some have none yet, and that is as it should be.
    wanting = sum(status_of.get(source.name, "audited") != "audited" for source in sources)
    if wanting:
        console.note(f"failed or partly unknown, now or before: {wanting} of the sources")
    return EXIT_PARTIAL if wanting else EXIT_OK


def _stored(job: Job, outcome: Outcome) -> tuple[Outcome, bytes]:
    # A record that no column can take must not end the run, and every later one.
    from ..fleet.dataset.parquet import audit_file
    from ..fleet.run.record import failed

    try:
        return outcome, audit_file(outcome.record)
    except (ValueError, OverflowError) as e:
        line = f"{job.source.name}: its record cannot be stored: {e}"
        outcome = Outcome(failed(job.source, Cause.BUG, EXIT_BUG, line))
        return outcome, audit_file(outcome.record)


def _silence_dask() -> None:
    # Its own words on what run_jobs() deals with. Most of its loggers have a level of their own.
    for name in ["distributed", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _tell_passed_over(paths: list[str], console: Console) -> None:
    if paths:
        several = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        console.note(f"passed over, no core by name or first bytes: {paths[0]}{several}")


def _live(cluster: Cluster) -> list[Source]:
    from ..fleet.run.live import live_sources, this_host

    now_s = time.time()
    if cluster.address is None:
        return [this_host(now_s)]
    try:
        with cluster.client() as client:
            hosts = live_sources(client, now_s)
    except OSError as e:
        raise InputError(f"{cluster.address}: no Dask scheduler answers there: {e}") from e
    if not hosts:
        raise InputError(
            f"{cluster.address}: has no worker, and --live looks at the workers' hosts"
        )
    return hosts


def _known(dataset: Dataset) -> dict[str, _Known]:
    from ..fleet.dataset.database import connect

    with connect(dataset) as database:
        rows = database.execute(
            "SELECT source, content_id, status, audited_at, audit_id FROM audits"
        ).fetchall()
    return {source: _Known(*rest) for source, *rest in rows}


def _jobs(sources: Iterable[Source], known: dict[str, _Known], redo: Optional[str]) -> list[Job]:
    from ..fleet.dataset.dataset import source_key

    jobs = []
    for source in sources:
        before = known.get(source.name)
        again = redo == "all" or (redo == "failed" and before and before.status == "failed")
        content_id = None if before is None or again else before.content_id
        jobs.append(Job(source, source_key(source.name), content_id))

    def turn(job: Job) -> tuple[int, datetime]:
        # Runs with --limit get somewhere, the next further than this.
        before = known.get(job.source.name)
        if before is None:
            return 0, datetime.min
        return 2 if job.known else 1, before.audited_at

    return sorted(jobs, key=turn)


# ---- report


def _report(args: Arguments, console: Console) -> int:
    from ..fleet.dataset.dataset import Dataset

    dataset = Dataset.open(Path(args.dataset))
    if args.html is not None:
        from ..fleet.report.page import print_page, write_page

        if args.html == "-":
            print_page(dataset)
            return EXIT_OK
        write_page(dataset, Path(args.html))
        console.note(f"{args.html}: {os.path.getsize(args.html) >> 10} KiB; open it in a browser")
        return EXIT_OK
    from ..fleet.report.report import report_lines, sql_lines

    width = table_width(sys.stdout)
    if args.sql is not None:
        write_lines(sql_lines(dataset, args.sql, args.format))
    else:
        write_lines(report_lines(dataset, args.section, args.top, args.format, width))
    return EXIT_OK


# ---- forget


def _forget(args: Arguments, console: Console) -> int:
    from ..fleet.dataset.dataset import Dataset, source_key

    dataset = Dataset.open(Path(args.dataset))
    with dataset.locked():
        names = sorted(_known(dataset))
        for pattern in args.sources:
            found = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
            if not found:
                raise UsageError(
                    f"{shown(pattern)}: no source of {shown(args.dataset)} is called so"
                )
            for name in found:
                dataset.forget(source_key(name))
                console.note(f"forgotten: {name}")
    return EXIT_OK


_COMMANDS = {"run": _run, "report": _report, "forget": _forget}
