# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump with a live patch in transition whose lists of patches are overwritten, word by word."""

from __future__ import annotations

import random
from collections.abc import Iterator

import drgn
from drgn import Object, TypeKind, sizeof
from drgn.helpers.linux.list import list_for_each_entry

from drgn_tools import KernelAudit, audit_kernel, open_program
from drgn_tools.analysis.livepatch import transition_question
from drgn_tools.analysis.patch_question import Question, TaskAnswer
from drgn_tools.kernel.functions import Functions
from drgn_tools.kernel.livepatch import read_livepatches
from drgn_tools.kernel.probing import symbol_address

_VARIABLES = {
    "klp_patches": "struct list_head",
    "klp_ops": "struct list_head",
    "klp_transition_patch": "unsigned long",
    "klp_target_state": "int",
    "klp_signals_cnt": "int",
}
_OFFSETS = (0, 8, 16, 24, -8)
"""Offsets in a struct that a damaged pointer may point to."""

_NEAR = 0x1000
"""A new_func that moves within its symbol is not detected: a stripped module has such, too."""


def structs_of_patches(prog: drgn.Program) -> Iterator[tuple[str, int, str]]:
    """Yield the name, address and type of each struct and variable of the kernel's live patches."""
    for name, type_name in _VARIABLES.items():
        yield name, _variable(prog, name), type_name
    for patch in _entries(prog, "klp_patches", "struct klp_patch", "list"):
        yield "patch", patch.value_(), "struct klp_patch"
        objects = patch.obj_list.address_of_()
        for obj in list_for_each_entry("struct klp_object", objects, "node"):
            yield "object", obj.value_(), "struct klp_object"
            functions = obj.func_list.address_of_()
            for func in list_for_each_entry("struct klp_func", functions, "node"):
                yield "func", func.value_(), "struct klp_func"
    for ops in _entries(prog, "klp_ops", "struct klp_ops", "node"):
        yield "ops", ops.value_(), "struct klp_ops"


def _variable(prog: drgn.Program, name: str) -> int:
    address = symbol_address(prog, name)
    assert address is not None, name
    return address


def _entries(prog: drgn.Program, head: str, type_name: str, member: str) -> Iterator[Object]:
    list_ = Object(prog, "struct list_head", address=_variable(prog, head))
    yield from list_for_each_entry(type_name, list_.address_of_(), member)


def ask_of_patches(prog: drgn.Program, audit: KernelAudit) -> tuple[Question, list[TaskAnswer]]:
    """Return the question about the patch in transition, and the answer for each task."""
    question = transition_question(
        read_livepatches(prog), audit.kernel.reliable_stacktrace, Functions(prog)
    )
    return question, [question.answer(stack) for stack in audit]


class Span:
    """A struct or a variable in the dump, which can be overwritten."""

    def __init__(self, prog: drgn.Program, name: str, address: int, type_name: str) -> None:
        self.name = name
        self.address = address
        self.type = prog.type(type_name)
        self.original = prog.read(address, sizeof(self.type))
        self.data = bytearray(self.original)
        prog.add_memory_segment(address, len(self.data), self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return bytes(self.data[offset : offset + count])

    def mend(self) -> None:
        self.data[:] = self.original

    def member_at(self, offset: int) -> str:
        """Return the member at an offset, for messages."""
        if self.type.kind != TypeKind.STRUCT:
            return self.name
        before = [m for m in self.type.members if m.bit_offset // 8 <= offset]
        return f"{self.name}.{before[-1].name}"


class DamagedPatches:
    """The patches of a dump, the answers for all tasks, and dice.

    :param core: Path of the dump.
    """

    def __init__(self, core: str, seed: object) -> None:
        self.prog = open_program(core=core)
        self.audit = audit_kernel(self.prog)
        self.spans = list(self._spans())
        self.question, self.whole = self.look()
        self._dice = random.Random(str(seed))
        words = (
            int.from_bytes(span.original[at : at + 8], "little")
            for span in self.spans
            for at in range(0, len(span.original), 8)
        )
        self._words = [word for word in words if word]

    def _spans(self) -> Iterator[Span]:
        for name, address, type_name in structs_of_patches(self.prog):
            yield Span(self.prog, name, address, type_name)

    def look(self) -> tuple[Question, list[TaskAnswer]]:
        """Return the question, and the answer for each task."""
        return ask_of_patches(self.prog, self.audit)

    def damage(self) -> list[str]:
        """Overwrite one word or a few; return which."""
        dice = self._dice
        return [self._damage_one() for _ in range(dice.choice((1, 1, 1, 2, 3)))]

    def _damage_one(self) -> str:
        dice = self._dice
        span = dice.choice(self.spans)
        at = dice.randrange(0, len(span.data), 8)
        size = min(8, len(span.data) - at)
        old = int.from_bytes(span.data[at : at + size], "little")
        new = dice.choice(
            (
                0,
                dice.getrandbits(64),
                old ^ 1 << dice.randrange(8 * size),
                old + dice.choice((-0x1000, -8, -1, 1, 8, 0x98, 0x1000)),
                dice.choice(self._words),
                dice.choice(self.spans).address + dice.choice(_OFFSETS),
                old & ~0xFF | dice.choice((0, 1, 2, 7, 0xFF)),
            )
        )
        name = span.member_at(at)
        if name == "func.new_func" and abs(new - old) < _NEAR:
            new = 0
        span.data[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")
        return f"{name} {old:#x} -> {new % (1 << 8 * size):#x}"

    def mend(self) -> None:
        """Undo all damage."""
        for span in self.spans:
            span.mend()
