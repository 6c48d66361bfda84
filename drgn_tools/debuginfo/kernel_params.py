# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose among static variables with the same name: the one that a kernel parameter sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from drgn import Object, Program, sizeof

from ..memory import UNUSABLE, read_or_none
from .kallsyms import Kallsyms

__all__ = ("PARAMETERS", "variable_of_parameter")

PARAMETERS: Mapping[str, str] = {
    # The variable of ACPI's idle driver. The other one is a static variable of intel_idle.
    "max_cstate": "processor.max_cstate",
}
"""Names of variables, and the parameters that set them, as on the kernel's command line."""

_MAX_PARAMETERS = 10_000
"""Debian's kernels have some 500."""


def variable_of_parameter(
    prog: Program, kallsyms: Kallsyms, name: str, addresses: Sequence[int]
) -> Optional[int]:
    """Return the virtual address of a variable that has one of :data:`PARAMETERS`.

    The linker puts the ``struct kernel_param`` of each built-in parameter between
    ``__start___param`` and ``__stop___param`` (``kernel/params.c``, v6.12).

    :param name: name of the variable
    :param addresses: all variables with this name; one of these is returned
    :return: ``None`` if there is no such parameter, or its table is not in the dump
    """
    parameter = PARAMETERS.get(name)
    starts, stops = kallsyms.find("__start___param"), kallsyms.find("__stop___param")
    if parameter is None or not starts or not stops:
        return None
    wanted = parameter.encode() + b"\0"
    try:
        type = prog.type("struct kernel_param")
        # A damaged type may have no size at all.
        count = min((stops[0] - starts[0]) // max(sizeof(type), 1), _MAX_PARAMETERS)
        table = Object(prog, prog.array_type(type, max(count, 0)), address=starts[0])
        for entry in map(table.__getitem__, range(count)):
            address = entry.arg.value_()
            text = entry.name.value_()
            if address in addresses and read_or_none(prog, text, len(wanted)) == wanted:
                return int(address)
    except UNUSABLE:
        pass
    return None
