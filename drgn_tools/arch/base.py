# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface of an architecture: the Arch, and the layout of one kernel on it.

An architecture is a folder beside this file, with one :class:`Arch` for each word size, and a
line in :mod:`.registry`. What differs between architectures is behind these classes: other
packages do not look at the size of a word to find out which machine it is.
"""

from __future__ import annotations

import abc
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Callable, ClassVar, Literal, Optional

import msgspec
from drgn import Program

from ..kernel.stack_memory import FindStack
from ..kernel.task_layout import TaskLayout
from ..kernel.tasks import Task
from ..kernel.text import TextRange

__all__ = ("Arch", "Layout", "Registers", "RegsLayout", "Unwinder")

Unwinder = Literal["frame_pointer", "orc", "guess", "arm64"]
"""CONFIG_UNWINDER_FRAME_POINTER, _ORC or _GUESS of x86. arm64 kernels have one unwinder."""


class Registers(Mapping[str, int]):
    """Values of registers by name. A value is decoded when it is used.

    The registers of most tasks are never used. This mapping equals a dict of its values and has
    the same ``repr()``. A copy or a pickle of it is a dict.

    :param raw: Memory of the registers, little-endian
    :param places: Name of each register -> its bytes in *raw*
    """

    __slots__ = ("_places", "_raw")

    def __init__(self, raw: bytes, places: Mapping[str, slice]) -> None:
        self._raw = raw
        self._places = places

    def __getitem__(self, name: str) -> int:
        return int.from_bytes(self._raw[self._places[name]], "little")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def items(self) -> ItemsView[str, int]:
        """Return name and value of each register."""
        return self._dict().items()

    def __repr__(self) -> str:
        return repr(self._dict())

    def __reduce__(self) -> tuple[type[dict[str, int]], tuple[dict[str, int]]]:
        return dict, (self._dict(),)

    def _dict(self) -> dict[str, int]:
        from_bytes, raw = int.from_bytes, self._raw
        return {name: from_bytes(raw[place], "little") for name, place in self._places.items()}


class RegsLayout(msgspec.Struct, frozen=True, dict=True):
    """Where the registers are in ``struct pt_regs``."""

    word_bytes: int
    """Size of a stack word in bytes."""
    size_bytes: int
    """``sizeof(struct pt_regs)``."""
    fields: tuple[tuple[str, int, int], ...]
    """(the kernel's name, offset in bytes, size in bytes), in memory order."""
    ip_name: ClassVar[str] = "ip"
    """The kernel's name of the instruction pointer."""
    syscall_name: ClassVar[str] = "orig_ax"
    """The kernel's name of the member that holds the number of a system call."""

    @property
    def names(self) -> tuple[str, ...]:
        """The kernel's names of the registers, in memory order."""
        return tuple(name for name, _, _ in self.fields)

    @cached_property
    def ip_offset(self) -> int:
        """Offset of the instruction pointer in ``struct pt_regs``."""
        return self._offset(self.ip_name)

    @cached_property
    def bp_offset(self) -> int:
        """``offsetof(struct pt_regs, bp)``."""
        return self._offset("bp")

    @cached_property
    def sp_offset(self) -> int:
        """``offsetof(struct pt_regs, sp)``."""
        return self._offset("sp")

    def _offset(self, wanted: str) -> int:
        return next(offset for name, offset, _ in self.fields if name == wanted)

    def signed(self, name: str, value: int) -> int:
        """Return a value as a signed number.

        :param name: The kernel's name of the register that holds it
        """
        bits = 8 * next(size for field, _, size in self.fields if field == name)
        return value - (value >> (bits - 1) << bits)

    @cached_property
    def _places(self) -> dict[str, slice]:
        return {name: slice(offset, offset + size) for name, offset, size in self.fields}

    def read(self, raw: bytes) -> Registers:
        """Return register values by name.

        :param raw: The :attr:`size_bytes` bytes of one ``struct pt_regs``; or only the last of
            them, if entry code was interrupted that had not saved the rest yet. The registers
            that it had not saved are left out.
        """
        if len(raw) == self.size_bytes:
            return Registers(raw, self._places)
        missing = self.size_bytes - len(raw)
        return Registers(
            raw,
            {
                name: slice(offset - missing, offset - missing + size)
                for name, offset, size in self.fields
                if offset >= missing
            },
        )

    @property
    def kernel_mode_bytes(self) -> int:
        """How much of a ``struct pt_regs`` entry code saves in kernel mode, in bytes."""
        return self.size_bytes

    def saved_bytes(self, raw: bytes) -> int:
        """Return how much of a ``struct pt_regs`` entry code has saved, in bytes.

        :param raw: At least the first :attr:`kernel_mode_bytes` bytes of it
        """
        return self.size_bytes

    def interrupted_sp(self, address: int, registers: Mapping[str, int]) -> int:
        """Return the stack pointer of the code that was interrupted: kernel_stack_pointer().

        :param address: Virtual address of the ``struct pt_regs``
        :param registers: What :meth:`read` returned
        """
        return registers["sp"]

    def stack_pointer(self, registers: Mapping[str, int]) -> Optional[int]:
        """Return the stack pointer of the code whose registers were saved; ``None`` if it was not saved.

        :param registers: Values by the kernel's names
        """
        return registers.get("sp")

    def user_mode(self, registers: Mapping[str, int]) -> bool:
        """Return whether registers were saved in user mode.

        :param registers: Values by the kernel's names
        """
        raise NotImplementedError

    def saved_in_user_mode(self, raw: bytes) -> bool:
        """Return :meth:`user_mode` of the registers in memory.

        :param raw: As for :meth:`read`
        """
        return self.user_mode(self.read(raw))

    def is_syscall(self, registers: Mapping[str, int]) -> bool:
        """Return whether a system call saved these user-mode registers.

        :param registers: Values by the kernel's names
        """
        raise NotImplementedError


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel, as far as its stacks are concerned. Each architecture has a subclass with more fields."""

    arch: Arch
    """The architecture."""
    page_bytes: int
    """PAGE_SIZE."""
    thread_size_bytes: int
    """THREAD_SIZE."""
    first_frame_offset: int
    """From the saved stack pointer of a sleeping task to its first frame, in bytes."""
    regs: RegsLayout
    """Layout of ``struct pt_regs``."""
    task: TaskLayout
    """Where the members of ``struct task_struct`` are."""
    unwinder: Optional[Unwinder]
    """The unwinder that the kernel was built with; ``None`` if the dump does not show it."""
    reliable_stacktrace: bool
    """CONFIG_HAVE_RELIABLE_STACKTRACE."""
    fork_return_addrs: frozenset[int]
    """Virtual addresses of the code in which a new task begins (``ret_from_fork_asm``). It is not called, so
    these are exact addresses, though they are on the stack in place of return addresses."""

    @property
    def word_bytes(self) -> int:
        """Size of a stack word in bytes."""
        return self.regs.word_bytes

    @property
    def may_need_user_regs(self) -> bool:
        """The kernel may require user-mode registers at the end of a user task's reliable stack."""
        return False

    def code_address(self, word: int) -> int:
        """Return the address of code that a word of a stack holds, without the signature that a CPU added."""
        return word

    def task_pt_regs(self, stack_addr: int) -> int:
        """Return the virtual address of ``task_pt_regs()``: the registers that user mode entered with.

        :param stack_addr: ``task->stack``: lowest virtual address of the stack
        """
        raise NotImplementedError


class Arch(abc.ABC):
    """An architecture: what is the same for every kernel on it."""

    name: str
    """As :attr:`.records.KernelInfo.arch`: drgn's name in lower case."""
    digits: int
    """Hex digits of an address."""
    regs: RegsLayout
    """The registers that ``struct pt_regs`` holds."""
    register_rows: tuple[tuple[str, ...], ...]
    """The rows of a register dump, by the kernel's names. ``cs:ip`` is one entry."""
    lacks_reliable_stacktrace: str
    """Sentence that says why a kernel of this architecture has no reliable stack traces."""
    segments: frozenset[str]
    """Registers that are segment selectors: they have four hex digits."""
    needs_original: ClassVar[bool] = False
    """A walk ends with an error at ``return_to_handler`` if the function graph tracer has no original. On other
    architectures ``return_to_handler`` is then a return address like any other."""

    @abc.abstractmethod
    def register_title(self, name: str) -> str:
        """Return a register's name as an oops prints it: ``RAX`` for ax.

        :param name: The kernel's name
        """

    @abc.abstractmethod
    def probe(self, prog: Program) -> Layout:
        """Find the layout of one kernel.

        :raises TypesError: if a type that every stack needs is missing or damaged
        """

    @abc.abstractmethod
    def cpu_stacks(self, prog: Program, layout: Layout, task: Task) -> FindStack:
        """Return the stacks that a task on a CPU can be on.

        :param layout: What :meth:`probe` returned for *prog*
        """

    @abc.abstractmethod
    def cpu_registers(self, prog: Program, task: Task) -> Optional[dict[str, int]]:
        """Return the registers of the CPU that a task is on, by the kernel's names.

        :return: ``None`` if the dump has none, as on a live kernel
        """

    @abc.abstractmethod
    def entry_of(self, stub: Optional[str]) -> Optional[str]:
        """Return what entered the kernel, in words: ``page fault``, ``syscall``.

        :param stub: Symbol of the code whose return address is right below the ``pt_regs``;
            ``None`` if it has none
        :return: ``None`` if it is not entry code
        """

    def entered_handler(self, raw: bytes) -> Optional[int]:
        """Return the address of the C function that entry code called to handle an exception or interrupt.

        :param raw: Memory of the ``struct pt_regs`` that it saved
        :return: ``None`` on an architecture where entry code does not leave it there. The word may be
            something else: it is a handler only if a symbol begins there.
        """
        return None

    def entry_of_handler(self, function: str) -> Optional[str]:
        """Return what entered the kernel, in words, as :meth:`entry_of` does.

        :param function: Symbol of the C function that entry code called, or of one that this
            called in turn
        :return: ``None`` if it is not known
        """
        return None

    @abc.abstractmethod
    def is_interrupt_entry(self, function: str) -> bool:
        """Return whether a function handles an interrupt, by its name."""

    @abc.abstractmethod
    def enters_from_user_mode(self, entry: Optional[str]) -> bool:
        """Return whether user mode can have entered the kernel in this way.

        :param entry: What :meth:`entry_of` returned
        """

    @abc.abstractmethod
    def is_trampoline(
        self,
        name: str,
        address: int,
        code: bytes,
        symbol_address: Callable[[str], Optional[int]],
    ) -> bool:
        """Return whether code is that of a trampoline whose address a tracer writes over return addresses.

        :param name: Its symbol: ``return_to_handler``, ``arch_rethook_trampoline`` or ``__kretprobe_trampoline``
        :param address: Virtual address of *code*
        :param code: Some bytes, from the first of the trampoline on
        :param symbol_address: Returns the virtual address of a symbol, ``None`` if there is no such symbol
        """

    @abc.abstractmethod
    def extra_text(self, prog: Program) -> Mapping[str, Iterable[TextRange]]:
        """Return what is kernel text on this architecture only.

        :return: Name of the source -> its ranges, which are read when they are iterated over
        """
