# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO: a note with facts about the kernel that tools need to read its dump.

It consists of lines ``KEY=VALUE``, written by kernel/vmcore_info.c (kernel/crash_core.c
before v6.9) and arch_crash_save_vmcoreinfo().
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional

from ..cache_key import cache_key

if TYPE_CHECKING:
    from drgn import Program  # core_file.py reads files without it

__all__ = (
    "build_id",
    "keep_vmcoreinfo",
    "kernel_offset",
    "number_among",
    "symbol_among",
    "vmcoreinfo",
    "vmcoreinfo_lines",
    "vmcoreinfo_symbol",
)

_CACHE_KEY = cache_key(__name__)
_MAX_VALUE_CHARS = 4096  # the whole note is one page, VMCOREINFO_BYTES


def vmcoreinfo(prog: Program) -> Mapping[str, str]:
    """Return the ``KEY=VALUE`` lines of VMCOREINFO; if a key is repeated, the last one counts.

    The result is kept in ``prog.cache``. Bytes that are not ASCII are shown as ``\\xNN``.

    :raises KeyError: if the program is not a Linux kernel (drgn's ObjectNotFoundError)
    """
    try:
        lines: Mapping[str, str] = prog.cache[_CACHE_KEY]
    except KeyError:
        lines = prog.cache[_CACHE_KEY] = vmcoreinfo_lines(prog["VMCOREINFO"].string_())
    return lines


def keep_vmcoreinfo(prog: Program, text: bytes) -> None:
    """Make :func:`vmcoreinfo` return the lines of this text.

    That function then needs no type of the program: drgn fixes the type ``char`` when it first makes a string.

    :param text: What the note holds
    """
    prog.cache[_CACHE_KEY] = vmcoreinfo_lines(text)


def vmcoreinfo_lines(text: bytes) -> Mapping[str, str]:
    """Return the ``KEY=VALUE`` lines of VMCOREINFO, as :func:`vmcoreinfo` does.

    :param text: What the note holds
    """
    lines = text.split(b"\0", 1)[0].decode("ascii", "backslashreplace").split("\n")
    pairs = (line.partition("=") for line in lines)
    return {key: value[:_MAX_VALUE_CHARS] for key, equals, value in pairs if equals}


def vmcoreinfo_symbol(prog: Program, name: str) -> Optional[int]:
    """Return the address of ``SYMBOL(name)``: virtual, including the offset of KASLR.

    :return: ``None`` if VMCOREINFO does not have it, or its value is not a number
    :raises KeyError: if the program is not a Linux kernel (drgn's ObjectNotFoundError)
    """
    return symbol_among(vmcoreinfo(prog), name)


def symbol_among(lines: Mapping[str, str], name: str) -> Optional[int]:
    """Return the same as :func:`vmcoreinfo_symbol`.

    :param lines: From :func:`vmcoreinfo_lines`
    """
    value = lines.get(f"SYMBOL({name})", "")
    return int(value, 16) if re.fullmatch("[0-9a-fA-F]{1,16}", value) else None


def kernel_offset(lines: Mapping[str, str]) -> int:
    """Return KERNELOFFSET, the distance by which KASLR moved the kernel image; 0 if VMCOREINFO does not say.

    :param lines: From :func:`vmcoreinfo_lines`
    """
    value = lines.get("KERNELOFFSET", "")
    return int(value, 16) if re.fullmatch("[0-9a-fA-F]{1,16}", value) else 0


def number_among(lines: Mapping[str, str], name: str) -> Optional[int]:
    """Return ``NUMBER(name)``; ``None`` if VMCOREINFO does not have it, or its value is not a number.

    :param lines: From :func:`vmcoreinfo_lines`
    """
    value = lines.get(f"NUMBER({name})", "")
    if re.fullmatch("0x[0-9a-fA-F]{1,16}", value):
        return int(value, 16)
    return int(value) if re.fullmatch("-?[0-9]{1,20}", value) else None


def build_id(prog: Program) -> Optional[str]:
    """Return the GNU build ID of the kernel in hex; ``None`` if VMCOREINFO has none (before v5.9).

    :raises KeyError: if the program is not a Linux kernel (drgn's ObjectNotFoundError)
    """
    value = vmcoreinfo(prog).get("BUILD-ID", "").lower()
    return value if re.fullmatch("[0-9a-f]{8,128}", value) else None
