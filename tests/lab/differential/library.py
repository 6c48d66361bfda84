# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's unwinder as a library, with the ORC tables of a dump in it.

Its addresses are those of the kernel less one distance (:attr:`Library.shift`), so that the tables, whose
addresses are relative to their own place, are right where the library has them. Stacks lie in
the library's arena and have addresses of our own process.
"""

from __future__ import annotations

import ctypes
import json
import re
import struct
import subprocess
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Callable, NamedTuple, Optional

from drgn import Object, Program

from drgn_tools.arch.registry import layout_of
from drgn_tools.arch.x86.layout import X86Layout
from drgn_tools.arch.x86.orc_entry import ENTRY_BYTES, OrcEntry, OrcType
from drgn_tools.arch.x86.orc_tables import OrcImage, OrcTables
from drgn_tools.debuginfo.modules import module_memory
from drgn_tools.kernel.probing import symbol_address
from drgn_tools.kernel.text import KernelText, TextKind
from drgn_tools.unwind.orc import OrcRules
from drgn_tools.unwind.recovery import probe_recovery

from ..errors import LabError
from ..run import Progress, run
from .source import CODE

__all__ = ("ARENA_BYTES", "Library", "Stack", "Walked")

_HERE = Path(__file__).parent
ARENA_BYTES = 1 << 16
"""Memory for stacks, from a page boundary on."""
_TOP_BYTES = 1 << 31
"""The image, modules and made code lie in the last 2 GiB of the address space."""
_TOP = (1 << 64) - _TOP_BYTES
_MAX_KEPT_STEPS = 320
_STEP_WORDS = 4
_ORIGINALS = 64
_MADE_UP_RULES = 400
_CACHED = 1 << 16
_FLAGS = (
    "-O2 -g -fPIC -shared -w -std=gnu11 -fno-strict-aliasing -fwrapv "
    "-fno-delete-null-pointer-checks -Wl,-Bsymbolic"
).split()
"""As the kernel is compiled, as far as it says what C means."""

_Word = ctypes.c_ulong
_IsText = ctypes.CFUNCTYPE(ctypes.c_bool, _Word)
_Find = ctypes.CFUNCTYPE(ctypes.c_void_p, _Word)


class _Stack(ctypes.Structure):
    _fields_ = (("begin", _Word), ("end", _Word), ("type", ctypes.c_int))


class _Shim(ctypes.Structure):
    """``struct shim``."""

    _fields_ = (
        ("stext", _Word), ("etext", _Word), ("sinittext", _Word), ("einittext", _Word),
        ("fork_return", _Word), ("ftrace_caller", _Word), ("ftrace_regs_caller", _Word),
        ("return_to_handler", _Word), ("rethook_trampoline", _Word),
        ("is_text", _IsText), ("module_of", _Find), ("ftrace_ops_of", _Find),
        ("has_frame_pointer", _IsText),
        ("originals", _Word * _ORIGINALS), ("stacks", _Stack * 4), ("stack_count", ctypes.c_uint),
    )  # fmt: skip


class _Module(ctypes.Structure):
    _fields_ = (("num_orcs", ctypes.c_uint), ("ips", ctypes.c_void_p), ("entries", ctypes.c_void_p))


class _FtraceOps(ctypes.Structure):
    _fields_ = (("flags", _Word), ("trampoline", _Word))


class _Walk(ctypes.Structure):
    _fields_ = (
        ("step_count", ctypes.c_uint), ("error", ctypes.c_uint), ("endless", ctypes.c_uint),
        ("ret", ctypes.c_int), ("entry_count", ctypes.c_uint),
    )  # fmt: skip


class Stack(NamedTuple):
    """A stack in the arena."""

    kind: str
    """task, irq, exception or entry; that of the task comes first."""
    begin: int
    """Address in this process."""
    end: int


_TYPES = {"task": 1, "irq": 2, "entry": 4, "exception": 5}
"""``enum stack_type``, the same from v5.10 to v7.2."""


class Walked(NamedTuple):
    """What the kernel found on one stack."""

    steps: list[int]
    """Of each state ip, regs, the address of the word with ip, and a sum of STEP_*; of the first of them only,
    if there are very many."""
    step_count: int
    """All of them."""
    error: bool
    """unwind_error() at the end."""
    endless: bool
    """It did not end. The other attributes then say nothing but how it began."""
    ret: int
    """Return value of arch_stack_walk_reliable(): 0 or -EINVAL."""
    entry_count: int
    """How many entries that stored."""


class Library:
    """The unwinder of one kernel.

    :param folder: Where its code is: see :func:`.source.get_unwinder`
    :param work: Folder for what the compiler makes
    :param prog: Program of a dump of a kernel of the same version
    :param coverage: Compile it with counters for gcov
    :raises LabError: it does not compile, or the dump is of a kernel without ORC
    """

    def __init__(self, folder: Path, work: Path, prog: Program, coverage: bool = False) -> None:
        layout = layout_of(prog)
        if not isinstance(layout, X86Layout) or not isinstance(layout.orc, OrcImage):
            raise LabError("the dump is not that of a kernel with the ORC unwinder")
        self.prog = prog
        self.layout = layout
        self.image: OrcImage = layout.orc
        self.text = KernelText(prog, layout.arch.extra_text(prog))
        if self.text.problems:
            raise LabError(f"the dump does not tell what is kernel text: {self.text.problems[0]}")
        self._tables = OrcTables(prog, self.image, self.text)
        recovery = probe_recovery(prog)
        self.rethook = None if recovery.rethook is None else recovery.rethook.trampoline
        self.return_to_handler = (
            None if recovery.fgraph is None else recovery.fgraph.return_to_handler
        )
        self._modules = [
            module for module in self.text.modules.values() if module.arch.num_orcs.value_()
        ]
        self._work = work
        self._library = self._compile(folder, work, coverage)
        self._dump_coverage = getattr(self._library, "shim_dump_coverage", None)
        self.arena = self._address("shim_arena")
        """Address of the arena in this process."""
        self.shift = self.image.ips_addr - self._address("__start_orc_unwind_ip")
        """Address in the kernel less that in this process. Only for code and tables."""
        self._kept: list[object] = []
        self._shim = _Shim.in_dll(self._library, "shim")
        self._place_image()
        self._module_ranges = sorted(self._place_modules())
        self.module_memory = [(start, end) for start, end, _ in self._module_ranges if start < end]
        """[start, end) in the kernel of all that belongs to modules with tables."""
        self._set_kernel()
        self._library.unwind_init()
        # Since Linux kernel commit 6c8ef58a50b5 ("x86/unwind/orc: Recheck address range after stack
        # info was updated") (in v5.18).
        code = (folder / CODE[0]).read_text()
        self.tests_length_after_move = bool(
            re.search(r"return !get_stack_info\(.*\) &&\s+on_stack\(", code)
        )
        """stack_access_ok() tests the length also after a change of the stack."""
        self._adds_after = "== ORC_REG_SP_INDIRECT)" in code  # v5.12
        self._has_ax = "ORC_REG_AX" in (folder / "include/asm/orc_types.h").read_text()
        raw = prog.read(self.image.ips_addr, 4 * self.image.count)
        self.starts: list[int] = [
            self.image.ips_addr + 4 * i + ip for i, ip in enumerate(array("i", raw))
        ]
        """Address in the kernel that each entry of the image's table begins at."""
        self._made_up: dict[int, OrcEntry] = {}
        self.find = lru_cache(_CACHED)(self._find)
        """orc_find() of drgn-tools, of shifted addresses."""

    # ---- the kernel, shifted

    def shifted(self, addr: int) -> int:
        """Return where an address of the kernel is in this process."""
        return addr - self.shift

    def unshifted(self, addr: int) -> Optional[int]:
        """Return the address in the kernel; ``None`` if it is none of its code's and tables'."""
        unshifted = addr + self.shift
        return unshifted if _TOP <= unshifted < _TOP + _TOP_BYTES else None

    def _find(self, addr: int) -> Optional[OrcEntry]:
        if not addr:
            return self._tables.find(0)
        unshifted = self.unshifted(addr)
        if unshifted is None:
            return None
        if any(start <= unshifted < end for start, end in self.image.code):
            made_up = self._made_up.get(bisect_right(self.starts, unshifted) - 1)
            if made_up is not None:
                return made_up
        return self._tables.find(unshifted)

    def make_up_rules(self, random: Random) -> list[int]:
        """Put rules into the image's table that objtool could have made, but has not for this kernel.

        :return: Addresses in the kernel with these rules, as they are looked up
        """
        addrs: list[int] = []
        entries = self._address("__start_orc_unwind")
        text_start, text_end = self.image.code[0]
        while len(addrs) < _MADE_UP_RULES:
            i = random.randrange(self.image.count - 1)
            start, end = self.starts[i], self.starts[i + 1]
            if not text_start <= start < end <= text_end:
                continue
            raw, entry = self._random_entry(random)
            ctypes.memmove(entries + ENTRY_BYTES * i, raw, ENTRY_BYTES)
            self._made_up[i] = entry
            addrs.append(random.randrange(start, end))
        self.find.cache_clear()
        return addrs

    def _random_entry(self, random: Random) -> tuple[bytes, OrcEntry]:
        while True:
            offset, bp_offset = (8 * random.randrange(-6, 12) for _ in range(2))
            bits = random.getrandbits(12)
            if not random.randrange(3):
                bits &= ~0xF0  # bp is unchanged
            raw = struct.pack("<hhH", offset, bp_offset if bits & 0xF0 else 0, bits)
            entry = self.image.form.decode(raw)
            if entry is None:
                continue
            # What SP_INDIRECT means has changed in v5.12. drgn-tools tells by the type, as objtool has
            # used it at pt_regs before, and at calls since. AX is a register in no kernel before
            # v7.1 but some stable ones.
            sp_indirect = entry.indirect and entry.base == "sp"
            if sp_indirect and (entry.type is OrcType.CALL) != self._adds_after:
                continue
            if entry.base != "ax" or self._has_ax:
                return raw, entry

    def is_text(self, addr: int) -> bool:
        """Return __kernel_text_address() of a shifted address."""
        unshifted = self.unshifted(addr)
        return unshifted is not None and bool(self.text.is_kernel_text(unshifted))

    def rules(self) -> OrcRules:
        """Return the rules of drgn-tools for this kernel, shifted."""
        trampolines = {self.rethook, self.return_to_handler} - {None}
        return OrcRules(
            find=self.find,
            regs=self.layout.regs,
            frame_bp_offset=self.layout.first_frame_offset,
            first_exact_addrs=frozenset(map(self.shifted, self.image.first_exact_addrs)),
            guesses=self.image.guesses,
            rethook_trampoline=None if self.rethook is None else self.shifted(self.rethook),
            trampolines=frozenset(self.shifted(addr) for addr in trampolines if addr is not None),
        )

    def recover(self, addr: int, addr_p: int) -> int:
        """Return an original address as ftrace_graph_ret_addr() and rethook_find_ret_addr() of shim.h do."""
        if addr == self._shim.return_to_handler:
            addr = self._shim.originals[addr_p // 8 % _ORIGINALS]
        if addr == self._shim.rethook_trampoline:
            addr = self._shim.originals[(addr_p + 8) // 8 % _ORIGINALS]
        return addr

    def set_originals(self, addrs: list[int]) -> None:
        """Set the addresses that :meth:`recover` finds; some are 0, as rethook answers for running tasks."""
        self._shim.originals = (_Word * _ORIGINALS)(*addrs)

    # ---- walks

    def set_stacks(self, stacks: list[Stack]) -> None:
        """Say where the stacks lie. A sleeping task has only the first."""
        for i, stack in enumerate(stacks):
            self._shim.stacks[i] = _Stack(stack.begin, stack.end, _TYPES[stack.kind])
        self._shim.stack_count = len(stacks)

    def walk(
        self, data: bytes, size_bytes: int, at: int, sps: Optional[array[int]], regs: bytes = b""
    ) -> Iterator[Walked]:
        """Walk stacks. Results come in their order.

        :param data: Contents of the arena, one after the other
        :param size_bytes: Bytes of each
        :param at: Where in the arena it goes
        :param sps: ``thread.sp`` of each; ``None`` if the task runs
        :param regs: Then a ``struct pt_regs`` for each
        """
        count = len(data) // size_bytes
        walks = (_Walk * count)()
        steps = array("Q", bytes(8 * _STEP_WORDS * _MAX_KEPT_STEPS * count))
        self._library.shim_walk(
            ctypes.c_uint(count),
            data,
            _Word(size_bytes),
            _Word(at),
            None if sps is None else ctypes.c_void_p(sps.buffer_info()[0]),
            regs if sps is None else None,
            walks,
            ctypes.c_void_p(steps.buffer_info()[0]),
        )
        first = 0
        for walk in walks:
            end = first + _STEP_WORDS * min(walk.step_count, _MAX_KEPT_STEPS)
            yield Walked(
                steps[first:end].tolist(),
                walk.step_count,
                bool(walk.error),
                bool(walk.endless),
                walk.ret,
                walk.entry_count,
            )
            first = end

    def lines_never_run(self) -> list[str]:
        """Return the lines of the kernel's code that no walk so far has run, of functions that were called."""
        assert self._dump_coverage is not None  # compiled with coverage
        self._dump_coverage()
        found = []
        for name in CODE:
            stem = Path(name).stem
            (data,) = self._work.glob(f"*{stem}.gcda")
            command = ["gcov", "--json-format", "--stdout", data.name]
            said = subprocess.run(
                command, cwd=self._work, stdout=subprocess.PIPE, check=True, text=True
            ).stdout
            (file,) = (f for f in json.loads(said)["files"] if f["file"].endswith(f"{stem}.c"))
            called = {f["name"] for f in file["functions"] if f["execution_count"]}
            code = Path(file["file"]).read_text().splitlines()
            found += [
                f"{stem}.c:{line['line_number']}: {code[line['line_number'] - 1].strip()}"
                for line in file["lines"]
                if not line["count"] and line.get("function_name") in called
            ]
        return found

    # ---- how it is made

    def _compile(self, folder: Path, work: Path, coverage: bool) -> ctypes.CDLL:
        start, end = (self._symbol(name) for name in ("orc_lookup", "orc_lookup_end"))
        table_bytes = sum(16 + self._count(module) * (4 + ENTRY_BYTES) for module in self._modules)
        defines = {
            "ARENA_BYTES": ARENA_BYTES,
            "ENTRIES": self.image.count,
            "LOOKUP_BLOCKS": (end - start) // 4,
            "MODULE_TABLES_BYTES": table_bytes,
            **({} if self.rethook is None else {"CONFIG_RETHOOK": 1}),
            **({"COVERAGE": 1} if coverage else {}),
        }
        library = work / "unwinder.so"
        command = [
            "gcc",
            *_FLAGS,
            *(["--coverage", "-O0"] if coverage else []),
            *(f"-D{name}={value}" for name, value in defines.items()),
            *("-include", str(_HERE / "shim.h")),
            *("-I", str(folder / "include"), "-I", str(folder / "empty")),
            *(str(folder / name) for name in CODE),
            *(str(_HERE / "shim.c"), "-o", str(library)),
        ]
        with Progress("compiling the kernel's unwinder") as progress:
            run(command, progress, log=work / "compile.log", cwd=work)
        return ctypes.CDLL(str(library))

    def _symbol(self, name: str) -> int:
        addr = symbol_address(self.prog, name)
        if addr is None:
            raise LabError(f"the dump has no symbol {name}")
        return addr

    def _address(self, name: str) -> int:
        return ctypes.addressof(ctypes.c_char.in_dll(self._library, name))

    def _count(self, module: Object) -> int:
        return int(module.arch.num_orcs.value_())

    def _copy(self, to: int, addr: int, size_bytes: int) -> None:
        ctypes.memmove(to, self.prog.read(addr, size_bytes), size_bytes)

    def _place_image(self) -> None:
        image = self.image
        self._copy(self._address("__start_orc_unwind_ip"), image.ips_addr, 4 * image.count)
        entries = self._address("__start_orc_unwind")
        self._copy(entries, image.entries_addr, ENTRY_BYTES * image.count)

    def _place_modules(self) -> Iterator[tuple[int, int, int]]:
        """Yield the memory of modules, in the kernel, and the address of its ``struct module`` here."""
        to = self._address("shim_module_tables")
        for module in self._modules:
            count = self._count(module)
            addr = module.arch.orc_unwind_ip.value_()
            ips = array("i", self.prog.read(addr, 4 * count))
            moved = self.shifted(addr) - to
            ctypes.memmove(to, array("i", [ip + moved for ip in ips]).tobytes(), 4 * count)
            entries = to + 4 * count
            self._copy(entries, module.arch.orc_unwind.value_(), ENTRY_BYTES * count)
            arch = _Module(count, to, entries)
            self._kept.append(arch)
            to = (entries + ENTRY_BYTES * count + 15) & -16
            for start, end in module_memory(module):
                yield start, end, ctypes.addressof(arch)

    def _set_kernel(self) -> None:
        shim = self._shim
        text = {"stext": "_stext", "etext": "_etext", "sinittext": "_sinittext"}
        for name, symbol in {**text, "einittext": "_einittext"}.items():
            setattr(shim, name, self.shifted(self._symbol(symbol)))
        new = symbol_address(self.prog, "ret_from_fork_asm")
        shim.fork_return = self.shifted(new or self._symbol("ret_from_fork"))
        shim.ftrace_caller = self.shifted(self._symbol("ftrace_caller"))
        shim.ftrace_regs_caller = self.shifted(self._symbol("ftrace_regs_caller"))
        shim.return_to_handler = self.shifted(self.return_to_handler or 0)
        shim.rethook_trampoline = self.shifted(self.rethook or 0)
        shim.is_text = self._keep(_IsText, self.is_text)
        shim.module_of = self._keep(_Find, self._module_of)
        shim.ftrace_ops_of = self._keep(_Find, self._ftrace_ops_of)
        shim.has_frame_pointer = self._keep(_IsText, self._has_frame_pointer)

    def _keep(self, kind: Any, function: Callable[[int], Any]) -> Any:
        callback = kind(lru_cache(_CACHED)(function))
        self._kept.append(callback)
        return callback

    def _module_of(self, addr: int) -> Optional[int]:
        unshifted = self.unshifted(addr)
        if unshifted is None:
            return None
        i = bisect_right(self._module_ranges, (unshifted, _TOP + _TOP_BYTES)) - 1
        if i < 0 or unshifted >= self._module_ranges[i][1]:
            return None
        return self._module_ranges[i][2]

    def _ftrace_ops_of(self, addr: int) -> Optional[int]:
        unshifted = self.unshifted(addr)
        found = None if unshifted is None else self.text.find(unshifted)
        if found is None or found.kind is not TextKind.FTRACE or found.owner is None:
            return None
        ops = _FtraceOps(found.owner.flags.value_(), self.shifted(found.start))
        self._kept.append(ops)
        return ctypes.addressof(ops)

    def _has_frame_pointer(self, addr: int) -> bool:
        """Follows bpf_has_frame_pointer() in kernel/bpf/core.c, v7.2."""
        unshifted = self.unshifted(addr)
        found = None if unshifted is None else self.text.find(unshifted)
        if found is None or found.kind is not TextKind.BPF or found.owner is None:
            return False
        start, end = found.owner.fp_start.value_(), found.owner.fp_end.value_()
        if not start or not end or unshifted is None:
            return False
        return bool(start <= unshifted - found.start < end)
