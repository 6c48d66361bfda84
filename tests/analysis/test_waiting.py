# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which function a task waits in, on stacks of arm64 that an interrupt has preempted."""

from __future__ import annotations

import pytest

from drgn_tools import Frame, Symbol, TaskStack, Verdict
from drgn_tools.analysis.waiting import waiting_function

REGS = 0xFFFF_8000_8000_3EB0
SWITCHED = "__switch_to __schedule"
VECTOR = "el1h_64_irq_handler el1h_64_irq"


def waits_in(functions: str, interrupted: Frame) -> bool:
    """Whether a task waits where it was interrupted.

    :param functions: Innermost first, up to entry code
    """
    names = functions.split()
    frames = [Frame(0x10 * n, Symbol(name, 4, None)) for n, name in enumerate(names, 1)]
    outer = () if interrupted.user_mode else (Frame(0x800, Symbol("vfs_read", 4, None)),)
    task = TaskStack(
        0xFFFF_0000_0123_0000, 7, 7, "t", "R", 0, False, False, Verdict.UNKNOWN,
        frames=(*frames, interrupted, *outer), arch="aarch64",
    )  # fmt: skip
    return waiting_function(task) is interrupted


@pytest.mark.parametrize(
    "functions",
    [
        f"{SWITCHED} preempt_schedule_irq arm64_preempt_schedule_irq el1_interrupt {VECTOR}",
        f"{SWITCHED} preempt_schedule_irq raw_irqentry_exit_cond_resched"
        f" arm64_exit_to_kernel_mode_preempt el1_interrupt {VECTOR}",
    ],
    ids=["6.1", "7.2"],
)
def test_preempted_in_the_kernel(functions: str) -> None:
    kernel = Frame(0x700, Symbol("folios_put_refs", 4, None), regs=REGS, exact=True)
    assert waits_in(functions, kernel)


def test_preempted_in_user_mode() -> None:
    user = Frame(0x40_1000, regs=REGS, user_mode=True, exact=True)
    entry = "el0_interrupt __el0_irq_handler_common el0t_64_irq_handler el0t_64_irq"
    assert waits_in(f"{SWITCHED} schedule do_notify_resume {entry}", user)


def test_a_task_that_sleeps_on_its_way_back_to_user_mode() -> None:
    user = Frame(0x40_1000, regs=REGS, user_mode=True, exact=True)
    entry = "do_notify_resume el0_svc el0t_64_sync"
    assert not waits_in(f"{SWITCHED} schedule ptrace_stop get_signal {entry}", user)
