# SPDX-License-Identifier: LGPL-2.1-or-later
"""One inquiry: which patch it is about (one of the kernel, or one that is not loaded), and the question to each task."""

from __future__ import annotations

from typing import Optional

import msgspec
from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from ..engine.kernel import kernel_of
from ..errors import UsageError
from ..kernel.functions import Functions
from ..kernel.livepatch import Livepatches, has_livepatching
from ..program.core_file import path_given
from ..program.open import Path
from .audit import task_stacks
from .livepatch import livepatches, require_livepatching, transition_question
from .patch_file import read_patch_file
from .patch_question import Question, TaskAnswer
from .plan import Plan, plan_patch
from .planned_patch import PlannedPatch, parse_function

__all__ = ("Inquiry", "inquire", "livepatch_answers")


class Inquiry(msgspec.Struct, frozen=True):
    """A question to the tasks of a kernel."""

    patches: Livepatches
    """The live patches that the kernel has."""
    question: Question
    """The question."""
    plan: Optional[Plan] = None
    """The patch that is not loaded, if the question is about such a patch."""

    @property
    def name(self) -> Optional[str]:
        """Name of the patch that the question is about; ``None`` if no patch is in transition."""
        if self.plan is not None:
            return self.plan.patch.name
        transition = self.patches.transition
        return None if transition is None else transition.name


def inquire(
    prog: Program, has_reliable_stacktrace: bool, planned: Optional[PlannedPatch] = None
) -> Inquiry:
    """Read the live patches of a kernel, and make the question that the kernel asks about each task.

    :param has_reliable_stacktrace: :attr:`.KernelInfo.reliable_stacktrace`
    :param planned: A patch that is not loaded; ``None`` for the one in transition
    :raises InputError: if the kernel has no live patching, and *planned* is ``None``
    :raises TypesError: if types of live patching are missing or damaged
    """
    if planned is None:
        patches = livepatches(prog)
        return Inquiry(
            patches, transition_question(patches, has_reliable_stacktrace, Functions(prog))
        )
    patches = livepatches(prog) if has_livepatching(prog) else Livepatches()
    plan = plan_patch(prog, planned, patches)
    return Inquiry(patches, plan.question(has_reliable_stacktrace), plan)


@takes_program_or_default
def livepatch_answers(
    prog: Program, *functions: str, replace: bool = False, ko: Optional[Path] = None
) -> list[TaskAnswer]:
    """Return for each task whether it holds a live patch back, and why.

    :param functions: ``[MODULE:]NAME[,POS]``: functions of a patch that is not loaded. Without any,
        the question is about the patch in transition.
    :param replace: The patch of these functions replaces all loaded patches
    :param ko: Path of the module file of a patch that is not loaded, instead of *functions*
    :raises UsageError: if a name is malformed, the kernel would refuse the patch, or two patches are given
    :raises InputError: if the program is not a kernel, the kernel has no live patching, or the file is not a live patch
    :raises TypesError: if types that this needs are missing or damaged
    """
    if ko is not None and (functions or replace):
        raise UsageError("ko is a patch of its own: give no functions with it, and no replace")
    if replace and not functions:
        raise UsageError("replace is about a patch that is not loaded: give its functions, too")
    planned = tuple(dict.fromkeys(map(parse_function, functions)))
    patch = PlannedPatch("the patch", planned, replace) if planned else None
    kernel = kernel_of(prog)
    require_livepatching(prog)
    if ko is not None:
        patch = read_patch_file(prog, path_given("ko", ko))
    stacks = list(task_stacks(prog))
    inquiry = inquire(prog, kernel.layout.reliable_stacktrace, patch)
    if inquiry.plan is not None and inquiry.plan.refusals:
        raise UsageError(f"the kernel would refuse this patch: {'; '.join(inquiry.plan.refusals)}")
    return [inquiry.question.answer(stack) for stack in stacks]
