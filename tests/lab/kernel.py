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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .cache import Entry, cache_dir, exclusive, file_hash, find_entry, make_entry
from .errors import LabError
from .packages import BUILD, package_version, program_version, require
from .run import Progress, run
from .variants import BuiltKernel, Variant

__all__ = (
    "KERNEL_SOURCES",
    "Kernel",
    "build_kernel",
    "cached_kernel",
    "compile_modules",
    "kernel_inputs",
)

_HERE = Path(__file__).parent
_IN_IMAGE = ("oracle.c", "lookup.h", "sheet.h")
KERNEL_SOURCES = tuple(sorted((_HERE / "kernel").iterdir()))
"""The C files of the oracle and the helper, and their Kbuild."""

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

    @property
    def vmlinux(self) -> Path:
        """With DWARF; does not exist for a stock kernel."""
        return self.entry / "vmlinux"


def _config_files(kernel: BuiltKernel) -> list[Path]:
    return [_HERE / "config" / f"{name}.config" for name in kernel.fragments]


def _patch_files(kernel: BuiltKernel) -> list[Path]:
    return [_HERE / "patches" / f"{name}.patch" for name in kernel.patches]


def kernel_inputs(kernel: BuiltKernel) -> dict[str, str]:
    """All that a built kernel depends on.

    :raises LabError: the source package or a program is not installed
    """
    require(BUILD, [kernel.source_package])
    return {
        "source": f"{kernel.source_package} {package_version(kernel.source_package)}",
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


def cached_kernel(variant: Variant, kernel: BuiltKernel) -> Optional[Kernel]:
    """The kernel, if it was built."""
    inputs = kernel_inputs(kernel)
    entry = find_entry("kernels", variant.name, inputs)
    return _as_kernel(entry, inputs) if entry else None


def build_kernel(variant: Variant, kernel: BuiltKernel) -> Kernel:
    """Builds ``vmlinux``, ``bzImage`` and the modules, unless that was done before."""
    inputs = kernel_inputs(kernel)

    def fill(folder: Path) -> None:
        with Progress(f"building {variant.name}") as progress:
            log = folder / "build.log"
            tree = _source_tree(kernel, log, progress)
            objects = tree / f"build-{variant.name}"
            objects.mkdir(exist_ok=True)
            _configure(kernel, tree, objects, log, progress)
            make = _make(kernel, tree, objects)
            run([*make, "-j", str(os.cpu_count() or 1), "bzImage", "modules"], progress, log=log)
            shutil.copy2(objects / "arch/x86/boot/bzImage", folder)
            for name in ("vmlinux", "System.map"):
                shutil.copy2(objects / name, folder)
            shutil.copy2(objects / ".config", folder / "config")
            compile_modules(
                [*make[:1], "-C", str(objects)], folder, log, progress, builtin_oracle=True
            )

    return _as_kernel(make_entry("kernels", variant.name, inputs, fill), inputs)


def _make(kernel: BuiltKernel, tree: Path, objects: Path) -> list[str]:
    """`make` with all that is the same for every target.

    Source paths in the debug information are mapped, so that they, and with
    them the build ID, do not depend on where the cache is.
    """
    mapped = f"-fdebug-prefix-map={tree}=/usr/src/{kernel.source_package}"
    settings = {**_REPRODUCIBLE, "KCFLAGS": mapped, "KAFLAGS": mapped, "O": str(objects)}
    return ["make", "-C", str(tree), *(f"{name}={value}" for name, value in settings.items())]


def _source_tree(kernel: BuiltKernel, log: Path, progress: Progress) -> Path:
    """The unpacked, patched source with the oracle in kernel/lab/."""
    version = package_version(kernel.source_package)
    name = re.sub(r"[^\w.+-]", "_", f"{kernel.source_package}_{version}")
    patches = _patch_files(kernel)
    if patches:
        name += f"+{'+'.join(kernel.patches)}-{file_hash(*patches)[:8]}"
    tree = cache_dir() / "trees" / name
    if not tree.exists():
        _unpack(kernel, tree, log, progress)
    for source in _IN_IMAGE:
        _update(tree / "kernel/lab" / source, (_HERE / "kernel" / source).read_bytes())
    return tree


def _unpack(kernel: BuiltKernel, tree: Path, log: Path, progress: Progress) -> None:
    archive = Path(f"/usr/src/{kernel.source_package}.tar.xz")
    if not archive.exists():
        raise LabError(
            f"{archive} is gone; as root: apt-get install --reinstall {kernel.source_package}"
        )
    tree.parent.mkdir(parents=True, exist_ok=True)
    progress.update(f"unpacking {archive}")
    with exclusive(), tempfile.TemporaryDirectory(prefix=".part-", dir=tree.parent) as part:
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
    make: list[str], folder: Path, log: Path, progress: Progress, *, builtin_oracle: bool
) -> None:
    """Builds the modules with ``make`` and puts the .ko files, stripped, into ``folder``."""
    with tempfile.TemporaryDirectory(prefix="lab-modules-") as work:
        for source in KERNEL_SOURCES:
            shutil.copy(source, work)
        oracle = f"LAB_BUILTIN_ORACLE={int(builtin_oracle)}"
        run([*make, f"M={work}", oracle, "modules"], progress, log=log)
        for module in Path(work).glob("*.ko"):
            run(["strip", "--strip-debug", str(module)], progress, log=log)
            shutil.copy(module, folder)
