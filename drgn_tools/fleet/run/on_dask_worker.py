# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code that runs on a Dask worker: audits in sandboxes, and the check of its version of drgn-tools."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from distributed import Client, WorkerPlugin, get_worker

from ... import __version__
from ...errors import InputError
from .job import Job, Limits, Outcome
from .sandboxes import Sandboxes, audit_in_sandbox

__all__ = ("Audit", "SandboxesPlugin", "audit_sent_by_value", "check_dask_workers")

Audit = Callable[[dict[str, Any], dict[str, Any], str], Outcome]
"""A function of a job and its limits as plain values, and the name of the plugin."""


class SandboxesPlugin(WorkerPlugin):  # type: ignore[misc]
    """Gives a Dask worker its sandboxes. They exist as long as the run, or the worker."""

    def __init__(self, name: str) -> None:
        """
        :param name: Name of the plugin, unique to this run.
        """
        self.name = name

    def setup(self, worker: Any) -> None:
        """Called by Dask when the worker gets the plugin."""
        self.sandboxes = Sandboxes()

    def teardown(self, worker: Any) -> None:
        """Called by Dask when the worker or the run ends."""
        self.sandboxes.close()


def audit_on_worker(job: dict[str, Any], limits: dict[str, Any], plugin: str) -> Outcome:
    """Audit a source on the Dask worker that calls this.

    :param job: :meth:`Job.as_json`.
    :param limits: The fields of :class:`Limits`.
    :param plugin: Name of the :class:`SandboxesPlugin` of the run.
    """
    sandboxes = get_worker().plugins[plugin].sandboxes
    return audit_in_sandbox(Job.from_json(job), Limits(**limits), sandboxes)


def audit_sent_by_value() -> Audit:
    """Return :func:`audit_on_worker` as a function that is pickled by value.

    The scheduler unpickles what is submitted to it, and may not have drgn_tools.

    :return: The function. It raises ImportError if drgn-tools is missing or of another version.
    """
    expected = __version__

    def audit(job: dict[str, Any], limits: dict[str, Any], plugin: str) -> Outcome:
        from ... import __version__ as found
        from .on_dask_worker import audit_on_worker

        if found != expected:  # a worker that came after check_dask_workers()
            raise ImportError(f"it has drgn-tools {found}")
        return audit_on_worker(job, limits, plugin)

    return audit


def check_dask_workers(client: Client) -> None:
    """Check that each worker of a cluster can audit, before anything is submitted.

    :raises InputError: If a worker has no drgn-tools[fleet], or another version of it.
    """

    def version_there() -> str:
        # Pickled by value: it must also run where drgn_tools is missing.
        import importlib.util

        missing = [
            name
            for name in ("drgn_tools", "drgn", "pyarrow", "fsspec")
            if importlib.util.find_spec(name) is None
        ]
        if missing:
            return f"no {', '.join(missing)}"
        import drgn_tools

        return f"drgn-tools {drgn_tools.__version__}"

    expected = f"drgn-tools {__version__}"
    with suppress(CancelledError):
        for address, found in client.run(version_there).items():
            if found != expected:
                raise InputError(
                    f"worker {address}: has {found}, expected {expected}; "
                    "install the same drgn-tools[fleet] on every worker"
                )
