# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds modules of the lab for an arm64 kernel: what of their C files is of x86 is changed by a patch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .arch import cross_prefix, making_for
from .run import Progress, run
from .stock import _OF_NO_USE

__all__ = (
    "COMPILER",
    "CRASH_PATCH",
    "CRASH_SOURCES",
    "MODULES",
    "MODULE_SOURCES",
    "WORKLOAD_PATCH",
    "apply_patch",
    "compile_arm64_modules",
)

_HERE = Path(__file__).parent
WORKLOAD_PATCH = _HERE / "patches" / "workload-arm64.patch"
"""What of the workload and the helper is of x86."""
MODULE_SOURCES = (
    *sorted((_HERE / "arm64").iterdir()),
    *(_HERE / "kernel" / name for name in ("helper.c", "lookup.h", "sheet.h")),
)
"""The C files of the oracle and the helper, and their Kbuild."""
CRASH_PATCH = _HERE / "patches" / "crash-arm64.patch"
CRASH_SOURCES = (_HERE / "arm64_crash" / "Kbuild", _HERE / "crash_module" / "crash.c")
"""The same of the module that crashes."""
MODULES = ("lab_oracle", "lab_helper")
"""In the order in which they are loaded."""
_CROSS = cross_prefix("aarch64")
COMPILER = f"{_CROSS}gcc"


def compile_arm64_modules(
    headers: Path, sources: Sequence[Path], patch: Path, folder: Path, progress: Progress
) -> None:
    """Builds modules and puts the .ko files, stripped, into ``folder``.

    :param headers: Folder with the makefile that modules of a kernel are built by
    :param patch: Those of its parts are applied that are for one of ``sources``
    """
    log = folder / "build.log"
    make = ["make", "-C", str(headers), f"CC={COMPILER}", *_OF_NO_USE]
    with tempfile.TemporaryDirectory(prefix="lab-modules-") as work, making_for("aarch64"):
        for source in sources:
            shutil.copy(source, work)
        apply_patch(patch, Path(work), log, progress)
        run([*make, f"M={work}", "modules"], progress, log=log)
        for module in Path(work).glob("*.ko"):
            run([f"{_CROSS}strip", "--strip-debug", str(module)], progress, log=log)
            shutil.copy(module, folder)


def apply_patch(patch: Path, folder: Path, log: Path, progress: Progress) -> None:
    """Applies those parts of a patch that are for files in ``folder``."""
    parts = patch.read_text().split("--- a/")[1:]
    wanted = [part for part in parts if (folder / part.split("\n", 1)[0]).exists()]
    (folder / patch.name).write_text("".join(f"--- a/{part}" for part in wanted))
    run(
        ["patch", "-p1", "--fuzz=0", "-d", str(folder), "-i", patch.name],
        progress,
        log=log,
    )
