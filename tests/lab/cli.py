# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of the lab."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Optional

from .cache import cache_dir, exclusive
from .differential.source import VERSIONS
from .errors import LabError
from .packages import (
    ARM64,
    BOOT,
    BUILD,
    I386,
    SHELL,
    STOCK,
    SUITES,
    multilib_package,
    packages_of,
    require_i386,
)
from .run import say
from .variants import (
    GROUPS,
    VARIANTS,
    BuiltKernel,
    Variant,
    kernel_name,
    variant_named,
    variants_of,
)

__all__ = ("main",)

_EPILOG = """\
environment:
  DRGN_TOOLS_LAB_CACHE   where everything is kept (default: drgn-tools/lab in
                         $XDG_CACHE_HOME or ~/.cache); nothing is written to
                         the repository
  DRGN_TOOLS_LAB_MAKEDUMPFILE   a makedumpfile to use, say one with snappy,
                         instead of the one fetched from Debian
  DRGN_TOOLS_LAB_AUDITS  how many audits there are in live-storm (default: 500)

Results (paths, tables) go to stdout, everything else to stderr. Exit codes:
0 done, 1 not done (one line says why), 2 wrong usage, 130 interrupted.
"""


def _list(args: argparse.Namespace) -> int:
    for group, what in GROUPS.items():
        print(f"{group}: {what}")
        for variant in variants_of(group):
            print(f"  {variant.name:<20} {variant.what}")
            print(f"  {'':<20} {_state_of(variant)}")
    print(f"\ncache: {cache_dir()}")
    return 0


def _state_of(variant: Variant) -> str:
    from .dump import kernel_if_cached

    try:
        kernel = kernel_if_cached(variant)
        made = _result_if_cached(variant) if kernel else None
    except LabError as e:
        return str(e)
    what = "found" if variant.live else "dump"
    return f"kernel: {'cached' if kernel else 'not built'}; {what}: {made or 'none'}"


def _result_if_cached(variant: Variant) -> Optional[Path]:
    from .arm64_livepatch import cached_arm64_livepatch
    from .debian_live import cached_live_of
    from .dump import Dump, cached_dump
    from .hung import cached_hung
    from .livepatch import cached_livepatch

    if variant.live:
        run = cached_live_of(variant)
        return run.found if run else None
    if variant.hung:
        dump: Optional[Dump] = cached_hung(variant)
    elif variant.livepatch:
        is_arm64 = variant.kernel.arch == "aarch64"
        dump = (cached_arm64_livepatch if is_arm64 else cached_livepatch)(variant)
    else:
        dump = cached_dump(variant)
    return dump.core if dump else None


def _chosen(args: argparse.Namespace) -> Sequence[Variant]:
    if args.all:
        return variants_of("core")
    if args.group:
        return [variant for group in args.group for variant in variants_of(group)]
    chosen: Sequence[Variant] = args.variants
    return chosen


def _build(args: argparse.Namespace) -> int:
    from .dump import get_kernel
    from .guest import make_initramfs

    for variant in _chosen(args):
        kernel = get_kernel(variant)
        make_initramfs(kernel, variant.kernel.arch)
        print(kernel.entry)
    return 0


def _dump(args: argparse.Namespace) -> int:
    chosen = _chosen(args)
    failed = []
    for variant in chosen:
        try:
            result = _make(variant, args)
        except LabError as e:
            if len(chosen) == 1:
                raise
            # The others can be made all the same.
            say(f"error: {variant.name}: {e}")
            failed.append(variant.name)
            continue
        print(result, flush=True)
    if failed:
        raise LabError(f"not made: {', '.join(failed)} ({len(failed)} of {len(chosen)})")
    return 0


def _make(variant: Variant, args: argparse.Namespace) -> Path:
    from .arm64_livepatch import make_arm64_livepatch
    from .debian_live import make_live_of
    from .dump import make_dump
    from .hung import make_hung
    from .livepatch import make_livepatch

    if variant.kernel.arch == "i386":
        require_i386()
    if variant.live:
        return make_live_of(variant, fresh=args.fresh).found
    is_arm64 = variant.kernel.arch == "aarch64"
    live = make_arm64_livepatch if is_arm64 else make_livepatch
    make = make_hung if variant.hung else live if variant.livepatch else make_dump
    dump = make(variant, fresh=args.fresh, seconds=args.timeout)
    for skipped in dump.read_about()["skipped"]:
        say(f"{variant.name}: the guest could not: {skipped}")
    return dump.copy_to(args.output, variant.name) if args.output else dump.core


def _debuginfo(args: argparse.Namespace) -> int:
    from .debuginfo import get_debuginfo
    from .dump import make_dump

    for variant in args.variants:
        print(get_debuginfo(variant, make_dump(variant)))
    return 0


def _packages(args: argparse.Namespace) -> int:
    needed = packages_of((*BUILD, *STOCK, *SUITES, *BOOT, *SHELL, *ARM64, *I386))
    needed |= set(filter(None, [multilib_package()]))
    needed |= {
        v.kernel.source_package
        for v in VARIANTS
        if isinstance(v.kernel, BuiltKernel) and not v.kernel.suite
    }
    print(" ".join(sorted(needed)))
    return 0


def _path(args: argparse.Namespace) -> int:
    result = _result_if_cached(args.variant)
    if not result:
        raise LabError(
            f"no dump of {args.variant.name} yet: python -m tests.lab dump {args.variant.name}"
        )
    print(result)
    return 0


def _cached(args: argparse.Namespace) -> int:
    from .dump import kernel_if_cached

    variants = [variant for group in args.groups for variant in variants_of(group)]
    missing = {
        kernel_name(variant.kernel)
        for variant in variants
        if kernel_if_cached(replace(variant, crash=None)) is None
    }
    if missing:
        raise LabError(f"not built yet: {', '.join(sorted(missing))}")
    return 0


def _boot(args: argparse.Namespace) -> int:
    from .boot import boot

    return boot(args.variant)


def _sheet(args: argparse.Namespace) -> int:
    from .table import print_sheet

    print_sheet(args.core)
    return 0


def _differential(args: argparse.Namespace) -> int:
    from .differential.command import compare_version

    result = compare_version(args.version, args.stacks, args.seed, args.core, args.coverage)
    print(f"{result.what}, seed {args.seed}", *result.figures.lines(), sep="\n")
    if result.lines_never_run is not None:
        print("\nnever run:", *result.lines_never_run, sep="\n  ")
    for difference in result.figures.differences:
        print(f"\n{difference}")
    if result.figures.difference_count:
        raise LabError(f"the kernel's source and drgn-tools differ (seed {args.seed})")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import make_demo

    print(make_demo(args.output))
    return 0


def _clean(args: argparse.Namespace) -> int:
    kinds = ["dumps", "failed", "initramfs", "live"]
    if args.all:
        kinds += ["roots", "modules", "kernels", "trees", "sources", "unwinders", "tools", "apt"]
        kinds += ["debuginfo"]
    with contextlib.ExitStack() as locks:
        for kind in kinds:
            locks.enter_context(exclusive(kind))
        for kind in kinds:
            folder = cache_dir() / kind
            if folder.exists():
                say(f"removing {folder}")
                shutil.rmtree(folder)
    return 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 86400:
        raise ValueError
    return seconds


def _variant(text: str) -> Variant:
    try:
        return variant_named(text)
    except LabError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description="Builds real kernels, boots them under QEMU's emulation (no KVM, no root), "
        "freezes them and dumps them. Every dump carries the kernel's own answers about every "
        "task's stack.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    names = ", ".join(variant.name for variant in VARIANTS)

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(function=function)
        return sub

    def several(sub: argparse.ArgumentParser) -> None:
        which = sub.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "variants", nargs="*", type=_variant, metavar="VARIANT", default=[], help=names
        )
        which.add_argument("--all", action="store_true", help="those of the group core")
        which.add_argument(
            "--group",
            choices=GROUPS,
            action="append",
            help="those of a group (see `list`); may be given again",
        )

    command("list", _list, "show the variants, and what of them is in the cache")

    several(
        command("build", _build, "build kernel, modules and initramfs; print the kernel's folder")
    )

    sub = command(
        "boot", _boot, "boot a variant with its console here and a shell in it (end: Ctrl-A X)"
    )
    sub.add_argument("variant", type=_variant, metavar="VARIANT", help=names)

    sub = command("dump", _dump, "build, boot, freeze, dump and check; print the path of the dump")
    several(sub)
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="copy the dump to DIR/VARIANT.core, with VARIANT.log, .json and .vmlinux beside it",
    )
    sub.add_argument("--fresh", action="store_true", help="make a new dump even if there is one")
    sub.add_argument(
        "--timeout",
        type=_seconds,
        default=300.0,
        metavar="SECONDS",
        help="how long the guest may take (default: %(default).0f)",
    )

    sub = command(
        "debuginfo", _debuginfo, "fetch the vmlinux of a stock kernel's dump; print its path"
    )
    sub.add_argument("variants", nargs="+", type=_variant, metavar="VARIANT", help=names)

    sub = command("path", _path, "print the path of the cached dump")
    sub.add_argument("variant", type=_variant, metavar="VARIANT", help=names)

    sub = command("cached", _cached, "exit with 0 if the kernels of these groups are built")
    sub.add_argument("groups", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))

    sub = command("sheet", _sheet, "print what a dump's answer sheet says, one line a task")
    sub.add_argument("core", type=Path, metavar="CORE")

    sub = command(
        "differential",
        _differential,
        "compare the ORC walker with the kernel's own source, on random stacks",
    )
    sub.add_argument("version", choices=VERSIONS, metavar="VERSION", help=", ".join(VERSIONS))
    sub.add_argument("--stacks", type=int, default=20_000, metavar="N", help="how many stacks")
    sub.add_argument("--seed", type=int, default=1, help="another one gives other stacks")
    sub.add_argument(
        "--core",
        type=Path,
        metavar="FILE",
        help="a dump with ORC tables of that version (default: the newest in the cache)",
    )
    sub.add_argument(
        "--coverage", action="store_true", help="also print which lines of the source never ran"
    )

    sub = command("demo", _demo, "make demo.vmcore.xz and demo.txt from the fp-lsb dump")
    sub.add_argument("output", type=Path, metavar="DIR")

    command("packages", _packages, "print the Debian packages all of this needs")

    sub = command("clean", _clean, "remove dumps and initramfs from the cache")
    sub.add_argument("--all", action="store_true", help="kernels and source trees, too")
    return parser


_WITHOUT_DRGN = (_packages, _clean)


def _terminated(number: int, frame: Optional[FrameType]) -> None:
    # As Ctrl-C: children are ended and half-made entries removed on the way out.
    raise KeyboardInterrupt


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if args.function not in _WITHOUT_DRGN and importlib.util.find_spec("drgn") is None:
            raise LabError(
                f"{sys.executable} has no drgn: use a Python where drgn-tools is installed"
            )
        code: int = args.function(args)
        sys.stdout.flush()
    except LabError as e:
        print(f"lab: error: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        print(f"lab: error: {e}; `python -m tests.lab clean` makes room", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlab: interrupted", file=sys.stderr)
        return 130
    return code
