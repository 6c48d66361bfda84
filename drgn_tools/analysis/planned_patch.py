# SPDX-License-Identifier: LGPL-2.1-or-later
"""A live patch that is not loaded: which functions it would replace."""

from __future__ import annotations

import re
from typing import Optional

import msgspec

from ..errors import UsageError

__all__ = ("PlannedFunction", "PlannedPatch", "parse_function")

_FUNCTION = re.compile(
    r"(?:(?P<module>[\w-]+):)?(?P<name>[A-Za-z_][\w.$]*)(?:,(?P<sympos>[1-9]\d{0,8}))?", re.ASCII
)


class PlannedFunction(msgspec.Struct, frozen=True):
    """A function that a patch would replace."""

    name: str
    """``old_name``."""
    module: Optional[str] = None
    """Its module; ``None`` for the kernel image."""
    sympos: int = 0
    """``old_sympos``: which symbol of this name, from 1; 0 if there is only one."""

    def __str__(self) -> str:
        module = "" if self.module is None else f"{self.module}:"
        return f"{module}{self.name}{f',{self.sympos}' if self.sympos else ''}"


class PlannedPatch(msgspec.Struct, frozen=True):
    """A patch that is not loaded."""

    name: str
    """Name of its module, or what to call it without one."""
    functions: tuple[PlannedFunction, ...]
    """In the order of the patch."""
    replace: bool = False
    """It replaces all patches that are loaded (atomic replace)."""
    vermagic: Optional[str] = None
    """``vermagic`` of its module file: the kernel that it was built for. ``None`` without a file."""
    has_crcs: bool = False
    """Its file has the CRCs of the symbols that it uses."""


def parse_function(text: str) -> PlannedFunction:
    """Return the function that ``[MODULE:]NAME[,POS]`` names.

    :raises UsageError: if it is malformed
    """
    match = _FUNCTION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"a function is given as [MODULE:]NAME[,POS], as in ext4:ext4_sync_file, not {text!r}"
        )
    module = match["module"]
    return PlannedFunction(
        match["name"],
        None if module in (None, "vmlinux") else _module_name(module),
        int(match["sympos"] or 0),
    )


def _module_name(name: str) -> str:
    # A file name may have a dash where the module has an underscore.
    return name.replace("-", "_")
