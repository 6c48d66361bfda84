# SPDX-License-Identifier: LGPL-2.1-or-later
"""Gets a kernel that Debian built: downloads, unpacks, builds the oracle for it. Needs no root."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Optional

from .cache import Entry, file_hash, find_entry, make_entry
from .errors import LabError
from .kernel import KERNEL_SOURCES, Kernel, compile_modules
from .packages import STOCK, program_version, require
from .run import Progress, run
from .variants import StockKernel, kernel_name

__all__ = ("cached_stock_kernel", "get_stock_kernel", "stock_inputs")


class _Package(NamedTuple):
    name: str
    version: str
    depends: str


def _newest(package: str) -> _Package:
    """What apt would install today."""
    result = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    fields = dict(
        line.split(": ", 1) for line in result.stdout.splitlines() if re.match(r"[\w-]+: ", line)
    )
    if result.returncode or "Version" not in fields:
        raise LabError(f"apt knows no package {package}; as root: apt-get update")
    return _Package(package, fields["Version"], fields.get("Depends", ""))


def _dependency(package: _Package, pattern: str) -> _Package:
    match = re.search(rf"\b({pattern})(?=[ ,]|$)", package.depends)
    if not match:
        raise LabError(f"{package.name} {package.version} depends on nothing like {pattern}")
    return _newest(match[1])


def _packages(kernel: StockKernel) -> list[_Package]:
    """The image first, then all that modules for it are built with."""
    image = _dependency(_newest(kernel.meta_package), r"linux-image-[^ ,]+")
    headers = _dependency(_newest(kernel.headers_meta_package), r"linux-headers-[^ ,]+")
    common = _dependency(headers, r"linux-headers-[^ ,]+-common")
    kbuild = _dependency(headers, r"linux-kbuild-[^ ,]+")
    return [image, headers, common, kbuild]


def _compiler(headers: _Package) -> str:
    match = re.search(r"linux-compiler-(gcc-\d+)", headers.depends)
    return match[1] if match else "gcc"


def _release(image: _Package) -> str:
    return image.name[len("linux-image-") :]


def stock_inputs(kernel: StockKernel) -> dict[str, str]:
    """All that an unpacked kernel and its modules depend on.

    :raises LabError: apt does not know the packages, or a program is not installed
    """
    require(STOCK)
    packages = _packages(kernel)
    compiler = _compiler(packages[1])
    require([compiler])
    return {
        "packages": ", ".join(f"{package.name} {package.version}" for package in packages),
        "early": " ".join(kernel.early_modules),
        "kernel": file_hash(*KERNEL_SOURCES),
        "builder": file_hash(Path(__file__)),
        "gcc": program_version(compiler),
    }


def _as_kernel(entry: Entry, kernel: StockKernel, inputs: dict[str, str]) -> Kernel:
    names = (*kernel.early_modules, "lab_oracle", "lab_helper")
    modules = tuple(entry / f"{name}.ko" for name in names)
    return Kernel(entry, entry / "vmlinuz", modules, inputs["packages"].split(", ")[0])


def cached_stock_kernel(kernel: StockKernel) -> Optional[Kernel]:
    """The kernel, if it was fetched."""
    inputs = stock_inputs(kernel)
    entry = find_entry("kernels", kernel_name(kernel), inputs)
    return _as_kernel(entry, kernel, inputs) if entry else None


def get_stock_kernel(kernel: StockKernel) -> Kernel:
    """Fetches the image and builds the modules, unless that was done before."""
    inputs = stock_inputs(kernel)

    def fill(folder: Path) -> None:
        packages = _packages(kernel)
        with Progress(f"fetching {packages[0].name}") as progress:
            _fetch(kernel, packages, folder, progress)

    return _as_kernel(make_entry("kernels", kernel_name(kernel), inputs, fill), kernel, inputs)


def _fetch(kernel: StockKernel, packages: list[_Package], folder: Path, progress: Progress) -> None:
    log = folder / "build.log"
    root = folder / "root"
    root.mkdir()
    wanted = [f"{package.name}={package.version}" for package in packages]
    run(["apt-get", "download", *wanted], progress, log=log, cwd=root)
    for archive in sorted(root.glob("*.deb")):
        run(["dpkg", "--extract", str(archive), str(root)], progress, log=log)
        archive.unlink()
    release = _release(packages[0])
    shutil.copy2(root / f"boot/vmlinuz-{release}", folder / "vmlinuz")
    shutil.copy2(root / f"boot/config-{release}", folder / "config")
    for name in kernel.early_modules:
        _copy_module(root / "lib/modules" / release, name, folder)
    headers = root / "usr/src" / packages[1].name
    _relocate(headers / "Makefile", root)
    _relocate(headers / ".kernelvariables", root)
    make = ["make", "-C", str(headers), f"CC={_compiler(packages[1])}"]
    compile_modules(make, KERNEL_SOURCES, folder, log, progress, builtin_oracle=False)
    shutil.rmtree(root)


def _relocate(makefile: Path, root: Path) -> None:
    """The packages are made to lie under /usr/src; these lie under ``root``."""
    text = makefile.read_text()
    makefile.write_text(re.sub(r"(?<![\w./])/usr/(?=src/|lib/linux-)", f"{root}/usr/", text))


def _copy_module(modules: Path, name: str, folder: Path) -> None:
    found = sorted(modules.glob(f"**/{name}.ko*"))
    if not found:
        return  # built in
    if found[0].suffix != ".ko":
        decompress = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-dc"], ".gz": ["gzip", "-dc"]}
        with open(folder / f"{name}.ko", "wb") as out:
            subprocess.run([*decompress[found[0].suffix], str(found[0])], stdout=out, check=True)
        return
    shutil.copy(found[0], folder)
