# SPDX-License-Identifier: LGPL-2.1-or-later
"""Module files of live patches in each of the three forms, written byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Optional

from .elf_object_writer import (
    R_X86_64_32S,
    R_X86_64_64,
    R_X86_64_PC32,
    R_X86_64_PLT32,
    ElfObjectWriter,
)

Objects = Sequence[tuple[Optional[str], Sequence[tuple[str, int]]]]
"""Each object of a patch: name of the module, ``None`` for the image, and (function, sympos)."""

OBJECTS: Objects = (
    (None, [("vfs_read", 0), ("same", 2)]),
    ("ext4", [("ext4_read", 0), ("ext4_write", 1)]),
)

MODINFO = {"name": "fix", "livepatch": "Y", "vermagic": "6.12.0 SMP preempt mod_unload"}

# Of tests/support/drawn_livepatch.py, as a C compiler lays them out.
_FUNC_BYTES, _OBJECT_BYTES, _PATCH_BYTES = 152, 168, 152
_REPLACE_AT = 24


def begin(modinfo: Optional[dict[str, str]] = None, has_crcs: bool = False) -> ElfObjectWriter:
    """Begin a file with .modinfo; it does not have the call of klp_enable_patch() yet."""
    elf = ElfObjectWriter()
    text = b"".join(
        f"{name}={value}\0".encode()
        for name, value in (MODINFO if modinfo is None else modinfo).items()
    )
    elf.section(".modinfo", text)
    if has_crcs:
        elf.section("__versions", bytes(64))
    return elf


def by_hand(
    objects: Objects = OBJECTS,
    replace: bool = False,
    fills_in_at_run_time: bool = False,
    calls: bool = True,
    argument_type: int = R_X86_64_32S,
    elf: Optional[ElfObjectWriter] = None,
) -> ElfObjectWriter:
    """Write ``struct klp_patch`` in the data section.

    :param argument_type: Relocation by which the address of the patch is loaded.
    """
    elf = elf or begin()
    strings = elf.section(".rodata.str1.1")
    text = elf.code(".text", 0x400)
    data = elf.section(".data")
    elf.append(data, bytes(24))  # something else comes first
    patch = elf.append(data, bytes(_PATCH_BYTES))
    elf.contents[data][patch + _REPLACE_AT] = replace
    # An array ends with an entry of zeros.
    objs = elf.append(data, bytes(_OBJECT_BYTES * (len(objects) + 1)))
    if not fills_in_at_run_time:
        elf.relocation((data, patch + 8), (data, objs))
    new = 0
    for number, (name, functions) in enumerate(objects):
        obj = objs + number * _OBJECT_BYTES
        funcs = elf.append(data, bytes(_FUNC_BYTES * (len(functions) + 1)))
        if name is not None:
            elf.relocation((data, obj), elf.text(strings, name))
        elf.relocation((data, obj + 8), (data, funcs))
        for at, (function, sympos) in enumerate(functions):
            func = funcs + at * _FUNC_BYTES
            elf.relocation((data, func), elf.text(strings, function))
            elf.relocation((data, func + 8), (text, new))
            struct.pack_into("<Q", elf.contents[data], func + 16, sympos)
            new += 0x20
    if calls:
        call_of_enable(elf, (data, patch), argument_type)
    return elf


def call_of_enable(elf: ElfObjectWriter, patch: tuple[int, int], argument_type: int) -> None:
    """Write code that prints something, and calls klp_enable_patch() with a patch."""
    init = elf.code(".init.text", 0x40)
    message = elf.text(elf.section(".rodata.str1.8"), "<6>hello")
    elf.relocation((init, 0x03), message, type_=R_X86_64_32S)
    elf.relocation((init, 0x08), symbol=elf.symbol("_printk"), type_=R_X86_64_PLT32, addend=-4)
    is_relative = argument_type in (R_X86_64_PC32, R_X86_64_PLT32)
    elf.relocation((init, 0x10), patch, type_=argument_type, addend=-4 if is_relative else 0)
    elf.relocation(
        (init, 0x18), symbol=elf.symbol("klp_enable_patch"), type_=R_X86_64_PLT32, addend=-4
    )


def klp_build(objects: Objects = OBJECTS, elf: Optional[ElfObjectWriter] = None) -> ElfObjectWriter:
    """Write ``.init.klp_objects`` and ``.init.klp_funcs`` (linux/livepatch_external.h, v7.2)."""
    elf = elf or begin()
    strings = elf.section(".rodata.klp.str1.1")
    text = elf.code(".text", 0x400)
    objs, funcs = elf.section(".init.klp_objects"), elf.section(".init.klp_funcs")
    for name, functions in objects:
        obj = elf.append(objs, bytes(64))
        if name is not None:
            elf.relocation((objs, obj), elf.text(strings, name))
        struct.pack_into("<I", elf.contents[objs], obj + 56, len(functions))
        for number, (function, sympos) in enumerate(functions):
            func = elf.append(funcs, struct.pack("<QQQ", 0, 0, sympos))
            if number == 0:
                elf.relocation((objs, obj + 8), (funcs, func))
            elf.relocation((funcs, func), elf.text(strings, function))
            elf.relocation((funcs, func + 8), (text, 0))
    return elf


def kpatch_build(
    objects: Objects = OBJECTS,
    has_sympos: bool = True,
    has_more: bool = False,
    elf: Optional[ElfObjectWriter] = None,
) -> ElfObjectWriter:
    """Write ``.kpatch.funcs`` (kmod/patch/kpatch-patch.h of kpatch).

    :param has_sympos: Whether it has sympos, as since 2016.
    :param has_more: Whether a number follows the pointers.
    """
    elf = elf or begin()
    strings = elf.section(".kpatch.strings")
    text = elf.code(".text", 0x400)
    section = elf.section(".kpatch.funcs")
    name_at = 40 if has_sympos else 32
    for name, functions in objects:
        for function, sympos in functions:
            numbers = [0, 0x40, 0, 0x80, *([sympos] if has_sympos else [])]
            record = elf.append(section, struct.pack(f"<{len(numbers)}Q", *numbers) + bytes(16))
            if has_more:
                elf.append(section, bytes(8))
            elf.relocation((section, record), (text, 0), type_=R_X86_64_64)
            elf.relocation((section, record + name_at), elf.text(strings, function))
            elf.relocation((section, record + name_at + 8), elf.text(strings, name or "vmlinux"))
    return elf
