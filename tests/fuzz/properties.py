# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must be true of the answers for a damaged dump. docs/reliability.md says it in full.

The answer for a task depends on its own memory, on what its frames use (their modules, their ORC rules), and on
what all tasks share. If none of these was touched, the answer is as before, or it is unknown.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from drgn_tools import Frame, KernelAudit, SavedRegs, TaskStack, Verdict
from drgn_tools.analysis.patch_question import Answer, Question, TaskAnswer
from drgn_tools.errors import EXIT_INPUT, EXIT_TYPES, DrgnToolsError

from ..support.wrong_answers import wrong_of_task
from .damage import Damage
from .whole import Whole

__all__ = (
    "Promise",
    "faults_of_answers",
    "faults_of_error",
    "other_answers",
    "other_patch_answers",
    "promise",
)


class Promise(enum.Enum):
    """What is promised for tasks that were not touched."""

    SAME = "same"
    """The same answer, or unknown."""
    SAME_BUT_NAMES = "same but for names"
    """The same answer or unknown, but functions may have other names: the table of names is damaged."""
    NONE = "none"
    """Only that there is an answer: the data that say where everything is are damaged."""


_TABLES_OF_PLACES = frozenset({"types"})
_TABLES_OF_NAMES = frozenset({"symbols"})


def promise(damage: Damage) -> Promise:
    """Return what is promised in spite of some damage."""
    if damage.is_in_headers or damage.touched & _TABLES_OF_PLACES:
        return Promise.NONE
    if damage.touched & _TABLES_OF_NAMES:
        return Promise.SAME_BUT_NAMES
    return Promise.SAME


def faults_of_error(error: DrgnToolsError) -> Iterator[str]:
    """Yield what is wrong with a refusal."""
    if error.exit_code not in (EXIT_INPUT, EXIT_TYPES):
        yield f"exit code {error.exit_code}: {error}"
    if "\n" in str(error) or not str(error):
        yield f"not one line: {error}"


def faults_of_answers(found: KernelAudit) -> Iterator[str]:
    """Yield what is wrong with answers whatever the damage."""
    for stack in found:
        if (stack.verdict is Verdict.RELIABLE) != (stack.reason is None):
            yield f"pid {stack.pid}: {stack.verdict} with reason {stack.reason}"
        if stack.verdict is Verdict.UNKNOWN and not stack.why:
            yield f"pid {stack.pid}: unknown without a reason"
        for frame in stack.frames:
            if frame.symbol is not None and frame.symbol.offset < 0:
                yield f"pid {stack.pid}: {frame!r} lies before its function"


def other_answers(whole: Whole, found: KernelAudit, damage: Damage) -> Iterator[str]:
    """Yield answers for tasks that were not touched, but are neither as before nor unknown."""
    without_names = promise(damage) is Promise.SAME_BUT_NAMES
    gives_no_verdicts = found.kernel.notes != whole.audit.kernel.notes
    answers = {stack.task: stack for stack in found}
    for address, stack in answers.items():
        if address not in whole.records:
            yield f"task {address:#x} is not one: {stack!r}"
    for address, stack in whole.records.items():
        if address in damage.touched or whole.rests_on[address] & damage.touched:
            continue
        now = answers.get(address)
        if now is None:
            if not found.problems:
                yield f"pid {stack.pid} is missing, and nothing says so"
        elif now != stack:
            if gives_no_verdicts and now.verdict is Verdict.UNKNOWN:
                continue  # the stacks are from drgn, and the note on the kernel says so
            if without_names:
                stack, now = nameless(stack), nameless(now)
            for what in _other(stack, now):
                yield f"pid {stack.pid} {stack.comm}: {what}"


def other_patch_answers(
    whole: Whole, question: Question, answers: Sequence[TaskAnswer], damage: Damage
) -> Iterator[str]:
    """Yield answers about a live patch for tasks that were not touched, but are neither as before nor unclear."""
    if question.problems:
        return
    has_names = promise(damage) is not Promise.SAME_BUT_NAMES
    for now in answers:
        address = now.stack.task
        before = whole.patch_answers.get(address)
        if before is None or address in damage.touched or whole.rests_on[address] & damage.touched:
            continue
        is_unclear = now.answer in (Answer.UNKNOWN, Answer.RUNNING)
        is_same = now.answer is before.answer and (
            not has_names or (now.function, now.module) == (before.function, before.module)
        )
        if not is_same and not is_unclear:
            yield f"pid {now.stack.pid}: {_of_patch(now)}, was {_of_patch(before)}"


def _of_patch(answer: TaskAnswer) -> str:
    return f"{answer.answer} {answer.function or ''}".strip()


def _other(whole: TaskStack, found: TaskStack) -> Iterator[str]:
    own = ("pid", "tgid", "comm", "state", "cpu", "kthread")
    for name in own:
        if getattr(whole, name) != getattr(found, name):
            yield f"{name} is {getattr(found, name)!r}, was {getattr(whole, name)!r}"
    yield from wrong_of_task(whole, found)


def nameless(stack: TaskStack) -> TaskStack:
    """Return an answer without the names of functions, and without what follows only from names."""
    return replace(
        stack,
        frames=tuple(map(_nameless_frame, stack.frames)),
        regs=tuple(map(_nameless_regs, stack.regs)),
        cpu_caller=None,
    )


def _nameless_frame(frame: Frame) -> Frame:
    return replace(frame, symbol=None, exact=False)  # both depend on names


def _nameless_regs(regs: SavedRegs) -> SavedRegs:
    return replace(regs, symbol=None, entry=None, caller=None)
