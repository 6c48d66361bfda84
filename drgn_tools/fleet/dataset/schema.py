# SPDX-License-Identifier: LGPL-2.1-or-later
"""The columns of the two kinds of Parquet file in a dataset.

``audits`` has one row for each source: its final record. ``tasks`` has one row for each task
of a source that could be audited. The facts and their names are those of
``tasks --frames --format json`` (docs/commands.md, :mod:`drgn_tools.analysis.record_fields`);
addresses and registers are unsigned 64-bit numbers here. Within one :data:`SCHEMA`, columns are
only added, and only at the end.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ("AUDITS", "FRAME_TYPE", "REGS_TYPE", "SCHEMA", "TASKS")

SCHEMA = "drgn-tools.fleet/1"
"""Name and number of the schema. It is in ``dataset.json`` and in the metadata of each Parquet file."""

_TEXTS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")

AUDITS = pa.schema(
    {
        "source": pa.string(),  # path, URL without user info and query, live:HOST@TIME, or "name" of a manifest
        "audit_id": pa.string(),  # joins with tasks
        "host": pa.string(),  # from the manifest, or the nodename in the dump
        "tags": pa.map_(pa.string(), pa.string()),  # from the manifest
        "time": _TIME,  # of the crash, of the file, or of the audit of a running kernel
        "time_from": pa.string(),  # manifest, crash (VMCOREINFO), file (mtime), now (live)
        "status": pa.string(),  # audited, partly unknown, failed
        "exit_code": pa.int32(),  # of `drgn-tools tasks -c SOURCE`; 124 and 128+N as in a shell
        "cause": pa.string(),  # of a failure: input, types, bug, crashed, time limit, memory limit, worker lost
        "line": pa.string(),  # the error of a failure, or what could not be read
        "quarantined": pa.bool_(),  # each attempt ended its process or exceeded a limit
        "attempts": pa.int32(),
        "content_id": pa.string(),  # of core and symbols
        "size_bytes": pa.int64(),
        "release": pa.string(),
        "build_id": pa.string(),
        "arch": pa.string(),
        "unwinder": pa.string(),
        "encoding": pa.string(),
        "reliable_stacktrace": pa.bool_(),
        "types": pa.string(),
        "cpus": pa.int64(),
        "notes": _TEXTS,
        "last_words": _TEXTS,
        "problems": _TEXTS,
        "tasks": pa.int64(),
        "reliable": pa.int64(),
        "unreliable": pa.int64(),
        "unknown": pa.int64(),
        "seconds": pa.float64(),  # duration of the attempt that made the record
        "peak_memory_bytes": pa.int64(),  # of the sandbox process, up to the end of the audit
        "worker": pa.string(),  # host that audited it
        "tool": pa.string(),  # version
        "audited_at": _TIME,
        "patch": pa.string(),  # live patch that tasks were asked about; null if none was
        "patch_transition": pa.string(),  # patching, unpatching, unclear; planned: it is not loaded
        "patch_refusals": _TEXTS,  # why the kernel would not load it
        "patch_problems": _TEXTS,  # parts of the patch that could not be read
        "uptime_s": pa.int64(),  # seconds since the boot
        "boot_id": pa.string(),  # UUID of the boot; null if nothing on the machine had read it
        "hung": pa.int64(),  # tasks that hang, as `drgn-tools hung` says
        "deadlocks": pa.int64(),  # circles of tasks that wait for each other
    },
    metadata={"schema": SCHEMA},
)
"""Columns of ``audits/*.parquet``. A value that is not known, or does not exist, is null."""

FRAME_TYPE = pa.struct(
    {
        "ip": pa.uint64(),
        "symbol": pa.string(),
        "module": pa.string(),
        "stack": pa.string(),
        "regs": pa.uint64(),
        "user_mode": pa.bool_(),
        "exact": pa.bool_(),
        "guessed": pa.bool_(),
    }
)
"""Type of an item of the column ``frames``."""

_REGISTERS = pa.map_(pa.string(), pa.uint64())
REGS_TYPE = pa.struct(
    {
        "address": pa.uint64(),
        "entry": pa.string(),
        "user_mode": pa.bool_(),
        "registers": _REGISTERS,
        "symbol": pa.string(),
        "module": pa.string(),
        "caller": pa.string(),
    }
)
"""Type of an item of the column ``regs``."""

TASKS = pa.schema(
    {
        "audit_id": pa.string(),
        "task": pa.uint64(),
        "pid": pa.int64(),
        "tgid": pa.int64(),
        "comm": pa.string(),
        "state": pa.string(),
        "cpu": pa.int64(),
        "on_cpu": pa.bool_(),
        "kthread": pa.bool_(),
        "verdict": pa.string(),
        "reason": pa.string(),
        "why": pa.string(),
        "flags": _TEXTS,
        "frames": pa.list_(FRAME_TYPE),
        "regs": pa.list_(REGS_TYPE),
        "reason_frame": pa.int64(),  # index in frames, from 0
        "depth": pa.int64(),
        "kernel_regs": pa.int64(),
        "user_regs": pa.int64(),
        "function": pa.string(),  # innermost function that is not the scheduler, with offset
        "cpu_registers": _REGISTERS,
        "cpu_caller": pa.string(),
        "stack_hash": pa.string(),  # stack_hash()
        "interrupted": _TEXTS,  # functions of the kernel-mode pt_regs, innermost first
        "brief": pa.string(),
        "patch_state": pa.int64(),  # task_struct.patch_state
        "patch_answer": pa.string(),  # answer of `drgn-tools livepatch`; null if no patch was asked about
        "patch_function": pa.string(),  # function of the answer in_function, with its module
        "full_name": pa.string(),  # name of a kernel thread if it is longer than comm
        "process": pa.string(),  # comm of the leader of the thread group
        "ppid": pa.int64(),
        "start_time_ns": pa.uint64(),  # task_struct.start_time
        "switches": pa.uint64(),  # nvcsw + nivcsw
        "waits_for": pa.string(),  # as in `drgn-tools hung --all --format json`, up to not_run_s
        "wait_name": pa.string(),
        "wait_detail": pa.string(),
        "holder_pid": pa.int64(),
        "not_run_s": pa.float64(),
        "hangup": pa.string(),  # kind of what holds it up: deadlock, task ...; null if it does not hang
    },
    metadata={"schema": SCHEMA},
)
"""Columns of ``tasks/*.parquet``."""
