# SPDX-License-Identifier: LGPL-2.1-or-later
"""An invented kernel with one of everything that a renderer may have to show.

Records are made by hand here, so that renderers are tested without a dump, and with
values that no sane dump has.
"""

from __future__ import annotations

from typing import Any, Optional

from msgspec.structs import replace

from drgn_tools.records import (
    Frame,
    KernelAudit,
    KernelInfo,
    Reason,
    SavedRegs,
    Symbol,
    TaskStack,
    Verdict,
)

HOSTILE_COMM = "\x1b[31m\n,;\"'|<b>\u202e\udc80"
"""Colour, a second line, every separator, a tag, right-to-left, half a surrogate pair."""

LAST_WORDS = (
    "BUG: unable to handle page fault for address: \x1b[31m0000000000001000",
    "Kernel panic - not syncing: Fatal exception in interrupt",
)
"""What the log of the kernel below says about its crash."""

KERNEL = KernelInfo(
    source="/var/crash/vmcore",
    release="6.12.117",
    build_id="9fa1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3",
    arch="x86_64",
    unwinder="frame_pointer",
    encoding="lsb",
    reliable_stacktrace=True,
    types="btf",
    cpus=2,
    last_words=LAST_WORDS,
)

ORC_KERNEL = KernelInfo(
    source="live",
    release="6.1.0-49-amd64",
    build_id=None,
    arch="x86_64",
    unwinder="orc",
    encoding=None,
    reliable_stacktrace=True,
    types="dwarf",
    cpus=64,
    notes=(
        "no verdicts: this kernel uses the ORC unwinder, but its symbols do not tell where the ORC"
        " tables lie",
    ),
)

_NAMES_64 = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax",
    "cx", "dx", "si", "di", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_NAMES_32 = (
    "bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip


def registers(**values: int) -> dict[str, int]:
    """Return all registers of x86-64; each one that is not given has a different value."""
    return {name: values.get(name, 0xABCD_EF00_0000_0000 + i) for i, name in enumerate(_NAMES_64)}


def registers_32(**values: int) -> dict[str, int]:
    """Return all registers of x86-32."""
    return {name: values.get(name, 0x10 + i) for i, name in enumerate(_NAMES_32)}


def symbol(text: str, module: Optional[str] = None) -> Symbol:
    """``symbol("vfs_read+0x8f")``."""
    name, _, offset = text.rpartition("+")
    return Symbol(name, int(offset, 16), module)


def kernel_regs(address: int, ip: int, name: str, entry: Optional[str]) -> SavedRegs:
    return SavedRegs(
        address,
        entry,
        False,
        registers(
            ip=ip, cs=0x10, ss=0x18, sp=address + 0xB0, flags=0x50202, orig_ax=0xFFFF_FFFF_FFFF_FFFF
        ),
        symbol(name),
    )


def user_regs(address: int, orig_ax: int = 0, entry: Optional[str] = "syscall") -> SavedRegs:
    return SavedRegs(
        address,
        entry,
        True,
        registers(
            ip=0x7F1C_2A4B_3D7E,
            cs=0x33,
            ss=0x2B,
            sp=0x7FFD_0123_4560,
            flags=0x246,
            orig_ax=orig_ax,
        ),
    )


def regs_frame(regs: SavedRegs) -> Frame:
    return Frame(regs["ip"], regs.symbol, regs=regs.address, user_mode=regs.user_mode)


def task(pid: int, comm: str = "reader", **fields: Any) -> TaskStack:
    values: dict[str, Any] = {
        "task": 0xFF11_0000_0260_0000 + pid * 0x1000,
        "pid": pid,
        "tgid": pid,
        "comm": comm,
        "state": "S",
        "cpu": 1,
        "on_cpu": False,
        "kthread": False,
        "verdict": Verdict.RELIABLE,
    }
    values.update(fields)
    return TaskStack(**values)


_SCHEDULE = (
    Frame(0xFFFF_FFFF_81F3_C2A4, symbol("__schedule+0x3b4")),
    Frame(0xFFFF_FFFF_81F3_C5F7, symbol("schedule+0x27")),
)
_SYSCALL = (
    Frame(0xFFFF_FFFF_81F3_7A33, symbol("do_syscall_64+0x93")),
    Frame(0xFFFF_FFFF_8200_012F, symbol("entry_SYSCALL_64_after_hwframe+0x76")),
)

_USER = user_regs(0xFF20_0000_0045_FF58)
_FAULT = replace(
    kernel_regs(
        0xFF20_0000_0045_FD38, 0xFFFF_FFFF_81F2_5D40, "rep_stos_alternative+0x40", "page fault"
    ),
    caller=Frame(0xFFFF_FFFF_C04F_3050, symbol("lab_read+0x50", "lab_module")),
)
_TIMER = kernel_regs(
    0xFF20_0000_0055_FD38, 0xFFFF_FFFF_8130_D0C4, "vfs_read+0x8f", "timer interrupt"
)

SLEEPER = task(
    1,
    "init",
    frames=(
        *_SCHEDULE,
        Frame(0xFFFF_FFFF_812F_0001, symbol("do_wait+0x61")),
        *_SYSCALL,
        regs_frame(_USER),
    ),
    regs=(_USER,),
)

FAULTING = task(
    51,
    "reader",
    tgid=42,
    verdict=Verdict.UNRELIABLE,
    reason=Reason.KERNEL_MODE_REGS,
    why="page fault in rep_stos_alternative+0x40",
    brief="page fault in rep_stos_alternative",
    reason_frame=4,
    frames=(
        *_SCHEDULE,
        Frame(0xFFFF_FFFF_812F_4417, symbol("handle_userfault+0x417")),
        Frame(0xFFFF_FFFF_8200_1236, symbol("asm_exc_page_fault+0x26")),
        regs_frame(_FAULT),
        Frame(0xFFFF_FFFF_8130_D0C4, symbol("vfs_read+0x8f")),
        *_SYSCALL,
        regs_frame(_USER),
    ),
    regs=(_FAULT, _USER),
)

PREEMPTED = task(
    52,
    "kspin",
    state="R",
    verdict=Verdict.UNRELIABLE,
    reason=Reason.KERNEL_MODE_REGS,
    why="preempted by the timer interrupt in vfs_read+0x8f",
    brief="preempted in vfs_read",
    reason_frame=3,
    frames=(
        _SCHEDULE[0],
        Frame(0xFFFF_FFFF_81F3_0001, symbol("raw_irqentry_exit_cond_resched+0x2b")),
        Frame(0xFFFF_FFFF_8200_1776, symbol("asm_sysvec_apic_timer_interrupt+0x16")),
        regs_frame(_TIMER),
        *_SYSCALL,
    ),
    regs=(_TIMER,),
)

BAD_ADDRESS = task(
    53,
    verdict=Verdict.UNRELIABLE,
    reason=Reason.BAD_RETURN_ADDRESS,
    why="return address 0xdead4ead00001234 above schedule+0x27 is not kernel text",
    brief="bad return address",
    reason_frame=2,
    frames=(*_SCHEDULE, Frame(0xDEAD_4EAD_0000_1234)),
)

BROKEN = task(
    54,
    state="D",
    verdict=Verdict.UNRELIABLE,
    reason=Reason.BROKEN_CHAIN,
    why="frame pointer 0x41 after the saved stack pointer does not lead up the stack",
    brief="broken frame pointer",
    flags=("unaligned",),
)

TOO_DEEP = task(
    55,
    "deep",
    verdict=Verdict.UNRELIABLE,
    reason=Reason.TOO_MANY_ENTRIES,
    why="100 or more entries; live patching can use 99",
    brief="100 or more entries",
    reason_frame=99,
    frames=tuple(
        Frame(0xFFFF_FFFF_C000_0000 + i, Symbol("dig", i, "lab_module")) for i in range(120)
    ),
)

IN_MODULE = task(
    56,
    "modwait",
    frames=(
        *_SCHEDULE,
        Frame(
            0xFFFF_FFFF_C04F_2001,
            symbol(
                "a_driver_whose_author_never_met_a_name_too_long_for_one_line_of_text+0x1a2",
                "some_vendor_module",
            ),
        ),
        *_SYSCALL,
        regs_frame(_USER),
    ),
    regs=(_USER,),
)

RUNNING = task(
    57,
    "uspin",
    state="R",
    on_cpu=True,
    verdict=Verdict.UNKNOWN,
    reason=Reason.RUNNING,
    why="running on CPU 1",
    brief="running on CPU 1",
)

_IN_NMI = kernel_regs(0xFFFF_FE00_0000_9F58, 0xFFFF_FFFF_8100_1000, "die_hard+0x9", "NMI")

CRASHED = task(
    61,
    "panicked",
    state="R",
    cpu=0,
    on_cpu=True,
    verdict=Verdict.UNKNOWN,
    reason=Reason.RUNNING,
    why="running on CPU 0; frame pointer 0x7 after die_hard+0x9 does not lead up the stack",
    brief="running on CPU 0",
    flags=("crashed", "ends_early"),
    frames=(
        Frame(0xFFFF_FFFF_8123_4567, symbol("panic+0x2c5"), stack="nmi"),
        Frame(0xFFFF_FFFF_8123_5678, symbol("exc_nmi+0xa7"), stack="nmi"),
        Frame(0xFFFF_FFFF_8100_1000, symbol("die_hard+0x9"), stack="nmi", regs=_IN_NMI.address),
    ),
    regs=(_IN_NMI,),
    cpu_registers={
        name: value
        for name, value in registers(ip=0xFFFF_FFFF_8123_4567, cs=0x10).items()
        if name != "orig_ax"
    },
    cpu_caller=Frame(0xFFFF_FFFF_8123_6789, symbol("vpanic+0x11"), stack="nmi"),
)

UNREADABLE = task(
    58,
    verdict=Verdict.UNKNOWN,
    reason=Reason.UNREADABLE,
    why="stack memory at 0xff2000000045fe00 is not in the dump",
    brief="not in the dump",
    reason_frame=1,
    frames=_SCHEDULE,
)

NEVER_RUN = task(
    59,
    "forked",
    state="R",
    flags=("never_run",),
    frames=(Frame(0xFFFF_FFFF_8100_3A50, symbol("ret_from_fork_asm+0x0")), regs_frame(_USER)),
    regs=(user_regs(0xFF20_0000_0045_FF58, entry="fork"),),
)

ZOMBIE = task(60, "zombie", state="Z", flags=("no_stack",))

HOSTILE = task(
    4194303,
    HOSTILE_COMM,
    cpu=8191,
    verdict=Verdict.UNRELIABLE,
    reason=Reason.KERNEL_MODE_REGS,
    why="page fault in evil\x1b]0;\x07;name+0x1",
    brief="page fault in evil\x1b]0;\x07;name",
    reason_frame=0,
    frames=(
        Frame(0xFFFF_FFFF_FFFF_FFFF, symbol("evil\x1b]0;\x07;name+0x1", "mod\nule"), regs=0x1000),
    ),
    regs=(
        SavedRegs(
            0x1000,
            None,
            False,
            registers(flags=0xFFFF_FFFF_FFFF_FFFF),
            symbol("evil\x1b]0;\x07;name+0x1", "mod\nule"),
            Frame(0xFFFF_FFFF_FFFF_FFFE, symbol("\x1b[31mcaller+0x1", "mod\nule")),
        ),
    ),
)

KTHREADS = tuple(
    task(
        pid,
        f"kworker/{pid}:0",
        state="I",
        kthread=True,
        cpu=pid % 2,
        frames=(
            *_SCHEDULE,
            Frame(0xFFFF_FFFF_810E_1111, symbol("worker_thread+0x1b3")),
            Frame(0xFFFF_FFFF_810E_2222, symbol("kthread+0xe1")),
            Frame(0xFFFF_FFFF_8100_3A6A, symbol("ret_from_fork_asm+0x1a")),
        ),
    )
    for pid in range(10, 19)
)

TASKS = (
    SLEEPER,
    *KTHREADS,
    FAULTING,
    PREEMPTED,
    BAD_ADDRESS,
    BROKEN,
    TOO_DEEP,
    IN_MODULE,
    RUNNING,
    CRASHED,
    UNREADABLE,
    NEVER_RUN,
    ZOMBIE,
    HOSTILE,
)

AUDIT = KernelAudit(KERNEL, TASKS, problems=("the task list loops at 0xff11000002600000",))

ORC_TASK = task(
    51,
    verdict=Verdict.UNKNOWN,
    reason=Reason.ORC_UNCLEAR,
    why="this kernel uses the ORC unwinder, but its symbols do not say where the ORC tables are",
    brief="orc_unclear",
    frames=SLEEPER.frames,
    regs=SLEEPER.regs,
)

TASK_32 = task(
    7,
    "old",
    task=0xC1A0_0000,
    arch="i386",
    verdict=Verdict.UNKNOWN,
    reason=Reason.NO_RELIABLE_STACKTRACE,
    why="x86-32 kernels have no reliable stack traces",
    brief="no_reliable_stacktrace",
    frames=(
        Frame(0xC1234567, symbol("schedule+0x27")),
        Frame(0xB7F0_1234, regs=0xC1B0_1FB4, user_mode=True),
    ),
    regs=(
        SavedRegs(0xC1B0_1FB4, "syscall", True, registers_32(ip=0xB7F0_1234, cs=0x73, flags=0x246)),
    ),
)
