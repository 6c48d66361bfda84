# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct pt_regs`` of x86-64 and x86-32: where each register lies, and ``user_mode()``."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from drgn import Program, sizeof

__all__ = ("X86_32", "X86_64", "PtRegsLayout", "Registers", "probe_pt_regs")

_NAMES_64 = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax",
    "cx", "dx", "si", "di", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_NAMES_32 = (
    "bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip

_SEGMENTS = frozenset(("cs", "ss", "ds", "es", "fs", "gs"))
"""Selectors are 16 bits; what the rest of their word holds differs by kernel."""

_SEGMENT_RPL_MASK = 0x3
_USER_RPL = 0x3
_X86_VM_MASK = 0x0002_0000
"""EFLAGS.VM: virtual-8086 mode (x86-32 only)."""


class Registers(Mapping[str, int]):
    """Values of registers by name, as they lie in memory until somebody asks for them.

    Of most tasks nobody does. Otherwise they are what a dict of them would be: equal to it,
    shown as it is, and a copy or a pickle of them is one.
    """

    __slots__ = ("_places", "_raw")

    def __init__(self, raw: bytes, places: Mapping[str, slice]) -> None:
        self._raw = raw
        self._places = places

    def __getitem__(self, name: str) -> int:
        return int.from_bytes(self._raw[self._places[name]], "little")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def items(self) -> ItemsView[str, int]:
        """Name and value of each."""
        return self._dict().items()

    def __repr__(self) -> str:
        return repr(self._dict())

    def __reduce__(self) -> tuple[type[dict[str, int]], tuple[dict[str, int]]]:
        return dict, (self._dict(),)

    def _dict(self) -> dict[str, int]:
        from_bytes, raw = int.from_bytes, self._raw
        return {name: from_bytes(raw[place], "little") for name, place in self._places.items()}


@dataclass(frozen=True)
class PtRegsLayout:
    """Where the registers lie in ``struct pt_regs`` (arch/x86/include/asm/ptrace.h)."""

    word_bytes: int
    """4 or 8: size of a stack word."""
    size_bytes: int
    """``sizeof(struct pt_regs)``."""
    fields: tuple[tuple[str, int, int], ...]
    """(kernel's name, offset in bytes, size in bytes), in memory order."""

    @cached_property
    def ip_offset(self) -> int:
        """``offsetof(struct pt_regs, ip)``."""
        return self._offset("ip")

    @cached_property
    def bp_offset(self) -> int:
        """``offsetof(struct pt_regs, bp)``."""
        return self._offset("bp")

    @cached_property
    def _cs_offset(self) -> int:
        return self._offset("cs")

    def _offset(self, wanted: str) -> int:
        return next(offset for name, offset, _ in self.fields if name == wanted)

    @cached_property
    def _places(self) -> dict[str, slice]:
        return {name: slice(offset, offset + size) for name, offset, size in self.fields}

    def read(self, raw: bytes) -> Registers:
        """Register values by name.

        :param raw: the :attr:`size_bytes` bytes of one ``struct pt_regs``.
        """
        return Registers(raw, self._places)

    def user_mode(self, registers: Mapping[str, int]) -> bool:
        """Were these registers saved in user mode?

        Follows user_mode() in arch/x86/include/asm/ptrace.h, v6.12. On x86-32
        virtual-8086 mode is user mode whatever the selector says.
        """
        rpl = registers["cs"] & _SEGMENT_RPL_MASK
        if self.word_bytes == 8:
            return rpl != 0
        return (rpl | (registers["flags"] & _X86_VM_MASK)) >= _USER_RPL

    def saved_in_user_mode(self, raw: bytes) -> bool:
        """:meth:`user_mode` of registers as they lie in memory.

        :param raw: as for :meth:`read`.
        """
        if self.word_bytes == 8:
            return raw[self._cs_offset] & _SEGMENT_RPL_MASK != 0
        return self.user_mode(self.read(raw))


def _natural(names: tuple[str, ...], word_bytes: int) -> PtRegsLayout:
    # One register a word; selectors use the low 16 bits of theirs.
    return PtRegsLayout(
        word_bytes=word_bytes,
        size_bytes=len(names) * word_bytes,
        fields=tuple(
            (name, i * word_bytes, 2 if name in _SEGMENTS else word_bytes)
            for i, name in enumerate(names)
        ),
    )


X86_64 = _natural(_NAMES_64, 8)
"""x86-64: 21 words. Up to v6.8 ``cs`` and ``ss`` are whole words whose upper bits are zero."""
X86_32 = _natural(_NAMES_32, 4)
"""x86-32 since v5.3: 17 words, also for traps from kernel mode (before, those lacked sp and ss)."""


def probe_pt_regs(prog: Program) -> PtRegsLayout:
    """The layout by this kernel's own ``struct pt_regs``.

    It has to be the one that entry code pushes, word by word, as PUSH_REGS in arch/x86/entry/calling.h
    and SAVE_ALL in arch/x86/entry/entry_32.S do (v4.10 to v7.2): a type that says otherwise is damaged.

    :raises LookupError: the type or one of its members is missing.
    :raises ValueError: it lies otherwise than on any kernel.
    """
    type_ = prog.type("struct pt_regs")
    layout = X86_64 if prog.address_size() == 8 else X86_32
    for name, offset, size in layout.fields:
        member = type_.member(name)
        # Since Linux kernel commit ee63291aa8287cb7ded767d340155fe8681fc075
        # ("x86/ptrace: Cleanup the definition of the pt_regs structure") (in
        # v6.9), cs and ss are unions whose upper bits are FRED's. Before that,
        # they are unsigned long.
        size_there = sizeof(member.type)
        fits = size_there >= size if name in _SEGMENTS else size_there == size
        if member.offset != offset or not fits:
            raise ValueError(
                f"struct pt_regs cannot have {size_there} bytes at {member.offset} for {name}"
            )
    if sizeof(type_) != layout.size_bytes:
        raise ValueError(f"struct pt_regs cannot have {sizeof(type_)} bytes")
    return layout
