# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types, variables and symbols that a kernel carries inside itself: its BTF and kallsyms."""

from __future__ import annotations

from typing import Optional

from drgn import Architecture, PlatformFlags, Program, ProgramFlags, Type, TypeKindSet

from ..cache_key import PREFIX, cache_key
from ..debuginfo.btf import Btf
from ..debuginfo.btf_finder import BtfFinder
from ..debuginfo.find_btf import read_btf
from ..debuginfo.kallsyms import kallsyms_of
from ..debuginfo.shared_tables import SharedTables
from ..debuginfo.symbol_finder import find_symbols
from ..errors import TypesError
from .core_memory import correct_core_memory
from .drgn_modules import set_image_addresses
from .vmcoreinfo_fit import fits, misfit

__all__ = ("use_builtin_types",)

_FINDER = PREFIX
"""Name of the finders of types, objects and symbols in drgn."""

_BTF_OF_DRGN = "btf"
"""Name of the type finder of a drgn that reads BTF itself (0.3.0 does not)."""

_CACHE_KEY = cache_key(__name__)
_OTHER_VMCOREINFO = "open it with drgn-tools shell -c FILE --vmcoreinfo auto"

_BTF: SharedTables[Btf] = SharedTables()


class _BuiltinTypes:
    """The type finder that a program gets. It opens the BTF when drgn first asks for a type.

    drgn remembers the type of char from its first use on. Opening the BTF needs VMCOREINFO, and
    reading that string uses char: drgn would settle on a signed char, but char is unsigned since
    v6.2. So use_builtin_types() asks for char first, which opens the BTF inside that lookup. The
    outer lookup ends last, so drgn remembers the answer of the BTF.
    """

    def __init__(self) -> None:
        self._finder: Optional[BtfFinder] = None
        self._opening = False

    def open(self, prog: Program) -> BtfFinder:
        if self._finder is None:
            self._opening = True
            try:
                self._finder = _open_btf(prog)
            finally:
                self._opening = False
        return self._finder

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        return None if self._opening else self.open(prog).find_type(prog, kinds, name, filename)


def _open_btf(prog: Program) -> BtfFinder:
    kallsyms = kallsyms_of(prog)
    if kallsyms is None or not len(kallsyms):
        # open_program() has checked VMCOREINFO; drgn itself has not.
        is_live = bool(prog.flags & ProgramFlags.IS_LIVE)
        found = None if is_live or fits(prog, False) else misfit(prog, False, False)
        if found is not None:
            or_else = ", or the kernel is not in the dump" if found.may_be_missing else ""
            raise TypesError(
                f"VMCOREINFO does not fit this memory{or_else}: {found.seen}; {_OTHER_VMCOREINFO}"
            )
        raise TypesError(
            "the symbol table of this kernel (kallsyms) is not in the dump, or cannot be found there; "
            "give the vmlinux of this kernel with -s"
        )
    parts = (read_btf(prog, kallsyms), prog.address_size())
    return BtfFinder(prog, _BTF.get(parts, lambda: Btf(*parts)), kallsyms, _FINDER)


def _has_wrong_platform(prog: Program) -> bool:
    # drgn goes by the class of an ELF file. A program keeps its platform.
    platform = prog.platform
    return (
        platform is not None
        and platform.arch is Architecture.I386
        and bool(platform.flags & PlatformFlags.IS_64_BIT)
    )


def _has_btf_of_drgn(prog: Program) -> bool:
    # It may be enabled before it has read any BTF, or with BTF of another kernel: what counts is an answer.
    if _BTF_OF_DRGN not in prog.enabled_type_finders():
        return False
    try:
        return bool(prog.type("struct task_struct").is_complete())
    except LookupError:
        return False


def use_builtin_types(prog: Program) -> None:
    """Give a program the types, variables and symbols that its kernel carries inside itself.

    They come last: debuginfo that is loaded, now or later, goes first. Where drgn reads the BTF of
    this kernel itself, types come only from drgn; variables that BTF leaves out still come from here. drgn also learns where the
    kernel image is, so that its own unwinder finds the ORC table there. This is done once for a
    program; a second call does nothing.

    From then on, reads of pages that an ELF dump leaves out raise a FaultError (see
    :mod:`.excluded_pages`).

    :raises TypesError: if the kernel has no BTF or kallsyms, or they are damaged or not in the dump
    :raises InputError: if the dump is no longer where drgn opened it
    """
    if _FINDER in prog.enabled_object_finders():
        return
    if _has_wrong_platform(prog):
        raise TypesError(
            "drgn mistakes this dump for one of a machine that does not exist, x86-32 with 64-bit words; "
            "open it with drgn-tools shell -c"
        )
    correct_core_memory(prog)  # open_program() has done so; drgn itself has not
    if _FINDER not in prog.registered_type_finders():
        prog.cache[_CACHE_KEY] = _BuiltinTypes()
        prog.register_type_finder(_FINDER, prog.cache[_CACHE_KEY].find_type)
    others = prog.enabled_type_finders()
    if not _has_btf_of_drgn(prog):
        prog.set_enabled_type_finders([*others, _FINDER])
    try:
        prog.type("char")
        finder = prog.cache[_CACHE_KEY].open(prog)
    except TypesError:
        prog.set_enabled_type_finders(others)
        raise
    prog.register_object_finder(_FINDER, finder.find_object, enable_index=-1)
    prog.register_symbol_finder(_FINDER, find_symbols, enable_index=-1)
    set_image_addresses(prog)
