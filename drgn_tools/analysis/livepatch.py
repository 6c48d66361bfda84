# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who holds a live patch back, and why: for each task the answer of klp_try_switch_task().

That is in kernel/livepatch/transition.c; the rules are the same from v5.1 to v7.2. The kernel asks
in this order:

    1. Is the task in the wanted version already?   yes: done
    2. Has this kernel reliable stack traces?       no: only the task itself can switch
    3. Is the task on a CPU?                        "is running"
    4. Is its stack reliable?                       no: "has an unreliable stack"
    5. Does the stack return into a function that
       is to be left (klp_check_stack_func())?      "is sleeping on function F"
    6. Otherwise it is switched.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterator, Sequence
from typing import Optional

import msgspec
from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from ..errors import InputError
from ..kernel.functions import Functions
from ..kernel.live_tasks import is_live
from ..kernel.livepatch import (
    KLP_IDLE,
    KLP_PATCHED,
    KLP_UNPATCHED,
    Livepatches,
    PatchFunction,
    PatchRecord,
    has_livepatching,
    read_livepatches,
)
from ..program.open import source_of
from ..records import TaskStack, Verdict
from .first_range import FirstRange
from .leaves_when import leaves_when
from .waiting import kernel_frames

__all__ = (
    "HOLDING",
    "Answer",
    "CodeRange",
    "ListedPatch",
    "Question",
    "TaskAnswer",
    "listed_patches",
    "livepatches",
    "require_livepatching",
    "transition_question",
)

_MAX_TRIES = 5
"""How often the lists of a running kernel are read, if they change meanwhile."""
_SIGNALS_TIMEOUT = 15
"""kernel/livepatch/transition.c: rounds of a transition from one fake signal to the next."""


class Answer(str, enum.Enum):
    """What the kernel finds when it tries to switch a task to the wanted version."""

    DONE = "done"
    """The task is in the wanted version already."""
    FREE = "free"
    """It would be switched when the kernel asks next."""
    RUNNING = "running"
    """It is on a CPU."""
    UNRELIABLE = "unreliable"
    """Its stack is unreliable."""
    IN_FUNCTION = "in_function"
    """A return address on its stack lies in a function that is to be left."""
    NO_RELIABLE_STACKTRACE = "no_reliable_stacktrace"
    """This kernel has no reliable stack traces, so tasks switch only by themselves."""
    NO_TRANSITION = "no_transition"
    """No patch is in transition."""
    UNKNOWN = "unknown"
    """It cannot be told: of the stack or of the patch something cannot be read."""

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
"""Answers of tasks that hold a transition back, or may do so."""


class CodeRange(msgspec.Struct, frozen=True):
    """The code of one version of a function, which no task may return into."""

    name: str
    """Name of the original function, which is what the kernel prints."""
    module: Optional[str]
    """Module of the original function; ``None`` for the kernel image."""
    start: int
    """First virtual address."""
    end: int
    """First virtual address behind it."""
    older: tuple[tuple[int, int], ...] = ()
    """[start, end) of the versions before, which the kernel does not check."""


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
    """Index in :attr:`.TaskStack.frames` of the frame that lies in :attr:`function`."""
    why: Optional[str] = None
    """The answer as a sentence; ``None`` for ``done`` and ``free``."""
    leaves_when: Optional[str] = None
    """What would let the task switch; ``None`` if it is done, or nothing is in transition."""
    notes: tuple[str, ...] = ()
    """What the kernel does not look at, but an administrator should."""

    @property
    def holds(self) -> bool:
        """Whether the task holds the patch back, or may do so."""
        return self.answer in HOLDING


class Question:
    """What is asked of each task: may it move to another version of these functions?

    :param ranges: The code to be left, in the order in which the kernel looks: the first that is
        hit names the function
    :param target: The ``patch_state`` that is wanted; :data:`.KLP_IDLE` if nothing is in
        transition, ``None`` if it cannot be told
    :param has_reliable_stacktrace: klp_have_reliable_stack()
    :param signals_sent: How often the fake signal was sent; ``None`` if that cannot be told
    :param problems: Why ranges may be missing, a sentence each. Then no task is free for certain.
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
        """Return the range that the kernel names, and the number of the innermost frame in it."""
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
                f"it is in a version of {self.ranges[at].name} before the last, which the kernel"
                " does not check"
            )


# ---- what the kernel asks now


def require_livepatching(prog: Program) -> None:
    """Check that a kernel has live patching.

    :raises InputError: if it has none
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
    """A patch, and what happens to it."""

    patch: PatchRecord
    """The patch."""
    transition: Optional[str]
    """``patching``, ``unpatching``; ``unclear`` if the dump contradicts itself; ``None`` at rest."""


def listed_patches(patches: Livepatches) -> list[ListedPatch]:
    """Return the patches of a kernel, each with what happens to it."""
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
    """Return what klp_try_complete_transition() asks of each task.

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


def code_range(name: str, module: Optional[str], versions: Sequence[tuple[int, int]]) -> CodeRange:
    """Return the range to be left.

    :param versions: (address, size in bytes) of it, then of those before it
    """
    (start, end), *before = [(start, start + size) for start, size in versions]
    return CodeRange(
        name, module, start, end, tuple(older for older in before if older != (start, end))
    )


def _versions_from(func: PatchFunction, patches: Livepatches) -> Optional[list[tuple[int, int]]]:
    """Follow klp_check_stack_func() in kernel/livepatch/transition.c, v6.12.

    :return: (address, size) of the version to be left and of those before it; ``None`` if the
        lists do not tell
    """
    versions = patches.versions.get(func.old_addr, ())
    at = next((i for i, other in enumerate(versions) if other.address == func.address), None)
    if at is None:
        return None
    if patches.target != KLP_PATCHED:
        return [(func.new_addr, func.new_size)]
    if at == len(versions) - 1 and at > 0:
        return None  # the kernel would take the head of the list for a function
    previous = [(other.new_addr, other.new_size) for other in versions[at + 1 :]]
    return [*previous, (func.old_addr, func.old_size)]


def _contradictions(
    old_addrs: Container[int], patches: Livepatches, functions: Functions
) -> Iterator[str]:
    """Yield what of the versions of functions contradicts the symbol tables, a sentence each.

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
        yield f"{name} is patched, but {module} is not loaded"
    elif functions.is_named(func.old_addr, module, func.name) is False:
        yield f"old_func of {name} is {func.old_addr:#x}, where no symbol has this name"
    new_module = module if func.nop else patch_name
    for what, address, size, where in (
        ("old", func.old_addr, func.old_size, module),
        ("new", func.new_addr, func.new_size, new_module),
    ):
        if not functions.has_symbols(where):
            continue
        # A stripped module may have no symbol for new_func itself. The kernel takes the one before.
        expected = functions.size(address, where)
        if expected is None:
            yield f"{what}_func of {name} is {address:#x}, where no symbol is"
        elif size != expected:
            yield f"{what}_size of {name} is {size:#x}, but its symbol has {expected:#x} bytes"
