# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options that choose a kernel: a vmcore, the running kernel or a QEMU guest."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

from ..analysis.selection import is_number
from ..errors import InputError, UsageError
from ..terminal.parser import Arguments

if TYPE_CHECKING:
    from drgn import Program

    from ..terminal.console import Console

__all__ = (
    "ONE_NEEDED",
    "GivenOnce",
    "KernelArguments",
    "SourceArguments",
    "add_source_options",
    "adopt_core",
    "check_source",
    "given_sources",
    "open_source",
)


class SourceArguments(Arguments):
    """A command line that chooses a kernel."""

    core: Optional[str]
    kernel: bool
    qemu: Optional[str]
    symbols: list[str]
    vmcoreinfo: Optional[str]


class KernelArguments(SourceArguments):
    """The command line of a command on one kernel."""

    format: str
    words: Sequence[str] = ()
    """The words that are not options."""


ONE_NEEDED = "kernel (one of these is needed)"


def add_source_options(parser: argparse.ArgumentParser, title: str = ONE_NEEDED) -> None:
    """Add ``-c``, ``-k``, ``--qemu``, ``-s`` and ``--vmcoreinfo``.

    :param title: What the help says above the first three.
    """
    source = parser.add_argument_group(title)
    source.add_argument(
        "-c",
        "--core",
        metavar="PATH",
        action=GivenOnce,
        help="vmcore: ELF or makedumpfile's format, also compressed; -c may be left out",
    )
    source.add_argument("-k", "--kernel", action="store_true", help="the running kernel")
    source.add_argument(
        "--qemu", metavar="SOCK", action=GivenOnce, help="QEMU guest with a QMP socket"
    )
    types = parser.add_argument_group("types and symbols")
    types.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        default=[],
        help="vmlinux or module with DWARF, instead of the dump's own BTF; may be repeated",
    )
    types.add_argument(
        "--vmcoreinfo",
        metavar="PATH",
        help="file with VMCOREINFO, to use instead of the dump's own; auto: search the dump's memory if its own does not fit",
    )


def given_sources(args: SourceArguments) -> list[str]:
    """Return the options among ``-c``, ``-k`` and ``--qemu`` that were given."""
    values = {"-c": args.core, "-k": args.kernel or None, "--qemu": args.qemu}
    return [option for option, value in values.items() if value is not None]


_GIVE_ONE = "give a core (-c VMCORE), -k for the running kernel, or --qemu SOCKET"


def adopt_core(args: KernelArguments) -> None:
    """Use the one word that is a file as the core, if no option chose a kernel.

    A word that is a PID, a range or an address is never used as a file.

    :raises UsageError: if several words are files, or if there are other words and none is a file.
    """
    if given_sources(args):
        return
    words = [word for word in args.words if not is_number(word)]
    files = [word for word in words if _is_there(word)]
    if len(files) > 1:
        raise UsageError(
            f"{files[0]!r} and {files[1]!r} are both files: give one core, as in -c {shlex.quote(files[0])}"
        )
    if words and not files:
        raise UsageError(f"{_why_no_file(words)}; {_GIVE_ONE}")
    if files:
        args.core = files[0]
        args.words = [word for word in args.words if word != files[0]]


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:  # a folder above may not be searched: opening the file reports it
        return True
    except (OSError, ValueError):
        return False
    return True


def _why_no_file(words: Sequence[str]) -> str:
    """Return why none of these words is a core. If some words contain a slash, only these are checked."""
    from ..program.core_file import open_regular, shown

    meant = [word for word in words if os.sep in word] or words
    if len(meant) > 1:
        return f"none of {', '.join(map(shown, meant))} is a file"
    try:
        with open_regular(meant[0]):
            return f"{shown(meant[0])}: is a file now, but was not a moment ago"
    except InputError as error:
        return str(error)


def check_source(args: SourceArguments) -> None:
    """Check that exactly one kernel was chosen.

    :raises UsageError: if no kernel or several were chosen.
    """
    given = given_sources(args)
    if not given:
        raise UsageError(f"which kernel? {_GIVE_ONE}")
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: give one kernel")


def open_source(args: SourceArguments, console: Console, modules: bool = False) -> Program:
    """Open the kernel that was chosen.

    :param console: Shows how far a compressed core is unpacked.
    :param modules: Whether drgn's modules are needed; most commands do without.
    :raises InputError: if the kernel cannot be opened, or is not a Linux kernel.
    :raises TypesError: if there are no usable types for it.
    """
    from ..program.open import open_program

    def unpacking(done: int, total: int) -> None:
        percent = done * 100 // max(total, 1)
        name = os.path.basename(args.core or "")
        console.progress(
            f"unpacking {name}: {percent}%",
            once=lambda: f"unpacking {name} ({total >> 20} MiB, {percent}% done); {_until_when()}",
        )

    try:
        return open_program(
            core=args.core,
            kernel=args.kernel,
            qemu=args.qemu,
            symbols=args.symbols,
            vmcoreinfo=args.vmcoreinfo,
            progress=unpacking,
            modules=modules,
        )
    finally:
        console.end_progress()


def _until_when() -> str:
    """Return in words whether the unpacked core is kept for the next time."""
    from ..program.core_cache import lasting_folder, named_folder

    if lasting_folder() is not None:
        return "it is kept for the next time"
    return f"again each time, because {named_folder()} cannot be written: set XDG_CACHE_HOME to a folder that can be"


class GivenOnce(argparse.Action):
    # argparse would silently use the last of two values, and show the wrong kernel. An option before
    # the command and the same option after it belong to two parsers: the one after it wins.
    _value: Optional[object] = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Union[str, Sequence[Any], None],
        option_string: Optional[str] = None,
    ) -> None:
        if self._value not in (None, values):
            raise UsageError(
                f"{option_string} {self._value} and {option_string} {values}: give one"
            )
        self._value = values
        setattr(namespace, self.dest, values)
