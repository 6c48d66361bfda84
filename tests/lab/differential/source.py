# SPDX-License-Identifier: LGPL-2.1-or-later
"""The few files of a kernel's source that its ORC unwinder is made of. They stay in the lab's cache."""

from __future__ import annotations

import re
from pathlib import Path

from ..cache import Entry, file_hash, find_entry, make_entry
from ..errors import LabError
from ..packages import require
from ..run import Progress, run
from ..sources import Source, get_source
from ..variants import VARIANTS, BuiltKernel

__all__ = ("CODE", "VERSIONS", "get_unwinder")

CODE = ("arch/x86/kernel/unwind_orc.c", "arch/x86/kernel/stacktrace.c")
"""What is compiled, unchanged."""
_HEADERS = (
    "arch/x86/include/asm/orc_lookup.h",
    "arch/x86/include/asm/orc_types.h",
    "arch/x86/include/asm/stacktrace.h",
    "arch/x86/include/asm/unwind.h",
    "include/linux/objtool.h",
)
"""What describes the unwinder. In place of every other header there is an empty file: see shim.h."""

_KERNELS = {
    variant.kernel.source_package.rpartition("-")[2]: variant.kernel
    for variant in VARIANTS
    if isinstance(variant.kernel, BuiltKernel) and not variant.kernel.patches
}
VERSIONS = tuple(sorted(_KERNELS, key=lambda version: [int(n) for n in version.split(".")]))
"""Kernel versions whose source the lab can get, the oldest first."""


def get_unwinder(version: str) -> Entry:
    """Return the folder with :data:`CODE`, ``include/`` and ``empty/``, which is made if need be.

    :param version: One of :data:`VERSIONS`
    :raises LabError: the source cannot be fetched, or is not laid out as we know it
    """
    source = get_source(_KERNELS[version])
    inputs = {
        "source": f"{source.package} {source.version}",
        "files": " ".join((*CODE, *_HEADERS)),
        "builder": file_hash(Path(__file__)),
    }
    found = find_entry("unwinders", version, inputs)
    if found:
        return found

    def fill(folder: Path) -> None:
        with Progress(f"unpacking the unwinder of {source.package}") as progress:
            _fill(source, folder, progress)

    return make_entry("unwinders", version, inputs, fill)


def _fill(source: Source, folder: Path, progress: Progress) -> None:
    require(["tar", "xz"])
    names = [f"{source.package}/{name}" for name in (*CODE, *_HEADERS)]
    unpack = ["tar", "-xJf", str(source.archive), "--strip-components=1", *names]
    run(unpack, progress, log=folder / "unpack.log", cwd=folder)
    for name in _HEADERS:
        there = folder / "include" / name.split("include/")[1]
        there.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(there)
    files = [folder / name for name in CODE] + sorted((folder / "include").rglob("*.h"))
    for file in files:
        for name in re.findall(r"^#\s*include <([\w./-]+)>", file.read_text(), re.M):
            if ".." in name:
                raise LabError(f"{file.name} includes {name}")
            empty = folder / "empty" / name
            if not (folder / "include" / name).exists():
                empty.parent.mkdir(parents=True, exist_ok=True)
                empty.touch()
