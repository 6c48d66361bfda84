# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's modules of a kernel without debuginfo: the kernel image and the loaded modules.

For an address, drgn's own unwinder looks up the module that contains it, and finds the ORC table of
that module in the dump. But drgn creates modules only when it searches for debuginfo, and takes the
addresses of the image from vmlinux. Without them, a stack is two frames and garbage. This file gets
them from the dump.

It does not search for debuginfo. (drgn's create_loaded_modules() would, in a kernel that has
CONFIG_MODULES=n.) Damaged modules are left out, as drgn does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, takewhile

from drgn import Object, Program, TypeKind

from ..cache_key import cache_key
from ..debuginfo.modules import listed_modules
from ..kernel.probing import symbol_address
from ..memory import UNUSABLE, read_up_to

__all__ = ("MAX_MODULES", "create_modules", "set_image_addresses")

MAX_MODULES = 10_000
"""drgn does not read more, either."""
_MAX_ATTRIBUTES = 4096
"""Sections, or notes, of a module; with -ffunction-sections there may be a thousand."""
_MAX_NAME_BYTES = 1024
"""Length of the name of a section, with its NUL. KSYM_NAME_LEN is 512, and with -ffunction-sections a name is a little longer."""
_MAX_NOTE_BYTES = 1 << 20

_NOT_CREATED = (*UNUSABLE, MemoryError, OSError)
"""What drgn raises for a damaged module (also if a size is too large to allocate), and, on the
running kernel, for a module that is being unloaded."""

_CACHE_KEY = cache_key(__name__)


def set_image_addresses(prog: Program) -> None:
    """Create drgn's main module, the kernel image, and set its addresses if drgn does not know them.

    They are the virtual addresses ``_text`` to ``_end`` of kallsyms. This reads very little memory.
    """
    start, end = symbol_address(prog, "_text"), symbol_address(prog, "_end")
    if start is None or end is None or start >= end:
        return
    with suppress(*_NOT_CREATED):
        # The first module is the image. Only for the next one does drgn read the kernel's list.
        image, _ = next(prog.loaded_modules())
        if image.address_ranges is None:
            image.address_ranges = [(start, end)]


def create_modules(prog: Program) -> None:
    """Create drgn's modules: the kernel image, and every loaded module. This is done once for a program.

    drgn reads the names and addresses of all sections of a module, which takes 2 ms.
    """
    if _CACHE_KEY in prog.cache:
        return
    prog.cache[_CACHE_KEY] = True
    set_image_addresses(prog)
    # Without CONFIG_MODULES there is no list. A damaged list ends early.
    with suppress(*UNUSABLE):
        for module in islice(listed_modules(prog["modules"]), MAX_MODULES):
            with suppress(*_NOT_CREATED):
                if _has_bounded_attributes(module):
                    prog.linux_kernel_loadable_module(module, create=True)


def _has_bounded_attributes(module: Object) -> bool:
    # drgn reads as many sections and notes as the dump says, or up to a NULL; names up to their NUL,
    # a byte at a time; and notes of any size.
    sections, notes = module.sect_attrs, module.notes_attrs
    return (
        _is_bounded(sections, "nsections")
        and _is_bounded(notes, "notes")
        and all(_has_an_end(_name_of(section)) for section in _attributes(sections, "nsections"))
        and all(note.size.value_() <= _MAX_NOTE_BYTES for note in _attributes(notes, "notes"))
    )


def _attributes(attributes: Object, count: str) -> Iterator[Object]:
    """Return the attributes; :func:`_is_bounded` has checked that there are not too many."""
    if attributes.type_.type.has_member(count):
        yield from (attributes.attrs[i] for i in range(attributes.member_(count).value_()))
        return
    pointers = attributes.grp.bin_attrs
    yield from takewhile(bool, (pointers[i] for i in range(_MAX_ATTRIBUTES)))


def _name_of(section: Object) -> Object:
    # Since Linux kernel commit ed66f991bb19 ("module: Refactor section attr into bin attribute") (in v5.8), the name
    # is in a struct bin_attribute. Since v6.14, a section is only that struct, and is reached by a pointer.
    if section.type_.kind is TypeKind.POINTER:
        return section.attr.name
    if section.type_.has_member("battr"):
        return section.battr.attr.name
    return section.name


def _has_an_end(name: Object) -> bool:
    return b"\0" in read_up_to(name.prog_, name.value_(), _MAX_NAME_BYTES)


def _is_bounded(attributes: Object, count: str) -> bool:
    if attributes.type_.type.has_member(count):
        return bool(attributes.member_(count).value_() <= _MAX_ATTRIBUTES)
    # Since Linux kernel commits d8959b947a8d ("module: sysfs: Drop member
    # 'module_sect_attrs::nsections'") and 4723f16de64e ("module: sysfs: Add notes attributes
    # through attribute_group") (in v6.14), a NULL ends the array.
    prog = attributes.prog_
    word = prog.address_size()
    pointers = read_up_to(prog, attributes.grp.bin_attrs.value_(), word * (_MAX_ATTRIBUTES + 1))
    null = bytes(word)
    return any(pointers[at : at + word] == null for at in range(0, len(pointers), word))
