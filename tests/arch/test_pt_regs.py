# SPDX-License-Identifier: LGPL-2.1-or-later
"""struct pt_regs by table and by type: a slip in a name or an offset fails here."""

from __future__ import annotations

import copy
import pickle
import struct

import pytest

from drgn_tools.arch.x86.machine import X86_32, X86_64
from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64, SHORT_KERNEL_REGS_32, X86Regs


def test_64_bit_registers_come_back_by_name_from_the_struct_as_the_kernel_declares_it() -> None:
    # arch/x86/include/asm/ptrace.h, in the order of the declaration.
    order = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss".split()
    raw = struct.pack("<21Q", *range(100, 121))
    assert REGS_64.size_bytes == len(raw) == 168
    assert list(REGS_64.read(raw).items()) == list(zip(order, range(100, 121)))


ORDER_32 = "bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss".split()
"""arch/x86/include/asm/ptrace.h, in the order of the declaration."""


def regs_32(**values: int) -> bytes:
    return struct.pack("<17I", *(values.get(name, 100 + i) for i, name in enumerate(ORDER_32)))


def test_32_bit_registers_come_back_by_name_but_the_word_of_gs_is_none() -> None:
    raw = regs_32()
    assert REGS_32.size_bytes == len(raw) == 68
    expected = {name: 100 + i for i, name in enumerate(ORDER_32) if name != "gs"}
    assert list(REGS_32.read(raw).items()) == list(expected.items())


def test_entry_code_of_32_bits_leaves_its_handler_where_gs_is_declared() -> None:
    assert X86_32.entered_handler(regs_32(gs=0xC123_4567)) == 0xC123_4567
    assert X86_64.entered_handler(bytes(168)) is None


def test_before_5_3_registers_of_kernel_mode_lack_sp_and_ss() -> None:
    regs = SHORT_KERNEL_REGS_32
    kernel, user, vm86 = regs_32(cs=0x60), regs_32(cs=0x73), regs_32(cs=0, flags=0x20202)
    assert regs.kernel_mode_bytes == 60
    assert [regs.saved_bytes(raw) for raw in (kernel[:60], kernel, user, vm86)] == [60, 60, 68, 68]
    found = regs.read(kernel[:60])
    assert found == regs.read(kernel)
    assert {"sp", "ss"}.isdisjoint(found)
    assert found["flags"] == REGS_32.read(kernel)["flags"]
    assert regs.read(user) == REGS_32.read(user)
    # The stack of the interrupted code begins where the CPU would have pushed its sp.
    assert regs.interrupted_sp(0xF000, found) == 0xF000 + 60
    assert regs.interrupted_sp(0xF000, regs.read(user)) == regs.read(user)["sp"]
    assert REGS_32.interrupted_sp(0xF000, REGS_32.read(kernel)) == 115
    assert (REGS_32.kernel_mode_bytes, REGS_32.saved_bytes(kernel)) == (68, 68)


def test_selectors_are_16_bits_whatever_shares_their_word() -> None:
    # FRED event data above cs and ss (v6.9), CS_FROM_* flags above cs (x86-32, v5.3).
    raw = struct.pack("<17I", *[0xFFFF_0010] * 17)
    registers = REGS_32.read(raw)
    assert registers["cs"] == registers["ss"] == registers["ds"] == 0x10
    assert registers["ip"] == 0xFFFF_0010
    assert not REGS_32.user_mode({**registers, "flags": 0x202})


def mode(layout: X86Regs, cs: int, flags: int = 0) -> bool:
    return layout.user_mode({"cs": cs, "flags": flags})


def test_user_mode_64() -> None:
    assert [mode(REGS_64, cs) for cs in (0x10, 0x33, 0x2B, 0x11, 0xE030)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_user_mode_32_wants_ring_3_or_virtual_8086() -> None:
    assert not mode(REGS_32, 0x61)  # a Xen guest kernel ran in ring 1
    assert mode(REGS_32, 0x73)
    assert mode(REGS_32, 0x60, flags=0x20000)
    assert not mode(REGS_32, 0x60, flags=0x202)


def test_registers_are_what_a_dict_of_them_would_be() -> None:
    raw = struct.pack("<21Q", *range(100, 121))
    registers = REGS_64.read(raw)
    values = {name: 100 + i for i, (name, _, _) in enumerate(REGS_64.fields)}
    assert registers == values
    assert values == registers
    assert registers == REGS_64.read(raw)
    assert registers != REGS_64.read(raw[8:] + raw[:8])
    assert (list(registers), len(registers), repr(registers)) == (list(values), 21, repr(values))
    for twin in (pickle.loads(pickle.dumps(registers)), copy.copy(registers)):
        assert type(twin) is dict
        assert twin == values
    assert "r15" in registers
    assert "eax" not in registers
    with pytest.raises(KeyError):
        registers["eax"]
