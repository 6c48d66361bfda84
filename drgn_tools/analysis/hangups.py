# SPDX-License-Identifier: LGPL-2.1-or-later
"""From tasks that wait for each other to what holds them up: the ends of their chains.

A chain goes from a task that waits to the task that holds what it waits for, and from there to the holder of
what that task waits for. The chain of each task that hangs has an end: a task that does not hang, something
whose holder is not known, or a circle.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Optional

import msgspec

from ..drawn import Drawn
from ..kernel.waiting.records import LOCKS, Wait
from ..records import TaskStack

__all__ = ("Blocked", "Hangup", "Holder", "RootKind", "hangups_of")

_UNINTERRUPTIBLE = "D"
_GONE = "XZ"


class Holder(msgspec.Struct, frozen=True):
    """The task that a lock names."""

    address: int
    """Address of its ``struct task_struct``."""
    task: Optional[TaskStack] = None
    """The task; ``None`` if it has exited: at :attr:`address` there is no task of this kernel, or :attr:`successor`."""
    successor: Optional[TaskStack] = None
    """Another task that now has the memory of the holder."""

    @property
    def has_exited(self) -> bool:
        """Whether it has exited, so that it will never release the lock."""
        return self.task is None or self.task.state in _GONE


class Blocked(Drawn, msgspec.Struct, frozen=True):
    """A task that sleeps, and what it waits for. ``str()`` shows both in a line."""

    stack: TaskStack
    """The task."""
    wait: Optional[Wait] = None
    """What the task waits for; ``None`` if that cannot be proven."""
    name: Optional[str] = None
    """Name of :attr:`wait`: a variable of the kernel image, or ``mmap_lock of COMM (TGID)``; ``None`` if it is neither."""
    holder: Optional[Holder] = None
    """The task that holds :attr:`wait`, as the lock says."""
    hint: Optional[Holder] = None
    """The last task that took the lock for reading, or took the semaphore. It may have released it long ago."""
    seconds: Optional[float] = None
    """How long the task has not run; see :attr:`stamp`."""
    stamp: Optional[str] = None
    """Where :attr:`seconds` comes from: see ``NotRunFor.stamp``."""
    seen_seconds: Optional[float] = None
    """For how long khungtaskd has seen the task without a switch; ``None`` if it has not checked."""

    @property
    def hangs(self) -> bool:
        """Whether it sleeps uninterruptibly, or waits for a lock."""
        is_lock = self.wait is not None and self.wait.kind in LOCKS
        return self.stack.state == _UNINTERRUPTIBLE or is_lock


class RootKind(str, enum.Enum):
    """What is at the end of a chain of tasks that wait for each other. Later versions may add kinds."""

    DEADLOCK = "deadlock"
    """Tasks that wait for each other in a circle."""
    EXITED = "exited"
    """A task that has exited with the lock held."""
    TASK = "task"
    """A task that holds what the others wait for, and does not hang itself."""
    WAIT = "wait"
    """Something without a known holder: the kernel does not record which task holds it, or what will end the wait."""
    UNKNOWN = "unknown"
    """What the task waits for cannot be proven."""

    def __str__(self) -> str:
        return self.value


class Hangup(msgspec.Struct, frozen=True):
    """What holds tasks up: the end of their chains, and all tasks that wait behind it."""

    kind: RootKind
    """What is at the end."""
    root: tuple[Blocked, ...]
    """For ``deadlock``: the tasks of the circle, each waiting for the next, the last for the first. For ``task``: the
    holder, if it sleeps. Otherwise empty."""
    holder: Optional[Holder]
    """The task at the end, for ``task`` and ``exited``; otherwise ``None``."""
    wait: Optional[Wait]
    """What the tasks wait for, for ``wait``; otherwise ``None``."""
    name: Optional[str]
    """As :attr:`Blocked.name`, of :attr:`wait`."""
    hint: Optional[Holder]
    """As :attr:`Blocked.hint`, of :attr:`wait`."""
    behind: tuple[tuple[int, Blocked], ...]
    """All tasks that wait behind the end, each with its number of steps from there: a task that waits for it directly (0)
    is followed by the tasks that wait for what that task holds."""

    def members(self) -> Iterator[tuple[int, Blocked]]:
        """Yield the tasks that hang on this, each with its depth: those of a deadlock, then :attr:`behind`."""
        if self.kind is RootKind.DEADLOCK:
            yield from ((0, blocked) for blocked in self.root)
        yield from self.behind

    @property
    def count(self) -> int:
        """Number of tasks that hang on this."""
        return sum(1 for _ in self.members())


def hangups_of(blocked: Iterable[Blocked]) -> list[Hangup]:
    """Return what holds tasks up: deadlocks first, then by the number of tasks. Each task that hangs is in one hangup.

    :param blocked: All tasks that sleep
    """
    graph = _Graph(blocked)
    ends: dict[object, list[Blocked]] = defaultdict(list)
    for each in graph.of_task.values():
        if each.hangs:
            last, circle = graph.end_of(each)
            ends[_key_of(graph, last, circle)].append(last)
    hangups = [_hangup(graph, key, last) for key, last in ends.items()]
    kinds = list(RootKind)
    hangups.sort(
        key=lambda hangup: (
            hangup.kind is not RootKind.DEADLOCK,
            -hangup.count,
            kinds.index(hangup.kind),
        )
    )
    return hangups


def _number_of(holder: Holder) -> int:
    """Return the address of a task. For one that has exited, return a number that is not an address, because another
    task may have its memory."""
    return holder.address if holder.task is not None else -holder.address


class _Graph:
    """Which task waits for which."""

    def __init__(self, blocked: Iterable[Blocked]) -> None:
        self.of_task = {each.stack.task: each for each in blocked}
        self.waiting: Mapping[int, list[Blocked]] = defaultdict(list)
        """Address of a task -> the tasks that wait for what it holds."""
        for each in self.of_task.values():
            holder = self.holder_of(each)
            if holder is not None:
                self.waiting[holder].append(each)
        for waiting in self.waiting.values():
            waiting.sort(key=_turn)

    def holder_of(self, blocked: Blocked) -> Optional[int]:
        """Return the task that certainly holds what *blocked* waits for, as :func:`_number_of`."""
        if blocked.wait is None or blocked.holder is None or blocked.wait.is_free:
            return None
        return _number_of(blocked.holder)

    def end_of(self, blocked: Blocked) -> tuple[Blocked, tuple[int, ...]]:
        """Follow a chain.

        :return: The last waiting task of the chain, and the circle that the chain ends in; empty if there is none
        """
        passed: dict[int, None] = {}
        while True:
            passed[blocked.stack.task] = None
            holder = self.holder_of(blocked)
            if holder in passed:
                chain = list(passed)
                circle = chain[chain.index(holder) :]
                first = circle.index(min(circle))
                return blocked, tuple(circle[first:] + circle[:first])
            following = None if holder is None else self.of_task.get(holder)
            # A task that does not hang may continue by itself: it is the end.
            if following is None or not following.hangs:
                return blocked, ()
            blocked = following

    def below(
        self, waiting: Iterable[Blocked], passed: frozenset[int]
    ) -> Iterator[tuple[int, Blocked]]:
        """Yield the tasks that wait and, after each, those that wait for what it holds."""
        todo = [(0, each) for each in reversed(list(waiting))]
        seen = set(passed)
        while todo:
            depth, each = todo.pop()
            if each.stack.task in seen:
                continue
            seen.add(each.stack.task)
            yield depth, each
            todo += [
                (depth + 1, behind) for behind in reversed(self.waiting.get(each.stack.task, ()))
            ]


def _turn(blocked: Blocked) -> tuple[int, int]:
    """Sort tasks by lock, and the tasks of one lock in the order of its list of waiters."""
    wait, task = blocked.wait, blocked.stack.task
    if wait is None:
        return 0, 0
    return wait.address, wait.waiters.index(task) if task in wait.waiters else 0


def _key_of(graph: _Graph, last: Blocked, circle: tuple[int, ...]) -> object:
    """Return a key that is equal for tasks that hang on the same."""
    if circle:
        return RootKind.DEADLOCK, circle
    holder = graph.holder_of(last)
    if holder is not None:
        return RootKind.TASK, holder
    if last.wait is None:
        return RootKind.UNKNOWN, last.stack.task
    return RootKind.WAIT, last.wait.kind, last.wait.address


def _hangup(graph: _Graph, key: object, lasts: list[Blocked]) -> Hangup:
    assert isinstance(key, tuple)
    last = lasts[0]
    if key[0] is RootKind.DEADLOCK:
        circle = tuple(graph.of_task[addr] for addr in key[1])
        of_circle = frozenset(key[1])
        waiting = [
            each
            for addr in key[1]
            for each in graph.waiting[addr]
            if each.stack.task not in of_circle
        ]
        behind = tuple(graph.below(waiting, of_circle))
        return Hangup(RootKind.DEADLOCK, circle, None, None, None, None, behind)
    if key[0] is RootKind.TASK:
        holder = last.holder
        assert holder is not None
        behind = tuple(
            graph.below(graph.waiting[_number_of(holder)], frozenset((_number_of(holder),)))
        )
        root = graph.of_task.get(_number_of(holder))
        kind = RootKind.EXITED if holder.has_exited else RootKind.TASK
        return Hangup(kind, () if root is None else (root,), holder, None, None, None, behind)
    firsts = sorted({each.stack.task: each for each in lasts}.values(), key=_turn)
    behind = tuple(graph.below(firsts, frozenset()))
    if key[0] is RootKind.UNKNOWN:
        return Hangup(RootKind.UNKNOWN, (), None, None, None, None, behind)
    return Hangup(RootKind.WAIT, (), None, last.wait, last.name, last.hint, behind)
