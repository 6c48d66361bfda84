# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage whole dumps, and compare the answers for them with those for the whole dumps.

    python -m tests.fuzz --seed 0 --count 2000      # make fuzz SEED=0 COUNT=2000
    python -m tests.fuzz --dump NAME --seed 17 --count 1 --write vmcore

The bundled dump and the small ones in the lab's cache take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from drgn_tools.data import demo_vmcore
from drgn_tools.program.unpack import unpacked

from ..lab.cache import cache_dir
from .damage import KINDS, damage
from .files import Victim
from .run import Dump, Tally, cases
from .whole import Whole

_LAB = {
    "debian": "core",
    "stock-7.2": "core",
    "i386-pae": "core",
    "i386-nopae": "core",
    "kdump": "core.zlib",
    "formats-stock": "core.zlib",
    "crash-nmi-irq": "core",
    "crash-fgraph": "core",
    "crash-kretprobe": "core",
    "crash-hardirq-fault-stock-6.12": "core",
    "fp-5.10": "core",
    "klp-stalled-stock-6.12": "core",
    "klp-replaced": "core",
    "arm64-6.12": "core",
    "arm64-7.2": "core",
    "arm64-built-6.1": "core",
    "arm64-built-6.12": "core",
    "arm64-built-7.2-64k": "core",
    "crash-stack-overflow-arm64-7.2": "core",
}
"""Dumps of the lab, and the file to use of each: every unwinder, format and machine."""
_SLICE = 250
"""How many damaged dumps one worker opens."""


def dumps() -> Iterator[Dump]:
    """Yield the dumps that exist on this machine."""
    yield Dump("demo", Path(unpacked(str(demo_vmcore()))))
    for name, file in _LAB.items():
        for folder in sorted((cache_dir() / "dumps").glob(f"{name}-" + "[0-9a-f]" * 16)):
            if (folder / file).exists():
                yield Dump(name, folder / file)
                break


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=2000, help="how many damaged dumps")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--dump", action="append", help="only this dump (may be repeated)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind")
    parser.add_argument("--log", type=Path, help="file to add a line of JSON to for each")
    parser.add_argument("--write", type=Path, help="write the damaged dump of --seed, and end")
    args = parser.parse_args()
    chosen = [d for d in dumps() if not args.dump or d.name in args.dump]
    if not chosen:
        parser.error("there is no such dump")
    if args.write:
        write(chosen[0], args.seed, args.kind or (), args.write)
        return 0
    with ExitStack() as stack:
        log = stack.enter_context(open(args.log, "a")) if args.log else None
        tally = Tally(log)
        # Each dump gets consecutive seeds from --seed on, so that adding a dump does not change those of the others.
        each, more = divmod(args.count, len(chosen))
        # They take turns, so that a long run that is stopped has tested some of each.
        slices = [
            (dump, range(at, min(at + _SLICE, args.seed + each + (number < more))))
            for at in range(args.seed, args.seed + each + 1, _SLICE)
            for number, dump in enumerate(chosen)
        ]

        def work(slice_: tuple[Dump, range]) -> None:
            dump, seeds = slice_
            if not dump.path.exists():  # the lab has built it again
                print(f"skipped, gone: {dump.path}")
                return
            for said in cases(dump, seeds, args.kind or ()):
                tally.count(dump, said)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(work, slices))
    print(tally.table())
    for finding in tally.findings:
        print(finding)
    return 1 if tally.findings else 0


def write(dump: Dump, seed: int, kinds: Sequence[str], path: Path) -> None:
    """Write one damaged dump, and say what is wrong with it."""
    whole = Whole(dump.path)
    case = damage(whole, dump.name, seed, kinds)
    with Victim(whole.file, path).changed(case.changes):
        kept = path.with_name(f".{path.name}")
        kept.write_bytes(path.read_bytes())
    kept.replace(path)
    print(json.dumps({"kind": case.kind, "what": case.what}))


if __name__ == "__main__":
    raise SystemExit(main())
