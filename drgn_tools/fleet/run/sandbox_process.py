# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process in which dumps are audited, one after another.

sandbox.py starts it with the arguments FD MEMORY_BYTES SCRATCH, and has the other end of the
socket FD. The messages are JSON and the content of a Parquet file: data that cannot execute
code in the process that reads it, as a pickle could.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Callable, Optional

from ...errors import EXIT_BUG, describe_bug
from .audit_source import audit_source
from .job import Cause, Job
from .out_of_memory import is_out_of_memory
from .record import Facts, failed

__all__ = ("main",)

_IDLE_S = 60.0
"""A process that has been idle for this time ends. A new one starts quickly."""


def main(fd: int, memory_bytes: int, scratch: str) -> None:
    """Audit the sources that are requested on a socket until it is closed or idle for long.

    :param fd: File descriptor of the socket.
    :param memory_bytes: Limit of the memory of this process (RLIMIT_DATA).
    :param scratch: Folder for copies of cores. It is removed at the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client handles Ctrl-C
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends this process, even inside drgn
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tempfile.tempdir = scratch
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    gc.freeze()  # modules are never garbage; scanning them took a fifth of an audit
    connection = Connection(fd)
    with suppress(EOFError, OSError):  # the other end was closed
        while connection.poll(_IDLE_S):
            _serve(connection, json.loads(connection.recv_bytes()))
    shutil.rmtree(scratch, ignore_errors=True)


def _end_with_parent(scratch: str) -> None:
    # The kernel closes the other end of our stdin, no matter how the parent ends. The main thread may
    # be writing into the folder, so rm replaces this process with all its threads.
    while os.read(0, 1):
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    with suppress(OSError):
        os.execvp("rm", ["rm", "-rf", "--", scratch])
    os._exit(0)


def _serve(connection: Connection, request: dict[str, Any]) -> None:
    def send(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    send({"started": True})
    _reset_peak_memory()
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    answer, tasks = _answer(request, lambda facts: send({"facts": facts}))
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()  # a Program and the objects kept on it refer to each other
    send({**answer, **_memory()})
    connection.send_bytes(tasks or b"")


def _answer(
    request: dict[str, Any], identified: Callable[[Facts], None]
) -> tuple[dict[str, Any], Optional[bytes]]:
    job = Job.from_json(request["job"])
    try:
        outcome = audit_source(job, request["max_tasks"], identified)
        return {"record": outcome.record, "unchanged": outcome.unchanged}, outcome.tasks
    # The outermost fence of this process, like that of the command line: a bug that one dump
    # triggers becomes the record of that dump, and does not end the run.
    except Exception as e:
        if is_out_of_memory(e):
            return {"out_of_memory": True}, None
        return {"record": failed(job.source, Cause.BUG, EXIT_BUG, describe_bug(e))}, None


def _reset_peak_memory() -> None:
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # proc_pid_clear_refs(5): resets VmHWM


def _memory() -> dict[str, int]:
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {
        name: int(lines[field].split()[0]) * 1024
        for name, field in (("peak_memory_bytes", "VmHWM"), ("memory_bytes", "VmRSS"))
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    # Skip the destructors of the libraries: nothing is left to save.
    os._exit(0)
