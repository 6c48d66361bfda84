# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels the lab knows. A new one is a row here, plus fragments and patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Union

from .arch import Arch
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
    "stock": "stock kernels of other years: ORC",
    "crashes": "machines that died; the console is the answer sheet",
    "crashes-years": "some of them with kernels of other years",
    "crashes-stock": "some of them with stock kernels: ORC",
    "formats": "one memory in the formats that dumps are made in",
    "formats-stock": "the same of a stock kernel: ORC",
    "formats-i386": "the same of a 32-bit kernel",
    "i386": "32-bit kernels",
    "crashes-i386": "some of the crashes with a 32-bit kernel",
    "arm64": "arm64 kernels, as Debian built them",
    "crashes-arm64": "some of the crashes with arm64 kernels",
    "arm64-built": "arm64 kernels built here: other sizes of pages and addresses, and DWARF",
    "large": "thousands of tasks, for tests/bench",
    "live": "guests with Python, drgn and the project in them, which look at themselves",
    "live-stock": "the same with a kernel as Debian built it",
    "live-arm64": "the same with an arm64 kernel as Debian built it",
    "live-i386": "one of them with a 32-bit kernel",
    "livepatch": "live patches in transition, with the kernel's own answer about each task",
    "hung": "machines that hang on purpose, with who waits for what and who holds it",
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
    arch: Arch = "x86_64"
    """What it is built for."""


@dataclass(frozen=True)
class StockKernel:
    """Built by Debian and only unpacked here; the oracle is a module."""

    meta_package: str
    """Depends on the kernel of the day: linux-image-amd64."""
    headers_meta_package: str
    """The same for what modules are built against."""
    early_modules: tuple[str, ...] = ("qemu_fw_cfg",)
    """Loaded before the oracle. Without qemu_fw_cfg the dump has no VMCOREINFO."""
    suite: str = ""
    """Debian suite to fetch the packages from; "" for what apt would install here today."""
    arch: Arch = "x86_64"
    """What it runs on."""
    with_vmlinux: bool = False
    """Its own types and symbols are not enough, so its vmlinux is fetched, too."""


@dataclass(frozen=True)
class Crash:
    """How a machine dies, and what its kernel prints of that.

    There are two call traces of the task that died, each with the words in <> that it goes
    through, innermost first; None where the kernel prints no such trace.
    """

    name: str
    """What crash_module/crash.c calls it; "sysrq" is the kernel's own."""
    oops: Optional[str]
    """From the registers of the exception on: of an oops, or of a warning."""
    panic: Optional[str]
    """From where the kernel stands: in panic(), or when all CPUs have to say where they are."""
    last_words: str = r"---\[ end Kernel panic"
    """A regular expression for what is on the console when all of that is."""


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
    live: str = ""
    """The program of tests/live that runs in it, see live.py."""
    frozen: bool = False
    """When that has ended, it is frozen and dumped."""
    bare: bool = False
    """Nothing but that runs in it: neither modules nor a workload."""
    crowd: int = 0
    """So many tasks more, see crowd.py; what keeps CPUs busy is not started then."""
    silent: bool = False
    """It cannot say that it is frozen: with PREEMPT_RT, threads write to the console."""
    formats: tuple[str, ...] = ()
    """The same memory in other formats, too (see formats.py): core.NAME beside the core."""
    livepatch: str = ""
    """What becomes of a live patch in it: one of the scenarios of livepatch_user/init.c."""
    hung: bool = False
    """Its tasks wait for each other, see hung.py."""
    cpu: str = ""
    """The CPU that QEMU emulates; "" for the one with all that it can."""


_WHAT_RUNS = frozenset(
    {"preempted-kernel", "preempted-kthread", "preempted-user", "switched-kernel"}
    | {"kthread-module", "kthread-unwoken"}
)
"""Cases that come with what keeps CPUs busy, and with the kernel threads of the helper."""
_WHAT_X86_32_LACKS = frozenset({"ftrace", "bpf"})
"""A handler of ftrace has no trampoline of its own there, and may not sleep; nor has BPF one."""
_NOT_PREEMPTED = ("preempted-kernel", "preempted-kthread")
"""Cases that a kernel does not have that is built without preemption in the kernel."""
_WHAT_ARM64_LACKS = frozenset({"ftrace"})
"""There a handler of ftrace has no trampoline of its own, either."""
_WHAT_ARM64_LACKED = ("bpf",)
"""What it did not have in 6.1: trampolines of BPF that are called from functions of the kernel (v6.4)."""
_LSB = BuiltKernel("linux-source-6.12", ("base", "frame_pointer"))
_I386 = {
    name: BuiltKernel("linux-source-6.12", ("base", "i386", name), arch="i386")
    for name in ("pae", "nopae")
}
_I386_LSB = replace(_I386["pae"], patches=("encode-lsb-32",))
_STOCK_I386 = StockKernel(
    "linux-image-686-pae",
    "linux-headers-686-pae",
    suite="bookworm-i386",
    arch="i386",
    with_vmlinux=True,
)
_ARM64 = {
    name: StockKernel(
        f"linux-image-{flavour}",
        f"linux-headers-{flavour}",
        suite=suite,
        arch="aarch64",
        # Its symbols are functions only (CONFIG_KALLSYMS_ALL is off).
        with_vmlinux=name == "6.1",
    )
    for name, flavour, suite in (
        ("6.1", "arm64", "bookworm-arm64"),
        ("6.12", "arm64", "trixie-arm64"),
        ("7.2", "arm64", "forky-arm64"),
        ("7.2-16k", "arm64-16k", "forky-arm64"),
    )
}
_ARM64_BUILT = {
    "6.1": BuiltKernel(
        "linux-source-6.1",
        ("base", "6.1", "arm64", "arm64-6.12", "arm64-39"),
        suite="bookworm",
        arch="aarch64",
    ),
    "6.12": BuiltKernel("linux-source-6.12", ("base", "arm64", "arm64-6.12"), arch="aarch64"),
    "7.2-64k": BuiltKernel(
        "linux-source-7.2", ("base", "7.2", "arm64", "arm64-64k"), suite="forky", arch="aarch64"
    ),
}
_ARM64_MIB = 256
_DEBIAN = StockKernel("linux-image-amd64", "linux-headers-amd64")
_STOCK_MIB = 160
_STOCK_APPEND = ("preempt=full",)
"""Built to be preempted in the kernel or not, as the command line says."""
_STOCK = {
    "5.10": StockKernel("linux-image-amd64", "linux-headers-amd64", suite="bullseye"),
    "6.12": StockKernel(
        "linux-image-6.12-cloud-amd64", "linux-headers-6.12-cloud-amd64", suite="bookworm"
    ),
    "7.2": StockKernel("linux-image-amd64", "linux-headers-amd64", suite="forky"),
    "rt": StockKernel("linux-image-rt-amd64", "linux-headers-rt-amd64", suite="bookworm"),
}
"""As Debian built them."""
_OF_OTHER_YEARS = {
    "5.10": BuiltKernel(
        "linux-source-5.10", ("base", "frame_pointer", "6.1", "5.10"), suite="bullseye"
    ),
    "6.1": BuiltKernel("linux-source-6.1", ("base", "frame_pointer", "6.1"), suite="bookworm"),
    "7.2": BuiltKernel("linux-source-7.2", ("base", "frame_pointer", "7.2"), suite="forky"),
}


def _crash(
    name: str,
    what: str,
    *,
    oops: Optional[str] = None,
    panic: Optional[str] = None,
    append: tuple[str, ...] = (),
) -> Variant:
    return Variant(
        name=f"crash-{name}",
        what=what,
        kernel=_LSB,
        unwinder="frame_pointer",
        append=append,
        group="crashes",
        crash=Crash(name, oops, panic),
    )


_NMI = ("unknown_nmi_panic=1",)
_CRASHES = (
    _crash("sysrq", "sysrq-c in a system call", panic="TASK"),
    _crash("fault", "a page fault in a system call", oops="TASK", panic="TASK"),
    _crash("null-call", "a call of address 0", oops="TASK", panic="TASK"),
    _crash("wild-call", "a call of an address that cannot be", oops="TASK", panic="TASK"),
    _crash("bug", "BUG() in a system call", oops="TASK", panic="TASK"),
    _crash("hardirq", "panic in a hard interrupt", panic="IRQ TASK"),
    _crash("hardirq-fault", "a page fault in a hard interrupt", oops="IRQ TASK", panic="IRQ TASK"),
    _crash("hardirq-warn", "a warning in a hard interrupt", oops="IRQ TASK", panic="IRQ TASK"),
    _crash("softirq", "panic in a softirq after a hard interrupt", panic="IRQ TASK"),
    _crash("softirq-task", "panic in a softirq that a task let in", panic="IRQ TASK"),
    _crash(
        "hardirq-softirq",
        "a page fault in an interrupt in a softirq after an interrupt",
        oops="IRQ TASK",
        panic="IRQ TASK",
    ),
    _crash("nmi", "panic in an NMI that hit a system call", panic="NMI TASK", append=_NMI),
    _crash(
        "nmi-user",
        "panic in an NMI that hit user mode: on the task's stack",
        panic="TASK",
        append=_NMI,
    ),
    _crash(
        "nmi-irq",
        "panic in an NMI that hit an interrupt that hit a system call",
        panic="NMI IRQ TASK",
        append=_NMI,
    ),
    _crash("stack-overflow", "a double fault: no stack left", oops="TASK", panic="#DF TASK"),
    _crash(
        "hardirq-overflow",
        "a double fault: no interrupt stack left",
        oops="IRQ TASK",
        panic="#DF IRQ TASK",
    ),
    _crash("debug", "panic at a hardware breakpoint", panic="#DB TASK"),
    _crash("kprobe-int3", "BUG() in a kprobe's handler, int3", oops="TASK", panic="TASK"),
    _crash("kprobe-ftrace", "the same below an ftrace trampoline", oops="TASK", panic="TASK"),
    _crash("kprobe-opt", "the same below an optimized probe", oops="TASK", panic="TASK"),
    _crash("kretprobe", "BUG() in a kretprobe's handler", oops="TASK", panic="TASK"),
    _crash(
        "kretprobe-below",
        "a page fault below a function with a kretprobe",
        oops="TASK",
        panic="TASK",
    ),
    _crash("fgraph", "a page fault below two swapped return addresses", oops="TASK", panic="TASK"),
    _crash("lockup", "panic while another CPU is hung", panic="TASK"),
)
"""On 6.12, which after an oops prints where all CPUs are: panic_print=0x40."""


def _crashes_named(*names: str) -> tuple[Variant, ...]:
    of_name = {variant.name: variant for variant in _CRASHES}
    return tuple(of_name[f"crash-{name}"] for name in names)


_OF_EACH_YEAR = _crashes_named(
    "sysrq", "null-call", "softirq-task", "hardirq-softirq", "nmi-irq", "debug", "kretprobe",
    "fgraph", "stack-overflow",
)  # fmt: skip
"""One for each kind of stack."""


def _as_of_5_10(crash: Crash) -> Crash:
    """What 5.10 prints of it.

    stack_type_name() has no name for the task's stack, and panic_print no bit for a trace
    of all CPUs. In an NMI, #DB or #DF, printk() leaves the text in a buffer of the CPU;
    panic() has that written out before it says its last line, and nothing after that.
    """

    def borders(words: Optional[str]) -> Optional[str]:
        return None if words is None else words.replace("TASK", "").strip()

    return replace(
        crash,
        oops=borders(crash.oops),
        panic=None if crash.oops is not None else borders(crash.panic),
        last_words="Kernel Offset: ",
    )


def _as_of_rt(crash: Crash) -> Crash:
    """What a kernel with PREEMPT_RT prints of it: softirqs have no stack of their own."""
    return replace(crash, panic="TASK") if crash.name == "softirq-task" else crash


def _printed_by(year: str, crash: Crash) -> Crash:
    if year == "5.10":
        return _as_of_5_10(crash)
    return _as_of_rt(crash) if year == "rt" else crash


def _in(year: str, variant: Variant) -> Variant:
    """The same crash of the kernel of a year."""
    assert variant.crash
    return replace(
        variant,
        name=f"{variant.name}-{year}",
        what=f"{variant.what}, {year}",
        kernel=_OF_OTHER_YEARS[year],
        group="crashes-years",
        crash=_printed_by(year, variant.crash),
    )


_OF_STOCK = _crashes_named(
    "hardirq-fault", "softirq-task", "nmi-irq", "null-call", "stack-overflow"
)
_STOCK_OF_YEARS = {
    "5.10": _STOCK["5.10"],
    "6.1": _DEBIAN,
    "6.12": _STOCK["6.12"],
    "7.2": _STOCK["7.2"],
    "rt": _STOCK["rt"],
}


def _of_stock(year: str, variant: Variant) -> Variant:
    """The same crash of the kernel of a year as Debian built it."""
    assert variant.crash
    return replace(
        variant,
        name=f"{variant.name}-stock-{year}",
        what=f"{variant.what}, {year} as Debian built it",
        kernel=_STOCK_OF_YEARS[year],
        unwinder="orc",
        memory_mib=_STOCK_MIB,
        append=(*_STOCK_APPEND, *variant.append),
        group="crashes-stock",
        crash=_printed_by(year, variant.crash),
    )


_OF_I386 = _crashes_named(
    "sysrq", "fault", "null-call", "hardirq-fault", "softirq-task", "hardirq-softirq", "nmi", "fgraph",
)  # fmt: skip
"""Its stacks have no guard page: one that overflows faults nowhere."""
_OF_I386_ALONE = (
    _crash("double-fault", "a double fault: no stack at all", oops="", panic="#DF"),
    _crash("device-fault", "a page fault in a device's interrupt", oops="IRQ", panic="IRQ"),
    _crash(
        "device-softirq",
        "the same in one that hit a softirq after an interrupt",
        oops="IRQ SOFTIRQ",
        panic="IRQ SOFTIRQ",
    ),
    _crash("device-nmi", "panic in an NMI that hit a device's interrupt", panic="IRQ", append=_NMI),
)
"""On x86-64 any interrupt has that stack."""


_OF_X86_32 = {
    "softirq-task": ("", "SOFTIRQ"),
    "hardirq-fault": ("", ""),
    "hardirq-softirq": ("SOFTIRQ", "SOFTIRQ"),
    "nmi": ("", ""),
}
"""Stacks that the traces of oops and panic go through, where they are others than of x86-64."""


def _as_of_i386(crash: Crash) -> Crash:
    """What x86-32 prints of it.

    stack_type_name() has no name for the task's stack. Softirqs have a stack of their own, NMIs and
    the timer interrupt have none.
    """
    oops, panic = _OF_X86_32.get(crash.name, (crash.oops or "", crash.panic or ""))
    return replace(
        crash,
        oops=None if crash.oops is None else oops.replace("TASK", "").strip(),
        panic=None if crash.panic is None else panic.replace("TASK", "").strip(),
    )


def _of_i386(variant: Variant) -> Variant:
    """The same crash of a 32-bit kernel."""
    assert variant.crash
    return replace(
        variant,
        name=f"{variant.name}-i386",
        what=f"{variant.what}, x86-32",
        kernel=_I386["pae"],
        group="crashes-i386",
        crash=_as_of_i386(variant.crash),
    )


_KDUMP_MIB = 384
_LIVE_MIB = 512
_LARGE_MIB = 1280
_CRASHKERNEL = "crashkernel=160M"


def _as_kdump(variant: Variant) -> Variant:
    """The same crash, dumped by a crash kernel: with the registers of the moment it died.

    That is started before all CPUs are asked where they are, and after an oops even before
    panic().
    """
    assert variant.crash
    crash = variant.crash
    return replace(
        variant,
        name=f"{variant.name}-kdump",
        what=f"{variant.what}; /proc/vmcore of a crash kernel",
        memory_mib=_KDUMP_MIB,
        append=(*variant.append, _CRASHKERNEL),
        crash=crash if crash.oops is None else replace(crash, panic=None),
        kdump=True,
    )


_NOTED = _crashes_named(
    "sysrq", "null-call", "bug", "hardirq-fault", "softirq-task", "nmi", "nmi-user", "nmi-irq",
    "stack-overflow", "hardirq-overflow", "lockup",
)  # fmt: skip


def _stock(year: str, what: str, *cannot: str) -> Variant:
    """A kernel as Debian built it, frozen."""
    return Variant(
        name=f"stock-{year}",
        what=what,
        kernel=_STOCK[year],
        unwinder="orc",
        memory_mib=_STOCK_MIB,
        append=_STOCK_APPEND,
        cannot=frozenset(cannot),
        group="stock",
        silent=year == "rt",
    )


def _i386(name: str, what: str, kernel: Union[BuiltKernel, StockKernel]) -> Variant:
    """A 32-bit kernel, frozen."""
    return Variant(
        name=f"i386-{name}",
        what=what,
        kernel=kernel,
        unwinder="frame_pointer",
        cannot=_WHAT_X86_32_LACKS,
        group="i386",
    )


def _arm64(name: str, what: str, *cannot: str) -> Variant:
    """An arm64 kernel as Debian built it, frozen."""
    return Variant(
        name=f"arm64-{name}",
        what=what,
        kernel=_ARM64[name],
        unwinder="arm64",
        memory_mib=_ARM64_MIB,
        append=_STOCK_APPEND,
        cannot=frozenset(cannot) | _WHAT_ARM64_LACKS,
        group="arm64",
        # Its console is written to by a thread.
        silent=name.startswith("7.2"),
        formats=("kdump-zlib",),
    )


def _arm64_built(name: str, what: str, *cannot: str) -> Variant:
    """An arm64 kernel built here, frozen."""
    return Variant(
        name=f"arm64-built-{name}",
        what=what,
        kernel=_ARM64_BUILT[name],
        unwinder="arm64",
        memory_mib=_ARM64_MIB,
        cannot=frozenset(cannot) | _WHAT_ARM64_LACKS,
        group="arm64-built",
        # As that of Debian's.
        silent=name.startswith("7.2"),
        formats=("kdump-zlib",),
    )


def _as_of_arm64(crash: Crash) -> Crash:
    """What arm64 prints of it: registers, but no trace from them, where there is no stack left."""
    return replace(crash, oops=None) if crash.name == "stack-overflow" else crash


def _crash_of_arm64(year: str, variant: Variant) -> Variant:
    """The same crash of an arm64 kernel as Debian built it."""
    assert variant.crash
    return replace(
        variant,
        name=f"{variant.name}-arm64-{year}",
        what=f"{variant.what}, arm64, {year} as Debian built it",
        kernel=_ARM64[year],
        unwinder="arm64",
        memory_mib=_ARM64_MIB,
        append=(*_STOCK_APPEND, *variant.append),
        group="crashes-arm64",
        crash=_as_of_arm64(variant.crash),
    )


def _live_arm64(name: str, what: str) -> Variant:
    """A live guest with an arm64 kernel as Debian built it."""
    is_storm = name == "live-storm"
    return replace(
        _arm64("7.2", f"{what}; 7.2 of forky for arm64"),
        name=f"{name}-arm64",
        memory_mib=_LIVE_MIB,
        # The call traces of all tasks stay in the kernel's log.
        append=(*_STOCK_APPEND, "log_buf_len=4M"),
        group="live-arm64",
        formats=(),
        live="storm.py" if is_storm else "idle.py",
        frozen=not is_storm,
    )


_OF_ARM64 = {
    "6.1": _crashes_named("hardirq-fault", "softirq-task", "null-call", "stack-overflow"),
    "6.12": _crashes_named("hardirq-fault", "softirq-task", "null-call", "stack-overflow"),
    "7.2": _crashes_named(
        "sysrq", "fault", "null-call", "wild-call", "bug", "hardirq", "hardirq-fault",
        "softirq-task", "hardirq-softirq", "stack-overflow", "fgraph", "kretprobe-below",
    ),
}  # fmt: skip

_LIVEPATCH_SCENARIOS = {
    "stalled": "lab_patch1 is held back; and the same machine before it was loaded",
    "signalled": "the same after the kernel's fake signals",
    "replaced": "lab_patch1 was forced, and lab_patch2 that replaces it is held back",
    "disabled": "lab_patch1 is being disabled, and held back",
    "late": "a module that lab_patch1 patches is loaded while that is held back",
}
_LIVEPATCH = Variant(
    name="klp",
    what="6.12, frame pointers",
    kernel=_LSB,
    unwinder="frame_pointer",
    group="livepatch",
)


def _livepatch(scenario: str) -> Variant:
    """A live patch in transition, on a kernel with frame pointers."""
    return replace(
        _LIVEPATCH,
        name=f"klp-{scenario}",
        what=f"{_LIVEPATCH_SCENARIOS[scenario]}; {_LIVEPATCH.what}",
        livepatch=scenario,
    )


def _livepatch_stock(year: str, scenario: str) -> Variant:
    """The same on the kernel of a year as Debian built it."""
    return replace(
        _livepatch(scenario),
        name=f"klp-{scenario}-stock-{year}",
        what=f"{_LIVEPATCH_SCENARIOS[scenario]}; {year} as Debian built it",
        kernel=_STOCK_OF_YEARS[year],
        unwinder="orc",
        memory_mib=_STOCK_MIB,
        append=_STOCK_APPEND,
    )


def _watched(variant: Variant) -> Variant:
    """A live patch in transition, and this project in the guest, which looks at it."""
    return replace(
        variant,
        name=variant.name.replace("stalled", "watch"),
        what=variant.what.replace(
            _LIVEPATCH_SCENARIOS["stalled"], "lab_patch1 is held back, and watched until it is not"
        ),
        memory_mib=_LIVE_MIB,
        live="livepatch.py",
        livepatch="watch",
    )


_HUNG = Variant(
    name="hung",
    what="deadlocks, chains and other waits that are known; 6.12, frame pointers",
    kernel=_LSB,
    unwinder="frame_pointer",
    group="hung",
    hung=True,
)


def _hung_stock(year: str) -> Variant:
    """The same on the kernel of a year as Debian built it."""
    return replace(
        _HUNG,
        name=f"hung-stock-{year}",
        what=f"the same on {year} as Debian built it",
        kernel=_STOCK_OF_YEARS[year],
        unwinder="orc",
        memory_mib=_STOCK_MIB,
        append=_STOCK_APPEND,
    )


_ON_DEBIAN = Variant(
    name="debian",
    what="Debian's own kernel of the day, ORC, oracle as a module",
    kernel=_DEBIAN,
    unwinder="orc",
    memory_mib=_STOCK_MIB,
    append=_STOCK_APPEND,
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
    _ON_DEBIAN,
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
        # Who is switched out in kernel mode has asked for it (see "switched-kernel").
        cannot=frozenset(_NOT_PREEMPTED),
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
    Variant(
        name="fp-no5lvl",
        what="the kernel of fp-lsb with page tables of four levels",
        kernel=_LSB,
        unwinder="frame_pointer",
        append=("no5lvl",),
        group="kernels",
    ),
    _i386("pae", "6.12 for x86-32: page tables of three levels (PAE)", _I386["pae"]),
    _i386(
        "nopae",
        "6.12 for x86-32: page tables of two levels, virtual-8086 mode",
        _I386["nopae"],
    ),
    _i386(
        "lsb",
        "6.12 for x86-32, regs encoded by setting the lowest bit (as 4.10 to 4.13 did)",
        _I386_LSB,
    ),
    replace(
        _i386("stock", "Debian's own 6.1 for x86-32 (686-pae): no BTF", _STOCK_I386),
        memory_mib=_STOCK_MIB,
        append=_STOCK_APPEND,
    ),
    _arm64(
        "6.1",
        "6.1 of bookworm for arm64: no pt_regs in the walk, no verdicts; needs its vmlinux",
        *(*_NOT_PREEMPTED, *_WHAT_ARM64_LACKED),
    ),
    _arm64(
        "6.12", "6.12 of trixie for arm64: no pt_regs in the walk, no verdicts", *_NOT_PREEMPTED
    ),
    _arm64("7.2", "7.2 of forky for arm64: verdicts, records that lead to pt_regs"),
    _arm64("7.2-16k", "the same with pages of 16 KiB"),
    replace(
        _arm64("7.2", "the first of 7.2 on an older CPU: addresses of 48 bits, none is signed"),
        name="arm64-7.2-n1",
        cpu="neoverse-n1",
    ),
    _arm64_built("6.1", "6.1 for arm64: addresses of 39 bits", *_WHAT_ARM64_LACKED),
    _arm64_built("6.12", "6.12 for arm64: addresses of 52 bits in pages of 4 KiB"),
    _arm64_built("7.2-64k", "7.2 for arm64: pages of 64 KiB, addresses of 52 bits"),
    replace(
        _arm64_built("7.2-64k", "the same on an older CPU: addresses of 48 bits, none is signed"),
        name="arm64-built-7.2-64k-n1",
        cpu="neoverse-n1",
    ),
    # It is not built to be preempted in the kernel; of kretprobes see fp-5.10.
    _stock(
        "5.10",
        "5.10 of bullseye as Debian built it, ORC",
        *(*_NOT_PREEMPTED, "kretprobe"),
    ),
    _stock("6.12", "6.12 of bookworm for clouds as Debian built it, ORC"),
    _stock("7.2", "7.2 of forky as Debian built it, ORC"),
    _stock("rt", "6.1 of bookworm with PREEMPT_RT as Debian built it, ORC"),
    *_CRASHES,
    *(_as_kdump(variant) for variant in _NOTED),
    *(_in(year, variant) for year in _OF_OTHER_YEARS for variant in _OF_EACH_YEAR),
    *(
        _of_stock(year, variant)
        for year in _STOCK_OF_YEARS
        for variant in _OF_STOCK
        # With PREEMPT_RT nothing of a panic in an NMI reaches the console.
        if (year, variant.name) != ("rt", "crash-nmi-irq")
    ),
    *(_of_i386(variant) for variant in (*_OF_I386, *_OF_I386_ALONE)),
    *(_crash_of_arm64(year, variant) for year, of_year in _OF_ARM64.items() for variant in of_year),
    Variant(
        name="formats",
        what="a frozen machine, dumped by QEMU in all its formats, and by makedumpfile",
        kernel=_LSB,
        unwinder="frame_pointer",
        group="formats",
        formats=(*QEMU_FORMATS, *MAKEDUMPFILE_FORMATS),
    ),
    replace(
        _ON_DEBIAN,
        name="formats-stock",
        what="the same of Debian's own kernel",
        group="formats-stock",
        formats=(*QEMU_FORMATS, *MAKEDUMPFILE_FORMATS),
    ),
    replace(
        _i386("pae", "the same of a 32-bit kernel", _I386["pae"]),
        name="formats-i386",
        group="formats-i386",
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
    Variant(
        name="large",
        what="the kernel of fp-lsb with 20,000 tasks more, in processes of 50 threads",
        kernel=_LSB,
        unwinder="frame_pointer",
        memory_mib=_LARGE_MIB,
        cannot=_WHAT_RUNS,
        group="large",
        crowd=20_000,
    ),
    replace(
        _ON_DEBIAN,
        name="large-stock",
        what="Debian's own kernel with 20,000 tasks more",
        memory_mib=_LARGE_MIB + _STOCK_MIB,
        cannot=_WHAT_RUNS,
        group="large",
        crowd=20_000,
    ),
    Variant(
        name="live",
        what="tasks that sleep, looked at from inside, then frozen and dumped",
        kernel=_LSB,
        unwinder="frame_pointer",
        memory_mib=_LIVE_MIB,
        group="live",
        live="idle.py",
        frozen=True,
    ),
    Variant(
        name="live-stock",
        what="the same on Debian's own kernel: ORC",
        kernel=_DEBIAN,
        unwinder="orc",
        memory_mib=_LIVE_MIB,
        append=("preempt=full",),
        group="live-stock",
        live="idle.py",
        frozen=True,
    ),
    Variant(
        name="live-storm",
        what="audits while tasks and modules come and go; then /proc/kcore is taken away",
        kernel=_LSB,
        unwinder="frame_pointer",
        memory_mib=_LIVE_MIB,
        group="live",
        live="storm.py",
    ),
    Variant(
        name="live-storm-stock",
        what="the same on Debian's own kernel: ORC",
        kernel=_DEBIAN,
        unwinder="orc",
        memory_mib=_LIVE_MIB,
        append=("preempt=full",),
        group="live-stock",
        live="storm.py",
    ),
    Variant(
        name="live-lockdown",
        what="Debian's own kernel, which lets nobody look at it",
        kernel=_DEBIAN,
        unwinder="orc",
        memory_mib=_LIVE_MIB,
        append=("lockdown=confidentiality",),
        group="live",
        live="lockdown.py",
        bare=True,
    ),
    _live_arm64("live", "tasks that sleep, looked at from inside, then frozen and dumped"),
    _live_arm64("live-storm", "audits while tasks and modules come and go"),
    replace(
        _i386("pae", "tasks that sleep, looked at from inside; 6.12 for x86-32", _I386["pae"]),
        name="live-i386",
        memory_mib=_LIVE_MIB,
        group="live-i386",
        live="sleepers.py",
        frozen=True,
    ),
    *(_livepatch(scenario) for scenario in _LIVEPATCH_SCENARIOS),
    *(_livepatch_stock("6.12", scenario) for scenario in _LIVEPATCH_SCENARIOS),
    *(_livepatch_stock(year, name) for year in ("6.1", "7.2") for name in ("stalled", "replaced")),
    replace(
        _livepatch("stalled"),
        name="klp-stalled-arm64",
        what=f"{_LIVEPATCH_SCENARIOS['stalled']}; the kernel of arm64-built-7.2-64k",
        kernel=_ARM64_BUILT["7.2-64k"],
        unwinder="arm64",
        memory_mib=_ARM64_MIB,
        group="arm64-built",
        silent=True,
    ),
    _watched(_livepatch("stalled")),
    _watched(_livepatch_stock("6.12", "stalled")),
    _HUNG,
    *(_hung_stock(year) for year in ("6.1", "6.12", "7.2", "rt")),
    replace(
        _HUNG,
        name="hung-live",
        what="the same, looked at from inside",
        memory_mib=_LIVE_MIB,
        live="hung.py",
    ),
    replace(
        _hung_stock("6.12"),
        name="hung-live-stock-6.12",
        what="the same, looked at from inside; 6.12 as Debian built it",
        memory_mib=_LIVE_MIB,
        live="hung.py",
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
