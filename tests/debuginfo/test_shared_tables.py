# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of one kernel, opened one after the other: what they share, and that none believes another."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial

import drgn
import pytest
from drgn import Program

from drgn_tools import audit_kernel, open_program
from drgn_tools.cache_key import cache_key
from drgn_tools.debuginfo import kallsyms
from drgn_tools.debuginfo.btf import Btf, Kind
from drgn_tools.debuginfo.kallsyms import Kallsyms, kallsyms_of
from drgn_tools.debuginfo.shared_tables import SharedTables
from drgn_tools.debuginfo.vmcoreinfo import build_id
from drgn_tools.program import builtin_types
from drgn_tools.program.builtin_types import use_builtin_types

# ---- the rule


def test_the_very_same_bytes_give_the_same_thing() -> None:
    shared: SharedTables[object] = SharedTables()
    first = shared.get((b"a" * 100, 8, None), object)
    assert shared.get((bytes([97]) * 100, 8, None), object) is first


@pytest.mark.parametrize(
    "parts", [(b"a" * 99 + b"b", 8), (b"a" * 101, 8), (b"a" * 100, 4), (b"a" * 100,)]
)
def test_any_other_byte_or_constant_gives_another(parts: tuple[object, ...]) -> None:
    shared: SharedTables[object] = SharedTables()
    first = shared.get((b"a" * 100, 8), object)
    assert shared.get(parts, object) is not first


def test_the_last_few_are_kept() -> None:
    shared: SharedTables[object] = SharedTables()
    things = [shared.get((number,), object) for number in range(4)]
    assert shared.get((0,), object) is things[0]  # so 1 is the one used longest ago
    shared.get((4,), object)
    assert [shared.get((n,), object) is things[n] for n in (0, 2, 3)] == [True] * 3
    assert shared.get((1,), object) is not things[1]


def test_what_is_huge_is_not_kept() -> None:
    shared: SharedTables[object] = SharedTables()
    huge = bytes(33 << 20)
    assert shared.get((huge,), object) is not shared.get((huge,), object)


def test_what_fails_is_not_kept() -> None:
    shared: SharedTables[object] = SharedTables()

    def fails() -> object:
        raise ValueError

    with pytest.raises(ValueError):
        shared.get((1,), fails)
    assert shared.get((1,), object) is shared.get((1,), object)


def test_threads_get_what_is_theirs() -> None:
    shared: SharedTables[int] = SharedTables()
    wrong = []

    def use(seed: int) -> None:
        for turn in range(2_000):
            number = (seed + turn) % 7
            if shared.get((number,), partial(int, number)) != number:
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- dumps


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_types, "_BTF", SharedTables())
    monkeypatch.setattr(kallsyms, "_NAMES", SharedTables())


def with_other_bytes(
    core: str, change: Callable[[Program, Kallsyms], tuple[int, bytes]]
) -> Program:
    """The core with other bytes at one place, and all that it says of itself as it was."""
    prog = Program()
    prog.set_core_dump(core)
    original = Program()
    original.set_core_dump(core)
    table = kallsyms_of(original)
    assert table is not None
    place, data = change(original, table)
    prog.add_memory_segment(
        place, len(data), lambda address, count, offset, physical: data[offset : offset + count]
    )
    use_builtin_types(prog)
    return prog


def comm_moved(prog: Program, table: Kallsyms) -> tuple[int, bytes]:
    """Another BTF: task_struct has its comm 8 bytes further on."""
    (start,), (stop,) = table.find("__start_BTF"), table.find("__stop_BTF")
    data = bytearray(prog.read(start, stop - start))
    btf = Btf(bytes(data))
    task = btf.find(Kind.STRUCT, "task_struct")
    assert task is not None
    number = [member.name for member in btf.members(task)].index("comm")
    header_bytes, types_at = struct.unpack_from("<II", data, 4)
    offset_at = header_bytes + types_at + 4 * (btf._starts[task] + 3 + 3 * number + 2)
    (offset,) = struct.unpack_from("<I", data, offset_at)
    struct.pack_into("<I", data, offset_at, offset + 64)
    return start, bytes(data)


def comms(prog: Program) -> Sequence[str]:
    return [task.comm for task in audit_kernel(prog)]


def test_a_dump_that_claims_to_be_of_the_same_kernel_changes_nothing(demo_core: str) -> None:
    expected = comms(open_program(core=demo_core))
    for _ in range(2):
        liar = with_other_bytes(demo_core, comm_moved)
        assert build_id(liar) == build_id(open_program(core=demo_core)) is not None
        assert comms(liar) != expected
        assert comms(open_program(core=demo_core)) == expected


def test_other_names_of_symbols_change_nothing(demo_core: str) -> None:
    def renamed(prog: Program, table: Kallsyms) -> tuple[int, bytes]:
        tokens = prog.cache[cache_key("drgn_tools.debuginfo.vmcoreinfo")][
            "SYMBOL(kallsyms_token_table)"
        ]
        place = int(tokens, 16)
        data = bytes(prog.read(place, 1024))
        return place, data.replace(b"\0z\0", b"\0Z\0")

    honest = open_program(core=demo_core)
    expected = kallsyms_of(honest)
    liar = kallsyms_of(with_other_bytes(demo_core, renamed))
    again = kallsyms_of(open_program(core=demo_core))
    assert expected is not None and liar is not None and again is not None
    assert again._names is expected._names is not liar._names
    (place,) = expected.find("zero_pfn")
    assert liar.find("zero_pfn") == []
    assert again.at(place) == expected.at(place)


def test_dumps_of_one_kernel_are_indexed_once(
    demo_core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed = []
    init = Btf.__init__

    def counted(self: Btf, data: bytes, pointer_bytes: int = 8) -> None:
        indexed.append(len(data))
        init(self, data, pointer_bytes)

    monkeypatch.setattr(Btf, "__init__", counted)
    first, second = open_program(core=demo_core), open_program(core=demo_core)
    assert len(indexed) == 1
    assert comms(first) == comms(second)
    # Types are of one program each, as drgn wants them.
    types: list[drgn.Type] = [prog.type("struct task_struct") for prog in (first, second)]
    assert types[0].prog is first and types[1].prog is second
