# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every offset, size and address needed of one kernel, probed once.

From types and symbols alone: versions are never compared, because distributions
backport. What differs between kernels is named here with the commit that
changed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Optional

from drgn import Architecture, FaultError, Program, SymbolBinding, TypeKind, offsetof, sizeof

from ..arch.x86.encoding import PROBE_SYMBOLS, Detection, Encoding, detect_encoding
from ..arch.x86.pt_regs import PtRegsLayout, probe_pt_regs
from ..debuginfo.kallsyms import kallsyms_of
from ..errors import InputError, TypesError
from ..memory import UNUSABLE

__all__ = (
    "Layout",
    "TaskLayout",
    "Unwinder",
    "layout_of",
    "probing",
    "symbol_address",
)

Unwinder = Literal["frame_pointer", "orc", "guess"]
"""CONFIG_UNWINDER_FRAME_POINTER, _ORC or _GUESS."""

_MAX_STUB_BYTES = 4096
"""Entry stubs are a few hundred bytes; a damaged symbol table may claim anything."""

_MAX_THREAD_SIZE_BYTES = 64 * 1024
"""16 KiB, and KASAN_STACK_ORDER of up to 2 (asm/page_64_types.h)."""
_MAX_TASK_BYTES = 1 << 20
"""It is some 7 KiB; more than this in a bulk read is a damaged type."""
_MAX_INACTIVE_FRAME_BYTES = 64
"""Eight words at most (asm/switch_to.h)."""


@dataclass(frozen=True)
class TaskLayout:
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


@dataclass(frozen=True)
class Layout:
    """One kernel, as far as its stacks are concerned."""

    arch: str
    """``x86_64`` or ``i386``."""
    word_bytes: int
    page_bytes: int
    thread_size_bytes: int
    """THREAD_SIZE."""
    top_padding_bytes: int
    """TOP_OF_KERNEL_STACK_PADDING."""
    frame_bp_offset: int
    """``offsetof(struct inactive_task_frame, bp)``."""
    regs: PtRegsLayout
    task: TaskLayout
    unwinder: Optional[Unwinder]
    """Which unwinder the kernel was built with; ``None`` if that cannot be told."""
    detection: Detection
    """What the entry code says of the encoding."""
    may_need_user_regs: bool
    """Up to v5.7 a reliable walk of a user task had to end at user-mode registers; some stable
    kernels dropped that, and nothing in a dump tells which."""
    reliable_stacktrace: bool
    """CONFIG_HAVE_RELIABLE_STACKTRACE."""
    fork_return_addrs: frozenset[int]
    """Addresses of ``ret_from_fork_asm`` and ``ret_from_fork``: where a new task begins."""

    @property
    def encoding(self) -> Encoding:
        """The form of ENCODE_FRAME_POINTER."""
        return self.detection.encoding


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


def layout_of(prog: Program) -> Layout:
    """Probe *prog* once; the result is kept in ``prog.cache``.

    :raises InputError: not an x86 kernel.
    :raises TypesError: a type that everything rests on is missing or damaged.
    """
    try:
        cached: Layout = prog.cache["drgn_tools.kernel.layout"]
    except KeyError:
        cached = prog.cache["drgn_tools.kernel.layout"] = _probe(prog)
    return cached


def _probe(prog: Program) -> Layout:
    if prog.platform is None or prog.platform.arch not in (
        Architecture.X86_64,
        Architecture.I386,
    ):
        arch = prog.platform.arch.name.lower() if prog.platform else "unknown"
        raise InputError(
            f"{prog.core_dump_path or 'kernel'}: its architecture is {arch};"
            " encoded frame pointers exist on x86_64 and i386 only"
        )
    with probing(prog):
        regs = probe_pt_regs(prog)
        return Layout(
            arch=prog.platform.arch.name.lower(),
            word_bytes=regs.word_bytes,
            page_bytes=prog["PAGE_SIZE"].value_(),
            thread_size_bytes=_thread_size(prog, regs.word_bytes, prog["PAGE_SIZE"].value_()),
            top_padding_bytes=_top_padding(prog, regs),
            frame_bp_offset=_at_most(
                offsetof(prog.type("struct inactive_task_frame"), "bp"),
                _MAX_INACTIVE_FRAME_BYTES,
                "struct inactive_task_frame",
            ),
            regs=regs,
            task=_task_layout(prog),
            unwinder=_unwinder(prog),
            detection=detect_encoding(_entry_code(prog), regs.word_bytes),
            may_need_user_regs=_may_need_user_regs(prog),
            reliable_stacktrace=_has_reliable_stacktrace(prog),
            fork_return_addrs=frozenset(
                addr
                for name in ("ret_from_fork_asm", "ret_from_fork")
                if (addr := symbol_address(prog, name)) is not None
            ),
        )


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


def _task_layout(prog: Program) -> TaskLayout:
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
        "thread_sp": field("thread.sp"),
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
        size_bytes=_at_most(size_bytes, _MAX_TASK_BYTES, "struct task_struct"),
        signal_thread_head=offsetof(prog.type("struct signal_struct"), "thread_head"),
        **fields,  # type: ignore[arg-type]  # the mandatory ones are not None
    )


def _at_most(value: int, limit: int, what: str) -> int:
    if value > limit:
        raise ValueError(f"{what} cannot have {value} bytes")
    return value


def _thread_size(prog: Program, word_bytes: int, page_bytes: int) -> int:
    """THREAD_SIZE: a power of two, from one page to 64 KiB (asm/page_{32,64}_types.h).

    :raises LookupError: nothing tells it.
    :raises ValueError: it makes no sense, or two sources differ. A wrong size would
        move the end of every stack, and no walk would notice.
    """
    found = set(_thread_sizes(prog, word_bytes))
    if not found:
        raise LookupError("no type or symbol tells THREAD_SIZE")
    size_bytes = min(found)
    if len(found) > 1 or size_bytes & (size_bytes - 1):
        raise ValueError(f"THREAD_SIZE cannot be {' and '.join(map(str, sorted(found)))}")
    if not page_bytes <= size_bytes <= _MAX_THREAD_SIZE_BYTES:
        raise ValueError(f"THREAD_SIZE cannot be {size_bytes}")
    return size_bytes


def _thread_sizes(prog: Program, word_bytes: int) -> Iterator[int]:
    # union thread_union says it, but is in no BTF.
    with suppress(LookupError):
        yield sizeof(prog.type("union thread_union"))
    # Since Linux kernel commit e6401c130931 ("x86/irq/64: Split the IRQ stack into
    # its own pages") (in v5.2), struct irq_stack has IRQ_STACK_SIZE bytes, which
    # is THREAD_SIZE on x86-64 (asm/page_64_types.h).
    if word_bytes == 8:
        with suppress(LookupError):
            yield sizeof(prog.type("struct irq_stack"))
    for begin, end in (
        ("__start_init_stack", "__end_init_stack"),
        ("__start_init_task", "__end_init_task"),
    ):
        begin_addr, end_addr = symbol_address(prog, begin), symbol_address(prog, end)
        if begin_addr is not None and end_addr is not None and end_addr > begin_addr:
            yield end_addr - begin_addr


def _top_padding(prog: Program, regs: PtRegsLayout) -> int:
    """TOP_OF_KERNEL_STACK_PADDING in asm/thread_info.h."""
    if regs.word_bytes == 4:
        return 16 if prog.type("struct thread_struct").has_member("vm86") else 8
    # Since Linux kernel commit 65c9cc9e2c14602d98f1ca61c51ac954e9529303 ("x86/fred:
    # Reserve space for the FRED stack frame") (in v6.9), 16 bytes with
    # CONFIG_X86_FRED=y, whether or not the CPU has it.
    return 0 if symbol_address(prog, "asm_fred_entrypoint_user") is None else 16


def _unwinder(prog: Program) -> Optional[Unwinder]:
    """Which of arch/x86/kernel/unwind_{frame,orc,guess}.c was built.

    ``struct unwind_state`` in asm/unwind.h has members of its own for each.
    """
    try:
        state = prog.type("struct unwind_state")
    except LookupError:
        return None
    if not state.has_member("sp"):
        return "frame_pointer"  # bp, orig_sp, ...
    if state.has_member("bp"):
        return "orc"  # sp, bp, ip, signal ...
    return "guess"


def _entry_code(prog: Program) -> dict[str, bytes]:
    code = {}
    kallsyms = kallsyms_of(prog)
    for name in PROBE_SYMBOLS:
        addr = symbol_address(prog, name)
        if addr is None:
            continue
        if kallsyms is not None:
            found = kallsyms.at(addr)
            size_bytes = found[2] if found else 0
        else:
            size_bytes = prog.symbol(addr).size
        try:
            code[name] = prog.read(addr, min(size_bytes, _MAX_STUB_BYTES))
        except FaultError:
            code[name] = b""
    return code


def _has_reliable_stacktrace(prog: Program) -> bool:
    # kernel/stacktrace.c has stack_trace_save_tsk_reliable() only with
    # CONFIG_HAVE_RELIABLE_STACKTRACE. Up to v5.1 the function was
    # save_stack_trace_tsk_reliable(), and without that option a weak one that
    # always fails took its place.
    if symbol_address(prog, "stack_trace_save_tsk_reliable") is not None:
        return True
    try:
        return prog.symbol("save_stack_trace_tsk_reliable").binding is not SymbolBinding.WEAK
    except LookupError:
        return False


def _may_need_user_regs(prog: Program) -> bool:
    # asm_exc_page_fault came with v5.8, as did the end of that rule.
    return symbol_address(prog, "asm_exc_page_fault") is None
