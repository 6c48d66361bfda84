# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records of drgn-tools: a kernel, its tasks and their stacks.

They are frozen :class:`msgspec.Struct` records without drgn objects. So they can be pickled,
compared and printed, and stay valid after their program is gone. ``msgspec.structs.replace()``
returns a copy with other values. Text is as it is in the dump (``comm`` may contain terminal
escape sequences); renderers escape it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Optional, SupportsIndex

import msgspec

from .drawn import Drawn, InNotebook

if TYPE_CHECKING:
    from drgn import Object, Program

__all__ = (
    "KERNEL_WIDE",
    "Frame",
    "KernelAudit",
    "KernelInfo",
    "Reason",
    "SavedRegs",
    "SourceLine",
    "Symbol",
    "TaskStack",
    "Verdict",
)


class Verdict(str, enum.Enum):
    """Can this stack be trusted? There are three answers; ``unknown`` is neither of the others."""

    RELIABLE = "reliable"
    """``stack_trace_save_tsk_reliable()`` would succeed for this task."""
    UNRELIABLE = "unreliable"
    """It would fail with -EINVAL; :attr:`TaskStack.reason` is the reason."""
    UNKNOWN = "unknown"
    """The stack could not be read, or this kernel gives no such answer."""

    def __str__(self) -> str:
        return self.value


class Reason(str, enum.Enum):
    """Why a stack is unreliable or unknown. Later versions may add reasons, but remove none."""

    KERNEL_MODE_REGS = "kernel_mode_regs"
    """Unreliable: ``pt_regs`` saved in kernel mode are on the stack (preempted, or a fault in the kernel)."""
    BAD_RETURN_ADDRESS = "bad_return_address"
    """Unreliable: a return address is not kernel text."""
    BROKEN_CHAIN = "broken_chain"
    """Unreliable: a frame pointer leads off the stack, downward, or into the frame below."""
    NO_UNWIND_DATA = "no_unwind_data"
    """Unreliable: no ORC table has a rule for a return address. The frames above it are guessed."""
    UNDEFINED_UNWIND_STATE = "undefined_unwind_state"
    """Unreliable: the ORC rule of a return address says that the stack is undefined there."""
    REGISTER_NOT_SAVED = "register_not_saved"
    """Unreliable: an ORC rule needs a register that is not on the stack."""
    OFF_STACK = "off_stack"
    """Unreliable: an ORC rule leads off the stack."""
    WRONG_DIRECTION = "wrong_direction"
    """Unreliable: an ORC rule leads down the stack."""
    TOO_MANY_ENTRIES = "too_many_entries"
    """Unreliable: the stack fills the 100 entries of live patching (it can use 99)."""
    BAD_FRAME_RECORD = "bad_frame_record"
    """Unreliable: a frame record that should lead to a ``pt_regs`` or end the stack does neither (arm64)."""
    ADDRESS_NOT_RECOVERED = "address_not_recovered"
    """Unreliable: a tracer has rewritten a return address, and the original address is not found (arm64)."""
    UNWIND_DATA_UNCLEAR = "unwind_data_unclear"
    """Unknown: the ORC tables that the walk needs, or the lists that lead to them, are damaged."""
    RUNNING = "running"
    """Unknown: the task is on a CPU; the kernel answers -EBUSY."""
    UNREADABLE = "unreadable"
    """Unknown: memory that the walk needs is not in the dump."""
    TEXT_UNCLEAR = "text_unclear"
    """Unknown: a return address may be kernel text, but the lists needed to decide it are damaged."""
    END_UNCLEAR = "end_unclear"
    """Unknown: a user task's stack ends without user registers; some kernels before v5.8 call that unreliable, some do not."""
    CHANGED = "changed"
    """Unknown: the task ran each time it was read (on a running kernel)."""
    NOT_ENCODED = "not_encoded"
    """Unknown: this kernel has neither encoded frame pointers nor the ORC unwinder."""
    NO_RELIABLE_STACKTRACE = "no_reliable_stacktrace"
    """Unknown: the kernel has frame pointers, but was built without reliable stack traces (x86-32, older arm64 kernels,
    x86-64 without CONFIG_STACK_VALIDATION)."""
    ENCODING_UNCLEAR = "encoding_unclear"
    """Unknown: the entry code could not be read, or has more than one encoding."""
    ORC_UNCLEAR = "orc_unclear"
    """Unknown: the ORC tables of this kernel cannot be found, or have an unknown form."""

    def __str__(self) -> str:
        return self.value


KERNEL_WIDE = frozenset(
    (
        Reason.NOT_ENCODED,
        Reason.NO_RELIABLE_STACKTRACE,
        Reason.ENCODING_UNCLEAR,
        Reason.ORC_UNCLEAR,
    )
)
"""Reasons that all tasks of a kernel share, so that their sentence is shown only once."""


class Symbol(msgspec.Struct, frozen=True, weakref=True):
    """The symbol of an address, and the offset in it. ``str()`` is ``name+0xoffset``, as ``%pS`` prints it."""

    name: str
    """Name in the symbol table: ``vfs_read``."""
    offset: int
    """Offset of the address itself from the start of the symbol, in bytes; also for a return address."""
    module: Optional[str] = None
    """Name of the module; ``None`` for the kernel image and for BPF programs."""

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}"


class SourceLine(msgspec.Struct, frozen=True, weakref=True):
    """Where an address is in the source. ``str()`` is ``vfs_read at fs/read_write.c:567``."""

    function: Optional[str]
    """Name of the function, or of the inlined function; ``None`` if DWARF does not have it."""
    file: str
    """Path of the file, as DWARF has it; for kernels usually relative to the source tree."""
    line: int
    """Number of the line, from 1; 0 if DWARF does not have it."""
    column: int = 0
    """Number of the column, from 1; 0 if DWARF does not have it."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return where if self.function is None else f"{self.function} at {where}"


class Frame(msgspec.Struct, frozen=True, weakref=True):
    """One entry of a stack, in the order the kernel's unwinder visits them (innermost first)."""

    ip: int
    """Virtual address: the return address of a call, or the exact ip of a ``pt_regs``."""
    symbol: Optional[Symbol] = None
    """Symbol of the call or of the interrupted instruction, with the offset of :attr:`ip` itself; ``None`` if there is none."""
    stack: str = "task"
    """Stack that the frame is on: ``task``, ``irq``, ``nmi``, ``#df`` ...; ``unknown`` if it cannot be determined."""
    regs: Optional[int] = None
    """Address of the ``struct pt_regs``, if this frame is one; ``None`` for a call."""
    user_mode: bool = False
    """Whether this is a ``pt_regs`` saved in user mode; :attr:`ip` is then a user address."""
    exact: bool = False
    """:attr:`ip` is the address of the next instruction, as in a ``pt_regs``, not a return address."""
    guessed: bool = False
    """The unwinder found this frame after an error. The kernel shows such a frame in an oops, but does not trust it."""
    source: tuple[SourceLine, ...] = ()
    """Source lines of :attr:`ip`: the functions that were inlined there, innermost first, and last the function
    itself. Empty unless :func:`.with_source_lines` has found them in DWARF."""

    @property
    def module(self) -> Optional[str]:
        """Name of the module that contains :attr:`ip`; ``None`` for the kernel image, or without a symbol."""
        return None if self.symbol is None else self.symbol.module

    def __repr__(self) -> str:
        name = "user mode" if self.user_mode else self.symbol or "no symbol"
        module = f" [{self.module}]" if self.module else ""
        regs = "" if self.regs is None else f" pt_regs={self.regs:#x}"
        return f"<Frame {self.ip:#x} {name}{module}{regs}>"


class SavedRegs(msgspec.Struct, frozen=True, weakref=True):
    """One ``struct pt_regs`` found on a stack."""

    address: int
    """Virtual address of the ``struct pt_regs``."""
    entry: Optional[str]
    """What entered the kernel: ``"syscall"``, ``"page fault"``, ``"timer interrupt"`` ...; ``None`` if not known."""
    user_mode: bool
    """Whether the CPU was in user mode: ``user_mode()`` of asm/ptrace.h."""
    registers: Mapping[str, int]
    """Register values by the kernel's names (``r15`` ... ``ss``, ``x0`` ... ``syscallno``), in memory order. Only ip to ss
    if entry code was interrupted before it saved the others."""
    symbol: Optional[Symbol] = None
    """Symbol of ``ip``; ``None`` for user mode or unknown code."""
    caller: Optional[Frame] = None
    """Caller of the interrupted function, if the walk skipped it because the function had no frame at
    that point. The machine code of the function shows where the return address is. If the code is ambiguous, the
    caller is a guess: the word at the saved stack pointer (lr on arm64), if it returns from a call of this function
    (from any call, if ip is not code). The caller is never one of :attr:`TaskStack.frames`."""

    @property
    def module(self) -> Optional[str]:
        """Module of ``ip``; ``None`` for the kernel image, or without a symbol."""
        return None if self.symbol is None else self.symbol.module

    def __getitem__(self, name: str) -> int:
        return self.registers[name]

    def __hash__(self) -> int:  # a mapping has no hash
        return hash((self.address, self.entry, self.user_mode, self.symbol))

    def __repr__(self) -> str:
        mode = "user" if self.user_mode else "kernel"
        return f"<SavedRegs {self.address:#x} {self.entry or 'unknown entry'} from {mode} mode>"

    def object(self, prog: Program) -> Object:
        """Return the ``struct pt_regs`` at :attr:`address` as a drgn object.

        :param prog: Program that the record was made from.
        """
        from drgn import Object

        return Object(prog, "struct pt_regs", address=self.address)


class TaskStack(Drawn, msgspec.Struct, frozen=True, weakref=True):
    """A task, its stack, and whether the stack can be trusted."""

    task: int
    """Address of the ``struct task_struct``."""
    pid: int
    """Thread ID in the initial PID namespace (the kernel's ``pid``); 0 for idle tasks."""
    tgid: int
    """Process ID (thread group)."""
    comm: str
    """Name of the task, undecodable bytes as ``\\xNN``; not escaped for a terminal."""
    state: str
    """One letter, as in ps(1): R S D T t X Z P I."""
    cpu: int
    """CPU that the task last ran on."""
    on_cpu: bool
    """Whether the task is running: it is the current task of its CPU."""
    kthread: bool
    """Whether PF_KTHREAD is set."""
    verdict: Verdict
    """Whether the stack can be trusted."""
    reason: Optional[Reason] = None
    """Why it cannot be trusted; ``None`` for a reliable stack."""
    why: Optional[str] = None
    """The reason as a sentence that names the function or address; ``None`` for a reliable stack."""
    brief: Optional[str] = None
    """:attr:`why` in a few words, for a table: ``preempted in vfs_read``."""
    reason_frame: Optional[int] = None
    """Index in :attr:`frames` of the frame that decided the verdict; ``None`` if no frame did."""
    flags: tuple[str, ...] = ()
    """Marks of unusual tasks, such as ``crashed``, ``empty_walk``, ``idle``, ``never_run``; they do not change the verdict."""
    frames: tuple[Frame, ...] = ()
    """The stack, innermost frame first; the last is the user-mode ``pt_regs``, if there is one."""
    regs: tuple[SavedRegs, ...] = ()
    """Every ``pt_regs`` that the walk found, innermost first."""
    cpu_registers: Optional[Mapping[str, int]] = None
    """For a task on a CPU, the registers of that CPU in the dump (NT_PRSTATUS), by the kernel's names. The first of
    :attr:`frames` is at their ip. ``None`` for other tasks, and on a live kernel."""
    cpu_caller: Optional[Frame] = None
    """Like :attr:`SavedRegs.caller`, for the function at :attr:`cpu_registers`."""
    arch: str = "x86_64"
    """As :attr:`KernelInfo.arch`; it decides the width of addresses and how registers are drawn."""
    patch_state: Optional[int] = None
    """``task->patch_state`` of live patching, read together with the stack: -1 without a transition, 0 for the old
    version of the functions, 1 for the new. ``None`` on a kernel without live patching."""
    full_name: Optional[str] = None
    """Name of a kernel thread that is longer than :attr:`comm` can hold; ``None`` for any other task, and on kernels
    before v5.17, which do not keep it."""
    process: Optional[str] = None
    """Name of the process: ``comm`` of its first thread, the leader of the thread group. ``None`` if it cannot be read."""
    ppid: Optional[int] = None
    """Process ID of the parent; ``None`` if it cannot be read."""
    start_time_ns: Optional[int] = None
    """``task->start_time``: when the task was forked, in ns since the boot, excluding time in suspend (CLOCK_MONOTONIC)."""
    switches: Optional[int] = None
    """``nvcsw + nivcsw``: how often the task has left its CPU. If it is on no CPU in two snapshots, and both have the
    same number, it did not run in between."""

    @property
    def name(self) -> str:
        """:attr:`full_name` if there is one, else :attr:`comm`."""
        return self.full_name or self.comm

    def __repr__(self) -> str:
        # Short, for lists of records at a prompt; str() is the whole stack.
        answer = self.verdict.value if self.why is None else f"{self.verdict.value}: {self.why}"
        return f"<TaskStack pid={self.pid} comm={self.comm!r} {answer}>"

    def __hash__(self) -> int:  # a mapping has no hash
        return hash((self.task, self.pid, self.verdict, self.frames))


class KernelInfo(msgspec.Struct, frozen=True, weakref=True):
    """Which kernel it is, and how its stacks are read."""

    source: str
    """Path of the core, ``live`` or ``qemu``."""
    release: str
    """``uname -r`` of the kernel."""
    build_id: Optional[str]
    """GNU build ID in hex; ``None`` if the dump does not have it."""
    arch: str
    """``x86_64``, ``i386`` or ``aarch64``."""
    unwinder: Optional[str]
    """``frame_pointer``, ``orc`` or ``guess`` on x86, ``arm64`` on arm64; ``None`` if it cannot be determined."""
    encoding: Optional[str]
    """``lsb`` (lowest bit set), ``msb`` (highest bit cleared), or ``None`` if frame pointers are not encoded."""
    reliable_stacktrace: bool
    """Whether the kernel was built with reliable stack traces, which live patching needs."""
    types: str
    """Where types came from: ``btf`` or ``dwarf``."""
    cpus: int
    """Number of CPUs that are online, or were online when the machine panicked; without those whose run queue cannot
    be read."""
    notes: tuple[str, ...] = ()
    """What to know about this kernel before trusting a verdict; commands print it once, to stderr."""
    last_words: tuple[str, ...] = ()
    """Crash log: if the kernel crashed, the headlines of its last oops and panic(), from its log (v5.10 and later)."""
    host: Optional[str] = None
    """Name of the machine, ``uname -n``; ``None`` if it cannot be read or was never set."""
    uptime_s: Optional[int] = None
    """Seconds since the boot, including time in suspend, as uptime(1) shows them; ``None`` if they cannot be read."""
    boot_id: Optional[str] = None
    """UUID of this boot, as in ``/proc/sys/kernel/random/boot_id``; ``None`` if nothing has asked for it
    (systemd does) or it cannot be read."""


class KernelAudit(InNotebook, msgspec.Struct, frozen=True, weakref=True):
    """A kernel and all its tasks."""

    kernel: KernelInfo
    """The kernel that was audited."""
    tasks: tuple[TaskStack, ...]
    """All tasks, in the order of the task list; the idle tasks are last."""
    problems: tuple[str, ...] = ()
    """What could not be read (such as a damaged task list), a sentence each; empty if the audit is complete."""

    def __repr__(self) -> str:
        return f"<KernelAudit {self.kernel.source!r} {self.kernel.release} {len(self.tasks)} tasks>"

    def __iter__(self) -> Iterator[TaskStack]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class _DocWithFields(str):
    """Docstring of a record that includes the docstrings of its fields, which Python itself drops.

    They are read from the source when the docstring is read, not at import.
    """

    _record: type

    @classmethod
    def of(cls, record: type) -> _DocWithFields:
        doc = cls(record.__doc__ or "")
        doc._record = record
        return doc

    def __get__(self, instance: object, owner: type) -> str:
        return self._with_fields()

    def expandtabs(self, tabsize: SupportsIndex = 8) -> str:
        # help() reads the docstring from the class without __get__(), and calls this method first.
        return self._with_fields().expandtabs(tabsize)

    def _with_fields(self) -> str:
        import ast
        import inspect

        try:
            tree = ast.parse(inspect.getsource(self._record))
        except (OSError, SyntaxError):  # no source: frozen or zipped
            return str(self)
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        lines = []
        for node, after in zip(body, body[1:]):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                lines.append(f"{node.target.id}: {inspect.cleandoc(str(after.value.value))}")
        return "\n".join((str(self), "", *lines))


for _record in (Symbol, SourceLine, Frame, SavedRegs, TaskStack, KernelInfo, KernelAudit):
    _record.__doc__ = _DocWithFields.of(_record)
