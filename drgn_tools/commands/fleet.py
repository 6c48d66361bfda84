# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of ``drgn-tools fleet``: run, report, forget.

The packages of the extra ``fleet`` are imported where they are used. Without them the user
gets one line that says what to install.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..errors import EXIT_OK, EXIT_PARTIAL, UsageError
from ..fleet.run.interrupts import interrupts_held, kept_from_new_threads
from ..fleet.run.job import Job, Limits, Outcome
from ..fleet.run.source import Source, list_sources
from ..program.core_file import shown
from ..program.url import without_secrets
from ..terminal.console import Console, OutputError, table_width, write_lines
from .base import Command
from .fleet_arguments import FleetArguments, fleet_parser, parse_fleet_arguments

if TYPE_CHECKING:
    from ..fleet.run.cluster import Cluster
    from ..fleet.run.progress import Progress
    from ..fleet.run.recorder import Recorder
    from ..terminal.parser import Parser

__all__ = ("COMMAND", "fleet")

_EXTRA = ("distributed", "duckdb", "fsspec", "pyarrow", "tqdm")


def fleet(args: FleetArguments, console: Console) -> int:
    """Execute one ``drgn-tools fleet`` command.

    :return: The exit code.
    :raises DrgnToolsError: If the command cannot be executed.
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"fleet needs {', '.join(missing)}: pip install {' '.join(missing)}"
            " (in a clone of drgn-tools: pip install '.[fleet]')"
        )
    return _COMMANDS[args.fleet_command](args, console)


# ---- run


def _run(args: FleetArguments, console: Console) -> int:
    begun: list[Progress] = []
    try:
        return _run_or_be_interrupted(args, console, begun)
    except KeyboardInterrupt:
        console.end_progress()
        console.say(_how_to_go_on(begun))
        raise


def _how_to_go_on(begun: Sequence[Progress]) -> str:
    if not begun:
        return "interrupted before the first audit; the same command starts again"
    [progress] = begun
    return (
        f"interrupted: {progress.done} of {progress.total} sources are done; "
        "the same command continues from there"
    )


def _run_or_be_interrupted(args: FleetArguments, console: Console, begun: list[Progress]) -> int:
    # An interrupted import may fail with any error.
    with interrupts_held() as let_interrupts:
        with kept_from_new_threads():
            from ..fleet.dataset.dataset import Dataset
            from ..fleet.dataset.known import known_records
            from ..fleet.run.cluster import Cluster
            from ..fleet.run.dask_jobs import run_jobs  # noqa: F401
            from ..fleet.run.plan import planned_jobs
            from ..fleet.run.progress import Progress
            from ..fleet.run.recorder import Recorder

        let_interrupts()
    if args.log_level != "debug":
        _silence_dask()
    cluster = Cluster(args.scheduler, args.workers)
    sources = _sources(args, cluster, console)
    dataset = Dataset.create(Path(args.output))
    with dataset.locked():
        known = known_records(dataset)
        dataset.remove_tasks_except({record.audit_id for record in known.values()})
        recorder = Recorder(dataset, known)
        jobs = planned_jobs(sources, known, args.redo, args.patch)
        progress = Progress(len(jobs), console, args.quiet)
        begun.append(progress)
        _run_planned(jobs, cluster, recorder, args, progress)
        for line in progress.figures():
            console.note(line)
    console.note(f"drgn-tools fleet report {args.output} shows the results")
    incomplete = recorder.incomplete(sources)
    if incomplete:
        are = "is" if incomplete == 1 else "are"
        console.note(
            f"{incomplete} of the sources failed or {are} partly unknown, in this run or an earlier one"
        )
    return EXIT_PARTIAL if incomplete else EXIT_OK


def _silence_dask() -> None:
    # Dask logs the deaths that run_jobs() handles. Most of its loggers have their own level.
    for name in ["distributed", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _sources(args: FleetArguments, cluster: Cluster, console: Console) -> list[Source]:
    listing = list_sources(args.sources)
    # A manifest that was given may also be in a folder that was given.
    given = set(map(os.path.abspath, args.sources))
    skipped = [path for path in listing.passed_over if os.path.abspath(path) not in given]
    if skipped:
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        console.note(
            f"skipped, because neither name nor first bytes are those of a core: {skipped[0]}{more}"
        )
    sources = [
        replace(source, vmcoreinfo=source.vmcoreinfo or args.vmcoreinfo)
        for source in listing.sources
    ]
    if args.live:
        from ..fleet.run.live import live_sources

        sources = [*sources, *live_sources(cluster)]
    if not sources:
        raise UsageError("fleet run: there is no core among the sources")
    return sources


def _run_planned(
    jobs: list[Job], cluster: Cluster, recorder: Recorder, args: FleetArguments, progress: Progress
) -> None:
    from ..fleet.run.dask_jobs import run_jobs

    def commit(job: Job, outcome: Outcome) -> None:
        try:
            outcome = recorder.commit(job, outcome)
        except OSError as e:
            raise OutputError(f"cannot write to {args.output}: {e.strerror}") from e
        progress.add(outcome)

    limits = Limits(args.time, args.memory, args.retries, args.max_tasks)
    try:
        run_jobs(jobs, limits, cluster, commit, progress, args.limit)
    finally:
        progress.close()


# ---- report


def _report(args: FleetArguments, console: Console) -> int:
    from ..fleet.dataset.dataset import Dataset
    from ..fleet.report.query import query_lines
    from ..fleet.report.report import report_lines

    dataset = Dataset.open(Path(args.dataset))
    if args.html is not None:
        from ..fleet.report.page import print_page, write_page

        if args.html == "-":
            print_page(dataset)
            return EXIT_OK
        write_page(dataset, Path(args.html))
        console.note(f"{args.html}: {os.path.getsize(args.html) >> 10} KiB; open it in a browser")
        return EXIT_OK
    if args.sql is not None:
        write_lines(query_lines(dataset, args.sql, args.format))
    else:
        width = table_width(sys.stdout)
        write_lines(report_lines(dataset, args.section, args.top, args.format, width))
    return EXIT_OK


# ---- forget


def _forget(args: FleetArguments, console: Console) -> int:
    from ..fleet.dataset.dataset import Dataset, source_key
    from ..fleet.dataset.known import known_records

    dataset = Dataset.open(Path(args.dataset))
    with dataset.locked():
        names = sorted(known_records(dataset))
        for pattern in args.sources:
            found = [
                name
                for name in names
                if name in (pattern, without_secrets(pattern)) or fnmatchcase(name, pattern)
            ]
            if not found:
                raise UsageError(f"{shown(args.dataset)}: has no source {shown(pattern)}")
            for name in found:
                dataset.forget(source_key(name))
                console.note(f"removed: {name}")
    return EXIT_OK


_COMMANDS = {"run": _run, "report": _report, "forget": _forget}


class Fleet(Command[FleetArguments]):
    """The command ``fleet``, which has commands of its own."""

    options_may_come_first = False

    def parser(self, name: str) -> Parser:
        return fleet_parser()

    def is_paged(self, args: FleetArguments) -> bool:
        return args.fleet_command == "report" and args.html is None

    def parse(self, name: str, words: Sequence[str], before: argparse.Namespace) -> FleetArguments:
        return parse_fleet_arguments(words)

    def main(self, args: FleetArguments, console: Console) -> int:
        return fleet(args, console)


COMMAND = Fleet()
