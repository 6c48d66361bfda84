# SPDX-License-Identifier: LGPL-2.1-or-later
"""The caller of an interrupted function of arm64: on code as an assembler makes it."""

from __future__ import annotations

import struct
from typing import Optional

import pytest

from drgn_tools.kernel.stack_memory import NotInDump
from drgn_tools.unwind.arm64_caller import INDIRECT, Arm64Callers, Lr, callee_of, lr_at
from drgn_tools.unwind.base import Caller, Interrupted, Recover, nothing_rewritten

RETURN, SAVED, UNCLEAR = Lr.RETURN_ADDRESS, Lr.SAVED, Lr.UNCLEAR

PACIASP, AUTIASP, BTI_C = 0xD503233F, 0xD50323BF, 0xD503245F
PUSH, MOV_FP, POP = 0xA9BE7BFD, 0x910003FD, 0xA8C27BFD
"""stp x29, x30, [sp, #-32]!; mov x29, sp; ldp x29, x30, [sp], #32"""
SAVE, RESTORE = 0xA90153F3, 0xA94153F3
"""stp x19, x20, [sp, #16]; ldp x19, x20, [sp, #16]"""
BL, BLR, BLRAA, BR, RET, RETAA, ERET = (
    0x94000010, 0xD63F0060, 0xD73F0822, 0xD61F0200, 0xD65F03C0, 0xD65F0BFF, 0xD69F03E0,
)  # fmt: skip
BRK, SUB_SP, ADD_FP, LDR_LR = 0xD4210000, 0xD100C3FF, 0x910043FD, 0xF84107FE
"""brk #0x800; sub sp, sp, #48; add x29, sp, #16; ldr x30, [sp], #16"""


def b(instructions: int) -> int:
    return 0x14000000 | instructions & (1 << 26) - 1


def cbz(instructions: int) -> int:
    return 0xB4000000 | (instructions & (1 << 19) - 1) << 5


def tbz(instructions: int) -> int:
    return 0x36180001 | (instructions & (1 << 14) - 1) << 5


def code(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def states(*words: int) -> list[Lr]:
    whole = code(*words)
    return [lr_at(whole, 4 * at) for at in range(len(words))]


def test_a_function_with_a_frame_record() -> None:
    # x29 points to it from after mov x29, sp up to ldp x29, x30.
    assert states(PACIASP, PUSH, MOV_FP, SAVE, BL, RESTORE, POP, AUTIASP, RET) == [
        RETURN, RETURN, RETURN, SAVED, SAVED, SAVED, SAVED, RETURN, RETURN,
    ]  # fmt: skip


def test_a_frame_record_that_is_not_at_the_end_of_the_frame() -> None:
    assert states(SUB_SP, SAVE, ADD_FP, BLR, RESTORE) == [RETURN, RETURN, RETURN, SAVED, SAVED]


def test_a_function_that_calls_nobody_has_none() -> None:
    assert states(BTI_C, cbz(2), SUB_SP, RETAA) == [RETURN] * 4


def test_after_a_call_without_a_frame_record_lr_is_not_the_return_address() -> None:
    assert states(BL, SAVE, LDR_LR, RET) == [RETURN, UNCLEAR, UNCLEAR, RETURN]


def test_all_paths_count() -> None:
    # An early return jumps over the frame, to a place that is reached with none in both ways.
    early = (cbz(5), PUSH, MOV_FP, BL, POP, RET)
    assert states(*early) == [RETURN, RETURN, RETURN, SAVED, SAVED, RETURN]
    # The same place with a frame and without.
    assert states(tbz(3), PUSH, MOV_FP, SAVE, SAVE) == [RETURN, RETURN, RETURN, UNCLEAR, UNCLEAR]
    # What is behind a jump is reached only from elsewhere, here from further down.
    assert states(PUSH, MOV_FP, b(3), SAVE, RET, cbz(-2)) == [
        RETURN, RETURN, SAVED, SAVED, RETURN, SAVED,
    ]  # fmt: skip


@pytest.mark.parametrize("end", [RET, RETAA, BR, ERET, b(100)])
def test_what_no_path_leads_to_is_unclear(end: int) -> None:
    assert states(end, SAVE)[1] is UNCLEAR


def test_a_warning_goes_on() -> None:
    assert states(PUSH, MOV_FP, BRK, SAVE)[3] is SAVED


@pytest.mark.parametrize("offset", [-4, 2, 4, 1 << 40])
def test_an_offset_that_is_no_instruction_is_unclear(offset: int) -> None:
    assert lr_at(code(SAVE), offset) is UNCLEAR


# ---- the caller

START = 0xFFFF_8000_1000_0000
CALLER = 0xFFFF_8000_1100_0000


def memory(function: bytes, call: Optional[int]) -> dict[int, bytes]:
    found = {START: function}
    if call is not None:
        found[CALLER - 4] = struct.pack("<I", call)
    return found


def caller(
    words: tuple[int, ...],
    at: int,
    call: Optional[int] = BLR,
    start: Optional[int] = START,
    recover: Recover = nothing_rewritten,
    lr: int = CALLER,
) -> Optional[Caller]:
    there = memory(code(*words), call)

    def read(addr: int, size: int) -> Optional[bytes]:
        for begin, data in there.items():
            if begin <= addr and addr + size <= begin + len(data):
                return data[addr - begin : addr - begin + size]
        return None

    def strip(addr: int) -> int:
        return addr | 0xFFF0 << 48

    find = Arm64Callers(read, strip)
    registers = {"x29": 0x5150, "x30": lr}
    return find(Interrupted(registers, 0, START + 4 * at, start, read, recover))


def test_in_a_leaf_lr_is_the_caller_and_where_a_record_is_it_is_not() -> None:
    leaf = (SAVE, SAVE, RET)
    assert caller(leaf, 1) == Caller(CALLER, True)
    # It may be signed.
    assert caller(leaf, 1, lr=CALLER & ~(0xFFF0 << 48) | 0x1230 << 48) == Caller(CALLER, True)
    assert caller((PUSH, MOV_FP, SAVE), 2) is None
    assert caller((PUSH, MOV_FP, SAVE), 1) == Caller(CALLER, True)


def test_there_has_to_be_a_call_before_the_address() -> None:
    assert caller((SAVE,), 0, call=SAVE) is None
    assert caller((SAVE,), 0, call=None) is None
    assert caller((SAVE,), 0, lr=CALLER + 2) is None


def test_where_the_code_does_not_tell_only_a_call_of_this_very_function_is_taken() -> None:
    to_start = 0x94000000 | (START - (CALLER - 4)) // 4 & (1 << 26) - 1
    unclear = (BL, SAVE)
    assert caller(unclear, 1, call=to_start) == Caller(CALLER, False)
    assert caller(unclear, 1, call=BL) is None
    assert caller(unclear, 1, call=BLR) is None


def test_what_was_called_and_is_no_code_was_called_from_lr() -> None:
    assert caller((), 0, call=BLRAA, start=None) == Caller(CALLER, False)


def test_an_address_that_a_tracer_has_rewritten_is_recovered_by_the_frame_pointer() -> None:
    asked = []

    def recover(addr: int, fp: int) -> int:
        asked.append((addr, fp))
        return CALLER

    assert caller((SAVE,), 0, lr=START, recover=recover) == Caller(CALLER, True)
    assert asked == [(START, 0x5150)]

    def missing(addr: int, fp: int) -> int:
        raise NotInDump(addr)

    assert caller((SAVE,), 0, recover=missing) is None


def test_what_a_call_calls() -> None:
    words = {0x1000: BL, 0x2000: BLR, 0x3000: 0x97FFFFFF, 0x4000: RET}

    def read(addr: int, size: int) -> Optional[bytes]:
        return struct.pack("<I", words[addr]) if addr in words else None

    assert callee_of(0x1004, read) == 0x1040
    assert callee_of(0x2004, read) == INDIRECT
    assert callee_of(0x3004, read) == 0x2FFC
    assert callee_of(0x4004, read) is None
    assert callee_of(0, read) is None
