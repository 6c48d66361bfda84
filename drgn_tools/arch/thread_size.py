# SPDX-License-Identifier: LGPL-2.1-or-later
"""THREAD_SIZE, the size of a task's stack: by the types and symbols of one kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from drgn import Program, sizeof

from ..kernel.probing import symbol_address

__all__ = ("thread_size",)


def thread_size(prog: Program, page_bytes: int, most_bytes: int, sizes: Iterable[int] = ()) -> int:
    """Return THREAD_SIZE: a power of two, a page or more.

    With a wrong size the end of every stack would be wrong, and no walk would notice.

    :param page_bytes: The smallest size that it can have
    :param most_bytes: The largest size that it can have
    :param sizes: THREAD_SIZE by types or symbols that only this architecture has
    :raises LookupError: if no type or symbol gives it
    :raises ValueError: if two of them differ, or it cannot be the size of a stack
    """
    found = {*_sizes(prog), *sizes}
    if not found:
        raise LookupError("no type or symbol gives THREAD_SIZE")
    size_bytes = min(found)
    if len(found) > 1 or size_bytes & (size_bytes - 1):
        raise ValueError(f"THREAD_SIZE cannot be {' and '.join(map(str, sorted(found)))}")
    if not page_bytes <= size_bytes <= most_bytes:
        raise ValueError(f"THREAD_SIZE cannot be {size_bytes}")
    return size_bytes


def _sizes(prog: Program) -> Iterator[int]:
    # union thread_union has this size, but it is not in BTF.
    with suppress(LookupError):
        yield sizeof(prog.type("union thread_union"))
    for begin, end in (
        ("__start_init_stack", "__end_init_stack"),
        ("__start_init_task", "__end_init_task"),
    ):
        begin_addr, end_addr = symbol_address(prog, begin), symbol_address(prog, end)
        if begin_addr is not None and end_addr is not None and end_addr > begin_addr:
            yield end_addr - begin_addr
