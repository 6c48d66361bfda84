# SPDX-License-Identifier: LGPL-2.1-or-later
"""The audit of a real dump, whole and damaged.

Damage is added to a program that was just opened: a memory segment hides an earlier one of drgn.
The dump itself is not changed.
"""

from __future__ import annotations

import gc
import os
import pickle
import weakref
from typing import Callable

import drgn
import pytest

from drgn_tools import (
    InputError,
    KernelAudit,
    Reason,
    TaskNotFoundError,
    TaskStack,
    UsageError,
    Verdict,
    audit_kernel,
    crashed_stack,
    declare,
    hung_tasks,
    kernel_info,
    livepatch_answers,
    open_program,
    raw_stack,
    task_stack,
    task_stacks,
)
from drgn_tools.analysis.audit import AuditUnderWay, audit_under_way
from drgn_tools.arch.registry import layout_of
from drgn_tools.unwind.fast_path import FastPath

from ..support.overlay import exclude, overlay

PAGE = 4096


@pytest.fixture(scope="module")
def whole(demo_program: drgn.Program) -> KernelAudit:
    return audit_kernel(demo_program)


@pytest.fixture
def prog(demo_core: str) -> drgn.Program:
    """Return a new program, which the test may damage."""
    return open_program(core=demo_core)


def named(audit: KernelAudit, comm: str) -> TaskStack:
    return next(s for s in audit if s.comm == comm)


def pointer(addr: int) -> bytes:
    return addr.to_bytes(8, "little")


# ---- whole


def test_nothing_of_a_whole_dump_is_unreadable(whole: KernelAudit) -> None:
    assert whole.problems == ()
    assert not [s for s in whole if s.reason is Reason.UNREADABLE]


def test_kernel_is_described(whole: KernelAudit) -> None:
    kernel = whole.kernel
    assert (kernel.unwinder, kernel.encoding, kernel.arch) == ("frame_pointer", "lsb", "x86_64")
    assert kernel.reliable_stacktrace
    assert kernel.types == "btf"
    assert kernel.release.startswith("6.12.")
    assert kernel.cpus == 2
    assert kernel.notes == ()


def test_every_task_is_there_once(whole: KernelAudit, prog: drgn.Program) -> None:
    from drgn.helpers.linux.pid import for_each_task

    ours = [s.task for s in whole]
    assert len(set(ours)) == len(ours)
    assert set(ours) == {t.value_() for t in for_each_task(prog, idle=True)}


@pytest.mark.parametrize("comm", ["w-kfault-read", "w-kfault-write"])
def test_sleeper_in_a_kernel_mode_page_fault_is_unreliable_there(
    whole: KernelAudit, comm: str
) -> None:
    s = named(whole, comm)
    assert (s.verdict, s.reason) == (Verdict.UNRELIABLE, Reason.KERNEL_MODE_REGS)
    assert s.reason_frame is not None
    at = s.frames[s.reason_frame]
    assert at.regs is not None
    assert s.why == f"page fault in {at.symbol}"
    saved = next(r for r in s.regs if r.address == at.regs)
    assert (saved.entry, saved.user_mode, saved["ip"]) == ("page fault", False, at.ip)
    assert s.frames[-1].user_mode
    assert s.regs[-1].entry == "syscall"


def test_sleeper_in_a_user_mode_page_fault_is_reliable(whole: KernelAudit) -> None:
    s = named(whole, "w-ufault-store")
    assert s.verdict is Verdict.RELIABLE
    assert [r.entry for r in s.regs] == ["page fault"]


def test_zombie_without_a_stack_is_reliably_empty(whole: KernelAudit) -> None:
    s = next(s for s in whole if s.state == "Z")
    assert (s.verdict, s.frames, s.flags) == (Verdict.RELIABLE, (), ("no_stack",))


def test_symbols_follow_the_rule_for_return_addresses(whole: KernelAudit) -> None:
    s = named(whole, "w-nanosleep")
    names = [f.symbol.name for f in s.frames if f.symbol]
    assert names[:2] == ["__schedule", "schedule"]
    assert names[-1] == "entry_SYSCALL_64_after_hwframe"


def test_saved_registers_are_also_a_drgn_object(
    whole: KernelAudit, demo_program: drgn.Program
) -> None:
    for s in whole:
        for saved in s.regs:
            regs = saved.object(demo_program)
            assert {name: regs.member_(name).value_() for name in saved.registers} == dict(
                saved.registers
            )


def test_a_list_of_records_is_short_at_a_prompt(whole: KernelAudit) -> None:
    s = named(whole, "w-kfault-read")
    assert repr(s) == f"<TaskStack pid={s.pid} comm='w-kfault-read' unreliable: {s.why}>"
    assert repr(whole).endswith(f" {len(whole)} tasks>")


# ---- one task


def test_a_task_is_found_by_pid_address_object_and_thread(
    whole: KernelAudit, demo_program: drgn.Program
) -> None:
    want = named(whole, "w-epoll")
    task = drgn.Object(demo_program, "struct task_struct", address=want.task)
    for which in (
        want.pid,
        want.task,
        task,
        task.address_of_(),
        demo_program.thread(want.pid),
    ):
        assert task_stack(demo_program, which) == want


def test_pid_0_is_the_idle_task_of_the_boot_cpu(demo_program: drgn.Program) -> None:
    s = task_stack(demo_program, 0)
    assert (s.pid, s.comm, s.flags) == (0, "swapper/0", ("idle", "init_text"))


@pytest.mark.parametrize("which", [4194303, 0xFFFF_0000_0000_0000, 1 << 70])
def test_no_such_task_is_an_error_that_says_so(demo_program: drgn.Program, which: int) -> None:
    with pytest.raises(TaskNotFoundError, match="no task"):
        task_stack(demo_program, which)


@pytest.mark.parametrize("which", ["51", 1.5, None, True])
def test_what_is_no_task_is_a_usage_error(demo_program: drgn.Program, which: object) -> None:
    with pytest.raises(UsageError):
        task_stack(demo_program, which)  # type: ignore[arg-type]


def test_null_is_no_task_and_not_pid_0(demo_program: drgn.Program) -> None:
    # drgn's find_task() returns it for a PID that does not exist.
    for type_name in ("struct task_struct *", "void *"):
        with pytest.raises(TaskNotFoundError, match="0x0"):
            task_stack(demo_program, drgn.Object(demo_program, type_name, 0))
    with pytest.raises(TaskNotFoundError, match="0x0"):
        task_stack(demo_program, drgn.Object(demo_program, "struct task_struct", address=0))


def test_an_object_of_another_type_is_no_task(demo_program: drgn.Program) -> None:
    task = task_stack(demo_program, 1).task
    for wrong in (
        drgn.Object(demo_program, "struct mm_struct *", 1),
        drgn.Object(demo_program, "struct list_head *", task),
        drgn.Object(demo_program, "struct list_head", address=task),
    ):
        with pytest.raises(UsageError, match="neither a PID nor a task"):
            task_stack(demo_program, wrong)
    for right in (
        drgn.Object(demo_program, "void *", task),
        drgn.Object(demo_program, "pid_t", 1),
        drgn.Object(demo_program, "unsigned long", task),
    ):
        assert task_stack(demo_program, right).pid == 1


def test_a_task_of_another_program_is_refused(
    demo_program: drgn.Program, prog: drgn.Program
) -> None:
    # The same address may be a task here, too: two dumps of a kernel without KASLR.
    task = drgn.Object(prog, "struct task_struct *", task_stack(prog, 1).task)
    for other in (task, task[0], prog.thread(1)):
        with pytest.raises(UsageError, match="another program"):
            task_stack(demo_program, other)


def of_this_process() -> drgn.Program:
    prog = drgn.Program()
    prog.set_pid(os.getpid())
    return prog


@pytest.mark.parametrize(
    "ask",
    [
        lambda prog: list(task_stacks(prog)),
        lambda prog: task_stack(prog, 1),
        audit_kernel,
        kernel_info,
        crashed_stack,
        hung_tasks,
        livepatch_answers,
        lambda prog: raw_stack(prog, 1),
        lambda prog: declare(prog, "int x"),
    ],
)
def test_a_program_that_is_no_kernel_is_called_so(ask: Callable[[drgn.Program], object]) -> None:
    for prog in (drgn.Program(), drgn.Program(drgn.host_platform)):
        with pytest.raises(
            InputError, match=r"^no kernel was opened in this program: open_program"
        ):
            ask(prog)
    with pytest.raises(
        InputError, match=r"^a running process: is not the memory of a Linux kernel$"
    ):
        ask(of_this_process())


# ---- damaged


def same_but(
    whole: KernelAudit, audit: KernelAudit, changed: Callable[[TaskStack], bool]
) -> list[TaskStack]:
    """Return the records for which *changed* is true. Check that all others are those of the whole dump."""
    by_task = {s.task: s for s in audit}
    for s in whole:
        if not changed(s):
            assert by_task[s.task] == s
    return [s for s in audit if changed(s)]


def test_stack_that_is_not_in_the_dump_is_unknown_and_the_rest_judged(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    victim = named(whole, "w-poll")
    size = layout_of(prog).thread_size_bytes
    stack = drgn.Object(prog, "struct task_struct", address=victim.task).stack.value_()
    exclude(prog, stack, size)
    (s,) = same_but(whole, audit_kernel(prog), lambda s: s.task == victim.task)
    assert (s.verdict, s.reason, s.frames) == (Verdict.UNKNOWN, Reason.UNREADABLE, ())
    assert s.why is not None
    assert "not in the dump" in s.why


def task_field(prog: drgn.Program, task: int, designator: str) -> int:
    return task + drgn.offsetof(prog.type("struct task_struct"), designator)


def leaders(whole: KernelAudit) -> list[TaskStack]:
    return [s for s in whole if s.pid == s.tgid and s.pid]


def test_task_list_bent_into_a_loop_is_walked_from_its_other_end(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    processes = leaders(whole)
    early, middle = processes[2], processes[len(processes) // 2]
    overlay(
        prog,
        task_field(prog, middle.task, "tasks.next"),
        pointer(task_field(prog, early.task, "tasks")),
    )
    audit = audit_kernel(prog)
    assert {s.task for s in audit} == {s.task for s in whole}
    assert len(audit.problems) == 1
    assert "task list is damaged" in audit.problems[0]


@pytest.mark.parametrize("where", [0, 8, 0xDEAD_BEEF_0000, 0xFFFF_FFFF_FFFF_FFF8])
def test_task_list_pointing_nowhere_is_walked_from_its_other_end(
    whole: KernelAudit, prog: drgn.Program, where: int
) -> None:
    middle = leaders(whole)[10]
    overlay(prog, task_field(prog, middle.task, "tasks.next"), pointer(where))
    audit = audit_kernel(prog)
    assert {s.task for s in audit} == {s.task for s in whole}
    assert audit.problems


def test_task_list_pointing_at_something_else_invents_no_task(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    middle = leaders(whole)[10]
    other = drgn.Object(prog, "struct task_struct", address=middle.task).stack.value_()
    overlay(prog, task_field(prog, middle.task, "tasks.next"), pointer(other + 8192))
    audit = audit_kernel(prog)
    assert {s.task for s in audit} <= {s.task for s in whole}
    assert audit.problems


def test_task_struct_that_is_not_in_the_dump_is_a_problem_and_the_rest_judged(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    victim = leaders(whole)[10]
    assert len([s for s in whole if s.tgid == victim.tgid]) == 1
    exclude(prog, victim.task, layout_of(prog).task.size_bytes)
    audit = audit_kernel(prog)
    assert {s.task for s in whole} - {s.task for s in audit} == {victim.task}
    assert audit.problems


def test_thread_list_bent_into_a_loop_ends_and_says_so(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    threads = [s for s in whole if s.comm.startswith("w-") and s.pid != s.tgid]
    assert len(threads) >= 3
    overlay(
        prog,
        task_field(prog, threads[2].task, "thread_node.next"),
        pointer(task_field(prog, threads[0].task, "thread_node")),
    )
    audit = audit_kernel(prog)
    assert any("thread list of process" in p for p in audit.problems)
    assert {s.task for s in audit} <= {s.task for s in whole}


def test_stack_pointer_that_is_nonsense_is_the_kernels_empty_walk(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    victim = named(whole, "w-pipe-read")
    overlay(prog, task_field(prog, victim.task, "thread.sp"), pointer(0x1234))
    s = task_stack(prog, victim.pid)
    # Bug for bug: the kernel calls this reliable. The flag tells the reader.
    assert (s.verdict, s.frames, s.flags) == (Verdict.RELIABLE, (), ("empty_walk",))


def test_current_task_that_is_just_being_switched_is_running_without_frames(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    victim = next(s for s in whole if s.reason is Reason.RUNNING and s.frames)
    overlay(prog, task_field(prog, victim.task, "on_cpu"), bytes(4))
    s = next(s for s in audit_kernel(prog) if s.task == victim.task)
    assert (s.verdict, s.reason, s.frames) == (Verdict.UNKNOWN, Reason.RUNNING, ())


def test_smashed_return_address_is_not_kernel_text(whole: KernelAudit, prog: drgn.Program) -> None:
    victim = named(whole, "w-futex")
    task = drgn.Object(prog, "struct task_struct", address=victim.task)
    ret_addr = task.thread.sp.value_() + drgn.offsetof(
        prog.type("struct inactive_task_frame"), "ret_addr"
    )
    overlay(prog, ret_addr, pointer(0x4141_4141_4141_4141))
    s = task_stack(prog, victim.pid)
    assert (s.verdict, s.reason, s.reason_frame) == (
        Verdict.UNRELIABLE,
        Reason.BAD_RETURN_ADDRESS,
        0,
    )
    assert s.frames[0].symbol is None
    # What could still be walked is still shown.
    assert s.frames[1:] == victim.frames[1:]


def test_entry_code_that_is_not_in_the_dump_leaves_every_verdict_unknown(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    from drgn_tools.arch.x86.encoding import PROBE_SYMBOLS
    from drgn_tools.kernel.probing import symbol_address

    for name in PROBE_SYMBOLS:
        addr = symbol_address(prog, name)
        if addr is not None:
            exclude(prog, addr, 1)
    audit = audit_kernel(prog)
    verdicts = {s.reason for s in audit if s.reason is not Reason.RUNNING and not s.flags}
    assert verdicts == {Reason.ENCODING_UNCLEAR}
    assert audit.kernel.notes
    assert len(audit) == len(whole)


def test_generator_gives_the_same_records(whole: KernelAudit, demo_program: drgn.Program) -> None:
    assert tuple(task_stacks(demo_program)) == whole.tasks


# ---- what many tasks cost


def test_records_that_share_a_story_are_those_of_a_walk_each(
    whole: KernelAudit, demo_program: drgn.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len({id(s.frames) for s in whole}) < len(whole)
    monkeypatch.setattr(FastPath, "signature", lambda *_: None)
    one_by_one = audit_kernel(demo_program)
    assert one_by_one == whole
    assert repr(one_by_one.tasks) == repr(whole.tasks)
    assert pickle.loads(pickle.dumps(whole)) == one_by_one


def test_an_audit_under_way_gives_the_same_and_keeps_no_record(
    whole: KernelAudit, demo_program: drgn.Program
) -> None:
    audit = audit_under_way(demo_program)
    assert isinstance(audit, AuditUnderWay)
    assert audit.kernel == whole.kernel
    kept: list[weakref.ref[TaskStack]] = []
    gc.disable()  # what lives on in a cycle would wait for it
    try:
        for theirs, ours in zip(whole, audit):
            assert ours == theirs
            assert all(ref() is None for ref in kept)
            kept.append(weakref.ref(ours))
            del ours
    finally:
        gc.enable()
    assert len(kept) == len(whole)


def test_an_audit_under_way_knows_its_problems_at_the_end(
    whole: KernelAudit, prog: drgn.Program
) -> None:
    overlay(prog, task_field(prog, leaders(whole)[10].task, "tasks.next"), pointer(0))
    audit = audit_under_way(prog, max_tasks=20)
    problems = audit.problems
    assert problems == []
    assert len(list(audit)) == 20
    assert list(problems) == ["there are more than the 20 tasks that were read"]
    audit = audit_under_way(prog)
    assert len(list(audit)) == len(whole)
    assert "the task list is damaged" in audit.problems[0]


def test_nothing_of_a_program_outlives_it(demo_core: str) -> None:
    class Marker:
        pass

    prog = open_program(core=demo_core)
    prog.cache["marker"] = marker = Marker()
    gone = weakref.ref(marker)
    audit = audit_kernel(prog)
    next(iter(task_stacks(prog)))
    del prog, marker
    gc.collect()
    assert gone() is None
    assert len(audit) > 100
