# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which addresses are kernel text: __kernel_text_address() in kernel/extable.c.

That is the kernel image, modules, ftrace trampolines, kprobe slots, BPF programs, init text.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Optional

import msgspec
from drgn import Object, Program

from ..bounded_cache import BoundedCache
from ..debuginfo.kallsyms import kallsyms_of
from ..debuginfo.modules import listed_modules, module_memory, module_name
from ..memory import UNUSABLE, follow_pointers, list_entries
from .probing import symbol_address

__all__ = ("KernelText", "TextKind", "TextRange")

_MAX_LIST_ENTRIES = 1_000_000
"""No kernel has this many modules, trampolines or BPF programs; a list without an end has."""

_MAX_RANGE_BYTES = 1 << 31
"""All modules together have 1.5 GiB at most (MODULES_LEN)."""

_MAX_ADDRESSES = 100_000
"""How many answers are cached; the garbage on stacks may have any number of addresses."""

_BYTES_PAST_END_OF_BPF = 1
"""For bpf_tree_comp() an address is outside if ``val > ksym->end``, so the end itself is inside (v6.1.192
and v6.12; older kernels have ``>=``, and nothing in a dump shows which)."""


class TextKind(enum.Enum):
    """Which clause of __kernel_text_address() an address falls under."""

    CORE = "core"
    MODULE = "module"
    FTRACE = "ftrace trampoline"
    KPROBE = "kprobe slot"
    BPF = "bpf"
    INIT = "init"


class TextRange(msgspec.Struct, frozen=True):
    """[start, end) of kernel text, virtual addresses."""

    start: int
    end: int
    kind: TextKind
    name: Optional[str] = None
    """Module or BPF program; ``None`` for the rest."""
    owner: Optional[Object] = None
    """``struct ftrace_ops *`` of a trampoline, ``struct bpf_ksym *`` of a BPF program; ``None`` for the rest."""


class KernelText:
    """Kernel text of one program, read once.

    A list that is damaged or not in the dump ends early and adds a sentence to
    :attr:`problems`: an address that was not found may still be text.

    :param extra: core text that only this architecture has: what it is -> its ranges. They are
        read here, so that what cannot be read becomes a problem.
    """

    def __init__(
        self, prog: Program, extra: Optional[Mapping[str, Iterable[TextRange]]] = None
    ) -> None:
        self.problems: list[str] = []
        """Sentences that say what could not be read."""
        self.modules: dict[str, Object] = {}
        """``struct module *`` by name, of all modules except unformed ones and those whose text cannot be read."""
        self._prog = prog
        self._address_bits = 8 * prog.address_size()
        self._found: BoundedCache[int, Optional[TextRange]] = BoundedCache(_MAX_ADDRESSES)
        self._symbols_are_checked = False
        # The kernel looks in core text first and in init text last.
        self._core = list(self._image_text("_stext", "_etext", TextKind.CORE, "schedule"))
        self._init = list(self._image_text("_sinittext", "_einittext", TextKind.INIT))
        for what, ranges in (extra or {}).items():
            self._core += self._readable(what, ranges)
        self._loaded = sorted(
            (
                *self._readable("modules", _module_text(prog, self.modules)),
                *self._readable("ftrace trampolines", _ftrace_trampolines(prog)),
                *self._readable("kprobe slots", _kprobe_slots(prog)),
                *self._readable("BPF programs", _bpf_text(prog)),
            ),
            key=lambda r: (r.start, r.end),
        )
        # The ranges of a damaged list may overlap, so the range with the highest
        # start need not be the one that holds an address.
        self._starts = [r.start for r in self._loaded]
        self._highest_ends = list(accumulate((r.end for r in self._loaded), max))

    def find(self, addr: int) -> Optional[TextRange]:
        """Return the range of kernel text that holds a virtual address, ``None`` if there is none."""
        try:
            return self._found[addr]
        except KeyError:
            found = self._found[addr] = self._find(addr)
            return found

    def _find(self, addr: int) -> Optional[TextRange]:
        for r in self._core:
            if r.start <= addr < r.end:
                return r
        i = bisect_right(self._starts, addr) - 1
        while i >= 0 and addr < self._highest_ends[i]:
            if addr < self._loaded[i].end:
                return self._loaded[i]
            i -= 1
        return next((r for r in self._init if r.start <= addr < r.end), None)

    def is_in_image(self, addr: int) -> bool:
        """Return whether a virtual address is text of the image, whatever else claims that address."""
        return any(r.start <= addr < r.end for r in (*self._core, *self._init))

    def is_kernel_text(self, addr: int) -> Optional[bool]:
        """Return whether a virtual address is kernel text.

        Follows __kernel_text_address() in kernel/extable.c, v6.12.

        :return: ``None`` if it was not found but not every list could be read
        """
        if self.find(addr) is not None:
            return True
        self._check_symbols()
        return None if self.problems else False

    def _check_symbols(self) -> None:
        # If the symbol of a list is missing, the kernel is taken to be built without that list.
        if self._symbols_are_checked:
            return
        self._symbols_are_checked = True
        kallsyms = kallsyms_of(self._prog)
        if kallsyms is not None and not kallsyms.is_sound():
            self.problems.append("the table of symbols (kallsyms) is damaged")

    def _image_text(
        self, start_symbol: str, end_symbol: str, kind: TextKind, inside: str = ""
    ) -> Iterator[TextRange]:
        """Return a range of the image.

        :param inside: a function that must be in it, if the address of the function is known
        """
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

    def _readable(self, what: str, ranges: Iterable[TextRange]) -> Iterator[TextRange]:
        """Return the ranges up to the first that cannot be read, and note that as a problem."""
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

    def _checked(self, r: TextRange) -> TextRange:
        # Loaded text is in the upper half of the address space, and there is not
        # that much of it.
        if r.start >> (self._address_bits - 1) != 1 or r.end - r.start > _MAX_RANGE_BYTES:
            raise ValueError(f"{r.kind.value} text cannot be from {r.start:#x} to {r.end:#x}")
        return r


def _variable(prog: Program, name: str) -> Optional[Object]:
    """Return a global variable, ``None`` if this kernel was built without it.

    :raises LookupError: if the kernel has it, but its type is not known
    """
    try:
        return prog[name]
    except LookupError:
        if symbol_address(prog, name) is None:
            return None
        raise


def _module_text(prog: Program, modules: dict[str, Object]) -> Iterator[TextRange]:
    """Follow is_module_text_address() in kernel/module/main.c: all modules except unformed ones.

    :param modules: each module that is visited is added to it, by its name
    """
    head = _variable(prog, "modules")
    if head is None:
        return  # CONFIG_MODULES=n
    unformed = prog["MODULE_STATE_UNFORMED"].value_()
    for module in listed_modules(head):
        if module.state.value_() == unformed:
            continue
        name = module_name(module)
        for start, end in module_memory(module, text_only=True):
            yield TextRange(start, end, TextKind.MODULE, name)
        # Not earlier: if the module cannot have text where it says, its unwind data are useless, too.
        modules[name] = module


def _ftrace_trampolines(prog: Program) -> Iterator[TextRange]:
    """Follow is_ftrace_trampoline() in kernel/trace/ftrace.c: trampolines of registered ftrace_ops."""
    ops = _variable(prog, "ftrace_ops_list")
    if ops is None:
        return  # CONFIG_FUNCTION_TRACER=n
    first, last = ops.read_(), symbol_address(prog, "ftrace_list_end")
    if not first.type_.type.has_member("trampoline"):
        return  # CONFIG_DYNAMIC_FTRACE=n
    for op in follow_pointers(first, "next"):
        if not op or op.value_() == last:
            return
        start = op.trampoline.value_()
        if start:  # freeing a trampoline leaves its size
            end = start + op.trampoline_size.value_()
            yield TextRange(start, end, TextKind.FTRACE, owner=op)


def _kprobe_slots(prog: Program) -> Iterator[TextRange]:
    """Follow __is_insn_slot_addr() in kernel/kprobes.c: pages of out-of-line instructions."""
    page_bytes = prog["PAGE_SIZE"].value_()
    for cache_name in ("kprobe_insn_slots", "kprobe_optinsn_slots"):
        cache = _variable(prog, cache_name)
        if cache is None:
            continue  # CONFIG_KPROBES=n or CONFIG_OPTPROBES=n
        for page in list_entries(cache.pages, "struct kprobe_insn_page", "list"):
            start = page.insns.value_()
            yield TextRange(start, start + page_bytes, TextKind.KPROBE)


def _bpf_text(prog: Program) -> Iterator[TextRange]:
    """Follow is_bpf_text_address() in kernel/bpf/core.c: programs, trampolines, dispatchers."""
    head = _variable(prog, "bpf_kallsyms")
    if head is None:
        return  # CONFIG_BPF_JIT=n
    try:
        prog.type("struct bpf_ksym")
    except LookupError:
        yield from _bpf_text_before_ksym(prog, head)
        return
    for ksym in list_entries(head, "struct bpf_ksym", "lnode"):
        name = ksym.name.string_().decode("ascii", "backslashreplace")
        end = ksym.end.value_() + _BYTES_PAST_END_OF_BPF
        yield TextRange(ksym.start.value_(), end, TextKind.BPF, name, ksym)


def _bpf_text_before_ksym(prog: Program, head: Object) -> Iterator[TextRange]:
    # Before Linux kernel commit bfea9a8574f3 ("bpf: Add name to struct bpf_ksym")
    # and its series (in v5.7), the list held struct bpf_prog_aux, and a program
    # was the pages of its struct bpf_binary_header.
    page_bytes = prog["PAGE_SIZE"].value_()
    for aux in list_entries(head, "struct bpf_prog_aux", "ksym_lnode"):
        start = aux.prog.bpf_func.value_() & -page_bytes
        pages = Object(prog, "struct bpf_binary_header", address=start).pages.value_()
        yield TextRange(start, start + pages * page_bytes, TextKind.BPF)
