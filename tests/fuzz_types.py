# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opens and audits a core again and again with random damage to its BTF and kallsyms.

    python -m tests.fuzz_types CORE FIRST_SEED RUNS

Run by test_fuzz.py in a process of its own, under limits of memory and time.
Prints one line: runs, how many gave an answer, how many an error of ours. Any
other exception ends it with a traceback that names the seed.
"""

from __future__ import annotations

import random
import resource
import signal
import sys

import drgn

from drgn_tools import DrgnToolsError, audit_kernel, open_program
from drgn_tools.kallsyms import kallsyms_of
from drgn_tools.vmcoreinfo import vmcoreinfo_symbol

MEMORY_BYTES = 2 << 30
SECONDS_A_RUN = 30


def targets(core: str) -> list[tuple[int, bytes]]:
    """(address, bytes) of what is to be damaged: the BTF, and each table of kallsyms."""
    prog = open_program(core=core)
    table = kallsyms_of(prog)
    assert table is not None
    (start,), (stop,) = table.find("__start_BTF"), table.find("__stop_BTF")
    found = [(start, prog.read(start, stop - start))]
    names = vmcoreinfo_symbol(prog, "kallsyms_names")
    offsets = vmcoreinfo_symbol(prog, "kallsyms_offsets")
    tokens = vmcoreinfo_symbol(prog, "kallsyms_token_table")
    count = vmcoreinfo_symbol(prog, "kallsyms_num_syms")
    assert names and offsets and tokens and count
    symbols = int.from_bytes(prog.read(count, 4), "little")
    found.append((count, prog.read(count, 4)))
    found.append((names, prog.read(names, 8 * symbols)))
    found.append((offsets, prog.read(offsets, 4 * symbols)))
    found.append((tokens, prog.read(tokens, 2048)))
    return found


def damage(rng: random.Random, data: bytes) -> bytes:
    """Random bytes at random places, near the start (headers) as often as anywhere."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 64, 4096))):
        end = min(64, len(data)) if rng.random() < 0.1 else len(data)
        damaged[rng.randrange(end)] = rng.randrange(256)
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        damaged[at : at + 65536] = bytes(len(damaged[at : at + 65536]))
    return bytes(damaged)


def run(core: str, seed: int, found: list[tuple[int, bytes]]) -> bool:
    """One run. True for an answer, False for an error of ours."""
    rng = random.Random(seed)
    prog = drgn.Program()
    prog.set_core_dump(core)
    for addr, data in found:
        if rng.random() < 0.5:
            bytes_ = damage(rng, data)

            def read(
                address: int, count: int, offset: int, physical: bool, data: bytes = bytes_
            ) -> bytes:
                return data[offset : offset + count]

            prog.add_memory_segment(addr, len(bytes_), read)
    try:
        from drgn_tools.program import use_builtin_types

        use_builtin_types(prog)
        for stack in audit_kernel(prog):
            str(stack)
    except DrgnToolsError:
        return False
    return True


def main(core: str, first_seed: int, runs: int) -> None:
    found = targets(core)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = 0
    for seed in range(first_seed, first_seed + runs):
        signal.alarm(SECONDS_A_RUN)
        try:
            answers += run(core, seed, found)
        except BaseException:
            print(f"seed {seed}:", file=sys.stderr)
            raise
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{runs} runs: {answers} answers, {runs - answers} errors of ours, peak {peak} MiB")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
