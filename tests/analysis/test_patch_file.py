# SPDX-License-Identifier: LGPL-2.1-or-later
"""Module files of live patches: each form, what is no live patch, and what is damaged."""

from __future__ import annotations

import gzip
import lzma
import os
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Callable

import pytest
from drgn import Program

from drgn_tools.analysis import patch_file
from drgn_tools.analysis.patch_file import read_patch_file
from drgn_tools.analysis.planned_patch import PlannedFunction, PlannedPatch, parse_function
from drgn_tools.errors import InputError, UsageError

from ..support.drawn_livepatch import DrawnPatches
from ..support.elf_object_writer import (
    R_X86_64_32S,
    R_X86_64_64,
    R_X86_64_PC32,
    ElfObjectWriter,
)
from ..support.elf_writer import elf_file
from ..support.patch_files import MODINFO, begin, by_hand, call_of_enable, klp_build, kpatch_build

VFS_READ = PlannedFunction("vfs_read")
SAME = PlannedFunction("same", None, 2)
EXT4_READ = PlannedFunction("ext4_read", "ext4")
EXT4_WRITE = PlannedFunction("ext4_write", "ext4", 1)
IN_ORDER = (VFS_READ, SAME, EXT4_READ, EXT4_WRITE)


@pytest.fixture(scope="module")
def prog() -> Program:
    return DrawnPatches().kernel.prog


Read = Callable[[object], PlannedPatch]


@pytest.fixture
def read(prog: Program, tmp_path: Path) -> Read:
    def read(what: object) -> PlannedPatch:
        path = tmp_path / "a-fix.ko"
        path.write_bytes(what.bytes() if isinstance(what, ElfObjectWriter) else what)
        return read_patch_file(prog, str(path))

    return read


def refuses(read: Read, what: object, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(what)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert "a-fix.ko: " in message


# ---- the three forms


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("argument_type", [R_X86_64_32S, R_X86_64_64, R_X86_64_PC32])
def test_by_hand(read: Read, replace: bool, argument_type: int) -> None:
    found = read(by_hand(replace=replace, argument_type=argument_type))
    assert found == PlannedPatch("fix", IN_ORDER, replace, MODINFO["vermagic"])


def test_klp_build(read: Read) -> None:
    assert read(klp_build()) == PlannedPatch("fix", IN_ORDER, True, MODINFO["vermagic"])


@pytest.mark.parametrize("has_more", [False, True])
def test_kpatch_build(read: Read, has_more: bool) -> None:
    # The hook puts objects and functions at the head of its lists.
    found = read(kpatch_build(has_more=has_more))
    assert found == PlannedPatch("fix", IN_ORDER[::-1], True, MODINFO["vermagic"])


def test_kpatch_build_before_it_had_sympos(read: Read) -> None:
    assert read(kpatch_build(has_sympos=False)).functions == (
        PlannedFunction("ext4_write", "ext4"),
        PlannedFunction("ext4_read", "ext4"),
        PlannedFunction("same"),
        PlannedFunction("vfs_read"),
    )


def test_vmlinux_spelled_out_is_the_image(read: Read) -> None:
    (found,) = read(by_hand([("vmlinux", [("vfs_read", 0)])])).functions
    assert found == VFS_READ


def test_the_last_address_before_the_call_is_the_argument(read: Read) -> None:
    elf = by_hand(calls=False)
    data = elf.names.index(".data")
    call_of_enable(elf, (data, 24), R_X86_64_32S)
    assert read(elf).functions == IN_ORDER


def test_a_call_of_another_function_does_not_count(read: Read) -> None:
    refuses(read, by_hand(calls=False), "its call of klp_enable_patch() cannot be found")


def test_without_a_name_the_file_has_one(read: Read) -> None:
    elf = by_hand(elf=begin({"livepatch": "Y"}))
    found = read(elf)
    assert (found.name, found.vermagic) == ("a-fix", "")


@pytest.mark.parametrize("section", ["__versions", "__version_ext_crcs"])
def test_the_kernel_it_was_built_for_and_whether_it_has_crcs(read: Read, section: str) -> None:
    # check_modinfo() in kernel/module/main.c, same_magic() with has_crcs.
    elf = begin()
    elf.section(section, bytes(64))
    found = read(by_hand(elf=elf))
    assert (found.vermagic, found.has_crcs) == (MODINFO["vermagic"], True)
    found = read(by_hand(elf=begin()))
    assert (found.vermagic, found.has_crcs) == (MODINFO["vermagic"], False)


def test_the_blank_that_ends_vermagic_stays(read: Read) -> None:
    vermagic = "6.12.0 SMP preempt mod_unload modversions "
    assert read(by_hand(elf=begin({**MODINFO, "vermagic": vermagic}))).vermagic == vermagic


def test_what_the_new_code_refers_to_is_not_what_it_replaces(read: Read) -> None:
    elf = by_hand()
    elf.section(".klp.rela.ext4..text", bytes(48), flags=0x100002)
    elf.symbol(".klp.sym.ext4.ext4_sync,0", 0xFF20)
    assert read(elf).functions == IN_ORDER


# ---- what cannot be read


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (b"", "is empty"),
        (b"\x7fELF", "is not a 64-bit ELF file"),
        (b"#!/bin/sh\n" * 20, "is not a 64-bit ELF file"),
        (elf_file(1, 3, [], bits=32) + bytes(64), "is not a 64-bit ELF file"),
        (elf_file(1, 62, [], order=">") + bytes(64), "is not a 64-bit ELF file"),
        (elf_file(4, 62, [(1, bytes(64))]), "is not a kernel module for x86-64"),
        (elf_file(1, 183, []), "is not a kernel module for x86-64"),
        (elf_file(1, 62, []), "is damaged: section headers of 0 bytes"),
        (gzip.compress(by_hand().bytes()), "is compressed: unpack it first, with gzip -dk "),
        (lzma.compress(by_hand().bytes()), "is compressed: unpack it first, with xz -dk "),
        (b"\x28\xb5\x2f\xfd" + bytes(60), "is compressed: unpack it first, with zstd -dk "),
        (by_hand(elf=begin({"name": "fix"})), "its .modinfo lacks livepatch=Y"),
        (by_hand(elf=begin({**MODINFO, "livepatch": "N"})), "its .modinfo lacks livepatch=Y"),
        (by_hand(elf=ElfObjectWriter()), "its .modinfo lacks livepatch=Y"),
        (by_hand([]), "replaces no function"),
        (by_hand([("ext4", [])]), "replaces no function"),
        (klp_build([]), "replaces no function"),
        (by_hand(fills_in_at_run_time=True), "sets its functions at run time"),
        (kpatch_build([]), ".kpatch.funcs has an unknown form"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(read: Read, what: object, says: str) -> None:
    refuses(read, what, says)


def test_what_is_no_file(prog: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.ko: no such file"):
        read_patch_file(prog, str(tmp_path / "missing.ko"))
    with pytest.raises(InputError, match="is a directory, not a file; give a file in it"):
        read_patch_file(prog, str(tmp_path))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # opening it would wait for somebody to write
    with pytest.raises(InputError, match="is a pipe, not a file"):
        read_patch_file(prog, str(fifo))


def test_a_patch_in_bss_is_filled_in_at_run_time(read: Read) -> None:
    elf = begin()
    call_of_enable(elf, (elf.no_bits(".bss", 256), 0), R_X86_64_32S)
    refuses(read, elf, "sets its functions at run time")


def without_its(elf: ElfObjectWriter, section: str) -> ElfObjectWriter:
    del elf._relocations[elf.names.index(section)]
    return elf


def relabelled(elf: ElfObjectWriter, name: str, to: str) -> ElfObjectWriter:
    elf.names[elf.names.index(name)] = to
    return elf


def with_number(elf: ElfObjectWriter, section: str, at: int, number: int) -> ElfObjectWriter:
    struct.pack_into("<I", elf.contents[elf.names.index(section)], at, number)
    return elf


def longer(elf: ElfObjectWriter, section: str) -> ElfObjectWriter:
    elf.append(elf.names.index(section), bytes(3))
    return elf


def kpatch_without_room() -> ElfObjectWriter:
    """Records that have relocations, but no bytes."""
    elf = kpatch_build([(None, [("vfs_read", 0)])])
    elf.contents[elf.names.index(".kpatch.funcs")].clear()
    return elf


def kpatch_with_short_records() -> ElfObjectWriter:
    elf = kpatch_build()
    del elf.contents[elf.names.index(".kpatch.funcs")][4 * 40 :]
    return elf


@pytest.mark.parametrize(
    ("elf", "says"),
    [
        (without_its(klp_build(), ".init.klp_funcs"), "a function without a name"),
        (without_its(klp_build(), ".init.klp_objects"), "an object with 2 functions"),
        (relabelled(klp_build(), ".init.klp_objects", ".gone"), "but no .init.klp_objects"),
        (with_number(klp_build(), ".init.klp_objects", 56, 3_000_000), "with 3000000 functions"),
        (with_number(klp_build(), ".init.klp_objects", 120, 3), "a function without a name"),
        (
            longer(klp_build(), ".init.klp_objects"),
            "has 131 bytes, which is not a valid number of records of 64 bytes",
        ),
        (without_its(kpatch_build(), ".kpatch.funcs"), ".kpatch.funcs has an unknown form"),
        (longer(kpatch_build(), ".kpatch.funcs"), ".kpatch.funcs has an unknown form"),
        (kpatch_without_room(), ".kpatch.funcs has an unknown form"),
        (kpatch_with_short_records(), ".kpatch.funcs has an unknown form"),
        (without_its(by_hand(), ".data"), "sets its functions at run time"),
        (without_its(by_hand(), ".init.text"), "its call of klp_enable_patch()"),
    ],
)
def test_a_damaged_list_of_functions(read: Read, elf: ElfObjectWriter, says: str) -> None:
    refuses(read, elf, says)


def test_a_name_that_is_defined_elsewhere(read: Read) -> None:
    elf = klp_build([])
    objs, funcs = (elf.names.index(f".init.klp_{name}") for name in ("objects", "funcs"))
    struct.pack_into("<I", elf.contents[objs], elf.append(objs, bytes(64)) + 56, 1)
    elf.append(funcs, bytes(24))
    elf.relocation((objs, 8), (funcs, 0))
    elf.relocation((funcs, 0), symbol=elf.symbol("else\nwhere"))
    refuses(read, elf, "a pointer to 'else\\nwhere', which it does not define")


def test_objects_that_share_their_functions_end(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_file, "_MAX_RECORDS", 20)
    elf = klp_build([(None, [(f"f{i}", 0) for i in range(11)])])
    objs, funcs = (elf.names.index(f".init.klp_{name}") for name in ("objects", "funcs"))
    struct.pack_into("<I", elf.contents[objs], elf.append(objs, bytes(64)) + 56, 11)
    elf.relocation((objs, 64 + 8), (funcs, 0))
    refuses(read, elf, "replaces more than 20 functions")


RUNS = 1000


@pytest.mark.parametrize("form", [by_hand, klp_build, kpatch_build])
def test_damaged_bytes_give_a_patch_or_one_line(
    form: Callable[[], ElfObjectWriter], read: Read
) -> None:
    whole = form().bytes()
    dice = random.Random(form.__name__)
    outcomes: Counter[str] = Counter()
    for _ in range(RUNS // 3):
        data = bytearray(whole)
        if dice.random() < 0.2:
            del data[dice.randrange(len(data)) :]
        for _ in range(dice.choice((0, 1, 1, 2, 8, 64)) if data else 0):
            at = dice.randrange(len(data))
            word = dice.choice(
                (
                    bytes([dice.randrange(256)]),
                    dice.randbytes(8),
                    bytes(8),
                    b"\xff" * 8,
                    struct.pack("<Q", dice.randrange(len(whole))),
                )
            )
            data[at : at + len(word)] = word
        try:
            found = read(bytes(data))
            outcomes["whole" if found.functions in (IN_ORDER, IN_ORDER[::-1]) else "other"] += 1
        except InputError as e:
            outcomes["refused"] += 1
            assert str(e).count("\n") == 0
            assert "a-fix.ko: " in str(e)
    print(f"\n{RUNS // 3} files: {dict(outcomes)}")
    assert min(outcomes["whole"], outcomes["refused"]) > RUNS // 30


# ---- functions by name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vfs_read", VFS_READ),
        ("vmlinux:vfs_read", VFS_READ),
        ("same,2", SAME),
        ("ext4:ext4_write,1", EXT4_WRITE),
        ("snd-hda-core:f", PlannedFunction("f", "snd_hda_core")),
        ("f.isra.0", PlannedFunction("f.isra.0")),
        ("f$g", PlannedFunction("f$g")),
        ("f,10", PlannedFunction("f", None, 10)),
    ],
)
def test_a_function_by_name(text: str, expected: PlannedFunction) -> None:
    assert parse_function(text) == expected
    assert parse_function(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a:", ":f", "f,", "f,x", "f,-1", "f,1,2", "a:b:c", "f g", "f,1234567890", "f\n"),
        # Positions count from 1, and none of these can be the name of a symbol.
        *("f,0", "f,01", "f+0x5", "f+0x5/0x10", "vfs_*", "f?", "0xffffffff81000000", "1f", "f()"),
        *("fs/f", "ext4/x:f", "ext*:f", "f-g", "\u00e4", "f,\u0663"),
    ],
)
def test_a_malformed_name_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"a function is given as \[MODULE:\]NAME\[,POS\]"):
        parse_function(text)
