# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's kernel source packages: those installed here, and those of other suites.

Other suites are asked through an apt of its own: sources.list, lists and cache lie
in the lab's cache, and the machine's own apt neither sees nor needs them. Nothing
is installed, so nothing of it wants root.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .cache import Entry, cache_dir, find_entry, make_entry
from .errors import LabError
from .packages import BUILD, SUITES, package_version, require
from .run import Progress, run
from .variants import BuiltKernel

__all__ = ("Source", "find_source", "get_source")

_MIRROR = "http://deb.debian.org"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PARTS = {
    "bullseye": ("debian bullseye", "debian-security bullseye-security"),
    "bookworm": ("debian bookworm", "debian-security bookworm-security"),
    "forky": ("debian forky",),
}
"""Archive and suite of each line of sources.list."""


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


def _apt_configuration(suite: str) -> Path:
    """Makes an apt that knows one suite, and nothing of this machine."""
    folder = cache_dir() / "apt" / suite
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(
        "".join(
            f"deb [signed-by={_KEYRING}] {_MIRROR}/{archive} {name} main\n"
            for archive, name in (part.split() for part in _PARTS[suite])
        )
    )
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
        "APT::Architecture": "amd64",
        "Acquire::Languages": "none",
    }
    configuration = folder / "apt.conf"
    configuration.write_text(
        "".join(f'{name} "{value}";\n' for name, value in settings.items())
        # What the machine does after its own updates is none of our business.
        + "#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Post-Invoke;\n"
    )
    return configuration


def _fetch(kernel: BuiltKernel, folder: Path, progress: Progress) -> None:
    require(SUITES)
    log = folder / "fetch.log"
    apt = {"APT_CONFIG": str(_apt_configuration(kernel.suite))}
    run(["apt-get", "update"], progress, log=log, env=apt)
    run(["apt-get", "download", kernel.source_package], progress, log=log, cwd=folder, env=apt)
    (package,) = folder.glob("*.deb")
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
