#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest that hangs on purpose: who hangs on whom, seen from inside."""

from __future__ import annotations

from pathlib import Path

from guest import drgn_tools, report, say

say("who hangs")
report("hung", drgn_tools("hung", "-k", "--format", "json", "--all"))
report("table", drgn_tools("hung", "-k"))
report("check", drgn_tools("hung", "-k", "--check", "--longer", "2", "--format", "csv"))
report(
    "comms",
    {
        comm.parent.name: comm.read_text().rstrip("\n")
        for comm in Path("/proc").glob("[0-9]*/task/*/comm")
    },
)
