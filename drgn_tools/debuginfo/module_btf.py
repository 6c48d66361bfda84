# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BTF of loaded modules: each continues that of the kernel image (``btf_modules``).

The kernel keeps it as long as a module is loaded (kernel/bpf/btf.c, CONFIG_DEBUG_INFO_BTF_MODULES,
since v5.11). BTF that does not continue the BTF of this kernel, is damaged, or is not in the dump is
left out; a line of the log (``drgn_tools``, level info) names the module.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

from drgn import Object, Program

from ..errors import TypesError
from ..memory import UNUSABLE, list_entries
from .btf import MAX_BTF_BYTES, Btf, header_bytes
from .modules import module_name

__all__ = ("module_btfs",)

logger = logging.getLogger("drgn_tools")

_MAX_MODULES = 10_000
"""More modules than any kernel has loaded."""
_MAX_BYTES = 128 << 20
"""Limit for the BTF of all modules together."""


def module_btfs(prog: Program, base: Btf) -> list[Btf]:
    """Return the BTF of every loaded module, in the order of the kernel's list.

    :param base: BTF of the kernel image
    """
    found: list[Btf] = []
    left = _MAX_BYTES
    try:
        for entry in islice(_entries(prog), _MAX_MODULES):
            btf, size = _read(entry, base, left)
            left -= size
            found.extend(btf)
    except UNUSABLE as e:  # without modules there is no list; a damaged one ends early
        logger.info("types of modules after the first %d are missing: %s", len(found), e)
    return found


def _entries(prog: Program) -> Iterator[Object]:
    return list_entries(prog["btf_modules"], "struct btf_module", "list")


def _read(entry: Object, base: Btf, most: int) -> tuple[list[Btf], int]:
    # A list with the BTF of the module or nothing, and how many bytes were read.
    name = "?"
    try:
        name = module_name(entry.module.read_())
        btf = entry.btf.read_()
        size = btf.data_size.value_()
        if not 0 < size <= min(most, MAX_BTF_BYTES):
            raise TypesError(f"{size} bytes")
        first = (btf.start_id.value_(), btf.start_str_off.value_())
        if first != (len(base), base.end_string):
            raise TypesError(f"it does not continue the BTF of this kernel, but {first}")
        data = entry.prog_.read(btf.data.value_(), size)
        if header_bytes(data) is None:
            return [], size  # the module has no types of its own
        return [Btf(data, entry.prog_.address_size(), base)], size
    except UNUSABLE as e:
        logger.info("types of module %s are missing: %s", name, e)
        return [], 0
