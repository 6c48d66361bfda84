# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments of ``drgn-tools fleet``.

Nothing of the extra ``fleet`` is imported here, so ``--help`` works without it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Optional

from ..analysis.planned_patch import PlannedPatch, parse_function
from ..errors import UsageError
from ..fleet.run.job import Limits
from ..program.core_cache import parse_size
from ..program.core_file import AUTO
from ..terminal.parser import Arguments, Parser, add_log_options, checked_format, positive

__all__ = ("FleetArguments", "fleet_parser", "parse_fleet_arguments")

_RUN_EPILOG = """\
A source is a core, a folder (which is searched), a shell pattern, a manifest (*.jsonl: lines of
{"core": PATH, "name": TEXT, "symbols": [PATH], "vmcoreinfo": PATH, "host": NAME, "time": ISO 8601,
"tags": {}}; only core is required), or an fsspec URL of one or more (s3://bucket/dumps/, http://host/vmcore). User
info and query of a URL are not stored and not shown.

Each source gets one final record in the dataset: audited, partly unknown, or failed with exit code
and error. To continue, run the same command again: it audits sources that have no record, or whose
content has changed. A dump that kills the process that reads it, or exceeds a limit, is tried again, then
quarantined.

examples:
  drgn-tools fleet run /var/crash -o fleet
  drgn-tools fleet run dumps.jsonl 's3://crashes/2026/*/vmcore' -o fleet --scheduler tcp://head:8786
  drgn-tools fleet run --live -o fleet --scheduler tcp://head:8786      every host that has a worker
  drgn-tools fleet report fleet

exit codes: 0 all audited, 5 some are failed or partly unknown (in this run or an earlier one),
2 no such source, 3 no cluster or no dataset, 74 the dataset cannot be written, 130 interrupted
"""

_REPORT_EPILOG = """\
examples:
  drgn-tools fleet report fleet
  drgn-tools fleet report fleet --section functions --top 50 --format csv > functions.csv
  drgn-tools fleet report fleet --html fleet.html
  drgn-tools fleet report fleet --sql "SELECT host, count(*) FROM tasks WHERE verdict = 'unreliable' GROUP BY host"

The views for --sql are audits, tasks, frames, regs, interrupted and stacks; --sql "DESCRIBE tasks" lists the
columns of one. docs/fleet-report.md explains them.
"""


class FleetArguments(Arguments):
    """The command line of ``fleet run``, ``fleet report`` or ``fleet forget``."""

    fleet_command: str
    sources: list[str]
    # run
    output: str
    live: bool
    scheduler: Optional[str]
    workers: Optional[int]
    time: float
    memory: int
    retries: int
    max_tasks: Optional[int]
    vmcoreinfo: Optional[str]
    patch_function: list[str]
    patch: Optional[PlannedPatch] = None
    limit: Optional[int]
    redo: Optional[str]
    # report, forget
    dataset: str
    # report
    section: list[str]
    top: Optional[int]
    format: str
    sql: Optional[str]
    html: Optional[str]


def parse_fleet_arguments(argv: Sequence[str]) -> FleetArguments:
    """Parse a command line of ``drgn-tools fleet``.

    :param argv: The arguments after ``fleet``.
    :raises UsageError: If they are wrong.
    :raises SystemExit: If ``--help`` was given; the help was printed.
    """
    args = fleet_parser().parse_words(argv, FleetArguments())
    if args.fleet_command == "run":
        functions = tuple(dict.fromkeys(map(parse_function, args.patch_function)))
        args.patch = PlannedPatch(", ".join(map(str, functions)), functions) if functions else None
        if not args.sources and not args.live:
            raise UsageError("fleet run: give sources (cores, folders, manifests, URLs) or --live")
        if args.vmcoreinfo not in (None, AUTO):
            raise UsageError(
                f"fleet run: --vmcoreinfo takes {AUTO} only, because a file fits one dump; "
                'name it with "vmcoreinfo" in a manifest'
            )
        if args.workers is not None and args.scheduler is not None:
            raise UsageError(
                "--workers is for a local cluster; the cluster of --scheduler has its own workers"
            )
    if args.fleet_command != "report":
        return args
    args.format = checked_format(args.format, "fleet report")
    if args.html is not None and (args.sql is not None or args.section):
        raise UsageError("--html writes a complete page: leave --sql and --section out")
    if args.sql is not None and args.section:
        raise UsageError("--sql and --section exclude each other: give one")
    return args


def fleet_parser() -> Parser:
    """Return the parser of what follows ``fleet``."""
    parser = Parser(
        prog="drgn-tools fleet",
        description="Audit many kernels, cores and running ones, into one dataset; report on it.",
    )
    commands = parser.add_subparsers(dest="fleet_command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="audit sources into a dataset",
        description="audit sources into a dataset.",
        epilog=_RUN_EPILOG,
    )
    _add_run(run)
    report = commands.add_parser(
        "report",
        help="report on a dataset",
        description="report on a dataset.",
        epilog=_REPORT_EPILOG,
    )
    _add_report(report)
    forget = commands.add_parser(
        "forget",
        help="remove sources from a dataset",
        description="remove the records of sources from a dataset, such as those of deleted dumps.",
        epilog="example: drgn-tools fleet forget fleet '/var/crash/old-host/*'\n",
    )
    forget.add_argument("dataset", metavar="DATASET", help="folder that fleet run wrote")
    forget.add_argument(
        "sources", metavar="SOURCE", nargs="+", help="name in the dataset, or pattern of names"
    )
    for command in (run, report, forget):
        add_log_options(command)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "sources", metavar="SOURCE", nargs="*", help="core, folder, pattern, manifest or URL"
    )
    run.add_argument(
        "-o",
        "--output",
        metavar="DATASET",
        required=True,
        help="folder of the dataset, a new or an existing one",
    )
    run.add_argument(
        "--live",
        action="store_true",
        help="also the running kernel of each host that has a worker (needs root)",
    )
    where = run.add_argument_group("where")
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler (tcp://host:8786), or a scheduler file (*.json); default: a local cluster",
    )
    where.add_argument(
        "--workers",
        metavar="N",
        type=positive("--workers"),
        help="workers of the local cluster (default: one for each CPU)",
    )
    limits = run.add_argument_group("limits of one dump")
    defaults = Limits()
    limits.add_argument(
        "--time",
        metavar="SECONDS",
        type=_seconds,
        default=defaults.seconds,
        help=f"time: 90, 10m, 2h (default: {defaults.seconds:g})",
    )
    limits.add_argument(
        "--memory",
        metavar="SIZE",
        type=_size,
        default=defaults.memory_bytes,
        help=f"memory: 512M, 2G (default: {defaults.memory_bytes >> 30}G)",
    )
    limits.add_argument(
        "--retries",
        metavar="N",
        type=_number,
        default=defaults.retries,
        help=f"attempts after the first for a dump that kills its process or exceeds a limit (default: {defaults.retries})",
    )
    limits.add_argument(
        "--max-tasks",
        metavar="N",
        type=positive("--max-tasks"),
        help="audit no more than N tasks of each dump",
    )
    run.add_argument(
        "--vmcoreinfo",
        metavar=AUTO,
        help="if the VMCOREINFO of a dump does not fit, search its memory for one that does",
    )
    run.add_argument(
        "--patch-function",
        metavar="[MODULE:]NAME[,POS]",
        action="append",
        default=[],
        help="ask each task whether it would hold back a live patch of this function; may be repeated",
    )
    which = run.add_argument_group("which sources")
    which.add_argument(
        "--limit",
        metavar="N",
        type=positive("--limit"),
        help="audit at most N sources, then stop; the next run continues",
    )
    which.add_argument(
        "--redo",
        choices=("failed", "all"),
        help="audit again sources that already have a record: those that failed, or all",
    )


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("dataset", metavar="DATASET", help="folder that fleet run wrote")
    report.add_argument(
        "--section",
        metavar="NAME",
        action="append",
        default=[],
        help="show only this section; may be repeated",
    )
    report.add_argument(
        "--top",
        metavar="N",
        type=positive("--top"),
        default=None,
        help="rows of each section (default: 20; 5 for stacks)",
    )
    report.add_argument(
        "--format",
        metavar="FORMAT",
        default="table",
        help="table (default), json, jsonl, csv, or any format of tabulate",
    )
    report.add_argument(
        "--sql", metavar="QUERY", help="show the result of your own query on the views"
    )
    report.add_argument("--no-pager", action="store_true", help="do not use a pager")
    report.add_argument(
        "--html",
        metavar="FILE",
        help="write a page with all tables, a flame graph and a time line; it needs no network; - is stdout",
    )


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)?", text)
    seconds = float(match[1]) * {None: 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 0 < seconds <= 7 * 24 * 3600:
        raise UsageError(f"--time takes a time up to 7 days, as in 90, 10m or 2h, not {text!r}")
    return seconds


_LEAST_MEMORY = 128 << 20
_MOST_MEMORY = 1 << 62
"""setrlimit() accepts at most a signed 64-bit number."""


def _size(text: str) -> int:
    size = parse_size(text)
    if size is None or not _LEAST_MEMORY <= size <= _MOST_MEMORY:
        raise UsageError(f"--memory takes a size of at least 128M, as in 2G, not {text!r}")
    return size


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", text):
        raise UsageError(f"--retries takes a number up to 999, not {text!r}")
    return int(text)
