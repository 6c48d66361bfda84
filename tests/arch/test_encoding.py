# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which bit, and how it is found in machine code."""

from __future__ import annotations

import pytest

from drgn_tools.arch.x86.encoding import Encoding, decode_frame_pointer, detect_encoding

REGS = 0xFFFF_C900_0010_3EE8


def test_lsb_decodes_odd_pointers_only() -> None:
    assert decode_frame_pointer(REGS | 1, Encoding.LSB, 8) == REGS
    assert decode_frame_pointer(REGS, Encoding.LSB, 8) is None
    assert decode_frame_pointer(0, Encoding.LSB, 8) is None
    # Just the one bit is tested: odd garbage is "encoded".
    assert decode_frame_pointer(0x1235, Encoding.LSB, 8) == 0x1234


def test_msb_decodes_pointers_without_the_highest_bit() -> None:
    assert decode_frame_pointer(REGS & ~(1 << 63), Encoding.MSB, 8) == REGS
    assert decode_frame_pointer(REGS, Encoding.MSB, 8) is None
    assert decode_frame_pointer(0, Encoding.MSB, 8) == 1 << 63
    assert decode_frame_pointer(0x75F0_1000, Encoding.MSB, 4) == 0xF5F0_1000
    assert decode_frame_pointer(0xF5F0_1000, Encoding.MSB, 4) is None


def test_none_decodes_nothing() -> None:
    for bp in (0, 1, REGS, REGS | 1, REGS & ~(1 << 63)):
        assert decode_frame_pointer(bp, Encoding.NONE, 8) is None


# asm_exc_page_fault of 6.12 up to the encoding: call error_entry; mov %rax,%rsp; lea 1(%rsp),%rbp
PAGE_FAULT = bytes.fromhex("e8 1b 0f 00 00 48 89 c4 48 8d 6c 24 01 48 89 e7")


@pytest.mark.parametrize(
    ("code", "word_bytes", "encoding"),
    [
        ("48 8d 6c 24 01", 8, Encoding.LSB),
        ("48 8d 6c 24 09", 8, Encoding.LSB),
        ("48 89 e5 48 83 cd 01", 8, Encoding.LSB),
        ("48 8d 6c 24 08 48 83 cd 01", 8, Encoding.LSB),
        ("48 89 e5 48 0f ba f5 3f", 8, Encoding.MSB),
        ("89 e5 81 e5 ff ff ff 7f", 4, Encoding.MSB),
        ("89 e5 83 cd 01", 4, Encoding.LSB),
        ("89 e5 0f ba f5 1f", 4, Encoding.MSB),
    ],
)
def test_each_form_of_the_macro_is_known(code: str, word_bytes: int, encoding: Encoding) -> None:
    text = b"\x90" * 7 + bytes.fromhex(code) + b"\xc3"
    found = detect_encoding({"error_entry": text}, word_bytes)
    assert (found.encoding, found.problem) == (encoding, None)
    assert found.evidence[0][0] == "error_entry"


def test_evidence_names_symbol_and_offset() -> None:
    found = detect_encoding({"asm_exc_page_fault": PAGE_FAULT}, 8)
    assert found.evidence == (("asm_exc_page_fault", 8, Encoding.LSB),)


def test_entry_code_without_the_macro_encodes_nothing() -> None:
    # An ORC kernel: ENCODE_FRAME_POINTER is empty.
    found = detect_encoding({"asm_exc_page_fault": b"\x48\x89\xe7\xe8\x00\x00\x00\x00"}, 8)
    assert (found.encoding, found.evidence, found.problem) == (Encoding.NONE, (), None)


@pytest.mark.parametrize(
    "code",
    [
        {},
        {"error_entry": b""},
        {"error_entry": bytes(64)},
        {"error_entry": b"\x90\xc3", "asm_exc_nmi": b""},
    ],
)
def test_entry_code_that_cannot_be_read_is_a_problem_not_a_guess(code: dict[str, bytes]) -> None:
    found = detect_encoding(code, 8)
    assert found.encoding is Encoding.NONE
    assert found.problem is not None


def test_one_stub_that_can_be_read_is_enough() -> None:
    found = detect_encoding({"error_entry": b"", "asm_exc_page_fault": PAGE_FAULT}, 8)
    assert (found.encoding, found.problem) == (Encoding.LSB, None)


def test_two_encodings_at_once_are_a_problem_not_a_guess() -> None:
    found = detect_encoding(
        {
            "asm_exc_page_fault": bytes.fromhex("488d6c2401"),
            "error_entry": bytes.fromhex("480fbaf53f"),
        },
        8,
    )
    assert found.encoding is Encoding.NONE
    assert found.problem is not None
    assert "asm_exc_page_fault+0x0" in found.problem
    assert "error_entry+0x0" in found.problem
