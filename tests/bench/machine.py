# SPDX-License-Identifier: LGPL-2.1-or-later
"""On what a run was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import drgn

from .crash_program import find_crash
from .timing import ROOT

__all__ = ("machine_and_versions",)


def machine_and_versions() -> dict[str, str]:
    """The machine, and the version of each program that was measured."""
    return {
        "cpu": f"{os.cpu_count()} x {_first(Path('/proc/cpuinfo'), 'model name') or platform.machine()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "drgn": drgn.__version__,
        "drgn-tools": _commit(),
        "crash": _crash_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _first(path: Path, name: str) -> str:
    match = re.search(rf"^{name}\s*:\s*(.*)$", path.read_text(), re.M)
    return match[1] if match else ""


def _commit() -> str:
    return _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]) or "unknown"


def _crash_version() -> str:
    program = find_crash()
    match = (
        re.search(r"^crash (\S+)", _said([str(program), "--version"]), re.M) if program else None
    )
    return match[1] if match else "none"


def _said(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
