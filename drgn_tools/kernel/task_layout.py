# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members of ``struct task_struct`` are, probed once for each kernel."""

from __future__ import annotations

from typing import Optional

import msgspec
from drgn import Program, TypeKind, offsetof, sizeof

from ..memory import UNUSABLE
from .probing import at_most

__all__ = ("TaskLayout", "probe_task_layout")

_MAX_TASK_BYTES = 1 << 20
"""It has some 7 KiB; a type that needs a larger read is damaged."""
_MAX_KTHREAD_BYTES = 1 << 16
"""It has some hundred bytes."""


class TaskLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the members of ``struct task_struct`` that we read are (offset, size in bytes)."""

    size_bytes: int
    """How much of the struct has to be read: up to the end of the last member below."""
    pid: tuple[int, int]
    tgid: tuple[int, int]
    comm: tuple[int, int]
    state: tuple[int, int]
    exit_state: tuple[int, int]
    flags: tuple[int, int]
    stack: tuple[int, int]
    thread_sp: tuple[int, int]
    thread_fp: Optional[tuple[int, int]]
    """``None`` where a sleeping task's frame pointer and pc are on its stack (x86)."""
    thread_pc: Optional[tuple[int, int]]
    tasks_next: tuple[int, int]
    tasks_prev: tuple[int, int]
    thread_node_next: tuple[int, int]
    thread_node_prev: tuple[int, int]
    signal: tuple[int, int]
    nvcsw: tuple[int, int]
    nivcsw: tuple[int, int]
    stack_refcount: Optional[tuple[int, int]]
    """``None`` without CONFIG_THREAD_INFO_IN_TASK: the stack then lives as long as the task."""
    cpu: Optional[tuple[int, int]]
    """``None`` on a kernel without CONFIG_SMP."""
    on_cpu: Optional[tuple[int, int]]
    """``None`` on a kernel without CONFIG_SMP."""
    patch_state: Optional[tuple[int, int]]
    """``None`` on a kernel without CONFIG_LIVEPATCH."""
    real_parent: Optional[tuple[int, int]]
    group_leader: Optional[tuple[int, int]]
    start_time: Optional[tuple[int, int]]
    kthread: Optional[tuple[int, int]]
    """Pointer to the ``struct kthread`` of a kernel thread; ``None`` if :attr:`kthread_full_name` is."""
    kthread_full_name: Optional[int]
    """``offsetof(struct kthread, full_name)``; ``None`` on a kernel that keeps no full names."""
    signal_thread_head: int
    """``offsetof(struct signal_struct, thread_head)``."""
    ones: int = 0
    """Bits that are set in the address of each task. A read ignores them, but an address without them is damaged."""


def probe_task_layout(
    prog: Program,
    stack_pointer: str,
    frame_pointer: Optional[str] = None,
    pc: Optional[str] = None,
    ones: int = 0,
) -> TaskLayout:
    """Return where the members of ``struct task_struct`` are.

    :param stack_pointer: Member that holds the stack pointer of a sleeping task (``thread.sp``)
    :param frame_pointer: Member that holds its frame pointer; ``None`` where that is on its stack
    :param pc: The same for the address at which the task goes on
    :param ones: As :attr:`TaskLayout.ones`
    :raises LookupError: if the type or one of its members is missing
    :raises ValueError: if it is larger than on any kernel
    """
    task = prog.type("struct task_struct")

    def field(designator: str) -> tuple[int, int]:
        type_ = task
        for name in designator.split("."):
            while type_.kind is TypeKind.TYPEDEF:
                type_ = type_.type
            type_ = type_.member(name).type
        return offsetof(task, designator), sizeof(type_)

    def optional(*designators: str) -> Optional[tuple[int, int]]:
        for designator in designators:
            try:
                return field(designator)
            except LookupError:
                continue
        return None

    # Since Linux kernel commit 2f064a59a11ff9bc22e52e9678bc601404c7cb34 ("sched:
    # Change task_struct::state") (in v5.14), the member is __state.
    state = optional("__state", "state")
    if state is None:
        raise LookupError("'struct task_struct' has no member '__state'")
    full_name = _kthread_full_name(prog)
    fields = {
        "pid": field("pid"),
        "tgid": field("tgid"),
        "comm": field("comm"),
        "state": state,
        "exit_state": field("exit_state"),
        "flags": field("flags"),
        "stack": field("stack"),
        "thread_sp": field(stack_pointer),
        "thread_fp": None if frame_pointer is None else field(frame_pointer),
        "thread_pc": None if pc is None else field(pc),
        "tasks_next": field("tasks.next"),
        "tasks_prev": field("tasks.prev"),
        "thread_node_next": field("thread_node.next"),
        "thread_node_prev": field("thread_node.prev"),
        "signal": field("signal"),
        "nvcsw": field("nvcsw"),
        "nivcsw": field("nivcsw"),
        "stack_refcount": optional("stack_refcount"),
        # Since Linux kernel commit bcf9033e5449bdcaa9bed46467a7141a8049dadb
        # ("sched: move CPU field back into thread_info if
        # THREAD_INFO_IN_TASK=y") (in v5.16), cpu is in struct thread_info.
        "cpu": optional("cpu", "thread_info.cpu"),
        "on_cpu": optional("on_cpu"),
        "patch_state": optional("patch_state"),
        "real_parent": optional("real_parent"),
        "group_leader": optional("group_leader"),
        "start_time": optional("start_time"),
        # Since Linux kernel commit e32cf5dfbe227b355776948b2c9b5691b84d1cbd
        # ("kthread: Generalize pf_io_worker so it can point to struct
        # kthread") (in v5.17), to_kthread() takes worker_private.
        "kthread": None if full_name is None else optional("worker_private", "set_child_tid"),
    }
    size_bytes = max(offset + size for offset, size in filter(None, fields.values()))
    return TaskLayout(
        size_bytes=at_most(size_bytes, _MAX_TASK_BYTES, "struct task_struct"),
        signal_thread_head=offsetof(prog.type("struct signal_struct"), "thread_head"),
        kthread_full_name=full_name,
        ones=ones,
        **fields,  # type: ignore[arg-type]  # the mandatory ones are not None
    )


def _kthread_full_name(prog: Program) -> Optional[int]:
    # Since Linux kernel commit d6986ce24fc00b0638bd29efe8fb7ba7619ed2aa ("kthread:
    # dynamically allocate memory to store kthread's full name") (in v5.17).
    try:
        return at_most(
            offsetof(prog.type("struct kthread"), "full_name"), _MAX_KTHREAD_BYTES, "struct kthread"
        )
    except UNUSABLE:  # no stack depends on full names
        return None
