# SPDX-License-Identifier: LGPL-2.1-or-later
"""What if this patch were loaded now? The question of :mod:`.patch_question` for a patch that is not loaded.

This does from the dump what the kernel does before it checks the first task: it looks up the
functions, refuses those that cannot be patched, and adds the functions that an atomic replace reverts
(klp_init_object_loaded(), klp_add_nops(), klp_patch_func() in kernel/livepatch/).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Optional

import msgspec
from drgn import Program

from ..kernel.ftrace_locations import ftrace_locations
from ..kernel.functions import Functions, NoSuchFunctionError
from ..kernel.livepatch import (
    KLP_PATCHED,
    Livepatches,
    PatchFunction,
    PatchObject,
    PatchRecord,
    has_livepatching,
)
from ..kernel.probing import symbol_address
from ..memory import NOT_THERE
from .patch_question import CodeRange, Question, code_range
from .planned_patch import PlannedFunction, PlannedPatch

__all__ = ("Plan", "plan_patch")

_MAX_VERMAGIC_BYTES = 1024


class Plan(msgspec.Struct, frozen=True):
    """What would happen if the patch were loaded."""

    patch: PatchRecord
    """The patch as it would be on the kernel's lists; values that cannot be known are 0."""
    ranges: tuple[CodeRange, ...]
    """The code that tasks would have to leave."""
    refusals: tuple[str, ...] = ()
    """Why the kernel would refuse to load it, a sentence each."""
    problems: tuple[str, ...] = ()
    """What could not be looked up, a sentence each."""

    def question(self, has_reliable_stacktrace: bool) -> Question:
        """Return what the kernel would ask about each task.

        :param has_reliable_stacktrace: :attr:`.KernelInfo.reliable_stacktrace`
        """
        return Question(
            self.ranges,
            KLP_PATCHED,
            has_reliable_stacktrace,
            problems=self.problems,
            is_planned=True,
        )


def plan_patch(prog: Program, planned: PlannedPatch, loaded: Livepatches) -> Plan:
    """Return what would happen if a patch were loaded.

    :param prog: A kernel
    :param loaded: The live patches that it has now
    """
    return _Planner(prog, planned, loaded).plan()


class _Planner:
    def __init__(self, prog: Program, planned: PlannedPatch, loaded: Livepatches) -> None:
        self._prog = prog
        self._planned = planned
        self._loaded = loaded
        self._functions = Functions(prog)
        self._hooks = ftrace_locations(prog)
        self._refusals: list[str] = []
        self._problems: list[str] = []

    def plan(self) -> Plan:
        if not has_livepatching(self._prog):
            self._refusals.append("this kernel has no live patching (CONFIG_LIVEPATCH is off)")
        if self._loaded.transition is not None:
            # -EBUSY of __klp_enable_patch()
            self._refusals.append(
                f"{self._loaded.transition.name} is in transition: the kernel accepts no other patch"
                " until this transition has ended"
            )
        if self._planned.vermagic is not None:
            self._check_vermagic(self._planned.vermagic)
        if self._hooks is None:
            self._problems.append("the addresses that ftrace can hook cannot be read")
        objects = {
            module: [
                self._function(func) for func in self._planned.functions if func.module == module
            ]
            for module in dict.fromkeys(func.module for func in self._planned.functions)
        }
        if self._planned.replace:
            self._add_nops(objects)
        records = tuple(
            PatchObject(module, self._is_loaded(module), tuple(filter(None, found)))
            for module, found in objects.items()
        )
        problems = (*self._loaded.problems, *self._problems, *self._functions.problems)
        return Plan(
            PatchRecord(0, self._planned.name, False, self._planned.replace, False, records),
            tuple(self._ranges_of(records)),
            tuple(self._refusals),
            problems,
        )

    def _check_vermagic(self, given: str) -> None:
        """Follow same_magic() in kernel/module/version.c and main.c, v6.12: CONFIG_MODVERSIONS ignores the release."""
        expected = self._vermagic()
        if expected is None:
            release = self._prog["UTS_RELEASE"].string_().decode("ascii", "backslashreplace")
            given, expected = given.partition(" ")[0], release
            same = given == expected or self._planned.has_crcs
        elif self._planned.has_crcs and "modversions" in expected.split():
            same = given.partition(" ")[2] == expected.partition(" ")[2]
        else:
            same = given == expected
        if not same:
            built = f"it was built for {given.strip()}" if given else "its file has no vermagic"
            self._refusals.append(f"{built}, this is {expected.strip()}")

    def _vermagic(self) -> Optional[str]:
        address = symbol_address(self._prog, "vermagic")
        try:
            text: bytes = self._prog.read_c_string(address or 0, max_size=_MAX_VERMAGIC_BYTES)
        except NOT_THERE:
            return None
        return text.decode("ascii", "backslashreplace") or None

    def _is_loaded(self, module: Optional[str]) -> bool:
        return module is None or self._functions.is_loaded(module)

    def _function(self, func: PlannedFunction) -> Optional[PatchFunction]:
        """Return a function with its address and size, as klp_init_object_loaded() finds them."""
        if not self._is_loaded(func.module):
            return PatchFunction(0, func.name, func.sympos, 0, 0, 0, 0, False, False)
        try:
            address = self._functions.find(func.module, func.name, func.sympos)
        except NoSuchFunctionError as e:
            self._refusals.append(f"{func}: {e}")
            return None
        size = self._functions.size(address, func.module)
        if size is None:
            self._refusals.append(f"{func}: its size is not known")
            return None
        if not self._can_hook(address, size):
            self._refusals.append(
                f"{func}: ftrace cannot hook it (it is notrace, or not a function)"
            )
        return PatchFunction(0, func.name, func.sympos, address, size, 0, 0, False, False)

    def _can_hook(self, address: int, size: int) -> bool:
        """Follow ftrace_location() in kernel/trace/ftrace.c, v6.12: a record anywhere in the function."""
        if self._hooks is None or address in self._loaded.versions:
            return True
        at = bisect_left(self._hooks, address)
        return at < len(self._hooks) and self._hooks[at] < address + size

    def _add_nops(self, objects: dict[Optional[str], list[Optional[PatchFunction]]]) -> None:
        """Follow klp_add_nops(): an atomic replace reverts all other functions to the original."""
        for patch in self._loaded.patches:
            for obj in patch.objects:
                functions = objects.setdefault(obj.name, [])
                for old in obj.functions:
                    if not any(_is_same(func, old) for func in functions):
                        functions.append(
                            msgspec.structs.replace(
                                old,
                                address=0,
                                new_addr=old.old_addr,
                                new_size=old.old_size,
                                nop=True,
                                patched=False,
                            )
                        )

    def _ranges_of(self, objects: Sequence[PatchObject]) -> Iterator[CodeRange]:
        for obj in objects:
            for func in obj.functions if obj.patched else ():
                versions = self._loaded.versions.get(func.old_addr, ())
                places = [(other.new_addr, other.new_size) for other in versions]
                yield code_range(func.name, obj.name, [*places, (func.old_addr, func.old_size)])


def _is_same(func: Optional[PatchFunction], other: PatchFunction) -> bool:
    """Follow klp_find_func(): positions 0 and 1 are the same."""
    return (
        func is not None and func.name == other.name and max(func.sympos, 1) == max(other.sympos, 1)
    )
