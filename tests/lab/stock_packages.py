# SPDX-License-Identifier: LGPL-2.1-or-later
"""The packages of a kernel that Debian built: fetched and unpacked, never installed.

What modules are built with stays unpacked. Programs in it that are linked to a newer C library
than this machine has are run with that of their own suite.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from .apt import Package, download, newest, update
from .cache import Entry, entry_path, find_entry, make_entry
from .errors import LabError
from .run import Progress, run
from .variants import StockKernel, kernel_name

__all__ = ("Unpacked", "compiler_of", "find_unpacked", "get_unpacked", "unpack", "unpacked_inputs")


_HOST = "amd64"
"""Debian's name of the architecture of this machine."""
_LAYOUT = "1"
"""Another one when this file unpacks something else: what is here is then fetched again."""


class Unpacked(NamedTuple):
    """What was fetched of a kernel."""

    entry: Entry

    @property
    def image(self) -> Path:
        """vmlinuz."""
        return self.entry / "vmlinuz"

    @property
    def config(self) -> Path:
        """The kernel's configuration."""
        return self.entry / "config"

    @property
    def headers(self) -> Path:
        """The folder where `make` builds modules."""
        (folder,) = (self.entry / "root/usr/src").glob("linux-headers-*/.kernelvariables")
        return folder.parent

    def early_module(self, name: str) -> Path:
        """A module of the kernel's own; does not exist if it is built in."""
        return self.entry / f"{name}.ko"

    @property
    def vmlinux(self) -> Path:
        """With DWARF; exists only if :attr:`.StockKernel.with_vmlinux`."""
        return self.entry / "vmlinux"

    @property
    def packages(self) -> str:
        """Names and versions: of the image, then of what modules are built with."""
        return (self.entry / "packages").read_text().strip()

    @property
    def compiler(self) -> str:
        """The one that modules are to be built with (see compiler_of())."""
        return compiler_of((self.entry / "compiler").read_text().strip())


def compiler_of(depends: str) -> str:
    """The compiler that a headers package depends on, or else the one that is installed."""
    match = re.search(r"\b(gcc-\d+)\b", depends)
    return match[1] if match and shutil.which(match[1]) else "gcc"


def unpacked_inputs(kernel: StockKernel) -> dict[str, str]:
    """What an unpacked kernel is known by: of another suite, it is the one fetched first.

    :raises LabError: apt does not know the packages
    """
    inputs = {"layout": _LAYOUT, "early": " ".join(kernel.early_modules)}
    if kernel.with_vmlinux:
        inputs["vmlinux"] = "yes"
    if kernel.suite:
        names = f"{kernel.meta_package} {kernel.headers_meta_package}"
        return {**inputs, "packages": names, "suite": kernel.suite}
    return {**inputs, "packages": _listed(_packages(kernel))}


def find_unpacked(kernel: StockKernel) -> Optional[Unpacked]:
    """The packages, if they were fetched."""
    entry = find_entry("sources", kernel_name(kernel), unpacked_inputs(kernel))
    return Unpacked(entry) if entry else None


def get_unpacked(kernel: StockKernel) -> Unpacked:
    """The packages, fetched if need be. They stay until ``clean --all``."""
    name = kernel_name(kernel)
    inputs = unpacked_inputs(kernel)
    at = entry_path("sources", name, inputs)

    def fill(folder: Path) -> None:
        with Progress(f"fetching {name}") as progress:
            _fetch(kernel, folder, at, progress)

    return Unpacked(make_entry("sources", name, inputs, fill))


# ----------------------------------------------------------------------- which they are


def _dependency(suite: str, package: Package, pattern: str) -> Package:
    match = re.search(rf"\b({pattern})(?=[ ,]|$)", package.depends)
    if not match:
        raise LabError(f"{package.name} {package.version} depends on nothing like {pattern}")
    return newest(suite, match[1])


def _packages(kernel: StockKernel) -> list[Package]:
    """The image first, then the headers, then all else that modules for it are built with."""
    suite = kernel.suite
    image = _dependency(suite, newest(suite, kernel.meta_package), r"linux-image-[^ ,]+")
    headers_meta = newest(suite, kernel.headers_meta_package)
    headers = _dependency(suite, headers_meta, r"linux-headers-[^ ,]+")
    common = _dependency(suite, headers, r"linux-headers-[^ ,]+-common(?:-rt)?")
    kbuild = _dependency(suite, headers, r"linux-kbuild-[^ ,]+")
    if kernel.arch == "aarch64":  # its programs run here
        kbuild = newest(suite, f"{kbuild.name}:{_HOST}")
    return [image, headers, common, kbuild]


def _parts(suite: str, image: Package) -> Iterator[Package]:
    """Newer images are packages without files: those hold the kernel, its modules, its config."""
    for name in re.findall(r"\blinux-(?:base|binary|modules)-\d[^ ,]+", image.depends):
        yield newest(suite, name)


def _libraries(suite: str, kbuild: Package) -> set[str]:
    """The libraries that the programs of a package are linked to, with what these depend on."""
    found: set[str] = set()
    todo = [kbuild]
    host = f":{_HOST}" if kbuild.name.endswith(f":{_HOST}") else ""
    while todo:
        names = re.findall(r"\b(?:lib[^ ,:]+|zlib1g)", todo.pop().depends)
        wanted = {f"{name}{host}" for name in set(names) - {"libc-gconv-modules-extra"}}
        for name in wanted - found:
            found.add(name)
            todo.append(newest(suite, name))
    return found


def _runs_here(kbuild: Package) -> bool:
    """This machine's C library is new enough for the programs of a package."""
    wanted = re.search(r"\blibc6 \(>= (\d+)\.(\d+)", kbuild.depends)
    here = re.search(r"(\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    return bool(
        wanted and here and tuple(map(int, wanted.groups())) <= tuple(map(int, here.groups()))
    )


def _listed(packages: list[Package]) -> str:
    return ", ".join(f"{package.name} {package.version}" for package in packages)


# ------------------------------------------------------------------------- their files


def _fetch(kernel: StockKernel, folder: Path, at: Path, progress: Progress) -> None:
    """Fills ``folder``, which will be found as ``at``."""
    log = folder / "build.log"
    suite = kernel.suite
    update(suite, log, progress)
    packages = _packages(kernel)
    image, headers, _, kbuild = packages
    release = image.name[len("linux-image-") :]
    with_image = folder / "image"
    unpack(suite, [image, *_parts(suite, image)], with_image, log, progress)
    for name in ("vmlinuz", "config"):
        _first_of(
            with_image / f"boot/{name}-{release}",
            with_image / f"usr/lib/modules/{release}/{name}",
        ).rename(folder / name)
    for name in kernel.early_modules:
        _copy_module(with_image, name, folder)
    run(["rm", "-r", str(with_image)], progress, log=log)
    if kernel.with_vmlinux:
        # Not what linux-image-ARCH-dbg depends on: that may be a day newer than the image.
        debug = newest(suite, f"{image.name}-dbg")
        unpack_vmlinux(suite, debug, release, folder, log, progress)
    root = folder / "root"
    unpack(suite, packages[1:], root, log, progress)
    for makefile in (root / f"usr/src/{headers.name}").glob("*"):
        if makefile.name in ("Makefile", ".kernelvariables"):
            relocate(makefile, at / "root")
    if not _runs_here(kbuild):
        libraries = [newest(suite, name) for name in sorted(_libraries(suite, kbuild))]
        unpack(suite, libraries, root, log, progress)
        for program in sorted((root / "usr/lib").glob("linux-kbuild-*/**/*")):
            if program.is_file() and not program.is_symlink():
                _run_with_own_libc(program, at / "root")
    (folder / "packages").write_text(f"{_listed(packages)}\n")
    (folder / "compiler").write_text(f"{headers.depends}\n")


def unpack(suite: str, packages: list[Package], root: Path, log: Path, progress: Progress) -> None:
    """Fetches packages and unpacks their files below ``root``."""
    root.mkdir(exist_ok=True)
    wanted = [f"{package.name}={package.version}" for package in packages]
    for archive in download(suite, wanted, root, log, progress):
        run(["dpkg", "--extract", str(archive), str(root)], progress, log=log)
        archive.unlink()


_UNPACK_ONE = 'dpkg-deb --fsys-tarfile "$1" | tar --extract --file=- --directory="$2" "$3"'


def unpack_vmlinux(
    suite: str, package: Package, release: str, folder: Path, log: Path, progress: Progress
) -> None:
    """Fetches a package with debuginfo and puts the vmlinux into ``folder``, without the 5 GB of its modules."""
    work = folder / "debug"
    work.mkdir()
    wanted = f"{package.name}={package.version}"
    (archive,) = download(suite, [wanted], work, log, progress)
    inside = f"./usr/lib/debug/boot/vmlinux-{release}"
    run(["sh", "-c", _UNPACK_ONE, "sh", str(archive), str(work), inside], progress, log=log)
    (work / inside).rename(folder / "vmlinux")
    run(["rm", "-r", str(work)], progress, log=log)


def _first_of(*paths: Path) -> Path:
    for path in paths:
        if path.exists():
            return path
    raise LabError(f"the packages hold no {paths[0].name}")


def relocate(makefile: Path, root: Path) -> None:
    """The packages are made to lie under /usr/src; these lie under ``root``."""
    text = makefile.read_text()
    makefile.write_text(re.sub(r"(?<![\w./])/usr/(?=src/|lib/linux-)", f"{root}/usr/", text))


_SCRIPT = """\
#!/bin/sh
exec {loader} --library-path {libraries} --argv0 "$0" "$0.elf" "$@"
"""


def _run_with_own_libc(program: Path, root: Path) -> None:
    """Puts a script in the place of a program, if it is one.

    Programs of these packages run others whose names begin with their own, hence --argv0.
    """
    with open(program, "rb") as file:
        if file.read(4) != b"\x7fELF" or not program.stat().st_mode & 0o100:
            return
    program.rename(f"{program}.elf")
    program.write_text(
        _SCRIPT.format(
            loader=shlex.quote(f"{root}/usr/lib64/ld-linux-x86-64.so.2"),
            libraries=shlex.quote(f"{root}/usr/lib/x86_64-linux-gnu"),
        )
    )
    program.chmod(0o755)


def _copy_module(root: Path, name: str, folder: Path) -> None:
    found = [*root.glob(f"lib/modules/**/{name}.ko*"), *root.glob(f"usr/lib/modules/**/{name}.ko*")]
    if not found:
        return  # built in
    if found[0].suffix != ".ko":
        decompress = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-dc"], ".gz": ["gzip", "-dc"]}
        with open(folder / f"{name}.ko", "wb") as out:
            subprocess.run([*decompress[found[0].suffix], str(found[0])], stdout=out, check=True)
        return
    shutil.copy(found[0], folder)
