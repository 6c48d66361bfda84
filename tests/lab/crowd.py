# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program that fills a guest with tasks (crowd/), as an archive behind the initramfs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .cache import file_hash
from .initramfs import archive_of
from .packages import program_version, require
from .run import Progress, run

__all__ = ("CROWD", "crowd_archive", "crowd_inputs")

CROWD = "crowd"
"""The name by which init starts it."""

# Not in user/: what every initramfs is made from is not to change for this.
_SOURCE = Path(__file__).parent / "crowd" / "crowd.c"
_FLAGS = ("-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s")


def crowd_inputs() -> dict[str, str]:
    """What a dump with a crowd is made from, beside the rest."""
    require(["gcc", "/usr/include/stdio.h"])
    return {
        "crowd": file_hash(_SOURCE, Path(__file__)),
        "crowd_flags": " ".join(_FLAGS),
        "gcc": program_version("gcc"),
    }


def crowd_archive(log: Path, progress: Progress) -> bytes:
    """The program, where init looks for it.

    :raises LabError: it cannot be compiled
    """
    with tempfile.TemporaryDirectory() as work:
        program = Path(work, CROWD)
        run(["gcc", *_FLAGS, "-o", str(program), str(_SOURCE)], progress, log=log)
        return archive_of({f"live/{CROWD}": program.read_bytes()})
