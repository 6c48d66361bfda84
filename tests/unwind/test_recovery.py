# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rewritten return addresses, on shadow stacks and node lists drawn in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import drgn
import msgspec
import pytest

from drgn_tools import open_program
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.errors import TypesError
from drgn_tools.kernel.stack_memory import NotInDump
from drgn_tools.kernel.tasks import Task
from drgn_tools.unwind.recovery import Fgraph, RecoverLayout, Recovery, Rethook, probe_recovery

from ..support.drawn_kernel import DrawnKernel
from ..support.overlay import exclude

BASE = 0xFFFF_8880_0000_0000
TASK = BASE
RET_STACK = BASE + 0x400
NODES = BASE + 0x800
RETURN_TO_HANDLER = 0xFFFF_FFFF_8100_0000
TRAMPOLINE = 0xFFFF_FFFF_8200_0000

FGRAPH = Fgraph(
    return_to_handler=RETURN_TO_HANDLER,
    ret_stack_offset=0,
    curr_ret_stack=(8, 4),
    of_words=True,
    max_index=512,
    frame_bytes=32,
    ret_offset=0,
    retp_offset=24,
)
RETHOOK = Rethook(trampoline=TRAMPOLINE, first_offset=16, ret_addr_offset=16, frame_offset=24)


class Machine:
    """A task_struct, its shadow stack and its rethook nodes."""

    def __init__(self) -> None:
        self.memory = bytearray(4096)
        self.runnable = False
        self.reads = self.bytes_read = 0
        self.put(TASK, RET_STACK)
        self.depth = 0

    def put(self, addr: int, *words: int) -> int:
        for i, word in enumerate(words):
            at = addr - BASE + 8 * i
            self.memory[at : at + 8] = word.to_bytes(8, "little")
        return addr

    def fgraph(self, ret: int, retp: int, data_words: int = 0) -> None:
        """Push {ret, func, calltime, retp}, data of fgraph_ops, and the word that leads back."""
        at = RET_STACK + 8 * self.depth
        self.put(at, ret, 0, 0, retp, *[0xDADA] * data_words, (1 << 10) | (4 + data_words))
        self.depth += 5 + data_words
        self.put(TASK + 8, self.depth)

    def rethook(self, *nodes: tuple[int, int]) -> None:
        """A list of nodes (ret_addr, frame): llist, rethook, ret_addr, frame."""
        addrs = [NODES + 64 * i for i in range(len(nodes))]
        self.put(TASK + 16, addrs[0])
        for addr, after, (ret_addr, frame) in zip(addrs, [*addrs[1:], 0], nodes):
            self.put(addr, after, 0, ret_addr, frame)

    def program(self) -> drgn.Program:
        prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        data = bytes(self.memory)

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            self.reads += 1
            self.bytes_read += count
            return data[offset : offset + count]

        prog.add_memory_segment(BASE, len(data), read)
        return prog

    def recovery(
        self,
        fgraph: Fgraph = FGRAPH,
        rethook: Rethook = RETHOOK,
        current: bool = False,
        needs_original: bool = False,
    ) -> Recovery:
        prog = self.program()
        task = cast(Task, SimpleNamespace(addr=TASK, is_runnable=self.runnable))
        return Recovery(prog, RecoverLayout(8, fgraph, rethook, needs_original), task, current)


def test_an_ordinary_return_address_is_left_alone() -> None:
    assert Machine().recovery()(0x1234, 0x5678) == 0x1234


def test_fgraph_finds_the_frame_by_where_the_address_lay() -> None:
    m = Machine()
    m.fgraph(0xA1, retp=0x9010)
    m.fgraph(0xA0, retp=0x9000, data_words=3)
    recover = m.recovery()
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA0
    assert recover(RETURN_TO_HANDLER, 0x9010) == 0xA1


def test_fgraph_cursor_goes_on_from_the_last_match() -> None:
    m = Machine()
    m.fgraph(0xA2, retp=0x9000)  # the same slot again, further out
    m.fgraph(0xA1, retp=0x9010)
    m.fgraph(0xA0, retp=0x9000)
    recover = m.recovery()
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA0
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA2


def test_fgraph_skips_the_frames_of_tail_calls() -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.fgraph(RETURN_TO_HANDLER, retp=0x9000)
    assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == 0xA0


def test_fgraph_stack_that_is_not_whole_in_the_dump_is_tried_once_and_read_as_far_as_needed() -> (
    None
):
    m = Machine()
    ret_stack = BASE + len(m.memory) - 8 * 10
    m.put(TASK, ret_stack)
    m.put(TASK + 8, 512)  # from here on, all but ten words are missing
    recover = m.recovery()
    for _ in range(2):
        with pytest.raises(NotInDump) as e:
            recover(RETURN_TO_HANDLER, 0x9000)
        assert e.value.addr == ret_stack + 8 * 511
    assert 0 < m.bytes_read < 2 * 80
    m = Machine()
    m.put(TASK, ret_stack)
    m.put(ret_stack, 0xA0, 0, 0, 0x9000, (1 << 10) | 4)
    m.put(TASK + 8, 5)
    assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == 0xA0


def test_fgraph_stack_is_read_once_where_it_is_whole() -> None:
    m = Machine()
    for i in range(4):
        m.fgraph(0xA0 + i, retp=0x9000 + i)
    recover = m.recovery()
    assert [recover(RETURN_TO_HANDLER, 0x9000 + i) for i in (3, 2, 1, 0)] == [
        0xA3,
        0xA2,
        0xA1,
        0xA0,
    ]
    assert m.reads == 2  # the members of the task, the stack


def test_fgraph_frames_are_found_beside_what_is_missing_of_their_stack() -> None:
    m = Machine()
    m.fgraph(0xA1, retp=0x9010)
    m.fgraph(0xA0, retp=0x9000, data_words=3)
    prog = m.program()
    exclude(prog, RET_STACK + 8 * 9, 8)  # data of the inner one
    exclude(prog, RET_STACK - 8, 8)
    task = cast(Task, SimpleNamespace(addr=TASK, is_runnable=False))
    recover = Recovery(prog, RecoverLayout(8, FGRAPH, None), task)
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA0
    assert recover(RETURN_TO_HANDLER, 0x9010) == 0xA1
    # Nothing is looked for below the outermost one.
    assert Recovery(prog, RecoverLayout(8, FGRAPH, None), task)(RETURN_TO_HANDLER, 0x9020) == (
        RETURN_TO_HANDLER
    )


@pytest.mark.parametrize(("ret_stack", "curr"), [(16, 8), (32, 48), (32, 64), (40, 36)])
def test_fgraph_members_are_read_at_once_wherever_they_lie_in_the_task(
    ret_stack: int, curr: int
) -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.put(TASK, 0, 0)
    m.put(TASK + ret_stack, RET_STACK)
    m.memory[curr : curr + 4] = (5).to_bytes(4, "little")
    fgraph = msgspec.structs.replace(
        FGRAPH, ret_stack_offset=ret_stack, curr_ret_stack=(curr, 4), max_index=5
    )
    assert m.recovery(fgraph)(RETURN_TO_HANDLER, 0x9000) == 0xA0
    ends = (ret_stack, ret_stack + 8, curr, curr + 4)
    assert m.bytes_read == max(ends) - min(ends) + 5 * 8


def test_fgraph_word_may_lead_down_by_one() -> None:
    # As in the kernel, where nothing says that a frame has to lie below its word.
    m = Machine()
    m.put(RET_STACK + 8 * 3, 0xA0, (1 << 10) | 1, 0, 0x9000)
    m.put(TASK + 8, 5)
    assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == 0xA0


def test_fgraph_stack_may_be_full() -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    full = msgspec.structs.replace(FGRAPH, max_index=5)
    assert m.recovery(full)(RETURN_TO_HANDLER, 0x9000) == 0xA0
    with pytest.raises(NotInDump):
        m.recovery(msgspec.structs.replace(FGRAPH, max_index=4))(RETURN_TO_HANDLER, 0x9000)


def test_fgraph_stack_of_32_bit_that_is_missing_cannot_be_told() -> None:
    m = Machine()
    m.put(TASK, 0x400, 1)
    prog = m.program()
    task = cast(Task, SimpleNamespace(addr=TASK, is_runnable=False))
    recover = Recovery(prog, RecoverLayout(4, FGRAPH, None), task)
    with pytest.raises(NotInDump) as e:
        recover(RETURN_TO_HANDLER, 0x9000)
    assert e.value.addr == 0x400


@pytest.mark.parametrize("depth", [0, -1])
def test_fgraph_that_finds_nothing_stays_return_to_handler(depth: int) -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.put(TASK + 8, depth & 0xFFFF_FFFF)
    assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == RETURN_TO_HANDLER


@pytest.mark.parametrize("depth", [513, 1 << 30])
def test_fgraph_stack_deeper_than_there_is_cannot_be_told(depth: int) -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.put(TASK + 8, depth)
    with pytest.raises(NotInDump):
        m.recovery()(RETURN_TO_HANDLER, 0x9000)


def test_fgraph_stops_at_a_word_that_leads_nowhere() -> None:
    for word in (0, 1023):
        m = Machine()
        m.fgraph(0xA0, retp=0x9000)
        m.put(RET_STACK + 8 * 4, word)
        assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == RETURN_TO_HANDLER


def test_fgraph_stops_at_a_zero_word_with_a_frame_that_matches_there_and_below() -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.put(RET_STACK + 8 * 7, 0, 0, 0, 0x9000)  # {ret = 0, func, calltime, retp}
    m.put(TASK + 8, 8)
    assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == RETURN_TO_HANDLER


def test_rethook_finds_the_node_by_its_frame() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000), (TRAMPOLINE, 0x9010), (0xA1, 0x9010))
    recover = m.recovery()
    assert recover(TRAMPOLINE, 0x9000) == 0xA0
    assert recover(TRAMPOLINE, 0x9010) == 0xA1


def test_rethook_that_is_not_found_is_no_address() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000))
    assert m.recovery()(TRAMPOLINE, 0x9999) == 0


def test_rethook_of_a_runnable_task_is_not_looked_up() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000))
    m.runnable = True
    assert m.recovery()(TRAMPOLINE, 0x9000) == 0


def test_rethook_of_the_task_that_runs_is() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000))
    m.runnable = True
    assert m.recovery(current=True)(TRAMPOLINE, 0x9000) == 0xA0


def test_kretprobe_without_rethook_does_not_ask_who_runs() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000))
    m.runnable = True
    of_kretprobes = msgspec.structs.replace(RETHOOK, refuses_runnable=False)
    assert m.recovery(rethook=of_kretprobes)(TRAMPOLINE, 0x9000) == 0xA0


def test_rethook_list_bent_into_a_loop_cannot_be_told() -> None:
    for ret_addr in (0xA0, TRAMPOLINE):
        m = Machine()
        m.rethook((ret_addr, 0x9000))
        m.put(NODES, NODES)
        with pytest.raises(NotInDump):
            m.recovery()(TRAMPOLINE, 0x9999)


def test_rethook_node_of_which_a_part_is_missing_is_used_if_that_is_not_needed() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000))
    end = BASE + len(m.memory)
    m.put(TASK + 16, m.put(end - 24, NODES, 0, TRAMPOLINE))
    assert m.recovery()(TRAMPOLINE, 0x9000) == 0xA0
    m.put(end - 8, 0xA1)
    with pytest.raises(NotInDump) as e:
        m.recovery()(TRAMPOLINE, 0x9000)
    assert e.value.addr == end


def test_rethook_node_is_read_at_once() -> None:
    m = Machine()
    m.rethook(*[(0xA0 + i, 0x9000 + i) for i in range(3)])
    assert m.recovery()(TRAMPOLINE, 0x9002) == 0xA2
    assert m.reads == 1 + 3


@pytest.mark.parametrize("offset", [2048, 1 << 43, (1 << 62) - 8])
def test_rethook_node_that_cannot_be_that_large_is_not_read_at_once(offset: int) -> None:
    m = Machine()
    far = msgspec.structs.replace(RETHOOK, frame_offset=offset)
    m.rethook((0xA0, 0x9000))
    m.put(NODES + 2048, 0x9000)
    m.bytes_read = 0
    recover = m.recovery(rethook=far)
    if offset == 2048:
        assert recover(TRAMPOLINE, 0x9000) == 0xA0
    else:
        with pytest.raises(NotInDump):
            recover(TRAMPOLINE, 0x9000)
    assert m.bytes_read <= 4 * 8


def test_rethook_loop_of_many_nodes_is_gone_round_for_one_stack_only() -> None:
    m = Machine()
    m.rethook(*[(0xA0 + i, 0x9000 + i) for i in range(30)])
    m.put(NODES + 64 * 29, NODES)
    recover = m.recovery()
    for _ in range(100):
        with pytest.raises(NotInDump):
            recover(TRAMPOLINE, 0x8888)
    assert m.reads < 4 * 4096


def test_task_is_not_current_unless_that_is_said() -> None:
    m = Machine()
    m.rethook((0xA0, 0x9000))
    task = cast(Task, SimpleNamespace(addr=TASK, is_runnable=True))
    assert Recovery(m.program(), RecoverLayout(8, None, RETHOOK), task)(TRAMPOLINE, 0x9000) == 0


@pytest.mark.parametrize(
    ("ret_addr", "frame"), [(16, 24), (24, 16), (-16, -8), (-8, -16), (-16, 8), (8, -16), (-8, 240)]
)
def test_rethook_node_may_have_its_link_anywhere(ret_addr: int, frame: int) -> None:
    m = Machine()
    first, second = NODES, NODES + 1024
    m.put(TASK + 16, first)
    for node, after, values in ((first, second, (0xA1, 0x9010)), (second, 0, (0xA0, 0x9000))):
        for offset, value in zip((0, ret_addr, frame), (after, *values)):
            m.put(node + offset, value)
    rethook = msgspec.structs.replace(RETHOOK, ret_addr_offset=ret_addr, frame_offset=frame)
    recover = m.recovery(rethook=rethook)
    assert recover(TRAMPOLINE, 0x9000) == 0xA0
    ends = (0, 8, ret_addr, ret_addr + 8, frame, frame + 8)
    assert (m.reads, m.bytes_read) == (3, 8 + 2 * (max(ends) - min(ends)))


@pytest.mark.parametrize(("ret_addr", "frame"), [(-200, 100), (-8, 248), (16, 256)])
def test_rethook_node_of_more_than_256_bytes_is_read_word_by_word(
    ret_addr: int, frame: int
) -> None:
    m = Machine()
    m.put(TASK + 16, NODES)
    m.put(NODES + ret_addr, 0xA0)
    m.put(NODES + frame, 0x9000)
    rethook = msgspec.structs.replace(RETHOOK, ret_addr_offset=ret_addr, frame_offset=frame)
    assert m.recovery(rethook=rethook)(TRAMPOLINE, 0x9000) == 0xA0
    assert m.bytes_read == 3 * 8


def test_rethook_list_that_leads_to_no_node_cannot_be_told() -> None:
    m = Machine()
    m.put(TASK + 16, 1)
    with pytest.raises(NotInDump) as e:
        m.recovery()(TRAMPOLINE, 0x9000)
    assert e.value.addr == 1 + 16


@pytest.mark.parametrize(("nodes", "found"), [(4096, True), (4097, False)])
def test_rethook_list_may_have_4096_nodes(nodes: int, found: bool) -> None:
    m = Machine()
    m.memory.extend(bytes(64 * nodes))
    m.rethook(*[(TRAMPOLINE, 0)] * (nodes - 1), (0xA0, 0x9000))
    recover = m.recovery()
    if found:
        assert recover(TRAMPOLINE, 0x9000) == 0xA0
    else:
        with pytest.raises(NotInDump):
            recover(TRAMPOLINE, 0x9000)


def test_fgraph_comes_first_and_rethook_looks_at_what_it_gives() -> None:
    m = Machine()
    m.fgraph(TRAMPOLINE, retp=0x9000)
    m.rethook((0xA0, 0x9000))
    assert m.recovery()(RETURN_TO_HANDLER, 0x9000) == 0xA0


def test_where_an_original_is_needed_fgraph_that_has_none_gives_no_address() -> None:
    # kunwind_recover_return_address() of arm64
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.fgraph(RETURN_TO_HANDLER, retp=0x9010)
    assert m.recovery(needs_original=True)(RETURN_TO_HANDLER, 0x9000) == 0xA0
    for retp in (0x9010, 0x9020):
        assert m.recovery(needs_original=True)(RETURN_TO_HANDLER, retp) == 0
        assert m.recovery()(RETURN_TO_HANDLER, retp) == RETURN_TO_HANDLER


def test_where_an_original_is_needed_a_task_without_a_shadow_stack_is_not_asked() -> None:
    m = Machine()
    m.put(TASK, 0, 5)
    assert m.recovery(needs_original=True)(RETURN_TO_HANDLER, 0x9000) == RETURN_TO_HANDLER


def test_where_an_original_is_needed_that_of_a_kretprobe_may_be_return_to_handler() -> None:
    m = Machine()
    m.fgraph(0xA0, retp=0x9000)
    m.rethook((RETURN_TO_HANDLER, 0x9000))
    assert m.recovery(needs_original=True)(TRAMPOLINE, 0x9000) == RETURN_TO_HANDLER


def test_memory_that_is_missing_is_said() -> None:
    m = Machine()
    m.put(TASK + 16, BASE + 0x10000)
    with pytest.raises(NotInDump):
        m.recovery()(TRAMPOLINE, 0x9000)


# ---- the array of before v6.11


def array(*entries: tuple[int, int], index: int, ret_offset: int = 0) -> Recovery:
    """task->ret_stack as an array of {ret, func, calltime, retp}, or with ret further up."""
    m = Machine()
    for i, (ret, retp) in enumerate(entries):
        m.put(RET_STACK + 32 * i + 24, retp)
        m.put(RET_STACK + 32 * i + ret_offset, ret)
    m.put(TASK + 8, index & 0xFFFF_FFFF)
    fgraph = msgspec.structs.replace(FGRAPH, of_words=False, max_index=49, ret_offset=ret_offset)
    return m.recovery(fgraph)


def test_array_entry_is_found_by_where_the_address_lay() -> None:
    recover = array((0xA1, 0x9010), (0xA0, 0x9000), index=1)
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA0
    assert recover(RETURN_TO_HANDLER, 0x9010) == 0xA1


def test_array_is_searched_from_the_outermost_entry_each_time() -> None:
    recover = array((0xA1, 0x9000), (0xA0, 0x9000), index=1)
    assert [recover(RETURN_TO_HANDLER, 0x9000) for _ in range(2)] == [0xA1, 0xA1]


def test_array_entries_above_the_index_are_stale() -> None:
    recover = array((0xA1, 0x9010), (0xA0, 0x9000), index=0)
    assert recover(RETURN_TO_HANDLER, 0x9000) == RETURN_TO_HANDLER


def test_array_of_one_entry_has_index_0() -> None:
    assert array((0xA0, 0x9000), index=0)(RETURN_TO_HANDLER, 0x9000) == 0xA0


def test_array_may_be_full() -> None:
    entries = [(0xA0 + i, 0x9000 + i) for i in range(50)]
    assert array(*entries, index=49)(RETURN_TO_HANDLER, 0x9031) == 0xA0 + 49


def test_array_entry_may_begin_with_another_member() -> None:
    recover = array((0xA1, 0x9010), (0xA0, 0x9000), index=1, ret_offset=16)
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA0


def test_array_holds_where_addresses_lay_in_one_member_only() -> None:
    # The return address of the entry in the middle looks like a place.
    recover = array((0xA0, 0x9010), (0x9000, 0x9020), (0xA2, 0x9000), index=2)
    assert recover(RETURN_TO_HANDLER, 0x9000) == 0xA2


def test_array_that_is_empty_holds_nothing() -> None:
    assert array((0xA0, 0x9000), index=-1)(RETURN_TO_HANDLER, 0x9000) == RETURN_TO_HANDLER


def test_array_without_places_is_in_the_order_of_the_stack() -> None:
    # arm64 before v5.16; the entry of a tail call is used up like any other
    m = Machine()
    for i, ret in enumerate((0xA2, RETURN_TO_HANDLER, 0xA0, 0xBAD)):
        m.put(RET_STACK + 24 * i + 8, ret)
    m.put(TASK + 8, 2)
    fgraph = msgspec.structs.replace(
        FGRAPH, of_words=False, max_index=49, frame_bytes=24, ret_offset=8, retp_offset=None
    )
    recover = m.recovery(fgraph, needs_original=True)
    found = [recover(RETURN_TO_HANDLER, 0x9000) for _ in range(5)]
    assert found == [0xA0, RETURN_TO_HANDLER, 0xA2, 0, 0]
    m.put(TASK + 8, 50)
    with pytest.raises(NotInDump):
        m.recovery(fgraph, needs_original=True)(RETURN_TO_HANDLER, 0x9000)


@pytest.mark.parametrize("index", [50, 1 << 30])
def test_array_longer_than_there_is_cannot_be_told(index: int) -> None:
    with pytest.raises(NotInDump):
        array((0xA0, 0x9000), index=index)(RETURN_TO_HANDLER, 0x9000)


# ---- what a kernel has, by its types and symbols


def hooked_kernel(task_members: str) -> DrawnKernel:
    kernel = DrawnKernel()
    kernel.struct("llist_node", "struct llist_node *next")
    kernel.struct("llist_head", "struct llist_node *first")
    kernel.struct("task_struct", task_members)
    return kernel


def test_rethook_is_known_by_its_trampoline_and_types() -> None:
    kernel = hooked_kernel("unsigned long state; struct llist_head rethooks")
    kernel.struct(
        "rethook_node",
        "unsigned long rcu[2]; struct llist_node llist; void *rethook;"
        " unsigned long ret_addr; unsigned long frame",
    )
    # A task of CONFIG_RETHOOK=n has no rethooks. Without the symbol originals would not be looked for.
    with pytest.raises(TypesError, match="no symbol arch_rethook_trampoline, though tasks have"):
        probe_recovery(kernel.prog)
    kernel.symbol("arch_rethook_trampoline", TRAMPOLINE)
    assert probe_recovery(kernel.prog).rethook == Rethook(TRAMPOLINE, 8, 16, 24, True)


def test_kretprobes_of_5_16_are_known_by_their_trampoline_and_types() -> None:
    kernel = hooked_kernel("unsigned long state; struct llist_head kretprobe_instances")
    kernel.struct(
        "kretprobe_instance",
        "unsigned long rcu[2]; struct llist_node llist; void *rph; void *ret_addr; void *fp",
    )
    # Fuzz: arm64-built-6.1, seed 700707. It had lost its name, and was shown as a caller.
    with pytest.raises(TypesError, match="no symbol __kretprobe_trampoline, though tasks have"):
        probe_recovery(kernel.prog)
    # Up to v5.15, where no walk sees through it.
    kernel.symbol("kretprobe_trampoline", TRAMPOLINE)
    assert probe_recovery(kernel.prog).rethook is None
    kernel.symbol("__kretprobe_trampoline", TRAMPOLINE)
    assert probe_recovery(kernel.prog).rethook == Rethook(TRAMPOLINE, 8, 16, 24, False)


def test_kretprobes_on_rethook_without_rethook_are_damaged_and_none() -> None:
    kernel = hooked_kernel("unsigned long state; struct llist_head kretprobe_instances")
    kernel.symbol("__kretprobe_trampoline", TRAMPOLINE)
    kernel.struct("kretprobe_instance", "struct llist_node llist; void *rph")
    assert probe_recovery(kernel.prog).rethook is None


def test_rethook_needs_its_list_in_the_task() -> None:
    kernel = hooked_kernel("unsigned long state")
    for name in ("arch_rethook_trampoline", "__kretprobe_trampoline"):
        kernel.symbol(name, TRAMPOLINE)
    assert probe_recovery(kernel.prog).rethook is None


ENTRY_WITHOUT_RETP = "unsigned long func; unsigned long ret; unsigned long fp"


def traced_kernel(
    task_members: str,
    machine: drgn.Architecture = drgn.Architecture.X86_64,
    entry: str = f"{ENTRY_WITHOUT_RETP}; unsigned long *retp",
) -> DrawnKernel:
    kernel = DrawnKernel(machine)
    kernel.symbol("return_to_handler", RETURN_TO_HANDLER)
    kernel.struct("ftrace_ret_stack", entry)
    kernel.struct("task_struct", task_members)
    return kernel


SHADOW_STACK = (
    "unsigned long state; int curr_ret_stack; int curr_ret_depth; unsigned long *ret_stack"
)
TOO_FAR = r"\(struct task_struct cannot have ret_stack so far from curr_ret_stack\)"
ARRAY = "unsigned long state; int curr_ret_stack; struct ftrace_ret_stack *ret_stack"


@pytest.mark.parametrize(
    ("members", "page_bytes", "of_words", "max_index"),
    [
        (SHADOW_STACK, 4096, True, 512),
        (SHADOW_STACK, 1 << 20, True, 65536 // 8),  # no machine has such a page
        (ARRAY, 4096, False, 49),
    ],
)
def test_fgraph_is_known_by_its_handler_and_types(
    members: str, page_bytes: int, of_words: bool, max_index: int
) -> None:
    kernel = traced_kernel(members)
    kernel.constant("PAGE_SIZE", page_bytes)
    found = probe_recovery(kernel.prog)
    assert found == RecoverLayout(
        word_bytes=8,
        fgraph=Fgraph(
            return_to_handler=RETURN_TO_HANDLER,
            of_words=of_words,
            ret_stack_offset=16,
            curr_ret_stack=(8, 4),
            max_index=max_index,
            frame_bytes=32,
            ret_offset=8,
            retp_offset=24,
        ),
        rethook=None,
    )
    assert found.trampolines == {RETURN_TO_HANDLER}


def test_only_the_array_of_arm64_may_lack_where_addresses_lay() -> None:
    arm64 = drgn.Architecture.AARCH64
    found = probe_recovery(traced_kernel(ARRAY, arm64, ENTRY_WITHOUT_RETP).prog).fgraph
    assert found is not None
    assert (found.of_words, found.frame_bytes, found.retp_offset) == (False, 24, None)
    with_retp = probe_recovery(traced_kernel(ARRAY, arm64).prog).fgraph
    assert with_retp is not None and with_retp.retp_offset == 24
    for members, machine in ((SHADOW_STACK, arm64), (ARRAY, drgn.Architecture.X86_64)):
        with pytest.raises(TypesError, match="retp"):
            probe_recovery(traced_kernel(members, machine, ENTRY_WITHOUT_RETP).prog)


@pytest.mark.parametrize(
    ("machine", "needs_original"),
    [(drgn.Architecture.X86_64, False), (drgn.Architecture.AARCH64, True)],
)
def test_the_machine_says_whether_an_original_is_needed(
    machine: drgn.Architecture, needs_original: bool
) -> None:
    kernel = DrawnKernel(machine)
    kernel.struct("task_struct", "unsigned long state")
    assert probe_recovery(kernel.prog).needs_original is needs_original


def test_kernel_without_the_graph_tracer_has_no_fgraph() -> None:
    assert probe_recovery(traced_kernel("unsigned long state").prog).fgraph is None


def test_kernel_with_the_graph_tracer_has_its_handler() -> None:
    # A fuzzer damaged the names of symbols: originals were not looked for, and stacks were reliable.
    kernel = traced_kernel(SHADOW_STACK)
    kernel.forget_symbol("return_to_handler")
    with pytest.raises(TypesError, match="no symbol return_to_handler, though tasks have"):
        probe_recovery(kernel.prog)


@pytest.mark.parametrize(
    ("first", "second", "between", "fits"),
    [
        ("unsigned long *ret_stack", "int curr_ret_stack", 65532 - 8, True),
        ("unsigned long *ret_stack", "int curr_ret_stack", 65536 - 8, False),
        ("char before[40000]; unsigned long *ret_stack", "int curr_ret_stack", 65532 - 8, True),
        ("int curr_ret_stack", "unsigned long *ret_stack", 65528 - 4, True),
        ("int curr_ret_stack", "unsigned long *ret_stack", 65536 - 4, False),
    ],
)
def test_members_of_a_task_that_lie_too_far_apart_are_damage(
    first: str, second: str, between: int, fits: bool
) -> None:
    # Both are read at once.
    kernel = traced_kernel(f"{first}; char between[{between}]; {second}")
    if fits:
        assert probe_recovery(kernel.prog).fgraph is not None
    else:
        with pytest.raises(TypesError, match=TOO_FAR):
            probe_recovery(kernel.prog)


@pytest.mark.parametrize(
    ("members", "size_bytes", "message"),
    [
        # 50 of them would be read at once, and Python has no room for that: MemoryError.
        (ARRAY, (1 << 32) - 8, r"struct ftrace_ret_stack cannot have 4294967288 bytes"),
        (SHADOW_STACK, (1 << 32) - 8, r"struct ftrace_ret_stack cannot have 4294967288 bytes"),
        # Each original would be 0, which makes a stack unreliable.
        (SHADOW_STACK, 24, r"struct ftrace_ret_stack cannot be smaller than its members"),
    ],
)
def test_an_entry_of_the_graph_tracer_of_an_impossible_size(
    members: str, size_bytes: int, message: str
) -> None:
    kernel = traced_kernel(members)
    kernel.resize("ftrace_ret_stack", size_bytes)
    with pytest.raises(TypesError, match=message):
        probe_recovery(kernel.prog)


def test_trampolines_are_those_of_what_the_kernel_has() -> None:
    assert RecoverLayout(8, FGRAPH, RETHOOK).trampolines == {RETURN_TO_HANDLER, TRAMPOLINE}
    assert RecoverLayout(8, None, RETHOOK).trampolines == {TRAMPOLINE}
    assert RecoverLayout(8, None, None).trampolines == set()


# ---- the address of a trampoline, of a table of symbols that is damaged


@pytest.mark.parametrize("distance", [64, 1 << 40], ids=["other code", "not in the dump"])
@pytest.mark.parametrize("name", ["return_to_handler", "arch_rethook_trampoline"])
def test_a_trampoline_that_is_not_where_the_damaged_table_has_it(
    name: str, distance: int, demo_core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From seeds 100216 of the dump i386-nopae and 400115 of i386-pae: the trampoline was shown as a caller."""
    prog = open_program(core=demo_core)
    right = probe_recovery(prog)
    kallsyms = kallsyms_of(prog)
    assert kallsyms is not None and kallsyms.is_sound()
    (address,) = kallsyms.find(name)
    assert address in right.trampolines
    find = kallsyms.find
    monkeypatch.setattr(
        kallsyms, "find", lambda wanted: [address + distance] if wanted == name else find(wanted)
    )
    # Somebody may have built a kernel like this, or the dump lacks its code.
    assert address + distance in probe_recovery(prog).trampolines
    monkeypatch.setattr(kallsyms, "is_sound", lambda: False)
    with pytest.raises(TypesError, match=f"{name} is not at {address + distance:#x}"):
        probe_recovery(prog)
    monkeypatch.setattr(kallsyms, "find", find)
    assert probe_recovery(prog) == right
