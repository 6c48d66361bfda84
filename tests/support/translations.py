# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a virtual address of the kernel leads by drgn, to compare our own page tables with."""

from __future__ import annotations

from typing import Callable, Optional

from drgn import FaultError, Program
from drgn.helpers.linux.mm import follow_phys

Translate = Callable[[int], Optional[int]]
"""Virtual address -> physical address; ``None`` if none is mapped there."""


def by_drgn(prog: Program) -> Translate:
    """Return what translates addresses by drgn's own page tables; a missing table counts as not mapped."""
    init_mm = prog["init_mm"].address_of_()

    def translate(address: int) -> Optional[int]:
        try:
            return int(follow_phys(init_mm, address))
        except FaultError:
            return None

    return translate
