# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answer of each task of a source about a live patch: the one in transition, or one that is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import msgspec
from drgn import Program

from ...analysis.inquiry import Inquiry, inquire
from ...analysis.livepatch import listed_patches
from ...analysis.patch_question import TaskAnswer
from ...analysis.planned_patch import PlannedPatch
from ...errors import TypesError
from ...kernel.livepatch import has_livepatching
from ...program.open import input_error_if_vanished
from ...records import KernelAudit
from .record import Facts

__all__ = ("PatchAnswers", "ask_about_patch")


class PatchAnswers(msgspec.Struct, frozen=True):
    """What a source says about a live patch."""

    facts: Facts
    """Values by column of :data:`~drgn_tools.fleet.dataset.schema.AUDITS`."""
    of_tasks: Sequence[TaskAnswer] = ()
    """The answer of each task; empty if no patch was asked about."""


def ask_about_patch(
    prog: Program, audit: KernelAudit, planned: Optional[PlannedPatch]
) -> PatchAnswers:
    """Return the answer of each task of an audit.

    :param planned: A patch that is not loaded; ``None`` for the one in transition, if there is one
    """
    if planned is None and not has_livepatching(prog):
        return PatchAnswers({})
    try:
        with input_error_if_vanished(prog):
            inquiry = inquire(prog, audit.kernel.reliable_stacktrace, planned)
    except TypesError as e:
        return PatchAnswers({"patch_problems": [str(e)]})
    facts = _facts(inquiry)
    if inquiry.name is None:
        return PatchAnswers(facts)
    return PatchAnswers(facts, [inquiry.question.answer(task) for task in audit.tasks])


def _facts(inquiry: Inquiry) -> Facts:
    transitions = (listed.transition for listed in listed_patches(inquiry.patches))
    transition = next(filter(None, transitions), None)
    return {
        "patch": inquiry.name,
        "patch_transition": "planned" if inquiry.plan is not None else transition,
        "patch_refusals": None if inquiry.plan is None else list(inquiry.plan.refusals),
        "patch_problems": list(inquiry.question.problems),
    }
