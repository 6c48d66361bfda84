# SPDX-License-Identifier: LGPL-2.1-or-later
"""The small dump that ships with the package, and the text that says how it was made."""

from __future__ import annotations

import hashlib
import lzma
import re
import string
from pathlib import Path

from .dump import Dump, make_dump
from .errors import LabError
from .kernel import kernel_inputs
from .run import Progress
from .sources import find_source
from .variants import BuiltKernel, variant_named

__all__ = ("DEMO_VARIANT", "LIMIT_BYTES", "make_demo")

DEMO_VARIANT = "fp-lsb"
LIMIT_BYTES = 6 * 1000 * 1000
"""It ships inside a Python package."""

_HERE = Path(__file__).parent
_CHUNK = 1 << 20


def make_demo(folder: Path) -> Path:
    """Writes ``demo.vmcore.xz`` and ``demo.txt`` to ``folder``; returns the former.

    :raises LabError: there is no dump, or it does not get small enough
    """
    dump = make_dump(variant_named(DEMO_VARIANT))
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / "demo.vmcore.xz"
    part = folder / "demo.vmcore.xz.part"
    try:
        with Progress("compressing the demo") as progress:
            _compress(dump.core, part, progress)
        size = part.stat().st_size
        if size > LIMIT_BYTES:
            raise LabError(f"the demo has {size} bytes, {LIMIT_BYTES} are allowed: trim config/")
        part.replace(packed)
    finally:
        part.unlink(missing_ok=True)
    (folder / "demo.txt").write_text(_text(dump, packed))
    return packed


def _compress(source: Path, target: Path, progress: Progress) -> None:
    """As `xz -9e` does; the same input gives the same bytes with the same liblzma."""
    with (
        open(source, "rb") as plain,
        lzma.open(target, "wb", preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC64) as packed,
    ):
        while chunk := plain.read(_CHUNK):
            packed.write(chunk)
            progress.update(f"{plain.tell() >> 20} of {source.stat().st_size >> 20} MiB")


def _text(dump: Dump, packed: Path) -> str:
    variant = variant_named(DEMO_VARIANT)
    assert isinstance(variant.kernel, BuiltKernel)
    about = dump.read_about()
    source = find_source(variant.kernel)
    assert source, "the demo's kernel is of an installed package"
    inputs = kernel_inputs(variant.kernel, source)
    package, version = about["source"].split(" ", 1)
    core = dump.core.read_bytes()
    template = string.Template((_HERE / "demo.txt.in").read_text())
    return template.substitute(
        variant=variant.name,
        package=package,
        version=version,
        release=about["release"],
        build_id=about["build_id"],
        tasks=about["tasks"],
        cpus=variant.cpus,
        memory=variant.memory_mib,
        fragments="\n".join(
            f"    tests/lab/config/{name}.config" for name in variant.kernel.fragments
        ),
        patches="\n".join(f"    tests/lab/patches/{name}.patch" for name in variant.kernel.patches)
        or "    none",
        gcc=inputs["gcc"],
        ld=inputs["ld"],
        pahole=inputs["pahole"],
        qemu=about["inputs"]["qemu"],
        command=_wrapped(about["inputs"]["command"]),
        core_bytes=len(core),
        core_sha256=hashlib.sha256(core).hexdigest(),
        packed_bytes=packed.stat().st_size,
    )


def _wrapped(command: str) -> str:
    """A shell command, one option a line."""
    return "    " + re.sub(r" (?=-[a-z])", " \\\\\n        ", command)
