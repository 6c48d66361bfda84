# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a live guest has besides its init: Debian's Python, drgn, msgspec, tabulate and a busybox.

The guest unpacks it into its memory, so it holds what is needed and no more. Python's own
programs run here, too (through their own libc), to compile what they are to import there:
under emulation that would take longer than all the rest.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .apt import download
from .cache import Entry, file_hash, find_entry, make_entry
from .initramfs import archive_of
from .packages import require
from .run import Progress, run

__all__ = ("PACKAGES", "Root", "archive_of_folder", "cached_root", "get_root")

_HERE = Path(__file__).parent
_SUITE = "bookworm"
_PYTHON = "3.11"
_DEBS = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libexpat1",
    "zlib1g", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libncursesw6", "libtinfo6",
    "libreadline8", "libuuid1", "libstdc++6", "libgcc-s1", "busybox-static",
)  # fmt: skip
_WHEELS = ("drgn", "msgspec", "tabulate")
"""In the versions that run here."""
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_UNUSED = (
    "etc", "sbin", "usr/sbin", "usr/share", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/locale",
    "usr/lib/python3.11/ensurepip", "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/tkinter", "usr/lib/python3.11/distutils", "usr/lib/valgrind",
)  # fmt: skip
PACKAGES = f"usr/local/lib/python{_PYTHON}/dist-packages"
"""Where Debian's Python looks for what the administrator installed."""
_APPLETS = ("sh", "cat", "grep", "head", "tail", "wc", "sort")
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


@dataclass(frozen=True)
class Root:
    """The files, and an archive of them."""

    entry: Entry

    @property
    def archive(self) -> Path:
        """A cpio archive for the end of an initramfs."""
        return self.entry / "root.cpio"

    def compile(self, folder: Path, progress: Progress, log: Path) -> None:
        """Has the guest's Python compile all that is below a folder, beside it."""
        _compile(self.entry / "root", folder, progress, log)


def _inputs() -> dict[str, str]:
    return {
        "suite": _SUITE,
        "packages": " ".join(_DEBS),
        "wheels": " ".join(_wheels()),
        "builder": file_hash(Path(__file__), _HERE / "initramfs.py"),
    }


def _wheels() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in _WHEELS]


def cached_root() -> Optional[Root]:
    """The files, if they were fetched."""
    entry = find_entry("roots", "python", _inputs())
    return Root(entry) if entry else None


def get_root() -> Root:
    """The files, fetched if need be: from Debian, and from Python's package index."""
    require(["dpkg", "strip"])

    def fill(folder: Path) -> None:
        with Progress("fetching Python for a guest") as progress:
            log = folder / "fetch.log"
            root, fetched = folder / "root", folder / "fetched"
            fetched.mkdir()
            for package in download(_SUITE, _DEBS, fetched, log, progress):
                run(["dpkg", "--extract", str(package), str(root)], progress, log=log)
            for name in _UNUSED:
                shutil.rmtree(root / name, ignore_errors=True)
            _fetch_wheels(fetched, root / PACKAGES, progress, log)
            shutil.rmtree(fetched)
            (root / "usr/bin/python3").symlink_to(f"python{_PYTHON}")
            for applet in _APPLETS:
                (root / "bin" / applet).symlink_to("busybox")
            _compile(root, root / "usr", progress, log)
            (folder / "root.cpio").write_bytes(archive_of_folder(root))

    return Root(make_entry("roots", "python", _inputs(), fill))


def _fetch_wheels(folder: Path, packages: Path, progress: Progress, log: Path) -> None:
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    wanted = ["--only-binary", ":all:", "--python-version", _PYTHON, *platforms]
    run([*pip, *wanted, "-d", str(folder), *_wheels()], progress, log=log)
    packages.mkdir(parents=True)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    # A fifth of their size.
    for library in packages.rglob("*.so*"):
        run(["strip", "--strip-debug", str(library)], progress, log=log)


def _compile(root: Path, folder: Path, progress: Progress, log: Path) -> None:
    # By hash, unchecked: the archive holds no times.
    libraries = ":".join(str(root / name) for name in _LIBRARIES)
    loader = root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    python = [str(loader), "--library-path", libraries, str(root / f"usr/bin/python{_PYTHON}")]
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder)]
    run(
        [*python, "-m", "compileall", *options, str(folder)],
        progress,
        log=log,
        env={"PYTHONHOME": str(root / "usr"), "PYTHONPATH": ""},
    )


def archive_of_folder(folder: Path) -> bytes:
    """All files and links below a folder, as a cpio archive."""
    files, links = {}, {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            links[name] = str(path.readlink())
        elif path.is_file():
            files[name] = path.read_bytes()
    return archive_of(files, links=links)
