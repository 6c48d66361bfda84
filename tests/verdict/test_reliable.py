# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict on finished walks is what the kernel would answer."""

from __future__ import annotations

from typing import Optional

import pytest
from msgspec.structs import astuple

from drgn_tools.records import Reason, Verdict
from drgn_tools.unwind.base import End, Step, Walk
from drgn_tools.verdict.reliable import MAX_STACK_ENTRIES, Judgement, judge

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


def test_damaged_unwind_data_are_unknown_after_the_last_good_frame() -> None:
    got = judged(call(), call(), end=End.UNWIND_DATA_UNCLEAR)
    assert got == (Verdict.UNKNOWN, Reason.UNWIND_DATA_UNCLEAR, 1)


def test_text_that_cannot_be_told_is_unknown_at_that_frame() -> None:
    def is_text(ip: int) -> Optional[bool]:
        return True if ip in TEXT else None  # the list of modules is damaged

    walk = Walk((call(), call(0xBAD), call(0xBAD)), End.LAST_FRAME)
    assert judge(walk, is_text, True) == Judgement(Verdict.UNKNOWN, Reason.TEXT_UNCLEAR, 1)


@pytest.mark.parametrize("answer", [None, False, True])
def test_address_0_is_never_text_whatever_lists_are_damaged(answer: Optional[bool]) -> None:
    # Recovery gives 0 for a rewritten return address whose original is not found.
    walk = Walk((call(0), call()), End.LAST_FRAME)
    got = judge(walk, lambda ip: answer if ip == 0 else True, True)
    assert got == Judgement(Verdict.UNRELIABLE, Reason.BAD_RETURN_ADDRESS, 0)


def test_kernel_regs_are_an_entry_like_any_other_without_frame_pointers() -> None:
    def judge_orc(*steps: Step) -> Judgement:
        return judge(Walk(steps, End.USER_REGS), TEXT.__contains__, False)

    assert judge_orc(call(), regs(False), regs(True)) == Judgement(Verdict.RELIABLE)
    assert judge_orc(call(), regs(False, ip=0xBAD), regs(True)) == Judgement(
        Verdict.UNRELIABLE, Reason.BAD_RETURN_ADDRESS, 1
    )


def test_the_end_without_user_regs_is_unclear_where_they_may_be_needed() -> None:
    def judge_old(*steps: Step, end: End) -> Judgement:
        return judge(Walk(steps, end), TEXT.__contains__, True, needs_user_regs=True)

    unclear = Reason.END_UNCLEAR
    assert judge_old(call(), call(), end=End.LAST_FRAME) == Judgement(Verdict.UNKNOWN, unclear, 1)
    assert judge_old(end=End.EMPTY) == Judgement(Verdict.UNKNOWN, unclear, None)
    assert judge_old(call(), regs(True), end=End.USER_REGS) == Judgement(Verdict.RELIABLE)
    # What was decided on the way there stays so.
    assert judge_old(call(0xBAD), end=End.LAST_FRAME).reason is Reason.BAD_RETURN_ADDRESS
    assert judge_old(call(), end=End.ERROR).reason is Reason.BROKEN_CHAIN
    assert judge_old(call(), end=End.NOT_IN_DUMP).reason is Reason.UNREADABLE
