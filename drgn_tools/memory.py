# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading the memory of a kernel, parts of which may be missing or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Optional

from drgn import BadDataError, FaultError, Object, Program, container_of

from .errors import TypesError

__all__ = (
    "ADDRESS_MASK",
    "NOT_THERE",
    "UNUSABLE",
    "follow_pointers",
    "list_entries",
    "read_or_none",
    "read_up_to",
    "read_word_or_none",
)

UNUSABLE = (
    AttributeError,
    BadDataError,
    FaultError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    TypesError,
    ValueError,
)
"""What the use of a drgn object raises if memory or types are missing, or if types or the unwind data that drgn reads
are damaged. A damaged type may have a member of another name, an integer instead of a pointer, or contain itself."""

NOT_THERE = (FaultError, OverflowError)
"""What a read raises if memory is missing, or if a damaged table leads outside the address space."""

_ADDRESSES = 1 << 64
ADDRESS_MASK = _ADDRESSES - 1
"""Address arithmetic wraps around with this mask, as in C: the pointers may be damaged."""

_PAGE_BYTES = 4096


def read_or_none(prog: Program, address: int, size: int) -> Optional[bytes]:
    """Read memory.

    :param address: virtual address; any integer, also one outside the address space
    :param size: in bytes
    :return: *size* bytes, ``None`` if not all of them are in the dump
    """
    try:
        return bytes(prog.read(address, size))
    except NOT_THERE:
        return None


def read_word_or_none(prog: Program, address: int) -> Optional[int]:
    """Read an ``unsigned long``.

    :param address: virtual address; it wraps around at the end of the address space
    :return: the value, ``None`` if it is not in the dump
    """
    try:
        return int(prog.read_word(address & ADDRESS_MASK))
    except FaultError:
        return None


def read_up_to(prog: Program, address: int, size: int) -> bytes:
    """Read memory up to the first page that is not in the dump.

    :param address: virtual address; any integer
    :param size: in bytes; any integer
    :return: at most *size* bytes; none if the first page is missing
    """
    if not 0 <= address < _ADDRESSES or size <= 0:
        return b""
    size = min(size, _ADDRESSES - address)
    try:
        return bytes(prog.read(address, size))
    except FaultError as e:
        readable = e.address - address
    if 0 < readable < size:
        with suppress(FaultError):
            return bytes(prog.read(address, readable))
    # libkdumpfile's fault does not say which page is missing.
    data = bytearray()
    with suppress(FaultError):
        while len(data) < size:
            at = address + len(data)
            data += prog.read(at, min(_PAGE_BYTES - at % _PAGE_BYTES, size - len(data)))
    return bytes(data)


def follow_pointers(pointer: Object, member: str) -> Iterator[Object]:
    """Return *pointer*, ``pointer->member``, ``pointer->member->member`` and so on.

    Each pointer is read only after the one before has been used. This does not end by itself: the
    caller has to know the end of the list.

    :param pointer: pointer to a struct
    :param member: name of a member of that struct, a pointer of the same type
    :raises ValueError: if the pointers form a loop
    :raises UNUSABLE: if a pointer cannot be followed
    """
    seen: set[int] = set()
    while True:
        address = pointer.value_()
        if address in seen:
            raise ValueError(f"it loops back to {address:#x}")
        seen.add(address)
        yield pointer
        pointer = pointer.member_(member).read_()


def list_entries(head: Object, type_name: str, member: str) -> Iterator[Object]:
    """Return the entries of a list, in the order of list_for_each_entry() in linux/list.h.

    Every node has to point back to the node before it, so that no entry is skipped. This also holds
    for lists that RCU protects: list_add_rcu() and list_del_rcu() in linux/rculist.h.

    :param head: ``struct list_head``
    :param type_name: type of an entry, such as ``struct module``
    :param member: name of the ``struct list_head`` in it
    :return: pointers to *type_name*; what they point to may not be in the dump
    :raises ValueError: if a node does not point back, as when the list skips nodes, or enters a
        loop that does not contain *head*
    :raises UNUSABLE: if the list leads out of the dump
    """
    previous = end = head.address_of_().value_()
    for node in follow_pointers(head.next.read_(), "next"):
        if node.prev.value_() != previous:
            raise ValueError(f"{node.value_():#x} does not point back to the node before it")
        previous = node.value_()
        if previous == end:
            return
        yield container_of(node, type_name, member)
