# SPDX-License-Identifier: LGPL-2.1-or-later
"""A task stack and the ORC rules of its code, drawn for the walker and its fast path.

Higher addresses above::

    (end)
    struct pt_regs of user mode
    ...
    ret_addr      <- FRAME_AT + 48: of __schedule
    bp            <- FRAME_AT + 40
    r12 ... r15   <- FRAME_AT: thread.sp
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Callable, Optional, cast

from drgn import Object, Program, TypeMember

from drgn_tools.arch.x86.orc_entry import ENTRY_BYTES, OrcEntry, OrcType
from drgn_tools.arch.x86.pt_regs import REGS_64
from drgn_tools.kernel.stack_memory import StackMemory
from drgn_tools.kernel.tasks import Task
from drgn_tools.unwind.base import Recover, Walk, nothing_rewritten
from drgn_tools.unwind.orc import OrcRules, OrcWalker

from .drawn_stack import Drawing

SP = 0x1000
"""thread.sp of a drawn stack, as an offset from its beginning."""
FORK = 0xF000
"""Where a new task begins."""
RETHOOK = 0xE000


def call(offset: int, bp: Optional[int] = None, **more: object) -> OrcEntry:
    """Return a rule with CFA = sp + offset; *bp*: where bp is saved, relative to the CFA."""
    saved: dict[str, object] = {} if bp is None else {"bp_from": "cfa", "bp_offset": bp}
    return OrcEntry(OrcType.CALL, "sp", offset, **{**saved, **more})  # type: ignore[arg-type]


def call_by_bp(offset: int = 16, bp: int = -16) -> OrcEntry:
    """Return a rule with CFA = bp + offset, as with a frame pointer."""
    return OrcEntry(OrcType.CALL, "bp", offset, bp_from="cfa", bp_offset=bp)


REGS = OrcEntry(OrcType.REGS, "sp", 0, signal=True)
PARTIAL = OrcEntry(OrcType.REGS_PARTIAL, "sp", 0, signal=True)
END = OrcEntry(OrcType.END_OF_STACK)
UNDEFINED = OrcEntry(OrcType.UNDEFINED)


class DrawnOrc(Drawing):
    """A stack whose code has rules: :attr:`rules_at` maps a looked-up address to a rule.

    A return address *a* is looked up at a - 1.
    """

    def __init__(self, size: int = 16384) -> None:
        super().__init__(thread_size=size)
        self.sp = self.base + SP
        self.first = self.sp + 56
        """The stack pointer of the first frame."""
        self.rules_at: dict[int, OrcEntry] = {}
        self.changes: dict[str, object] = {}

    def starts(self, ret_addr: int, bp: int = 0) -> None:
        """Put the ``struct inactive_task_frame``."""
        self.put(self.sp + 40, bp, ret_addr)

    def returns(self, addr: int, rule: OrcEntry) -> int:
        """Give the call before *addr* this rule; return *addr*."""
        self.rules_at[addr - 1] = rule
        return addr

    def walker(self) -> OrcWalker:
        find: Callable[[int], Optional[OrcEntry]] = self.rules_at.get
        rules = OrcRules(find, REGS_64, 40, frozenset({FORK}), rethook_trampoline=RETHOOK)
        for name, value in self.changes.items():
            rules = OrcRules(
                **{**{f: getattr(rules, f) for f in rules.__struct_fields__}, name: value}
            )  # type: ignore[arg-type]
        return OrcWalker(rules)

    def task(self, sp: Optional[int] = None) -> Task:
        return cast(
            Task, SimpleNamespace(thread_sp=self.sp if sp is None else sp, stack_addr=self.base)
        )

    def stack_from(self, sp: int) -> StackMemory:
        begin = max(sp, self.base)
        data = bytes(self.memory[begin - self.base :])
        return StackMemory(self.base, self.size, begin, data)

    def walk_orc(self, recover: Recover = nothing_rewritten, sp: Optional[int] = None) -> Walk:
        """Walk the stack of the task; all of it is in the dump."""
        whole = StackMemory(self.base, self.size, self.base, bytes(self.memory))
        return self.walker().walk_sleeping(self.task(sp), whole, recover)

    def walk_cpu(
        self,
        registers: Mapping[str, int],
        recover: Recover = nothing_rewritten,
        *others: StackMemory,
    ) -> Walk:
        """Walk from the registers of a CPU: the task's stack, and others that it has."""
        stacks = (StackMemory(self.base, self.size, self.base, bytes(self.memory)), *others)

        def find(addr: int) -> Optional[StackMemory]:
            return next((s for s in stacks if s.begin_addr <= addr < s.end_addr), None)

        all_registers = {**dict.fromkeys(REGS_64.names, 0), "cs": 0x10, **registers}
        return self.walker().walk_running(self.task(), all_registers, find, recover)


# ---- struct orc_entry, as BTF describes it

_FIELDS: Mapping[str, dict[str, int]] = {
    "A": {"type": 2},
    "B": {"type": 2, "end": 1},
    "C": {"type": 2, "signal": 1, "end": 1},
    "D": {"type": 3, "signal": 1},  # and E
}
"""Name and width of the bit fields after bp_reg, in memory order."""


def declare_orc_entry(prog: Program, form: str, **changes: tuple[int, int]) -> None:
    """Give a program the ``struct orc_entry`` of a form; *changes* are members at (bit, width), 0 for none."""
    places = {"sp_offset": (0, 16), "bp_offset": (16, 16), "sp_reg": (32, 4), "bp_reg": (36, 4)}
    at = 40
    for name, width in _FIELDS[form].items():
        places[name] = (at, width)
        at += width
    places.update(changes)
    short, unsigned = prog.int_type("s16", 2, True), prog.int_type("unsigned int", 4, False)

    def bits(width: int) -> Callable[[], Object]:
        return lambda: Object(prog, unsigned, bit_field_size=width)

    members = [
        TypeMember(short if width == 16 else bits(width), name, bit)
        for name, (bit, width) in places.items()
        if width
    ]
    type_ = prog.struct_type("orc_entry", ENTRY_BYTES, members)
    prog.register_type_finder(
        "orc", lambda p, kinds, name, file: type_ if name == "orc_entry" else None, enable_index=0
    )
