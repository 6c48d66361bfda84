# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads the answer sheet that tests/lab/kernel/oracle.c left in a dump.

Needs no types: everything is read with ``prog.read()``. The layout is that of
tests/lab/kernel/sheet.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import drgn

__all__ = (
    "MAGIC",
    "Sheet",
    "SheetError",
    "SheetFrame",
    "SheetTask",
    "find_sheet",
    "read_sheet",
    "read_whole_sheet",
)

MAGIC = bytes.fromhex("9e1b4ad36c0f8527e1d85ab3f4702c96")
VERSION = 1

_HEADER = struct.Struct("<16s8IQQ16s")
_RECORD = struct.Struct("<IiQiiIIiiiiiiQQQiIII16sII168s")
_FRAME = struct.Struct("<QQQBxHHH")

_MAX_BYTES = 1 << 30
_PAGE = 4096
_CHUNK = 1 << 20
_SCAN_END = 1 << 40
_MAX_HOLE = 8 << 30
"""More physical addresses without memory than this: it is the end. (Below 4 GiB there is a hole for PCI.)"""
_ENOSYS = -38
_PF_KTHREAD = 0x00200000


class SheetError(Exception):
    """The dump has no answer sheet, or one this reader does not know."""


@dataclass(frozen=True)
class SheetFrame:
    """One step of the kernel's own unwinder."""

    ip: int
    """What unwind_get_return_address() gave: 0 in a user mode frame, and for an address that is no kernel text."""
    regs: int
    """Address of the ``struct pt_regs`` of this frame, or 0."""
    user_mode: bool
    """user_mode(regs); False where there are none."""
    at: int
    """Address of the word the return address came from, or 0."""
    call_name: str
    """``ip`` named as a return address (printk's %pB): by the byte before it."""
    name: str
    """``ip`` named as it stands (printk's %pS)."""


@dataclass(frozen=True)
class SheetTask:
    """What the kernel said of one task while the machine was frozen."""

    task: int
    """Address of the ``struct task_struct``."""
    pid: int
    tgid: int
    comm: bytes
    """Without the NUL and what follows it."""
    flags: int
    """PF_... bits."""
    state: int
    """task_struct::__state (``state`` before 5.14)."""
    exit_state: int
    cpu: int
    on_cpu: bool
    """On a CPU during the freeze: held by the oracle itself, so its stack was moving. Not to be compared."""
    curr: Optional[bool]
    """task_curr(); None where the kernel has no such function to call."""
    idle_of: Optional[int]
    """The CPU whose idle task this is."""
    has_stack: bool
    """False once a dead task's stack was given back."""
    stack: int
    """Lowest address of the task stack; 0 without a stack."""
    sp: int
    """thread.sp"""
    ret: int
    """What stack_trace_save_tsk_reliable() returned for 100 entries: their number, or a negative errno."""
    entries: tuple[int, ...]
    """The return addresses that call stored, also those it stored before it failed."""
    frames: tuple[SheetFrame, ...]
    """Every step of the plain walk; none without a stack."""
    more_frames: bool
    """The plain walk was longer than the sheet records."""
    unwind_error: bool
    """unwind_error() at the end of the plain walk."""
    entry_regs: int
    """Address of the registers at the top of the stack: task_pt_regs()."""
    entry_regs_bytes: bytes
    """Their content, sizeof(struct pt_regs) bytes."""

    @property
    def kthread(self) -> bool:
        """PF_KTHREAD is set."""
        return bool(self.flags & _PF_KTHREAD)

    @property
    def reliable(self) -> Optional[bool]:
        """The kernel's verdict; None if this kernel has no reliable stack traces."""
        return None if self.ret == _ENOSYS else self.ret >= 0

    @property
    def comparable(self) -> bool:
        """The stack did not move while it was written down."""
        return not self.on_cpu

    @property
    def user_frames(self) -> tuple[SheetFrame, ...]:
        """The frames that are user mode registers: none, or the last one."""
        return tuple(frame for frame in self.frames if frame.user_mode)

    @property
    def depth(self) -> int:
        """Return addresses the plain walk saw: every frame but the user mode one."""
        return sum(1 for frame in self.frames if frame.ip)


@dataclass(frozen=True)
class Sheet:
    """The whole sheet."""

    address: int
    """Virtual address of its header."""
    unwinder: str
    """"frame_pointer", "orc" or "guess", as the kernel was configured."""
    cpus: int
    word_bytes: int
    tasks: tuple[SheetTask, ...]
    """Every thread of the task list, then the idle task of every CPU."""


def _scan(prog: drgn.Program) -> Optional[int]:
    """Looks for the magic in physical memory. A hit must know its own virtual address."""
    missing = 0
    for start in range(0, _SCAN_END, _CHUNK):
        chunk = _read_physical(prog, start)
        missing = 0 if chunk else missing + _CHUNK
        if missing > _MAX_HOLE:
            break
        at = chunk.find(MAGIC)
        while at >= 0:
            header = chunk[at : at + _HEADER.size]
            if len(header) == _HEADER.size:
                address: int = _HEADER.unpack(header)[9]
                if _is_sheet(prog, address):
                    return address
            at = chunk.find(MAGIC, at + 1)
    return None


def _read_physical(prog: drgn.Program, start: int) -> bytes:
    """One chunk; pages that are not in the dump come as zeros, and none at all as nothing.

    A chunk that lacks its first and its last page counts as missing.
    """
    try:
        return bytes(prog.read(start, _CHUNK, physical=True))
    except drgn.FaultError:
        pass
    pages = [_read_page(prog, page) for page in (start, start + _CHUNK - _PAGE)]
    if not any(pages):
        return b""
    return b"".join(
        _read_page(prog, page) or bytes(_PAGE) for page in range(start, start + _CHUNK, _PAGE)
    )


def _read_page(prog: drgn.Program, page: int) -> bytes:
    try:
        return bytes(prog.read(page, _PAGE, physical=True))
    except drgn.FaultError:
        return b""


def _is_sheet(prog: drgn.Program, address: int) -> bool:
    try:
        return bytes(prog.read(address, len(MAGIC))) == MAGIC
    except drgn.FaultError:
        return False


def _by_symbol(prog: drgn.Program) -> Optional[int]:
    """Follows the pointer ``rs_sheet`` that an oracle in the kernel image leaves."""
    try:
        pointer = prog.symbol("rs_sheet").address
        address = int.from_bytes(prog.read(pointer, prog.address_size()), "little")
    except (LookupError, drgn.FaultError):
        return None
    return address if _is_sheet(prog, address) else None


def find_sheet(prog: drgn.Program) -> int:
    """The virtual address of the sheet: by its symbol, else by a scan of physical memory.

    :raises SheetError: there is none
    """
    address = _by_symbol(prog)
    if address is None:
        address = _scan(prog)
    if address is None:
        raise SheetError("this dump has no answer sheet: it was not made by the lab")
    return address


def _frames(data: bytes, at: int, count: int) -> Iterator[tuple[SheetFrame, int]]:
    for _ in range(count):
        ip, regs, where, user_mode, call_bytes, name_bytes, size = _FRAME.unpack_from(data, at)
        names = at + _FRAME.size
        if size < _FRAME.size + call_bytes + name_bytes:
            raise SheetError(f"answer sheet: a frame of {size} bytes at offset {at}")
        call_name = data[names : names + call_bytes].decode("ascii", "replace")
        name = data[names + call_bytes : names + call_bytes + name_bytes].decode("ascii", "replace")
        at += size
        yield SheetFrame(ip, regs, bool(user_mode), where, call_name, name), at


def _task(data: bytes, start: int) -> tuple[SheetTask, int]:
    (
        size, ret, task, pid, tgid, flags, state, exit_state, cpu, on_cpu, curr, idle_of,
        stack_refcount, stack, sp, entry_regs, unwind_error, nr_entries, nr_frames, more_frames,
        comm, entry_regs_bytes, _, entry_regs_copy,
    ) = _RECORD.unpack_from(data, start)  # fmt: skip
    at = start + _RECORD.size
    entries = struct.unpack_from(f"<{nr_entries}Q", data, at)
    at += 8 * nr_entries
    frames = []
    for frame, after in _frames(data, at, nr_frames):
        frames.append(frame)
        at = after
    if at != start + size:
        raise SheetError(f"answer sheet: task {pid} has {at - start} bytes, not {size}")
    record = SheetTask(
        task=task,
        pid=pid,
        tgid=tgid,
        comm=comm.split(b"\0", 1)[0],
        flags=flags,
        state=state,
        exit_state=exit_state,
        cpu=cpu,
        on_cpu=bool(on_cpu),
        curr=None if curr < 0 else bool(curr),
        idle_of=None if idle_of < 0 else idle_of,
        has_stack=stack_refcount != 0,
        stack=stack,
        sp=sp,
        ret=ret,
        entries=entries,
        frames=tuple(frames),
        more_frames=bool(more_frames),
        unwind_error=bool(unwind_error),
        entry_regs=entry_regs,
        entry_regs_bytes=entry_regs_copy[:entry_regs_bytes],
    )
    return record, at


def read_whole_sheet(prog: drgn.Program, addr: Optional[int] = None) -> Sheet:
    """Reads the sheet at virtual address ``addr``, or finds it.

    :raises SheetError: there is none, or not one this reader knows
    """
    address = find_sheet(prog) if addr is None else addr
    try:
        header = _HEADER.unpack(prog.read(address, _HEADER.size))
        magic, version, header_bytes, record_bytes, frame_bytes = header[:5]
        nr_records, nr_left_out, nr_cpus, word_bytes, own_address, size, unwinder = header[5:]
        if magic != MAGIC or own_address != address:
            raise SheetError(f"no answer sheet at {address:#x}")
        if version != VERSION or (header_bytes, record_bytes, frame_bytes) != (
            _HEADER.size,
            _RECORD.size,
            _FRAME.size,
        ):
            raise SheetError(f"answer sheet of version {version}; this reader knows {VERSION}")
        if nr_left_out:
            raise SheetError(f"the answer sheet had no room for {nr_left_out} tasks")
        if not _HEADER.size <= size <= _MAX_BYTES:
            raise SheetError(f"answer sheet of {size} bytes")
        data = prog.read(address, size)
    except drgn.FaultError as e:
        raise SheetError(f"the answer sheet at {address:#x} is not in the dump: {e}") from e
    tasks = []
    at = _HEADER.size
    try:
        for _ in range(nr_records):
            task, at = _task(data, at)
            tasks.append(task)
    except struct.error as e:
        raise SheetError(f"the answer sheet ends in the middle of a task: {e}") from e
    if at != size:
        raise SheetError(f"the answer sheet has {size - at} bytes too many")
    return Sheet(
        address,
        unwinder.split(b"\0", 1)[0].decode("ascii", "replace"),
        nr_cpus,
        word_bytes,
        tuple(tasks),
    )


def read_sheet(prog: drgn.Program, addr: Optional[int] = None) -> list[SheetTask]:
    """Every task of the sheet: the threads of the task list, then the idle tasks.

    :raises SheetError: there is no sheet, or not one this reader knows
    """
    return list(read_whole_sheet(prog, addr).tasks)
