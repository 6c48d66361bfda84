# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keys of what is kept with a program, in ``Program.cache``."""

from __future__ import annotations

__all__ = ("PREFIX", "cache_key")

PREFIX = "encoded_stacks"
"""Our name where extensions of drgn share a namespace: plugins, loggers, finders, caches.

``drgn_tools`` would not do: another package of that import name may have used the program."""


def cache_key(module: str) -> str:
    """Return the key in :attr:`drgn.Program.cache` that belongs to a module.

    :param module: its ``__name__``
    """
    return f"{PREFIX}.{module}"
