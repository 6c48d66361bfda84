# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels the lab knows. A new one is a row here, plus fragments and patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from .errors import LabError

__all__ = ("VARIANTS", "BuiltKernel", "StockKernel", "Variant", "variant_named")


@dataclass(frozen=True)
class BuiltKernel:
    """Built here from a Debian source package, with the oracle in the image."""

    source_package: str
    """Debian package with /usr/src/NAME.tar.xz."""
    fragments: tuple[str, ...]
    """config/NAME.config, on top of `make tinyconfig`; later ones win."""
    patches: tuple[str, ...] = ()
    """patches/NAME.patch, in this order."""


@dataclass(frozen=True)
class StockKernel:
    """Built by Debian and only unpacked here; the oracle is a module."""

    meta_package: str
    """Depends on the kernel of the day: linux-image-amd64."""
    headers_meta_package: str
    """The same for what modules are built against."""
    early_modules: tuple[str, ...] = ("qemu_fw_cfg",)
    """Loaded before the oracle. Without qemu_fw_cfg the dump has no VMCOREINFO."""


@dataclass(frozen=True)
class Variant:
    """One kernel and the guest it runs in."""

    name: str
    what: str
    kernel: Union[BuiltKernel, StockKernel]
    unwinder: str
    """What the sheet has to say: frame_pointer, orc or guess."""
    memory_mib: int = 64
    cpus: int = 2
    append: tuple[str, ...] = ()
    """Words for the kernel command line."""
    cannot: frozenset[str] = frozenset()
    """Names of cases (see check.py) that this kernel does not have."""


VARIANTS = (
    Variant(
        name="fp-lsb",
        what="6.12, frame pointers, regs encoded by setting the lowest bit (as released)",
        kernel=BuiltKernel("linux-source-6.12", ("base", "frame_pointer")),
        unwinder="frame_pointer",
    ),
    Variant(
        name="fp-v3",
        what="6.12, frame pointers, regs encoded by clearing the highest bit (the v3 posting)",
        kernel=BuiltKernel("linux-source-6.12", ("base", "frame_pointer"), ("encode-msb-64",)),
        unwinder="frame_pointer",
    ),
    Variant(
        name="debian",
        what="Debian's own kernel of the day, ORC, oracle as a module",
        kernel=StockKernel("linux-image-amd64", "linux-headers-amd64"),
        unwinder="orc",
        memory_mib=160,
        append=("preempt=full",),
    ),
)


def variant_named(name: str) -> Variant:
    """:raises LabError: there is no such variant."""
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    names = ", ".join(variant.name for variant in VARIANTS)
    raise LabError(f"no variant is named {name!r}; there are: {names}")
