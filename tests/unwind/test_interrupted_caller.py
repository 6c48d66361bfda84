# SPDX-License-Identifier: LGPL-2.1-or-later
"""The caller of an interrupted function: on code made for the test, against CFI, against drgn and against consoles."""

from __future__ import annotations

import random
import re
import struct
import subprocess
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import drgn
import pytest

from drgn_tools import Frame, TaskStack, open_program, task_stacks
from drgn_tools.analysis.labels import frame_label
from drgn_tools.arch.x86.instructions import decode
from drgn_tools.unwind import frame_pointer as frame_pointer_module
from drgn_tools.unwind.base import Caller
from drgn_tools.unwind.interrupted_caller import (
    BYTES_BEYOND,
    INDIRECT,
    MAX_FUNCTION_BYTES,
    MAX_INSTRUCTIONS,
    Code,
    Depth,
    NoDepth,
    callee_of,
    depth_at,
    find_interrupted_caller,
    is_entered_by_call,
)

from ..conftest import lab_dump, lab_vmlinux
from ..lab.dump import cached_dump, kernel_if_cached
from ..lab.variants import Variant, variant_named, variants_of
from ..support.compare_drgn import drgn_with_dwarf
from ..support.console import read_console
from ..support.overlay import overlay

FRAME, UNCLEAR = NoDepth.FRAME, NoDepth.UNCLEAR


def depths(code: str, word_bytes: int = 8) -> list[Depth]:
    """Return the depth at each instruction of *code*: hex, with a space after each instruction."""
    instructions = [bytes.fromhex(word) for word in code.split()]
    whole, at = b"".join(instructions), 0
    found = []
    for instruction in instructions:
        found.append(depth_at(whole, at, word_bytes))
        at += len(instruction)
    return found


# ---- the depth of the stack at a place


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        # endbr64; nopl; push %rbp; mov %rsp,%rbp; push %rbx; xor; pop %rbx; pop %rbp; ret
        (
            "f30f1efa 0f1f440000 55 4889e5 53 31c0 5b 5d c3",
            [0, 0, 0, 1, FRAME, FRAME, FRAME, FRAME, 0],
        ),
        # traced: call; the other form of mov; leave; jmp __x86_return_thunk, far away
        ("e800100000 55 488bec 90 c9 e900100000", [0, 0, 1, FRAME, FRAME, 0]),
        # live patched: the jump is what the code begins with, and then nothing is known
        ("e900100000 55 4889e5 90", [0, UNCLEAR, UNCLEAR, UNCLEAR]),
        # gcc moves others between push and mov: mov %esi,%r10d; sub $12,%edx
        ("55 4189f2 83ea0c 4889e5 4157 90", [0, 1, 1, 1, FRAME, FRAME]),
        # test; je past the frame (shrink-wrapped); the exit there has none
        (
            "4885d2 7407 55 4889e5 90 5d c3 31c0 c3",
            [0, 0, 0, 1, FRAME, FRAME, 0, 0, 0],
        ),
        # no frame: push %rbx; sub $16,%rsp; lea 16(%rsp),%rsp; pop; ret
        ("53 4883ec10 90 488d642410 5b c3", [0, 1, 3, 3, 1, 0]),
        # pushf; pop %rax: local_save_flags(); add $-8,%rsp
        ("9c 58 4883c4f8 90", [0, 1, 0, 1]),
        # the stack is realigned before the frame: lea 8(%rsp),%r10; and; push; push %rbp; mov
        (
            "4c8d542408 4883e4f0 41ff72f8 55 4889e5 90",
            [0, 0, UNCLEAR, UNCLEAR, UNCLEAR, FRAME],
        ),
        # a loop: rep movsb; jne back
        ("f3a4 75fc 90", [0, 0, 0]),
        # ret $8 and ret, even where nothing leads: behind a jump through a table
        ("ffe0 90 c20800 c3", [0, UNCLEAR, 0, 0]),
        # int3 of a kprobe: what lies behind it is half an instruction
        ("cc 90", [0, UNCLEAR]),
        # VEX: not understood
        ("c5f877 90", [0, UNCLEAR]),
        # leave, pop %rsp and mov %rax,%rsp where there is no frame
        ("c9 90", [0, UNCLEAR]),
        ("5c 90", [0, UNCLEAR]),
        ("4889c4 90", [0, UNCLEAR]),
        # more popped than pushed
        ("58 90", [0, UNCLEAR]),
    ],
)
def test_depth_at_each_instruction(code: str, expected: list[Depth]) -> None:
    # An instruction that is not understood is a place all the same.
    if code.startswith("c5"):
        expected = [UNCLEAR, *expected[1:]]
    assert depths(code) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("f30f1efb 55 89e5 53 5b 5d c3", [0, 0, 1, FRAME, FRAME, FRAME, 0]),
        ("40 55 8bec 83ec08 c9 c3", [0, 0, 1, FRAME, FRAME, 0]),
        ("53 83ec08 90 83c408 5b c3", [0, 1, 3, 3, 1, 0]),
    ],
)
def test_depth_in_32_bit_code(code: str, expected: list[Depth]) -> None:
    assert depths(code, word_bytes=4) == expected


FOUR_PUSHES = "50515253"


def depth_after(code: str, word_bytes: int = 8) -> Depth:
    """How many words more than before are on the stack after one instruction; there were four."""
    whole = bytes.fromhex(FOUR_PUSHES + code + "90")
    found = depth_at(whole, len(whole) - 1, word_bytes)
    assert type(found) in (int, NoDepth)
    return found - 4 if isinstance(found, int) else found


@pytest.mark.parametrize(
    ("code", "pushed"),
    [
        *[(f"{opcode:02x}", 1) for opcode in range(0x50, 0x58)],  # push %rax to %rdi
        *[(f"41{opcode:02x}", 1) for opcode in range(0x50, 0x58)],
        ("6800010000", 1),  # push $0x100
        ("6a10", 1),  # push $0x10
        ("9c", 1),  # pushf
        ("0fa0", 1),  # push %fs
        ("0fa8", 1),  # push %gs
        ("ff7018", 1),  # push 0x18(%rax)
        *[(f"{opcode:02x}", -1) for opcode in range(0x58, 0x60) if opcode != 0x5C],
        *[(f"41{opcode:02x}", -1) for opcode in range(0x58, 0x60)],  # pop %r8 to %r15
        ("5c", UNCLEAR),  # pop %rsp
        ("9d", -1),  # popf
        ("0fa1", -1),
        ("0fa9", -1),
        ("8f4018", -1),  # pop 0x18(%rax)
        ("ffc0", 0),  # inc %eax
        ("ff4018", 0),  # incl 0x18(%rax)
        ("ffd0", 0),  # call *%rax
        ("4883ec10", 2),  # sub $16,%rsp
        ("4883c4f0", 2),  # add $-16,%rsp
        ("4883c410", -2),
        ("4881ec80000000", 16),
        ("4881c410000000", -2),
        ("4883fc10", 0),  # cmp $16,%rsp
        ("4883c010", 0),  # add $16,%rax
        ("83442410ff", 0),  # addl $-1,16(%rsp)
        ("4883ec04", UNCLEAR),
        ("4883e4f0", UNCLEAR),  # and $-16,%rsp
        ("488d642410", -2),  # lea 16(%rsp),%rsp
        ("488d6424f0", 2),
        ("488da42480ffffff", 16),
        ("488d642404", UNCLEAR),
        ("488d6510", UNCLEAR),  # lea 16(%rbp),%rsp
        ("488da080000000", UNCLEAR),  # lea 128(%rax),%rsp
        ("488d640410", UNCLEAR),  # lea 16(%rsp,%rax),%rsp
        ("488d2424", UNCLEAR),  # lea (%rsp),%rsp
        ("488d24c500000000", UNCLEAR),  # lea 0(,%rax,8),%rsp
        ("488d442410", 0),  # lea 16(%rsp),%rax
        ("4889c4", UNCLEAR),  # mov %rax,%rsp, both forms
        ("488be0", UNCLEAR),
        ("4889e0", 0),  # mov %rsp,%rax, both forms
        ("488bc4", 0),
        ("48890424", 0),  # mov %rax,(%rsp)
        ("488b0424", 0),
        ("4887c4", UNCLEAR),  # xchg, both forms
        ("4887e0", UNCLEAR),
        ("4887c8", 0),
        ("4801c4", UNCLEAR),  # add %rax,%rsp, both forms
        ("4803e0", UNCLEAR),
        ("4829c4", UNCLEAR),  # sub
        ("4801e0", 0),  # add %rsp,%rax, both forms
        ("4803c4", 0),
        ("480904c4", 0),  # or %rax,(%rsp,%rax,8)
        ("4839c4", 0),  # cmp, both forms
        ("483be0", 0),
        ("4885e4", 0),  # test %rsp,%rsp
        ("c9", UNCLEAR),  # leave
        ("4881ecd87f0000", 4095 - 4),  # the largest stack of one function
        ("4881ece07f0000", UNCLEAR),
    ],
)
def test_what_an_instruction_pushes(code: str, pushed: Depth) -> None:
    assert depth_after(code) == pushed


@pytest.mark.parametrize(
    ("code", "pushed"),
    [("83ec10", 4), ("83c4f8", 2), ("8d642408", -2), ("60", UNCLEAR), ("01c4", UNCLEAR), ("40", 0)],
)
def test_what_an_instruction_of_32_bit_pushes(code: str, pushed: Depth) -> None:
    assert depth_after(code, word_bytes=4) == pushed


@pytest.mark.parametrize(
    "jump",
    [
        *[f"{opcode:02x}01" for opcode in range(0x70, 0x80)],
        *[f"0f{opcode:02x}01000000" for opcode in range(0x80, 0x90)],
        *[f"{opcode:02x}01" for opcode in range(0xE0, 0xE4)],  # loops, jrcxz
    ],
)
def test_jump_that_depends_leads_on_and_to_its_target(jump: str) -> None:
    assert depths(f"{jump} 53 90") == [0, 0, UNCLEAR]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("eb01 53 90", [0, UNCLEAR, 0]),
        ("e901000000 53 90", [0, UNCLEAR, 0]),
        ("ffe0 53 90", [0, UNCLEAR, UNCLEAR]),  # jmp *%rax
        ("ff2c24 53 90", [0, UNCLEAR, UNCLEAR]),  # ljmp *(%rsp)
        ("c3 53 90", [0, UNCLEAR, UNCLEAR]),
        ("c20800 53 90", [0, UNCLEAR, UNCLEAR]),
        ("cb 53 90", [0, UNCLEAR, UNCLEAR]),  # lret
        ("cc 53 90", [0, UNCLEAR, UNCLEAR]),  # int3
        ("cf 53 90", [0, UNCLEAR, UNCLEAR]),  # iret
        ("0f07 53 90", [0, UNCLEAR, UNCLEAR]),  # sysret
        ("0f0b 53 90", [0, 0, 1]),  # ud2 of a WARN()
        ("80c101 53 90", [0, 0, 1]),  # add $1,%cl
        ("e801000000 53 90", [0, 0, 1]),  # call
    ],
)
def test_where_the_code_goes_on(code: str, expected: list[Depth]) -> None:
    assert depths(code) == expected


@pytest.mark.parametrize(
    ("code", "gives_it_up"),
    [
        ("5d", True),  # pop %rbp
        ("c9", True),  # leave
        ("415d", False),  # pop %r13
        ("5e", False),
        ("55", False),
        ("4885ed", False),  # test %rbp,%rbp
        ("4883ec10", False),
        ("4883e4f0", False),
    ],
)
def test_what_gives_a_frame_up(code: str, gives_it_up: bool) -> None:
    assert depths(f"55 4889e5 {code} 90")[-1] == (0 if gives_it_up else FRAME)


def test_ways_that_do_not_agree_leave_it_open() -> None:
    # je over a push
    assert depths("7401 53 90") == [0, 0, UNCLEAR]


def test_an_ip_behind_the_first_byte_is_of_that_instruction() -> None:
    # kprobes on ftrace: ip is one past the beginning of the call.
    assert depth_at(bytes.fromhex("660f1f00 e8b2dfffff 55 4889e5"), 5, 8) == 0


def test_code_that_takes_too_long_leaves_it_open() -> None:
    assert depth_at(b"\x90" * (MAX_INSTRUCTIONS - 1) + b"\xf4", MAX_INSTRUCTIONS - 1, 8) == 0
    assert depth_at(b"\x90" * (MAX_INSTRUCTIONS + 1), 0, 8) is UNCLEAR


@pytest.mark.parametrize("seed", range(8))
def test_any_bytes_are_an_answer(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        code = rng.randbytes(rng.randrange(64))
        for word_bytes in (4, 8):
            found = depth_at(code, rng.randrange(80), word_bytes)
            assert isinstance(found, (int, NoDepth))
            one = decode(code, 0, word_bytes)
            assert one is None or 0 < one.length <= min(15, len(code))


# ---- the caller

TEXT = 0xFFFF_FFFF_8100_0000
STACK = 0xFF20_0000_0045_F000
RETURN = TEXT + 0x8005


class Memory:
    """Memory in pieces. What is between them is not in the dump."""

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self.pieces = pieces

    def __call__(self, addr: int, size: int) -> Optional[bytes]:
        for start, data in self.pieces.items():
            if start <= addr and addr + size <= start + len(data):
                return data[addr - start :][:size]
        return None


def called(callee: int, code: str, *stack: int) -> Memory:
    """Return memory with a function at TEXT, a call of *callee* right before RETURN, and a stack at STACK."""
    call = b"\xe8" + struct.pack("<i", callee - RETURN)
    words = b"".join(word.to_bytes(8, "little") for word in stack)
    return Memory(
        {TEXT: bytes.fromhex(code).ljust(64, b"\xcc"), RETURN - 16: bytes(11) + call, STACK: words}
    )


def ask(
    memory: Memory, offset: int, start: Optional[int] = TEXT, sp: int = STACK
) -> Optional[Caller]:
    code = Code(memory, 8)
    return find_interrupted_caller(
        sp, TEXT + offset, start, code, memory, lambda addr, addr_p: addr
    )


PROLOGUE = "554889e5905dc3"


@pytest.mark.parametrize(
    ("offset", "stack", "sure"),
    [
        (0, (RETURN, 7), True),  # before push
        (1, (0xB9, RETURN), True),  # between push and mov
        (4, (RETURN, RETURN), None),  # the frame is there
        (5, (RETURN, RETURN), None),  # before pop
        (6, (RETURN, 7), True),  # at ret
        (0, (7, RETURN), None),  # no code, where the address should be
        (1, (RETURN, 7), None),
    ],
)
def test_caller_by_the_code(offset: int, stack: tuple[int, ...], sure: Optional[bool]) -> None:
    # The caller may have called another function, which jumped here.
    found = ask(called(TEXT - 64, PROLOGUE, *stack), offset)
    assert found == (None if sure is None else Caller(RETURN, sure))


def test_where_the_code_leaves_it_open_only_a_call_of_this_function_is_believed() -> None:
    jump_table = "ffe090"
    assert ask(called(TEXT, jump_table, RETURN), 2) == Caller(RETURN, sure=False)
    assert ask(called(TEXT + 2, jump_table, RETURN), 2) is None
    assert ask(called(TEXT, jump_table, 7, RETURN), 2) is None


def test_a_call_of_what_is_no_code() -> None:
    memory = called(TEXT - 0x1000, "", RETURN)
    assert ask(memory, -0x1000, start=None) == Caller(RETURN, sure=False)
    assert ask(called(TEXT, "", 7), -0x1000, start=None) is None


def test_a_swapped_return_address_is_looked_up() -> None:
    memory = called(TEXT, PROLOGUE, 0x7A)
    asked = []

    def recover(addr: int, addr_p: int) -> int:
        asked.append((addr, addr_p))
        return RETURN

    found = find_interrupted_caller(STACK, TEXT, TEXT, Code(memory, 8), memory, recover)
    assert found == Caller(RETURN, sure=True)
    assert asked == [(0x7A, STACK)]


def test_missing_memory_is_no_caller() -> None:
    memory = called(TEXT, PROLOGUE, RETURN)
    assert ask(memory, 0) is not None
    for start in list(memory.pieces):
        without = Memory({at: data for at, data in memory.pieces.items() if at != start})
        found = ask(without, 0)
        # Without the function there still is the call.
        assert found == (Caller(RETURN, sure=False) if start == TEXT else None)


def test_code_that_ends_at_the_place_is_enough() -> None:
    memory = called(TEXT, PROLOGUE, RETURN)
    memory.pieces[TEXT] = b"\x90" * 3
    assert ask(memory, 2) == Caller(RETURN, sure=True)


@pytest.mark.parametrize("sp", [0, 1, STACK + 1, (1 << 64) - 8, (1 << 64) - 1])
def test_a_stack_pointer_may_be_anything(sp: int) -> None:
    for offset in range(7):
        assert ask(called(TEXT, PROLOGUE, RETURN), offset, sp=sp) is None


@pytest.mark.parametrize("start", [TEXT - MAX_FUNCTION_BYTES, TEXT + 1, 0, -5])
def test_a_function_that_cannot_be_is_not_gone_through(start: int) -> None:
    memory = called(TEXT, PROLOGUE, RETURN)
    memory.pieces[0] = bytes(1 << 16)
    assert ask(memory, 0, start=start) is None


def test_the_cold_part_of_a_function_is_jumped_to() -> None:
    assert not is_entered_by_call("vfs_read.cold")
    assert not is_entered_by_call("vfs_read.cold.12")
    assert is_entered_by_call("mas_root_expand.isra.0")


@pytest.mark.parametrize(
    ("code", "callee"),
    [
        ("e8fbffffff", RETURN - 5),
        ("ffd0", INDIRECT),
        ("41ffd3", INDIRECT),
        ("ff5018", INDIRECT),
        ("ff542408", INDIRECT),
        ("ff9018010000", INDIRECT),
        ("ff14c500000081", INDIRECT),
        ("41ff942400010000", INDIRECT),
        ("ffe0", None),  # jmp *%rax
        ("9090909090", None),
        ("e9fbffffff", None),
    ],
)
def test_what_a_call_calls(code: str, callee: Optional[int]) -> None:
    raw = bytes.fromhex(code)
    padding = b"\xf4" * 8
    memory = Memory({RETURN - len(raw) - 8: padding + raw})
    assert callee_of(RETURN, memory, 8) == callee
    assert callee_of(0, memory, 8) is None


@pytest.mark.parametrize(
    ("return_addr", "distance", "word_bytes", "callee"),
    [
        (RETURN, 0x101, 8, RETURN + 0x101),
        ((1 << 64) - 16, 0x20, 8, 0x10),
        (0x10, -0x20, 8, (1 << 64) - 0x10),
        ((1 << 32) - 16, 0x20, 4, 0x10),
        (0x10, -0x20, 4, (1 << 32) - 0x10),
        (5, 0x1000, 8, 0x1005),  # the call is the first that there is
    ],
)
def test_a_call_wraps_around_at_the_end_of_the_address_space(
    return_addr: int, distance: int, word_bytes: int, callee: int
) -> None:
    call = b"\xe8" + struct.pack("<i", distance)
    memory = Memory({return_addr - 5: call})
    assert callee_of(return_addr, memory, word_bytes) == callee


def test_nothing_is_read_in_front_of_the_address_space() -> None:
    read = []

    def noting(addr: int, size: int) -> None:
        read.append((addr, size))

    assert callee_of(4, noting, 8) is None
    assert sorted(read) == [(0, 4), (1, 3), (2, 2)]


def test_what_was_found_out_about_code_stays_and_is_not_read_again() -> None:
    memory = called(TEXT, PROLOGUE, RETURN)
    reads = []

    def noting(addr: int, size: int) -> Optional[bytes]:
        reads.append(addr)
        return memory(addr, size)

    code = Code(noting, 8)
    counts = []
    for _ in range(2):
        assert code.callee_of(RETURN) == TEXT
        assert code.callee_of(TEXT) is None
        assert code.depth(TEXT, TEXT + 1) == 1
        counts.append(len(reads))
    assert counts[0] == counts[1]


def test_function_is_gone_through_up_to_its_largest_size() -> None:
    # At a ret the depth is known, however one comes there.
    memory = Memory({TEXT: b"\xcc" + b"\xc3" * 2 * MAX_FUNCTION_BYTES})
    reads = []

    def noting(addr: int, size: int) -> Optional[bytes]:
        reads.append(size)
        return memory(addr, size)

    last = MAX_FUNCTION_BYTES - 1
    assert Code(noting, 8).depth(TEXT, TEXT + last) == 0
    assert reads
    reads.clear()
    assert Code(noting, 8).depth(TEXT, TEXT + last + 1) is UNCLEAR
    assert reads == []


# ---- against the CFI of real kernels


class Row(NamedTuple):
    """A row of CFI: from *address* to *end*, *rule* is the CFA of the function at *start*."""

    start: int
    address: int
    end: int
    rule: str


def cfi_rows(vmlinux: str) -> Iterator[Row]:
    """Yield what ``readelf`` prints. A machine that can build kernels has it."""
    process = subprocess.Popen(
        ["readelf", "-wF", vmlinux], stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stdout is not None
    start = end = 0
    rows: list[tuple[int, str]] = []
    for line in [*process.stdout, "0 0 0 CIE"]:
        if re.search(r" (FDE|CIE)\b", line):
            for i, (address, rule) in enumerate(rows):
                yield Row(start, address, rows[i + 1][0] if i + 1 < len(rows) else end, rule)
            rows = []
            if found := re.search(r" FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", line):
                start, end = int(found[1], 16), int(found[2], 16)
        elif found := re.match(r"([0-9a-f]{16}) (\S+)", line):
            rows.append((int(found[1], 16), found[2]))
    assert process.wait() == 0


def code_sections(path: str) -> dict[int, bytes]:
    """Return address -> bytes of each section with code in an ELF file of 64 bits."""
    data = Path(path).read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    found = {}
    for i in range(count):
        _, kind, flags, address, at, length = struct.unpack_from("<IIQQQQ", data, offset + i * size)
        if kind == 1 and flags & 4:  # SHT_PROGBITS, SHF_EXECINSTR
            found[address] = data[at : at + length]
    return found


def expected_depth(rule: str) -> Optional[Depth]:
    if rule.startswith("rsp+"):
        return int(rule[4:]) // 8 - 1
    # An expression is of a frame on a stack that was realigned.
    return FRAME if rule.startswith(("rbp", "exp")) else None


@pytest.mark.lab
def test_depths_are_those_of_the_cfi() -> None:
    vmlinux = lab_vmlinux("fp-lsb")
    sections = code_sections(vmlinux)
    results: Counter[str] = Counter()
    for row in cfi_rows(vmlinux):
        want = expected_depth(row.rule)
        if row.start // 16 % 16 or want is None:
            continue  # a sample
        held = [(b, d) for b, d in sections.items() if b <= row.start < b + len(d)]
        if not held:
            continue  # of another kind
        ((base, data),) = held
        for place in {row.address, row.end - 1} if row.end > row.address else ():
            code = data[row.start - base : place - base + BYTES_BEYOND]
            found = depth_at(code, place - row.start, 8)
            if found is UNCLEAR:
                results["unclear"] += 1
                continue
            results["equal" if found == want else f"{found} for {row}"] += 1
    print(f"\n{sum(results.values())} places: {results}")
    assert set(results) == {"equal", "unclear"}
    assert results["equal"] > 5000
    assert results["unclear"] * 100 < results["equal"]


# ---- against drgn with DWARF, and consoles


def all_callers(stacks: list[TaskStack]) -> Iterator[tuple[TaskStack, int, Frame]]:
    """Yield (task, interrupted ip, frame of its caller)."""
    for stack in stacks:
        if stack.cpu_caller is not None:
            yield stack, stack.frames[0].ip, stack.cpu_caller
        for regs in stack.regs:
            if regs.caller is not None:
                yield stack, regs["ip"], regs.caller


def test_skipped_caller_whose_call_is_the_last_of_its_function_has_its_name(demo_core: str) -> None:
    # What follows is ret_from_fork, whose address as a frame of a new task is exact.
    prog = open_program(core=demo_core)
    new_task = prog.symbol("ret_from_fork").address
    sleeping = [stack for stack in task_stacks(prog) if not stack.on_cpu]
    stack, ip, caller = next(all_callers(sleeping))
    start = prog.symbol(ip).address
    (sp,) = (regs["sp"] for regs in stack.regs if regs.caller is caller)
    at = next(addr for addr in range(sp, sp + 512, 8) if prog.read_u64(addr) == caller.ip)
    call = b"\xe8" + struct.pack("<i", start - new_task)
    for addr, data in ((at, new_task.to_bytes(8, "little")), (new_task - len(call), call)):
        overlay(prog, addr, data)
    (again,) = (s for s in task_stacks(prog) if s.task == stack.task)
    (moved,) = (caller for _, _, caller in all_callers([again]))
    assert moved.ip == new_task
    assert moved.symbol is not None and moved.symbol.name != "ret_from_fork"


def drgns_callers(prog: drgn.Program, task: int) -> dict[int, int]:
    """Return interrupted pc -> return address of its caller, from drgn's stack trace."""
    trace = prog.stack_trace(drgn.Object(prog, "struct task_struct *", task))
    frames = [frame for frame in trace if not frame.is_inline]
    pairs = list(zip(frames, frames[1:]))
    return {
        frame.pc: outer.pc for i, (frame, outer) in enumerate(pairs) if frame.interrupted or not i
    }


@cache
def functions_with_cfi(vmlinux: str) -> list[tuple[int, int]]:
    ends: dict[int, int] = {}
    for row in cfi_rows(vmlinux):
        ends[row.start] = max(row.end, ends.get(row.start, 0))
    return sorted(ends.items())


WITH_DWARF = [variant_named("fp-lsb"), *variants_of("crashes")]


@pytest.mark.lab
@pytest.mark.parametrize("variant", WITH_DWARF, ids=lambda v: v.name)
def test_every_caller_is_drgns_by_cfi(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    lab_dump(variants_of("crashes")[0])  # skips where crashes are not asked for
    dump, kernel = cached_dump(variant), kernel_if_cached(variant)
    assert dump is not None and kernel is not None
    vmlinux = dump.read_about()["vmlinux"]
    asked: list[Optional[Caller]] = []

    def noting(*arguments: Any) -> Optional[Caller]:
        asked.append(find_interrupted_caller(*arguments))
        return asked[-1]

    monkeypatch.setattr(frame_pointer_module, "find_interrupted_caller", noting)
    prog = open_program(core=dump.core)
    stacks = list(task_stacks(prog))
    theirs = drgn_with_dwarf(dump.core, Path(vmlinux), kernel.modules)
    cfi = functions_with_cfi(vmlinux)
    moved = prog.symbol("_stext").address - theirs_linked_at(vmlinux)

    def has_cfi(ip: int) -> bool:
        i = bisect_right(cfi, (ip - moved, 1 << 64)) - 1
        return i >= 0 and ip - moved < cfi[i][1]

    results: Counter[str] = Counter()
    for stack, ip, caller in all_callers(stacks):
        if has_cfi(ip):
            equal = drgns_callers(theirs, stack.task).get(ip) == caller.ip
            results["confirmed by CFI" if equal else "refuted"] += 1
        else:
            # Assembly, and the lab's modules, which are stripped.
            callee = callee_of(caller.ip, reader(prog), 8)
            direct = callee == prog.symbol(ip).address if callee != INDIRECT else None
            results[{True: "called", False: "refuted", None: "indirect"}[direct]] += 1
    # Nor does drgn have one that ours lacks.
    ours = {(stack.task, ip) for stack, ip, _ in all_callers(stacks)}
    for stack in (stack for stack in stacks if not stack.on_cpu and stack.frames):
        interrupted = {r["ip"] for r in stack.regs if not r.user_mode}
        walked = {frame.ip for frame in stack.frames}
        for pc, ret in drgns_callers(theirs, stack.task).items():
            if pc in interrupted and ret not in walked and (stack.task, pc) not in ours:
                results["lacking"] += 1
    guesses = sum(1 for found in asked if found is not None and not found.sure)
    print(f"\n{variant.name}: {len(asked)} asked, {guesses} guessed, {dict(results)}")
    assert results["refuted"] == results["lacking"] == 0
    assert results["called"]


def theirs_linked_at(vmlinux: str) -> int:
    """Return the address of _stext that an x86-64 kernel was linked at."""
    return min(address for address in code_sections(vmlinux) if address >> 63)


def reader(prog: drgn.Program) -> Callable[[int, int], Optional[bytes]]:
    return lambda addr, size: bytes(prog.read(addr, size))


CALLERS = {
    "fault": "crash_fault",
    "fgraph": "lab_call",
    "hardirq-fault": "timer_fired",
    "hardirq-softirq": "timer_fired",
    "kretprobe-below": "lab_probed",
    "wild-call": "lab_call",
}
"""Name of a crash -> the caller of the function that faulted before it had made its frame."""

WITH_CALLER = [
    variant
    for group in ("crashes", "crashes-years")
    for variant in variants_of(group)
    if variant.crash is not None and variant.crash.name in CALLERS
]


@pytest.mark.lab
@pytest.mark.parametrize("variant", WITH_CALLER, ids=lambda v: v.name)
def test_the_console_has_the_same_caller_with_a_question_mark(variant: Variant) -> None:
    dump = lab_dump(variant)
    assert variant.crash is not None
    stacks = list(task_stacks(open_program(core=dump.core)))
    dead = next(s for s in stacks if s.on_cpu and s.comm == "lab-crasher")
    oopses = read_console(dump.said.read_text(errors="replace"))
    oops = next(o for o in oopses if o.from_regs and (o.pid, o.cpu) == (dead.pid, dead.cpu))
    where = oops.entries[0].what
    (caller,) = {
        frame_label(caller)
        for stack, ip, caller in all_callers([dead])
        if any(frame.ip == ip and frame_label(frame) == where for frame in dead.frames)
    }
    assert caller.partition("+")[0] == CALLERS[variant.crash.name]
    assert caller in {clue.what for clue in oops.clues}
