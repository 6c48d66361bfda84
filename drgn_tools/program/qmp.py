# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open the memory of a QEMU guest through the socket of its monitor (QMP)."""

from __future__ import annotations

import os
import re
import socket
import stat

from drgn import Program

from ..errors import InputError

__all__ = ("open_guest",)

_MAKES_ONE = "QEMU makes one with -qmp unix:PATH,server=on,wait=off"
_TIMEOUT_S = 5.0
"""QEMU sends its greeting as soon as it starts to serve a client."""


def open_guest(prog: Program, address: str, name: str) -> None:
    """Open a guest.

    QEMU serves one client of a monitor at a time; the next one has to wait. drgn would wait
    forever and ignore Ctrl-C, so this waits for QEMU's greeting first.

    :param prog: a new program
    :param address: path of a Unix socket, or ``host:port``; through the latter, drgn 0.3.0 finds
        no VMCOREINFO and reads 0.4 MB a second
    :param name: what to call the guest in a message
    :raises InputError: if there is no greeting
    :raises OSError: if nobody listens at *address*
    """
    if re.match(r"[^/.][^/]*:\d+$|:\d+$", address):
        prog.set_qemu_qmp(address)
        return
    if os.path.exists(address) and not stat.S_ISSOCK(os.stat(address).st_mode):
        raise InputError(f"{name}: is not a socket; {_MAKES_ONE}")
    if not os.path.exists(address):
        raise InputError(f"{name}: no such socket; {_MAKES_ONE}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
        try:
            connection.recv(1, socket.MSG_PEEK)
        except socket.timeout as e:
            raise InputError(
                f"{name}: there is no answer: it is not a QMP socket, or another client uses it "
                "(QEMU serves one at a time)"
            ) from e
        connection.settimeout(None)
        prog.set_qemu_qmp(os.dup(connection.fileno()))  # drgn closes it
