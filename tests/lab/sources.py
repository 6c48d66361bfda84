# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's kernel source packages: those installed here, and those of other suites."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .apt import download
from .cache import Entry, find_entry, make_entry
from .errors import LabError
from .packages import BUILD, package_version, require
from .run import Progress, run
from .variants import BuiltKernel

__all__ = ("Source", "find_source", "get_source")


@dataclass(frozen=True)
class Source:
    """A source package that is here."""

    package: str
    version: str
    archive: Path
    """NAME.tar.xz"""


def find_source(kernel: BuiltKernel) -> Optional[Source]:
    """The source of a kernel, if it is here; of another suite, the one fetched first.

    :raises LabError: it has to be installed and is not, or a program to build it
    """
    require(BUILD, [] if kernel.suite else [kernel.source_package])
    if not kernel.suite:
        version = package_version(kernel.source_package)
        return Source(
            kernel.source_package, version, Path(f"/usr/src/{kernel.source_package}.tar.xz")
        )
    entry = find_entry("sources", kernel.source_package, _inputs(kernel))
    return _as_source(kernel, entry) if entry else None


def get_source(kernel: BuiltKernel) -> Source:
    """The source of a kernel, fetched if need be. It stays until ``clean --all``."""
    here = find_source(kernel)
    if here:
        return here

    def fill(folder: Path) -> None:
        with Progress(f"fetching {kernel.source_package} of {kernel.suite}") as progress:
            _fetch(kernel, folder, progress)

    return _as_source(kernel, make_entry("sources", kernel.source_package, _inputs(kernel), fill))


def _inputs(kernel: BuiltKernel) -> dict[str, str]:
    return {"package": kernel.source_package, "suite": kernel.suite}


def _as_source(kernel: BuiltKernel, entry: Entry) -> Source:
    version = (entry / "version").read_text().strip()
    return Source(kernel.source_package, version, entry / f"{kernel.source_package}.tar.xz")


def _fetch(kernel: BuiltKernel, folder: Path, progress: Progress) -> None:
    log = folder / "fetch.log"
    (package,) = download(kernel.suite, [kernel.source_package], folder, log, progress)
    version = subprocess.run(
        ["dpkg-deb", "--field", str(package), "Version"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    root = folder / "root"
    run(["dpkg", "--extract", str(package), str(root)], progress, log=log)
    name = f"{kernel.source_package}.tar.xz"
    if not (root / "usr/src" / name).exists():
        raise LabError(f"{package.name} has no /usr/src/{name}")
    (root / "usr/src" / name).rename(folder / name)
    run(["rm", "-r", str(root), str(package)], progress, log=log)
    (folder / "version").write_text(f"{version}\n")
