# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who crashed the machine, and the headlines of its last oops and panic() in the kernel log."""

from __future__ import annotations

from typing import Optional

from drgn import FaultError, Program

from ..memory import UNUSABLE

__all__ = ("crash_headlines", "crashed_task")

_HEADLINES = (
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "general protection fault",
    "Kernel panic - not syncing",
)
"""As die(), page_fault_oops() and panic() print them (arch/x86/kernel/dumpstack.c, arch/x86/mm/fault.c,
kernel/panic.c, v6.12)."""
_MAX_LINES = 4
_MAX_CHARACTERS = 200
_MAX_TEXT_BITS = 26
_MAX_RECORDS_BITS = 21
"""The largest log_buf_len that is accepted, 2 GiB, has as many records."""


def crash_headlines(prog: Program) -> tuple[str, ...]:
    """Lines of the kernel's log that say what killed it, oldest first; text as the dump has it.

    None where there is no such line, or the log cannot be read: before v5.10 it was kept in
    another way, which is not looked at.
    """
    try:
        if not _log_is_sane(prog) or not _has_headline(prog):
            return ()
        from drgn.helpers.linux.printk import get_printk_records  # with all of drgn's helpers

        records = get_printk_records(prog)
    except UNUSABLE:
        return ()
    texts = (record.text.decode("utf-8", "backslashreplace") for record in records)
    lines = [text[:_MAX_CHARACTERS] for text in texts if text.startswith(_HEADLINES)]
    return tuple(lines[-_MAX_LINES:])


def _log_is_sane(prog: Program) -> bool:
    # drgn goes from the oldest record to the newest, however far apart a damaged
    # dump has them.
    ring = prog["prb"].desc_ring
    bits = ring.count_bits.value_()
    records = (ring.head_id.counter - ring.tail_id.counter).value_()
    return bool(0 < bits <= _MAX_RECORDS_BITS and 0 <= records < 1 << bits)


def _has_headline(prog: Program) -> bool:
    # Going through the records takes longer than anything else of a machine that is
    # well. The text of each is in one piece in the ring (data_alloc() in
    # kernel/printk/printk_ringbuffer.c, v6.12).
    ring = prog["prb"].text_data_ring
    bits = ring.size_bits.value_()
    if bits > _MAX_TEXT_BITS:
        return True
    try:
        text = prog.read(ring.data.value_(), 1 << bits)
    except FaultError:  # what is missing may never have been written
        return True
    return any(headline.encode() in text for headline in _HEADLINES)


def crashed_task(prog: Program) -> Optional[int]:
    """Return the address of the ``struct task_struct`` that ran into panic(); ``None`` if none did.

    It is the one on the CPU that ``panic_cpu`` names (kernel/panic.c), which drgn knows
    for core dumps only.
    """
    try:
        return int(prog.crashed_thread().object.value_())
    except UNUSABLE:
        return None
