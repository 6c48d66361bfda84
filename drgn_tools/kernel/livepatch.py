# SPDX-License-Identifier: LGPL-2.1-or-later
"""The live patches of a kernel, read from the lists that kernel/livepatch/ keeps (v5.1 to v7.2).

    klp_patches -> klp_patch.list            patches, in the order in which they were enabled
    klp_patch.obj_list -> klp_object.node    the kernel image and modules, nops included
    klp_object.func_list -> klp_func.node    functions
    klp_ops -> klp_ops.node                  one for each function that is patched now
    klp_ops.func_stack -> klp_func.stack_node    its versions, the newest first

The lists have to be complete: a function that is missing makes a task look free. So each node has
to point back to the node before it, and what the structs say twice has to agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Optional

import msgspec
from drgn import Object, Program

from ..debuginfo.modules import module_name
from ..debuginfo.symbol_names import MAX_NAME_BYTES
from ..memory import UNUSABLE, list_entries
from .probing import probing, symbol_address

__all__ = (
    "KLP_IDLE",
    "KLP_PATCHED",
    "KLP_UNPATCHED",
    "Livepatches",
    "PatchFunction",
    "PatchObject",
    "PatchRecord",
    "has_livepatching",
    "read_livepatches",
)

KLP_IDLE = -1
"""KLP_TRANSITION_IDLE in linux/livepatch.h (v6.12; KLP_UNDEFINED before): no transition."""
KLP_UNPATCHED = 0
"""The old version of the functions."""
KLP_PATCHED = 1
"""The new version of the functions."""

_MAX_PATCHES = 10_000
_MAX_OBJECTS = 10_000
_MAX_FUNCTIONS = 100_000
"""Far more than a patch can have: larger lists are damaged."""


class PatchFunction(msgspec.Struct, frozen=True):
    """One ``struct klp_func``."""

    address: int
    """Address of the ``struct klp_func``; 0 for one that is not loaded."""
    name: str
    """``old_name``, the function that is replaced."""
    sympos: int
    """``old_sympos``: which symbol of this name, from 1; 0 if there is only one."""
    old_addr: int
    """``old_func``, address of the original function; 0 while its module is not loaded."""
    old_size: int
    """In bytes up to the next symbol, as kallsyms_lookup_size_offset() returns it; 0 as above."""
    new_addr: int
    """``new_func``, address of the replacement."""
    new_size: int
    """Like :attr:`old_size`."""
    nop: bool
    """An atomic replace goes back to the original function here (klp_add_nops())."""
    patched: bool
    """It is on the stack of versions of its function."""


class PatchObject(msgspec.Struct, frozen=True):
    """One ``struct klp_object``: the kernel image or a module."""

    name: Optional[str]
    """Name of the module; ``None`` for the kernel image."""
    patched: bool
    """False while the module is not loaded."""
    functions: tuple[PatchFunction, ...]
    """Its functions, in the order of the kernel's list."""


class PatchRecord(msgspec.Struct, frozen=True):
    """One ``struct klp_patch``."""

    address: int
    """Address of the ``struct klp_patch``; 0 for one that is not loaded."""
    name: str
    """Name of the module that contains the patch."""
    enabled: bool
    """As /sys/kernel/livepatch/PATCH/enabled; false while it is being unpatched."""
    replace: bool
    """It replaces all older patches (atomic replace)."""
    forced: bool
    """Its module can never be unloaded, because a removal was forced."""
    objects: tuple[PatchObject, ...]
    """Its objects, in the order of the kernel's list."""


class Livepatches(msgspec.Struct, frozen=True):
    """All that is known about live patching in a kernel at one moment."""

    patches: tuple[PatchRecord, ...] = ()
    """Patches that are enabled or in transition, in the order in which they were enabled."""
    transition: Optional[PatchRecord] = None
    """``klp_transition_patch``: the patch to or from which tasks are being moved."""
    target: Optional[int] = None
    """``klp_target_state``: :data:`KLP_PATCHED`, :data:`KLP_UNPATCHED`, or :data:`KLP_IDLE` without a
    transition; ``None`` if it cannot be read, or contradicts the patches."""
    versions: Mapping[int, tuple[PatchFunction, ...]] = {}
    """Address of an original function -> the replacements that it has now, newest first."""
    signals_count: Optional[int] = None
    """``klp_signals_cnt``: rounds of the transition, about one a second; ``None`` if it cannot be read."""
    problems: tuple[str, ...] = ()
    """What cannot be read or contradicts itself, a sentence each. Then functions may be missing."""

    def is_as(self, other: Livepatches) -> bool:
        """Return whether nothing but the count of rounds has changed."""
        return self == msgspec.structs.replace(other, signals_count=self.signals_count)


def has_livepatching(prog: Program) -> bool:
    """Return whether a kernel has live patching (CONFIG_LIVEPATCH), with lists as of v5.1."""
    return symbol_address(prog, "klp_enable_patch") is not None


def read_livepatches(prog: Program) -> Livepatches:
    """Read the live patches of a kernel.

    Damaged lists raise nothing: :attr:`Livepatches.problems` names them.

    :raises TypesError: if types of live patching are missing or damaged
    """
    with probing(prog):
        for name in ("patch", "object", "func", "ops"):
            prog.type(f"struct klp_{name}")
    return _Reader(prog).read()


class _Reader:
    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._problems: list[str] = []
        self._has_lost_transition = False

    def read(self) -> Livepatches:
        patches = tuple(self._patches())
        transition = self._transition(patches)
        target = self._target(transition)
        versions = self._versions()
        self._check(patches, versions)
        return Livepatches(
            patches,
            transition,
            target,
            versions,
            self._int("klp_signals_cnt"),
            tuple(self._problems),
        )

    def _patches(self) -> Iterator[PatchRecord]:
        for patch in self._entries("klp_patches", None, "struct klp_patch", "list", _MAX_PATCHES):
            try:
                yield PatchRecord(
                    patch.value_(),
                    module_name(patch.mod),
                    self._bool(patch.enabled),
                    self._bool(patch.replace),
                    self._bool(patch.forced),
                    tuple(self._objects(patch)),
                )
            except UNUSABLE as e:
                self._problems.append(f"the patch at {patch.value_():#x} cannot be read: {e}")

    def _objects(self, patch: Object) -> Iterator[PatchObject]:
        for obj in self._entries(
            "obj_list", patch.obj_list, "struct klp_object", "node", _MAX_OBJECTS
        ):
            name = obj.name.value_()
            yield PatchObject(
                self._text(name) if name else None,
                self._bool(obj.patched),
                tuple(
                    self._function(func)
                    for func in self._entries(
                        "func_list", obj.func_list, "struct klp_func", "node", _MAX_FUNCTIONS
                    )
                ),
            )

    def _function(self, func: Object) -> PatchFunction:
        return PatchFunction(
            func.value_(),
            self._text(func.old_name.value_()),
            func.old_sympos.value_(),
            func.old_func.value_(),
            func.old_size.value_(),
            func.new_func.value_(),
            func.new_size.value_(),
            self._bool(func.nop),
            self._bool(func.patched),
        )

    def _transition(self, patches: tuple[PatchRecord, ...]) -> Optional[PatchRecord]:
        pointer = self._word("klp_transition_patch")
        if pointer == 0:
            return None
        for patch in patches:
            if patch.address == pointer:
                return patch
        self._problems.append(
            "klp_transition_patch is not in the dump"
            if pointer is None
            else "the patch in transition is not on the list of patches"
        )
        self._has_lost_transition = True
        return None

    def _target(self, transition: Optional[PatchRecord]) -> Optional[int]:
        """Return ``klp_target_state``, unless it contradicts the patch in transition."""
        target = self._int("klp_target_state")
        if target is None:
            self._problems.append("klp_target_state is not in the dump")
            return None
        if transition is None:
            expected, what = KLP_IDLE, "no patch is in transition"
        elif transition.enabled:
            expected, what = KLP_PATCHED, f"{transition.name} is enabled"
        else:
            expected, what = KLP_UNPATCHED, f"{transition.name} is disabled"
        if self._has_lost_transition:
            return None
        if target != expected:
            self._problems.append(f"klp_target_state is {target}, but {what}")
            return None
        return target

    def _versions(self) -> dict[int, tuple[PatchFunction, ...]]:
        versions = {}
        for ops in self._entries("klp_ops", None, "struct klp_ops", "node", _MAX_FUNCTIONS):
            try:
                stack = tuple(
                    self._function(func)
                    for func in self._entries(
                        "func_stack", ops.func_stack, "struct klp_func", "stack_node", _MAX_PATCHES
                    )
                )
            except UNUSABLE as e:
                self._problems.append(f"the klp_ops at {ops.value_():#x} cannot be read: {e}")
                continue
            # klp_find_ops() returns the first klp_ops whose newest version replaces the function.
            if stack and stack[0].old_addr not in versions:
                versions[stack[0].old_addr] = stack
        return versions

    # ---- members

    def _entries(
        self, what: str, head: Optional[Object], type_name: str, member: str, most: int
    ) -> Iterator[Object]:
        """Return the entries of a list, up to the first that does not point back to the entry before it."""
        if head is None:
            address = symbol_address(self._prog, what)
            if address is None:
                self._problems.append(f"no symbol {what} in the dump")
                return
            head = Object(self._prog, "struct list_head", address=address)
        count = 0
        try:
            for entry in list_entries(head, type_name, member):
                count += 1
                if count > most:
                    raise ValueError("it does not end")
                yield entry
        except UNUSABLE as e:
            self._problems.append(f"the list {what} is damaged after {count} entries: {e}")

    def _bool(self, value: Object) -> bool:
        byte: int = self._prog.read(value.address_, 1)[0]
        if byte > 1:
            raise ValueError(f"{byte:#x} is not a bool")
        return bool(byte)

    def _text(self, address: int) -> str:
        text: bytes = self._prog.read_c_string(address, max_size=MAX_NAME_BYTES)
        return text.decode("ascii", "backslashreplace")

    def _int(self, name: str) -> Optional[int]:
        return self._variable(name, "int")

    def _word(self, name: str) -> Optional[int]:
        return self._variable(name, "unsigned long")

    def _variable(self, name: str, type_name: str) -> Optional[int]:
        address = symbol_address(self._prog, name)
        if address is None:
            return None
        try:
            return int(Object(self._prog, type_name, address=address).value_())
        except UNUSABLE:
            return None

    # ---- what is said twice

    def _check(
        self,
        patches: tuple[PatchRecord, ...],
        versions: Mapping[int, tuple[PatchFunction, ...]],
    ) -> None:
        stacked = {func.address: func for stack in versions.values() for func in stack}
        for patch in patches:
            for obj in patch.objects:
                for func in obj.functions:
                    is_stacked = stacked.pop(func.address, None) is not None
                    if func.patched != is_stacked or func.patched != obj.patched:
                        self._problems.append(
                            f"{patch.name} contradicts itself on whether {func.name} is patched"
                        )
        for func in stacked.values():
            self._problems.append(f"a version of {func.name} belongs to no patch on the list")
        for address, stack in versions.items():
            if any(func.old_addr != address for func in stack):
                self._problems.append(
                    f"the versions of {stack[0].name} belong to several functions"
                )
