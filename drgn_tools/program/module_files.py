# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of kernel modules that were given as symbols: which module each is of, and whether that build is loaded.

drgn matches them by their build IDs, and says about others only that they match nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import islice
from typing import Optional

import msgspec
from drgn import Program, RelocatableModule

from ..debuginfo.modules import listed_modules, module_name
from ..errors import TypesError
from ..memory import UNUSABLE
from .core_file import open_regular, shown
from .drgn_modules import MAX_MODULES, create_modules
from .elf import build_id_among, notes_of_sections, section_contents

__all__ = ("ModuleFile", "read_module_file", "usable_module_files")

logger = logging.getLogger("drgn_tools")

_MAX_MODINFO_BYTES = 1 << 20
_MAX_NAME_CHARS = 64
"""MODULE_NAME_LEN is 64 less the size of a word (linux/module.h)."""


class ModuleFile(msgspec.Struct, frozen=True):
    """What the file of a kernel module says about itself."""

    path: str
    module: str
    """Name of the module."""
    build_id: Optional[str]
    """GNU build ID in hex."""


def read_module_file(path: str) -> ModuleFile:
    """Return what the file of a kernel module says about itself.

    If it does not have a name, the name is that of the file: modules of old kernels have none, nor do files with only debugging
    information.

    :raises InputError: if the file cannot be read
    """
    with open_regular(path) as file:
        build_id = build_id_among(notes_of_sections(file))
        modinfo = section_contents(file, b".modinfo", _MAX_MODINFO_BYTES) or b""
    names = (line[len(b"name=") :] for line in modinfo.split(b"\0") if line.startswith(b"name="))
    name = next(names, b"").decode("ascii", "backslashreplace")
    name = name or os.path.basename(path).partition(".")[0].replace("-", "_")
    return ModuleFile(path, name[:_MAX_NAME_CHARS], build_id)


def usable_module_files(prog: Program, name: str, paths: Sequence[str]) -> list[str]:
    """Return the files that are of a loaded module. A warning names each of the others, and why it is not used.

    This creates drgn's modules.

    :param name: what to call the kernel in a message
    :param paths: files of kernel modules
    :raises TypesError: if one is of another build of a loaded module
    """
    if not paths:
        return []
    create_modules(prog)
    loaded = {
        module.name: module.build_id.hex() if module.build_id else None
        for module in prog.modules()
        if isinstance(module, RelocatableModule)
    }
    return [path for path in paths if _is_usable(prog, name, read_module_file(path), loaded)]


def _is_usable(
    prog: Program, name: str, file: ModuleFile, loaded: dict[str, Optional[str]]
) -> bool:
    if file.build_id is not None and file.build_id in loaded.values():
        return True
    module, path = shown(file.module), shown(file.path)
    expected = loaded.get(file.module)
    if expected is not None:
        found = "has none" if file.build_id is None else f"is {file.build_id}"
        raise TypesError(
            f"{name}: module {module} has build ID {expected} but {path} {found}; "
            "give the file of the module that is loaded with -s, or leave it out"
        )
    listed = _is_listed(prog, file.module)
    if listed:
        why = f"the dump does not have the build ID of module {module}, which is loaded"
    elif listed is None:
        why = f"the list of loaded modules is damaged, and module {module} is not in what is left"
    else:
        why = f"module {module} is not loaded"
    logger.warning("%s: is not used: %s", path, why)
    return False


def _is_listed(prog: Program, name: str) -> Optional[bool]:
    """Return whether a module is loaded; ``None`` if the list of modules is damaged."""
    try:
        head = prog["modules"]
    except LookupError:  # without CONFIG_MODULES
        return False
    modules = islice(listed_modules(head), MAX_MODULES)
    try:
        return any(module_name(module) == name for module in modules)
    except UNUSABLE:
        return None
