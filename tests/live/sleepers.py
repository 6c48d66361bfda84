#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest whose tasks sleep, and whose kernel gives no verdicts: commands, and what is to be compared."""

from __future__ import annotations

from guest import pid_of_sleeper, report_commands, report_sleepers, say

from drgn_tools import open_program

say("commands")
report_commands(pid_of_sleeper())
report_sleepers(open_program(kernel=True))
