# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records everything hands on: what was found of a kernel, its tasks, their stacks.

Frozen :class:`msgspec.Struct` records without a drgn object inside. So they outlive the
program they came from, pickle, compare and print. ``msgspec.structs.replace()`` makes
a copy with other values. Text in them is what the dump says (``comm`` may hold
terminal escapes); renderers escape it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Optional

import msgspec

from .drawn import Drawn

if TYPE_CHECKING:
    from drgn import Object, Program

__all__ = (
    "KERNEL_WIDE",
    "Frame",
    "KernelAudit",
    "KernelInfo",
    "Reason",
    "SavedRegs",
    "Symbol",
    "TaskStack",
    "Verdict",
)


class Verdict(str, enum.Enum):
    """Can this stack be trusted? Three answers, never two."""

    RELIABLE = "reliable"
    """``stack_trace_save_tsk_reliable()`` would succeed on this task."""
    UNRELIABLE = "unreliable"
    """It would fail with -EINVAL; :attr:`TaskStack.reason` says why."""
    UNKNOWN = "unknown"
    """We could not look, or this kernel gives no answer of this kind."""

    def __str__(self) -> str:
        return self.value


class Reason(str, enum.Enum):
    """Why a stack is unreliable or unknown. The list is closed; it only ever grows."""

    KERNEL_MODE_REGS = "kernel_mode_regs"
    """Unreliable: ``pt_regs`` of kernel mode lie on the stack (preempted, or a fault in the kernel)."""
    BAD_RETURN_ADDRESS = "bad_return_address"
    """Unreliable: a return address is not kernel text."""
    BROKEN_CHAIN = "broken_chain"
    """Unreliable: a frame pointer leads off the stack, downward, or into the frame below."""
    TOO_MANY_ENTRIES = "too_many_entries"
    """Unreliable: the stack fills the 100 entries live patching has (99 can be used)."""
    RUNNING = "running"
    """Unknown: the task is on a CPU; the kernel answers -EBUSY."""
    UNREADABLE = "unreadable"
    """Unknown: memory that the walk needs is not in the dump."""
    TEXT_UNCLEAR = "text_unclear"
    """Unknown: a return address may be kernel text, but the lists that would tell are damaged."""
    END_UNCLEAR = "end_unclear"
    """Unknown: a user task's stack ends without user registers; before v5.8 kernels differ in that."""
    CHANGED = "changed"
    """Unknown: the task ran while it was read, each time it was tried (a running kernel)."""
    NOT_ENCODED = "not_encoded"
    """Unknown: this kernel's unwinder is not the frame-pointer one with encoded ``pt_regs``."""
    NO_RELIABLE_STACKTRACE = "no_reliable_stacktrace"
    """Unknown: frame pointers, but a kernel built without reliable stack traces."""
    ENCODING_UNCLEAR = "encoding_unclear"
    """Unknown: the entry code could not be read, or holds more than one encoding."""

    def __str__(self) -> str:
        return self.value


KERNEL_WIDE = frozenset(
    (Reason.NOT_ENCODED, Reason.NO_RELIABLE_STACKTRACE, Reason.ENCODING_UNCLEAR)
)
"""Reasons that all tasks of a kernel share: the sentence need be said only once."""


class Symbol(msgspec.Struct, frozen=True, weakref=True):
    """What an address is called. ``str()`` is ``name+0xoffset``, as ``%pS`` prints it."""

    name: str
    """Name in the symbol table: ``vfs_read``."""
    offset: int
    """Of the address from the start of the symbol, in bytes; also for a return address."""
    module: Optional[str] = None
    """Name of the module; ``None`` for the kernel image and for BPF programs."""

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}"


class Frame(msgspec.Struct, frozen=True, weakref=True):
    """One entry of a stack, in the order the kernel's unwinder visits them (innermost first)."""

    ip: int
    """Address: of a ``call`` frame the return address; of a ``pt_regs`` its exact ip."""
    symbol: Optional[Symbol] = None
    """Symbol of the call or the interrupted instruction, offset of :attr:`ip` itself; ``None`` if there is none."""
    stack: str = "task"
    """Which stack the frame lies on."""
    regs: Optional[int] = None
    """Address of the ``struct pt_regs`` that this frame is, ``None`` for a ``call`` frame."""
    user_mode: bool = False
    """The ``pt_regs`` were saved in user mode; :attr:`ip` is then a user address."""

    @property
    def module(self) -> Optional[str]:
        """Name of the module that holds :attr:`ip`; ``None`` for the kernel image, or without a symbol."""
        return None if self.symbol is None else self.symbol.module

    def __repr__(self) -> str:
        name = "user mode" if self.user_mode else self.symbol or "no symbol"
        module = f" [{self.module}]" if self.module else ""
        regs = "" if self.regs is None else f" pt_regs={self.regs:#x}"
        return f"<Frame {self.ip:#x} {name}{module}{regs}>"


class SavedRegs(msgspec.Struct, frozen=True, weakref=True):
    """One ``struct pt_regs`` found on a stack."""

    address: int
    """Where it lies (virtual address)."""
    entry: Optional[str]
    """What entered the kernel: ``"syscall"``, ``"page fault"``, ``"timer interrupt"`` ...; ``None`` if not known."""
    user_mode: bool
    """The CPU was in user mode: ``user_mode()`` of asm/ptrace.h."""
    registers: Mapping[str, int]
    """Register values by the kernel's names (``r15`` ... ``ss``), in the order they lie in memory."""
    symbol: Optional[Symbol] = None
    """Symbol of ``ip``; ``None`` for user mode or unknown code."""
    caller: Optional[Frame] = None
    """Who called the interrupted function, where the walk has skipped it: the function had no frame of its
    own just there. By the code of the function; where that leaves it open, the word at the saved stack pointer
    if it returns from a call of this function, which is a guess. Never one of :attr:`TaskStack.frames`."""

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
        """The same as a drgn object: the ``struct pt_regs`` at :attr:`address`."""
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
    """One letter as in ps(1): R S D T t X Z P I; ``?`` if unreadable."""
    cpu: int
    """CPU that the task last ran on."""
    on_cpu: bool
    """The task is running: it is its CPU's current task."""
    kthread: bool
    """PF_KTHREAD is set."""
    verdict: Verdict
    """Whether the stack can be trusted."""
    reason: Optional[Reason] = None
    """Why not; ``None`` for a reliable stack."""
    why: Optional[str] = None
    """The reason as a sentence for people, naming the place; ``None`` for a reliable stack."""
    brief: Optional[str] = None
    """:attr:`why` in a few words, for a table: ``preempted in vfs_read``."""
    reason_frame: Optional[int] = None
    """Index in :attr:`frames` where the verdict fell, if it fell on a frame."""
    flags: tuple[str, ...] = ()
    """Oddities that do not change the verdict, such as ``crashed``, ``empty_walk``, ``idle``, ``never_run``."""
    frames: tuple[Frame, ...] = ()
    """The stack, innermost first; last, the user-mode ``pt_regs`` where there is one."""
    regs: tuple[SavedRegs, ...] = ()
    """Every ``pt_regs`` met on the way, in stack order."""
    cpu_registers: Optional[Mapping[str, int]] = None
    """Of a task on a CPU, what the dump has of that CPU (NT_PRSTATUS), by the kernel's names: where
    :attr:`frames` begin. ``None`` for others, and on a live kernel."""
    cpu_caller: Optional[Frame] = None
    """As :attr:`SavedRegs.caller`, for :attr:`cpu_registers`: who called the function that the CPU was in."""
    arch: str = "x86_64"
    """As :attr:`KernelInfo.arch`: how wide addresses are, and how registers are drawn."""

    def __repr__(self) -> str:
        # A list of them is read at a prompt; str() is the whole stack.
        answer = self.verdict.value if self.why is None else f"{self.verdict.value}: {self.why}"
        return f"<TaskStack pid={self.pid} comm={self.comm!r} {answer}>"

    def __hash__(self) -> int:  # a mapping has no hash
        return hash((self.task, self.pid, self.verdict, self.frames))


class KernelInfo(msgspec.Struct, frozen=True, weakref=True):
    """Which kernel, and how its stacks are to be read."""

    source: str
    """Path of the core, ``live`` or ``qemu``."""
    release: str
    """``uname -r`` of the kernel."""
    build_id: Optional[str]
    """GNU build ID in hex, ``None`` when the dump does not say."""
    arch: str
    """``x86_64`` or ``i386``."""
    unwinder: Optional[str]
    """``frame_pointer``, ``orc`` or ``guess``; ``None`` if it cannot be told."""
    encoding: Optional[str]
    """``lsb``, ``msb``, or ``None`` where frame pointers are not encoded."""
    reliable_stacktrace: bool
    """The kernel was built with reliable stack traces (what live patching needs)."""
    types: str
    """Where types came from: ``btf`` or ``dwarf``."""
    cpus: int
    """Number of CPUs that are online, or were when the machine panicked."""
    notes: tuple[str, ...] = ()
    """What a reader must know of this kernel before believing a verdict; said once, on stderr."""
    last_words: tuple[str, ...] = ()
    """Of a kernel that crashed, the headlines of its last oops and panic(), from its log (v5.10 and later)."""


class KernelAudit(msgspec.Struct, frozen=True, weakref=True):
    """One kernel, every task of it."""

    kernel: KernelInfo
    """The kernel."""
    tasks: tuple[TaskStack, ...]
    """Tasks in the order of the task list, the idle tasks last."""
    problems: tuple[str, ...] = ()
    """What could not be looked at, a sentence each (a damaged task list ...); empty when all was."""

    def __repr__(self) -> str:
        return f"<KernelAudit {self.kernel.source!r} {self.kernel.release} {len(self.tasks)} tasks>"

    def __iter__(self) -> Iterator[TaskStack]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class _DocWithFields:
    """Makes ``help()`` show the docstrings under the fields, which Python itself drops.

    They are read from the source when somebody asks, not at import.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, instance: object, owner: type) -> str:
        import ast
        import inspect

        try:
            tree = ast.parse(inspect.getsource(owner))
        except (OSError, SyntaxError):  # no source: frozen or zipped
            return self._text
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
        return "\n".join((self._text, "", *lines))


for _record in (Symbol, Frame, SavedRegs, TaskStack, KernelInfo, KernelAudit):
    _record.__doc__ = _DocWithFields(_record.__doc__ or "")  # type: ignore[assignment]
