# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are no dump that can be read: each is named by what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from drgn_tools import InputError, open_program
from drgn_tools.program.kdump import KDUMP_MAGICS
from drgn_tools.program.other_formats import SIGNATURES, Signature

from ..support.elf_writer import elf_file, with_sections


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_program(core=path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 400
    return message[len(f"{path}: ") :]


def page_ending_in(signature: bytes) -> bytes:
    """The first page of a swap area: struct swsusp_header has its signature in the last 10 bytes."""
    return bytes(4086) + signature.ljust(10, b"\0")


def tar(contents: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("vmcore")
        member.size = len(contents)
        archive.addfile(member, io.BytesIO(contents))
    return made.getvalue()


def zipped(contents: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("vmcore", contents)
    return made.getvalue()


FILES = {
    "vmss": (b"\xd2\xbe\xd2\xbe\x08\0\0\0", "VMware guest", "vmss2core"),
    "old-vmss": (b"\xd0\xbe\xd0\xbe\x08\0\0\0", "VMware guest", "vmss2core"),
    "lime": (b"EMiL\1\0\0\0", "LiME", "convert it to ELF or kdump"),
    "avml": (b"AVML\2\0\0\0", "AVML", "convert it to ELF or kdump"),
    "lkcd": (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "LKCD", "convert it"),
    "lkcd-big-endian": (b"\xa8\x19\x01\x73\x61\x8f\x23\xed", "LKCD", "convert it"),
    "s390": (b"\xa8\x19\x01\x73\x61\x8f\x23\xfd", "s390", "not supported"),
    "sadump": (b"sadump\0\0", "sadump", "makedumpfile -x VMLINUX"),
    "sadump-media": (bytes(4096) + b"sadump\0\0", "sadump", "makedumpfile -x VMLINUX"),
    "diskdump": (b"DISKDUMP", "diskdump", "convert it"),
    "windows-32": (b"PAGEDUMP", "Windows", "not of a Linux kernel"),
    "windows-64": (b"PAGEDU64", "Windows", "not of a Linux kernel"),
    "libvirt": (b"LibvirtQEMUSave\0", "QEMU guest", "virsh dump --memory-only"),
    "savevm": (b"QEVM\0\0\0\3", "QEMU guest", "virsh dump --memory-only"),
    "virtualbox": (b"\x7fVirtualBox SavedState V2.0\n", "VirtualBox", "dumpvmcore"),
    "old-libvirt": (b"LibvirtQemudSave\1\0\0\0", "QEMU guest", "virsh dump --memory-only"),
    "xend-save": (b"LinuxGuestRecord\0\0\x0f\xa2(vm (name", "Xen guest", "convert it"),
    "xenserver-save": (b"XenSavedDomv2-\n", "Xen guest", "convert it"),
    "old-xenserver-save": (b"XenSavedDomain\n", "Xen guest", "convert it"),
    "libvirt-xen-save": (b"libvirt-xml\n \0 \r\2\0\0\0", "Xen guest", "convert it"),
    "xm-dump-core": (b"\xed\xeb\x0f\xf0\1\0\0\0", "Xen guest", "kdump inside it"),
    "xl-save": (b"Xen saved domain, xl format\n \0 \r", "Xen guest", "convert it"),
    "qcow2": (b"QFI\xfb\0\0\0\3", "disk image (qcow2)", "virsh dump --memory-only"),
    "vmdk": (b"KDMV\1\0\0\0", "disk image (VMDK)", "not a dump"),
    "vdi": (b"<<< QEMU VM Virtual Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe", "VDI", ""),
    "vhdx": (b"vhdxfile", "disk image (VHDX)", "not a dump"),
    "hibernation": (page_ending_in(b"S1SUSPEND"), "hibernation image", "not a dump"),
    "swap": (page_ending_in(b"SWAPSPACE2"), "swap area", "not a dump"),
    "bzimage": (b"MZ".ljust(514, b"\0") + b"HdrS", "bzImage", "not a dump"),
    "boot-sector": (bytes(510) + b"\x55\xaa", "boot sector", "not a dump"),
    "lz4": (b"\x04\x22\x4d\x18", "packed with lz4", "lz4 -d"),
    "lzop": (b"\x89LZO\0\r\n\x1a\n", "packed with lzop", "lzop -dc"),
    "bzip2": (bz2.compress(bytes(9999)), "packed with bzip2", "bunzip2"),
    "zip": (zipped(bytes(9999)), "zip archive", "unzip"),
    "tar": (tar(bytes(9999)), "tar archive", "tar -xf"),
    "tar.gz": (gzip.compress(tar(bytes(9999))), "tar archive", "tar -xf"),
    "twice-packed": (gzip.compress(lzma.compress(bytes(9999))), "packed twice", "with gzip -dc FILE"),
    "zip.xz": (lzma.compress(zipped(bytes(9999))), "the file packed in it is a zip archive", "unzip"),
    "text": (b"[    0.000000] Linux version 6.12.0\n" * 99, "is text", "not a dump"),
    "zeros": (bytes(100_000), "begins with 4104 zeros", "convert it to an ELF core first"),
    "noise": (random.Random(3).randbytes(9999), "neither ELF nor kdump", "convert it to an ELF core first"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_it_is_named_and_what_to_do(kind: str, tmp_path: Path) -> None:
    contents, name, remedy = FILES[kind]
    path = tmp_path / kind
    padding = b"" if kind in ("tar.gz", "twice-packed", "zip.xz", "text") else bytes(10_000)
    path.write_bytes(contents + padding)
    message = refusal(path)
    assert name in message
    assert remedy in message


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda s: f"{s.at}-{s.magic!r}")
def test_a_file_that_ends_with_its_signature(signature: Signature, tmp_path: Path) -> None:
    at, magic, says = signature.at, signature.magic, signature.says
    assert not magic.startswith(KDUMP_MAGICS)
    path = tmp_path / "vmcore"
    path.write_bytes(bytes(at) + magic)
    assert refusal(path) == says
    path.write_bytes((bytes(at) + magic)[:-1])
    assert refusal(path) != says


MACHINES = {8: "mips", 20: "ppc", 21: "ppc64", 22: "s390", 243: "riscv", 258: "loongarch", 777: "ELF machine 777"}  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("machine", MACHINES)
def test_other_machines_even_if_the_file_is_only_a_header(
    machine: int, bits: int, order: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(elf_file(4, machine, [], bits, order))
    expected = f"is a core dump of {MACHINES[machine]}; only x86_64, i386 and aarch64 are supported"
    assert refusal(path) == expected


@pytest.mark.parametrize(("bits", "machine"), [(32, 3), (64, 3), (64, 62)])
def test_a_core_without_memory(bits: int, machine: int, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(elf_file(4, machine, [], bits))
    assert refusal(path) == "has no memory in it: none of its 0 segments is PT_LOAD"


def test_a_xen_guest(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(with_sections(elf_file(4, 62, []), [".note.Xen", ".xen_pages"]))
    assert refusal(path).startswith("is a dump of a Xen guest by xl dump-core")


@pytest.mark.parametrize(
    ("type_", "what"), [(1, "object file"), (2, "executable"), (3, "executable or library")]
)
def test_a_module_and_a_vmlinux(type_: int, what: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_file(type_, 62, []))
    assert refusal(path) == f"is an ELF {what}, not a core dump; use -s for symbols"
