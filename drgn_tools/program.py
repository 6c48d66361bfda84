# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a vmcore, the running kernel or a QEMU guest as an ordinary drgn Program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, Optional

from drgn import Program

from .btf import Btf
from .btf_finder import BtfFinder
from .errors import TypesError, UsageError
from .kallsyms import find_symbols, kallsyms_of
from .vmcoreinfo import build_id, vmcoreinfo

__all__ = (
    "build_id",
    "has_dwarf",
    "open_program",
    "types_source",
    "use_builtin_types",
    "vmcoreinfo",
)

_FINDER = "drgn_tools.btf"


def open_program(
    *,
    core: Optional[str | os.PathLike[str]] = None,
    kernel: bool = False,
    qemu: Optional[str] = None,
    symbols: Sequence[str | os.PathLike[str]] = (),
    vmcoreinfo: Optional[str] = None,
) -> Program:
    """Open a kernel; exactly one of *core*, *kernel* and *qemu* must be given."""
    if (core is not None) + kernel + (qemu is not None) != 1:
        raise UsageError("give one of core, kernel and qemu")
    prog = Program(vmcoreinfo=vmcoreinfo)
    if core is not None:
        prog.set_core_dump(core)
    elif kernel:
        prog.set_kernel()
    else:
        assert qemu is not None
        prog.set_qemu_qmp(qemu)
    if symbols:
        prog.load_debug_info([os.fspath(path) for path in symbols])
    else:
        use_builtin_types(prog)
    return prog


def has_dwarf(prog: Program) -> bool:
    """Return whether the kernel image of this program has DWARF loaded."""
    try:
        return prog.main_module().debug_file_path is not None
    except LookupError:
        return False


def types_source(prog: Program) -> Literal["btf", "dwarf"]:
    """Return where the types of this program come from."""
    return "dwarf" if has_dwarf(prog) else "btf"


def use_builtin_types(prog: Program) -> None:
    """Give a program the types and symbols that the kernel carries inside itself."""
    if _FINDER in prog.registered_type_finders():
        return
    kallsyms = kallsyms_of(prog)
    start = kallsyms.find("__start_BTF") if kallsyms else []
    stop = kallsyms.find("__stop_BTF") if kallsyms else []
    if not start or not stop:
        raise TypesError("no BTF")
    finder = BtfFinder(prog, Btf(prog.read(start[0], stop[0] - start[0])), kallsyms)
    prog.register_type_finder(_FINDER, finder.find_type, enable_index=-1)
    prog.register_object_finder(_FINDER, finder.find_object, enable_index=-1)
    prog.register_symbol_finder(_FINDER, find_symbols, enable_index=-1)
