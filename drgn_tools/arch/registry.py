# SPDX-License-Identifier: LGPL-2.1-or-later
"""The architectures that are supported, and the architecture of a program or a record."""

from __future__ import annotations

from drgn import Program

from ..cache_key import cache_key
from ..errors import InputError
from .arm64.machine import ARM64
from .base import Arch, Layout
from .machines import UNDERSTOOD
from .x86.machine import X86_32, X86_64

__all__ = ("ARCHES", "arch_named", "arch_of", "layout_of")

ARCHES: tuple[Arch, ...] = (X86_64, X86_32, ARM64)
"""The architectures that are supported."""
_BY_NAME = {arch.name: arch for arch in ARCHES}
_CACHE_KEY = cache_key(__name__)


def arch_named(name: str) -> Arch:
    """Return an architecture.

    :param name: As :attr:`.records.KernelInfo.arch`
    :raises KeyError: if no architecture has this name
    """
    return _BY_NAME[name]


def layout_of(prog: Program) -> Layout:
    """Return the layout of a kernel. It is probed once and kept in ``prog.cache``.

    :raises InputError: if the architecture of this kernel is not one of :data:`ARCHES`
    :raises TypesError: if a type that every stack needs is missing or damaged
    """
    try:
        cached: Layout = prog.cache[_CACHE_KEY]
    except KeyError:
        cached = prog.cache[_CACHE_KEY] = arch_of(prog).probe(prog)
    return cached


def arch_of(prog: Program) -> Arch:
    """Return the architecture of a kernel.

    :raises InputError: if it is not one of :data:`ARCHES`
    """
    name = prog.platform.arch.name.lower() if prog.platform else "unknown"
    try:
        return arch_named(name)
    except KeyError:
        raise InputError(
            f"{prog.core_dump_path or 'kernel'}: its architecture is {name};"
            f" only {UNDERSTOOD} are supported"
        ) from None
