# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a kernel is probed: by types and symbols alone.

Versions are never compared, because distributions backport. What differs between kernels is named
where it is probed, with the commit that changed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

from drgn import ModuleFileStatus, Program

from ..debuginfo.kallsyms import kallsyms_of
from ..errors import TypesError
from ..memory import UNUSABLE, read_or_none

__all__ = ("at_most", "function_code", "has_dwarf", "probing", "symbol_address")


def symbol_address(prog: Program, name: str) -> Optional[int]:
    """Return the address of the symbol *name* in the kernel image; ``None`` if there is no such symbol.

    The dump's own kallsyms come first, so that answers do not depend on whether
    debuginfo was given. Without CONFIG_KALLSYMS_ALL they have functions only.
    """
    kallsyms = kallsyms_of(prog)
    if kallsyms is not None:
        addresses = kallsyms.find(name)
        if addresses:
            return addresses[0]
        if not has_dwarf(prog):
            return None
    try:
        return int(prog.symbol(name).address)
    except LookupError:
        return None


def has_dwarf(prog: Program) -> bool:
    """Return whether DWARF of the kernel image is loaded, with its symbol table."""
    try:
        return bool(prog.main_module().debug_file_status == ModuleFileStatus.HAVE)
    except LookupError:
        return False


def function_code(prog: Program, name: str, most_bytes: int) -> Optional[bytes]:
    """Return the machine code of a function of the kernel image.

    :param name: Its symbol
    :param most_bytes: Limit of the read: a damaged symbol table may give any size
    :return: Empty if it is not in the dump; ``None`` if the kernel has no such symbol
    """
    addr = symbol_address(prog, name)
    if addr is None:
        return None
    kallsyms = kallsyms_of(prog)
    if kallsyms is not None:
        found = kallsyms.at(addr)
        size_bytes = found.size if found else 0
    else:
        size_bytes = prog.symbol(addr).size
    return read_or_none(prog, addr, min(size_bytes, most_bytes)) or b""


@contextmanager
def probing(prog: Program) -> Iterator[None]:
    """Return a context for the use of types: those of a damaged dump may be anything.

    :raises TypesError: instead of :data:`..memory.UNUSABLE`.
    """
    try:
        yield
    except TypesError:
        raise
    except UNUSABLE as e:
        raise TypesError(f"{prog.core_dump_path or 'kernel'}: {_lack_of(prog, e)}") from e


def _lack_of(prog: Program, error: Exception) -> str:
    if has_dwarf(prog):
        return (
            "the DWARF of its vmlinux lacks what a stack needs, or is damaged"
            f" ({error}); leave -s out to use BTF"
        )
    remedy = "give the vmlinux of this kernel with -s"
    if _has_functions_only(prog):
        return (
            "this kernel was built without CONFIG_KALLSYMS_ALL: it has symbols of functions only,"
            f" and tasks are found by symbols of variables ({error}); {remedy}"
        )
    return f"its type information lacks what a stack needs, or is damaged ({error}); {remedy}"


def _has_functions_only(prog: Program) -> bool:
    kallsyms = kallsyms_of(prog)
    return kallsyms is not None and not kallsyms.has_variables()


def at_most(value: int, limit: int, what: str) -> int:
    """Return *value*, an offset or size in bytes that a type of the dump decides.

    :raises ValueError: if it is above *limit*
    """
    if value > limit:
        raise ValueError(f"{what} cannot have {value} bytes")
    return value
