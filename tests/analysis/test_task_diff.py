# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two snapshots of tasks made by hand: which task is which, and what has changed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from drgn_tools.analysis.snapshot import snapshot_of
from drgn_tools.analysis.task_diff import ChangeKind, TaskChange, diff_tasks, is_same_task
from drgn_tools.errors import UsageError
from drgn_tools.records import Frame, KernelAudit, KernelInfo, Reason, TaskStack, Verdict

from ..support.fabricated import KERNEL, symbol, task

DO_WAIT = Frame(0xFFFF_FFFF_8100_0010, symbol("do_wait+0x10"))
DO_POLL = Frame(0xFFFF_FFFF_8100_0090, symbol("do_poll+0x10"))
READ = Frame(0xFFFF_FFFF_8100_0100, symbol("vfs_read+0x8f"))
WRITE = Frame(0xFFFF_FFFF_8100_0200, symbol("vfs_write+0x8f"))
ENTRY = Frame(0xFFFF_FFFF_8100_0300, symbol("do_syscall_64+0x93"))
IN_READ = (DO_WAIT, READ, ENTRY)


def one(pid: int = 5, **fields: Any) -> TaskStack:
    values = {"frames": IN_READ, "start_time_ns": 1000 * pid, "switches": 7, **fields}
    return task(pid, **values)


KTHREADS = tuple(one(pid, comm="kthreadd", kthread=True) for pid in (2, 3, 4))


def audit(*tasks: TaskStack, kernel: KernelInfo = KERNEL) -> KernelAudit:
    return KernelAudit(kernel, (*KTHREADS, *tasks))


def change(before: TaskStack, after: TaskStack) -> TaskChange:
    diff = diff_tasks(audit(before), audit(after))
    assert diff.same_boot
    assert len(diff.changes) == len(KTHREADS) + 1
    return diff.changes[-1]


@pytest.mark.parametrize("no_snapshot", ["tasks.json", 1, [], None])
def test_what_is_no_snapshot_is_a_usage_error(no_snapshot: object) -> None:
    for pair in ((no_snapshot, audit()), (audit(), no_snapshot)):
        with pytest.raises(
            UsageError, match=r"saved_snapshot\(path\) reads a snapshot from a file"
        ):
            diff_tasks(*pair)  # type: ignore[arg-type]


# ---- one boot


@pytest.mark.parametrize(
    ("later", "kind", "what"),
    [
        ({}, "still", ()),
        ({"comm": "renamed"}, "still", ()),
        ({"cpu": 0, "switches": 9}, "still", ()),
        ({"state": "D"}, "changed", ("state",)),
        ({"frames": (DO_POLL, READ, ENTRY)}, "changed", ("stack", "wait")),
        ({"frames": (DO_WAIT, WRITE, ENTRY)}, "changed", ("stack",)),
        (
            {"verdict": Verdict.UNRELIABLE, "reason": Reason.BROKEN_CHAIN},
            "changed",
            ("verdict",),
        ),
        # A kernel that gives no verdicts has not changed this one.
        ({"verdict": Verdict.UNKNOWN, "reason": Reason.NOT_ENCODED}, "still", ()),
        # On a CPU of a running kernel: no stack, no verdict.
        (
            {
                "frames": (),
                "on_cpu": True,
                "verdict": Verdict.UNKNOWN,
                "reason": Reason.RUNNING,
            },
            "unclear",
            (),
        ),
        # Its stack was freed: that is known, not unclear.
        ({"frames": (), "state": "Z"}, "changed", ("stack", "state", "wait")),
    ],
)
def test_what_became_of_a_task(later: dict[str, Any], kind: str, what: tuple[str, ...]) -> None:
    found = change(one(), one(**later))
    assert (found.kind.value, found.what) == (kind, what)


@pytest.mark.parametrize(
    ("later", "ran"),
    [
        ({}, False),
        ({"switches": 8}, True),
        ({"switches": None}, None),
        ({"on_cpu": True}, None),  # it runs
    ],
)
def test_a_task_ran_if_it_has_left_its_cpu(later: dict[str, Any], ran: object) -> None:
    assert change(one(), one(**later)).ran is ran


def test_a_task_that_did_not_run_is_in_the_stack_that_one_look_has() -> None:
    nothing_read = {"frames": (), "verdict": Verdict.UNKNOWN, "reason": Reason.UNREADABLE}
    assert change(one(), one(**nothing_read)).what == ("verdict",)
    unread = one(**nothing_read)
    assert change(unread, unread).kind is ChangeKind.STILL
    assert change(unread, replace(unread, switches=8)).kind is ChangeKind.UNCLEAR


def test_stacks_part_at_the_outermost_frame_that_differs() -> None:
    found = change(one(), one(frames=(DO_POLL, WRITE, ENTRY)))
    assert found.parting == (READ, WRITE)
    assert change(one(), one(frames=(READ, ENTRY))).parting == (DO_WAIT, None)
    assert change(one(), one(state="D")).parting is None


def test_a_pid_that_was_given_to_a_new_task_is_one_that_went_and_one_that_came() -> None:
    # The new task lies where the old one lay; only its fork was later.
    diff = diff_tasks(audit(one()), audit(one(start_time_ns=999_999)))
    assert [c.kind.value for c in diff.changes] == ["still"] * 3 + ["came", "went"]


@pytest.mark.parametrize(
    ("later", "same"),
    [
        ({"comm": "renamed"}, True),
        ({"start_time_ns": 1}, False),
        ({"start_time_ns": None}, True),
        ({"start_time_ns": None, "comm": "renamed"}, False),
        ({"task": 0xFF11_0000_0000_0000}, False),
    ],
)
def test_identity_is_pid_address_and_time_of_the_fork(later: dict[str, Any], same: bool) -> None:
    assert is_same_task(one(), one(**later)) is same


def test_idle_tasks_share_their_pid() -> None:
    idle = [one(0, comm=f"swapper/{cpu}", task=0xFF11_0000_0000_0000 + cpu) for cpu in (0, 1)]
    diff = diff_tasks(audit(*idle), audit(*reversed(idle)))
    assert {c.kind for c in diff.changes} == {ChangeKind.STILL}


# ---- which boot


BOOT_A = replace(KERNEL, boot_id="01234567-89ab-cdef-0123-456789abcdef")
BOOT_B = replace(KERNEL, boot_id="f1234567-89ab-cdef-0123-456789abcdef")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (BOOT_A, BOOT_A, True),
        (BOOT_A, BOOT_B, False),
        (BOOT_A, KERNEL, True),  # nothing had asked for it yet: the kernel threads say so
        (KERNEL, replace(KERNEL, build_id="0" * 40), False),
        (KERNEL, replace(KERNEL, build_id=None), True),
        (KERNEL, replace(KERNEL, release="6.1.0"), False),
    ],
)
def test_a_boot_is_known_by_its_id(first: KernelInfo, second: KernelInfo, same: bool) -> None:
    assert diff_tasks(audit(kernel=first), audit(kernel=second)).same_boot is same


def test_without_an_id_a_boot_is_known_by_its_kernel_threads() -> None:
    other = tuple(replace(one, start_time_ns=1, task=one.task + 64) for one in KTHREADS)
    user = one()
    assert not diff_tasks(audit(user), KernelAudit(KERNEL, (*other, user))).same_boot
    # One was restarted.
    assert diff_tasks(audit(), KernelAudit(KERNEL, (*KTHREADS[:2], other[2]))).same_boot


def test_looks_at_some_user_tasks_know_their_boot_too() -> None:
    first, later = KernelAudit(KERNEL, (one(),)), KernelAudit(KERNEL, (one(state="D"),))
    assert diff_tasks(first, later).same_boot
    assert not diff_tasks(KernelAudit(KERNEL, ()), KernelAudit(KERNEL, ())).same_boot


# ---- two boots


def two_boots(
    before: list[TaskStack], after: list[TaskStack], kernel: KernelInfo = BOOT_B
) -> list[tuple[str, int, int]]:
    diff = diff_tasks(KernelAudit(BOOT_A, tuple(before)), KernelAudit(kernel, tuple(after)))
    assert not diff.same_boot
    assert all(c.ran is None for c in diff.changes)
    return [
        (c.kind.value, c.before.task.pid if c.before else 0, c.after.task.pid if c.after else 0)
        for c in diff.changes
    ]


def test_tasks_of_two_boots_are_matched_by_name_and_stack() -> None:
    in_write = (DO_WAIT, WRITE, ENTRY)
    assert two_boots(
        [one(5), one(6, frames=in_write), one(7, comm="gone")],
        # In another order, with another PID.
        [one(106, frames=in_write), one(105), one(108, comm="new")],
    ) == [("still", 6, 106), ("still", 5, 105), ("came", 0, 108), ("went", 7, 0)]


def test_what_no_stack_matches_is_matched_by_name() -> None:
    assert two_boots([one(5), one(6), one(7)], [one(105, frames=(DO_POLL, ENTRY)), one(106)]) == [
        ("changed", 6, 105),
        ("still", 5, 106),
        ("went", 7, 0),
    ]


def test_another_build_has_other_offsets() -> None:
    moved = tuple(
        replace(frame, ip=frame.ip + 64, symbol=replace(frame.symbol, offset=1))
        for frame in IN_READ
    )
    other_build = replace(BOOT_B, build_id="0" * 40)
    assert two_boots([one(5)], [one(105, frames=moved)], other_build) == [("still", 5, 105)]
    assert two_boots([one(5)], [one(105, frames=moved)]) == [("changed", 5, 105)]


def test_an_audit_and_a_look_of_it_are_the_same() -> None:
    whole = audit(one())
    assert diff_tasks(snapshot_of(KERNEL, whole), whole) == diff_tasks(whole, whole)
