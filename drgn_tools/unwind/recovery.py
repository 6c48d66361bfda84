# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recover the return addresses that the kernel has rewritten for the function graph tracer and for kretprobes.

Follows unwind_recover_ret_addr() in arch/x86/include/asm/unwind.h (v6.12), and
kunwind_recover_return_address() in arch/arm64/kernel/stacktrace.c (v7.2): first the function graph
tracer is asked for the original. If the original is the trampoline of rethook, rethook is asked in turn.
"""

from __future__ import annotations

from functools import partial
from typing import Optional

import msgspec
from drgn import Program, TypeKind, offsetof, sizeof

from ..arch.registry import arch_of
from ..debuginfo.kallsyms import kallsyms_of
from ..kernel.probing import at_most, probing, symbol_address
from ..kernel.stack_memory import NotInDump
from ..kernel.tasks import Task
from ..memory import ADDRESS_MASK, read_or_none

__all__ = ("Fgraph", "RecoverLayout", "Recovery", "Rethook", "probe_recovery")

_FGRAPH_FRAME_OFFSET_MASK = (1 << 10) - 1
"""Of a word on the shadow stack: distance to its frame in words (kernel/trace/fgraph.c, v6.12)."""

_MAX_RETHOOK_NODES = 4096
"""Limit of nodes that one walk visits: a longer list loops. A stack has one for each function with a kretprobe."""
_MAX_NODE_BYTES = 256
"""If the three words of a node are within this many bytes, they are read at once."""
_MAX_TASK_BYTES = 1 << 16
"""Limit of the distance between two members of ``struct task_struct``, which has about 10 KiB. With RANDSTRUCT the
order differs."""
_MAX_ENTRY_BYTES = 256
"""Limit of the size of struct ftrace_ret_stack, which has 24 to 48 bytes. Many are read at once."""
_FTRACE_RETFUNC_DEPTH = 50
"""Entries of the array before v6.11 (linux/ftrace.h)."""
_MAX_SHADOW_STACK_WORDS = 65536 // 8
"""Limit for the words of a shadow stack. It is a page, but a damaged dump may have any PAGE_SIZE."""


_TRAMPOLINE_BYTES = 128


class Fgraph(msgspec.Struct, frozen=True):
    """Where the function graph tracer keeps the original return addresses."""

    return_to_handler: int
    """Virtual address of ``return_to_handler``, which the tracer writes over return addresses."""
    of_words: bool
    """``task->ret_stack`` points to a shadow stack of words (v6.11 and later). Before that, to an array of
    struct ftrace_ret_stack."""
    ret_stack_offset: int
    """``offsetof(struct task_struct, ret_stack)``."""
    curr_ret_stack: tuple[int, int]
    """Offset and size of ``task->curr_ret_stack``, in bytes."""
    max_index: int
    """The highest value of ``curr_ret_stack`` that is accepted: a damaged dump may have any."""
    frame_bytes: int
    """``sizeof(struct ftrace_ret_stack)``."""
    ret_offset: int
    """``offsetof(struct ftrace_ret_stack, ret)``."""
    retp_offset: Optional[int]
    """``offsetof(struct ftrace_ret_stack, retp)``; ``None`` where there is no such member: entries are then in the order
    of the rewritten addresses on the stack."""


class Rethook(msgspec.Struct, frozen=True):
    """Where rethook keeps the original return addresses (v5.18 and later), or kretprobes do (v5.16, v5.17).

    They are in a list of nodes, which are linked by their member ``llist``. Offsets in a node count
    from that member, and may be negative."""

    trampoline: int
    """Virtual address of the trampoline, which is written over return addresses."""
    first_offset: int
    """Offset of ``rethooks.first`` in ``struct task_struct``, in bytes."""
    ret_addr_offset: int
    """Offset of the original return address in a node."""
    frame_offset: int
    """Offset in a node of the address where the return address was rewritten."""
    refuses_runnable: bool = True
    """rethook_find_ret_addr() returns 0 for a task that is TASK_RUNNING, unless it is the current one."""


class RecoverLayout(msgspec.Struct, frozen=True):
    """What rewrites return addresses in one kernel."""

    word_bytes: int
    """Size of a stack word in bytes."""
    fgraph: Optional[Fgraph]
    """The function graph tracer; ``None`` if the kernel was built without it."""
    rethook: Optional[Rethook]
    """Rethook, or kretprobes; ``None`` if the kernel was built without them."""
    needs_original: bool = False
    """As :attr:`.Arch.needs_original`."""

    @property
    def trampolines(self) -> frozenset[int]:
        """The virtual addresses that this kernel writes over return addresses."""
        fgraph, rethook = self.fgraph, self.rethook
        return frozenset(
            ([fgraph.return_to_handler] if fgraph else [])
            + ([rethook.trampoline] if rethook else [])
        )


def probe_recovery(prog: Program) -> RecoverLayout:
    """Find what rewrites return addresses in this kernel, by its types and symbols.

    :raises TypesError: if its types are damaged
    """
    with probing(prog):
        word_bytes = prog.address_size()
        rethook = _probe_rethook(prog) or _probe_kretprobe(prog)
        needs_original = arch_of(prog).needs_original
        return RecoverLayout(
            word_bytes, _probe_fgraph(prog, needs_original), rethook, needs_original
        )


def _probe_fgraph(prog: Program, needs_original: bool) -> Optional[Fgraph]:
    handler = _trampoline(prog, "return_to_handler")
    task = prog.type("struct task_struct")
    if not task.has_member("ret_stack"):
        return None  # CONFIG_FUNCTION_GRAPH_TRACER=n
    if handler is None:
        raise LookupError("no symbol return_to_handler, though tasks have a ret_stack")
    # Since Linux kernel commit 42675b723b48 ("function_graph: Convert ret_stack to
    # a series of longs") (in v6.11), ret_stack points to words. Before that, to
    # an array of struct ftrace_ret_stack.
    of_words = task.member("ret_stack").type.type.kind is not TypeKind.STRUCT
    # SHADOW_STACK_OFFSET: PAGE_SIZE / sizeof(long) (kernel/trace/fgraph.c)
    words = prog["PAGE_SIZE"].value_() // prog.address_size()
    frame = prog.type("struct ftrace_ret_stack")
    # Since Linux kernel commit c6d3cd32fd00 ("arm64: ftrace: use HAVE_FUNCTION_GRAPH_RET_ADDR_PTR") (in v5.16),
    # entries of arm64 have a retp. Those of x86 have it in every kernel.
    may_lack_retp = needs_original and not of_words
    has_retp = frame.has_member("retp") or not may_lack_retp
    curr = task.member("curr_ret_stack")
    ret_stack_offset, curr_ret_stack = offsetof(task, "ret_stack"), (curr.offset, sizeof(curr.type))
    if abs(curr.offset - ret_stack_offset) + curr_ret_stack[1] > _MAX_TASK_BYTES:
        raise ValueError("struct task_struct cannot have ret_stack so far from curr_ret_stack")
    frame_bytes = at_most(sizeof(frame), _MAX_ENTRY_BYTES, "struct ftrace_ret_stack")
    ret_offset = offsetof(frame, "ret")
    retp_offset = offsetof(frame, "retp") if has_retp else None
    # If a member were outside the struct, each original would be 0.
    if max(ret_offset, retp_offset or 0) + prog.address_size() > frame_bytes:
        raise ValueError("struct ftrace_ret_stack cannot be smaller than its members")
    return Fgraph(
        return_to_handler=handler,
        ret_stack_offset=ret_stack_offset,
        curr_ret_stack=curr_ret_stack,
        of_words=of_words,
        max_index=min(words, _MAX_SHADOW_STACK_WORDS) if of_words else _FTRACE_RETFUNC_DEPTH - 1,
        frame_bytes=frame_bytes,
        ret_offset=ret_offset,
        retp_offset=retp_offset,
    )


def _probe_rethook(prog: Program) -> Optional[Rethook]:
    trampoline = _trampoline(prog, "arch_rethook_trampoline")
    task = prog.type("struct task_struct")
    if not task.has_member("rethooks"):
        return None  # CONFIG_RETHOOK=n, or before v5.18
    if trampoline is None:
        raise LookupError("no symbol arch_rethook_trampoline, though tasks have rethooks")
    node = prog.type("struct rethook_node")
    return Rethook(
        trampoline=trampoline,
        first_offset=offsetof(task, "rethooks.first"),
        ret_addr_offset=offsetof(node, "ret_addr") - offsetof(node, "llist"),
        frame_offset=offsetof(node, "frame") - offsetof(node, "llist"),
    )


def _probe_kretprobe(prog: Program) -> Optional[Rethook]:
    task = prog.type("struct task_struct")
    if not task.has_member("kretprobe_instances"):
        return None  # CONFIG_KRETPROBES=n, or before v5.11
    instance = prog.type("struct kretprobe_instance")
    if not instance.has_member("ret_addr"):
        return None  # CONFIG_KRETPROBE_ON_RETHOOK=y, but no rethook: damaged
    # Since "kprobes: treewide: Make it harder to refer kretprobe_trampoline directly"
    # (v5.16), the trampoline has this name. Since the same release unwinders recover the
    # original. Before that, they show the trampoline.
    trampoline = _trampoline(prog, "__kretprobe_trampoline")
    if trampoline is None:
        if symbol_address(prog, "kretprobe_trampoline") is None:
            raise LookupError(
                "no symbol __kretprobe_trampoline, though tasks have kretprobe_instances"
            )
        return None
    return Rethook(
        trampoline=trampoline,
        first_offset=offsetof(task, "kretprobe_instances.first"),
        ret_addr_offset=offsetof(instance, "ret_addr") - offsetof(instance, "llist"),
        frame_offset=offsetof(instance, "fp") - offsetof(instance, "llist"),
        refuses_runnable=False,
    )


def _trampoline(prog: Program, name: str) -> Optional[int]:
    """Return the address of a trampoline; ``None`` if the kernel has no such symbol.

    With a wrong address the trampoline itself would be shown as a caller. So the code there is checked.

    :raises ValueError: if the code of the trampoline is not there, and the table of symbols is damaged
    """
    address = symbol_address(prog, name)
    if address is None or _is_trampoline(prog, name, address):
        return address
    kallsyms = kallsyms_of(prog)
    # A patched kernel may call another function there, and the page may not be in the dump.
    if kallsyms is None or kallsyms.is_sound():
        return address
    raise ValueError(f"the table of symbols (kallsyms) is damaged: {name} is not at {address:#x}")


def _is_trampoline(prog: Program, name: str, address: int) -> bool:
    """Return whether the code at an address is that of a trampoline; ``False`` if it is not in the dump."""
    code = read_or_none(prog, address, _TRAMPOLINE_BYTES)
    return code is not None and arch_of(prog).is_trampoline(
        name, address, code, partial(symbol_address, prog)
    )


class Recovery:
    """Recovers the return addresses of one walk; a :data:`~.base.Recover`.

    It has the kernel's cursors: ``graph_idx`` and ``kr_cur`` of ``struct unwind_state``.

    :param layout: What rewrites return addresses in this kernel
    :param task: The task whose stack is walked
    :param current: The task is on a CPU, and is walked as if it walked its own stack
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
        self._graph_idx = 0  # without a retp: how many entries were used
        self._kr_cur = 0
        self._node, self._node_bytes = 0, b""
        self._rethook_nodes_left = _MAX_RETHOOK_NODES

    def __call__(self, addr: int, addr_p: int) -> int:
        """Return the original of a return address.

        :param addr: The address that was found on the stack
        :param addr_p: Virtual address of the word that holds it
        :return: *addr* if it was not rewritten, or if the function graph tracer has no original and the
            architecture does not need one; 0 if the architecture needs one, or if rethook has no original
            or refuses to return it
        :raises NotInDump: if memory that holds the original is missing or damaged
        """
        fgraph, rethook = self._layout.fgraph, self._layout.rethook
        if fgraph is not None and addr == fgraph.return_to_handler:
            addr = self._before_fgraph(fgraph, addr, addr_p)
        if rethook is not None and addr == rethook.trampoline:
            addr = self._rethook_find_ret_addr(rethook, addr_p)
        return addr

    def _before_fgraph(self, fgraph: Fgraph, addr: int, addr_p: int) -> int:
        # arm64 does not ask the tracer if the task has no ret_stack.
        if self._layout.needs_original and not self._graph_of_task(fgraph)[0]:
            return addr
        if fgraph.retp_offset is None:
            return self._next_in_array(fgraph)
        find = self._in_shadow_stack if fgraph.of_words else self._in_array
        original = find(fgraph, addr, addr_p, fgraph.retp_offset)
        return 0 if original == addr and self._layout.needs_original else original

    def _graph_of_task(self, fgraph: Fgraph) -> tuple[int, int]:
        """Return ``task->ret_stack`` and ``task->curr_ret_stack``. They are side by side, so one read is enough."""
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
        """Return memory of the shadow stack from a word on.

        :param words: Number of words on it. All are read at once, if they are in the dump.
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

    def _next_in_array(self, fgraph: Fgraph) -> int:
        """Follows ftrace_graph_get_ret_stack() in kernel/trace/fgraph.c, as unwind_frame() of arm64 calls it, v5.10.

        An entry of a tail call holds ``return_to_handler``. It is returned, and its own original is that of the next
        address that was rewritten, as in the kernel.

        :return: 0 if there are no more entries
        """
        ret_stack, top = self._graph_of_task(fgraph)
        if top > fgraph.max_index:
            raise NotInDump(ret_stack)  # damaged: no array is as long
        index = top - self._graph_idx
        self._graph_idx += 1
        if index < 0:
            return 0
        return self._word(ret_stack + index * fgraph.frame_bytes + fgraph.ret_offset)

    def _in_array(self, fgraph: Fgraph, addr: int, addr_p: int, retp_offset: int) -> int:
        """Follows ftrace_graph_ret_addr() in kernel/trace/fgraph.c, v6.1.

        It has no cursor: each search starts at the outermost entry. An entry of a tail call holds
        ``return_to_handler``, which is returned.
        """
        ret_stack, index = self._graph_of_task(fgraph)
        if index < 0:
            return addr
        if index > fgraph.max_index:
            raise NotInDump(ret_stack)  # damaged: no array is as long
        frames = self._read(ret_stack, (index + 1) * fgraph.frame_bytes)
        for start in range(0, len(frames), fgraph.frame_bytes):
            if self._word_in(frames, start + retp_offset) == addr_p:
                return self._word_in(frames, start + fgraph.ret_offset)
        return addr

    def _in_shadow_stack(self, fgraph: Fgraph, addr: int, addr_p: int, retp_offset: int) -> int:
        """Follows ftrace_graph_ret_addr() and get_ret_stack() in kernel/trace/fgraph.c, v6.12.

        If there is no original, ``return_to_handler`` is returned. That is kernel text: the kernel
        shows it and the stack is reliable.
        """
        # struct ftrace_ret_stack on the shadow stack, higher indexes above:
        #   [curr_ret_stack]
        #   word: low bits = words from here down to the frame   <- i - 1
        #   ...   data of fgraph_ops
        #   struct ftrace_ret_stack                              <- where that leads
        ret_stack, words = self._graph_of_task(fgraph)
        i = self._graph_idx or words
        if i > fgraph.max_index:
            raise NotInDump(ret_stack)  # damaged: no shadow stack is as deep
        while i > 0:
            i -= 1
            top = self._on_shadow_stack(ret_stack, words, i, self._layout.word_bytes)
            down = int.from_bytes(top, "little") & _FGRAPH_FRAME_OFFSET_MASK
            if not 0 < down <= i:
                break
            i -= down
            frame = self._on_shadow_stack(ret_stack, words, i, fgraph.frame_bytes)
            ret = self._word_in(frame, fgraph.ret_offset)
            if self._word_in(frame, retp_offset) == addr_p and ret != fgraph.return_to_handler:
                self._graph_idx = i
                return ret
        return addr

    def _rethook_find_ret_addr(self, rethook: Rethook, addr_p: int) -> int:
        """Follows rethook_find_ret_addr() in kernel/trace/rethook.c, v6.12.

        kretprobe_find_ret_addr() in kernel/kprobes.c, v5.17, is the same, except that it does not
        look at the state of the task.

        :return: 0 if there is no original, or the task is TASK_RUNNING and not current. That is
            not kernel text, so the stack is unreliable.
        """
        if rethook.refuses_runnable and self._task.is_runnable and not self._current:
            return 0
        while True:
            node, ret_addr = self._next_rethook(rethook)
            if ret_addr == 0 or self._word_of_node(rethook, node, rethook.frame_offset) == addr_p:
                return ret_addr

    def _next_rethook(self, rethook: Rethook) -> tuple[int, int]:
        """Return the next node that holds an original, and this original (__rethook_find_ret_addr())."""
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
            raise NotInDump(node)  # the list loops: the nodes that should follow are missing
        return 0, 0

    def _word_of_node(self, rethook: Rethook, node: int, offset: int = 0) -> int:
        """Return a word of a node, by default its link. All three words are read at once, if they are in the dump."""
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
        data = read_or_none(self._prog, addr & ADDRESS_MASK, size_bytes)
        if data is None:
            raise NotInDump(addr)
        return data

    def _word(self, addr: int) -> int:
        return int.from_bytes(self._read(addr, self._layout.word_bytes), "little")

    def _word_in(self, data: bytes, offset: int) -> int:
        return int.from_bytes(data[offset : offset + self._layout.word_bytes], "little")
