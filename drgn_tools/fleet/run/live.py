# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernels of a cluster: one source for each host that has a worker."""

from __future__ import annotations

import socket
import time
from collections import Counter
from typing import Any

from distributed import Client

from .source import Source

__all__ = ("live_sources", "this_host")


def this_host(now_s: float) -> Source:
    """The kernel that this process runs on; *now_s* as for :func:`live_sources`."""
    host = socket.gethostname()
    return Source(name=f"live:{host}@{_when(now_s)}", core="", host=host)


def _when(now_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))


def live_sources(client: Client, now_s: float) -> list[Source]:
    """A source for each kernel on which a worker runs, whichever of its workers answers first.

    :param now_s: seconds since the epoch; each audit of a host is a source of its own, named by it.
    """

    def kernel_there() -> tuple[str, str]:
        # Sent by value. Two containers on a host have two names, and one kernel.
        import socket

        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip(), socket.gethostname()

    answers: dict[str, Any] = client.run(kernel_there)
    workers: dict[str, tuple[str, str]] = {}
    for address, (boot_id, host) in sorted(answers.items()):
        workers.setdefault(boot_id, (address, host))
    hosts = Counter(host for _, host in workers.values())
    return [
        Source(
            # Two containers may have one name as well.
            name=f"live:{host if hosts[host] == 1 else f'{host}/{boot_id[:8]}'}@{_when(now_s)}",
            core="",
            host=host,
            worker=address,
        )
        for boot_id, (address, host) in workers.items()
    ]
