# SPDX-License-Identifier: LGPL-2.1-or-later
"""A makedumpfile that knows today's kernels, whatever this machine has; one for each architecture.

1.7.2 of Debian 12 takes slab pages of 6.12 for user data and leaves them out, task
structs among them; and it is built without zstd. No suite of Debian has one with snappy:
who has such a one can name it in $DRGN_TOOLS_LAB_MAKEDUMPFILE.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from .apt import download
from .arch import Arch
from .cache import Entry, find_entry, make_entry
from .run import Progress, run

__all__ = ("find_makedumpfile", "get_makedumpfile")

_SUITES: dict[Arch, str] = {"x86_64": "forky", "i386": "forky-i386"}
"""It reads dumps of the machine that it was built for."""
_PACKAGES = (
    "makedumpfile", "libc6", "libbz2-1.0", "libdw1t64", "libelf1t64", "liblzma5", "liblzo2-2",
    "libsnappy1v5", "libstdc++6", "libgcc-s1", "libzstd1", "zlib1g",
)  # fmt: skip
"""With all that it is linked to: nothing of the machine's own libraries is used."""
_LOADERS: dict[Arch, str] = {"x86_64": "lib64/ld-linux-x86-64.so.2", "i386": "lib/ld-linux.so.2"}
_SCRIPT = """\
#!/bin/sh
here=$(dirname "$0")
exec "$here/usr/{loader}" \\
    --library-path "$here/usr/lib/{arch}-linux-gnu" "$here/usr/bin/makedumpfile" "$@"
"""


def _script(arch: Arch) -> str:
    return _SCRIPT.format(loader=_LOADERS[arch], arch=arch)


def _inputs(arch: Arch) -> dict[str, str]:
    return {"suite": _SUITES[arch], "packages": " ".join(_PACKAGES), "script": _script(arch)}


def _program(entry: Entry) -> Path:
    return entry / "makedumpfile"


def _own(arch: Arch) -> Optional[Path]:
    own = os.environ.get("DRGN_TOOLS_LAB_MAKEDUMPFILE") if arch == "x86_64" else None
    return Path(own).expanduser().absolute() if own else None


def find_makedumpfile(arch: Arch) -> Optional[Path]:
    """The program, if it was fetched, or the one that the environment names."""
    if own := _own(arch):
        return own
    entry = find_entry("tools", "makedumpfile", _inputs(arch))
    return _program(entry) if entry else None


def get_makedumpfile(arch: Arch) -> Path:
    """The program, fetched if need be. It stays until ``clean --all``."""
    if own := _own(arch):
        return own

    def fill(folder: Path) -> None:
        with Progress(f"fetching makedumpfile of {_SUITES[arch]}") as progress:
            log = folder / "fetch.log"
            for package in download(_SUITES[arch], _PACKAGES, folder, log, progress):
                run(["dpkg", "--extract", str(package), str(folder)], progress, log=log)
                package.unlink()
            _program(folder).write_text(_script(arch))
            _program(folder).chmod(0o755)

    return _program(make_entry("tools", "makedumpfile", _inputs(arch), fill))
