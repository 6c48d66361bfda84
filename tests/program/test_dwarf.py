# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of the files given with -s is the vmlinux."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from drgn_tools.errors import InputError, TypesError
from drgn_tools.program.dwarf import is_kernel_image
from drgn_tools.program.elf import ET_CORE, ET_DYN, ET_EXEC, ET_REL

from ..support.elf_writer import elf_file


@pytest.mark.parametrize(("type_", "is_image"), [(ET_EXEC, True), (ET_DYN, True), (ET_REL, False)])
def test_everything_but_an_object_file_is_a_kernel_image(
    tmp_path: Path, type_: int, is_image: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(elf_file(type_, 62, []))
    assert is_kernel_image(str(path)) is is_image


def test_file_that_is_not_elf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"MZ" * 64)
    with pytest.raises(TypesError, match=f"^{path}: is not an ELF file; -s takes a vmlinux"):
        is_kernel_image(str(path))


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        (gzip.compress(elf_file(ET_EXEC, 62, []), mtime=0), "is packed with gzip: unpack it"),
        (lzma.compress(elf_file(ET_EXEC, 62, [])), "is packed with xz: unpack it"),
        (elf_file(ET_CORE, 62, []), "is a core dump: use -c for it"),
        (b"KDUMP   " + bytes(999), "is a core dump: use -c for it"),
        (elf_file(ET_EXEC, 62, [(1, b"")])[:100], "is cut short or damaged: its ELF headers"),
        (b"", "is empty"),
        (
            lzma.compress(elf_file(ET_CORE, 62, []) + bytes(1 << 22)),
            "is a core dump packed with xz: use -c for it",
        ),
        (
            gzip.compress(b"KDUMP   " + bytes(1 << 22), mtime=0),
            "is a core dump packed with gzip: use -c for it",
        ),
        (
            gzip.compress(b"makedumpfile\0\0\0\0", mtime=0),
            "is a core dump packed with gzip: use -c for it",
        ),
        (
            gzip.compress(b"text", mtime=0),
            "is packed with gzip, and the file in it is not an ELF file",
        ),
        (lzma.compress(elf_file(ET_REL, 62, [])), "is packed with xz: unpack it"),
        # What cannot be unpacked: nobody knows what is in it.
        (lzma.compress(b"KDUMP   " + bytes(99))[:-20], "is packed with xz: unpack it"),
        (b"\x1f\x8b and so on", "is packed with gzip: unpack it"),
    ],
)
def test_what_else_may_be_given_as_symbols(tmp_path: Path, contents: bytes, what: str) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(contents)
    with pytest.raises(TypesError, match=f"^{path}: {what}.*; -s takes a vmlinux with debug"):
        is_kernel_image(str(path))


def test_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}: is a directory"):
        is_kernel_image(str(tmp_path))
