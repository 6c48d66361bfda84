# SPDX-License-Identifier: LGPL-2.1-or-later
"""ORC tables of a drawn kernel: of the image, of modules, of code made at run time; and damaged ones."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Optional

import pytest
from msgspec.structs import replace

from drgn_tools.arch.x86 import orc_tables
from drgn_tools.arch.x86.orc_entry import (
    FRAME_POINTER_ENTRY,
    NULL_ENTRY,
    OrcEntry,
    OrcForm,
    OrcType,
)
from drgn_tools.arch.x86.orc_tables import (
    OrcImage,
    OrcProblem,
    OrcTables,
    UnwindDataUnclear,
    probe_orc,
)
from drgn_tools.kernel.stack_memory import NotInDump
from drgn_tools.kernel.text import KernelText

from ..support.drawn_kernel import DrawnKernel
from ..support.drawn_orc import declare_orc_entry
from ..support.drawn_text import (
    CORE,
    CORE_END,
    INIT,
    LOADED,
    UNFORMED,
    bpf_programs,
    declare_module,
    drawn_image,
    mem,
    modules,
    trampolines,
)

D = OrcForm(3, 11, None, False)
UNDEFINED = bytes(6)


def raw(offset: int) -> bytes:
    """A call with CFA = sp + offset, in form D."""
    return offset.to_bytes(2, "little") + bytes(2) + (0x205).to_bytes(2, "little")


def rule(offset: int) -> OrcEntry:
    return OrcEntry(OrcType.CALL, "sp", offset)


def table(
    kernel: DrawnKernel, entries: Sequence[tuple[int, bytes]], unaligned: int = 0
) -> tuple[int, int]:
    """Put a table; gives the addresses of its two arrays."""
    ips = kernel.new(f"char [{4 * len(entries) + unaligned}]") + unaligned
    rules = kernel.new(f"char [{6 * len(entries)}]")
    for i, (address, entry) in enumerate(entries):
        place = ips + 4 * i
        kernel.put(place, (address - place).to_bytes(8, "little", signed=True)[:4])
        kernel.put(rules + 6 * i, entry)
    return ips, rules


def image_of(kernel: DrawnKernel, entries: Sequence[tuple[int, bytes]], **changes: Any) -> OrcImage:
    ips, rules = table(kernel, entries)
    values: dict[str, Any] = {
        "form": D,
        "ips_addr": ips,
        "entries_addr": rules,
        "count": len(entries),
        "code": ((CORE, CORE_END), (INIT, INIT + 0x1000)),
        "ftrace_caller": CORE + 0x5000,
        "ftrace_regs_caller": CORE + 0x6000,
        "guesses": True,
        "first_exact_addrs": frozenset({RET_FROM_FORK}),
    }
    return OrcImage(**{**values, **changes})


SIMPLE = (
    (CORE, raw(8)),
    (CORE + 0x100, UNDEFINED),
    (CORE + 0x100, raw(16)),  # the last of an address counts
    (CORE + 0x200, raw(24)),
    (CORE + 0x300, UNDEFINED),
    (INIT, raw(32)),
    (INIT + 0x80, raw(40)),
)


@pytest.fixture
def kernel() -> DrawnKernel:
    # Addresses in a table have 31 bits: the drawn memory lies near the image.
    return drawn_image(base=INIT + 0x10_0000)


def tables_of(
    kernel: DrawnKernel, entries: Sequence[tuple[int, bytes]] = SIMPLE, **changes: Any
) -> OrcTables:
    return OrcTables(kernel.prog, image_of(kernel, entries, **changes), KernelText(kernel.prog))


# ---- where the kernel looks


LOOKUP = f"unsigned int [{(CORE_END - CORE) // 256 + 1}]"


def with_lookup(kernel: DrawnKernel, image: OrcImage, entries: Sequence[tuple[int, bytes]]) -> None:
    """What orc_init() makes of the table: for each 256 bytes of text the number of an entry."""
    assert image.lookup_addr is not None
    addresses = [address for address, _ in entries]
    for block in range((CORE_END - CORE) // 256 + 1):
        number = max(bisect_right(addresses, CORE + 256 * block) - 1, 0)
        kernel.put(image.lookup_addr + 4 * block, number.to_bytes(4, "little"))


def long_table() -> list[tuple[int, bytes]]:
    return [(CORE + 16 * number, raw(8 + 8 * (number % 7))) for number in range(256)]


def test_what_the_kernel_looks_up_agrees_with_a_sound_table(kernel: DrawnKernel) -> None:
    image = image_of(kernel, long_table(), lookup_addr=kernel.new(LOOKUP))
    with_lookup(kernel, image, long_table())
    tables = OrcTables(kernel.prog, image, KernelText(kernel.prog))
    plain = tables_of(kernel, long_table())
    for address in range(CORE, CORE + 0x1100, 5):
        assert tables.find(address) == plain.find(address)


def test_an_entry_where_the_kernel_does_not_look_is_unclear(kernel: DrawnKernel) -> None:
    # A fuzzer filled a page of addresses with ones: they lie in the table itself, behind all code, and
    # ascend. The search ended before them, at a rule of other code.
    entries = long_table()
    image = image_of(kernel, entries, lookup_addr=kernel.new(LOOKUP))
    with_lookup(kernel, image, entries)
    kernel.put(image.ips_addr + 4 * 64, b"\xff" * 4 * 64)
    tables = OrcTables(kernel.prog, image, KernelText(kernel.prog))
    plain = OrcTables(kernel.prog, replace(image, lookup_addr=None), KernelText(kernel.prog))
    damaged = range(entries[80][0], entries[110][0], 5)
    for address in damaged:
        for either in (tables, plain):
            with pytest.raises(UnwindDataUnclear):
                either.find(address)
    assert tables.find(entries[20][0]) == rule(8 + 8 * 6)


def test_what_the_kernel_looks_up_is_needed(kernel: DrawnKernel) -> None:
    # A fuzzer damaged the page table that leads there, and pages of addresses with it.
    tables = tables_of(kernel, long_table(), lookup_addr=kernel.nowhere)
    with pytest.raises(NotInDump):
        tables.find(CORE + 16)


# ---- the image


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        (CORE, rule(8)),
        (CORE + 0xFF, rule(8)),
        (CORE + 0x100, rule(16)),
        (CORE + 0x1FF, rule(16)),
        (CORE + 0x200, rule(24)),
        (CORE_END - 1, OrcEntry(OrcType.UNDEFINED)),
        (CORE_END, None),
        (CORE - 1, None),
        (INIT, rule(32)),
        (INIT + 0x7F, rule(32)),
        (INIT + 0x80, rule(40)),
        (0, NULL_ENTRY),
        ((1 << 64) - 1, None),
    ],
)
def test_rule_is_that_of_the_last_entry_not_above(
    kernel: DrawnKernel, addr: int, expected: Optional[OrcEntry]
) -> None:
    tables = tables_of(kernel)
    assert tables.find(addr) == expected
    assert tables.find(addr) == expected  # kept


def test_rule_of_any_address_is_that_of_a_linear_search(kernel: DrawnKernel) -> None:
    dice = random.Random(1)
    addrs = sorted(CORE + dice.randrange(0x1_0000) for _ in range(3000))
    entries = [(addr, raw(8 + 8 * dice.randrange(200))) for addr in [CORE, *addrs]]
    tables = tables_of(kernel, entries)
    for addr in (CORE + dice.randrange(0x1_0100) for _ in range(1000)):
        last = [entry for at, entry in entries if at <= addr][-1]
        assert tables.find(addr) == D.decode(last)


def test_address_below_the_first_entry_has_the_rule_of_the_first(kernel: DrawnKernel) -> None:
    assert tables_of(kernel, SIMPLE[3:]).find(CORE) == rule(24)


def test_kernel_that_does_not_guess_has_no_rule_at_null(kernel: DrawnKernel) -> None:
    assert tables_of(kernel, guesses=False).find(0) is None


# ---- modules


def with_modules(kernel: DrawnKernel, *made: dict[str, Any]) -> None:
    kernel.enum("mod_mem_type", MOD_DATA=0, MOD_TEXT=1, MOD_INIT_TEXT=2, MOD_MEM_NUM_TYPES=3)
    kernel.struct("module_memory", "void *base; unsigned int size")
    kernel.struct("orc_entry", "char raw[6]")
    kernel.struct(
        "mod_arch_specific",
        "unsigned int num_orcs; int *orc_unwind_ip; struct orc_entry *orc_unwind",
    )
    declare_module(kernel, "struct module_memory mem[3]; struct mod_arch_specific arch")
    modules(kernel, *made)


def module_tables(kernel: DrawnKernel, *entries: tuple[int, bytes]) -> dict[str, Any]:
    ips, rules = table(kernel, entries, unaligned=3)
    arch = {"num_orcs": len(entries), "orc_unwind_ip": ips, "orc_unwind": rules}
    return {"arch": arch}


def test_module_has_its_own_table(kernel: DrawnKernel) -> None:
    one = module_tables(kernel, (LOADED, raw(8)), (LOADED + 0x80, raw(16)))
    # Its first entry was for init text that is freed: that is memory of the other module now.
    two = module_tables(kernel, (LOADED + 0x40, raw(32)), (LOADED + 0x1000, raw(24)))
    with_modules(
        kernel,
        {"name": b"one", **mem((LOADED, 0x1000)), **one},
        {"name": b"two", **mem((LOADED + 0x1000, 0x1000)), **two},
    )
    tables = tables_of(kernel)
    assert tables.find(LOADED + 0x40) == rule(8)
    assert tables.find(LOADED + 0x80) == rule(16)
    assert tables.find(LOADED + 0x1FFF) == rule(24)
    assert tables.find(LOADED + 0x2000) is None
    # Data of a module is memory of it, too: here both have the same.
    assert tables.find(LOADED - 0x10_0000) in (rule(8), rule(32))


def test_module_without_a_table_or_unformed_has_no_rule(kernel: DrawnKernel) -> None:
    unformed = module_tables(kernel, (LOADED, raw(8)))
    with_modules(
        kernel,
        {"name": b"unformed", "state": UNFORMED, **mem((LOADED, 0x1000)), **unformed},
        {"name": b"none", **mem((LOADED + 0x1000, 0x1000))},
    )
    tables = tables_of(kernel)
    assert tables.find(LOADED) is None
    assert tables.find(LOADED + 0x1000) is None


def test_module_with_a_table_of_any_size_is_damaged(kernel: DrawnKernel) -> None:
    damaged = module_tables(kernel, (LOADED, raw(8)))
    damaged["arch"]["num_orcs"] = 0xFFFF_FFFF
    with_modules(kernel, {"name": b"m", **mem((LOADED, 0x1000)), **damaged})
    with pytest.raises(UnwindDataUnclear):
        tables_of(kernel).find(LOADED)


def test_kernel_whose_lists_are_damaged_may_have_a_rule(kernel: DrawnKernel) -> None:
    with_modules(kernel, {"name": b"m", **mem((LOADED, 0x1000))})
    text = KernelText(kernel.prog)
    text.problems.append("the list of modules loops")
    tables = OrcTables(kernel.prog, image_of(kernel, SIMPLE), text)
    assert tables.find(CORE) == rule(8)
    with pytest.raises(UnwindDataUnclear):
        tables.find(LOADED + 0x8000)


# ---- code that the kernel made


@pytest.mark.parametrize(("flags", "offset"), [(0, 0x5000), (4, 0x6000), (2, 0x5000)])
def test_ftrace_trampoline_has_the_rules_of_what_it_is_a_copy_of(
    kernel: DrawnKernel, flags: int, offset: int
) -> None:
    kernel.enum("ftrace_ops_flags", FTRACE_OPS_FL_SAVE_REGS=4)
    trampolines(kernel, (LOADED, 0x100), flags=flags)
    entries = [*SIMPLE[:4], (CORE + 0x5000, raw(48)), (CORE + 0x6000, raw(56)), (INIT, raw(8))]
    tables = tables_of(kernel, entries)
    assert tables.find(LOADED + 0x10) == rule(48 if offset == 0x5000 else 56)
    assert tables.find(LOADED + 0x100) is None
    # A kernel that makes trampolines has the code that they are copies of: a symbol is damaged.
    with pytest.raises(UnwindDataUnclear):
        tables_of(kernel, entries, ftrace_caller=None, ftrace_regs_caller=None).find(LOADED)


@pytest.mark.parametrize("offset", [0, 1, -1])
def test_trampoline_that_is_said_to_be_a_copy_of_itself_is_unclear(
    kernel: DrawnKernel, offset: int
) -> None:
    kernel.enum("ftrace_ops_flags", FTRACE_OPS_FL_SAVE_REGS=4)
    trampolines(kernel, (LOADED, 0x10_0000))
    with pytest.raises(UnwindDataUnclear):
        tables_of(kernel, ftrace_caller=LOADED + offset).find(LOADED + 0x8_0000)


def test_bpf_code_has_a_rule_where_the_kernel_knows_its_frame_pointer(kernel: DrawnKernel) -> None:
    bpf_programs(kernel, (LOADED, LOADED + 0x100, b"prog"))
    assert tables_of(kernel).find(LOADED + 0x20) is None  # before v7.0 no member tells


@pytest.mark.parametrize(
    ("start", "end", "offset", "found"),
    [
        (4, 0x92, 4, True),
        (4, 0x92, 0x91, True),
        (4, 0x92, 3, False),
        (4, 0x92, 0x92, False),
        (0, 0x92, 5, False),  # not known
        (4, 0, 5, False),
        (20, 1, 10, False),  # as programs have it
    ],
)
def test_frame_pointer_of_bpf_code(
    kernel: DrawnKernel, start: int, end: int, offset: int, found: bool
) -> None:
    bpf_programs(kernel, (LOADED, LOADED + 0x100, b"tramp"), fp=(start, end))
    expected = FRAME_POINTER_ENTRY if found else None
    assert tables_of(kernel).find(LOADED + offset) == expected


# ---- damage


def test_table_that_is_not_in_the_dump(kernel: DrawnKernel) -> None:
    with pytest.raises(NotInDump):
        tables_of(kernel, ips_addr=kernel.nowhere).find(CORE)
    with pytest.raises(NotInDump):
        tables_of(kernel, entries_addr=kernel.nowhere).find(CORE)


@pytest.mark.parametrize("array", ["ips_addr", "entries_addr"])
def test_table_of_zeros_is_damaged(kernel: DrawnKernel, array: str) -> None:
    entries = [(CORE + 16 * i, raw(8 + 8 * (i % 2))) for i in range(100)]
    zeros = kernel.new("char [1024]")
    with pytest.raises(UnwindDataUnclear):
        tables_of(kernel, entries, **{array: zeros}).find(CORE + 800)


def test_table_of_garbage_gives_no_rule(kernel: DrawnKernel) -> None:
    image = image_of(kernel, [(CORE + 16 * i, raw(8 + 8 * (i % 2))) for i in range(200)])
    text = KernelText(kernel.prog)
    garbage = kernel.new("char [2048]")
    dice = random.Random(7)
    for _ in range(300):
        kernel.put(garbage, dice.randbytes(2048))
        for damaged in (replace(image, ips_addr=garbage), replace(image, entries_addr=garbage)):
            with pytest.raises(UnwindDataUnclear):
                OrcTables(kernel.prog, damaged, text).find(CORE + dice.randrange(3200))


def test_table_that_is_not_sorted_is_damaged(kernel: DrawnKernel) -> None:
    with pytest.raises(UnwindDataUnclear):
        tables_of(kernel, [SIMPLE[3], SIMPLE[0], SIMPLE[5], SIMPLE[2]]).find(CORE + 0x250)


@pytest.mark.parametrize("unaligned", [0, 1000, 2048])
@pytest.mark.parametrize("swapped", [(0, 1), (1, 2), (3, 4), (0, 4), (1, 3)])
def test_search_that_swapped_pages_lead_astray_gives_no_rule(
    kernel: DrawnKernel, swapped: tuple[int, int], unaligned: int
) -> None:
    """Fuzz: klp-stalled-stock-6.12, seed 600237. The swapped pages were not where the search ended."""
    dice = random.Random(600237)
    addrs = sorted(dice.sample(range(CORE, CORE + 0x2_0000), 6000))
    # Entries that are near have different rules, so that each wrong answer is seen.
    entries = [(addr, raw(8 + 8 * (i % 4000))) for i, addr in enumerate(addrs)]
    image = image_of(kernel, entries, code=((CORE, CORE + 0x2_0000),))
    one, other = (image.ips_addr + unaligned + 4096 * page for page in swapped)
    before, after = kernel.prog.read(one, 4096), kernel.prog.read(other, 4096)
    kernel.put(one, after)
    kernel.put(other, before)
    tables = OrcTables(kernel.prog, image, KernelText(kernel.prog))
    found = unclear = 0
    for _ in range(2000):
        addr = dice.randrange(addrs[0], CORE + 0x2_0000)
        try:
            rule = tables.find(addr)
        except UnwindDataUnclear:
            unclear += 1
        else:
            assert rule == D.decode(entries[bisect_right(addrs, addr) - 1][1])
            found += 1
    assert unclear
    assert found or swapped == (0, 4)


@pytest.mark.parametrize("fill", [0x00, 0xFF])
@pytest.mark.parametrize("pages", [(1, 3), (2, 4), (3, 5)])
def test_search_for_init_text_that_a_filled_page_leads_astray_gives_no_rule(
    fill: int, pages: tuple[int, int]
) -> None:
    """Fuzz: klp-stalled-stock-6.12, seed 720549. Of ones, each address lies in the table: behind all text.

    text < table < init text
    """
    kernel = drawn_image(base=CORE_END + 0x1000)
    init = CORE_END + 0x1000_0000
    dice = random.Random(720549)
    addrs = sorted(dice.sample(range(CORE, CORE + 0x8000), 3000))
    addrs += sorted(dice.sample(range(init, init + 0x8000), 3000))
    entries = [(addr, raw(8 + 8 * (i % 4000))) for i, addr in enumerate(addrs)]
    image = image_of(kernel, entries, code=((CORE, CORE + 0x8000), (init, init + 0x8000)))
    start, end = pages
    kernel.put(image.ips_addr + 4096 * start, bytes([fill]) * 4096 * (end - start))
    tables = OrcTables(kernel.prog, image, KernelText(kernel.prog))
    unclear = 0
    for addr in range(addrs[3000], init + 0x8000, 5):
        try:
            rule = tables.find(addr)
        except UnwindDataUnclear:
            unclear += 1
        else:
            assert rule == D.decode(entries[bisect_right(addrs, addr) - 1][1])
    assert unclear


def test_module_that_reaches_into_code_made_at_run_time_is_damaged(kernel: DrawnKernel) -> None:
    # Fuzz: debian, seed 700857. The size of a module had become 379 MB, and stacks were unreliable or lost frames.
    own = module_tables(kernel, (LOADED, raw(8)), (LOADED + 0x80, raw(16)))
    with_modules(kernel, {"name": b"large", **mem((LOADED, 0x1000_0000)), **own})
    bpf_programs(kernel, (LOADED + 0x8000, LOADED + 0x8100, b"prog"))
    trampolines(kernel, (LOADED + 0x9000, 0x100))
    tables = tables_of(kernel)
    for addr in (LOADED + 0x8000, LOADED + 0x80FF, LOADED + 0x9000, LOADED + 0x90FF):
        with pytest.raises(UnwindDataUnclear):
            tables.find(addr)
    assert tables.find(LOADED + 0x40) == rule(8)


# ---- where the tables are

RET_FROM_FORK = CORE + 0x8000


def kernel_with_tables(form: str = "D", **missing: Any) -> DrawnKernel:
    kernel = drawn_image(base=INIT + 0x10_0000)
    declare_orc_entry(kernel.prog, "D" if form == "E" else form)
    ips, rules = table(kernel, SIMPLE)
    fp, null = {
        "B": ("1000f0ff1400", "080000000500"),
        "D": ("1000f0ff1402", "080000000502"),
        "E": ("1000f0ff8402", "080000000302"),
    }[form]
    start = kernel.new("char [64]")
    # cmp $ret_from_fork_asm,%rax
    kernel.put(start, bytes.fromhex("90483d") + (RET_FROM_FORK & 0xFFFF_FFFF).to_bytes(4, "little"))
    symbols = {
        "__start_orc_unwind_ip": ips,
        "__stop_orc_unwind_ip": ips + 4 * len(SIMPLE),
        "__start_orc_unwind": rules,
        "__stop_orc_unwind": rules + 6 * len(SIMPLE),
        "orc_fp_entry": kernel.put(kernel.new("char [8]"), bytes.fromhex(fp)),
        "null_orc_entry": kernel.put(kernel.new("char [8]"), bytes.fromhex(null)),
        "orc_init": kernel.put(kernel.new("char"), b"\1"),
        "ret_from_fork_asm": RET_FROM_FORK,
    }
    for name, addr in {**symbols, **missing}.items():
        if addr is not None:
            kernel.symbol(name, addr)
    kernel.symbol("__unwind_start", start, 64)
    return kernel


@pytest.mark.parametrize("form", ["B", "D", "E"])
def test_tables_are_found_by_symbols(form: str) -> None:
    kernel = kernel_with_tables(form)
    image = probe_orc(kernel.prog)
    assert isinstance(image, OrcImage)
    assert (image.count, image.guesses, bool(image.first_exact_addrs)) == (
        len(SIMPLE),
        True,
        True,
    )
    assert image.code == ((CORE, CORE_END), (INIT, INIT + 0x1000))
    assert (image.form.type_bits, image.form.has_new_registers) == (
        2 if form == "B" else 3,
        form == "E",
    )
    if form == "D":
        assert OrcTables(kernel.prog, image, KernelText(kernel.prog)).find(CORE) == rule(8)


@pytest.mark.parametrize(
    ("missing", "guesses"),
    [
        ({"orc_fp_entry": None}, False),  # before v5.3: there are symbols of data, but not this one
        ({"orc_fp_entry": None, "null_orc_entry": None, "orc_init": None}, True),
    ],
)
def test_guesses_are_told_by_symbols_of_data(missing: dict[str, Any], guesses: bool) -> None:
    image = probe_orc(kernel_with_tables("D", **missing).prog)
    assert isinstance(image, OrcImage)
    assert image.guesses is guesses


@pytest.mark.parametrize(
    ("code", "above"),
    [
        ("4881f8{imm}", True),  # cmp $imm,%rax in its long form
        ("488d05{rel}", True),  # lea rel(%rip),%rax
        ("e8{rel}", False),  # a call of it is no comparison
        ("9090909090", False),
    ],
)
def test_start_of_the_walk_is_told_by_the_code(code: str, above: bool) -> None:
    kernel = kernel_with_tables()
    start = kernel.prog.symbol("__unwind_start").address
    imm = (RET_FROM_FORK & 0xFFFF_FFFF).to_bytes(4, "little").hex()
    at = len(code.format(imm="", rel="")) // 2
    rel = (RET_FROM_FORK - start - at - 4).to_bytes(4, "little", signed=True).hex()
    kernel.put(start, bytes(64))
    kernel.put(start, bytes.fromhex(code.format(imm=imm, rel=rel)))
    image = probe_orc(kernel.prog)
    assert isinstance(image, OrcImage)
    assert bool(image.first_exact_addrs) is above
    assert image.first_exact_addrs == ({RET_FROM_FORK} if above else set())


@pytest.mark.parametrize("mentioned", ["ret_from_fork", "ret_from_fork_asm"])
def test_first_address_is_compared_with_what_the_code_has(mentioned: str) -> None:
    # From v6.5 to v6.12 kernels begin a task at ret_from_fork_asm, but compare with ret_from_fork.
    asm, c = CORE + 0x9000, RET_FROM_FORK
    if mentioned == "ret_from_fork_asm":
        asm, c = c, asm
    kernel = kernel_with_tables(ret_from_fork_asm=asm, ret_from_fork=c)
    image = probe_orc(kernel.prog)
    assert isinstance(image, OrcImage)
    assert image.first_exact_addrs == {RET_FROM_FORK}


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ({"__start_orc_unwind": None}, "symbols do not say"),
        ({"__stop_orc_unwind_ip": None}, "symbols do not say"),
        ({"__stop_orc_unwind": CORE}, "symbols do not say"),
        ({"__stop_orc_unwind": 1 << 63 | 1 << 62}, "symbols do not say"),
        ({"__stop_orc_unwind": (1 << 64) - 1}, "contradict each other"),
        ({"__stop_orc_unwind_ip": (1 << 64) - 1}, "contradict each other"),
    ],
)
def test_tables_that_cannot_be_found_are_a_problem(missing: dict[str, Any], sentence: str) -> None:
    found = probe_orc(kernel_with_tables("D", **missing).prog)
    assert isinstance(found, OrcProblem) and sentence in found.sentence


def test_unwinder_that_was_not_initialized_is_a_problem() -> None:
    kernel = kernel_with_tables()
    kernel.put(kernel.prog.symbol("orc_init").address, b"\0")
    found = probe_orc(kernel.prog)
    assert isinstance(found, OrcProblem) and "orc_init" in found.sentence


@pytest.mark.parametrize("is_sound", [True, False])
@pytest.mark.parametrize("missing", ["ret_from_fork", "orc_fp_entry"])
def test_kernel_without_a_symbol_is_old_or_its_names_are_damaged(
    missing: str, is_sound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fuzz: klp-stalled-stock-6.12, seed 500169, every stack lacked its first frame, as before v5.8.

    formats-stock, seed 760022: guessed frames were missing without a word, as before v5.3.
    """
    kernel = kernel_with_tables(**({"orc_fp_entry": None} if missing == "orc_fp_entry" else {}))
    if missing == "ret_from_fork":
        kernel.put(kernel.prog.symbol("__unwind_start").address, bytes(64))
    symbols = SimpleNamespace(is_sound=lambda: is_sound)
    monkeypatch.setattr(orc_tables, "kallsyms_of", lambda prog: symbols)
    found = probe_orc(kernel.prog)
    if is_sound:
        assert isinstance(found, OrcImage)
        assert bool(found.first_exact_addrs) == (missing != "ret_from_fork")
        assert found.guesses == (missing != "orc_fp_entry")
    else:
        assert found == OrcProblem("the table of symbols (kallsyms) is damaged")


def test_start_whose_code_is_not_in_the_dump_is_a_problem() -> None:
    kernel = kernel_with_tables()
    kernel.symbol("__unwind_start", kernel.nowhere, 64)
    found = probe_orc(kernel.prog)
    assert isinstance(found, OrcProblem) and "__unwind_start" in found.sentence


def test_kernel_whose_types_lack_the_entry_is_a_problem() -> None:
    kernel = kernel_with_tables()
    kernel.prog.set_enabled_type_finders(["drawn"])
    found = probe_orc(kernel.prog)
    assert found == OrcProblem("its types do not describe struct orc_entry")
