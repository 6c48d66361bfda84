#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest that is locked down: neither /proc/kcore nor anything else shows the kernel."""

from __future__ import annotations

import ctypes
from pathlib import Path

from guest import drgn_tools, report

SECURITY = Path("/sys/kernel/security")

ctypes.CDLL(None).mount(b"security", bytes(SECURITY), b"securityfs", 0, None)
report("lockdown", (SECURITY / "lockdown").read_text())
report("refused", drgn_tools("tasks", "-k"))
