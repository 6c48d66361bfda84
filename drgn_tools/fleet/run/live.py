# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernels of a cluster: one source for each host that has a Dask worker."""

from __future__ import annotations

import socket
import time
from collections import Counter
from typing import Any

from distributed import Client

from ...errors import InputError
from ...program.core_file import shown
from .cluster import Cluster
from .source import Source

__all__ = ("live_sources",)


def live_sources(cluster: Cluster) -> list[Source]:
    """Return a source for each running kernel on which *cluster* has a worker.

    Each run makes new sources: their names contain the time.

    :param cluster: An existing cluster, or a local one, which has only this machine.
    :raises InputError: If no scheduler answers, or the cluster has no worker.
    :raises UsageError: If the address is not one of a scheduler.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if cluster.address is None:
        host = socket.gethostname()
        return [Source(name=f"live:{host}@{now}", core="", host=host)]
    try:
        with cluster.client() as client:
            sources = _sources_of_workers(client, now)
    except OSError as e:
        raise InputError(f"{shown(cluster.address)}: no Dask scheduler answers there: {e}") from e
    if not sources:
        raise InputError(
            f"{shown(cluster.address)}: has no worker, and --live looks at the workers' hosts"
        )
    return sources


def _sources_of_workers(client: Client, now: str) -> list[Source]:
    # The first worker of each kernel.
    workers: dict[str, tuple[str, str]] = {}
    for address, (boot_id, host) in sorted(_kernels(client).items()):
        workers.setdefault(boot_id, (address, host))
    count = Counter(host for _, host in workers.values())
    return [
        Source(
            # The host names of containers on different machines may be the same.
            name=f"live:{host if count[host] == 1 else f'{host}/{boot_id[:8]}'}@{now}",
            core="",
            host=host,
            worker=address,
        )
        for boot_id, (address, host) in workers.items()
    ]


def _kernels(client: Client) -> dict[str, tuple[str, str]]:
    # Address of a worker -> boot ID of its kernel, and host name.
    def kernel_there() -> tuple[str, str]:
        # Pickled by value. Two containers on one machine have two names, but one kernel.
        import socket

        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip(), socket.gethostname()

    answers: dict[str, Any] = client.run(kernel_there)
    return answers
