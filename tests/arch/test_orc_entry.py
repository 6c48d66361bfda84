# SPDX-License-Identifier: LGPL-2.1-or-later
"""The five forms of ``struct orc_entry``, told apart and decoded."""

from __future__ import annotations

from typing import Optional

import pytest
from drgn import Architecture, Platform, Program
from hypothesis import given
from hypothesis import strategies as st

from drgn_tools.arch.x86.orc_entry import (
    ENTRY_BYTES,
    FRAME_POINTER_ENTRY,
    NULL_ENTRY,
    OrcEntry,
    OrcForm,
    OrcFormError,
    OrcType,
    probe_form,
)

from ..support.drawn_orc import declare_orc_entry

A = OrcForm(2, None, None, False)
B = OrcForm(2, None, 10, False)
C = OrcForm(2, 10, 11, False)
D = OrcForm(3, 11, None, False)
E = OrcForm(3, 11, None, True)

FORMS = {"A": A, "B": B, "C": C, "D": D, "E": E}

# What stock kernels have at orc_fp_entry and null_orc_entry: 6.12 (D), 7.2 (E), 5.10 and 6.1 (B).
FP = {"B": "1000f0ff1400", "D": "1000f0ff1402", "E": "1000f0ff8402"}
NULL = {"B": "080000000500", "D": "080000000502", "E": "080000000302"}


def entry(sp_offset: int, bp_offset: int, bits: int) -> bytes:
    return (
        sp_offset.to_bytes(2, "little", signed=True)
        + bp_offset.to_bytes(2, "little", signed=True)
        + bits.to_bytes(2, "little")
    )


# ---- what entries say


@pytest.mark.parametrize("form", ["B", "D", "E"])
def test_entries_of_known_meaning(form: str) -> None:
    assert FORMS[form].decode(bytes.fromhex(FP[form])) == FRAME_POINTER_ENTRY
    assert FORMS[form].decode(bytes.fromhex(NULL[form])) == NULL_ENTRY


@pytest.mark.parametrize(
    ("form", "bits", "expected"),
    [
        # sp_reg, bp_reg, type, signal, end
        (A, 0x000, OrcEntry(OrcType.END_OF_STACK)),
        (B, 0x000, OrcEntry(OrcType.UNDEFINED)),
        (B, 0x400, OrcEntry(OrcType.END_OF_STACK)),
        (C, 0x000, OrcEntry(OrcType.UNDEFINED)),
        (C, 0x800, OrcEntry(OrcType.END_OF_STACK)),
        (D, 0x000, OrcEntry(OrcType.UNDEFINED)),
        (D, 0x100, OrcEntry(OrcType.END_OF_STACK)),
        (E, 0x100, OrcEntry(OrcType.END_OF_STACK)),
        # The registers are those of interrupted code: by the type, or by the signal bit.
        (B, 0x105, OrcEntry(OrcType.REGS, "sp", 16, signal=True)),
        (B, 0x205, OrcEntry(OrcType.REGS_PARTIAL, "sp", 16, signal=True)),
        (C, 0x105, OrcEntry(OrcType.REGS, "sp", 16)),
        (C, 0x505, OrcEntry(OrcType.REGS, "sp", 16, signal=True)),
        (D, 0x305, OrcEntry(OrcType.REGS, "sp", 16)),
        (D, 0xB05, OrcEntry(OrcType.REGS, "sp", 16, signal=True)),
        (D, 0xC05, OrcEntry(OrcType.REGS_PARTIAL, "sp", 16, signal=True)),
        (E, 0xC03, OrcEntry(OrcType.REGS_PARTIAL, "sp", 16, signal=True)),
        # The offset is not added to these registers.
        (D, 0x202, OrcEntry(OrcType.CALL, "dx")),
        (D, 0x203, OrcEntry(OrcType.CALL, "di")),
        (D, 0x206, OrcEntry(OrcType.CALL, "r10")),
        (D, 0x207, OrcEntry(OrcType.CALL, "r13")),
        (D, 0x20A, OrcEntry(OrcType.CALL, "ax")),
        (E, 0x201, OrcEntry(OrcType.CALL, "ax")),
        (E, 0x205, OrcEntry(OrcType.CALL, "di")),
        # Words of the stack: *(bp + 16); *sp + 16 at a call, *(sp + 16) at pt_regs.
        (D, 0x208, OrcEntry(OrcType.CALL, "bp", 16, indirect=True)),
        (E, 0x20A, OrcEntry(OrcType.CALL, "bp", 16, indirect=True)),
        (D, 0x209, OrcEntry(OrcType.CALL, "sp", 0, indirect=True, offset_after=16)),
        (E, 0x209, OrcEntry(OrcType.CALL, "sp", 0, indirect=True, offset_after=16)),
        (B, 0x109, OrcEntry(OrcType.REGS, "sp", 16, indirect=True, signal=True)),
    ],
)
def test_entry_without_a_saved_bp(form: OrcForm, bits: int, expected: OrcEntry) -> None:
    has_caller = expected.type not in (OrcType.UNDEFINED, OrcType.END_OF_STACK)
    assert form.decode(entry(16 if has_caller else 0, 0, bits)) == expected


@pytest.mark.parametrize(
    ("form", "bits", "bp_from"),
    [(B, 0x015, "cfa"), (D, 0x215, "cfa"), (D, 0x245, "bp"), (E, 0x283, "cfa"), (E, 0x243, "bp")],
)
def test_entry_with_a_saved_bp(form: OrcForm, bits: int, bp_from: str) -> None:
    found = form.decode(entry(24, -16, bits))
    assert found == OrcEntry(OrcType.CALL, "sp", 24, bp_from=bp_from, bp_offset=-16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (D, entry(12, 0, 0x205)),  # half a word
        (D, entry(16, -12, 0x215)),
        (D, entry(16, 0, 0x505)),  # types 5 to 7
        (D, entry(16, 0, 0x1205)),  # bits that nothing uses
        (B, entry(16, 0, 0x805)),
        (A, entry(16, 0, 0x405)),
        (B, entry(16, 0, 0x305)),  # type 3
        (D, entry(16, 0, 0x201)),  # the CFA is not computed from itself
        (E, entry(16, 0, 0x208)),
        (D, entry(16, 0, 0x20B)),  # register 11
        (D, entry(16, -16, 0x255)),  # bp is saved at sp? no
        (D, entry(16, -16, 0x205)),  # an offset of a bp that is not saved
        (D, entry(16, -16, 0x315)),  # in a pt_regs it is always at the same place
        (D, entry(0, 0, 0x200)),  # a call without a CFA
        (D, entry(16, 0, 0x005)),  # undefined, but with a CFA
        (D, entry(16, 0, 0x105)),
        (D, entry(8, 0, 0x100)),  # an end with an offset
        (B, entry(16, 0, 0x405)),
    ],
)
def test_entry_that_objtool_does_not_make_is_damage(form: OrcForm, raw: bytes) -> None:
    assert form.decode(raw) is None


@given(st.binary(min_size=ENTRY_BYTES, max_size=ENTRY_BYTES), st.sampled_from([A, B, C, D, E]))
def test_any_bytes_are_a_rule_or_damage(raw: bytes, form: OrcForm) -> None:
    found = form.decode(raw)
    assert found is None or isinstance(found, OrcEntry)
    assert form.decode(raw) is found  # and the same the next time


# ---- which form it is


def probe(
    form: str,
    fp: Optional[str],
    null: Optional[str],
    table: bytes = b"",
    header: Optional[bytes] = None,
    **changes: tuple[int, int],
) -> OrcForm:
    prog = Program(Platform(Architecture.X86_64))
    declare_orc_entry(prog, "D" if form == "E" else form, **changes)
    return probe_form(
        prog,
        None if fp is None else bytes.fromhex(fp),
        None if null is None else bytes.fromhex(null),
        header,
        table,
    )


def shape(form: OrcForm) -> tuple[int, Optional[int], Optional[int], bool]:
    return form.type_bits, form.signal_bit, form.end_bit, form.has_new_registers


@pytest.mark.parametrize("form", "ABCDE")
def test_each_form_is_told(form: str) -> None:
    known = form if form in FP else "B"
    assert shape(probe(form, FP[known], NULL[known])) == shape(FORMS[form])
    assert shape(probe(form, None, NULL[known])) == shape(FORMS[form])
    assert shape(probe(form, FP[known], None)) == shape(FORMS[form])


@pytest.mark.parametrize(("sp_reg", "form"), [(5, "D"), (3, "E")])
def test_numbering_is_told_by_the_commonest_base(sp_reg: int, form: str) -> None:
    table = entry(16, 0, 0x200 | sp_reg) * 300 + entry(16, 0, 0x204) * 90
    assert shape(probe(form, None, None, table)) == shape(FORMS[form])
    # Three entries with the other number are no less than 1%.
    unclear = table + entry(16, 0, 0x200 | 8 - sp_reg) * 3
    with pytest.raises(OrcFormError, match="does not show"):
        probe(form, None, None, unclear)


HEADER = {
    "D": bytes.fromhex("fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24"),
    "E": bytes.fromhex("137c36ad7627c4dd55932176bb0ecdbd5041fc82"),
}


@pytest.mark.parametrize("form", ["D", "E"])
def test_header_tells_as_well(form: str) -> None:
    assert shape(probe(form, None, None, header=HEADER[form])) == shape(FORMS[form])
    assert shape(probe(form, FP[form], None, header=HEADER[form])) == shape(FORMS[form])
    # That of an edited file tells nothing.
    assert shape(probe(form, FP[form], None, header=bytes(20))) == shape(FORMS[form])
    other = HEADER["E" if form == "D" else "D"]
    with pytest.raises(OrcFormError, match="contradict"):
        probe(form, FP[form], NULL[form], header=other)


def test_numbering_that_nothing_tells_is_refused() -> None:
    with pytest.raises(OrcFormError, match="does not show"):
        probe("D", None, None)


@pytest.mark.parametrize(
    ("form", "fp", "null", "match"),
    [
        ("D", FP["D"], NULL["E"], "contradict"),
        ("E", FP["E"], NULL["D"], "contradict"),
        ("B", FP["E"], NULL["E"], "contradict"),
        ("D", "1000f0ff2402", NULL["D"], "match no known kernel"),
        ("D", FP["D"], "080000000402", "match no known kernel"),
    ],
)
def test_contradictions_are_refused(form: str, fp: str, null: str, match: str) -> None:
    with pytest.raises(OrcFormError, match=match):
        probe(form, fp, null)


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("D", {"sp_offset": (16, 16), "bp_offset": (0, 16)}),
        ("D", {"sp_reg": (36, 4), "bp_reg": (32, 4)}),
        ("D", {"sp_reg": (32, 3)}),
        ("D", {"sp_reg": (0, 0)}),
        ("D", {"type": (0, 0)}),
        ("D", {"type": (41, 3), "signal": (44, 1)}),
        ("D", {"type": (40, 4), "signal": (44, 1)}),
        ("D", {"signal": (43, 2)}),
        ("D", {"signal": (0, 0)}),  # three bits of type, and no signal
        ("D", {"end": (44, 1)}),
        ("D", {"more": (44, 1)}),
        ("B", {"end": (0, 0), "signal": (42, 1)}),  # signal and no end, with two bits of type
    ],
)
def test_unknown_forms_are_refused(form: str, changes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(OrcFormError):
        probe(form, FP[form], NULL[form], **changes)


def test_kernel_without_orc_has_no_form() -> None:
    with pytest.raises(LookupError):
        probe_form(Program(Platform(Architecture.X86_64)), None, None, None, b"")
