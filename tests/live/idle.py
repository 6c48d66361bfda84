#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest whose tasks sleep: what refuses, every command, the REPL, and at last what is to be compared."""

from __future__ import annotations

import time
from pathlib import Path

from guest import (
    NOBODY,
    drgn_tools,
    pid_of_sleeper,
    report,
    report_commands,
    report_sleepers,
    run,
    say,
)
from terminal import session

say("imports of drgn and the project")
start = time.monotonic()
from drgn.helpers.linux.timekeeping import uptime  # noqa: E402

from drgn_tools import declare, open_program  # noqa: E402

report("uptime", float(Path("/proc/uptime").read_text().split()[0]))
report("import", time.monotonic() - start)

say("as a normal user")
report("user", drgn_tools("tasks", "-k", user=NOBODY))

say("kptr_restrict=2")
Path("/proc/sys/kernel/kptr_restrict").write_text("2")
report("kptr_restrict", drgn_tools("tasks", "-k", "--quiet"))
Path("/proc/sys/kernel/kptr_restrict").write_text("0")

pid = pid_of_sleeper()
report("pid", pid)

say("the other commands")
report_commands(pid)
report("watch", drgn_tools("tasks", "-k", "--watch", "1", "--until-reliable", "--pid", str(pid)))
report("max", drgn_tools("tasks", "-k", "--max-tasks", "20"))
report("shell", drgn_tools("shell", "-k", stdin=f"print(task_stack({pid}))\n"))
for script in (
    ["syscalls.py", "read"],
    ["deepest_stacks.py"],
    ["fault_sleepers.py"],
    ["interrupted_functions.py"],
):
    report("contrib", run("-m", "drgn", "-k", "-q", f"/live/contrib/{script[0]}", *script[1:]))

say("a terminal")
LINES = (
    "%tasks",
    "%tasks | grep unreliable",
    f"%stack {pid}",
    "%stack 4000000",
    "from drgn_tools import *",
    "len(audit_kernel()) > 50",
    "1 + 1",
)
report("terminal", session(["-k"], LINES))

start = time.monotonic()
prog = open_program(kernel=True)
report("open", time.monotonic() - start)
# Of a module alone; a variable that BTF leaves out, by drgn's helper and by declaration.
report("module_type", [member.name for member in prog.type("struct fw_cfg_sysfs_entry").members])
up = uptime(prog)
report("uptimes", [up, float(Path("/proc/uptime").read_text().split()[0])])
report("declared", declare(prog, "unsigned int nr_cpu_ids[1]")[0].value_())
report_sleepers(prog)
