# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Dask cluster of a run: an existing one, or a local one of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Optional

from distributed import Client, LocalCluster, Security
from distributed.comm import connect, parse_address
from distributed.comm.addressing import parse_host_port
from distributed.comm.registry import get_backend

from ...errors import UsageError
from ...program.core_file import shown

__all__ = ("Cluster",)

_CONNECT_S = 10.0
_OF_HOST_AND_PORT = ("tcp", "tls", "ws", "wss")
_MAX_PORT = 65535
_RUBBISH = (ArithmeticError, LookupError, MemoryError, TypeError, ValueError, struct.error)
"""What Dask raises if an answer does not follow its protocol."""


class Cluster:
    """An existing cluster, or a local one that exists as long as the run."""

    def __init__(self, address: Optional[str] = None, workers: Optional[int] = None) -> None:
        """
        :param address: Address of a Dask scheduler (``tcp://...``, ``tls://...``), or path of a
            scheduler file (``*.json``). ``None`` for a local cluster.
        :param workers: Number of Dask workers of a local cluster; one for each CPU by default.
        """
        self.address = address
        self._workers = workers

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Return a context with a client that is connected to the cluster.

        :raises OSError: If the scheduler cannot be reached.
        :raises UsageError: If the address is not one of a scheduler.
        """
        if self.address is not None:
            with _client_of(self.address) as client:
                yield client
            return
        with self._local() as cluster, Client(cluster, set_as_default=False) as client:
            yield client

    def _local(self) -> LocalCluster:
        # Ctrl-C reaches the whole process group. Processes that are started while SIGINT is
        # ignored keep ignoring it, so that we can end them in order.
        _start_resource_tracker()
        with _ignored_by_children(signal.SIGINT):
            return LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                # Even without a dashboard there is an HTTP server, which warns if port 8787 is in use.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                memory_limit=0,  # sandboxes use the memory, and have their own limit
                silence_logs=logging.CRITICAL,
            )


def _start_resource_tracker() -> None:
    """Start multiprocessing's process that removes leftover semaphores.

    Otherwise it would be started with the first worker, and unblock SIGINT. If a second Ctrl-C ends this process at
    once, that process warns of what it removes, and a user can do nothing about that.
    """
    before = os.environ.get("PYTHONWARNINGS")
    ours = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{ours}" if before else ours
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def _ignored_by_children(number: signal.Signals) -> Iterator[None]:
    """Return a context in which new processes ignore a signal. This one gets it at the end."""
    # Linux keeps a blocked signal pending even if it is ignored (sig_ignored() in kernel/signal.c). The
    # threads that start in this context inherit the mask, so none of them takes the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _client_of(where: str) -> Client:
    address = _address_in(where) if where.endswith(".json") else where
    _check_address(address)
    _shake_hands(address)
    return Client(address, timeout=_CONNECT_S, set_as_default=False)


def _address_in(scheduler_file: str) -> str:
    # Dask's own reader waits for the file forever.
    with open(scheduler_file, encoding="utf-8") as file:
        try:
            return str(json.load(file)["address"])
        except (ValueError, LookupError, TypeError) as e:
            raise OSError("it is not a scheduler file, or it has no address yet") from e


def _check_address(address: str) -> None:
    # With a bad address Dask's client takes long to fail, and logs a lot.
    try:
        scheme, location = parse_address(address)
        get_backend(scheme)
        if scheme in _OF_HOST_AND_PORT and not 0 < parse_host_port(location)[1] <= _MAX_PORT:
            raise ValueError("there is no such port")
    except ValueError as e:
        raise UsageError(
            f"--scheduler takes tcp://HOST:PORT, or a scheduler file (*.json), not {shown(address)}: {e}"
        ) from e


def _shake_hands(address: str) -> None:
    # Dask's client waits forever for a server that sends nothing. It also treats the text of another
    # protocol (HTTP: 8787 is the port of the dashboard) as the length of a message.
    async def shake_hands() -> None:
        security = Security().get_connection_args("client")
        comm = await connect(address, timeout=_CONNECT_S, **security)
        comm.abort()

    try:
        asyncio.run(asyncio.wait_for(shake_hands(), 1.5 * _CONNECT_S))
    except asyncio.TimeoutError as e:
        raise OSError("the server there sends nothing") from e
    except _RUBBISH as e:
        raise OSError("the server there speaks another protocol") from e
