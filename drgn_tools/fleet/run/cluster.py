# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Dask cluster to do the work: one of our own on this machine, or one that is there."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
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
"""What Dask raises of an answer that is none."""


class Cluster:
    """Where the work is done: a cluster of our own on this machine, or one that is there."""

    def __init__(self, address: Optional[str] = None, workers: Optional[int] = None) -> None:
        """
        :param address: of a Dask scheduler (``tcp://...``, ``tls://...``), or the path of a scheduler file.
        :param workers: how many processes a cluster of our own has; by default one a CPU.
        """
        self.address = address
        self._workers = workers

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connected to it.

        :raises OSError: it cannot be reached.
        :raises UsageError: there can be none at such an address.
        """
        if self.address is not None:
            with _client_of(self.address) as client:
                yield client
            return
        with self._local() as cluster, Client(cluster, set_as_default=False) as client:
            yield client

    def _local(self) -> LocalCluster:
        # Ctrl-C reaches the whole process group. What is started while it is ignored goes on
        # ignoring it, and is ended in order, by us. (Blocked, it would not be lost meanwhile, but
        # multiprocessing unblocks it.)
        with _ignored(signal.SIGINT):
            return LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                # Without a dashboard it still has an HTTP server, and warns if 8787 is taken.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                memory_limit=0,  # what takes memory is not in the worker, and has a limit of its own
                silence_logs=logging.CRITICAL,
            )


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _client_of(where: str) -> Client:
    address = _address_in(where) if where.endswith(".json") else where
    _check_address(address)
    _shake_hands(address)
    return Client(address, timeout=_CONNECT_S, set_as_default=False)


def _address_in(scheduler_file: str) -> str:
    # Dask's own reader of it waits for the file without end.
    with open(scheduler_file, encoding="utf-8") as file:
        try:
            return str(json.load(file)["address"])
        except (ValueError, LookupError, TypeError) as e:
            raise OSError("it is no scheduler file, or not yet: it has no address") from e


def _check_address(address: str) -> None:
    # A client of Dask that does not like its address takes long to end, and says much.
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
    # Dask's client waits without end for one that says nothing, and takes what something else
    # says (HTTP: 8787 is the port of the dashboard) for a length.
    async def shake_hands() -> None:
        security = Security().get_connection_args("client")
        comm = await connect(address, timeout=_CONNECT_S, **security)
        comm.abort()

    try:
        asyncio.run(asyncio.wait_for(shake_hands(), 1.5 * _CONNECT_S))
    except asyncio.TimeoutError as e:
        raise OSError("whatever is there says nothing") from e
    except _RUBBISH as e:
        raise OSError("whatever is there speaks something else") from e
