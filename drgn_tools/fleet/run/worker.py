# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process in which dumps are audited, started by cell.py with arguments FD MEMORY_BYTES SCRATCH.

A dump may crash what reads it, use up the memory, take forever. So that happens here, one
dump after another, and cell.py watches from the other end of the socket FD. Messages are JSON and
a Parquet file, nothing that could do something to who reads them.
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
from typing import Any

from ...errors import EXIT_BUG, describe_bug
from .job import Cause, Job
from .one import audit_one, is_for_want_of_memory
from .record import failed

__all__ = ("main",)

_IDLE_S = 60.0
"""Who has no work for so long goes; another is soon started."""


def main(fd: int, memory_bytes: int, scratch: str) -> None:
    """Audit what is asked for on the socket *fd* until nobody asks any more.

    :param scratch: a folder for copies of cores; removed at the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also inside drgn
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tempfile.tempdir = scratch
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    gc.freeze()  # of what is loaded nothing is garbage, ever: looking cost a fifth of an audit
    connection = Connection(fd)
    with suppress(EOFError, OSError):  # the other end is gone
        while connection.poll(_IDLE_S):
            _serve(connection, json.loads(connection.recv_bytes()))
    shutil.rmtree(scratch, ignore_errors=True)


def _end_with_parent(scratch: str) -> None:
    # Its end of our stdin closes, however it ends. The other thread may be writing into the
    # folder just now: rm takes the place of both.
    while os.read(0, 1):
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    with suppress(OSError):
        os.execvp("rm", ["rm", "-rf", "--", scratch])
    os._exit(0)


def _serve(connection: Connection, request: dict[str, Any]) -> None:
    def tell(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    tell({"started": True})
    job = Job.from_json(request["job"])
    _forget_peak_memory()
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        outcome = audit_one(job, request["max_tasks"], lambda facts: tell({"facts": facts}))
        answer, tasks = {"record": outcome.record, "unchanged": outcome.unchanged}, outcome.tasks
    # The outermost fence of this process, as in cli.py: a bug that one dump brings to
    # light is a record of that dump, and does not end the run.
    except Exception as e:
        if is_for_want_of_memory(e):
            answer, tasks = {"out_of_memory": True}, None
        else:
            answer, tasks = (
                {"record": failed(job.source, Cause.BUG, EXIT_BUG, describe_bug(e))},
                None,
            )
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()  # a Program and what is kept on it refer to each other
    tell({**answer, **_memory()})
    connection.send_bytes(tasks or b"")


def _forget_peak_memory() -> None:
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
    # Not through the destructors of the libraries: there is nothing left to lose.
    os._exit(0)
