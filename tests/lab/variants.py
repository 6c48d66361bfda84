# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels the lab knows. A new one is a row here, plus fragments and patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Union

from .errors import LabError

__all__ = (
    "GROUPS",
    "VARIANTS",
    "BuiltKernel",
    "Crash",
    "StockKernel",
    "Variant",
    "kernel_name",
    "variant_named",
    "variants_of",
)

GROUPS = {
    "core": "what `make lab` and CI run",
    "kernels": "kernels of other years and configurations",
    "crashes": "machines that died; the console is the answer sheet",
    "crashes-years": "some of them with kernels of other years",
    "formats": "one memory in the formats that dumps are made in",
}

QEMU_FORMATS = ("kdump-zlib", "kdump-lzo", "kdump-snappy")
MAKEDUMPFILE_FORMATS = ("zlib", "lzo", "snappy", "zstd", "flat", "elf", "split", "whole")


@dataclass(frozen=True)
class BuiltKernel:
    """Built here from a Debian source package, with the oracle in the image."""

    source_package: str
    """Debian package with /usr/src/NAME.tar.xz."""
    fragments: tuple[str, ...]
    """config/NAME.config, on top of `make tinyconfig`; later ones win."""
    patches: tuple[str, ...] = ()
    """patches/NAME.patch, in this order."""
    suite: str = ""
    """Debian suite to fetch the package from; "" for one that is installed."""


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
class Crash:
    """How a machine dies, and what its kernel prints of that."""

    name: str
    """What crash_module/crash.c calls it; "sysrq" is the kernel's own."""
    borders: str
    """The words in <> of the first call trace after ``begin``, in order."""
    begin: str
    """A regular expression for the line that begins the kernel's last words."""


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
    group: str = "core"
    """One of GROUPS."""
    crash: Optional[Crash] = None
    """None: the machine freezes itself and leaves an answer sheet."""
    kdump: bool = False
    """The dump is made by a crash kernel, of /proc/vmcore, not by QEMU."""
    formats: tuple[str, ...] = ()
    """The same memory in other formats, too (see formats.py): core.NAME beside the core."""


_LSB = BuiltKernel("linux-source-6.12", ("base", "frame_pointer"))
_OF_OTHER_YEARS = {
    "5.10": BuiltKernel(
        "linux-source-5.10", ("base", "frame_pointer", "6.1", "5.10"), suite="bullseye"
    ),
    "6.1": BuiltKernel("linux-source-6.1", ("base", "frame_pointer", "6.1"), suite="bookworm"),
    "7.2": BuiltKernel("linux-source-7.2", ("base", "frame_pointer", "7.2"), suite="forky"),
}
_PANIC = r"Kernel panic - not syncing: "
_FROM_PANIC = r"NMI backtrace for cpu 0"
"""From panic() on. The trace of an oops begins where the exception hit, below these stacks."""


def _crash(
    name: str,
    what: str,
    borders: str,
    begin: str = _PANIC,
    append: tuple[str, ...] = (),
    year: str = "",
) -> Variant:
    return Variant(
        name=f"crash-{name}-{year}" if year else f"crash-{name}",
        what=f"{what}, {year}" if year else what,
        kernel=_OF_OTHER_YEARS[year] if year else _LSB,
        unwinder="frame_pointer",
        append=append,
        group="crashes-years" if year else "crashes",
        crash=Crash(name, borders, begin),
    )


_NMI = ("unknown_nmi_panic=1",)


def _crashes_of(year: str) -> tuple[Variant, ...]:
    """One for each kind of stack."""
    return (
        _crash("sysrq", "sysrq-c in a system call", "TASK", year=year),
        _crash("null-call", "a call of address 0", "TASK", r"BUG: ", year=year),
        _crash("softirq-task", "panic in a softirq that a task let in", "IRQ TASK", year=year),
        _crash(
            "hardirq-softirq",
            "a page fault in an interrupt in a softirq after an interrupt",
            "IRQ TASK",
            r"BUG: ",
            year=year,
        ),
        _crash("nmi-irq", "panic in an NMI in an interrupt", "NMI IRQ TASK", _PANIC, _NMI, year),
        _crash("debug", "panic at a hardware breakpoint", "#DB TASK", year=year),
        _crash("kretprobe", "BUG() in a kretprobe's handler", "TASK", r"kernel BUG at ", year=year),
        _crash("fgraph", "a fault below swapped return addresses", "TASK", r"BUG: ", year=year),
        _crash("stack-overflow", "a double fault: no stack left", "TASK", r"BUG: ", year=year),
    )


def _as_kdump(variant: Variant) -> Variant:
    """The same crash, dumped by a crash kernel: with the registers of the moment it died."""
    return replace(
        variant,
        name=f"{variant.name}-kdump",
        what=f"{variant.what}; /proc/vmcore of a crash kernel",
        memory_mib=_KDUMP_MIB,
        append=(*variant.append, _CRASHKERNEL),
        kdump=True,
    )


_KDUMP_MIB = 384
_CRASHKERNEL = "crashkernel=160M"
# Not after an NMI or a double fault: what is said there comes on the console later, when
# the crash kernel has long been started.
_NOTED = (
    _crash("sysrq", "sysrq-c in a system call", "TASK"),
    _crash("null-call", "a call of address 0", "TASK", r"BUG: "),
    _crash("bug", "BUG() in a system call", "TASK", r"kernel BUG at "),
    _crash("hardirq-fault", "a page fault in a hard interrupt", "IRQ TASK", r"BUG: "),
    _crash("softirq-task", "panic in a softirq that a task let in", "IRQ TASK"),
    _crash("lockup", "panic while another CPU is hung", "TASK"),
)

VARIANTS = (
    Variant(
        name="fp-lsb",
        what="6.12, frame pointers, regs encoded by setting the lowest bit (as released)",
        kernel=_LSB,
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
    Variant(
        name="fp-6.1",
        what="6.1 of bookworm, frame pointers",
        kernel=_OF_OTHER_YEARS["6.1"],
        unwinder="frame_pointer",
        group="kernels",
    ),
    Variant(
        name="fp-5.10",
        what="5.10 of bullseye, frame pointers",
        kernel=_OF_OTHER_YEARS["5.10"],
        unwinder="frame_pointer",
        # It leaves kretprobe_trampoline where the return address was, in its own walks, too.
        cannot=frozenset({"kretprobe"}),
        group="kernels",
    ),
    Variant(
        name="fp-7.2",
        what="7.2 of forky, frame pointers",
        kernel=_OF_OTHER_YEARS["7.2"],
        unwinder="frame_pointer",
        group="kernels",
    ),
    Variant(
        name="fp-fred",
        what="6.12 built for FRED: two more words at the top of every stack",
        kernel=BuiltKernel("linux-source-6.12", ("base", "frame_pointer", "fred")),
        unwinder="frame_pointer",
        group="kernels",
    ),
    Variant(
        name="fp-nopreempt",
        what="6.12, frame pointers, no preemption in the kernel",
        kernel=BuiltKernel("linux-source-6.12", ("base", "frame_pointer", "nopreempt")),
        unwinder="frame_pointer",
        group="kernels",
    ),
    Variant(
        name="fp-kasan",
        what="6.12, frame pointers, KASAN: stacks of 32 KB",
        kernel=BuiltKernel("linux-source-6.12", ("base", "frame_pointer", "kasan")),
        unwinder="frame_pointer",
        memory_mib=256,
        group="kernels",
    ),
    Variant(
        name="fp-nokaslr",
        what="the kernel of fp-lsb where it was linked to be",
        kernel=_LSB,
        unwinder="frame_pointer",
        append=("nokaslr",),
        group="kernels",
    ),
    _crash("sysrq", "sysrq-c in a system call", "TASK"),
    _crash("fault", "a page fault in a system call", "TASK", r"BUG: "),
    _crash("null-call", "a call of address 0", "TASK", r"BUG: "),
    _crash("wild-call", "a call of an address that cannot be", "TASK", r"Oops: "),
    _crash("bug", "BUG() in a system call", "TASK", r"kernel BUG at "),
    _crash("hardirq", "panic in a hard interrupt", "IRQ TASK"),
    _crash("hardirq-fault", "a page fault in a hard interrupt", "IRQ TASK", r"BUG: "),
    _crash("hardirq-warn", "a warning in a hard interrupt", "IRQ TASK", r"WARNING: "),
    _crash("softirq", "panic in a softirq after a hard interrupt", "IRQ TASK"),
    _crash("softirq-task", "panic in a softirq that a task let in", "IRQ TASK"),
    _crash(
        "hardirq-softirq",
        "a page fault in an interrupt in a softirq after an interrupt",
        "IRQ TASK",
        r"BUG: ",
    ),
    _crash("nmi", "panic in an NMI that hit a system call", "NMI TASK", append=_NMI),
    _crash(
        "nmi-user", "panic in an NMI that hit user mode: on the task's stack", "TASK", append=_NMI
    ),
    _crash(
        "nmi-irq",
        "panic in an NMI that hit an interrupt that hit a system call",
        "NMI IRQ TASK",
        append=_NMI,
    ),
    _crash("stack-overflow", "a double fault: no stack left", "#DF TASK", _FROM_PANIC),
    _crash(
        "hardirq-overflow", "a double fault: no interrupt stack left", "#DF IRQ TASK", _FROM_PANIC
    ),
    _crash("debug", "panic at a hardware breakpoint", "#DB TASK"),
    _crash("kprobe-int3", "BUG() in a kprobe's handler, int3", "TASK", r"kernel BUG at "),
    _crash("kprobe-ftrace", "the same below an ftrace trampoline", "TASK", r"kernel BUG at "),
    _crash("kprobe-opt", "the same below an optimized probe", "TASK", r"kernel BUG at "),
    _crash("kretprobe", "BUG() in a kretprobe's handler", "TASK", r"kernel BUG at "),
    _crash("fgraph", "a page fault below two swapped return addresses", "TASK", r"BUG: "),
    _crash("lockup", "panic while another CPU is hung", "TASK"),
    *(_as_kdump(variant) for variant in _NOTED),
    *_crashes_of("6.1"),
    Variant(
        name="formats",
        what="a frozen machine, dumped by QEMU in all its formats, and by makedumpfile",
        kernel=_LSB,
        unwinder="frame_pointer",
        group="formats",
        formats=(*QEMU_FORMATS, *MAKEDUMPFILE_FORMATS),
    ),
    Variant(
        name="kdump",
        what="a frozen machine that panics: /proc/vmcore of a kexec crash kernel, and makedumpfile",
        kernel=_LSB,
        unwinder="frame_pointer",
        memory_mib=_KDUMP_MIB,
        append=(_CRASHKERNEL, "oracle.panic=1"),
        group="formats",
        kdump=True,
        formats=MAKEDUMPFILE_FORMATS,
    ),
)


def kernel_name(kernel: Union[BuiltKernel, StockKernel]) -> str:
    """The first variant that runs this kernel: what others share is made once."""
    return next(variant.name for variant in VARIANTS if variant.kernel == kernel)


def variants_of(group: str) -> list[Variant]:
    """Those of one of GROUPS."""
    return [variant for variant in VARIANTS if variant.group == group]


def variant_named(name: str) -> Variant:
    """:raises LabError: there is no such variant."""
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    names = ", ".join(variant.name for variant in VARIANTS)
    raise LabError(f"no variant is named {name!r}; there are: {names}")
