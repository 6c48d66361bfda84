# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's `crash`, unpacked and never installed; one that knows the lab's kernels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from tests.lab.apt import download
from tests.lab.cache import find_entry, make_entry
from tests.lab.run import Progress, run

__all__ = ("CRASH_VARIABLE", "find_crash", "get_crash")

CRASH_VARIABLE = "DRGN_TOOLS_BENCH_CRASH"
"""A crash to measure instead of Debian's."""

_SUITE = "forky"
_PACKAGES = (
    "crash", "libc6", "libgcc-s1", "libgmp10", "liblzo2-2", "libmpfr6", "libncursesw6",
    "libsnappy1v5", "libstdc++6", "libtinfo6", "libzstd1", "zlib1g",
)  # fmt: skip
"""With all that it is linked to: nothing of the machine's own libraries is used."""
_SCRIPT = """\
#!/bin/sh
here=$(dirname "$0")
exec "$here/usr/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$here/usr/lib/x86_64-linux-gnu" "$here/usr/bin/crash" "$@"
"""
_INPUTS = {"suite": _SUITE, "packages": " ".join(_PACKAGES), "script": _SCRIPT}


def _own() -> Optional[Path]:
    own = os.environ.get(CRASH_VARIABLE)
    return Path(own).expanduser().absolute() if own else None


def find_crash() -> Optional[Path]:
    """The program, if it was fetched, or the one that the environment names."""
    if own := _own():
        return own
    entry = find_entry("tools", "crash", _INPUTS)
    return entry / "crash" if entry else None


def get_crash() -> Path:
    """The program, fetched if need be, into the lab's cache.

    :raises LabError: apt cannot fetch it
    """
    if own := _own():
        return own

    def fill(folder: Path) -> None:
        with Progress(f"fetching crash of {_SUITE}") as progress:
            log = folder / "fetch.log"
            for package in download(_SUITE, _PACKAGES, folder, log, progress):
                run(["dpkg", "--extract", str(package), str(folder)], progress, log=log)
                package.unlink()
            (folder / "crash").write_text(_SCRIPT)
            (folder / "crash").chmod(0o755)

    return make_entry("tools", "crash", _INPUTS, fill) / "crash"
