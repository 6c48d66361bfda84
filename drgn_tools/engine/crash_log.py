# SPDX-License-Identifier: LGPL-2.1-or-later
"""The task that crashed the machine, and the headlines of the last oops and panic() in the kernel log."""

from __future__ import annotations

from typing import Optional

from drgn import Program

from ..memory import UNUSABLE, read_or_none

__all__ = ("crash_headlines", "crashed_task")

_HEADLINES = (
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "general protection fault",
    "Unable to handle kernel ",
    "Internal error: ",
    "Insufficient stack space to handle exception!",
    "Kernel panic - not syncing",
)
"""Beginnings of the lines that die(), page_fault_oops() and panic() print (arch/x86/kernel/dumpstack.c,
arch/x86/mm/fault.c, kernel/panic.c, v6.12), and die_kernel_fault(), die() and panic_bad_stack() of arm64
(arch/arm64/mm/fault.c, arch/arm64/kernel/traps.c, v6.1 to v7.2)."""
_MAX_LINES = 4
_MAX_CHARACTERS = 200
_MAX_TEXT_BITS = 26
"""Up to 64 MiB of text are searched for a headline before the records are read."""
_MAX_RECORDS_BITS = 21
"""Number of records of the largest log_buf_len, 2 GiB, as a power of two (kernel/printk/printk.c, v6.12)."""


def crash_headlines(prog: Program) -> tuple[str, ...]:
    """Return the last lines of the kernel's log that say what crashed it.

    :return: Oldest first, not escaped for a terminal. Empty if there are none, or if the log
        cannot be read: before v5.10 it has another format, which is not supported.
    """
    try:
        if not _log_is_sane(prog) or not _has_headline(prog):
            return ()
        from drgn.helpers.linux.printk import get_printk_records  # this loads all of drgn's helpers

        records = get_printk_records(prog)
    except UNUSABLE:
        return ()
    texts = (record.text.decode("utf-8", "backslashreplace") for record in records)
    lines = [text[:_MAX_CHARACTERS] for text in texts if text.startswith(_HEADLINES)]
    return tuple(lines[-_MAX_LINES:])


def _log_is_sane(prog: Program) -> bool:
    # drgn reads every record from the oldest to the newest. In a damaged dump these may be
    # any number of records apart.
    ring = prog["prb"].desc_ring
    bits = ring.count_bits.value_()
    records = (ring.head_id.counter - ring.tail_id.counter).value_()
    return bool(0 < bits <= _MAX_RECORDS_BITS and 0 <= records < 1 << bits)


def _has_headline(prog: Program) -> bool:
    # Reading the records of a kernel that did not crash would take longer than everything else.
    # The text of a record is contiguous in the ring (data_alloc() in
    # kernel/printk/printk_ringbuffer.c, v6.12), so a search finds every headline.
    ring = prog["prb"].text_data_ring
    bits = ring.size_bits.value_()
    if bits > _MAX_TEXT_BITS:
        return True
    text = read_or_none(prog, ring.data.value_(), 1 << bits)
    # Missing memory may be a part of the ring that was never written.
    return text is None or any(headline.encode() in text for headline in _HEADLINES)


def crashed_task(prog: Program) -> Optional[int]:
    """Return the task that called panic().

    It was on the CPU that ``panic_cpu`` names (kernel/panic.c, v6.12). drgn finds it in core
    dumps only.

    :return: Virtual address of its ``struct task_struct``; ``None`` if no task did
    """
    try:
        return int(prog.crashed_thread().object.value_())
    except UNUSABLE:
        return None
