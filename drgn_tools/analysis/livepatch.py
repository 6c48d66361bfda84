# SPDX-License-Identifier: LGPL-2.1-or-later
"""The live patches of a kernel, and the question to its tasks while one is in transition.

The question itself is in :mod:`.patch_question`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Optional

import msgspec
from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from ..errors import InputError
from ..kernel.functions import Functions
from ..kernel.live_tasks import is_live
from ..kernel.livepatch import (
    KLP_PATCHED,
    KLP_UNPATCHED,
    Livepatches,
    PatchFunction,
    PatchRecord,
    has_livepatching,
    read_livepatches,
)
from ..program.open import source_of
from .patch_question import Question, code_range

__all__ = (
    "ListedPatch",
    "listed_patches",
    "livepatches",
    "require_livepatching",
    "transition_question",
)

_MAX_TRIES = 5
"""How often the lists of a running kernel are read, if they change meanwhile."""
_SIGNALS_TIMEOUT = 15
"""kernel/livepatch/transition.c: rounds of a transition from one fake signal to the next."""


def require_livepatching(prog: Program) -> None:
    """Check that a kernel has live patching.

    :raises InputError: if it does not
    """
    if not has_livepatching(prog):
        raise InputError(
            f"{source_of(prog)}: this kernel has no live patching (CONFIG_LIVEPATCH is off)"
        )


@takes_program_or_default
def livepatches(prog: Program) -> Livepatches:
    """Return the live patches of a kernel.

    :raises InputError: if the kernel has no live patching
    :raises TypesError: if its types are missing or damaged
    """
    require_livepatching(prog)
    for _ in range(_MAX_TRIES if is_live(prog) else 1):
        found = read_livepatches(prog)
        if not found.problems:
            break
    return found


class ListedPatch(msgspec.Struct, frozen=True):
    """A patch and its transition."""

    patch: PatchRecord
    """The patch."""
    transition: Optional[str]
    """``patching``, ``unpatching``; ``unclear`` if the dump contradicts itself; ``None`` at rest."""


def listed_patches(patches: Livepatches) -> list[ListedPatch]:
    """Return the patches of a kernel, each with its transition."""
    directions = {KLP_PATCHED: "patching", KLP_UNPATCHED: "unpatching"}
    moving = patches.transition.address if patches.transition is not None else None
    return [
        ListedPatch(
            patch,
            directions.get(patches.target, "unclear")  # type: ignore[arg-type]  # also None
            if patch.address == moving
            else None,
        )
        for patch in patches.patches
    ]


def transition_question(
    patches: Livepatches, has_reliable_stacktrace: bool, functions: Functions
) -> Question:
    """Return what klp_try_complete_transition() asks about each task.

    :param has_reliable_stacktrace: :attr:`.KernelInfo.reliable_stacktrace`
    :param functions: Functions of the same kernel, to check the sizes that the patch has
    """
    problems = list(patches.problems)
    ranges = []
    old_addrs: set[int] = set()
    patch = patches.transition
    for obj in () if patch is None else patch.objects:
        for func in obj.functions if obj.patched else ():
            versions = _versions_from(func, patches)
            if versions is None:
                problems.append(f"{func.name} is not on the stack of versions of its function")
                continue
            old_addrs.add(func.old_addr)
            ranges.append(code_range(func.name, obj.name, versions))
    problems += _contradictions(old_addrs, patches, functions)
    rounds = patches.signals_count
    return Question(
        ranges,
        patches.target,
        has_reliable_stacktrace,
        None if rounds is None else max(rounds, 0) // _SIGNALS_TIMEOUT,
        (*problems, *functions.problems),
    )


def _versions_from(func: PatchFunction, patches: Livepatches) -> Optional[list[tuple[int, int]]]:
    """Follow klp_check_stack_func() in kernel/livepatch/transition.c, v6.12.

    :return: (address, size) of the version to be left, then of the versions before it; ``None`` if the
        lists do not say
    """
    versions = patches.versions.get(func.old_addr, ())
    at = next((i for i, other in enumerate(versions) if other.address == func.address), None)
    if at is None:
        return None
    if patches.target != KLP_PATCHED:
        return [(func.new_addr, func.new_size)]
    if at == len(versions) - 1 and at > 0:
        return None  # the kernel would treat the head of the list as a function
    previous = [(other.new_addr, other.new_size) for other in versions[at + 1 :]]
    return [*previous, (func.old_addr, func.old_size)]


def _contradictions(
    old_addrs: Container[int], patches: Livepatches, functions: Functions
) -> Iterator[str]:
    """Yield where versions of functions contradict the symbol tables, a sentence each.

    :param old_addrs: Addresses of the original functions
    """
    for patch in patches.patches:
        if not functions.is_loaded(patch.name):
            yield f"the module of the patch {patch.name} is not loaded"
        for obj in patch.objects:
            for func in obj.functions:
                if func.patched and func.old_addr in old_addrs:
                    yield from _contradictions_of(func, obj.name, patch.name, functions)


def _contradictions_of(
    func: PatchFunction, module: Optional[str], patch_name: str, functions: Functions
) -> Iterator[str]:
    name = f"{func.name} of {patch_name}"
    if module is not None and not functions.is_loaded(module):
        yield f"{name} is patched, but its module {module} is not loaded"
    elif functions.is_named(func.old_addr, module, func.name) is False:
        yield f"old_func of {name} is {func.old_addr:#x}, where no symbol has this name"
    new_module = module if func.nop else patch_name
    for what, address, size, where in (
        ("old", func.old_addr, func.old_size, module),
        ("new", func.new_addr, func.new_size, new_module),
    ):
        if not functions.has_symbols(where):
            continue
        # A stripped module may have no symbol for new_func itself. The kernel uses the symbol before it.
        expected = functions.size(address, where)
        if expected is None:
            yield f"{what}_func of {name} is {address:#x}, where no symbol is"
        elif size != expected:
            yield f"{what}_size of {name} is {size:#x}, but its symbol has {expected:#x} bytes"
