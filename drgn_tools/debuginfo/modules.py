# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loaded modules: the kernel's list of them, their names, and the addresses of their memory.

This is not in the layer above, because drgn's symbol finder needs it, not only kernel text.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Object

from ..memory import list_entries
from .symbol_names import MAX_NAME_BYTES

__all__ = ("listed_modules", "module_memory", "module_name")

_TEXT_KINDS = ("MOD_TEXT", "MOD_INIT_TEXT")
"""Kinds of executable memory in ``enum mod_mem_type`` (linux/module.h, v6.4 and later)."""


def listed_modules(head: Object) -> Iterator[Object]:
    """Return every module of the kernel's list, unformed ones included.

    :param head: ``struct list_head modules`` of kernel/module/main.c
    :return: ``struct module *`` each; the struct itself may not be in the dump
    :raises ValueError: if the list is a loop
    :raises UNUSABLE: if the list leads out of the dump
    """
    return list_entries(head, "struct module", "list")


def module_name(module: Object) -> str:
    """Return the name of a module; bytes that are not ASCII are shown as ``\\xNN``.

    :param module: ``struct module *``
    :raises UNUSABLE: if the module is not in the dump, or its type is damaged
    """
    name: bytes = module.name.string_()[:MAX_NAME_BYTES]
    return name.decode("ascii", "backslashreplace")


def module_memory(module: Object, text_only: bool = False) -> Iterator[tuple[int, int]]:
    """Return [start, end) of each piece of a module's memory, virtual addresses.

    A piece may be empty: init memory is freed when the module has been loaded.

    :param module: ``struct module *``
    :param text_only: only executable memory, as in is_module_text_address() of
        kernel/module/main.c (v6.12)
    :raises UNUSABLE: if a piece is not in the dump, or the types are damaged
    """
    type_ = module.type_.type
    size = "text_size" if text_only else "size"
    if type_.has_member("mem"):
        # Since Linux kernel commit ac3b43283923 ("module: replace module_layout
        # with module_memory") (in v6.4), memory of a module is an array by kind.
        prog = module.prog_
        kinds = (
            (prog[kind].value_() for kind in _TEXT_KINDS)
            if text_only
            else iter(range(len(module.mem)))
        )
        pieces = ((module.mem[kind].base, module.mem[kind].size) for kind in kinds)
    elif type_.has_member("core_layout"):
        # Since Linux kernel commit 7523e4dc5057 ("module: use a structure to
        # encapsulate layout.") (in v4.5); before that plain members.
        layouts = (module.core_layout, module.init_layout)
        pieces = ((layout.base, layout.member_(size)) for layout in layouts)
    else:
        pieces = (
            (module.member_(f"module_{part}"), module.member_(f"{part}_{size}"))
            for part in ("core", "init")
        )
    for base, size_bytes in pieces:
        start = base.value_()
        yield start, start + size_bytes.value_()
