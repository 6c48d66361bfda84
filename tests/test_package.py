# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a package has in it. `make package` builds it, and tries the wheel."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = ROOT / "setup.py"

without_relative_links = runpy.run_path(str(SETUP))["without_relative_links"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see [docs/a.md](docs/a.md).", "see `docs/a.md`."),
        ("[the lab](tests/lab/README.md#it)", "the lab (`tests/lab/README.md`)"),
        ("[here](https://host/x) [there](#limits)", "[here](https://host/x) [there](#limits)"),
        ("a\n\n![a page](docs/fleet.png)\n\nb\n", "a\n\nb\n"),
        ("prog.tasks[0](x)", "prog.tasks[0](x)"),
    ],
)
def test_links_on_the_package_index(text: str, shown: str) -> None:
    assert without_relative_links(text) == shown


def test_the_readme_has_no_relative_link_there() -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"\]\(docs/", readme)
    links = re.findall(r"\]\(([^)]+)\)", without_relative_links(readme))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_a_source_archive_has_every_file_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no repository, so this is a source archive")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    rules = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    files = {name for kind, *names in rules if kind == "include" for name in names}
    folders = {names[0] for kind, *names in rules if kind in ("graft", "recursive-include")}
    # What setuptools takes by itself.
    files |= {"pyproject.toml", "setup.py", "MANIFEST.in"}
    folders |= {"drgn_tools"}
    for name in done.stdout.splitlines():
        assert name in files or name.partition("/")[0] in folders, f"MANIFEST.in lacks {name}"
