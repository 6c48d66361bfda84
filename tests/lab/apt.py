# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packages of other Debian suites, without a word to the machine's own apt.

An apt of our own: sources.list, lists and cache lie in the lab's cache. What it
fetches is unpacked, never installed, so nothing of it wants root.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .cache import cache_dir
from .errors import LabError
from .packages import SUITES, require
from .run import Progress, run

__all__ = ("Package", "apt_configuration", "download", "newest", "update")

_MIRROR = "http://deb.debian.org"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PARTS = {
    "bullseye": ("debian bullseye", "debian-security bullseye-security"),
    "bookworm": ("debian bookworm", "debian-security bookworm-security"),
    "forky": ("debian forky",),
    "bookworm-i386": ("debian bookworm",),
    "forky-i386": ("debian forky",),
    "bookworm-arm64": ("debian bookworm", "debian-security bookworm-security"),
    "trixie-arm64": ("debian trixie", "debian-security trixie-security"),
    "forky-arm64": ("debian forky",),
}
"""Archive and suite of each line of sources.list."""
_ARCHITECTURES = {
    "bookworm-i386": ("i386",),
    "forky-i386": ("i386",),
    "bookworm-arm64": ("arm64", "amd64"),
    "trixie-arm64": ("arm64", "amd64"),
    "forky-arm64": ("arm64", "amd64"),
}
"""Debian's names of the architectures of a suite, if it is not for amd64 alone. Packages are of the first;
NAME:amd64 is of this machine's, for the programs that modules are built with."""


def apt_configuration(suite: str) -> Path:
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
    architectures = _ARCHITECTURES.get(suite, ("amd64",))
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
        "APT::Architecture": architectures[0],
        "APT::Architectures": ",".join(architectures),
        "Acquire::Languages": "none",
    }
    configuration = folder / "apt.conf"
    configuration.write_text(
        "".join(f'{name} "{value}";\n' for name, value in settings.items())
        # What the machine does after its own updates is none of our business.
        + "#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Post-Invoke;\n"
    )
    return configuration


def download(
    suite: str, packages: Sequence[str], folder: Path, log: Path, progress: Progress
) -> list[Path]:
    """Fetches the newest of each package of a suite; returns the .deb files in ``folder``."""
    update(suite, log, progress)
    run(["apt-get", "download", *packages], progress, log=log, cwd=folder, env=_of_suite(suite))
    return sorted(folder.glob("*.deb"))


def update(suite: str, log: Path, progress: Progress) -> None:
    """Fetches the lists of a suite. Those of the machine's own apt ("") stay as they are."""
    if suite:
        require(SUITES)
        run(["apt-get", "update"], progress, log=log, env=_of_suite(suite))
        newest.cache_clear()


class Package(NamedTuple):
    """A package that apt knows."""

    name: str
    version: str
    depends: str
    """The field Depends, as it stands in the list."""


@functools.cache  # it takes apt a second
def newest(suite: str, package: str) -> Package:
    """What apt would install today.

    :param suite: "" for what the machine's own apt would install
    :raises LabError: apt does not know the package
    """
    result = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        env={**os.environ, **_of_suite(suite)},
    )
    fields = dict(
        line.split(": ", 1) for line in result.stdout.splitlines() if re.match(r"[\w-]+: ", line)
    )
    if result.returncode or "Version" not in fields:
        where = f"{suite} has no package" if suite else "apt knows no package"
        raise LabError(f"{where} {package}{'' if suite else '; as root: apt-get update'}")
    return Package(package, fields["Version"], fields.get("Depends", ""))


def _of_suite(suite: str) -> Mapping[str, str]:
    """What tells apt which suite is meant, for its environment."""
    return {"APT_CONFIG": str(apt_configuration(suite))} if suite else {}
