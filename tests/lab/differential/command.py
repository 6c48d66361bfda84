# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything for one version: its source, a dump with its tables, the comparison."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

from drgn_tools import open_program

from ..cache import INPUTS_FILE, cache_dir
from ..errors import LabError
from ..run import say
from .compare import Figures, compare_random_stacks
from .library import Library
from .source import get_unwinder

__all__ = ("Result", "compare_version", "find_dump")


class Result(NamedTuple):
    """A comparison."""

    what: str
    """Release of the kernel whose tables these are, and version of the source."""
    figures: Figures
    lines_never_run: Optional[list[str]]
    """See :meth:`.Library.lines_never_run`; ``None`` if it was not asked for."""


def find_dump(version: str) -> Optional[Path]:
    """Return the newest dump of a kernel with ORC in the cache.

    :param version: Of the kernel: its first two numbers
    """
    found = []
    for about in (cache_dir() / "dumps").glob("*/core.json"):
        facts = json.loads(about.read_text())
        of_version = re.match(re.escape(version) + r"(?!\d)", facts["release"])
        if of_version and facts["unwinder"] == "orc" and not facts["crash"]:
            found.append(about.with_name("core"))
    return max(found, key=lambda core: core.stat().st_mtime, default=None)


def compare_version(
    version: str, count: int, seed: int, core: Optional[Path] = None, coverage: bool = False
) -> Result:
    """Compare walks of random stacks by the rules of a kernel.

    :param version: One of :data:`.source.VERSIONS`
    :param count: How many stacks
    :param seed: Other numbers give other stacks
    :param core: A dump of a kernel of that version; by default the newest in the cache
    :param coverage: Find out which lines of the kernel's code were never run
    :raises LabError: there is no dump, or no source
    """
    core = core or find_dump(version)
    if core is None:
        raise LabError(f"the cache has no dump of a {version} kernel with ORC (see `list`)")
    folder = get_unwinder(version)
    source = json.loads((folder / INPUTS_FILE).read_text())["source"]
    with tempfile.TemporaryDirectory() as work:
        library = Library(folder, Path(work), open_program(core=str(core)), coverage)
        what = f"tables of {library.prog['UTS_RELEASE'].string_().decode()}, code of {source}"
        say(f"{what}: {count} stacks, seed {seed}")
        figures = compare_random_stacks(library, count, seed)
        return Result(what, figures, library.lines_never_run() if coverage else None)
