# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from tests.lab.cache import cache_dir
from tests.lab.errors import LabError
from tests.lab.run import Progress

from .crash_program import get_crash
from .figures import FIGURES, Bench, Dump, Measured
from .machine import machine_and_versions
from .table import bound_of, in_words, line_of, read_lines, table_of, update, verdict_of
from .timing import ROOT, NotMeasured

__all__ = ("main",)

_RESULTS = ROOT / "build" / "bench.jsonl"
_EPILOG = """\
Every figure is a ratio of two things that were timed in turns, A B A B, on the same dump;
what is printed is the median of the rounds and the quartiles. One that misses its bound says
so; with --check the exit code is then 1. What cannot be measured here says why.

Dumps of 100,000 and 1,000,000 tasks are made for it and removed again: 8 GB for a while.
"""


def _parser() -> argparse.ArgumentParser:
    names = [figure.name for figure in FIGURES]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure how fast drgn-tools is, as ratios.",
        epilog=_EPILOG + "\nfigures:\n" + "".join(f"  {f.name:<8} {f.what}\n" for f in FIGURES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help=f"which (default: all): {', '.join(names)}"
    )
    parser.add_argument("--core", type=Path, help="measure on this dump, where one is wanted")
    parser.add_argument("--vmlinux", type=Path, help="with DWARF, for drgn and crash; with --core")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 7, or 3 with --quick")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer tasks, fewer rounds: for a look, not for the table",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 if a figure misses its bound"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=_RESULTS,
        metavar="FILE",
        help="append a JSON line for each figure (default: build/bench.jsonl)",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="where dumps are made (default: the lab's cache)",
    )
    parser.add_argument(
        "--fetch-crash", action="store_true", help="fetch Debian's crash into the lab's cache first"
    )
    parser.add_argument(
        "--update",
        type=Path,
        metavar="FILE",
        help="measure nothing; write the table of the results into a document",
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    unknown = sorted(set(args.figures) - {figure.name for figure in FIGURES})
    if unknown:
        parser.error(f"no figure is named {', '.join(unknown)}")
    if args.vmlinux and not args.core:
        parser.error("--vmlinux goes with --core")
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds: at least one")
    for path in (args.core, args.vmlinux):
        if path and not path.is_file():
            parser.error(f"{path}: no such file")
    if args.update:
        return _update(args.update, args.results)
    if args.fetch_crash:
        try:
            get_crash()
        except LabError as e:
            print(f"bench: {e}", file=sys.stderr)
    return _measure(args)


def _update(document: Path, results: Path) -> int:
    try:
        update(document, table_of(read_lines(results)))
    except (OSError, LookupError) as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    return 0


def _measure(args: argparse.Namespace) -> int:
    where = machine_and_versions()
    run = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(", ".join(f"{name} {value}" for name, value in where.items()), flush=True)
    given = (
        Dump(args.core.absolute(), args.core.name, args.vmlinux and args.vmlinux.absolute())
        if args.core
        else None
    )
    scratch = args.scratch or cache_dir() / "bench"
    scratch.mkdir(parents=True, exist_ok=True)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    missed = 0
    with tempfile.TemporaryDirectory(dir=scratch) as folder, open(args.results, "a") as results:
        for figure in FIGURES:
            if args.figures and figure.name not in args.figures:
                continue
            with Progress(f"measuring {figure.name}") as progress:
                bench = Bench(
                    Path(folder),
                    args.rounds or (3 if args.quick else 7),
                    args.quick,
                    given,
                    progress.update,
                )
                result: Union[Measured, str]
                try:
                    result = figure.measure(bench)
                except NotMeasured as e:
                    result = str(e)
            line = line_of(figure, result, run, where, args.quick)
            results.write(json.dumps(line) + "\n")
            results.flush()
            missed += not line.get("holds", True)
            cpu = f", CPU time {line['cpu']['median']:.2f}" if line.get("cpu") else ""
            on = f"; {line['dump']}" if "dump" in line else ""
            print(
                f"{figure.name:<8} {in_words(line)}{cpu}; {bound_of(figure)}: {verdict_of(line)}{on}",
                flush=True,
            )
    return 1 if missed and args.check else 0
