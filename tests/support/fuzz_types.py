# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit a core again and again with random damage to its BTF and kallsyms.

    python -m tests.support.fuzz_types CORE FIRST_SEED RUNS

Run by test_fuzz.py in a process of its own, under limits of memory and time.
It prints one line: runs, how many gave an answer, how many an error of ours. Any
other exception, or a hang, ends it with a traceback that names the seed. (A
crash in C does not name it; run half as many.)

Every other run damages a few words of the types that the engine itself uses;
the rest damage anything, types or symbols or both. (A child for each run that
inherits an opened core would be slower: it faults in all of its memory.)
"""

from __future__ import annotations

import faulthandler
import random
import resource
import signal
import struct
import sys
from typing import NamedTuple, NoReturn

import drgn

from drgn_tools import DrgnToolsError, audit_kernel, open_program
from drgn_tools.cache_key import cache_key
from drgn_tools.debuginfo.btf import Btf, Kind
from drgn_tools.debuginfo.kallsyms import Kallsyms, kallsyms_of
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo, vmcoreinfo_symbol
from drgn_tools.program.builtin_types import use_builtin_types

from .overlay import overlay

MEMORY_BYTES = 2 << 30
SECONDS_A_RUN = 30

USED_TYPES = {
    "task_struct": "thread_info __state stack stack_refcount flags on_cpu tasks exit_state pid tgid"
    " thread_pid thread_node comm signal nvcsw nivcsw thread ret_stack curr_ret_stack rethooks",
    "thread_info": "cpu",
    "thread_struct": "sp",
    "signal_struct": "thread_head",
    "refcount_struct": "refs",
    "list_head": "next prev",
    "pt_regs": "r15 bp ip cs flags sp ss orig_ax",
    "inactive_task_frame": "bp ret_addr",
    "unwind_state": "bp sp",
    "irq_stack": "stack",
    "rq": "curr idle cpu",
    "cpumask": "bits",
    "module": "state list name mem kallsyms",
    "module_memory": "base size",
    "mod_kallsyms": "symtab num_symtab strtab",
    "ftrace_ops": "next trampoline trampoline_size",
    "kprobe_insn_cache": "pages",
    "kprobe_insn_page": "list insns",
    "bpf_ksym": "start end name lnode",
    "ftrace_ret_stack": "ret retp",
    "rethook_node": "ret_addr frame llist",
    "llist_head": "first",
    "llist_node": "next",
    "uts_namespace": "name",
    "new_utsname": "release",
}
"""The structs that reading stacks needs, and their members (except anonymous ones)."""
USED_INTS = "char", "int", "unsigned int", "long unsigned int"
USED_TYPEDEFS = "pid_t", "refcount_t", "cpumask_t", "u32", "u64"

ODD_VALUES = (0, 1, 7, 8, 63, 1 << 24, 1 << 27, 1 << 29, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


class Piece(NamedTuple):
    """Memory that can be damaged."""

    addr: int
    data: bytes


def btf_of(prog: drgn.Program, table: Kallsyms) -> Piece:
    (start,), (stop,) = table.find("__start_BTF"), table.find("__stop_BTF")
    return Piece(start, prog.read(start, stop - start))


def tables_of(prog: drgn.Program) -> list[Piece]:
    """The parts of kallsyms."""
    names = vmcoreinfo_symbol(prog, "kallsyms_names")
    offsets = vmcoreinfo_symbol(prog, "kallsyms_offsets")
    tokens = vmcoreinfo_symbol(prog, "kallsyms_token_table")
    count = vmcoreinfo_symbol(prog, "kallsyms_num_syms")
    assert names and offsets and tokens and count
    symbols = prog.read_u32(count)
    places = ((count, 4), (names, 8 * symbols), (offsets, 4 * symbols), (tokens, 2048))
    return [Piece(addr, prog.read(addr, size)) for addr, size in places]


def used_words(data: bytes) -> list[int]:
    """Return the offsets of the words in the BTF that describe what the engine uses."""
    btf = Btf(data)
    hdr_len, type_off = struct.unpack_from("<II", data, 4)

    def words(type_id: int, *numbers: int) -> list[int]:
        record = hdr_len + type_off + 4 * btf._starts[type_id]
        return [record + 4 * number for number in numbers]

    found = []
    for kind, names in ((Kind.INT, USED_INTS), (Kind.TYPEDEF, USED_TYPEDEFS)):
        for name in names:
            type_id = btf.find(kind, name)
            if type_id is not None:
                found += words(type_id, 1, 2)  # kind, size or type
    for name, wanted in USED_TYPES.items():
        type_id = btf.find(Kind.STRUCT, name)
        if type_id is None:
            continue
        found += words(type_id, 1, 2)
        for i, member in enumerate(btf.members(type_id)):
            if member.name is None or member.name in wanted.split():
                found += words(type_id, 3 + 3 * i, 4 + 3 * i, 5 + 3 * i)  # name, type, offset
    return found


def damage_words(rng: random.Random, data: bytes, places: list[int], types: int) -> bytes:
    """Write odd values, random values and IDs of other types to a few of these words."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = rng.choice((*ODD_VALUES, rng.randrange(1 << 32), *(rng.randrange(types),) * 3))
        struct.pack_into("<I", damaged, rng.choice(places), value)
    return bytes(damaged)


def damage_anything(rng: random.Random, data: bytes) -> bytes:
    """Write random bytes at random places, one in ten near the start (headers), and sometimes 64 KiB of zeros."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 64, 4096))):
        end = min(64, len(data)) if rng.random() < 0.1 else len(data)
        damaged[rng.randrange(end)] = rng.randrange(256)
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        damaged[at : at + 65536] = bytes(len(damaged[at : at + 65536]))
    return bytes(damaged)


class Victim:
    """A core, and the parts of it that can be damaged."""

    def __init__(self, core: str) -> None:
        self.core = core
        prog = open_program(core=core)
        table = kallsyms_of(prog)
        assert table is not None
        self.table = table
        self.tables = tables_of(prog)
        self.btf = btf_of(prog, table)
        self.used = used_words(self.btf.data)
        self.types = len(Btf(self.btf.data))

    def damaged(self, rng: random.Random, only_used: bool) -> drgn.Program:
        """Return a new program with damaged memory, still without types."""
        prog = drgn.Program()
        prog.set_core_dump(self.core)
        what = "types" if only_used else rng.choice(("types", "symbols", "both"))
        if what == "types":
            # The symbols are not damaged, so we use the table that was read before.
            # (VMCOREINFO comes first, while char is still the one that drgn knows.)
            vmcoreinfo(prog)
            prog.cache[cache_key("drgn_tools.debuginfo.kallsyms")] = self.table
        if only_used:
            overlay(prog, self.btf.addr, damage_words(rng, self.btf.data, self.used, self.types))
        elif what != "symbols":
            overlay(prog, self.btf.addr, damage_anything(rng, self.btf.data))
        if what != "types":
            for piece in rng.sample(self.tables, rng.randint(1, len(self.tables))):
                overlay(prog, piece.addr, damage_anything(rng, piece.data))
        return prog


class Hang(BaseException):
    """A run took too long."""


def hang(*_: object) -> NoReturn:
    raise Hang


def run(victim: Victim, seed: int) -> bool:
    """Do one run. Return True for an answer, False for an error of ours."""
    prog = victim.damaged(random.Random(seed), only_used=seed % 2 == 1)
    try:
        use_builtin_types(prog)
        for stack in audit_kernel(prog):
            str(stack)
    except DrgnToolsError:
        return False
    return True


def main(core: str, first_seed: int, runs: int) -> None:
    faulthandler.enable()
    signal.signal(signal.SIGALRM, hang)
    victim = Victim(core)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = 0
    for seed in range(first_seed, first_seed + runs):
        signal.alarm(SECONDS_A_RUN)
        try:
            answers += run(victim, seed)
        except BaseException:
            print(f"seed {seed}:", file=sys.stderr)
            raise
    signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{runs} runs: {answers} answers, {runs - answers} errors of ours, peak {peak} MiB")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
