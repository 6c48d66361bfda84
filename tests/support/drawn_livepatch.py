# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live patches of a drawn kernel: the lists of kernel/livepatch/, the symbols that they name, ftrace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from drgn import offsetof
from msgspec import Struct

from drgn_tools.cache_key import cache_key
from drgn_tools.debuginfo import kallsyms
from drgn_tools.debuginfo.kallsyms import Kallsyms

from .drawn_kernel import DrawnKernel
from .drawn_text import CORE, LOADED, drawn_image, mem, module_kallsyms, modules, with_mem

TOKENS = [chr(code) for code in range(256)]

IMAGE = {
    "vfs_read": CORE + 0x100,
    "same": CORE + 0x200,
    "vfs_write": CORE + 0x280,
    "no_hook": CORE + 0x300,
    "end_of_text": CORE + 0x340,
}
"""Functions of the image; there is a second ``same`` at :data:`SECOND_SAME`."""
SECOND_SAME = CORE + 0x400
_IMAGE_END = CORE + 0x480

TARGET = LOADED
"""Text of the module ``target``, of 0x1000 bytes."""
TARGET_FUNCTIONS = (
    # Not in the order of addresses, like a table of ELF symbols.
    ("tgt_same", TARGET + 0x300),
    ("tgt_read", TARGET + 0x100),
    ("tgt_same", TARGET + 0x200),
    ("tgt_last", TARGET + 0x400),
)
PATCH1, PATCH2, PATCH3 = LOADED + 0x10_000, LOADED + 0x20_000, LOADED + 0x30_000
"""Text of the modules ``patch1``, ``patch2`` and ``patch3``: replacements, 0x40 bytes each."""
NEW_BYTES = 0x40
_NEW_FUNCTIONS = 8

KLP_TYPES = {
    "klp_func": (
        "char *old_name; void *new_func; unsigned long old_sympos; void *old_func; char kobj[64];"
        "struct list_head node; struct list_head stack_node; unsigned long old_size;"
        "unsigned long new_size; _Bool nop; _Bool patched; _Bool transition"
    ),
    "klp_object": (
        "char *name; struct klp_func *funcs; char callbacks[40]; char kobj[64];"
        "struct list_head func_list; struct list_head node; struct module *mod; _Bool dynamic;"
        "_Bool patched"
    ),
    "klp_patch": (
        "struct module *mod; struct klp_object *objs; void *states; _Bool replace;"
        "struct list_head list; char kobj[64]; struct list_head obj_list; _Bool enabled;"
        "_Bool forced"
    ),
    "klp_ops": "struct list_head node; struct list_head func_stack; char fops[64]",
}
"""The structs of linux/livepatch.h and kernel/livepatch/patch.h, as of v6.1."""


class Func(Struct):
    """A ``struct klp_func`` to be drawn."""

    name: str
    old: int
    old_size: int
    new: int
    new_size: int = NEW_BYTES
    sympos: int = 0
    nop: bool = False
    patched: bool = True


class Drawn(Struct):
    """Where a patch was drawn."""

    patch: int
    objects: list[int]
    functions: list[int]


VFS_READ = Func("vfs_read", IMAGE["vfs_read"], 0x100, PATCH1)
VFS_WRITE = Func("vfs_write", IMAGE["vfs_write"], 0x80, PATCH1 + NEW_BYTES)
TGT_READ = Func("tgt_read", TARGET + 0x100, 0x100, PATCH1 + 2 * NEW_BYTES)
ABSENT = Func("absent_fn", 0, 0, PATCH1 + 3 * NEW_BYTES, 0, patched=False)


class DrawnPatches:
    """A kernel with live patching and four modules. A test adds patches, then reads it.

    :param target: ``klp_target_state``
    """

    def __init__(self, target: int = -1) -> None:
        self.kernel: DrawnKernel = drawn_image()
        kernel = self.kernel
        with_mem(kernel)
        for name, members in KLP_TYPES.items():
            kernel.struct(name, members)
        kernel.symbol("klp_enable_patch", kernel.nowhere)
        self.patches = kernel.variable("klp_patches", "struct list_head")
        self.ops_list = kernel.variable("klp_ops", "struct list_head")
        self.transition = kernel.variable("klp_transition_patch", "unsigned long")
        self.target = kernel.variable("klp_target_state", "int", target)
        kernel.variable("klp_signals_cnt", "int", 31)
        kernel.constant("UTS_RELEASE", b"6.12.0", "char [8]")
        self.modules: dict[str, int] = {}
        self._texts: dict[str, tuple[int, Sequence[tuple[str, int]]]] = {
            "target": (TARGET, TARGET_FUNCTIONS)
        }
        for name, text in (("patch1", PATCH1), ("patch2", PATCH2), ("patch3", PATCH3)):
            new = [(f"{name}_{i}", text + NEW_BYTES * i) for i in range(_NEW_FUNCTIONS)]
            self._texts[name] = (text, [*new, ("rest", text + NEW_BYTES * _NEW_FUNCTIONS)])
        self.load()
        self._nodes: list[int] = []
        self._ops: dict[int, tuple[int, list[int]]] = {}
        self._link()
        self.image()

    # ---- modules and symbols

    def load(self, without: str = "", **state: int) -> None:
        """Draw the list of modules, without one of them."""
        kernel = self.kernel
        names = [name for name in self._texts if name != without]
        addrs = modules(
            kernel,
            *(
                {
                    "name": name.encode(),
                    "state": state.get(name, 0),
                    "kallsyms": module_kallsyms(kernel, *self._texts[name][1]),
                    **mem((self._texts[name][0], 0x1000)),
                }
                for name in names
            ),
        )
        self.modules = dict(zip(names, addrs))

    def image(self, *more: tuple[str, int]) -> None:
        """Set the symbols of the image, and add more."""
        symbols = [*IMAGE.items(), ("same", SECOND_SAME), ("_end", _IMAGE_END), *more]
        symbols += [(symbol.name, symbol.address) for symbol in self.kernel.prog.symbols()]
        symbols.sort(key=lambda symbol: symbol[1])
        names = b"".join(bytes([len(name) + 1]) + b"T" + name.encode() for name, _ in symbols)
        table = Kallsyms(names, TOKENS, [address for _, address in symbols])
        self.kernel.prog.cache[cache_key(kallsyms.__name__)] = table

    def no_image(self) -> None:
        """Remove the symbols of the image from the dump; drgn still has its own."""
        self.kernel.prog.cache[cache_key(kallsyms.__name__)] = None

    def vermagic(self, text: str) -> None:
        """Set the kernel's vermagic, which that of a module file is compared with."""
        self.kernel.symbol("vermagic", self.text(text))
        self.image()

    # ---- patches

    def at(self, address: int, designator: str) -> int:
        """Return the address of a member, as in ``at(func, "klp_func.new_func")``."""
        type_name, _, member = designator.partition(".")
        return address + offsetof(self.kernel.prog.type(f"struct {type_name}"), member)

    def text(self, text: str) -> int:
        """Write a C string, with as many bytes after it as a reader may read; return its address."""
        return self.kernel.put(self.kernel.new("char [64]"), text.encode())

    def patch(
        self,
        module: str,
        *objects: tuple[Optional[str], Sequence[Func]],
        enabled: bool = True,
        replace: bool = False,
        forced: bool = False,
        transition: bool = False,
        loaded: bool = True,
    ) -> Drawn:
        """Enable a patch after the existing ones; each of its functions becomes the newest version.

        :param objects: Name of the module, ``None`` for the image, and functions.
        """
        kernel = self.kernel
        drawn = Drawn(
            kernel.new(
                "struct klp_patch",
                {
                    "mod": self.modules[module],
                    "enabled": enabled,
                    "replace": replace,
                    "forced": forced,
                },
            ),
            [],
            [],
        )
        for name, functions in objects:
            obj = kernel.new(
                "struct klp_object",
                {
                    "name": 0 if name is None else self.text(name),
                    "patched": any(func.patched for func in functions),
                },
            )
            drawn.objects.append(obj)
            funcs = [self._func(func) for func in functions]
            drawn.functions += funcs
            self._ring(obj, "klp_object.func_list", funcs, "klp_func.node")
        self._ring(drawn.patch, "klp_patch.obj_list", drawn.objects, "klp_object.node")
        self._nodes.append(drawn.patch)
        if transition:
            kernel.put_word(self.transition, drawn.patch)
        self._link()
        return drawn

    def _func(self, func: Func) -> int:
        address = self.kernel.new(
            "struct klp_func",
            {
                "old_name": self.text(func.name),
                "new_func": func.new,
                "old_sympos": func.sympos,
                "old_func": func.old,
                "old_size": func.old_size,
                "new_size": func.new_size,
                "nop": func.nop,
                "patched": func.patched,
            },
        )
        if func.patched:
            if func.old not in self._ops:
                self._ops[func.old] = self.kernel.new("struct klp_ops"), []
            self._ops[func.old][1].insert(0, address)
        return address

    def _link(self) -> None:
        self.kernel.ring(self.patches, *(self.at(p, "klp_patch.list") for p in self._nodes))
        self.kernel.ring(self.ops_list, *(ops for ops, _ in self._ops.values()))
        for ops, funcs in self._ops.values():
            self._ring(ops, "klp_ops.func_stack", funcs, "klp_func.stack_node")

    def _ring(self, head: int, head_member: str, entries: Sequence[int], member: str) -> None:
        self.kernel.ring(self.at(head, head_member), *(self.at(entry, member) for entry in entries))

    # ---- ftrace

    def hooks(self, *addresses: int) -> None:
        """Draw ftrace's records, two to a page."""
        kernel = self.kernel
        kernel.struct("dyn_ftrace", "unsigned long ip; unsigned long flags")
        kernel.struct(
            "ftrace_page", "struct ftrace_page *next; struct dyn_ftrace *records; int index"
        )
        following = 0
        pages = [addresses[at : at + 2] for at in range(0, len(addresses), 2)]
        for page in reversed(pages):
            records: Any = [{"ip": address} for address in page]
            following = kernel.new(
                "struct ftrace_page",
                {
                    "next": following,
                    "records": kernel.new(f"struct dyn_ftrace [{len(page)}]", records),
                    "index": len(page),
                },
            )
        kernel.variable("ftrace_pages_start", "unsigned long", following)
        self.image()
