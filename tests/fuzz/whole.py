# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole dump: the answers for it, where things are in its memory, and to which task they belong.

drgn-tools itself finds every place by reading the whole dump. A place is physical memory: the page
tables that map it may be damaged as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Optional, Union

import drgn
import msgspec

from drgn_tools import KernelAudit, audit_kernel, open_program
from drgn_tools.arch.x86.kernel_page_tables import kernel_page_tables
from drgn_tools.arch.x86.layout import X86Layout
from drgn_tools.arch.x86.orc_tables import OrcImage
from drgn_tools.arch.x86.page_tables import FIVE_LEVELS, FOUR_LEVELS, Paging
from drgn_tools.debuginfo.btf import Btf
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.modules import listed_modules, module_memory
from drgn_tools.debuginfo.vmcoreinfo import number_among, symbol_among, vmcoreinfo
from drgn_tools.engine.kernel import Kernel
from drgn_tools.kernel.livepatch import has_livepatching, read_livepatches
from drgn_tools.kernel.per_cpu import per_cpu
from drgn_tools.kernel.tasks import Task
from drgn_tools.kernel.text import TextKind
from drgn_tools.memory import UNUSABLE, follow_pointers
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.elf import PT_LOAD, Segment, read_elf

from ..support.arm64_paging import Arm64Paging, arm64_paging
from ..support.damaged_livepatch import ask_of_patches, structs_of_patches
from ..support.fuzz_types import Piece, btf_of, tables_of, used_words
from .files import PAGE, DumpFile, ElfFile, open_dump_file

__all__ = ("Owner", "Span", "Whole")

_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_LARGE = 1 << 7
_PRESENT = 1 << 0
_ADDRESS_IN_ENTRY = (1 << 52) - PAGE
_MAX_READ_BYTES = 64 << 10
"""Longer reads are of tables, which have kinds of damage of their own."""

Span = tuple[int, int]
"""Address, size in bytes."""
Owner = Union[int, str]
"""Address of the task that memory belongs to, or the name of memory that all tasks share."""


class Mapping(msgspec.Struct, frozen=True):
    """Where a virtual address is mapped."""

    physical: int
    entries: tuple[int, ...]
    """Physical addresses of the page table entries that map it."""
    entry_bytes: int


class Whole:
    """A dump that is not damaged.

    :param path: Path of the file: ELF, or kdump packed with zlib
    """

    def __init__(self, path: Path) -> None:
        self.file: DumpFile = open_dump_file(path)
        self.prog = open_program(core=path)
        self.audit: KernelAudit = audit_kernel(self.prog)
        self.kernel = Kernel(self.prog)
        self.layout = self.kernel.layout
        self.orc = self.layout.orc if isinstance(self.layout, X86Layout) else None
        self.regs = self.layout.regs
        self.word_bytes = self.layout.word_bytes
        self.tasks: list[Task] = list(self.kernel.tasks)
        self.sleepers = [
            t for t in self.tasks if t.has_stack and not self.kernel.tasks.is_running(t)
        ]
        self.records = {stack.task: stack for stack in self.audit}
        self._find_page_tables()
        self.patch_structs = list(self._patch_structs())
        """Structs of its live patches; empty if it has none, like most dumps."""
        answers = ask_of_patches(self.prog, self.audit)[1] if self.patch_structs else ()
        self.patch_answers = {found.stack.task: found for found in answers}

    def _patch_structs(self) -> Iterator[Span]:
        if has_livepatching(self.prog) and read_livepatches(self.prog).patches:
            for _, address, type_name in structs_of_patches(self.prog):
                yield address, drgn.sizeof(self.prog.type(type_name))

    # ---- page tables

    def _find_page_tables(self) -> None:
        info = vmcoreinfo(self.prog)
        self._arm64: Optional[Arm64Paging] = None
        if self.layout.arch.name == "aarch64":
            self._arm64 = arm64_paging(info)
            self._root = self._arm64.root
            return
        if self.word_bytes == 4:
            found = kernel_page_tables(self.prog, info)
            assert found is not None
            self._root = found[1]._root_addr
            self._paging: Paging = found[1]._paging
            return
        root, phys_base = symbol_among(info, "swapper_pg_dir"), number_among(info, "phys_base")
        assert root is not None and phys_base is not None
        self._root = root - _START_KERNEL_MAP + phys_base
        five = number_among(info, "pgtable_l5_enabled") == 1
        self._paging = FIVE_LEVELS if five else FOUR_LEVELS

    def map(self, address: int) -> Mapping:
        """Return where a virtual address is mapped. Raises LookupError if it is not."""
        if self._arm64 is not None:
            translated = self._arm64.translate(self.file.physical, address)
            return Mapping(translated.physical, translated.entries, 8)
        paging, table, entries = self._paging, self._root, []
        for level, bits in enumerate(paging.index_bits):
            shift = paging.shift(level)
            at = table + (address >> shift & (1 << bits) - 1) * paging.entry_bytes
            entries.append(at)
            entry = int.from_bytes(self.file.physical(at, paging.entry_bytes), "little")
            if not entry & _PRESENT:
                raise LookupError(f"{address:#x} is not mapped")
            if shift == 12 or (level in paging.large_page_levels and entry & _LARGE):
                inside = (1 << shift) - 1
                base = entry & _ADDRESS_IN_ENTRY & ~inside
                return Mapping(base | address & inside, tuple(entries), paging.entry_bytes)
            table = entry & _ADDRESS_IN_ENTRY
        raise AssertionError

    def pieces(self, address: int, size: int) -> Iterator[tuple[int, int, Mapping]]:
        """Yield the parts of virtual memory that are in the dump: (virtual address, size, mapping of its page)."""
        end = address + size
        while address < end:
            part = min(end - address, PAGE - address % PAGE)
            with suppress(LookupError):
                found = self._mapped(address // PAGE)
                if self.file.page(found.physical // PAGE) is not None:
                    yield address, part, found
            address += part

    def _mapped(self, page: int) -> Mapping:
        known = self._mappings.get(page)
        if known is None:
            known = self._mappings[page] = self.map(page * PAGE)
        return known

    @cached_property
    def _mappings(self) -> dict[int, Mapping]:
        return {}

    def physical(self, spans: Iterable[Span]) -> list[Span]:
        """Return the physical memory to which virtual memory is mapped."""
        return [
            (where.physical + address % PAGE, part)
            for begin, size in spans
            for address, part, where in self.pieces(begin, size)
        ]

    # ---- whose memory it is

    def spans_of(self, task: Task) -> list[Span]:
        """Return the virtual memory of a task: its task_struct, its stacks, the head of its list of threads, saved return addresses."""
        layout = self.layout
        found = [(task.addr, layout.task.size_bytes)]
        if task.stack_addr:
            found.append((task.stack_addr, layout.thread_size_bytes))
        if task.signal_addr:
            head = task.signal_addr + layout.task.signal_thread_head
            found.append((head, 2 * self.word_bytes))
        return found + list(self._stacks_of_cpu(task)) + self.saved_returns(task)

    def _stacks_of_cpu(self, task: Task) -> Iterator[Span]:
        """Yield the stacks of interrupts and exceptions that a task was on when the dump was made."""
        record = self.records.get(task.addr)
        if record is None or not record.on_cpu:
            return
        find = self.layout.arch.cpu_stacks(self.prog, self.layout, task)
        addresses = [a for r in record.regs for a in (r.address, r.registers.get("sp"))]
        addresses.append(
            (record.cpu_registers or {}).get("sp")
        )  # the innermost: there is nothing below it
        stacks = (find(address) for address in addresses if address is not None)
        yield from {(s.begin_addr, s.size_bytes): None for s in stacks if s and s.kind != "task"}

    def saved_returns(self, task: Task) -> list[Span]:
        """Return the memory in which tracers keep the return addresses of a task."""
        found = []
        with suppress(*UNUSABLE):
            struct = drgn.Object(self.prog, "struct task_struct", address=task.addr)
            if struct.type_.has_member("ret_stack"):
                found.append((struct.ret_stack.address_, self.word_bytes))
                found.append((struct.curr_ret_stack.address_, 4))
                if struct.ret_stack:
                    found.append((struct.ret_stack.value_(), PAGE))
            name = "rethooks" if struct.type_.has_member("rethooks") else "kretprobe_instances"
            if struct.type_.has_member(name):
                first = struct.member_(name).first
                found.append((first.address_, self.word_bytes))
                for number, node in enumerate(follow_pointers(first, "next")):
                    if not node or number > 64:
                        break
                    found.append((node.value_() - 48, 112))
        return found

    def _owned(self) -> Iterator[tuple[Owner, Span]]:
        for task in self.tasks:
            for span in self.spans_of(task):
                yield task.addr, span
        for name, spans in self.shared.items():
            for span in spans:
                yield name, span

    @cached_property
    def _owners(self) -> dict[int, list[tuple[int, int, Owner]]]:
        """The (begin, end, owner) in each page frame; page table entries are included."""
        found: dict[int, set[tuple[int, int, Owner]]] = {}
        for owner, (begin, size) in self._owned():
            for address, part, where in self.pieces(begin, size):
                at = where.physical + address % PAGE
                found.setdefault(at // PAGE, set()).add((at, at + part, owner))
                for entry in where.entries:
                    found.setdefault(entry // PAGE, set()).add(
                        (entry, entry + where.entry_bytes, owner)
                    )
        return {pfn: sorted(ranges, key=lambda r: r[:2]) for pfn, ranges in found.items()}

    def owners(self, begin: int, end: int) -> set[Owner]:
        """Return the owners of a piece of one physical page."""
        found = {o for b, e, o in self._owners.get(begin // PAGE, ()) if b < end and begin < e}
        if "orc" in found and (rules := self._rules_in(begin, end)):
            found.remove("orc")
            found.update(map(_rule_label, rules))
        return found

    def _rules_in(self, begin: int, end: int) -> set[int]:
        """Return the numbers of the rules of the ORC table that are in some physical memory."""
        found: set[int] = set()
        for table, size, address, part, physical in self._pages_of_orc.get(begin // PAGE, ()):
            first, last = max(begin, physical), min(end, physical + part) - 1
            if first <= last:
                low = (address + first - physical - table) // size
                high = (address + last - physical - table) // size
                # The address where a rule begins is also where the one before ends.
                found.update(range(low - (size == 4), high + 1))
        return found

    @cached_property
    def _pages_of_orc(self) -> dict[int, list[tuple[int, int, int, int, int]]]:
        """The parts of ORC tables in each page frame: (table, bytes of an entry, virtual address, size, physical address)."""
        orc = self.orc
        assert isinstance(orc, OrcImage)
        found: dict[int, list[tuple[int, int, int, int, int]]] = {}
        for table, size in ((orc.ips_addr, 4), (orc.entries_addr, 6)):
            for address, part, where in self.pieces(table, size * orc.count):
                physical = where.physical + address % PAGE
                page = found.setdefault(physical // PAGE, [])
                page.append((table, size, address, part, physical))
        return found

    @cached_property
    def rests_on(self) -> dict[int, frozenset[Owner]]:
        """What the answer for each task depends on besides its own memory: modules, ORC rules, lists of text, CPU masks."""
        found: dict[int, frozenset[Owner]] = {}
        for stack in self.audit:
            kinds = set()
            # If a CPU is in no mask, its idle task is not found: the CPU may have been unplugged.
            labels: set[Owner] = {"masks of CPUs"} if "idle" in stack.flags else set()
            addresses = [frame.ip for frame in stack.frames if not frame.user_mode]
            ip_name = self.regs.ip_name
            addresses += [r.registers[ip_name] for r in stack.regs if ip_name in r.registers]
            callers = (stack.cpu_caller, *(r.caller for r in stack.regs))
            addresses += [caller.ip for caller in callers if caller is not None]
            for ip in addresses:
                where = self.kernel._text.find(ip)
                if where is not None:
                    kinds.add(where.kind)
                    if where.kind is TextKind.MODULE and where.name is not None:
                        labels.add(_module_label(self.kernel._text.modules[where.name]))
            if kinds & {TextKind.FTRACE, TextKind.KPROBE, TextKind.BPF}:
                labels.add("lists of text")
            if isinstance(self.orc, OrcImage):
                exact = [a + 1 for a in addresses]
                labels.update(map(_rule_label, self.orc_rules([*addresses, *exact])))
            found[stack.task] = frozenset(labels)
        return found

    # ---- what all tasks share

    @cached_property
    def shared(self) -> dict[str, list[Span]]:
        """The virtual memory that all tasks share, by name."""
        prog = self.prog
        found: dict[str, list[Span]] = {"types": [(self.btf.addr, len(self.btf.data))]}
        found["symbols"] = [(piece.addr, len(piece.data)) for piece in self.symbol_tables]
        found["cpus"] = list(self._cpus())
        found["masks of CPUs"] = list(self._masks_of_cpus())
        with suppress(*UNUSABLE):
            found["list of modules"] = [(prog["modules"].address_, 2 * self.word_bytes)]
        for module in self.modules:
            found[_module_label(module)] = list(self._spans_of_module(module))
        found["lists of text"] = list(self._lists_of_text())
        orc = self.orc
        if isinstance(orc, OrcImage):
            found["orc"] = [(orc.ips_addr, 4 * orc.count), (orc.entries_addr, 6 * orc.count)]
        text = self.prog.symbol("_stext").address, self.prog.symbol("_etext").address
        found["code"] = [(text[0], text[1] - text[0])]
        if self.patch_structs:
            found["live patches"] = self.patch_structs
        with suppress(*UNUSABLE):
            ring = prog["prb"]
            found["log"] = [
                (ring.value_(), drgn.sizeof(ring.type_.type)),
                (
                    ring.desc_ring.descs.value_(),
                    min(1 << ring.desc_ring.count_bits.value_(), 4096) * 24,
                ),
                (ring.text_data_ring.data.value_(), 1 << ring.text_data_ring.size_bits.value_()),
            ]
        return found

    @cached_property
    def btf(self) -> Piece:
        """The types (BTF)."""
        table = kallsyms_of(self.prog)
        assert table is not None
        return btf_of(self.prog, table)

    @cached_property
    def used_words(self) -> list[int]:
        """Offsets of the words in the BTF that describe the types that we use."""
        return used_words(self.btf.data)

    @cached_property
    def number_of_types(self) -> int:
        """Number of types in the BTF."""
        return len(Btf(self.btf.data))

    @cached_property
    def symbol_tables(self) -> list[Piece]:
        """The parts of kallsyms; none before v6.0, where we have to search for them."""
        try:
            return tables_of(self.prog)
        except AssertionError:
            return []

    def _cpus(self) -> Iterator[Span]:
        prog, word = self.prog, self.word_bytes
        for cpu in self.kernel.tasks.cpus:
            with suppress(*UNUSABLE):
                rq = per_cpu(prog["runqueues"], cpu.number)
                yield rq.curr.address_, word
                yield rq.idle.address_, word
        with suppress(*UNUSABLE):
            yield prog["__per_cpu_offset"].address_, 64

    def _masks_of_cpus(self) -> Iterator[Span]:
        for name in ("__cpu_online_mask", "__cpu_active_mask", "nr_cpu_ids"):
            with suppress(*UNUSABLE):
                variable = self.prog[name]
                yield variable.address_, min(drgn.sizeof(variable), 64)

    @cached_property
    def modules(self) -> list[drgn.Object]:
        """The loaded modules, each a ``struct module *``."""
        try:
            return list(listed_modules(self.prog["modules"]))
        except UNUSABLE:
            return []

    def _spans_of_module(self, module: drgn.Object) -> Iterator[Span]:
        yield module.value_(), drgn.sizeof(module.type_.type)
        with suppress(*UNUSABLE):
            yield from ((start, end - start) for start, end in module_memory(module))

    def _lists_of_text(self) -> Iterator[Span]:
        prog, word = self.prog, self.word_bytes
        for name in ("ftrace_ops_list", "kprobe_insn_slots", "kprobe_optinsn_slots"):
            with suppress(*UNUSABLE):
                variable = prog[name]
                yield variable.address_, drgn.sizeof(variable)
        with suppress(*UNUSABLE):
            for op in follow_pointers(prog["ftrace_ops_list"].read_(), "next"):
                if not op:
                    break
                yield op.value_(), drgn.sizeof(op.type_.type)
        for name in ("kprobe_insn_slots", "kprobe_optinsn_slots"):
            with suppress(*UNUSABLE):
                head = prog[name].pages
                for node in self._nodes(head):
                    yield node, 6 * word
        with suppress(*UNUSABLE):
            head = prog["bpf_kallsyms"]
            yield head.address_, 2 * word
            for node in self._nodes(head):
                yield node - 20 * word - 512, 40 * word + 512

    def _nodes(self, head: drgn.Object) -> Iterator[int]:
        for node in follow_pointers(head.next.read_(), "next"):
            if node.value_() == head.address_:
                return
            yield node.value_()

    # ---- what is read

    @cached_property
    def read(self) -> Sequence[Span]:
        """The pieces of physical memory that opening and auditing read, except whole tables."""
        if not isinstance(self.file, ElfFile):
            return [
                span
                for task in self.tasks
                for span in self.physical(self.spans_of(task))
                if span[1] >= 8
            ]
        spans: set[Span] = set()
        prog = drgn.Program()
        prog.set_core_dump(str(self.file.path))
        with open(self.file.path, "rb") as file:
            elf = read_elf(file)
            assert elf is not None

            def read(segment: Segment, _: int, count: int, offset: int, physical: bool) -> bytes:
                if count <= _MAX_READ_BYTES:
                    spans.add((segment.physical_address + offset, count))
                file.seek(segment.offset + offset)
                return file.read(count)

            for s in elf.segments:
                if s.type == PT_LOAD and s.file_bytes:
                    for at, physical in ((s.address, False), (s.physical_address, True)):
                        prog.add_memory_segment(at, s.file_bytes, partial(read, s), physical)
            try:
                use_builtin_types(prog)
                audit_kernel(prog)
            except UNUSABLE:
                return []  # drgn alone cannot read a kernel of x86-32
            except drgn_errors():
                return []
        return sorted(spans)

    # ---- rules of the ORC table

    def orc_rules(self, addresses: Iterable[int]) -> list[int]:
        """Return the numbers of the rules for some addresses of code in the image."""
        orc = self.orc
        assert isinstance(orc, OrcImage)
        begin, end = orc.code[0]
        ips = self._orc_ips
        return sorted({bisect_right(ips, a - 1) - 1 for a in addresses if begin <= a < end})

    @cached_property
    def _orc_ips(self) -> list[int]:
        orc = self.orc
        assert isinstance(orc, OrcImage)
        raw = memoryview(self.prog.read(orc.ips_addr, 4 * orc.count)).cast("i")
        mask = (1 << 64) - 1
        return [(orc.ips_addr + 4 * i + relative) & mask for i, relative in enumerate(raw)]


def _module_label(module: drgn.Object) -> str:
    return f"module {module.value_():#x}"


def _rule_label(number: int) -> str:
    return f"ORC rule {number}"


def drgn_errors() -> tuple[type[Exception], ...]:
    """Return the errors that opening raises for a dump that drgn alone cannot use."""
    from drgn_tools import DrgnToolsError

    return (DrgnToolsError,)


def first_of(name: str, prog: drgn.Program) -> Optional[int]:
    """Return the address of a symbol, ``None`` if there is none."""
    try:
        return int(prog.symbol(name).address)
    except LookupError:
        return None
