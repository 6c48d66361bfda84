# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which NT_PRSTATUS note of a dump of x86-32 is that of a CPU."""

from __future__ import annotations

import struct
from typing import Optional

import pytest

from drgn_tools.arch.x86.cpu_registers import registers_in_prstatus
from drgn_tools.arch.x86.pt_regs import REGS_32


def note(pid: int, ip: int) -> bytes:
    """struct elf_prstatus: pr_pid at 24, pr_reg at 72, pr_fpvalid at the end."""
    words = [100 + i for i in range(17)]
    words[12] = ip
    return struct.pack("<24xi44x17I4x", pid, *words)


def ip_of(notes: list[bytes], pid: int, cpu: int) -> Optional[int]:
    registers = registers_in_prstatus(notes, REGS_32, pid, cpu)
    return None if registers is None else registers["ip"]


def test_registers_but_orig_ax_which_a_cpu_does_not_have() -> None:
    registers = registers_in_prstatus([note(1, 0xC100_0000)], REGS_32, 77, 0)
    assert registers is not None
    assert list(registers) == [name for name in REGS_32.names if name != "orig_ax"]
    assert (registers["bx"], registers["ip"], registers["ss"]) == (100, 0xC100_0000, 116)


def test_qemu_numbers_the_notes_of_all_cpus() -> None:
    notes = [note(1, 0xA0), note(2, 0xA1)]
    assert [ip_of(notes, 4711, cpu) for cpu in (0, 1, 2, -1)] == [0xA0, 0xA1, None, None]


@pytest.mark.parametrize(
    ("pid", "cpu", "ip"),
    [
        (0, 0, 0xA0),
        (88, 2, 0xA2),  # CPU 1 has no note
        (0, 3, None),  # which of them?
        (99, 1, None),
    ],
)
def test_the_kernel_leaves_out_cpus_that_were_offline(
    pid: int, cpu: int, ip: Optional[int]
) -> None:
    notes = [note(0, 0xA0), note(88, 0xA2), note(0, 0xA3)]
    assert ip_of(notes, pid, cpu) == ip


def test_note_that_is_cut_short_has_no_registers() -> None:
    for size in (0, 24, 28, 139):
        assert ip_of([note(1, 0xA0)[:size]], 1, 0) is None
