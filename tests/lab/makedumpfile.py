# SPDX-License-Identifier: LGPL-2.1-or-later
"""A makedumpfile that knows today's kernels, whatever this machine has.

1.7.2 of Debian 12 takes slab pages of 6.12 for user data and leaves them out, task
structs among them; and it is built without zstd. No suite of Debian has one with snappy:
who has such a one can name it in $DRGN_TOOLS_LAB_MAKEDUMPFILE.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from .apt import download
from .cache import Entry, find_entry, make_entry
from .run import Progress, run

__all__ = ("find_makedumpfile", "get_makedumpfile")

_SUITE = "forky"
_PACKAGES = (
    "makedumpfile", "libc6", "libbz2-1.0", "libdw1t64", "libelf1t64", "liblzma5", "liblzo2-2",
    "libsnappy1v5", "libstdc++6", "libgcc-s1", "libzstd1", "zlib1g",
)  # fmt: skip
"""With all that it is linked to: nothing of the machine's own libraries is used."""
_SCRIPT = """\
#!/bin/sh
here=$(dirname "$0")
exec "$here/usr/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$here/usr/lib/x86_64-linux-gnu" "$here/usr/bin/makedumpfile" "$@"
"""
_INPUTS = {"suite": _SUITE, "packages": " ".join(_PACKAGES), "script": _SCRIPT}


def _program(entry: Entry) -> Path:
    return entry / "makedumpfile"


def _own() -> Optional[Path]:
    own = os.environ.get("DRGN_TOOLS_LAB_MAKEDUMPFILE")
    return Path(own).expanduser().absolute() if own else None


def find_makedumpfile() -> Optional[Path]:
    """The program, if it was fetched, or the one that the environment names."""
    if own := _own():
        return own
    entry = find_entry("tools", "makedumpfile", _INPUTS)
    return _program(entry) if entry else None


def get_makedumpfile() -> Path:
    """The program, fetched if need be. It stays until ``clean --all``."""
    if own := _own():
        return own

    def fill(folder: Path) -> None:
        with Progress(f"fetching makedumpfile of {_SUITE}") as progress:
            log = folder / "fetch.log"
            for package in download(_SUITE, _PACKAGES, folder, log, progress):
                run(["dpkg", "--extract", str(package), str(folder)], progress, log=log)
                package.unlink()
            _program(folder).write_text(_SCRIPT)
            _program(folder).chmod(0o755)

    return _program(make_entry("tools", "makedumpfile", _INPUTS, fill))
