# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ORC tables of a kernel: from an address of code to its rule, as orc_find() finds it.

Follows arch/x86/kernel/unwind_orc.c (v6.12). The image has one table, each module has its own. A
table is two arrays that belong together: sorted addresses, each relative to the place where it is
stored, and the rules (``struct orc_entry``). A rule is for all code up to the next address.

Only the pages that a look-up needs are read: some pages of the tables' 4 MiB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import count
from operator import add, le
from typing import Optional, Union

import msgspec
from drgn import Object, Program

from ...bounded_cache import BoundedCache
from ...debuginfo.kallsyms import kallsyms_of
from ...debuginfo.modules import module_memory
from ...kernel.probing import function_code, symbol_address
from ...kernel.stack_memory import NotInDump
from ...kernel.text import KernelText, TextKind, TextRange
from ...memory import ADDRESS_MASK, UNUSABLE, read_or_none
from .orc_entry import (
    ENTRY_BYTES,
    FRAME_POINTER_ENTRY,
    NULL_ENTRY,
    OrcEntry,
    OrcForm,
    OrcFormError,
    probe_form,
)

__all__ = ("OrcImage", "OrcProblem", "OrcTables", "UnwindDataUnclear", "probe_orc")

_ADDRESS_BYTES = 4
"""``sizeof(int)``: size of an address in a table, which is relative to its own place."""
_CHUNK = 1024
"""Addresses that are read at once: a page."""
_MAX_ENTRIES = 16 << 20
"""Limit of the entries of one table. The table of a distribution's kernel has 400,000."""
_MAX_ADDRESSES = 100_000
"""How many answers are cached."""
_MAX_CODE_BYTES = 1 << 31
"""The kernel image has 1 GiB at most (KERNEL_IMAGE_SIZE)."""
_NEIGHBOURS = 8
"""How many entries before and after the one that is found must be sane, too."""
_LOOKUP_BLOCK_BYTES = 256
"""LOOKUP_BLOCK_SIZE (asm/orc_lookup.h, v4.14)."""
_MAX_EQUAL = 4
"""Equal entries in a row: objtool merges them, so there are two at most, where sections meet."""
_HEADER_BYTES = 20
"""``.orc_header`` is a SHA-1."""
_STATISTIC_BYTES = 64 * 1024 * ENTRY_BYTES
_MADE_CODE = frozenset({TextKind.BPF, TextKind.FTRACE, TextKind.KPROBE})
"""Code that the kernel makes at run time, in memory of its own."""
_MAX_START_CODE_BYTES = 4096
"""``__unwind_start()`` has some 500 bytes. A damaged symbol table may give any size."""


class UnwindDataUnclear(Exception):
    """The table is damaged where the rule of an address would be, or the lists that lead to the table are damaged."""

    def __init__(self, addr: int) -> None:
        super().__init__(hex(addr))
        self.addr = addr


class OrcProblem(msgspec.Struct, frozen=True):
    """The tables of an ORC kernel cannot be used."""

    sentence: str
    """Why: the end of the sentence "this kernel uses the ORC unwinder, but ..."."""


class OrcImage(msgspec.Struct, frozen=True):
    """The ORC unwinder of one kernel, as far as it does not change: the table of its image, and its rules."""

    form: OrcForm
    """The form of its entries."""
    ips_addr: int
    """``__start_orc_unwind_ip``: virtual address of the image's sorted addresses."""
    entries_addr: int
    """``__start_orc_unwind``: virtual address of the image's entries."""
    count: int
    """Number of both."""
    code: tuple[tuple[int, int], ...]
    """[start, end) of the code that the image's table is for: the text and the init text."""
    ftrace_caller: Optional[int]
    """Virtual address of the code that ftrace trampolines are copies of."""
    ftrace_regs_caller: Optional[int]
    """The same for trampolines that save all registers."""
    guesses: bool
    """Code without a rule is taken to have a frame pointer (v5.3). Before that the walk ended."""
    first_exact_addrs: frozenset[int]
    """Virtual addresses at which __unwind_start() treats the first frame as that of a task that never ran.
    Empty before v5.8."""
    lookup_addr: Optional[int] = None
    """``orc_lookup``: virtual address of the numbers of the entries of each 256 bytes of text; ``None`` if its
    symbol is missing."""


def probe_orc(prog: Program) -> Union[OrcImage, OrcProblem]:
    """Find the ORC tables of a kernel, by its symbols.

    :param prog: Program of a kernel with the ORC unwinder
    """
    try:
        return _probe_orc(prog)
    except OrcFormError as e:
        return OrcProblem(str(e))
    except LookupError:
        return OrcProblem("its types do not describe struct orc_entry")


def _probe_orc(prog: Program) -> Union[OrcImage, OrcProblem]:
    ips = _bounds(prog, "__start_orc_unwind_ip", "__stop_orc_unwind_ip")
    entries = _bounds(prog, "__start_orc_unwind", "__stop_orc_unwind")
    text = _bounds(prog, "_stext", "_etext")
    init_text = _bounds(prog, "_sinittext", "_einittext")
    if ips is None or entries is None or text is None:
        return OrcProblem("its symbols do not say where the ORC tables are")
    count = (ips[1] - ips[0]) // _ADDRESS_BYTES
    if (
        not 0 < count <= _MAX_ENTRIES
        or ips[1] - ips[0] != count * _ADDRESS_BYTES
        or entries[1] - entries[0] != count * ENTRY_BYTES
        or text[1] - text[0] > _MAX_CODE_BYTES
    ):
        return OrcProblem("the sizes of its ORC tables contradict each other")
    initialized = symbol_address(prog, "orc_init")
    if initialized is not None and read_or_none(prog, initialized, 1) == b"\0":
        return OrcProblem("it had not initialized it yet (orc_init is false)")
    guess = symbol_address(prog, "orc_fp_entry")
    null = symbol_address(prog, "null_orc_entry")
    header = symbol_address(prog, "__start_orc_header")
    form = probe_form(
        prog,
        None if guess is None else read_or_none(prog, guess, ENTRY_BYTES),
        None if null is None else read_or_none(prog, null, ENTRY_BYTES),
        None if header is None else read_or_none(prog, header, _HEADER_BYTES),
        read_or_none(prog, entries[0], min(count * ENTRY_BYTES, _STATISTIC_BYTES)) or b"",
    )
    first_exact_addrs = _first_exact_addrs(prog)
    if first_exact_addrs is None:
        return OrcProblem("the code of its __unwind_start() is not in the dump")
    kallsyms = kallsyms_of(prog)
    # A kernel without symbols of data, except __start_* of its sections (CONFIG_KALLSYMS_ALL=n, v6.12), is new enough.
    guesses = guess is not None or initialized is None
    if not (first_exact_addrs and guesses) and kallsyms is not None and not kallsyms.is_sound():
        # It looks like a kernel before v5.8 (or v5.3), but its ret_from_fork (or orc_fp_entry) may have lost its name.
        return OrcProblem("the table of symbols (kallsyms) is damaged")
    return OrcImage(
        form=form,
        ips_addr=ips[0],
        entries_addr=entries[0],
        count=count,
        code=(text,) if init_text is None else (text, init_text),
        lookup_addr=symbol_address(prog, "orc_lookup"),
        ftrace_caller=symbol_address(prog, "ftrace_caller"),
        ftrace_regs_caller=symbol_address(prog, "ftrace_regs_caller"),
        guesses=guesses,
        first_exact_addrs=first_exact_addrs,
    )


def _bounds(prog: Program, start: str, end: str) -> Optional[tuple[int, int]]:
    start_addr, end_addr = symbol_address(prog, start), symbol_address(prog, end)
    if start_addr is None or end_addr is None or start_addr >= end_addr:
        return None
    return start_addr, end_addr


def _first_exact_addrs(prog: Program) -> Optional[frozenset[int]]:
    # Since Linux kernel commit f1d9a2abff66 ("x86/unwind/orc: Don't skip the first frame for
    # inactive tasks") (in v5.8, and in stable kernels), a walk of a sleeping task begins above its
    # struct inactive_task_frame. With the same series (commit 187b96db5ca7), __unwind_start()
    # compares the first address with that of ret_from_fork. No type and no symbol shows this; the
    # code does.
    start = symbol_address(prog, "__unwind_start")
    code = function_code(prog, "__unwind_start", _MAX_START_CODE_BYTES)
    if start is None or not code:
        return None
    # Since Linux kernel commit 3aec4ecb3d1f ("x86: Rewrite ret_from_fork() in C") (in v6.5), a task
    # begins at ret_from_fork_asm. Up to commit 3bf19a0fb690 ("x86/unwind/orc: Fix unwind for newly forked
    # tasks") (in v6.13, and in stable kernels), __unwind_start() went on to compare with ret_from_fork,
    # so a task that never ran was unreliable.
    targets = (symbol_address(prog, name) for name in ("ret_from_fork_asm", "ret_from_fork"))
    return frozenset(
        target for target in targets if target is not None and _mentions(code, start, target)
    )


def _mentions(code: bytes, start: int, target: int) -> bool:
    """Return whether code contains an address.

    :param code: A function
    :param start: Its virtual address
    :param target: As the immediate of a cmp, or relative to rip as the operand of a lea
    """
    if (target & 0xFFFF_FFFF).to_bytes(4, "little") in code:
        return True
    return any(
        code[at - 1] & 0xC7 == 0x05  # ModRM of disp32(%rip)
        and start + at + 4 + int.from_bytes(code[at : at + 4], "little", signed=True) == target
        for at in range(1, len(code) - 3)
    )


class _Table:
    """One table: sorted addresses and their entries.

    :param ips_addr: Virtual address of the addresses
    :param entries_addr: Virtual address of the entries
    :param count: Number of both
    :param lookup: For the image: virtual address of ``orc_lookup``, and [start, end) of the text that it is for
    """

    def __init__(
        self,
        prog: Program,
        form: OrcForm,
        ips_addr: int,
        entries_addr: int,
        count: int,
        lookup: Optional[tuple[int, tuple[int, int]]] = None,
    ) -> None:
        self._lookup = lookup
        self._prog = prog
        self._form = form
        self._ips_addr = ips_addr
        self._entries_addr = entries_addr
        self._count = count
        self._chunks: dict[int, array[int]] = {}
        self._sound: dict[int, bool] = {}

    def find(self, addr: int) -> OrcEntry:
        """Return the rule of an address: that of the last entry that is not above it; if there is none, the first rule.

        Follows __orc_find(): of several entries with the same address the last counts, because
        terminators of a section come first.

        :raises NotInDump: if a part of the table is missing
        :raises UnwindDataUnclear: if the table is not sorted there, or has an entry that objtool does not make
        """
        low, high, found = 0, self._count - 1, 0
        while low <= high:
            middle = (low + high) // 2
            if self._ip(middle) <= addr:
                found, low = middle, middle + 1
            else:
                high = middle - 1
        if not self._is_where_the_kernel_looks(addr, found):
            raise UnwindDataUnclear(self._ips_addr + found * _ADDRESS_BYTES)
        return self._checked(found)

    def _is_where_the_kernel_looks(self, addr: int, found: int) -> bool:
        """Return whether no damaged part of the table has misled the search.

        For text, orc_find() gets the entries of each block from ``orc_lookup``, which orc_init() made. If
        pages of the table are damaged but still sorted, our search ends outside of these entries.

        For init text and modules, orc_find() searches the whole table, as we do. There, a search that damage
        has misled ends beside it: addresses descend where the damaged page borders on a sound one.

        :raises NotInDump: if ``orc_lookup`` is missing
        """
        if self._lookup is None:
            return self._is_sound_around(found)
        lookup_addr, (start, end) = self._lookup
        if not start <= addr < end:
            return self._is_sound_around(found)
        at = lookup_addr + (addr - start) // _LOOKUP_BLOCK_BYTES * 4
        bounds = self._read(at, 8)
        return int.from_bytes(bounds[:4], "little") <= found <= int.from_bytes(bounds[4:], "little")

    def _is_sound_around(self, found: int) -> bool:
        """Return whether the addresses in the chunk of an entry, and in the chunks beside it, may be of code."""
        number, last = found // _CHUNK, (self._count - 1) // _CHUNK
        return all(map(self._is_sound, range(max(0, number - 1), min(number + 1, last) + 1)))

    def _is_sound(self, number: int) -> bool:
        """Return whether the addresses in a chunk, and those next to it, may be of code; true if the chunk is missing."""
        found = self._sound.get(number)
        if found is None:
            first = max(0, number * _CHUNK - 1)
            size_bytes = (min((number + 1) * _CHUNK + 1, self._count) - first) * _ADDRESS_BYTES
            raw = read_or_none(self._prog, self._ips_addr + first * _ADDRESS_BYTES, size_bytes)
            relative = array("i", raw or b"")
            places = count(self._ips_addr + first * _ADDRESS_BYTES, _ADDRESS_BYTES)
            ips = list(map(add, relative, places))
            found = self._sound[number] = self._may_be_code(ips)
        return found

    def _checked(self, found: int) -> OrcEntry:
        # If this entry is damaged or zero, its neighbours are, too. A rule made of garbage may lead anywhere,
        # even to a stack that looks reliable.
        first, end = max(0, found - _NEIGHBOURS), min(self._count, found + _NEIGHBOURS + 1)
        raw = self._read(self._entries_addr + first * ENTRY_BYTES, (end - first) * ENTRY_BYTES)
        entries = [raw[at : at + ENTRY_BYTES] for at in range(0, len(raw), ENTRY_BYTES)]
        ips = [self._ip(i) for i in range(first, end)]
        decoded = [self._form.decode(entry) for entry in entries]
        if None in decoded or not self._may_be_code(ips) or _longest_run(entries) > _MAX_EQUAL:
            raise UnwindDataUnclear(self._entries_addr + found * ENTRY_BYTES)
        entry = decoded[found - first]
        assert entry is not None  # checked above
        return entry

    def _ip(self, index: int) -> int:
        number, at = divmod(index, _CHUNK)
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = self._read_chunk(number)
        return (self._ips_addr + index * _ADDRESS_BYTES + chunk[at]) & ADDRESS_MASK

    def _may_be_code(self, ips: list[int]) -> bool:
        """Return whether addresses are sorted, and none is in the table itself, as if the table were zeros or ones."""
        start, end = self._ips_addr, self._ips_addr + self._count * _ADDRESS_BYTES
        return all(map(le, ips, ips[1:])) and not any(start <= ip < end for ip in ips)

    def _read_chunk(self, number: int) -> array[int]:
        first = number * _CHUNK
        size_bytes = min(_CHUNK, self._count - first) * _ADDRESS_BYTES
        chunk = array("i")
        chunk.frombytes(self._read(self._ips_addr + first * _ADDRESS_BYTES, size_bytes))
        return chunk

    def _read(self, addr: int, size_bytes: int) -> bytes:
        data = read_or_none(self._prog, addr & ADDRESS_MASK, size_bytes)
        if data is None:
            raise NotInDump(addr)
        return data


def _longest_run(entries: list[bytes]) -> int:
    longest = run = 1
    for one, other in zip(entries, entries[1:]):
        run = run + 1 if one == other else 1
        longest = max(longest, run)
    return longest


class OrcTables:
    """The rules of one kernel, with those of the modules that are loaded.

    :param text: Text and modules of this kernel, as they were read at one moment
    """

    def __init__(self, prog: Program, image: OrcImage, text: KernelText) -> None:
        self._prog = prog
        self._image = image
        self._text = text
        lookup = None if image.lookup_addr is None else (image.lookup_addr, image.code[0])
        self._table = _Table(
            prog, image.form, image.ips_addr, image.entries_addr, image.count, lookup
        )
        self._module_tables: dict[int, Optional[_Table]] = {}
        self._modules: Optional[list[tuple[int, int, Object]]] = None
        self._module_starts: list[int] = []
        self._found: BoundedCache[int, Optional[OrcEntry]] = BoundedCache(_MAX_ADDRESSES)

    def find(self, addr: int) -> Optional[OrcEntry]:
        """Return the rule of an address of code. Follows orc_find() (v6.12, v7.2).

        :param addr: Virtual address: that of the next instruction, or a return address less 1
        :return: ``None`` if there is no rule
        :raises NotInDump: if memory that holds the rule is missing
        :raises UnwindDataUnclear: if tables or lists are damaged, so that the rule is not known
        """
        try:
            return self._found[addr]
        except KeyError:
            entry = self._found[addr] = self._find(addr)
            return entry

    def _find(self, addr: int) -> Optional[OrcEntry]:
        if addr == 0 and self._image.guesses:
            return NULL_ENTRY
        if self._is_image_code(addr):
            return self._table.find(addr)
        try:
            made = self._made_code(addr)
            entry = self._of_module(addr)
            if entry is None:
                entry = self._of_made_code(made, addr)
            elif made is not None:
                # No memory belongs to both: perhaps the size of the module is damaged.
                raise UnwindDataUnclear(addr)
        except UNUSABLE:
            raise UnwindDataUnclear(addr) from None
        if entry is None and self._text.problems:
            raise UnwindDataUnclear(addr)
        return entry

    def _is_image_code(self, addr: int) -> bool:
        return any(start <= addr < end for start, end in self._image.code)

    # ---- modules

    def _of_module(self, addr: int) -> Optional[OrcEntry]:
        """Follow orc_module_find(): the module that contains the address in any of its memory, not only its text."""
        if self._modules is None:
            self._modules = self._module_ranges()
            self._module_starts = [start for start, _, _ in self._modules]
        i = bisect_right(self._module_starts, addr) - 1
        if i < 0 or addr >= self._modules[i][1]:
            return None
        module = self._modules[i][2]
        key = module.value_()
        if key not in self._module_tables:
            self._module_tables[key] = self._table_of(module)
        table = self._module_tables[key]
        return None if table is None else table.find(addr)

    def _module_ranges(self) -> list[tuple[int, int, Object]]:
        return sorted(
            (
                (start, end, module)
                for module in self._text.modules.values()
                for start, end in module_memory(module)
                if start < end
            ),
            key=lambda module: module[:2],
        )

    def _table_of(self, module: Object) -> Optional[_Table]:
        arch = module.arch
        ips_addr, entries_addr = arch.orc_unwind_ip.value_(), arch.orc_unwind.value_()
        count = arch.num_orcs.value_()
        if not ips_addr or not entries_addr or not count:
            return None
        if count > _MAX_ENTRIES:
            raise ValueError(f"a module cannot have {count} ORC entries")
        return _Table(self._prog, self._image.form, ips_addr, entries_addr, count)

    # ---- code that the kernel made at run time

    def _made_code(self, addr: int) -> Optional[TextRange]:
        where = self._text.find(addr)
        return where if where is not None and where.kind in _MADE_CODE else None

    def _of_made_code(self, where: Optional[TextRange], addr: int) -> Optional[OrcEntry]:
        if where is None:
            return None
        if where.kind is TextKind.BPF:
            return _of_bpf(where, addr)
        if where.kind is TextKind.FTRACE:
            return self._of_ftrace(where, addr)
        return None

    def _of_ftrace(self, where: TextRange, addr: int) -> OrcEntry:
        """Follow orc_ftrace_find(): a trampoline is a copy of ftrace_caller, and has its rules."""
        assert where.owner is not None  # text.py gives it to every trampoline
        saves_regs = where.owner.flags.value_() & self._prog["FTRACE_OPS_FL_SAVE_REGS"].value_()
        copied = self._image.ftrace_regs_caller if saves_regs else self._image.ftrace_caller
        # The copied code is in the image, on every kernel that makes trampolines. A damaged symbol may lead anywhere, even
        # to the trampoline itself, or be missing.
        there = None if copied is None else copied + addr - where.start
        if there is None or not self._is_image_code(there):
            raise UnwindDataUnclear(addr)
        return self._table.find(there)


def _of_bpf(where: TextRange, addr: int) -> Optional[OrcEntry]:
    """Follow orc_bpf_find() and bpf_has_frame_pointer() (kernel/bpf/core.c, v7.2): code with a known frame pointer.

    Older kernels do not say where code has one, and have no such function.
    """
    ksym = where.owner
    if ksym is None or not ksym.type_.type.has_member("fp_start"):
        return None
    start, end = ksym.fp_start.value_(), ksym.fp_end.value_()
    return FRAME_POINTER_ENTRY if start and end and start <= addr - where.start < end else None
