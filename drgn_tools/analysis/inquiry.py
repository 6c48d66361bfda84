# SPDX-License-Identifier: LGPL-2.1-or-later
"""One inquiry: which patch is asked about, the kernel's or one that is not loaded, and what is asked."""

from __future__ import annotations

from typing import Optional

import msgspec
from drgn import Program

from ..kernel.functions import Functions
from ..kernel.livepatch import Livepatches, has_livepatching
from .livepatch import Question, livepatches, transition_question
from .plan import Plan, plan_patch
from .planned_patch import PlannedPatch

__all__ = ("Inquiry", "inquire")


class Inquiry(msgspec.Struct, frozen=True):
    """What is asked of the tasks of a kernel."""

    patches: Livepatches
    """The live patches that the kernel has."""
    question: Question
    """The question."""
    plan: Optional[Plan] = None
    """The patch that is not loaded, if the question is about one."""

    @property
    def name(self) -> Optional[str]:
        """Name of the patch that is asked about; ``None`` if none is in transition."""
        if self.plan is not None:
            return self.plan.patch.name
        transition = self.patches.transition
        return None if transition is None else transition.name


def inquire(
    prog: Program, has_reliable_stacktrace: bool, planned: Optional[PlannedPatch] = None
) -> Inquiry:
    """Read the live patches of a kernel, and make the question that the kernel asks of each task.

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
