# SPDX-License-Identifier: LGPL-2.1-or-later
"""Return addresses that the kernel itself rewrote: function graph tracer, kretprobes.

Follows unwind_recover_ret_addr() in arch/x86/include/asm/unwind.h (v6.12): the
function graph tracer is asked first, rethook about what it answers.
"""

from __future__ import annotations

from typing import Optional

import msgspec
from drgn import FaultError, Program, TypeKind, offsetof, sizeof

from ..kernel.layout import probing, symbol_address
from ..kernel.stack_memory import NotInDump
from ..kernel.tasks import Task

__all__ = ("Fgraph", "RecoverLayout", "Recovery", "Rethook", "probe_recovery")

_FGRAPH_FRAME_OFFSET_MASK = (1 << 10) - 1
"""kernel/trace/fgraph.c: the low bits of a word on the shadow stack lead to its frame."""

_MAX_RETHOOK_NODES = 4096
"""A node for each kretprobed function on a stack; the walk of a looping list visits more."""
_MAX_NODE_BYTES = 256
"""From the first of its words that are wanted to the last; more is not read at once."""
_MAX_TASK_BYTES = 1 << 16
"""Between two members of ``struct task_struct``, which has some 10 KiB, in any order (RANDSTRUCT)."""
_FTRACE_RETFUNC_DEPTH = 50
"""linux/ftrace.h: entries of the array before v6.11."""
_MAX_SHADOW_STACK_WORDS = 65536 // 8
"""A page of the largest kind that x86 kernels ever considered; it is 4096 bytes."""


class Fgraph(msgspec.Struct, frozen=True):
    """Where the function graph tracer keeps return addresses."""

    return_to_handler: int
    of_words: bool
    """``task->ret_stack`` is a shadow stack of words (v6.11); before, an array of struct ftrace_ret_stack."""
    ret_stack_offset: int
    curr_ret_stack: tuple[int, int]
    """Offset and size; both are read at once."""
    max_index: int
    """The highest that makes sense: an index from a damaged dump may be anything."""
    frame_bytes: int
    ret_offset: int
    retp_offset: int


class Rethook(msgspec.Struct, frozen=True):
    """Where rethook keeps return addresses (v5.18 and later), or kretprobes do (v5.16, v5.17)."""

    trampoline: int
    first_offset: int
    """Of ``rethooks.first`` in the task. Nodes are linked by their llist member: offsets are from there."""
    ret_addr_offset: int
    frame_offset: int
    refuses_runnable: bool = True
    """Of a task that is not current but TASK_RUNNING, rethook_find_ret_addr() gives nothing."""


class RecoverLayout(msgspec.Struct, frozen=True):
    """What rewrites return addresses in this kernel; ``None`` for what it was built without."""

    word_bytes: int
    fgraph: Optional[Fgraph]
    rethook: Optional[Rethook]

    @property
    def trampolines(self) -> frozenset[int]:
        """What is found in the place of return addresses that were rewritten."""
        fgraph, rethook = self.fgraph, self.rethook
        return frozenset(
            ([fgraph.return_to_handler] if fgraph else [])
            + ([rethook.trampoline] if rethook else [])
        )


def probe_recovery(prog: Program) -> RecoverLayout:
    """Find what rewrites return addresses in this kernel, by its types and symbols.

    :raises TypesError: its types are damaged.
    """
    with probing(prog):
        word_bytes = prog.address_size()
        rethook = _probe_rethook(prog) or _probe_kretprobe(prog)
        return RecoverLayout(word_bytes, _probe_fgraph(prog), rethook)


def _probe_fgraph(prog: Program) -> Optional[Fgraph]:
    handler = symbol_address(prog, "return_to_handler")
    task = prog.type("struct task_struct")
    if handler is None or not task.has_member("ret_stack"):
        return None  # CONFIG_FUNCTION_GRAPH_TRACER=n
    # Since Linux kernel commit 42675b723b48 ("function_graph: Convert ret_stack to
    # a series of longs") (in v6.11), ret_stack points to words. Before that, to
    # an array of struct ftrace_ret_stack.
    of_words = task.member("ret_stack").type.type.kind is not TypeKind.STRUCT
    # SHADOW_STACK_OFFSET: PAGE_SIZE / sizeof(long) (kernel/trace/fgraph.c)
    words = prog["PAGE_SIZE"].value_() // prog.address_size()
    frame = prog.type("struct ftrace_ret_stack")
    curr = task.member("curr_ret_stack")
    ret_stack_offset, curr_ret_stack = offsetof(task, "ret_stack"), (curr.offset, sizeof(curr.type))
    if abs(curr.offset - ret_stack_offset) + curr_ret_stack[1] > _MAX_TASK_BYTES:
        raise ValueError("struct task_struct cannot have ret_stack so far from curr_ret_stack")
    return Fgraph(
        return_to_handler=handler,
        ret_stack_offset=ret_stack_offset,
        curr_ret_stack=curr_ret_stack,
        of_words=of_words,
        max_index=min(words, _MAX_SHADOW_STACK_WORDS) if of_words else _FTRACE_RETFUNC_DEPTH - 1,
        frame_bytes=sizeof(frame),
        ret_offset=offsetof(frame, "ret"),
        retp_offset=offsetof(frame, "retp"),
    )


def _probe_rethook(prog: Program) -> Optional[Rethook]:
    trampoline = symbol_address(prog, "arch_rethook_trampoline")
    task = prog.type("struct task_struct")
    if trampoline is None or not task.has_member("rethooks"):
        return None  # CONFIG_RETHOOK=n, or before v5.18
    node = prog.type("struct rethook_node")
    return Rethook(
        trampoline=trampoline,
        first_offset=offsetof(task, "rethooks.first"),
        ret_addr_offset=offsetof(node, "ret_addr") - offsetof(node, "llist"),
        frame_offset=offsetof(node, "frame") - offsetof(node, "llist"),
    )


def _probe_kretprobe(prog: Program) -> Optional[Rethook]:
    # Since "kprobes: treewide: Make it harder to refer kretprobe_trampoline directly"
    # (v5.16) the trampoline bears this name.
    # In the same release unwinders began to see through it; before, they show it.
    trampoline = symbol_address(prog, "__kretprobe_trampoline")
    task = prog.type("struct task_struct")
    if trampoline is None or not task.has_member("kretprobe_instances"):
        return None
    instance = prog.type("struct kretprobe_instance")
    if not instance.has_member("ret_addr"):
        return None  # CONFIG_KRETPROBE_ON_RETHOOK=y, but no rethook: damaged
    return Rethook(
        trampoline=trampoline,
        first_offset=offsetof(task, "kretprobe_instances.first"),
        ret_addr_offset=offsetof(instance, "ret_addr") - offsetof(instance, "llist"),
        frame_offset=offsetof(instance, "fp") - offsetof(instance, "llist"),
        refuses_runnable=False,
    )


class Recovery:
    """Gives back the return addresses of one task; a :data:`~.base.Recover`.

    Keeps the kernel's cursors (``graph_idx`` and ``kr_cur`` of struct
    unwind_state), so it serves one walk.

    :param current: the task is on a CPU, and the walk is what it would see of itself.
    """

    def __init__(
        self, prog: Program, layout: RecoverLayout, task: Task, current: bool = False
    ) -> None:
        self._prog = prog
        self._layout = layout
        self._task = task
        self._current = current
        self._graph: Optional[tuple[int, int]] = None
        self._shadow_stack: Optional[bytes] = None
        self._graph_idx = 0
        self._kr_cur = 0
        self._node, self._node_bytes = 0, b""
        self._rethook_nodes_left = _MAX_RETHOOK_NODES

    def __call__(self, addr: int, addr_p: int) -> int:
        fgraph, rethook = self._layout.fgraph, self._layout.rethook
        if fgraph is not None and addr == fgraph.return_to_handler:
            find = self._in_shadow_stack if fgraph.of_words else self._in_array
            addr = find(fgraph, addr, addr_p)
        if rethook is not None and addr == rethook.trampoline:
            addr = self._rethook_find_ret_addr(rethook, addr_p)
        return addr

    def _graph_of_task(self, fgraph: Fgraph) -> tuple[int, int]:
        """``task->ret_stack`` and ``task->curr_ret_stack``, which lie side by side."""
        if self._graph is None:
            word, (offset, size) = self._layout.word_bytes, fgraph.curr_ret_stack
            begin = min(offset, fgraph.ret_stack_offset)
            end = max(offset + size, fgraph.ret_stack_offset + word)
            data = self._read(self._task.addr + begin, end - begin)
            curr = data[offset - begin :][:size]
            self._graph = (
                self._word_in(data, fgraph.ret_stack_offset - begin),
                int.from_bytes(curr, "little", signed=True),
            )
        return self._graph

    def _on_shadow_stack(self, ret_stack: int, words: int, index: int, size_bytes: int) -> bytes:
        """Memory of a shadow stack from a word on.

        :param words: how many there are: all are read at once, if they are in the dump.
        """
        word = self._layout.word_bytes
        if self._shadow_stack is None:
            try:
                self._shadow_stack = self._read(ret_stack, words * word)
            except NotInDump:
                self._shadow_stack = b""
        found = self._shadow_stack[index * word :][:size_bytes]
        if len(found) < size_bytes:
            return self._read(ret_stack + index * word, size_bytes)
        return found

    def _in_array(self, fgraph: Fgraph, addr: int, addr_p: int) -> int:
        """Follows ftrace_graph_ret_addr() in kernel/trace/fgraph.c, v6.1.

        Each time from the outermost entry, without a cursor, and what an entry of
        a tail call holds is taken as it is.
        """
        ret_stack, index = self._graph_of_task(fgraph)
        if index < 0:
            return addr
        if index > fgraph.max_index:
            raise NotInDump(ret_stack)  # damaged: there is no such array
        frames = self._read(ret_stack, (index + 1) * fgraph.frame_bytes)
        for start in range(0, len(frames), fgraph.frame_bytes):
            if self._word_in(frames, start + fgraph.retp_offset) == addr_p:
                return self._word_in(frames, start + fgraph.ret_offset)
        return addr

    def _in_shadow_stack(self, fgraph: Fgraph, addr: int, addr_p: int) -> int:
        """Follows ftrace_graph_ret_addr() and get_ret_stack() in kernel/trace/fgraph.c, v6.12.

        What is not found stays ``return_to_handler``, which is kernel text: the
        kernel shows it and calls the stack reliable.
        """
        # struct ftrace_ret_stack on the shadow stack, higher indexes above:
        #   [curr_ret_stack]
        #   word: low bits = words from here down to the frame   <- i - 1
        #   ...   data of fgraph_ops
        #   struct ftrace_ret_stack                              <- where that leads
        ret_stack, words = self._graph_of_task(fgraph)
        i = self._graph_idx or words
        if i > fgraph.max_index:
            raise NotInDump(ret_stack)  # damaged: there is no such stack
        while i > 0:
            i -= 1
            top = self._on_shadow_stack(ret_stack, words, i, self._layout.word_bytes)
            down = int.from_bytes(top, "little") & _FGRAPH_FRAME_OFFSET_MASK
            if not 0 < down <= i:
                break
            i -= down
            frame = self._on_shadow_stack(ret_stack, words, i, fgraph.frame_bytes)
            ret = self._word_in(frame, fgraph.ret_offset)
            if (
                self._word_in(frame, fgraph.retp_offset) == addr_p
                and ret != fgraph.return_to_handler
            ):
                self._graph_idx = i
                return ret
        return addr

    def _rethook_find_ret_addr(self, rethook: Rethook, addr_p: int) -> int:
        """Follows rethook_find_ret_addr() in kernel/trace/rethook.c, v6.12.

        And kretprobe_find_ret_addr() in kernel/kprobes.c, v5.17, which is the same
        but for one rule.

        :return: 0 if it is not found, or the task is TASK_RUNNING and not current: no
            kernel text, so the stack is unreliable.
        """
        if rethook.refuses_runnable and self._task.is_runnable and not self._current:
            return 0
        while True:
            node, ret_addr = self._next_rethook(rethook)
            if ret_addr == 0 or self._word_of_node(rethook, node, rethook.frame_offset) == addr_p:
                return ret_addr

    def _next_rethook(self, rethook: Rethook) -> tuple[int, int]:
        """__rethook_find_ret_addr(): the next node whose address is a real one."""
        if self._kr_cur:
            node = self._word_of_node(rethook, self._kr_cur)
        else:
            node = self._word(self._task.addr + rethook.first_offset)
        while node and self._rethook_nodes_left:
            self._rethook_nodes_left -= 1
            ret_addr = self._word_of_node(rethook, node, rethook.ret_addr_offset)
            if ret_addr != rethook.trampoline:
                self._kr_cur = node
                return node, ret_addr
            node = self._word_of_node(rethook, node)
        if node:
            raise NotInDump(node)  # the list does not end: what else is on it is lost
        return 0, 0

    def _word_of_node(self, rethook: Rethook, node: int, offset: int = 0) -> int:
        """A word of a node, by default its link: all three are read at once, if they are in the dump."""
        begin = min(0, rethook.ret_addr_offset, rethook.frame_offset)
        if node != self._node:
            end = max(0, rethook.ret_addr_offset, rethook.frame_offset) + self._layout.word_bytes
            if end - begin > _MAX_NODE_BYTES:
                return self._word(node + offset)
            try:
                self._node, self._node_bytes = node, self._read(node + begin, end - begin)
            except NotInDump:
                return self._word(node + offset)
        return self._word_in(self._node_bytes, offset - begin)

    # ---- memory

    def _read(self, addr: int, size_bytes: int) -> bytes:
        try:
            return bytes(self._prog.read(addr & ((1 << 64) - 1), size_bytes))
        except FaultError:
            raise NotInDump(addr) from None

    def _word(self, addr: int) -> int:
        return int.from_bytes(self._read(addr, self._layout.word_bytes), "little")

    def _word_in(self, data: bytes, offset: int) -> int:
        return int.from_bytes(data[offset : offset + self._layout.word_bytes], "little")
