# SPDX-License-Identifier: LGPL-2.1-or-later
"""Name the format of files that cannot be read as a dump, and say how to convert them into one that can."""

from __future__ import annotations

from typing import BinaryIO

import msgspec

from .read_at import read_at

__all__ = ("SIGNATURES", "Signature", "name_format")

_START_BYTES = 4096 + 8
_TEXT_BYTES = 512
_TEXT = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\n\r\f\x1b")

_CONVERT = "convert it to ELF or kdump"
_DUMP_GUEST = "dump the guest's memory with virsh dump --memory-only"
_GUEST = f"is the saved state of a QEMU guest, not a dump of its memory; {_DUMP_GUEST}"
_XEN = f"is the saved state of a Xen guest, not a dump of its memory; {_CONVERT}"
_OLD_XEN_DUMP = (
    "is a dump of a Xen guest by xm dump-core of Xen 3.0, which drgn does not read; "
    "dump the guest with kdump inside it"
)
_VMWARE = (
    "is the saved state of a VMware guest (vmss, vmsn); convert it to an ELF core with vmss2core"
)
_LKCD = f"is an LKCD dump, which drgn does not read; {_CONVERT}"
_SADUMP = "is an sadump dump; convert it to kdump with makedumpfile -x VMLINUX FILE NEWFILE"
_HIBERNATION = "is a swap area with a hibernation image in it, not a dump of memory"
_SWAP = "is a swap area, not a dump of memory"
_WINDOWS = "is a dump of Windows, not of a Linux kernel"
_DISK = "is a disk image ({}), not a dump of memory"
_RAW = "if it is a raw image of memory, convert it to an ELF core first"
_SHOWN_CHARS = 40


class Signature(msgspec.Struct, frozen=True):
    """Bytes that identify a format."""

    at: int
    """Where in the file they are."""
    magic: bytes
    says: str
    """What the file is, and what to do."""


def _disk(name: str) -> str:
    return _DISK.format(name)


def _packed(name: str, command: str) -> str:
    return f"is packed with {name}; unpack it with {command}"


SIGNATURES = tuple(
    Signature(*fields)
    for fields in (
        (0, b"LibvirtQEMU", _GUEST),
        (0, b"LibvirtQemudSave", _GUEST),
        (0, b"QEVM", _GUEST),
        # vmware_vmss.h of crash has the first four bytes as numbers.
        (0, b"\xd0\xbe\xd0\xbe", _VMWARE),
        (0, b"\xd2\xbe\xd2\xbe", _VMWARE),
        (0, b"\xd3\xbe\xd3\xbe", _VMWARE),
        (0, b"\xd1\xba\xd1\xba", _VMWARE),
        (0, b"\xd2\xba\xd2\xba", _VMWARE),
        (
            0,
            b"\x7fVirtualBox SavedState",
            "is the saved state of a VirtualBox guest, not a dump of its memory; "
            "dump the guest with VBoxManage debugvm VM dumpvmcore --filename=FILE",
        ),
        # From xl, xend (SIGNATURE in its XendCheckpoint.py), XenServer (save_signature in xenopsd,
        # followed by one of several versions), and libvirt (LIBXL_SAVE_MAGIC).
        (0, b"Xen saved domain, xl format", _XEN),
        (0, b"LinuxGuestRecord", _XEN),
        (0, b"XenSavedDom", _XEN),
        (0, b"libvirt-xml\n \0 \r", _XEN),
        # XC_CORE_MAGIC of a paravirtualized guest, and XC_CORE_MAGIC_HVM; later ones are ELF.
        (0, b"\xed\xeb\x0f\xf0", _OLD_XEN_DUMP),
        (0, b"\xee\xeb\x0f\xf0", _OLD_XEN_DUMP),
        # lkcd_probe() in lkcd.c of libkdumpfile, v0.5.4; the third is a dump of a running system.
        (0, b"\xed\x23\x8f\x61\x73\x01\x19\xa8", _LKCD),
        (0, b"\xa8\x19\x01\x73\x61\x8f\x23\xed", _LKCD),
        (0, b"\xcd\x23\x8f\x61\x73\x01\x19\xa8", _LKCD),
        (
            0,
            b"\xa8\x19\x01\x73\x61\x8f\x23\xfd",
            "is a stand-alone dump of s390, a machine that is not supported",
        ),
        # At the start for one partition or a set of disks; after one block for a medium.
        (0, b"sadump\0\0", _SADUMP),
        (4096, b"sadump\0\0", _SADUMP),
        (0, b"DISKDUMP", f"is a dump by diskdump, the forerunner of kdump; {_CONVERT}"),
        (0, b"EMiL\1\0\0\0", f"is an image of memory by LiME; {_CONVERT}"),
        (
            0,
            b"AVML\2\0\0\0",
            f"is an image of memory by AVML (LiME, packed with snappy); {_CONVERT}",
        ),
        (0, b"PAGEDUMP", _WINDOWS),
        (0, b"PAGEDU64", _WINDOWS),
        (0, b"MDMP", "is a minidump of a userspace process, not of a Linux kernel"),
        (0, b"minidump FreeBSD", "is a dump of FreeBSD, not of a Linux kernel"),
        (0, b"\x04\x22\x4d\x18", _packed("lz4", "lz4 -d FILE NEWFILE")),
        (0, b"\x02\x21\x4c\x18", _packed("lz4", "lz4 -d FILE NEWFILE")),
        (0, b"BZh", _packed("bzip2", "bunzip2 -k FILE")),
        (0, b"\x89LZO\0\r\n\x1a\n", _packed("lzop", "lzop -dc FILE > NEWFILE")),
        (0, b"LZIP\1", _packed("lzip", "lzip -dk FILE")),
        (0, b"\x1f\x9d", _packed("compress", "gzip -dc FILE > NEWFILE")),
        (0, b"\xff\6\0\0sNaPpY", _packed("snappy", "snzip -dc FILE > NEWFILE")),
        (0, b"7z\xbc\xaf\x27\x1c", "is an archive of 7-Zip; unpack it with 7z x FILE"),
        (0, b"PK\3\4", "is a zip archive; unpack it with unzip FILE"),
        (257, b"ustar", "is a tar archive; unpack it with tar -xf FILE"),
        (0, b"070701", "is a cpio archive (an initramfs?), not a dump of memory"),
        (0, b"\xed\xab\xee\xdb", "is an RPM package, not a dump of memory"),
        (0, b"!<arch>\n", "is an archive of ar (a Debian package?), not a dump of memory"),
        (0, b"QFI\xfb", f"{_disk('qcow2')}; {_DUMP_GUEST}"),
        (0, b"KDMV", _disk("VMDK")),
        (0, b"COWD", _disk("VMDK")),
        (0, b"# Disk DescriptorFile", _disk("VMDK")),
        (0x40, b"\x7f\x10\xda\xbe", _disk("VDI")),
        (0, b"conectix", _disk("VHD")),
        (0, b"vhdxfile", _disk("VHDX")),
        (514, b"HdrS", "is a kernel to boot (bzImage), not a dump of memory"),
        (4086, b"S1SUSPEND", _HIBERNATION),
        (4086, b"S2SUSPEND", _HIBERNATION),
        (4086, b"ULSUSPEND", _HIBERNATION),
        (4086, b"LINHIB0001", _HIBERNATION),
        (4086, b"SWAPSPACE2", _SWAP),
        (4086, b"SWAP-SPACE", _SWAP),
        (0, b"MZ", "is a program of Windows or EFI (a kernel to boot?), not a dump of memory"),
        (510, b"\x55\xaa", "is an image of a disk (it has a boot sector), not a dump of memory"),
    )
)


def name_format(file: BinaryIO) -> str:
    """Return in words what a file is that is neither ELF nor kdump, and what to do."""
    start = read_at(file, 0, _START_BYTES)
    for signature in SIGNATURES:
        if start.startswith(signature.magic, signature.at):
            return signature.says
    if set(start[:_TEXT_BYTES]) <= _TEXT:
        line = start[:_TEXT_BYTES].decode("ascii").strip().partition("\n")[0]
        return f"is text, not a dump of memory; it begins with {line[:_SHOWN_CHARS]!r}"
    if not start.strip(b"\0"):
        return f"begins with {len(start)} zeros, not with the header of ELF or kdump; {_RAW}"
    return f"has an unknown format, neither ELF nor kdump; {_RAW}"
