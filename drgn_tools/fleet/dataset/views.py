# SPDX-License-Identifier: LGPL-2.1-or-later
"""The views of a dataset, which the report, the page and ``--sql`` query (docs/fleet-report.md)."""

from __future__ import annotations

import pyarrow as pa

from .schema import AUDITS, TASKS

__all__ = ("VIEWS",)

_OF_AUDIT = "source, host, release, build_id, unwinder, time, tags, patch"
"""Columns of the record of a source that the view ``tasks`` adds to each task."""

_OF_TASK = "source, host, release, time, audit_id, task, pid, comm, verdict, reason, stack_hash"
"""Columns that name the task of a frame or of saved registers."""


def _function(symbol: str) -> str:
    # Without the offset, unless nothing else is there.
    return rf"regexp_replace({symbol}, '(?s)^(.+)\+[^+]*$', '\1')"


def _label(of: str, ip: str) -> str:
    # As function_label() of analysis/labels.py.
    name = f"coalesce(nullif({_function(f'{of}.symbol')}, ''), '0x' || lower(hex({ip})))"
    return f"{name} || coalesce(' [' || nullif({of}.module, '') || ']', '')"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f'"{field.name}"' for field in schema)


_IP = "coalesce(r.registers['ip'], r.registers['pc'])"
"""The instruction pointer in a ``struct pt_regs``: arm64 names it pc."""

VIEWS = {
    "audits": f"SELECT {_columns(AUDITS)}, parse_filename(filename, true) AS key FROM records",
    "tasks": f"""
        SELECT {_columns(TASKS)}, {_OF_AUDIT}
        FROM stored_tasks
        JOIN (SELECT audit_id, {_OF_AUDIT} FROM records) USING (audit_id)
    """,
    "frames": f"""
        SELECT {_OF_TASK}, frame, {_function("f.symbol")} AS function,
            f.symbol AS symbol, f.module AS module, f.stack AS stack, f.ip AS ip,
            f.regs AS regs, f.user_mode AS user_mode, f.exact AS exact, f.guessed AS guessed
        FROM (
            SELECT {_OF_TASK}, unnest(frames) AS f, unnest(range(len(frames))) AS frame FROM tasks
        )
    """,
    "regs": f"""
        SELECT {_OF_TASK}, number, {_function("r.symbol")} AS function,
            r.symbol AS symbol, r.module AS module, r.caller AS caller, r.entry AS entry,
            r.user_mode AS user_mode, r.address AS address, r.registers AS registers
        FROM (
            SELECT {_OF_TASK}, unnest(regs) AS r, unnest(range(len(regs))) AS number FROM tasks
        )
    """,
    "interrupted": f"""
        SELECT {_label("r", _IP)} AS function, r.entry AS entry,
            * EXCLUDE (r, function)
        FROM (SELECT unnest(regs) AS r, * FROM tasks WHERE verdict = 'unreliable')
        WHERE NOT r.user_mode
    """,
    "stacks": f"""
        SELECT stack_hash, verdict, reason, count(*) AS tasks,
            count(DISTINCT audit_id) AS audits, count(DISTINCT host) AS hosts,
            list_sort(list(DISTINCT release)) AS releases,
            min(time) AS first_seen, max(time) AS last_seen,
            arg_min(functions, example) AS functions,
            min(example).source AS source, min(example).pid AS pid, min(example).comm AS comm
        FROM (
            SELECT *, {{
                    'time': coalesce(time, 'infinity'::TIMESTAMP),
                    'source': source, 'pid': pid, 'comm': comm
                }} AS example,
                [{_label("f", "f.ip")} FOR f IN frames IF NOT f.user_mode] AS functions
            FROM tasks
        )
        GROUP BY stack_hash, verdict, reason
    """,
}
"""Name of each view -> its query. A query may use the views before it, and the two tables
``records`` and ``stored_tasks`` that :func:`~drgn_tools.fleet.dataset.database.connect` makes."""
