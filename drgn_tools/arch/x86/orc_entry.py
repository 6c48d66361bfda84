# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct orc_entry``: the rule that leads from one frame to the next outer one, and its forms.

An entry says, for a range of instructions, how the stack pointer of the caller (the CFA, canonical
frame address) is computed, what is right below it, and where the caller's bp was saved. It has
always had 6 bytes, but the meaning of its last 16 bits has changed (arch/x86/include/asm/orc_types.h)::

    s16 sp_offset; s16 bp_offset; unsigned sp_reg:4, bp_reg:4, ...

         since  bits after bp_reg         numbers of registers
    A    v4.14  type:2                    old
    B    v4.18  type:2 end:1              old
    C    v6.3   type:2 signal:1 end:1     old
    D    v6.4   type:3 signal:1           old
    E    v7.1   type:3 signal:1           new

BTF distinguishes these forms, except D from E. Two entries whose meaning is known, ``orc_fp_entry``
and ``null_orc_entry`` of unwind_orc.c, distinguish D from E. So does ``.orc_header`` (v6.4), a digest of
the header file that scripts/orc_hash.sh makes, unless a distribution has edited that file.
"""

from __future__ import annotations

import enum
from collections import Counter
from struct import Struct as Format
from typing import Literal, Optional

import msgspec
from drgn import Program, Type, sizeof

from ...bounded_cache import BoundedCache

__all__ = (
    "ENTRY_BYTES",
    "FRAME_POINTER_ENTRY",
    "NULL_ENTRY",
    "CfaBase",
    "OrcEntry",
    "OrcForm",
    "OrcFormError",
    "OrcType",
    "probe_form",
)

ENTRY_BYTES = 6
"""``sizeof(struct orc_entry)``, which is packed."""

_WORD_BYTES = 8
_MAX_ENTRIES = 1 << 16
"""How many different entries of a kernel are cached: a distribution's kernel has 500."""

CfaBase = Literal["sp", "bp", "r10", "r13", "di", "dx", "ax"]
"""The register that the CFA is computed from, by the kernel's name."""


class OrcType(enum.Enum):
    """What is at the CFA (``ORC_TYPE_*``)."""

    UNDEFINED = "undefined"
    """Not known: padding, code that is not reached, code that objtool was told not to look at."""
    END_OF_STACK = "end of stack"
    """There is no caller."""
    CALL = "call"
    """A return address is right below the CFA."""
    REGS = "regs"
    """A ``struct pt_regs`` is at the CFA."""
    REGS_PARTIAL = "partial regs"
    """The ip, cs, flags, sp and ss of a ``struct pt_regs`` are at the CFA. The rest is not saved yet."""


class OrcEntry(msgspec.Struct, frozen=True):
    """One rule, in the same terms for every form.

    The CFA is ``base + offset``. If :attr:`indirect`, it is the word at that address, plus
    :attr:`offset_after`.
    """

    type: OrcType
    """What is at the CFA. If there is no caller, the other attributes say nothing."""
    base: CfaBase = "sp"
    """Register that the CFA is computed from."""
    offset: int = 0
    """Bytes."""
    indirect: bool = False
    """The CFA is in memory."""
    offset_after: int = 0
    """Bytes."""
    bp_from: Optional[Literal["cfa", "bp"]] = None
    """bp of the caller is the word at the CFA, or at bp, plus :attr:`bp_offset`; ``None``: bp is unchanged."""
    bp_offset: int = 0
    """Bytes."""
    signal: bool = False
    """The ip that is found is the address of the next instruction, not a return address."""


NULL_ENTRY = OrcEntry(OrcType.CALL, "sp", _WORD_BYTES)
"""``null_orc_entry``: the rule at address 0, after a call of NULL (v5.1)."""
FRAME_POINTER_ENTRY = OrcEntry(
    OrcType.CALL, "bp", 2 * _WORD_BYTES, bp_from="cfa", bp_offset=-2 * _WORD_BYTES
)
"""``orc_fp_entry``: code without a rule is taken to have a frame pointer (v5.3)."""

_OLD_REGISTERS: dict[int, str] = {
    1: "prev_sp", 2: "dx", 3: "di", 4: "bp", 5: "sp", 6: "r10", 7: "r13",
    8: "bp_indirect", 9: "sp_indirect", 10: "ax",
}  # fmt: skip
"""``ORC_REG_*`` up to v7.0. Stable kernels have added AX (10)."""
_NEW_REGISTERS: dict[int, str] = {
    1: "ax", 2: "dx", 3: "sp", 4: "bp", 5: "di", 6: "r10", 7: "r13",
    8: "prev_sp", 9: "sp_indirect", 10: "bp_indirect",
}  # fmt: skip
"""``ORC_REG_*`` since v7.1."""
_HEADERS = {
    bytes.fromhex("fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24"): False,
    bytes.fromhex("137c36ad7627c4dd55932176bb0ecdbd5041fc82"): True,
}
"""``.orc_header`` of v6.4 to v7.0 and of v7.1 -> registers are numbered as since v7.1."""
_SP_OLD, _SP_NEW = 5, 3
_PREV_SP_OLD, _PREV_SP_NEW = 1, 8

_TYPES_2_BITS = (OrcType.CALL, OrcType.REGS, OrcType.REGS_PARTIAL)
_TYPES_3_BITS = (
    OrcType.UNDEFINED,
    OrcType.END_OF_STACK,
    OrcType.CALL,
    OrcType.REGS,
    OrcType.REGS_PARTIAL,
)

_unpack = Format("<hhH").unpack


class OrcFormError(ValueError):
    """The form of a kernel's entries is not a known one, or the evidence is contradictory."""


class OrcForm:
    """The form of the entries of one kernel. It decodes them.

    :param type_bits: Width of ``type``: 2 or 3
    :param signal_bit: Number of the bit ``signal`` in the last 16 bits of an entry; ``None``
        without one
    :param end_bit: The same for ``end``
    :param has_new_registers: Registers are numbered as since v7.1
    """

    def __init__(
        self,
        type_bits: int,
        signal_bit: Optional[int],
        end_bit: Optional[int],
        has_new_registers: bool,
    ) -> None:
        self.type_bits = type_bits
        self.signal_bit = signal_bit
        self.end_bit = end_bit
        self.has_new_registers = has_new_registers
        self._types = _TYPES_2_BITS if type_bits == 2 else _TYPES_3_BITS
        self._registers = _NEW_REGISTERS if has_new_registers else _OLD_REGISTERS
        used = (8 + type_bits, *(bit + 1 for bit in (signal_bit, end_bit) if bit is not None))
        self._used_bits = max(used)
        self._entries: BoundedCache[bytes, Optional[OrcEntry]] = BoundedCache(_MAX_ENTRIES)

    def decode(self, raw: bytes) -> Optional[OrcEntry]:
        """Return the rule of an entry.

        :param raw: Its :data:`ENTRY_BYTES` bytes
        :return: ``None`` if objtool does not make such an entry: the table is damaged
        """
        try:
            return self._entries[raw]
        except KeyError:
            entry = self._entries[raw] = self._decode(raw)
            return entry

    def _decode(self, raw: bytes) -> Optional[OrcEntry]:
        sp_offset, bp_offset, bits = _unpack(raw)
        sp_reg, bp_reg = bits & 15, bits >> 4 & 15
        number = bits >> 8 & (1 << self.type_bits) - 1
        signal = self.signal_bit is not None and bool(bits >> self.signal_bit & 1)
        end = self.end_bit is not None and bool(bits >> self.end_bit & 1)
        if bits >> self._used_bits or number >= len(self._types):
            return None
        type_ = self._types[number]
        # objtool describes only words. It leaves fields that it does not use at 0.
        if (sp_offset | bp_offset) % _WORD_BYTES:
            return None
        if not sp_reg:
            return (
                self._without_caller(type_, end) if not (sp_offset or bp_offset or bp_reg) else None
            )
        if end or type_ in (OrcType.UNDEFINED, OrcType.END_OF_STACK):
            return None
        if self.signal_bit is None:
            signal = type_ is not OrcType.CALL
        base = self._registers.get(sp_reg)
        bp_name = self._registers.get(bp_reg) if bp_reg else ""
        if base is None or base == "prev_sp" or bp_name not in ("", "prev_sp", "bp"):
            return None
        if (not bp_name and bp_offset) or (bp_name and type_ is not OrcType.CALL):
            return None
        return self._entry(type_, base, sp_offset, bp_name, bp_offset, signal)

    def _without_caller(self, type_: OrcType, end: bool) -> Optional[OrcEntry]:
        # unwind_next_frame() up to v6.3: if sp_reg is UNDEFINED, the end bit decides, whatever the
        # type is. Since v6.4 the type decides. v4.14 has no end bit, and ends without an error.
        if self.type_bits == 2:
            ends = end or self.end_bit is None
            return OrcEntry(OrcType.END_OF_STACK if ends else OrcType.UNDEFINED)
        return OrcEntry(type_) if type_ in (OrcType.UNDEFINED, OrcType.END_OF_STACK) else None

    def _entry(
        self, type_: OrcType, base: str, offset: int, bp_name: str, bp_offset: int, signal: bool
    ) -> OrcEntry:
        bp_from: Optional[Literal["cfa", "bp"]] = None
        if bp_name:
            bp_from = "cfa" if bp_name == "prev_sp" else "bp"
        if base == "sp_indirect":
            # Since Linux kernel commit aafeb14e9da2 ("objtool: Support stack-swizzle") (in v5.12),
            # which uses it at calls, this is *sp + offset. Before that it was *(sp + offset), at
            # pt_regs.
            before, after = (0, offset) if type_ is OrcType.CALL else (offset, 0)
            return OrcEntry(type_, "sp", before, True, after, bp_from, bp_offset, signal)
        if base == "bp_indirect":
            return OrcEntry(type_, "bp", offset, True, 0, bp_from, bp_offset, signal)
        if base not in ("sp", "bp"):
            offset = 0  # unwind_next_frame() does not add it to other registers
        return OrcEntry(type_, base, offset, False, 0, bp_from, bp_offset, signal)  # type: ignore[arg-type]


def probe_form(
    prog: Program,
    frame_pointer_entry: Optional[bytes],
    null_entry: Optional[bytes],
    header: Optional[bytes],
    table: bytes,
) -> OrcForm:
    """Find the form of a kernel's entries.

    :param frame_pointer_entry: The bytes of ``orc_fp_entry``; ``None`` if the dump does not have them
    :param null_entry: The same for ``null_orc_entry``
    :param header: The same for ``.orc_header``; an unknown one is ignored
    :param table: Entries of the kernel's own table, enough for a statistic; used only if all of
        these are missing or ignored
    :raises OrcFormError: if the form is not a known one, or the evidence is contradictory
    :raises LookupError: if the kernel has no ``struct orc_entry``
    """
    bits = _bit_fields(prog.type("struct orc_entry"))
    type_bits, signal, end = bits["type"][1], bits.get("signal"), bits.get("end")
    if type_bits == 3 and end is None and signal is not None:
        new = _has_new_registers(_votes(frame_pointer_entry, null_entry, header), table)
    elif type_bits == 2 and (end is not None or signal is None):
        new = False
        if True in _votes(frame_pointer_entry, null_entry, header):
            raise OrcFormError("struct orc_entry and orc_fp_entry contradict each other")
    else:
        raise OrcFormError("struct orc_entry has members that no known kernel has")
    return OrcForm(type_bits, signal and signal[0], end and end[0], new)


def _bit_fields(type_: Type) -> dict[str, tuple[int, int]]:
    """Return position in the last 16 bits and width of each bit field of ``struct orc_entry`` after bp_reg."""
    members = {m.name: m for m in type_.members if m.name is not None}
    expected = {"sp_offset": (0, 16), "bp_offset": (16, 16), "sp_reg": (32, 4), "bp_reg": (36, 4)}
    for name, where in expected.items():
        member = members.pop(name, None)
        if member is None or where != (
            member.bit_offset,
            member.bit_field_size or 8 * sizeof(member.type),
        ):
            raise OrcFormError(f"struct orc_entry has no {name} where every known kernel has it")
    fields = {name: (m.bit_offset - 32, m.bit_field_size or 0) for name, m in members.items()}
    if sizeof(type_) != ENTRY_BYTES or not {"type"} <= set(fields) <= {"type", "signal", "end"}:
        raise OrcFormError("struct orc_entry has members that no known kernel has")
    end = 8
    for name in ("type", "signal", "end"):
        if name in fields:
            at, width = fields[name]
            if at != end or width not in ((2, 3) if name == "type" else (1,)):
                raise OrcFormError(f"struct orc_entry has an unknown form: {name} at bit {at}")
            end = at + width
    return fields


def _votes(
    frame_pointer_entry: Optional[bytes], null_entry: Optional[bytes], header: Optional[bytes]
) -> set[bool]:
    """Return what each piece of evidence says: are registers numbered as since v7.1?"""
    votes = set() if header is None or header not in _HEADERS else {_HEADERS[header]}
    for raw, shift, old, new in (
        (frame_pointer_entry, 4, _PREV_SP_OLD, _PREV_SP_NEW),  # bp_reg
        (null_entry, 0, _SP_OLD, _SP_NEW),  # sp_reg
    ):
        if raw is None:
            continue
        number = raw[4] >> shift & 15
        if number not in (old, new):
            raise OrcFormError("orc_fp_entry and null_orc_entry match no known kernel")
        votes.add(number == new)
    return votes


def _has_new_registers(votes: set[bool], table: bytes) -> bool:
    if len(votes) > 1:
        raise OrcFormError("orc_fp_entry, null_orc_entry and .orc_header contradict each other")
    if votes:
        return votes.pop()
    # Most entries have sp as their base. No entry of a call has di.
    counts: Counter[int] = Counter()
    for byte, count in Counter(table[4::ENTRY_BYTES]).items():
        counts[byte & 15] += count
    old, new = counts[_SP_OLD], counts[_SP_NEW]
    if min(old, new) * 100 >= max(old, new):
        raise OrcFormError("the ORC table does not show how its registers are numbered")
    return new > old
