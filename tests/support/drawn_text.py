# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel text for a drawn kernel: its image, modules, trampolines, kprobe slots, BPF programs."""

from __future__ import annotations

import struct
from typing import Any, Optional

from .drawn_kernel import DrawnKernel

CORE = 0xFFFF_FFFF_8100_0000
CORE_END = CORE + 0x20_0000
INIT = 0xFFFF_FFFF_8300_0000
INIT_END = INIT + 0x1000
LOADED = 0xFFFF_FFFF_C000_0000


def drawn_image(base: Optional[int] = None) -> DrawnKernel:
    """A kernel with core and init text; every option that could add text is off.

    :param base: Address of its memory, if that matters
    """
    kernel = DrawnKernel(base=base)
    kernel.symbol("_stext", CORE)
    kernel.symbol("_etext", CORE_END)
    kernel.symbol("_sinittext", INIT)
    kernel.symbol("_einittext", INIT_END)
    return kernel


# ---- modules

UNFORMED, LIVE, COMING, GOING = 3, 0, 1, 2


def with_mem(kernel: DrawnKernel) -> None:
    # Since v6.4. The text is not the first kind here, to test that it is found by name.
    kernel.enum("mod_mem_type", MOD_DATA=0, MOD_TEXT=1, MOD_INIT_TEXT=2, MOD_MEM_NUM_TYPES=3)
    kernel.struct("module_memory", "void *base; unsigned int size")
    declare_module(kernel, "struct module_memory mem[3]")


def declare_module(kernel: DrawnKernel, memory: str) -> None:
    kernel.enum(
        "module_state",
        MODULE_STATE_LIVE=LIVE,
        MODULE_STATE_COMING=COMING,
        MODULE_STATE_GOING=GOING,
        MODULE_STATE_UNFORMED=UNFORMED,
    )
    kernel.struct("Elf64_Sym", "char raw[24]")
    kernel.struct("mod_kallsyms", "struct Elf64_Sym *symtab; unsigned int num_symtab; char *strtab")
    kernel.struct(
        "module",
        "enum module_state state; struct list_head list; char name[56];"
        f"struct mod_kallsyms *kallsyms; {memory}",
    )


def modules(kernel: DrawnKernel, *values: dict[str, Any]) -> list[int]:
    """Draw the list of modules; return the address of each ``struct module``."""
    head = kernel.variable("modules", "struct list_head")
    addrs = [kernel.new("struct module", value) for value in values]
    kernel.ring(head, *(addr + 8 for addr in addrs))
    return addrs


def mem(text: tuple[int, int], init_text: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    data = {"base": LOADED - 0x10_0000, "size": 0x1000}
    return {"mem": [data, *({"base": base, "size": size} for base, size in (text, init_text))]}


def module_kallsyms(kernel: DrawnKernel, *symbols: tuple[str, int]) -> int:
    """Draw a module's table of (name, address) on x86-64; return the address of its ``struct mod_kallsyms``."""
    strings, entries = b"\0", bytes(24)
    for name, address in symbols:
        # st_name, st_info, st_other, st_shndx, st_value, st_size
        entries += struct.pack("<IBBHQQ", len(strings), 0x02, 0, 1, address, 0)
        strings += name.encode() + b"\0"
    return kernel.new(
        "struct mod_kallsyms",
        {
            "symtab": kernel.put(kernel.new(f"char [{len(entries)}]"), entries),
            "num_symtab": 1 + len(symbols),
            # A reader reads as many bytes as the longest name may have.
            "strtab": kernel.put(kernel.new(f"char [{len(strings)}]"), strings),
        },
    )


# ---- other lists


def trampolines(kernel: DrawnKernel, *ops: tuple[int, int], flags: int = 0) -> list[int]:
    """Draw an ftrace_ops_list of (trampoline, size) that ends with ftrace_list_end."""
    kernel.struct(
        "ftrace_ops",
        "struct ftrace_ops *next; unsigned long trampoline; unsigned long trampoline_size;"
        "unsigned long flags",
    )
    # The contents of the end of the list are not read.
    end = kernel.variable(
        "ftrace_list_end", "struct ftrace_ops", {"trampoline": LOADED, "trampoline_size": 1}
    )
    addrs = [
        kernel.new(
            "struct ftrace_ops", {"trampoline": start, "trampoline_size": size, "flags": flags}
        )
        for start, size in ops
    ]
    for addr, following in zip(addrs, [*addrs[1:], end]):
        kernel.put_word(addr, following)
    kernel.variable("ftrace_ops_list", "struct ftrace_ops *", addrs[0] if addrs else end)
    return addrs


def kprobe_pages(kernel: DrawnKernel, cache: str, *pages: int) -> None:
    kernel.struct("kprobe_insn_page", "struct list_head list; void *insns")
    kernel.struct("kprobe_insn_cache", "struct list_head pages")
    head = kernel.variable(cache, "struct kprobe_insn_cache")
    nodes = [kernel.new("struct kprobe_insn_page", {"insns": page}) for page in pages]
    kernel.ring(head, *nodes)


def bpf_programs(
    kernel: DrawnKernel,
    *programs: tuple[int, int, bytes],
    fp: Optional[tuple[int, int]] = None,
) -> list[int]:
    """Draw bpf_kallsyms of (start, end, name); *fp*: where they have a frame pointer, which newer kernels record."""
    kernel.struct(
        "bpf_ksym",
        "unsigned long start; unsigned long end; char name[64]; struct list_head lnode;"
        + ("unsigned int fp_start; unsigned int fp_end" if fp else ""),
    )
    head = kernel.variable("bpf_kallsyms", "struct list_head")
    more = {"fp_start": fp[0], "fp_end": fp[1]} if fp else {}
    addrs = [
        kernel.new("struct bpf_ksym", {"start": start, "end": end, "name": name, **more})
        for start, end, name in programs
    ]
    kernel.ring(head, *(addr + 80 for addr in addrs))
    return addrs
