# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opens the memory of a QEMU guest, through the socket of its monitor (QMP)."""

from __future__ import annotations

import os
import re
import socket

from drgn import Program

from ..errors import InputError

__all__ = ("open_guest",)

_PATIENCE_SECONDS = 5.0
"""QEMU greets at once whoever it listens to."""


def open_guest(prog: Program, address: str, name: str) -> None:
    """Make a program that of a guest.

    QEMU listens to one client of a monitor at a time and lets the next one wait. drgn
    would wait with it, for good and deaf to Ctrl-C, so the greeting is waited for here.

    :param address: path of a Unix socket, or ``host:port``, by which drgn 0.3.0 finds no
        VMCOREINFO and reads 0.4 MB a second
    :raises InputError: nobody greets
    """
    if re.match(r"[^/.][^/]*:\d+$|:\d+$", address):
        prog.set_qemu_qmp(address)
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(address)
        try:
            connection.recv(1, socket.MSG_PEEK)
        except socket.timeout as e:
            raise InputError(
                f"{name}: nobody answers: is it a QMP socket, and does nobody else use it? "
                "QEMU answers one at a time"
            ) from e
        connection.settimeout(None)
        prog.set_qemu_qmp(os.dup(connection.fileno()))  # drgn closes it
