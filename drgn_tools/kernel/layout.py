# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where ``struct task_struct`` has what we read, and how a kernel is probed.

From types and symbols alone: versions are never compared, because distributions
backport. What differs between kernels is named here with the commit that
changed it. What depends on the machine is in arch/.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

import msgspec
from drgn import Program, TypeKind, offsetof, sizeof

from ..debuginfo.kallsyms import kallsyms_of
from ..errors import TypesError
from ..memory import UNUSABLE

__all__ = ("TaskLayout", "at_most", "probe_task_layout", "probing", "symbol_address")

_MAX_TASK_BYTES = 1 << 20
"""It is some 7 KiB; more than this in a bulk read is a damaged type."""


class TaskLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the members of ``struct task_struct`` lie that we read (offset, size in bytes)."""

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
    signal_thread_head: int
    """``offsetof(struct signal_struct, thread_head)``."""


def symbol_address(prog: Program, name: str) -> Optional[int]:
    """Address of the symbol *name* in the kernel image, ``None`` if there is none.

    The dump's own kallsyms come first, so that answers do not depend on whether
    debuginfo was given.
    """
    kallsyms = kallsyms_of(prog)
    if kallsyms is not None:
        addresses = kallsyms.find(name)
        return addresses[0] if addresses else None
    try:
        return int(prog.symbol(name).address)
    except LookupError:
        return None


@contextmanager
def probing(prog: Program) -> Iterator[None]:
    """Types are looked at in here: those of a damaged dump may be anything.

    :raises TypesError: instead of :data:`..memory.UNUSABLE`.
    """
    try:
        yield
    except TypesError:
        raise
    except UNUSABLE as e:
        raise TypesError(
            f"{prog.core_dump_path or 'kernel'}: its type information lacks what a stack needs,"
            f" or is damaged ({e}); give the vmlinux of this kernel with -s"
        ) from e


def probe_task_layout(prog: Program, stack_pointer: str) -> TaskLayout:
    """Return where the members of ``struct task_struct`` lie.

    :param stack_pointer: Member that holds the stack pointer of a sleeping task (``thread.sp``)
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
    fields = {
        "pid": field("pid"),
        "tgid": field("tgid"),
        "comm": field("comm"),
        "state": state,
        "exit_state": field("exit_state"),
        "flags": field("flags"),
        "stack": field("stack"),
        "thread_sp": field(stack_pointer),
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
    }
    size_bytes = max(offset + size for offset, size in filter(None, fields.values()))
    return TaskLayout(
        size_bytes=at_most(size_bytes, _MAX_TASK_BYTES, "struct task_struct"),
        signal_thread_head=offsetof(prog.type("struct signal_struct"), "thread_head"),
        **fields,  # type: ignore[arg-type]  # the mandatory ones are not None
    )


def at_most(value: int, limit: int, what: str) -> int:
    """Return *value*, an offset or size in bytes that a type of the dump decides.

    :raises ValueError: if it is above *limit*
    """
    if value > limit:
        raise ValueError(f"{what} cannot have {value} bytes")
    return value
