# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that has only the types, variables, symbols and bytes that a test gives it.

It is an ordinary drgn program: code that reads a real kernel can read this one. Types
are declared as in C, and laid out as a C compiler would.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Optional

from drgn import (
    Architecture,
    FindObjectFlags,
    Object,
    Platform,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    alignof,
    sizeof,
)

from drgn_tools.arch.x86.pt_regs import REGS_32, REGS_64

PAGE_BYTES = 4096
THREAD_SIZE_BYTES = 4 * PAGE_BYTES

TASK_MEMBERS = """
    struct thread_info thread_info;
    unsigned int __state;
    void *stack;
    struct refcount_struct usage;
    unsigned int flags;
    int on_cpu;
    struct list_head tasks;
    int exit_state;
    int pid;
    int tgid;
    struct list_head thread_node;
    char comm[16];
    struct signal_struct *signal;
    unsigned long nvcsw;
    unsigned long nivcsw;
    struct refcount_struct stack_refcount;
    struct thread_struct thread;
    unsigned long not_read;
"""
"""``struct task_struct``, since v5.16."""
_MEMORY_BYTES = 256 * 1024


class DrawnKernel:
    """Its memory starts at :attr:`base` and reads as zeros; no other memory is in the dump."""

    def __init__(
        self, arch: Architecture = Architecture.X86_64, base: Optional[int] = None
    ) -> None:
        self.prog = Program(Platform(arch))
        self.word_bytes = self.prog.address_size()
        usual = 0xFFFF_8880_0000_0000 if self.word_bytes == 8 else 0xC100_0000
        self.base = usual if base is None else base
        self.nowhere = self.base + _MEMORY_BYTES
        """An address of the kernel's half that is not in the dump."""
        self._memory = bytearray(_MEMORY_BYTES)
        self._next = self.base
        self._types: dict[tuple[TypeKind, str], Type] = {}
        self._objects: dict[str, Object] = {}
        self._symbols: dict[str, Symbol] = {}
        self.before_read: Callable[[], None] = lambda: None
        """Called before each read of memory: a live kernel may change while it is read."""
        self.prog.add_memory_segment(self.base, _MEMORY_BYTES, self._read)
        self.prog.register_type_finder("drawn", self._find_type, enable_index=0)
        self.prog.register_object_finder("drawn", self._find_object, enable_index=0)
        self.prog.register_symbol_finder("drawn", self._find_symbols, enable_index=0)
        self.struct("list_head", "struct list_head *next; struct list_head *prev")
        self.constant("PAGE_SIZE", PAGE_BYTES)
        self.constant("VMCOREINFO", b"OSRELEASE=6.12.0\n", "char [64]")

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.before_read()
        return bytes(self._memory[offset : offset + count])

    # ---- types

    def struct(self, name: str, members: str, kind: TypeKind = TypeKind.STRUCT) -> None:
        """``struct("list_head", "struct list_head *next; struct list_head *prev")``."""
        fields = []
        end = alignment = 0
        for declaration in filter(None, map(str.strip, members.split(";"))):
            parsed = re.fullmatch(r"(.+?[ *])(\w+)((?:\[\d+\])?)", declaration)
            assert parsed is not None, declaration
            type_name = f"{parsed[1].strip()} {parsed[3]}".strip()
            size, align = self._size_and_alignment(type_name)
            start = 0 if kind is TypeKind.UNION else (end + align - 1) // align * align
            end = max(end, start + size)
            alignment = max(alignment, align)
            # Looked up only when it is used: a struct may point to itself.
            fields.append(TypeMember(self._lazy(type_name), parsed[2], 8 * start))
        size = (end + alignment - 1) // alignment * alignment if alignment else 0
        make = self.prog.union_type if kind is TypeKind.UNION else self.prog.struct_type
        self._types[kind, name] = make(name, size, fields)

    def _size_and_alignment(self, type_name: str) -> tuple[int, int]:
        if type_name.endswith("*"):
            return self.word_bytes, self.word_bytes
        type_ = self.prog.type(type_name)
        return sizeof(type_), alignof(type_)

    def _lazy(self, type_name: str) -> Any:
        return lambda: self.prog.type(type_name)

    def enum(self, name: str, **values: int) -> None:
        """Declare an enum, and its enumerators as constants."""
        enumerators = [TypeEnumerator(enumerator, value) for enumerator, value in values.items()]
        type_ = self.prog.enum_type(name, self.prog.type("unsigned int"), enumerators)
        self._types[TypeKind.ENUM, name] = type_
        for enumerator, value in values.items():
            self._objects[enumerator] = Object(self.prog, type_, value)

    def resize(self, name: str, size_bytes: int) -> None:
        """Change the size of a struct, as if its type were damaged."""
        members = self._types[TypeKind.STRUCT, name].members
        self._types[TypeKind.STRUCT, name] = self.prog.struct_type(name, size_bytes, members)

    def forget_type(self, name: str) -> None:
        """Remove a type, as if the kernel were built without it: ``forget_type("irq_stack")``."""
        self._types = {key: type_ for key, type_ in self._types.items() if key[1] != name}

    # ---- memory and its contents

    def new(self, type_name: str, value: Any = None) -> int:
        """Return the address of a new object; for a struct, a dict gives the members that are not zero."""
        type_ = self.prog.type(type_name)
        addr = self._next
        self._next += (sizeof(type_) + 15) // 16 * 16
        assert self._next <= self.nowhere
        if value is not None:
            self.put(addr, Object(self.prog, type_, value).to_bytes_())
        return addr

    def put(self, addr: int, data: bytes) -> int:
        """Write bytes; return *addr*."""
        assert self.base <= addr <= self.nowhere - len(data)
        self._memory[addr - self.base : addr - self.base + len(data)] = data
        return addr

    def put_word(self, addr: int, word: int) -> int:
        """Write a word; return *addr*."""
        return self.put(addr, word.to_bytes(self.word_bytes, "little"))

    def ring(self, *heads: int) -> None:
        """Link these ``struct list_head`` into one list."""
        for head, following in zip(heads, [*heads[1:], heads[0]]):
            self.put_word(head, following)
            self.put_word(following + self.word_bytes, head)

    # ---- names

    def variable(self, name: str, type_name: str, value: Any = None) -> int:
        """Add a variable with its symbol; return its address."""
        addr = self.new(type_name, value)
        self._objects[name] = Object(self.prog, type_name, address=addr)
        self.symbol(name, addr)
        return addr

    def constant(self, name: str, value: Any, type_name: str = "unsigned long") -> None:
        """Add a macro or enumerator."""
        self._objects[name] = Object(self.prog, type_name, value)

    def symbol(
        self,
        name: str,
        addr: int,
        size: int = 0,
        binding: SymbolBinding = SymbolBinding.GLOBAL,
    ) -> int:
        """Add a symbol; return its address."""
        self._symbols[name] = Symbol(name, addr, size, binding, SymbolKind.UNKNOWN)
        return addr

    def forget_symbol(self, name: str) -> None:
        """Remove a symbol, as if the kernel were built without it."""
        del self._symbols[name]

    # ---- finders

    def _find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        found = (self._types.get((kind, name)) for kind in kinds)
        return next((type_ for type_ in found if type_ is not None), None)

    def _find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        return self._objects.get(name)

    def _find_symbols(
        self, prog: Program, name: Optional[str], addr: Optional[int], one: bool
    ) -> list[Symbol]:
        found = [
            symbol
            for symbol in self._symbols.values()
            if (name is None or symbol.name == name)
            and (addr is None or symbol.address <= addr < symbol.address + symbol.size)
        ]
        return found[:1] if one else found


def declare_stack_types(kernel: DrawnKernel, task_members: str = TASK_MEMBERS) -> None:
    """Declare the types and symbols that a stack needs, as in a kernel with CONFIG_SMP, 6.12 or so."""
    regs = REGS_64 if kernel.word_bytes == 8 else REGS_32
    names = [name for name, _, _ in regs.fields]
    if kernel.word_bytes == 4:
        names.insert(names.index("fs") + 1, "gs")
    kernel.struct("pt_regs", "".join(f"unsigned long {name};" for name in names))
    kernel.struct("inactive_task_frame", "unsigned long r12; unsigned long bp; void *ret_addr")
    kernel.struct("thread_info", "unsigned long flags; unsigned int cpu")
    kernel.struct("refcount_struct", "int refs")
    kernel.struct("thread_struct", "unsigned long sp0; unsigned long sp")
    kernel.struct("signal_struct", "int live; struct list_head thread_head")
    kernel.struct("unwind_state", "unsigned long *bp; unsigned long *orig_sp")
    kernel.struct("task_struct", task_members)
    kernel.symbol("__start_init_stack", kernel.nowhere)
    kernel.symbol("__end_init_stack", kernel.nowhere + THREAD_SIZE_BYTES)
    stub = kernel.new("char [64]", bytes.fromhex("90 48 8d 6c 24 01"))  # lea 1(%rsp),%rbp
    kernel.symbol("asm_exc_page_fault", stub, size=64)
    kernel.symbol("stack_trace_save_tsk_reliable", kernel.nowhere)
