# SPDX-License-Identifier: LGPL-2.1-or-later
"""What counts as kernel text, and what an address in it is called.

The ranges are those of __kernel_text_address() in kernel/extable.c: the kernel
image, modules, ftrace trampolines, kprobe slots, BPF programs, init text.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple, Optional

from drgn import Object, Program, container_of

from ..bounded_cache import Bounded
from ..debuginfo.kallsyms import UNUSABLE, ModuleKallsyms, kallsyms_of
from ..records import Symbol
from .layout import symbol_address

__all__ = ("KernelText", "TextKind", "TextRange")

_MAX_LIST_ENTRIES = 1_000_000
"""No kernel has this many modules, trampolines or BPF programs; a looping list does."""

_MAX_RANGE_BYTES = 1 << 31
"""All modules together have 1.5 GiB at most (MODULES_LEN)."""

_MAX_NAMES = 100_000
"""Remembered; garbage on stacks may be any number of addresses."""

_BYTES_PAST_END_OF_BPF = 1
"""bpf_tree_comp() takes ``val > ksym->end`` for outside, so the end itself is inside (v6.1.192 and
v6.12; older kernels take ``>=``, and nothing in a dump tells which)."""


class TextKind(enum.Enum):
    """Which clause of __kernel_text_address() an address falls under."""

    CORE = "core"
    MODULE = "module"
    FTRACE = "ftrace trampoline"
    KPROBE = "kprobe slot"
    BPF = "bpf"
    INIT = "init"


class TextRange(NamedTuple):
    """[start, end) of kernel text, virtual addresses."""

    start: int
    end: int
    kind: TextKind
    name: Optional[str] = None
    """Module or BPF program; ``None`` for the rest."""


class KernelText:
    """Kernel text of one program, read once.

    A list that is damaged or not in the dump ends early and leaves a sentence in
    :attr:`problems`: what is then not found may be text all the same.
    """

    def __init__(self, prog: Program, extra: Iterable[TextRange] = ()) -> None:
        self.problems: list[str] = []
        self._prog = prog
        self._address_bits = 8 * prog.address_size()
        self._kallsyms = kallsyms_of(prog)
        self._module_kallsyms: dict[str, Optional[ModuleKallsyms]] = {}
        self._modules: dict[str, Object] = {}
        self._names: Bounded[int, Optional[Symbol]] = Bounded(_MAX_NAMES)
        self._found: Bounded[int, Optional[TextRange]] = Bounded(_MAX_NAMES)
        # The kernel asks for core text first and for init text last.
        self._core = tuple(self._image_text("_stext", "_etext", TextKind.CORE, "schedule"))
        self._init = tuple(self._image_text("_sinittext", "_einittext", TextKind.INIT))
        self._gate = tuple(self._guarded("vsyscall", iter(extra)))
        self._loaded = sorted(
            (
                *self._guarded("modules", _module_text(prog, self._modules)),
                *self._guarded("ftrace trampolines", _ftrace_trampolines(prog)),
                *self._guarded("kprobe slots", _kprobe_slots(prog)),
                *self._guarded("BPF programs", _bpf_text(prog)),
            ),
            key=lambda r: (r.start, r.end),
        )
        # A damaged list may give ranges that overlap, so the one with the
        # highest start need not be the one that holds an address.
        self._starts = [r.start for r in self._loaded]
        self._highest_ends = list(accumulate((r.end for r in self._loaded), max))

    def find(self, addr: int) -> Optional[TextRange]:
        """The range of kernel text that holds *addr*, ``None`` if it is not text."""
        try:
            return self._found[addr]
        except KeyError:
            found = self._found[addr] = self._find(addr)
            return found

    def _find(self, addr: int) -> Optional[TextRange]:
        for r in (*self._core, *self._gate):
            if r.start <= addr < r.end:
                return r
        i = bisect_right(self._starts, addr) - 1
        while i >= 0 and addr < self._highest_ends[i]:
            if addr < self._loaded[i].end:
                return self._loaded[i]
            i -= 1
        return next((r for r in self._init if r.start <= addr < r.end), None)

    def is_kernel_text(self, addr: int) -> Optional[bool]:
        """Follows __kernel_text_address() in kernel/extable.c, v6.12.

        :return: ``None`` if it was not found but not every list could be read.
        """
        if self.find(addr) is not None:
            return True
        return None if self.problems else False

    def name_exact(self, addr: int) -> Optional[Symbol]:
        """What the instruction at *addr* belongs to, as ``%pS`` prints it."""
        try:
            return self._names[addr]
        except KeyError:
            name = self._names[addr] = self._look_up(addr)
            return name

    def name_return_address(self, addr: int) -> Optional[Symbol]:
        """What the ``call`` that returns to *addr* belongs to, as ``%pB`` prints it.

        Follows sprint_backtrace() in kernel/kallsyms.c: the symbol is that of
        the address before, because a call that never returns may be the last
        instruction of its function; the offset is that of *addr*.
        """
        before = self.name_exact(addr - 1)
        return before and Symbol(before.name, before.offset + 1, before.module)

    # ---- names

    def _look_up(self, addr: int) -> Optional[Symbol]:
        where = self.find(addr)
        if where is not None and where.kind is TextKind.MODULE and where.name is not None:
            return self._look_up_in_module(addr, where.name)
        if where is not None and where.kind is TextKind.BPF and where.name is not None:
            return Symbol(where.name, addr - where.start, None)
        if where is None or where.kind in (TextKind.CORE, TextKind.INIT):
            return self._look_up_in_image(addr)
        return None  # the kernel has no name for a trampoline or a slot

    def _look_up_in_image(self, addr: int) -> Optional[Symbol]:
        if self._kallsyms is not None:
            found = self._kallsyms.at(addr)
            return Symbol(found[0], addr - found[1], None) if found else None
        try:
            symbol = self._prog.symbol(addr)
        except (LookupError, OverflowError):
            return None
        return Symbol(symbol.name, addr - symbol.address, None)

    def _look_up_in_module(self, addr: int, module: str) -> Optional[Symbol]:
        if module not in self._module_kallsyms:
            self._module_kallsyms[module] = ModuleKallsyms.of(self._modules[module])
        table = self._module_kallsyms[module]
        found = table.at(addr) if table is not None else None
        return Symbol(found[0], addr - found[1], module) if found else None

    # ---- ranges

    def _image_text(
        self, start_symbol: str, end_symbol: str, kind: TextKind, inside: str = ""
    ) -> Iterator[TextRange]:
        """A range of the image; it must hold *inside*, a function, if that is known."""
        start = symbol_address(self._prog, start_symbol)
        end = symbol_address(self._prog, end_symbol)
        if start is None or end is None:
            self.problems.append(f"no symbols {start_symbol} and {end_symbol} in the dump")
            return
        function = symbol_address(self._prog, inside) if inside else None
        if not start <= end <= start + _MAX_RANGE_BYTES or (
            function is not None and not start <= function < end
        ):
            self.problems.append(
                f"{kind.value} text cannot be from {start:#x} ({start_symbol}) to {end:#x}"
            )
            return
        yield TextRange(start, end, kind)

    def _checked(self, r: TextRange) -> TextRange:
        # Text that is loaded lies in the upper half of the address space, and
        # there is not that much of it.
        if r.start >> (self._address_bits - 1) != 1 or r.end - r.start > _MAX_RANGE_BYTES:
            raise ValueError(f"{r.kind.value} text cannot be from {r.start:#x} to {r.end:#x}")
        return r

    def _guarded(self, what: str, ranges: Iterator[TextRange]) -> Iterator[TextRange]:
        count = 0
        try:
            for r in ranges:
                if r.end > r.start:
                    yield self._checked(r)
                count += 1
                if count >= _MAX_LIST_ENTRIES:
                    self.problems.append(f"the list of {what} does not end")
                    return
        except UNUSABLE as e:
            self.problems.append(f"the list of {what} cannot be read past entry {count}: {e}")


def _variable(prog: Program, name: str) -> Optional[Object]:
    """A global variable; ``None`` for what this kernel was built without.

    :raises LookupError: it is there, but nothing tells its type.
    """
    try:
        return prog[name]
    except LookupError:
        if symbol_address(prog, name) is None:
            return None
        raise


def _follow(prog: Program, head: Object, type_name: str, member: str) -> Iterator[Object]:
    # list_for_each_entry()
    seen: set[int] = set()
    pos = head.next.read_()
    end = head.address_of_().value_()
    while pos.value_() != end:
        _visit(pos.value_(), seen)
        yield container_of(pos, type_name, member)
        pos = pos.next.read_()


def _visit(addr: int, seen: set[int]) -> None:
    # A list bent into a loop lacks what followed: it is damaged, not at its end.
    if addr in seen:
        raise ValueError(f"it loops back to {addr:#x}")
    seen.add(addr)


def _module_text(prog: Program, modules: dict[str, Object]) -> Iterator[TextRange]:
    """is_module_text_address() in kernel/module/main.c: every module but the unformed ones."""
    head = _variable(prog, "modules")
    if head is None:
        return  # CONFIG_MODULES=n
    unformed = prog["MODULE_STATE_UNFORMED"].value_()
    for module in _follow(prog, head, "struct module", "list"):
        if module.state.value_() == unformed:
            continue
        name = module.name.string_().decode("ascii", "backslashreplace")
        modules[name] = module
        for base, size in _module_text_ranges(prog, module):
            yield TextRange(base, base + size, TextKind.MODULE, name)


def _module_text_ranges(prog: Program, module: Object) -> Iterator[tuple[int, int]]:
    # Since Linux kernel commit ac3b43283923440900b4f36ca5f9f0b1ca43b70e ("module:
    # replace module_layout with module_memory") (in v6.4), memory of a module is
    # an array by kind. From v4.5 it was two struct module_layout, before that
    # plain members.
    type_ = module.type_.type
    if type_.has_member("mem"):
        for kind in ("MOD_TEXT", "MOD_INIT_TEXT"):
            memory = module.mem[prog[kind].value_()]
            yield memory.base.value_(), memory.size.value_()
    elif type_.has_member("core_layout"):
        for layout in (module.core_layout, module.init_layout):
            yield layout.base.value_(), layout.text_size.value_()
    else:
        yield module.module_core.value_(), module.core_text_size.value_()
        yield module.module_init.value_(), module.init_text_size.value_()


def _ftrace_trampolines(prog: Program) -> Iterator[TextRange]:
    """is_ftrace_trampoline() in kernel/trace/ftrace.c: trampolines of registered ftrace_ops."""
    ops = _variable(prog, "ftrace_ops_list")
    if ops is None:
        return  # CONFIG_FUNCTION_TRACER=n
    op = ops.read_()
    last = symbol_address(prog, "ftrace_list_end")
    if not op.type_.type.has_member("trampoline"):
        return  # CONFIG_DYNAMIC_FTRACE=n
    seen: set[int] = set()
    while op and op.value_() != last:
        _visit(op.value_(), seen)
        start = op.trampoline.value_()
        if start:  # freeing a trampoline leaves its size
            yield TextRange(start, start + op.trampoline_size.value_(), TextKind.FTRACE)
        op = op.next.read_()


def _kprobe_slots(prog: Program) -> Iterator[TextRange]:
    """__is_insn_slot_addr() in kernel/kprobes.c: pages of out-of-line instructions."""
    page_bytes = prog["PAGE_SIZE"].value_()
    for cache_name in ("kprobe_insn_slots", "kprobe_optinsn_slots"):
        cache = _variable(prog, cache_name)
        if cache is None:
            continue  # CONFIG_KPROBES=n or CONFIG_OPTPROBES=n
        pages = cache.pages
        for page in _follow(prog, pages, "struct kprobe_insn_page", "list"):
            start = page.insns.value_()
            yield TextRange(start, start + page_bytes, TextKind.KPROBE)


def _bpf_text(prog: Program) -> Iterator[TextRange]:
    """is_bpf_text_address() in kernel/bpf/core.c: programs, trampolines, dispatchers."""
    head = _variable(prog, "bpf_kallsyms")
    if head is None:
        return  # CONFIG_BPF_JIT=n
    try:
        prog.type("struct bpf_ksym")
    except LookupError:
        yield from _bpf_text_before_ksym(prog, head)
        return
    for ksym in _follow(prog, head, "struct bpf_ksym", "lnode"):
        name = ksym.name.string_().decode("ascii", "backslashreplace")
        end = ksym.end.value_() + _BYTES_PAST_END_OF_BPF
        yield TextRange(ksym.start.value_(), end, TextKind.BPF, name)


def _bpf_text_before_ksym(prog: Program, head: Object) -> Iterator[TextRange]:
    # Before Linux kernel commit bfea9a8574f3 ("bpf: Add name to struct bpf_ksym")
    # and its series (in v5.7), the list held struct bpf_prog_aux, and a program
    # was the pages of its struct bpf_binary_header.
    page_bytes = prog["PAGE_SIZE"].value_()
    for aux in _follow(prog, head, "struct bpf_prog_aux", "ksym_lnode"):
        start = aux.prog.bpf_func.value_() & -page_bytes
        pages = Object(prog, "struct bpf_binary_header", address=start).pages.value_()
        yield TextRange(start, start + pages * page_bytes, TextKind.BPF)
