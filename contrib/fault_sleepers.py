# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tasks sleep in a page fault, on which instruction, and for which address?

The kernel has not saved CR2 there. ADDRESS is computed from the instruction and the saved registers,
for common instructions of x86-64. CODE begins with the instruction.

    $ drgn -c vmcore contrib/fault_sleepers.py
    PID  COMM            S  INSTRUCTION AT             ADDRESS       CODE
     97  w-kfault-write  S  rep_movs_alternative+0x4a  7fdbaee32000  f3 a4 c3 48 8b 06 48 89 07 ...
    100  w-kfault-put    S  __put_user_4+0x11          7fdbaede6000  89 01 31 c9 0f 01 ca c3 0f ...
    102  w-ufault-load   S  404346 (user mode)         7fdbaed65000  0f b6 80 00 30 00 00 48 8d ...
    ...

    $ python contrib/fault_sleepers.py -c vmcore
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Optional

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import access_remote_vm

from drgn_tools import SavedRegs, task_stacks
from drgn_tools.arch.registry import arch_named
from drgn_tools.commands.script import run, script_parser, table

CODE_BYTES = 15  # the longest instruction of x86
# The last three are of arm64.
FAULTS = ("page fault", "data abort", "instruction abort", "memory abort")
REGISTERS = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{i}" for i in range(8, 16)))
ALU = frozenset(op for op in range(0x40) if op & 7 < 4)  # add, or, ... cmp
MODRM = ALU | {0x63, *range(0x80, 0x8C), 0x8E, 0xC6, 0xC7, 0xF6, 0xF7, 0xFE, 0xFF}  # mov ...
MODRM_0F = frozenset(b"\x10\x11\x28\x29\x2b\x6f\x7f\xb0\xb1\xb6\xb7\xbe\xbf\xc0\xc1\xc3\xe7")


def fault_sleepers(prog: Program, args: Namespace) -> Iterator[str]:
    rows = []
    for task in task_stacks(prog):
        ip_name = arch_named(task.arch).regs.ip_name
        for regs in task.regs:
            if regs.entry in FAULTS and task.state in ("S", "D"):
                ip = regs[ip_name]
                place = regs.symbol or f"{ip:x} (user mode)"
                task_struct = Object(prog, "struct task_struct *", task.task)
                code = read_code(task_struct, ip, regs.user_mode)
                address = memory_operand(code, regs)
                shown = None if address is None else f"{address:x}"
                rows.append((task.pid, task.comm, task.state, place, shown, code.hex(" ")))
    return table(("PID", "COMM", "S", "INSTRUCTION AT", "ADDRESS", "CODE"), rows)


def read_code(task: Object, ip: int, user_mode: bool) -> bytes:
    """Return the machine code at the saved ip; empty if it cannot be read."""
    try:
        if user_mode:
            return bytes(access_remote_vm(task.mm, ip, CODE_BYTES))
        return bytes(task.prog_.read(ip, CODE_BYTES))
    except (FaultError, NotImplementedError):  # drgn does not read user memory of x86-32
        return b""


def memory_operand(code: bytes, regs: SavedRegs) -> Optional[int]:
    """Return the address that a 64-bit instruction reads or writes.

    :param code: Machine code, beginning with the instruction.
    :param regs: Registers at the instruction.
    :return: Virtual address; ``None`` if the instruction is not one of the common ones.
    """
    code = code.lstrip(b"\x66\xf0\xf2\xf3")  # operand size, lock, rep
    rex, code = (code[0], code[1:]) if code and code[0] & 0xF0 == 0x40 else (0, code)
    if len(code) < 8 or "r8" not in regs.registers:
        return None
    if code[0] in (0xA4, 0xA5):  # movs, from si to di: the fault is on the user's side
        low, high = sorted((regs["si"], regs["di"]))
        return low if high >> 63 else None
    if code[0] in (0xAA, 0xAB):  # stos
        return regs["di"]
    if code[0] == 0x0F and code[1] in MODRM_0F:
        return modrm_address(rex, code[2:], regs)
    return modrm_address(rex, code[1:], regs) if code[0] in MODRM else None


def modrm_address(rex: int, code: bytes, regs: SavedRegs) -> Optional[int]:
    """Return the sum of base, scaled index and displacement (Intel SDM volume 2, table 2-2).

    :param rex: REX prefix; 0 if there is none.
    :param code: Machine code, beginning with the ModRM byte.
    :return: Virtual address; ``None`` for a register operand and for one relative to ip.
    """
    mod, base, code = code[0] >> 6, code[0] & 7, code[1:]
    if mod == 3 or (mod == 0 and base == 5):  # a register, or relative to ip
        return None
    address = 0
    if base == 4:
        scale, index, base, code = code[0] >> 6, code[0] >> 3 & 7, code[0] & 7, code[1:]
        index |= (rex & 2) << 2
        address = 0 if index == 4 else regs[REGISTERS[index]] << scale
    displacement_bytes = (4 if base == 5 else 0, 1, 4)[mod]
    if mod or base != 5:
        address += regs[REGISTERS[base | (rex & 1) << 3]]
    address += int.from_bytes(code[:displacement_bytes], "little", signed=True)
    return address & (1 << 64) - 1


if __name__ == "__main__":
    run(fault_sleepers, script_parser(__doc__))
