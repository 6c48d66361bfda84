# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds an arm64 kernel from a Debian source package.

As :mod:`.kernel` does for x86, in the same trees; but that is an input of every kernel of x86, so
what arm64 needs is apart. The oracle in those trees is of x86, and is left out: that of arm64 is a
module.

Its objects take a gigabyte and are no use once it is built. What modules are built with stays.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from .arch import cross_prefix, making_for
from .arm64_modules import MODULE_SOURCES, MODULES, WORKLOAD_PATCH, compile_arm64_modules
from .cache import Entry, exclusive, file_hash, find_entry, make_entry

# kernel.py is an input of every kernel: what only this needs is not to change it.
from .kernel import Kernel, _configure, _make, _source_tree, kernel_inputs
from .packages import ARM64, program_version, require
from .run import Progress, run
from .sources import Source, find_source, get_source
from .variants import BuiltKernel, kernel_name

__all__ = ("arm64_headers", "build_arm64_kernel", "cached_built_arm64_kernel")

_CROSS = cross_prefix("aarch64")
_NO_ORACLE = "/* SPDX-License-Identifier: GPL-2.0 */\n"
_NOT_KEPT = (".o", ".a", ".ko", ".cmd", ".bin", ".btf")


def _inputs(kernel: BuiltKernel, source: Source) -> dict[str, str]:
    require(ARM64)
    return {
        **kernel_inputs(kernel, source),
        "arm64": file_hash(Path(__file__)),
        "cross gcc": program_version(f"{_CROSS}gcc"),
        "cross ld": program_version(f"{_CROSS}ld"),
    }


def _module_inputs(entry: Entry) -> dict[str, str]:
    return {"kernel": entry.name, "sources": file_hash(*MODULE_SOURCES, WORKLOAD_PATCH)}


def _as_kernel(entry: Entry, modules: Entry, source: Source) -> Kernel:
    return Kernel(
        entry,
        entry / "Image",
        tuple(modules / f"{name}.ko" for name in MODULES),
        f"{source.package} {source.version}",
    )


def cached_built_arm64_kernel(kernel: BuiltKernel) -> Optional[Kernel]:
    """The kernel, if it and its modules were built."""
    source = find_source(kernel)
    if not source:
        return None
    entry = find_entry("kernels", kernel_name(kernel), _inputs(kernel, source))
    if not entry:
        return None
    modules = find_entry("modules", kernel_name(kernel), _module_inputs(entry))
    return _as_kernel(entry, modules, source) if modules else None


def build_arm64_kernel(kernel: BuiltKernel) -> Kernel:
    """Builds ``vmlinux``, ``Image`` and the modules, unless that was done before."""
    name = kernel_name(kernel)
    source = get_source(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building {name}") as progress:
            objects = _compile(kernel, source, folder / "build.log", progress)
            shutil.copy2(objects / "arch/arm64/boot/Image", folder)
            for built in ("vmlinux", "System.map"):
                shutil.copy2(objects / built, folder)
            shutil.copy2(objects / ".config", folder / "config")
            _remove_objects(objects)

    entry = make_entry("kernels", name, _inputs(kernel, source), fill)

    def fill_modules(folder: Path) -> None:
        with Progress(f"building modules for {name}") as progress:
            headers = arm64_headers(kernel, folder / "build.log", progress)
            compile_arm64_modules(headers, MODULE_SOURCES, WORKLOAD_PATCH, folder, progress)

    modules = make_entry("modules", name, _module_inputs(entry), fill_modules)
    return _as_kernel(entry, modules, source)


def _objects(kernel: BuiltKernel, tree: Path) -> Path:
    return tree / f"build-{kernel_name(kernel)}"


def _compile(kernel: BuiltKernel, source: Source, log: Path, progress: Progress) -> Path:
    """Makes the tree of a kernel up to date, and returns the folder of its objects."""
    with exclusive("kernels"), making_for("aarch64"):
        tree = _source_tree(kernel, source, log, progress)
        objects = _objects(kernel, tree)
        # make looks for a source file there first (VPATH).
        oracle = objects / "kernel/lab/oracle.c"
        oracle.parent.mkdir(parents=True, exist_ok=True)
        if not oracle.exists():
            oracle.write_text(_NO_ORACLE)
        _configure(kernel, tree, objects, log, progress)
        make = _make(kernel, tree, objects)
        run([*make, "-j", str(os.cpu_count() or 1), "Image", "modules"], progress, log=log)
        return objects


def arm64_headers(kernel: BuiltKernel, log: Path, progress: Progress) -> Path:
    """The folder that modules of a kernel are built against: made again if the tree is a new one."""
    source = get_source(kernel)
    with exclusive("kernels"):
        objects = _objects(kernel, _source_tree(kernel, source, log, progress))
        if not (objects / "Module.symvers").exists():
            _compile(kernel, source, log, progress)
            _remove_objects(objects)
        return objects


def _remove_objects(objects: Path) -> None:
    """Removes what is of no use to build modules."""
    for path in list(_files(objects)):
        if path.name.endswith(_NOT_KEPT) or re.match(r"\.?(?:tmp_)?vmlinux|Image", path.name):
            path.unlink()


def _files(objects: Path) -> Iterator[Path]:
    """All but those of scripts/, which modules are built by."""
    for folder, folders, names in os.walk(objects):
        if Path(folder) == objects:
            folders.remove("scripts")
        for name in names:
            yield Path(folder, name)
