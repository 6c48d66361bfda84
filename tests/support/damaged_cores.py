# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files made from a real vmcore, each with one thing wrong; the same bytes every time.

The damage is in the file (cut short, false headers, flipped bits) or in the kernel's memory
(a task list that loops, wild counts and pointers, damaged types and symbols, text that
a terminal would act on). drgn-tools has to say what it can about them.
"""

from __future__ import annotations

import lzma
import os
import random
import struct
import subprocess
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Optional

from drgn_tools import open_program
from drgn_tools.arch.registry import layout_of
from drgn_tools.debuginfo.btf import Btf
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo, vmcoreinfo_symbol
from drgn_tools.kernel.task_list import TaskList
from drgn_tools.kernel.tasks import Task
from drgn_tools.program.elf import ET_CORE, PT_LOAD, PT_NOTE, read_elf

from ..bench.page_tables import PAGE, CoreMemory, PageTables
from .elf_writer import elf_file, note
from .fuzz_types import Piece, btf_of, damage_anything, damage_words, tables_of, used_words

__all__ = (
    "HOSTILE_COMM",
    "cut_short",
    "in_memory",
    "no_cores",
    "of_much_memory",
    "of_much_time",
    "sparse",
    "with_turned_bits",
)

HOSTILE_COMM = b"<script>\x1b[31m\n\xff"
"""A tag, a terminal's colour, a newline, bytes that are not UTF-8: 15 bytes, the length of a comm."""

_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_TIB = 1 << 40
_X86_64 = 62


def copy(file: Path, to: Path) -> Path:
    """Make a copy with holes where there are only zeros."""
    subprocess.run(["cp", "--sparse=always", file, to], check=True)
    to.chmod(0o600)
    return to


# ---- in the file


def cut_short(file: Path, folder: Path, places: int) -> Iterator[Path]:
    """Yield copies that end too early: within the headers, and at this many *places* after them."""
    size = file.stat().st_size
    ends = [1, 15, 100, PAGE - 1, PAGE + 8]
    for end in (*ends, *(size * i // (places + 1) for i in range(1, places + 1)), size - 1):
        out = copy(file, folder / f"vmcore-{file.name}-{end}-bytes")
        os.truncate(out, end)
        yield out


def with_turned_bits(file: Path, folder: Path, seeds: range) -> Iterator[Path]:
    """Yield copies with a few bits flipped; in every other one only in the first two pages, the headers."""
    for seed in seeds:
        rng = random.Random(seed)
        out = copy(file, folder / f"vmcore-{file.name}-bits-{seed}")
        end = 2 * PAGE if seed % 2 else out.stat().st_size
        with open(out, "r+b") as damaged:
            for _ in range(rng.choice((1, 4, 64))):
                at = rng.randrange(end)
                damaged.seek(at)
                (byte,) = damaged.read(1)
                damaged.seek(at)
                damaged.write(bytes([byte ^ 1 << rng.randrange(8)]))
        yield out


def no_cores(folder: Path) -> Iterator[Path]:
    """Yield files that may be mistaken for a vmcore, and files with false headers."""
    vmcoreinfo_note = note("VMCOREINFO", 0, b"OSRELEASE=6.12.0\nPAGESIZE=4096\n")
    contents = {
        "empty": b"",
        "text": b"not a vmcore\n",
        "long-text": b"the quick brown fox\n" * 100_000,
        "zeros": bytes(1 << 20),
        "magic": b"\x7fELF",
        "kdump-magic": b"KDUMP   ",
        "kdump-zeros": b"KDUMP   " + bytes(10_000),
        "flat-magic": b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1),
        "of-libvirt": b"LibvirtQEMUSave\0" + bytes(100),
        "program": elf_file(2, _X86_64, []),
        "of-riscv": elf_file(ET_CORE, 243, [(PT_NOTE, vmcoreinfo_note)]),
        "of-a-process": elf_file(ET_CORE, _X86_64, [(PT_NOTE, note("CORE", 6, bytes(16)))]),
        "no-vmcoreinfo": elf_file(ET_CORE, _X86_64, [(PT_NOTE, note("CORE", 1, bytes(336)))]),
        "nonsense-vmcoreinfo": elf_file(
            ET_CORE, _X86_64, [(PT_NOTE, note("VMCOREINFO", 0, b"nonsense"))]
        ),
        "no-memory": elf_file(ET_CORE, _X86_64, [(PT_NOTE, vmcoreinfo_note)]),
        "xz-cut-short": lzma.compress(b"\x7fELF" + bytes(1 << 16))[:80],
        "gzip-damaged": b"\x1f\x8b\x08\0" + bytes(100),
    }
    for name, content in contents.items():
        path = folder / f"vmcore-{name}"
        path.write_bytes(content)
        yield path


def sparse(file: Path, folder: Path) -> Iterator[Path]:
    """Yield files of 1 TiB that take almost no space on the disk."""
    nothing = folder / "vmcore-1-TiB-of-nothing"
    nothing.touch()
    os.truncate(nothing, _TIB)
    yield nothing
    header = folder / "vmcore-1-TiB-behind-a-header"
    header.write_bytes(elf_file(ET_CORE, _X86_64, [(PT_LOAD, b"")]))
    os.truncate(header, _TIB)
    yield header
    for part in (2, 1):
        longer = copy(file, folder / f"vmcore-1-TiB-with-{part}-of-2-halves")
        os.truncate(longer, file.stat().st_size * (3 - part) // 2)
        os.truncate(longer, _TIB)
        yield longer


# ---- what would take too much


def of_much_time(folder: Path) -> Path:
    """Make a file of some MB that unpacks to 256 GiB of zeros, which takes minutes."""
    stream = lzma.compress(bytes(64 << 20), preset=0)
    path = folder / "vmcore-that-takes-long.xz"
    with open(path, "wb") as file:
        for _ in range(4096):
            file.write(stream)
    return path


def of_much_memory(folder: Path) -> Path:
    """Make a file whose header says that xz needs a dictionary of 1.5 GiB to unpack it."""
    lzma2_only = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]
    packed = bytearray(lzma.compress(bytes(1 << 20), filters=lzma2_only))
    # The header of the block follows that of the stream (The .xz File Format, 3.1): its size,
    # flags, then ID, size and properties of the filter, which are the size of the dictionary.
    begin = 12
    end = begin + 4 * (packed[begin] + 1)
    at = packed.index(b"\x21\x01", begin, end) + 2
    packed[at] = 37  # (2 | 1) << (37 / 2 + 11)
    packed[end - 4 : end] = struct.pack("<I", zlib.crc32(packed[begin : end - 4]))
    path = folder / "vmcore-that-takes-memory.xz"
    path.write_bytes(packed)
    return path


# ---- in the kernel's memory


class _Kernel:
    """The contents of a core, and where they are."""

    def __init__(self, core: Path) -> None:
        self.core = core
        self.prog = prog = open_program(core=core)
        self.layout = layout_of(prog)
        task_list = TaskList(prog, self.layout.task)
        self.tasks = [task for task in task_list if not task_list.is_running(task)]
        self.info = vmcoreinfo(prog)
        table = kallsyms_of(prog)
        assert table is not None, "the core has kallsyms"
        self.btf = btf_of(prog, table)
        self.used = used_words(self.btf.data)
        self.types = len(Btf(self.btf.data))
        self.symbols = tables_of(prog)
        (self.utsname,) = table.find("init_uts_ns")
        self.page_tables = vmcoreinfo_symbol(prog, "swapper_pg_dir") or 0

    def sleeper(self, number: int) -> Task:
        """Return one of the tasks that have a stack."""
        return [task for task in self.tasks if task.has_stack][number]


class _Copy:
    """A copy of a core that can be written to."""

    def __init__(self, kernel: _Kernel, path: Path) -> None:
        self._file = open(copy(kernel.core, path), "r+b")  # noqa: SIM115  # until close()
        self._memory = CoreMemory(self._file)
        root = kernel.page_tables - _START_KERNEL_MAP + int(kernel.info["NUMBER(phys_base)"])
        levels = 5 if kernel.info.get("NUMBER(pgtable_l5_enabled)") == "1" else 4
        self._tables = PageTables(self._memory, root, levels)

    def close(self) -> None:
        self._file.close()

    def write(self, addr: int, data: bytes) -> None:
        """Write bytes at a virtual address."""
        while data:
            size = min(len(data), PAGE - addr % PAGE)
            os.pwrite(
                self._file.fileno(), data[:size], self._memory.offset(self._tables.phys(addr))
            )
            addr, data = addr + size, data[size:]

    def write_word(self, addr: int, value: int) -> None:
        self.write(addr, struct.pack("<Q", value & (1 << 64) - 1))

    def replace_in_notes(self, old: bytes, new: bytes) -> None:
        """Replace *old* in VMCOREINFO with *new*, which has the same length."""
        assert len(old) == len(new)
        elf = read_elf(self._file)
        assert elf is not None
        notes = next(segment for segment in elf.segments if segment.type == PT_NOTE)
        text = os.pread(self._file.fileno(), notes.file_bytes, notes.offset)
        at = text.index(old)
        os.pwrite(self._file.fileno(), new, notes.offset + at)


def in_memory(
    core: Path, folder: Path, seeds: Iterable[int], only: Optional[Collection[str]] = None
) -> Iterator[Path]:
    """Yield copies of an ELF core, each with one kind of damage in the kernel.

    :param seeds: seeds for damaged types and symbols.
    :param only: the other kinds of damage to make; by default all.
    """
    kernel = _Kernel(core)
    names = _DAMAGES if only is None else only
    damages = {name: _DAMAGES[name] for name in names}
    damages.update((f"types-{seed}", _damaged_types(seed)) for seed in seeds)
    for name, damage in damages.items():
        path = folder / f"vmcore-{name}"
        made = _Copy(kernel, path)
        damage(kernel, made)
        made.close()
        yield path


def _next_of(kernel: _Kernel, number: int) -> int:
    return kernel.tasks[number].addr + kernel.layout.task.tasks_next[0]


def _looping_list(kernel: _Kernel, made: _Copy) -> None:
    made.write_word(_next_of(kernel, 20), _next_of(kernel, 10))


def _list_to_itself(kernel: _Kernel, made: _Copy) -> None:
    made.write_word(_next_of(kernel, 20), _next_of(kernel, 20))


def _wild_list(addr: int) -> Callable[[_Kernel, _Copy], None]:
    return lambda kernel, made: made.write_word(_next_of(kernel, 20), addr)


def _looping_threads(kernel: _Kernel, made: _Copy) -> None:
    at = kernel.layout.task.thread_node_next[0]
    made.write_word(kernel.tasks[5].addr + at, kernel.tasks[6].addr + at)
    made.write_word(kernel.tasks[6].addr + at, kernel.tasks[5].addr + at)


def _hostile_names(kernel: _Kernel, made: _Copy) -> None:
    offset, size = kernel.layout.task.comm
    for task in kernel.tasks[::3]:
        made.write(task.addr + offset, HOSTILE_COMM.ljust(size, b"\0"))
    for task in kernel.tasks[1::3]:
        made.write(task.addr + offset, b"\xe2" * size)  # no end, and half a character


def _hostile_nodename(kernel: _Kernel, made: _Copy) -> None:
    # struct uts_namespace begins with struct new_utsname: sysname, nodename, 65 characters each.
    made.write(kernel.utsname + 65, (b"</td>" + HOSTILE_COMM * 8)[:65])


def _wild_stacks(kernel: _Kernel, made: _Copy) -> None:
    odd = (0, 1, (1 << 64) - 1, 0x4141_4141_4141_4141, 0xDEAD_0000_0000_0100, _START_KERNEL_MAP)
    members = (kernel.layout.task.stack, kernel.layout.task.thread_sp)
    for number, task in enumerate(kernel.tasks[:24]):
        made.write_word(task.addr + members[number % 2][0], odd[number % len(odd)])


def _odd_frame_pointers(kernel: _Kernel, made: _Copy) -> None:
    # Each points to itself, to the one before, or to pt_regs that do not exist.
    at = kernel.layout.first_frame_offset
    for number in range(30):
        addr = kernel.sleeper(number).thread_sp + at
        made.write_word(addr, addr + (0, -8, 1, 16)[number % 4])


def _stacks_of_one_word(kernel: _Kernel, made: _Copy) -> None:
    for number in range(0, 30, 2):
        task = kernel.sleeper(number)
        end = task.stack_addr + kernel.layout.thread_size_bytes
        word = (0, (1 << 64) - 1, task.thread_sp, task.thread_sp | 1)[number // 2 % 4]
        size = (end - task.thread_sp) // 8
        made.write(task.thread_sp, struct.pack("<Q", word & (1 << 64) - 1) * size)


def _odd_states(kernel: _Kernel, made: _Copy) -> None:
    for member in ("pid", "tgid", "state", "exit_state", "flags", "cpu", "on_cpu"):
        where = getattr(kernel.layout.task, member)
        for number, task in enumerate(kernel.tasks[1::5]):
            made.write(task.addr + where[0], bytes([number * 37 & 0xFF]) * where[1])


def _wild_count(piece: int, value: int) -> Callable[[_Kernel, _Copy], None]:
    def damage(kernel: _Kernel, made: _Copy) -> None:
        made.write(kernel.symbols[piece].addr, struct.pack("<I", value))

    return damage


def _btf_header(offset: int, value: int) -> Callable[[_Kernel, _Copy], None]:
    def damage(kernel: _Kernel, made: _Copy) -> None:
        made.write(kernel.btf.addr + offset, struct.pack("<I", value))

    return damage


def _note(old: str, new: str) -> Callable[[_Kernel, _Copy], None]:
    return lambda kernel, made: made.replace_in_notes(old.encode(), new.encode())


def _no_page_tables(kernel: _Kernel, made: _Copy) -> None:
    made.write(kernel.page_tables, bytes(PAGE))


def _page_tables_of_themselves(kernel: _Kernel, made: _Copy) -> None:
    phys = kernel.page_tables - _START_KERNEL_MAP + int(kernel.info["NUMBER(phys_base)"])
    made.write(kernel.page_tables + PAGE // 2, struct.pack("<Q", phys | 0x63) * (PAGE // 16))


def _damaged_types(seed: int) -> Callable[[_Kernel, _Copy], None]:
    def damage(kernel: _Kernel, made: _Copy) -> None:
        rng = random.Random(seed)
        kind = seed % 4
        if kind < 2:
            data = damage_words(rng, kernel.btf.data, kernel.used, kernel.types)
            _write_changes(made, kernel.btf, data)
        elif kind == 2:
            _write_changes(made, kernel.btf, damage_anything(rng, kernel.btf.data))
        else:
            piece = rng.choice(kernel.symbols)
            _write_changes(made, piece, damage_anything(rng, piece.data))

    return damage


def _write_changes(made: _Copy, piece: Piece, data: bytes) -> None:
    for at in range(0, len(data), PAGE):
        if piece.data[at : at + PAGE] != data[at : at + PAGE]:
            made.write(piece.addr + at, data[at : at + PAGE])


_DAMAGES: dict[str, Callable[[_Kernel, _Copy], None]] = {
    "list-loops": _looping_list,
    "list-to-itself": _list_to_itself,
    "list-to-0": _wild_list(0),
    "list-to-nowhere": _wild_list(0xFFFF_8000_0000_0000),
    "list-to-no-address": _wild_list(0x4141_4141_4141_4141),
    "threads-loop": _looping_threads,
    "hostile-names": _hostile_names,
    "hostile-nodename": _hostile_nodename,
    "wild-stacks": _wild_stacks,
    "odd-frame-pointers": _odd_frame_pointers,
    "stacks-of-one-word": _stacks_of_one_word,
    "odd-states": _odd_states,
    "no-symbols": _wild_count(0, 0),
    "too-many-symbols": _wild_count(0, 0xFFFF_FFFF),
    "some-more-symbols": _wild_count(0, 1 << 22),
    "btf-magic": _btf_header(0, 0),
    "btf-header-length": _btf_header(4, 0xFFFF_FFF0),
    "btf-types-length": _btf_header(12, 0xFFFF_FFFC),
    "btf-strings-length": _btf_header(20, 0x7FFF_FFFF),
    "page-size-0": _note("PAGESIZE=4096", "PAGESIZE=0000"),
    "page-size-odd": _note("PAGESIZE=4096", "PAGESIZE=4097"),
    "no-release": _note("OSRELEASE=", "OSRELEASX="),
    "wild-page-tables": _note("SYMBOL(swapper_pg_dir)=ffff", "SYMBOL(swapper_pg_dir)=0000"),
    "no-page-tables": _no_page_tables,
    "page-tables-of-themselves": _page_tables_of_themselves,
}
