# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel asks about each task that a live patch waits for: klp_try_switch_task().

The function is in kernel/livepatch/transition.c; the rules are the same from v5.1 to v7.2. The kernel asks
in this order:

    1. Is the task in the wanted version already?   yes: done
    2. Does this kernel have reliable stack traces? no: only the task itself can switch
    3. Is the task on a CPU?                        "is running"
    4. Is its stack reliable?                       no: "has an unreliable stack"
    5. Does the stack return into a function that
       is to be left (klp_check_stack_func())?      "is sleeping on function F"
    6. Otherwise it is switched.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Optional

import msgspec

from ..kernel.livepatch import KLP_IDLE, KLP_PATCHED
from ..records import TaskStack, Verdict
from .first_range import FirstRange
from .leaves_when import leaves_when
from .waiting import kernel_frames

__all__ = ("HOLDING", "Answer", "CodeRange", "Question", "TaskAnswer", "code_range")


class Answer(str, enum.Enum):
    """What the kernel finds when it tries to switch a task to the wanted version."""

    DONE = "done"
    """The task is in the wanted version already."""
    FREE = "free"
    """The kernel would switch it the next time it asks."""
    RUNNING = "running"
    """It is on a CPU."""
    UNRELIABLE = "unreliable"
    """Its stack is unreliable."""
    IN_FUNCTION = "in_function"
    """A return address on its stack is in a function that is to be left."""
    NO_RELIABLE_STACKTRACE = "no_reliable_stacktrace"
    """This kernel has no reliable stack traces, so tasks switch only by themselves."""
    NO_TRANSITION = "no_transition"
    """No patch is in transition."""
    UNKNOWN = "unknown"
    """There is no answer: a part of the stack or of the patch cannot be read."""

    def __str__(self) -> str:
        return self.value


HOLDING = frozenset(
    (
        Answer.RUNNING,
        Answer.UNRELIABLE,
        Answer.IN_FUNCTION,
        Answer.NO_RELIABLE_STACKTRACE,
        Answer.UNKNOWN,
    )
)
"""Answers for tasks that hold a transition back, or may do so."""


class CodeRange(msgspec.Struct, frozen=True):
    """The code of one version of a function, which no task may return into."""

    name: str
    """Name of the original function, which is what the kernel prints."""
    module: Optional[str]
    """Module of the original function; ``None`` for the kernel image."""
    start: int
    """First virtual address."""
    end: int
    """First virtual address after it."""
    older: tuple[tuple[int, int], ...] = ()
    """[start, end) of the older versions, which the kernel does not check."""


class TaskAnswer(msgspec.Struct, frozen=True):
    """A task, and whether it holds a patch back."""

    stack: TaskStack
    """The task."""
    answer: Answer
    """The kernel's answer."""
    function: Optional[str] = None
    """For ``in_function``: the function that the kernel names."""
    module: Optional[str] = None
    """Module of :attr:`function`; ``None`` for the kernel image."""
    frame: Optional[int] = None
    """Index in :attr:`.TaskStack.frames` of the frame that is in :attr:`function`."""
    why: Optional[str] = None
    """The answer as a sentence; ``None`` for ``done`` and ``free``."""
    leaves_when: Optional[str] = None
    """What would let the task switch; ``None`` for ``done``, ``no_transition`` and ``unknown``."""
    notes: tuple[str, ...] = ()
    """What the kernel does not check, but an administrator should."""

    @property
    def holds(self) -> bool:
        """Whether the task holds the patch back, or may do so."""
        return self.answer in HOLDING


class Question:
    """The question about each task: may it switch to another version of these functions?

    :param ranges: The code to be left, in the order in which the kernel checks it: the first range with
        a return address names the function
    :param target: The ``patch_state`` that is wanted; :data:`.KLP_IDLE` if nothing is in
        transition, ``None`` if it is not known
    :param has_reliable_stacktrace: klp_have_reliable_stack()
    :param signals_sent: How often the fake signal was sent; ``None`` if that is not known
    :param problems: Why ranges may be missing, a sentence each. If there are any, no task is certainly free.
    :param is_planned: The patch is not loaded, so no task can be in the wanted version
    """

    def __init__(
        self,
        ranges: Sequence[CodeRange],
        target: Optional[int],
        has_reliable_stacktrace: bool,
        signals_sent: Optional[int] = None,
        problems: Sequence[str] = (),
        is_planned: bool = False,
    ) -> None:
        self.ranges = tuple(ranges)
        self.target = target
        self.problems = tuple(problems)
        self._has_reliable_stacktrace = has_reliable_stacktrace
        self._signals_sent = signals_sent
        self._is_planned = is_planned
        self._first_range = FirstRange([(code.start, code.end) for code in self.ranges])
        older = [(span, at) for at, code in enumerate(self.ranges) for span in code.older]
        self._first_older = FirstRange([span for span, _ in older])
        self._range_of_older = [at for _, at in older]

    def answer(self, stack: TaskStack) -> TaskAnswer:
        """Return the kernel's answer for a task.

        :param stack: Record of the task, with its ``patch_state``
        """
        answer, why = self._answer_without_ranges(stack)
        if answer is not None:
            return self._record(stack, answer, why)
        hit = self._hit(stack)
        if hit is not None:
            return self._in_function(stack, *hit)
        if self.problems:
            return self._record(stack, Answer.UNKNOWN, self._unclear())
        return self._record(stack, Answer.FREE)

    def _answer_without_ranges(self, stack: TaskStack) -> tuple[Optional[Answer], Optional[str]]:
        state = stack.patch_state
        if not self._is_planned:
            if self.target is None:
                return Answer.UNKNOWN, self._unclear()
            if state is None:
                return Answer.UNKNOWN, "task_struct of this kernel has no patch_state"
            if not KLP_IDLE <= state <= KLP_PATCHED:
                return Answer.UNKNOWN, f"its patch_state is {state}"
            if self.target == KLP_IDLE:
                if state == KLP_IDLE:
                    return Answer.NO_TRANSITION, None
                return Answer.UNKNOWN, f"its patch_state is {state}, but nothing is in transition"
            if state == self.target:
                return Answer.DONE, None
        if not self._has_reliable_stacktrace:
            return Answer.NO_RELIABLE_STACKTRACE, stack.why
        if stack.on_cpu:
            return Answer.RUNNING, stack.why
        if stack.verdict is Verdict.UNRELIABLE:
            return Answer.UNRELIABLE, stack.why
        if stack.verdict is Verdict.UNKNOWN:
            return Answer.UNKNOWN, stack.why
        return None, None

    def _unclear(self) -> str:
        return ": ".join(("the patch is unclear", *self.problems[:1]))

    def _hit(self, stack: TaskStack) -> Optional[tuple[CodeRange, int]]:
        """Return the range that the kernel names, and the index of the innermost frame in it."""
        hits = []
        for number, frame in enumerate(kernel_frames(stack)):
            at = self._first_range.at(frame.ip)
            if at is not None:
                hits.append((at, number))
        if not hits:
            return None
        at, number = min(hits)
        return self.ranges[at], number

    def _in_function(self, stack: TaskStack, code: CodeRange, frame: int) -> TaskAnswer:
        where = code.name if code.module is None else f"{code.name} [{code.module}]"
        return self._record(
            stack, Answer.IN_FUNCTION, f"sleeping on {where}, frame {frame}", code, frame
        )

    def _record(
        self,
        stack: TaskStack,
        answer: Answer,
        why: Optional[str] = None,
        code: Optional[CodeRange] = None,
        frame: Optional[int] = None,
    ) -> TaskAnswer:
        name = None if code is None else code.name
        return TaskAnswer(
            stack,
            answer,
            name,
            None if code is None else code.module,
            frame,
            why,
            leaves_when(stack, answer.value, name, self._signals_sent),
            tuple(self._notes(stack, code, frame)),
        )

    def _notes(
        self, stack: TaskStack, code: Optional[CodeRange], frame: Optional[int]
    ) -> Iterator[str]:
        if code is not None and frame is not None and stack.frames[frame].ip == code.start:
            yield (
                f"{code.name} is not on the stack itself: the call before it does not return, so"
                f" the return address is the first byte of {code.name}"
            )
        if not self._range_of_older or stack.verdict is not Verdict.RELIABLE:
            return
        older = {self._first_older.at(frame.ip) for frame in kernel_frames(stack)}
        for at in sorted({self._range_of_older[number] for number in older if number is not None}):
            yield (
                f"it is in an older version of {self.ranges[at].name} than the last, which the kernel"
                " does not check"
            )


def code_range(name: str, module: Optional[str], versions: Sequence[tuple[int, int]]) -> CodeRange:
    """Return the range to be left.

    :param versions: (address, size in bytes) of the version to be left, then of those before it
    """
    (start, end), *before = [(start, start + size) for start, size in versions]
    return CodeRange(
        name, module, start, end, tuple(older for older in before if older != (start, end))
    )
