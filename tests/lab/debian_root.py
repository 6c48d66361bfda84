# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a live guest of another machine than x86-64 has besides its init: all of it from Debian.

As :mod:`.root` for x86-64; but Python's package index has no drgn for these machines, Debian has. Their Python
does not run here: that of the same suite for this machine compiles what they are to import.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from .apt import download
from .arch import Arch
from .cache import Entry, file_hash, find_entry, make_entry
from .packages import require
from .root import _APPLETS, archive_of_folder
from .run import Progress, run

__all__ = ("PACKAGES", "DebianRoot", "cached_debian_root", "get_debian_root")

_HERE = Path(__file__).parent
_PYTHON = "3.14"
_DEBS = (
    "python3-drgn", "python3-msgspec", "python3-tabulate", f"python{_PYTHON}-minimal",
    f"libpython{_PYTHON}-minimal", f"libpython{_PYTHON}-stdlib", "libc6", "libexpat1", "zlib1g", "libssl3t64",
    "libffi8", "libbz2-1.0", "liblzma5", "libncursesw6", "libtinfo6", "libreadline8t64", "libuuid1",
    "libstdc++6", "libgcc-s1", "libzstd1", "libdw1t64", "libelf1t64", "libkdumpfile12", "libaddrxlat3",
    "liblzo2-2", "libsnappy1v5", "libgomp1", "libpcre2-8-0", "busybox-static",
)  # fmt: skip
"""Of forky, whose drgn is of the release that is wanted at least."""
_COMPILER_SUITE = "forky"
_COMPILER_DEBS = (
    f"python{_PYTHON}-minimal", f"libpython{_PYTHON}-minimal", f"libpython{_PYTHON}-stdlib", "libc6",
    "libexpat1", "zlib1g",
)  # fmt: skip
"""The Python that runs here, and what it is linked to."""
_SUITES: dict[Arch, str] = {"aarch64": "forky-arm64", "i386": "forky-i386"}
_LIBRARIES: dict[Arch, str] = {"aarch64": "aarch64-linux-gnu", "i386": "i386-linux-gnu"}
_UNUSED = (
    "etc", "usr/sbin", "usr/share", "usr/lib/locale", f"usr/lib/python{_PYTHON}/idlelib",
    f"usr/lib/python{_PYTHON}/ensurepip", f"usr/lib/python{_PYTHON}/tkinter", "usr/lib/valgrind",
)  # fmt: skip
PACKAGES = f"usr/local/lib/python{_PYTHON}/dist-packages"
"""Where Debian's Python looks for what the administrator installed."""


class DebianRoot(NamedTuple):
    """The files, in an archive."""

    entry: Entry

    @property
    def archive(self) -> Path:
        """A cpio archive for the end of an initramfs."""
        return self.entry / "root.cpio"

    def compile(self, folder: Path, progress: Progress, log: Path) -> None:
        """Compile all that is below a folder, beside it, for the guest's Python."""
        _compile(self.entry / "here", folder, progress, log)


def _inputs(arch: Arch) -> dict[str, str]:
    return {
        "suite": _SUITES[arch],
        "packages": " ".join(_DEBS),
        "builder": file_hash(Path(__file__), _HERE / "initramfs.py"),
    }


def cached_debian_root(arch: Arch) -> Optional[DebianRoot]:
    """The files, if they were fetched."""
    entry = find_entry("roots", f"python-{arch}", _inputs(arch))
    return DebianRoot(entry) if entry else None


def get_debian_root(arch: Arch) -> DebianRoot:
    """The files, fetched if need be."""
    require(["dpkg"])

    def fill(folder: Path) -> None:
        with Progress(f"fetching Python for a guest ({arch})") as progress:
            log = folder / "fetch.log"
            root, here = folder / "root", folder / "here"
            _unpack(_SUITES[arch], _DEBS, root, progress, log)
            _unpack(_COMPILER_SUITE, _COMPILER_DEBS, here, progress, log)
            for name in (*_UNUSED, f"usr/lib/{_LIBRARIES[arch]}/gconv"):
                shutil.rmtree(root / name, ignore_errors=True)
            for name in ("bin", "lib"):
                (root / name).symlink_to(f"usr/{name}")
            (root / "usr/bin/python3").symlink_to(f"python{_PYTHON}")
            for applet in _APPLETS:
                (root / "usr/bin" / applet).symlink_to("busybox")
            _compile(here, root / "usr", progress, log)
            (folder / "root.cpio").write_bytes(archive_of_folder(root))
            shutil.rmtree(root)

    return DebianRoot(make_entry("roots", f"python-{arch}", _inputs(arch), fill))


def _unpack(suite: str, packages: Sequence[str], root: Path, progress: Progress, log: Path) -> None:
    with tempfile.TemporaryDirectory() as fetched:
        for package in download(suite, packages, Path(fetched), log, progress):
            run(["dpkg", "--extract", str(package), str(root)], progress, log=log)


def _compile(here: Path, folder: Path, progress: Progress, log: Path) -> None:
    libraries = here / "usr/lib/x86_64-linux-gnu"
    loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    # By hash, unchecked: the archive holds no times.
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder)]
    run(
        [
            *loader,
            str(here / f"usr/bin/python{_PYTHON}"),
            "-m",
            "compileall",
            *options,
            str(folder),
        ],
        progress,
        log=log,
        env={"PYTHONHOME": str(here / "usr"), "PYTHONPATH": ""},
    )
