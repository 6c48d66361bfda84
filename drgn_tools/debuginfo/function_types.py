# SPDX-License-Identifier: LGPL-2.1-or-later
"""C types of kernel functions that the BTF of some kernels leaves out.

An entry is used if the kernel has both the symbol and the types, and BTF does not have the function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from drgn import Program, Type, TypeParameter

__all__ = ("FUNCTIONS", "Prototype", "function_type")


class Prototype(NamedTuple):
    """Return type and parameters (type, name) of a function, as :meth:`drgn.Program.type` takes them."""

    returns: str
    parameters: tuple[tuple[str, str], ...]


FUNCTIONS: Mapping[str, Prototype] = {
    # Without it drgn treats the kernel as one without CONFIG_SPARSEMEM_VMEMMAP, and finds no
    # struct page. The pahole of Debian's v5.10 build left out __meminit functions.
    "vmemmap_populate": Prototype(
        "int",
        (
            ("unsigned long", "start"),
            ("unsigned long", "end"),
            ("int", "node"),
            ("struct vmem_altmap *", "altmap"),
        ),
    ),
}


def function_type(prog: Program, name: str) -> Optional[Type]:
    """Return the type of a function of :data:`FUNCTIONS`.

    :return: ``None`` if the table or the kernel's types do not have it
    """
    prototype = FUNCTIONS.get(name)
    if prototype is None:
        return None
    try:
        parameters = [TypeParameter(prog.type(type), name) for type, name in prototype.parameters]
        return prog.function_type(prog.type(prototype.returns), parameters)
    except LookupError:
        return None
