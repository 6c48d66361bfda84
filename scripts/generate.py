#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the files that are made from the code: man pages, shell completion, JSON schemas.

    scripts/generate.py           writes them
    scripts/generate.py --check   exit code 1 if one of them is not what would be written

They are committed, so that an installed package and a source archive have them without the tools
that make them. A test runs the check.
"""

from __future__ import annotations

import sys
from pathlib import Path

from completions import completion
from manual import command_pages, man_page
from schemas import schemas

from drgn_tools.commands.completion import SHELLS

ROOT = Path(__file__).parent.parent
MAN_PAGES = Path("man")
COMPLETIONS = Path("drgn_tools/completions")
SCHEMAS = Path("drgn_tools/schemas")


def generated() -> dict[Path, str]:
    """Return every file, by its path below the root, with its text."""
    pages = command_pages()
    files = {MAN_PAGES / f"{page.name}.1": man_page(page, pages) for page in pages}
    for shell in SHELLS:
        files[COMPLETIONS / f"drgn-tools.{shell}"] = completion(shell)
    for name, text in schemas().items():
        files[SCHEMAS / name] = text
    return files


def stale_files(files: dict[Path, str]) -> list[Path]:
    """Return the files that differ, are missing, or are no longer generated."""
    found = {
        path.relative_to(ROOT)
        for folder in (MAN_PAGES, COMPLETIONS, SCHEMAS)
        for path in (ROOT / folder).glob("*")
    }
    changed = {path for path in found & set(files) if (ROOT / path).read_text() != files[path]}
    return sorted(changed | (found ^ set(files)))


def main() -> int:
    files = generated()
    stale = stale_files(files)
    if sys.argv[1:] == ["--check"]:
        for path in stale:
            print(f"{path} is not what scripts/generate.py writes (make generated)")
        return 1 if stale else 0
    for path in stale:
        print(path)
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        if path in files:
            (ROOT / path).write_text(files[path])
        else:
            (ROOT / path).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
