# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict on finished walks is what the kernel would answer."""

from __future__ import annotations

import pytest
from msgspec.structs import astuple

from drgn_tools.records import Reason, Verdict
from drgn_tools.unwind.base import End, Step, Walk
from drgn_tools.verdict.reliable import MAX_STACK_ENTRIES, judge

TEXT = range(0x1000, 0x2000)


def call(ip: int = 0x1000) -> Step:
    return Step(ip, False, 0x8008, regs=None, user_mode=False, stack="task", raw_regs=None)


def regs(user_mode: bool, ip: int = 0x1000) -> Step:
    return Step(ip, True, 0x9080, regs=0x9000, user_mode=user_mode, stack="task", raw_regs=b"")


def judged(*steps: Step, end: End) -> tuple[Verdict, object, object]:
    return astuple(judge(Walk(tuple(steps), end), TEXT.__contains__, True))  # type: ignore[return-value]


def test_user_regs_are_success_whatever_their_ip() -> None:
    assert judged(call(), regs(True, ip=0xBAD), end=End.USER_REGS) == (Verdict.RELIABLE, None, None)


def test_kernel_regs_are_failure_even_if_the_walk_completes() -> None:
    steps = (call(), regs(False), call(), regs(True))
    assert judged(*steps, end=End.USER_REGS) == (Verdict.UNRELIABLE, Reason.KERNEL_MODE_REGS, 1)


def test_kernel_regs_are_seen_before_their_ip_is_checked() -> None:
    assert judged(regs(False, ip=0xBAD), end=End.ERROR)[1] is Reason.KERNEL_MODE_REGS


def test_return_address_outside_text_is_failure_at_that_frame() -> None:
    got = judged(call(), call(0xBAD), call(0xBAD), end=End.LAST_FRAME)
    assert got == (Verdict.UNRELIABLE, Reason.BAD_RETURN_ADDRESS, 1)


def test_walk_error_is_failure_after_the_last_good_frame() -> None:
    assert judged(call(), call(), end=End.ERROR) == (Verdict.UNRELIABLE, Reason.BROKEN_CHAIN, 1)
    assert judged(end=End.ERROR) == (Verdict.UNRELIABLE, Reason.BROKEN_CHAIN, None)


def test_empty_walk_is_success() -> None:
    assert judged(end=End.EMPTY)[0] is Verdict.RELIABLE


@pytest.mark.parametrize(("entries", "ok"), [(98, True), (99, True), (100, False), (101, False)])
def test_the_hundredth_entry_fails(entries: int, ok: bool) -> None:
    steps = [call() for _ in range(entries)]
    got = judged(*steps, regs(True), end=End.USER_REGS)
    want = (
        (Verdict.RELIABLE, None, None)
        if ok
        else (Verdict.UNRELIABLE, Reason.TOO_MANY_ENTRIES, MAX_STACK_ENTRIES - 1)
    )
    assert got == want


def test_missing_memory_is_unknown_but_only_if_nothing_was_decided_below_it() -> None:
    assert judged(call(), end=End.NOT_IN_DUMP) == (Verdict.UNKNOWN, Reason.UNREADABLE, 0)
    assert judged(call(), regs(False), end=End.NOT_IN_DUMP)[0] is Verdict.UNRELIABLE
