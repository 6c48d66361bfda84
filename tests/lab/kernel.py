# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds a kernel, with the oracle in its image, from a Debian source package.

The source is unpacked once for each set of patches and stays, with the objects
of the last build of each variant in it: a change of the C files here costs
seconds, not minutes. Only what a finished build gave goes into the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from .cache import Entry, cache_dir, exclusive, file_hash, find_entry, make_entry
from .errors import LabError
from .packages import BUILD, program_version, require
from .run import Progress, run
from .sources import Source, find_source, get_source
from .variants import BuiltKernel, kernel_name

__all__ = (
    "CRASH_SOURCES",
    "KERNEL_SOURCES",
    "Kernel",
    "build_crash_module",
    "build_kernel",
    "cached_crash_module",
    "cached_kernel",
    "compile_modules",
    "kernel_inputs",
)

_HERE = Path(__file__).parent
_IN_IMAGE = ("oracle.c", "lookup.h", "sheet.h")
KERNEL_SOURCES = tuple(sorted((_HERE / "kernel").iterdir()))
"""The C files of the oracle and the helper, and their Kbuild."""
CRASH_SOURCES = tuple(sorted((_HERE / "crash_module").iterdir()))
"""The same of the module that crashes."""

_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "drgn-tools",
    "KBUILD_BUILD_HOST": "lab",
    "KBUILD_BUILD_VERSION": "1",
}
"""So that the same packages give the same build ID, wherever and whenever they are built."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted."""

    entry: Entry
    image: Path
    """bzImage or vmlinuz."""
    modules: tuple[Path, ...]
    """To be loaded in the guest, in this order."""
    source: str
    """Debian package and version it comes from."""

    def with_module(self, module: Path) -> Kernel:
        """The same, with one more module to be loaded."""
        return replace(self, modules=(*self.modules, module))

    @property
    def vmlinux(self) -> Path:
        """With DWARF; does not exist for a stock kernel."""
        return self.entry / "vmlinux"


def _config_files(kernel: BuiltKernel) -> list[Path]:
    return [_HERE / "config" / f"{name}.config" for name in kernel.fragments]


def _patch_files(kernel: BuiltKernel) -> list[Path]:
    return [_HERE / "patches" / f"{name}.patch" for name in kernel.patches]


def kernel_inputs(kernel: BuiltKernel, source: Source) -> dict[str, str]:
    """All that a built kernel depends on.

    :raises LabError: a program is not installed
    """
    require(BUILD)
    return {
        "source": f"{source.package} {source.version}",
        "config": file_hash(*_config_files(kernel)),
        "patches": file_hash(*_patch_files(kernel)),
        "kernel": file_hash(*KERNEL_SOURCES),
        "builder": file_hash(Path(__file__)),
        "gcc": program_version("gcc"),
        "ld": program_version("ld"),
        "pahole": program_version("pahole"),
    }


def _as_kernel(entry: Entry, inputs: dict[str, str]) -> Kernel:
    return Kernel(entry, entry / "bzImage", (entry / "lab_helper.ko",), inputs["source"])


def cached_kernel(kernel: BuiltKernel) -> Optional[Kernel]:
    """The kernel, if it was built."""
    source = find_source(kernel)
    if not source:
        return None
    inputs = kernel_inputs(kernel, source)
    entry = find_entry("kernels", kernel_name(kernel), inputs)
    return _as_kernel(entry, inputs) if entry else None


def build_kernel(kernel: BuiltKernel) -> Kernel:
    """Builds ``vmlinux``, ``bzImage`` and the modules, unless that was done before."""
    name = kernel_name(kernel)
    source = get_source(kernel)
    inputs = kernel_inputs(kernel, source)

    def fill(folder: Path) -> None:
        with Progress(f"building {name}") as progress:
            log = folder / "build.log"
            objects, make = _compile(kernel, source, log, progress)
            shutil.copy2(objects / "arch/x86/boot/bzImage", folder)
            for built in ("vmlinux", "System.map"):
                shutil.copy2(objects / built, folder)
            shutil.copy2(objects / ".config", folder / "config")
            compile_modules(make, KERNEL_SOURCES, folder, log, progress, builtin_oracle=True)

    return _as_kernel(make_entry("kernels", name, inputs, fill), inputs)


def _compile(
    kernel: BuiltKernel, source: Source, log: Path, progress: Progress
) -> tuple[Path, list[str]]:
    """Makes the tree of a kernel up to date: its objects, and `make` for modules against them."""
    tree = _source_tree(kernel, source, log, progress)
    objects = tree / f"build-{kernel_name(kernel)}"
    objects.mkdir(exist_ok=True)
    _configure(kernel, tree, objects, log, progress)
    make = _make(kernel, tree, objects)
    run([*make, "-j", str(os.cpu_count() or 1), "bzImage", "modules"], progress, log=log)
    return objects, ["make", "-C", str(objects)]


def _crash_inputs(built: Kernel) -> dict[str, str]:
    return {"kernel": built.entry.name, "sources": file_hash(*CRASH_SOURCES)}


def _as_module(entry: Entry) -> Path:
    return entry / "lab_crash.ko"


def cached_crash_module(kernel: BuiltKernel, built: Kernel) -> Optional[Path]:
    """The module that crashes, if it was built."""
    entry = find_entry("modules", kernel_name(kernel), _crash_inputs(built))
    return _as_module(entry) if entry else None


def build_crash_module(kernel: BuiltKernel, built: Kernel) -> Path:
    """Builds the module that crashes, unless that was done before."""
    name = kernel_name(kernel)

    def fill(folder: Path) -> None:
        with exclusive("kernels"), Progress(f"building a module for {name}") as progress:
            log = folder / "build.log"
            _, make = _compile(kernel, get_source(kernel), log, progress)
            compile_modules(make, CRASH_SOURCES, folder, log, progress)

    return _as_module(make_entry("modules", name, _crash_inputs(built), fill))


def _make(kernel: BuiltKernel, tree: Path, objects: Path) -> list[str]:
    """`make` with all that is the same for every target.

    Source paths in the debug information are mapped, so that they, and with
    them the build ID, do not depend on where the cache is.
    """
    mapped = f"-fdebug-prefix-map={tree}=/usr/src/{kernel.source_package}"
    settings = {**_REPRODUCIBLE, "KCFLAGS": mapped, "KAFLAGS": mapped, "O": str(objects)}
    return ["make", "-C", str(tree), *(f"{name}={value}" for name, value in settings.items())]


def _source_tree(kernel: BuiltKernel, source: Source, log: Path, progress: Progress) -> Path:
    """The unpacked, patched source with the oracle in kernel/lab/."""
    name = re.sub(r"[^\w.+-]", "_", f"{source.package}_{source.version}")
    patches = _patch_files(kernel)
    if patches:
        name += f"+{'+'.join(kernel.patches)}-{file_hash(*patches)[:8]}"
    tree = cache_dir() / "trees" / name
    if not tree.exists():
        _unpack(kernel, source, tree, log, progress)
    for name in _IN_IMAGE:
        _update(tree / "kernel/lab" / name, (_HERE / "kernel" / name).read_bytes())
    return tree


def _unpack(kernel: BuiltKernel, source: Source, tree: Path, log: Path, progress: Progress) -> None:
    archive = source.archive
    if not archive.exists():
        raise LabError(
            f"{archive} is gone; as root: apt-get install --reinstall {kernel.source_package}"
        )
    tree.parent.mkdir(parents=True, exist_ok=True)
    progress.update(f"unpacking {archive}")
    with (
        exclusive("kernels"),
        tempfile.TemporaryDirectory(prefix=".part-", dir=tree.parent) as part,
    ):
        run(["tar", "-xf", str(archive), "-C", part, "--strip-components=1"], progress, log=log)
        for patch in _patch_files(kernel):
            run(["patch", "-p1", "--fuzz=0", "-d", part, "-i", str(patch)], progress, log=log)
        lab = Path(part, "kernel/lab")
        lab.mkdir()
        (lab / "Makefile").write_text(
            "# SPDX-License-Identifier: GPL-2.0\nccflags-y := -DLAB_BUILTIN\nobj-y += oracle.o\n"
        )
        with open(Path(part, "kernel/Makefile"), "a") as makefile:
            makefile.write("\nobj-y += lab/\n")
        Path(part).chmod(0o755)
        Path(part).rename(tree)
        Path(part).mkdir()  # for TemporaryDirectory to remove


def _update(path: Path, content: bytes) -> None:
    """Writes only what changed: make goes by the time of a file."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def _configure(
    kernel: BuiltKernel, tree: Path, objects: Path, log: Path, progress: Progress
) -> None:
    make = _make(kernel, tree, objects)
    run([*make, "tinyconfig"], progress, log=log)
    config = objects / ".config"
    with open(config, "a") as merged:
        for fragment in _config_files(kernel):
            merged.write(fragment.read_text())
    run([*make, "olddefconfig"], progress, log=log)
    refused = list(_refused(kernel, config.read_text()))
    if refused:
        raise LabError(f"{kernel.source_package}: Kconfig did not accept {', '.join(refused)}")


def _refused(kernel: BuiltKernel, config: str) -> Iterator[str]:
    """Lines of the fragments that did not make it into ``config``."""
    wanted: dict[str, str] = {}
    for fragment in _config_files(kernel):
        for line in fragment.read_text().splitlines():
            match = re.match(r"(?:# )?(CONFIG_\w+)(?:=| is not set)", line)
            if match:
                wanted[match[1]] = line
    lines = set(config.splitlines())
    for option, line in wanted.items():
        unset = line.startswith("#")
        if unset and f"{option}=y" not in lines and f"{option}=m" not in lines:
            continue  # an option this kernel does not know is as good as off
        if line not in lines:
            yield line


def compile_modules(
    make: list[str],
    sources: Iterable[Path],
    folder: Path,
    log: Path,
    progress: Progress,
    *,
    builtin_oracle: bool = True,
) -> None:
    """Builds the modules with ``make`` and puts the .ko files, stripped, into ``folder``."""
    with tempfile.TemporaryDirectory(prefix="lab-modules-") as work:
        for source in sources:
            shutil.copy(source, work)
        oracle = f"LAB_BUILTIN_ORACLE={int(builtin_oracle)}"
        run([*make, f"M={work}", oracle, "modules"], progress, log=log)
        for module in Path(work).glob("*.ko"):
            run(["strip", "--strip-debug", str(module)], progress, log=log)
            shutil.copy(module, folder)
