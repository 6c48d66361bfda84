# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed between two snapshots of the tasks of a machine: :func:`diff_tasks`."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import zip_longest
from typing import Callable, Optional, Union

import msgspec

from ..drawn import Drawn
from ..records import KERNEL_WIDE, Frame, KernelAudit, KernelInfo, Reason, TaskStack
from .labels import function_label
from .snapshot import Seen, Snapshot, as_snapshot
from .waiting import kernel_frames

__all__ = ("ChangeKind", "TaskChange", "TaskDiff", "diff_tasks", "is_same_task")


class ChangeKind(str, enum.Enum):
    """What became of a task between two snapshots."""

    STILL = "still"
    """It is in the same stack, with the same state and verdict."""
    CHANGED = "changed"
    """Its stack, state, verdict or wait differs; :attr:`TaskChange.what` says which."""
    UNCLEAR = "unclear"
    """No change is known, but one of the snapshots does not have its stack, for example because it was on a CPU."""
    CAME = "came"
    """Only the second snapshot has it."""
    WENT = "went"
    """Only the first snapshot has it."""

    def __str__(self) -> str:
        return self.value


class TaskChange(msgspec.Struct, frozen=True):
    """A task in two snapshots."""

    kind: ChangeKind
    """What became of it."""
    before: Optional[Seen]
    """The task in the first snapshot; ``None`` if it came."""
    after: Optional[Seen]
    """The task in the second snapshot; ``None`` if it went."""
    what: tuple[str, ...] = ()
    """What differs, of ``stack``, ``state``, ``verdict`` (or its reason), ``wait`` (the function)."""
    parting: Optional[tuple[Optional[Frame], Optional[Frame]]] = None
    """Where two different stacks part: the outermost frame of each that differs from the other stack. It is ``None`` for
    a stack that ends there. The whole value is ``None`` if the stacks are equal, or not known."""
    ran: Optional[bool] = None
    """Whether the task ran in between: whether ``nvcsw + nivcsw`` differs. ``None`` if a snapshot does not have that number,
    if the task was on a CPU, or if the snapshots are of two boots."""

    @property
    def last(self) -> TaskStack:
        """The task as it was seen last."""
        seen = self.after or self.before
        assert seen is not None  # a change has one of them
        return seen.task


class TaskDiff(Drawn, msgspec.Struct, frozen=True):
    """Two snapshots, compared. ``str()`` is a table of all tasks that are not :attr:`ChangeKind.STILL`."""

    before: KernelInfo
    """Kernel of the first snapshot."""
    after: KernelInfo
    """Kernel of the second snapshot."""
    same_boot: bool
    """Whether both are of one boot of one machine. Then tasks are matched by PID, address and start time;
    otherwise by name and stack."""
    changes: tuple[TaskChange, ...]
    """Every task: those of the second snapshot in its order, then those that went, in the order of the first."""

    def of_kind(self, kind: ChangeKind) -> list[TaskChange]:
        """Return the changes of a kind."""
        return [change for change in self.changes if change.kind is kind]


def diff_tasks(
    before: Union[KernelAudit, Snapshot], after: Union[KernelAudit, Snapshot]
) -> TaskDiff:
    """Compare two snapshots of the tasks of a machine.

    :param before: The earlier snapshot: of :func:`~.audit.audit_kernel` or :func:`~.snapshot.saved_snapshot`
    :param after: The later snapshot
    :raises UsageError: if one of them is not a snapshot
    """
    first, second = as_snapshot(before), as_snapshot(after)
    same_boot = _is_same_boot(first, second)
    if same_boot:
        pairs = _pairs_of_one_boot(first.tasks, second.tasks)
        changes = [_compared(*pair, _stack_with_offsets, True) for pair in pairs]
    else:
        stack_of: _StackOf = _stack_of_functions
        if first.kernel.build_id is not None and first.kernel.build_id == second.kernel.build_id:
            stack_of = _stack_with_offsets
        pairs = _pairs_of_two_boots(first.tasks, second.tasks, stack_of)
        changes = [_compared(*pair, stack_of, False) for pair in pairs]
    return TaskDiff(first.kernel, second.kernel, same_boot, tuple(changes))


def is_same_task(before: TaskStack, after: TaskStack) -> bool:
    """Return whether two records of one boot are of the same task.

    PIDs and the memory of a ``struct task_struct`` are used again. But no two tasks share PID, address and
    start time. (comm may differ: exec() and prctl() change it. It only decides if a start time is missing.)
    """
    if (before.pid, before.task) != (after.pid, after.task):
        return False
    if before.start_time_ns is None or after.start_time_ns is None:
        return before.comm == after.comm
    return before.start_time_ns == after.start_time_ns


# ---- which task is which

_Pair = tuple[Optional[Seen], Optional[Seen]]
_StackOf = Callable[[TaskStack], tuple[Hashable, ...]]
"""What two stacks are compared by: an item for each frame in the kernel, innermost first."""


def _is_same_boot(before: Snapshot, after: Snapshot) -> bool:
    old, new = before.kernel, after.kernel
    if (old.release, old.arch) != (new.release, new.arch):
        return False
    if None not in (old.build_id, new.build_id) and old.build_id != new.build_id:
        return False
    if old.boot_id is not None and new.boot_id is not None:
        return old.boot_id == new.boot_id
    # Without both boot IDs (a machine has none until something asks for it), kernel threads decide: most live
    # as long as the boot, and in another boot hardly any of them has the same PID, address and start time.
    kept = {seen.task.pid: seen.task for seen in before.tasks if seen.task.kthread}
    both = [
        is_same_task(kept[seen.task.pid], seen.task)
        for seen in after.tasks
        if seen.task.kthread and seen.task.pid in kept
    ]
    if not both:  # the snapshots have no task in common
        first = {(seen.task.pid, seen.task.task): seen.task for seen in before.tasks}
        both = [
            is_same_task(first[key], seen.task)
            for seen in after.tasks
            if (key := (seen.task.pid, seen.task.task)) in first
        ]
    return 2 * sum(both) > len(both)


def _pairs_of_one_boot(before: Sequence[Seen], after: Sequence[Seen]) -> Iterator[_Pair]:
    left = {(seen.task.pid, seen.task.task): seen for seen in before}
    for seen in after:
        key = seen.task.pid, seen.task.task
        old = left.get(key)
        if old is not None and is_same_task(old.task, seen.task):
            yield left.pop(key), seen
        else:
            yield None, seen
    yield from ((seen, None) for seen in left.values())


def _pairs_of_two_boots(
    before: Sequence[Seen], after: Sequence[Seen], stack_of: _StackOf
) -> Iterator[_Pair]:
    left = dict(enumerate(before))
    by_stack: dict[Hashable, list[int]] = defaultdict(list)
    by_name: dict[str, list[int]] = defaultdict(list)
    for i in reversed(range(len(before))):  # so that pop() returns the first
        seen = before[i]
        by_name[seen.task.name].append(i)
        by_stack[seen.task.name, seen.has_stack, stack_of(seen.task)].append(i)
    partner: dict[int, Seen] = {}
    for j, seen in enumerate(after):
        same = by_stack[seen.task.name, seen.has_stack, stack_of(seen.task)]
        if same:
            partner[j] = left.pop(same.pop())
    for j, seen in enumerate(after):
        namesakes = by_name[seen.task.name]
        while j not in partner and namesakes:
            i = namesakes.pop()
            if i in left:
                partner[j] = left.pop(i)
        yield partner.get(j), seen
    yield from ((seen, None) for seen in left.values())


def _stack_with_offsets(task: TaskStack) -> tuple[Hashable, ...]:
    return tuple(
        (frame.symbol or frame.ip, frame.regs is not None) for frame in kernel_frames(task)
    )


def _stack_of_functions(task: TaskStack) -> tuple[Hashable, ...]:
    # Offsets differ between kernels.
    return tuple(
        (function_label(frame) if frame.symbol else None, frame.regs is not None)
        for frame in kernel_frames(task)
    )


# ---- what changed


def _compared(
    before: Optional[Seen], after: Optional[Seen], stack_of: _StackOf, same_boot: bool
) -> TaskChange:
    if before is None:
        return TaskChange(ChangeKind.CAME, before, after)
    if after is None:
        return TaskChange(ChangeKind.WENT, before, after)
    ran = _ran(before.task, after.task) if same_boot else None
    is_same = _is_same_stack(before, after, stack_of, ran)
    parting = None if is_same is not False else _parting(before.task, after.task, stack_of)
    what = tuple(_differences(before, after, is_same))
    if what:
        kind = ChangeKind.CHANGED
    else:
        kind = ChangeKind.UNCLEAR if is_same is None else ChangeKind.STILL
    return TaskChange(kind, before, after, what, parting, ran)


def _ran(before: TaskStack, after: TaskStack) -> Optional[bool]:
    if before.on_cpu or after.on_cpu or before.switches is None or after.switches is None:
        return None
    return before.switches != after.switches


def _is_same_stack(
    before: Seen, after: Seen, stack_of: _StackOf, ran: Optional[bool]
) -> Optional[bool]:
    if before.has_stack and after.has_stack:
        return stack_of(before.task) == stack_of(after.task)
    # If a snapshot does not have the stack: it is the same if the task did not run.
    return True if ran is False else None


def _parting(
    before: TaskStack, after: TaskStack, stack_of: _StackOf
) -> tuple[Optional[Frame], Optional[Frame]]:
    stacks = [
        list(zip(reversed(stack_of(task)), reversed(kernel_frames(task))))
        for task in (before, after)
    ]
    none = (None, None)
    pairs = zip_longest(*stacks, fillvalue=none)
    return next(((old, new) for (key, old), (other, new) in pairs if key != other), none)


def _differences(before: Seen, after: Seen, is_same_stack: Optional[bool]) -> Iterator[str]:
    if is_same_stack is False:
        yield "stack"
    old, new = before.task, after.task
    if old.state != new.state:
        yield "state"
    judged = _has_comparable_verdict(old) and _has_comparable_verdict(new)
    if judged and (old.verdict, old.reason) != (new.verdict, new.reason):
        yield "verdict"
    if (
        is_same_stack is not True
        and _has_known_wait(before)
        and _has_known_wait(after)
        and before.function != after.function
    ):
        yield "wait"


def _has_known_wait(seen: Seen) -> bool:
    # A task with a stack but no function is in user mode, so that is known, too.
    return seen.has_stack or seen.function is not None


def _has_comparable_verdict(task: TaskStack) -> bool:
    # A task on a CPU keeps the verdict that it had before; some kernels give none at all.
    return task.reason is not Reason.RUNNING and task.reason not in KERNEL_WIDE
