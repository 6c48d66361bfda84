# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tasks of a kernel hang: what each waits for, which task holds it, and what holds all of them up.

What a task waits for is only reported if the lock and its list of waiters prove it
(``kernel.waiting``). A holder is the task that the lock itself names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Optional

import msgspec
from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from ..drawn import Drawn
from ..engine.kernel import kernel_of
from ..engine.waits import FoundWait, KernelWaits
from ..kernel.live_tasks import is_live
from ..kernel.waiting.records import LOCKS, Wait
from ..program.open import input_error_if_vanished
from ..records import TaskStack
from .audit import task_stacks
from .hangups import Blocked, Hangup, Holder, RootKind, hangups_of
from .run_queues import CpuQueue, cpu_queues

__all__ = ("HungReport", "HungTask", "hung_report", "hung_tasks")


class HungTask(msgspec.Struct, frozen=True):
    """One row: a task that sleeps, and its place among the tasks that hang."""

    blocked: Blocked
    """The task."""
    hangup: Optional[int] = None
    """Index in :attr:`HungReport.hangups` of what holds it up; ``None`` if it does not hang."""
    depth: int = 0
    """Steps from the end of the chain; 0 for the tasks of a deadlock and for tasks that wait directly."""


class HungReport(Drawn, msgspec.Struct, frozen=True):
    """Which tasks hang, on what. ``str()`` is what the command ``hung`` shows."""

    blocked: tuple[Blocked, ...]
    """All tasks that sleep, including those that do not hang, in the order of the task list. Those that hang are also in
    :attr:`hangups`."""
    hangups: tuple[Hangup, ...]
    """What holds up the tasks that hang: deadlocks first, then by the number of tasks. Each of these tasks is in one hangup."""
    cpus: tuple[CpuQueue, ...]
    """The run queue of each CPU."""

    @property
    def deadlocks(self) -> tuple[Hangup, ...]:
        """The deadlocks."""
        return tuple(hangup for hangup in self.hangups if hangup.kind is RootKind.DEADLOCK)

    def tasks(self) -> Iterator[HungTask]:
        """Yield the tasks that hang, one hangup after the other; then all others that sleep."""
        seen: set[int] = set()
        for number, hangup in enumerate(self.hangups):
            for depth, blocked in hangup.members():
                seen.add(blocked.stack.task)
                yield HungTask(blocked, number, depth)
        for blocked in self.blocked:
            if blocked.stack.task not in seen:
                yield HungTask(blocked)


@takes_program_or_default
def hung_tasks(prog: Program) -> HungReport:
    """Return which tasks of a kernel hang, what each waits for, and which task holds it.

    ``print(hung_tasks(prog))`` shows the same as the command ``hung``.

    :raises TypesError: if types that a stack needs are missing or damaged
    """
    return hung_report(prog, task_stacks(prog))


def hung_report(prog: Program, stacks: Iterable[TaskStack]) -> HungReport:
    """Do as :func:`hung_tasks`, for tasks that were read already.

    :param stacks: All tasks of this kernel
    """
    with input_error_if_vanished(prog):
        kernel = kernel_of(prog)
        waits = KernelWaits(prog, kernel, stacks)
        found = [wait for addr in waits.tasks if (wait := waits.find(addr)) is not None]
        if is_live(prog):
            found = _still_true(waits, found)
        asleep_s = {each.stack.task: each.not_run_for.seconds for each in found}
        blocked = tuple(_blocked(waits, each, asleep_s) for each in found)
        return HungReport(
            blocked,
            tuple(hangups_of(blocked)),
            cpu_queues(kernel, waits.stacks),
        )


def _still_true(waits: KernelWaits, found: list[FoundWait]) -> list[FoundWait]:
    """Read each wait of a running kernel again, and drop those that are not the same.

    A waiting task does not change while it is read, but a holder may change between the reads of two tasks.
    A circle whose parts were true at different moments may never have existed.
    """
    again = []
    for each in found:
        if each.wait is None or each.wait.kind not in LOCKS:
            again.append(each)
            continue
        now = waits.find(each.stack.task)
        if now is not None:
            same = now.wait is not None and _is_same(now.wait, each.wait)
            again.append(now if same else msgspec.structs.replace(now, wait=None))
    return again


def _is_same(now: Wait, before: Wait) -> bool:
    return (now.kind, now.address, now.holder, now.is_free) == (
        before.kind,
        before.address,
        before.holder,
        before.is_free,
    )


def _blocked(
    waits: KernelWaits, found: FoundWait, asleep_s: Mapping[int, Optional[float]]
) -> Blocked:
    wait, since = found.wait, found.not_run_for
    # The release of a lock wakes its first waiter. So the holder has held the lock since the first
    # waiter fell asleep. A younger task is not the holder: it only has the memory of the holder.
    first = None if wait is None or not wait.waiters else asleep_s.get(wait.waiters[0])

    def holder(address: Optional[int], is_sure: bool = True) -> Optional[Holder]:
        if address is None:
            return None
        task = waits.stacks.get(address)
        if is_sure and first is not None and waits.is_younger(address, first):
            return Holder(address, None, task)
        return Holder(address, task)

    return Blocked(
        found.stack,
        wait,
        None if wait is None else waits.name_of(wait),
        None if wait is None else holder(wait.holder),
        None if wait is None else holder(wait.hint, is_sure=False),
        since.seconds,
        since.stamp,
        since.seen_seconds,
    )
