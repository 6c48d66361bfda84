# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the stack traces of drgn's stack_trace(), drgn-tools and the kernel's console end or differ, on machines that crashed.

    python -m tests.support.compare_drgn                           the table, as Markdown
    python -m tests.support.compare_drgn --update docs/crashes.md  writes it where it belongs
    python -m tests.support.compare_drgn --module lab_crash.ko     drgn has that module's DWARF as well

The dumps are from the lab: ``python -m tests.lab dump --group crashes``, and fp-lsb for
the tasks that sleep. A table does not depend on addresses.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Optional

import drgn
from drgn import ModuleFileStatus, Object, Program, StackFrame

from drgn_tools import TaskStack, audit_kernel, open_program, task_stacks
from drgn_tools.kernel.symbolizer import Symbolizer
from drgn_tools.kernel.text import KernelText

from ..lab.dump import Dump, cached_dump, kernel_if_cached
from ..lab.sheet import SheetFrame, SheetTask, read_sheet
from ..lab.variants import GROUPS, variant_named, variants_of
from .answers import Comparison, compare
from .console import Entry, Oops, our_entries, read_console, what_both_saw

__all__ = (
    "Row",
    "Sleeper",
    "crash_table",
    "differences",
    "drgn_with_dwarf",
    "measure",
    "measured",
    "sleepers",
    "table_in",
)

CRASHER = "lab-crasher"
SLEEPERS = "fp-lsb"
_ASLEEP = "asleep"
_FIRST_KERNEL_ADDRESS = 1 << 63
_IP_IN_PT_REGS = 16 * 8
"""offsetof(struct pt_regs, ip) on x86-64."""

SWAPPED = frozenset({"return_to_handler", "arch_rethook_trampoline", "__kretprobe_trampoline"})
"""What function graph tracing and kretprobes put in the place of a return address."""


@dataclass(frozen=True)
class Row:
    """One crash: what the console, drgn-tools and drgn say about the task that died."""

    crash: str
    stacks: str
    """The borders on the console, innermost first."""
    console: str
    ours: str
    """drgn-tools with the dump alone."""
    dwarf: str
    """drgn with vmlinux (DWARF) and the symbols of the modules."""
    types: str
    """drgn with types and symbols from the dump, without CFI."""
    alone: str
    """drgn with the dump alone."""


# ---- drgn


def drgn_with_dwarf(
    core: Path, vmlinux: Path, modules: Sequence[Path], with_dwarf: Optional[Path] = None
) -> Program:
    """Return a Program with everything that the lab has for a kernel, but nothing from drgn-tools.

    :param modules: .ko files; the lab's are stripped of DWARF, so drgn uses their symbols
        only if it is made to want the file
    :param with_dwarf: one of the modules, built again and not stripped
    """
    prog = Program()
    prog.set_core_dump(core)
    prog.load_debug_info([vmlinux])
    for path in modules:
        module = prog.module(path.stem)
        if with_dwarf is not None and with_dwarf.stem == path.stem:
            # Its build ID differs, because DWARF contains the folder of the build.
            module.try_file(with_dwarf, force=True)
            assert module.debug_file_status is ModuleFileStatus.HAVE
        else:
            module.loaded_file_status = ModuleFileStatus.WANT
            module.try_file(path)
            assert module.loaded_file_status is ModuleFileStatus.HAVE
    return prog


def drgn_entries(prog: Program, task: int, names: Symbolizer) -> list[Entry]:
    """Return drgn's stack trace of a task in the console's form, without the inlined frames.

    Each address has the kernel's name, as in the other two traces.
    """
    trace = prog.stack_trace(Object(prog, "struct task_struct *", task))
    return [_drgn_entry(frame, names) for frame in trace if not frame.is_inline]


def _drgn_entry(frame: StackFrame, names: Symbolizer) -> Entry:
    # drgn gives a return address for a caller, and the exact address for an interrupted function.
    registers = {_title(n): v for n, v in frame.registers().items()} if frame.interrupted else None
    return Entry("", _what(names, frame.pc, frame.interrupted), registers)


def _what(names: Symbolizer, address: int, exact: bool) -> str:
    name = names.name_exact(address)
    # Only a swapped return address points to the start of a function (apart from a call that never
    # returns and is the last instruction of the function before).
    if not exact and not (name is not None and name.offset == 0 and name.name in SWAPPED):
        name = names.name_return_address(address)
    if name is None:
        return f"{address:#x}"
    return f"{name} [{name.module}]" if name.module else f"{name}"


def _title(name: str) -> str:
    """``r8`` is R08 on the console."""
    if name == "rflags":
        return "EFLAGS"
    return f"R{int(name[1:]):02}" if name[1:].isdigit() else name.upper()


def drgn_alone(core: Path, pid: int) -> str:
    """Return what drgn says about a task when it has only the dump."""
    prog = Program()
    prog.set_core_dump(core)
    try:
        return f"{len(prog.stack_trace(pid))} frames"
    except LookupError as e:
        return f"{type(e).__name__}: {e}"


# ---- one crash


def measure(name: str, dump: Dump, modules: Sequence[Path], with_dwarf: Optional[Path]) -> Row:
    """Return everything that is said about the task that died in a dump."""
    ours = open_program(core=dump.core)
    names = Symbolizer(ours, KernelText(ours))
    dead = next(s for s in task_stacks(ours) if s.on_cpu and s.comm == CRASHER)
    oopses = [o for o in read_console(dump.said.read_text(errors="replace")) if _of(o, dead)]
    vmlinux = Path(dump.read_about()["vmlinux"])
    theirs = drgn_with_dwarf(dump.core, vmlinux, modules, with_dwarf)
    dwarf = _cell(oopses, drgn_entries(theirs, dead.task, names))
    types = _cell(oopses, drgn_entries(ours, dead.task, names))
    console, traces = what_the_console_saw(oopses)
    stacks = list(dict.fromkeys(e.stack for e in console if e.stack != "?")) or ["TASK"]
    regs = sum(1 for e in console if e.registers is not None)
    return Row(
        crash=name,
        stacks=" ".join(stacks),
        console=f"{len(console)} ({regs})" + (f", {traces} traces" if traces > 1 else ""),
        ours=_cell(oopses, our_entries(dead)),
        dwarf=dwarf,
        types="the same" if types == dwarf else types,
        alone=drgn_alone(dump.core, dead.pid),
    )


def _of(oops: Oops, task: TaskStack) -> bool:
    return (oops.pid, oops.cpu) == (task.pid, task.cpu)


def what_the_console_saw(oopses: Sequence[Oops]) -> tuple[list[Entry], int]:
    """Return the task's stack as printed on the console, and the number of traces that form it.

    The trace from panic() begins in an inner frame. If it ends at the registers of the
    oops, the trace of the oops continues it.
    """
    panic, oops = _last(oopses, from_regs=False), _last(oopses, from_regs=True)
    if panic is None:
        assert oops is not None
        return what_both_saw(oops, [])[0], 1
    seen, _ = what_both_saw(panic, [])
    if oops is not None and len(oops.entries) > 1 and seen[-1][1:] == oops.entries[0][1:]:
        return [*seen, *oops.entries[1:]], 2
    return seen, 1


def _last(oopses: Sequence[Oops], *, from_regs: bool) -> Optional[Oops]:
    return next((o for o in reversed(oopses) if o.from_regs is from_regs), None)


def _cell(oopses: Sequence[Oops], other: Sequence[Entry]) -> str:
    """Return in words how a stack compares with the console's."""
    console, _ = what_the_console_saw(oopses)
    begin = _last(oopses, from_regs=False) or oopses[-1]
    rest = what_both_saw(begin, other)[1]
    found = list(dict.fromkeys(differences(console, rest)))
    if not found:
        return "equal"
    equal = sum(block.size for block in _matcher(console, rest).get_matching_blocks())
    return f"{equal} of {len(console)}; " + "; ".join(found)


# ---- differences

NO_USER = "no user registers"
BOGUS = "bogus end"
"""Frames past the last one whose addresses are not code."""
AS_WELL = " as well"


def _matcher(console: Sequence[Entry], other: Sequence[Entry]) -> SequenceMatcher[str]:
    return SequenceMatcher(None, [e.what for e in console], [e.what for e in other], autojunk=False)


def differences(console: Sequence[Entry], other: Sequence[Entry]) -> Iterator[str]:
    """Yield every difference of *other* from *console*, in words that are the same for any boot."""
    for kind, i, i_end, j, j_end in _matcher(console, other).get_opcodes():
        if kind == "equal":
            for a, b in zip(console[i:i_end], other[j:j_end]):
                yield from _at_one_place(a, b)
            continue
        missing, extra = list(console[i:i_end]), list(other[j:j_end])
        bogus = [e for e in extra if not (_is_named(e) or _is_user(e))]
        named = [e for e in extra if _is_named(e)]
        user = bool(missing) and _is_user(missing[-1])
        if user:
            missing.pop()
        if missing and named:
            yield f"{_names(named)} for {_names(missing)}"
        elif missing:
            yield f"lacks {_names(missing)}"
        elif named and i_end == len(console):
            yield f"goes on to {_names(named[-1:])}"
        elif named:
            yield f"has {_names(named)}{AS_WELL}"
        if user:
            yield NO_USER
        if bogus:
            yield BOGUS


def _at_one_place(a: Entry, b: Entry) -> Iterator[str]:
    name = _names([a])
    if b.stack and a.stack != b.stack:
        yield f"{name} on <{b.stack}>"
    if a.registers is None:
        if b.registers is not None:
            yield f"{name} as if interrupted"
    elif b.registers is None:
        yield f"no registers of {name}"
    elif any(value != b.registers.get(n, value) for n, value in a.registers.items()):
        yield f"other registers of {name}"


def _is_user(entry: Entry) -> bool:
    return entry.what.startswith("0x") and int(entry.what, 16) < _FIRST_KERNEL_ADDRESS


def _is_named(entry: Entry) -> bool:
    return not entry.what.startswith("0x")


def _names(entries: Iterable[Entry]) -> str:
    return ", ".join(dict.fromkeys(f"`{entry.what.partition('+')[0]}`" for entry in entries))


# ---- tasks that sleep


@dataclass(frozen=True)
class Sleeper:
    """A task that is not on a CPU: the kernel's own walk of it, and drgn's trace with DWARF."""

    task: SheetTask
    found: tuple[str, ...]
    """Differences other than the two below."""
    bogus: bool
    """Whether drgn's trace continues past the end, with values that are not addresses of code."""
    no_user: bool
    """Whether the walk ends with registers of user mode, and drgn's trace does not have them."""

    @property
    def kind(self) -> str:
        """The kind of these differences, one of a few."""
        if not self.found:
            return EQUAL
        if not self.task.has_stack:
            return GIVEN_BACK
        if any(f"`{name}`" in found for name in SWAPPED for found in self.found):
            return LEFT_SWAPPED
        return MORE_CALLERS if all(found.endswith(AS_WELL) for found in self.found) else OTHER


EQUAL = "equal to the kernel's walk"
GIVEN_BACK = "a stack where the kernel has none: it was given back"
LEFT_SWAPPED = "a swapped return address as it lies on the stack"
MORE_CALLERS = "a caller that the kernel's walk skips"
OTHER = "other"


@dataclass(frozen=True)
class Asleep:
    """All tasks of a dump that sleep."""

    ours: Comparison
    drgn: tuple[Sleeper, ...]
    ratio: float
    """Time for all stacks with their names, as the ratio of drgn to drgn-tools."""

    def table(self) -> str:
        """Return the table that the documentation shows."""
        kinds = [sleeper.kind for sleeper in self.drgn]
        rows = [
            ("tasks compared", len(kinds)),
            ("ours: differences to the kernel's walk", len(self.ours.differences)),
            *((f"drgn: {kind}", kinds.count(kind)) for kind in dict.fromkeys(kinds)),
            ("drgn: bogus end", sum(1 for s in self.drgn if s.bogus)),
            ("drgn: no user registers", sum(1 for s in self.drgn if s.no_user)),
            ("time for all stacks with names, drgn / ours", f"{self.ratio:.0f}"),
        ]
        return _markdown(rows, (f"`{SLEEPERS}`, drgn with DWARF", ""))


def sleepers(dump: Dump, modules: Sequence[Path]) -> Asleep:
    """Compare drgn's traces of all tasks on the kernel's answer sheet with the sheet."""
    ours = open_program(core=dump.core)
    theirs = drgn_with_dwarf(dump.core, Path(dump.read_about()["vmlinux"]), modules)
    sheet = read_sheet(ours)
    tasks = [task for task in sheet if task.comparable]
    started = time.perf_counter()
    for task in tasks:
        trace = theirs.stack_trace(Object(theirs, "struct task_struct *", task.task))
        assert all(frame.name for frame in trace)
    middle = time.perf_counter()
    audit = audit_kernel(ours)
    ended = time.perf_counter()
    names = Symbolizer(ours, KernelText(ours))
    return Asleep(
        ours=compare(audit, sheet),
        drgn=tuple(_sleeper(theirs, names, task) for task in tasks),
        ratio=(middle - started) / (ended - middle),
    )


def _sleeper(prog: Program, names: Symbolizer, task: SheetTask) -> Sleeper:
    walk = [_sheet_entry(task, frame, names) for frame in task.frames]
    trace = [entry._replace(registers=None) for entry in drgn_entries(prog, task.task, names)]
    found = list(differences(walk, trace))
    return Sleeper(
        task,
        found=tuple(f for f in found if f not in (BOGUS, NO_USER)),
        bogus=BOGUS in found,
        no_user=NO_USER in found,
    )


def _sheet_entry(task: SheetTask, frame: SheetFrame, names: Symbolizer) -> Entry:
    if not frame.user_mode:
        return Entry("", _what(names, frame.ip, exact=bool(frame.regs)))
    (ip,) = struct.unpack_from("<Q", task.entry_regs_bytes, _IP_IN_PT_REGS)
    return Entry("", f"{ip:#x}")


# ---- tables


def crash_table(rows: Sequence[Row]) -> str:
    """Return the table of one group, in Markdown, with crashes sorted by the stacks that they are on."""
    order = list(dict.fromkeys(row.stacks for row in rows))
    cells = [
        (row.crash, _border(row.stacks), row.console, row.ours, row.dwarf, row.types)
        for row in sorted(rows, key=lambda row: order.index(row.stacks))
    ]
    head = ("crash", "stacks", "console", "ours", "drgn, DWARF", "drgn, BTF")
    alone = list(dict.fromkeys(row.alone for row in rows))
    equal = sum(1 for row in rows if row.ours == "equal")
    return (
        f"{_markdown(cells, head)}\n\n"
        f"Ours is equal in {equal} of {len(rows)}."
        f" drgn with the dump alone, in all of them: `{'`, `'.join(alone)}`."
    )


def _border(stacks: str) -> str:
    return " ".join(f"`<{stack}>`" for stack in stacks.split())


def _markdown(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _marks(name: str) -> tuple[str, str]:
    return (
        f"<!-- begin {name}: python -m tests.support.compare_drgn --update writes this -->",
        f"<!-- end {name} -->",
    )


def _between(document: str, name: str) -> re.Match[str]:
    begin, end = _marks(name)
    match = re.search(f"(?<={re.escape(begin)}\n).*?(?=\n{re.escape(end)})", document, re.S)
    if match is None:
        raise SystemExit(f"no place for the table: want a line {begin!r} and a line {end!r}")
    return match


def table_in(document: str, name: str) -> str:
    """Return the table of a group in a document."""
    return _between(document, name)[0]


def measured(group: str, with_dwarf: Optional[Path] = None) -> str:
    """Return the table of a group of crashes in the lab's cache."""
    rows = []
    for variant in variants_of(group):
        dump, modules = _cached(variant.name)
        rows.append(measure(variant.name.partition("crash-")[2], dump, modules, with_dwarf))
    return crash_table(rows)


def _cached(name: str) -> tuple[Dump, Sequence[Path]]:
    variant = variant_named(name)
    dump, kernel = cached_dump(variant), kernel_if_cached(variant)
    if dump is None or kernel is None:
        raise SystemExit(f"no dump of {name} yet: python -m tests.lab dump {name}")
    return dump, kernel.modules


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.compare_drgn")
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help="group of the lab (default: crashes)"
    )
    parser.add_argument("--update", type=Path, metavar="FILE", help="write the tables into FILE")
    parser.add_argument(
        "--module", type=Path, metavar="KO", help="a module of the lab's with DWARF"
    )
    arguments = parser.parse_args()
    known = [group for group in GROUPS if any(v.crash for v in variants_of(group))]
    unknown = sorted(set(arguments.groups) - set(known))
    if unknown:
        parser.error(f"no crashes in {', '.join(unknown)}; there are: {', '.join(known)}")
    tables = {group: measured(group, arguments.module) for group in arguments.groups or ["crashes"]}
    if not arguments.groups:
        tables[_ASLEEP] = sleepers(*_cached(SLEEPERS)).table()
    print(f"drgn {drgn.__version__}", file=sys.stderr)
    if arguments.update is None:
        print("\n\n".join(tables.values()))
        return
    document = arguments.update.read_text()
    for name, table in tables.items():
        match = _between(document, name)
        document = document[: match.start()] + table + document[match.end() :]
    arguments.update.write_text(document)


if __name__ == "__main__":
    main()
