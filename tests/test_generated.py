# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is made from the code is as the code is now: man pages, completion, JSON schemas."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_tools.commands.registry import SUMMARIES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "man").glob("*.1"))


def test_what_is_generated_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # this tree, whatever is installed
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0), "make generated"


def test_there_is_a_page_for_each_command() -> None:
    names = {path.stem for path in PAGES}
    assert {f"drgn-tools-{name}" for name in SUMMARIES} <= names
    assert {"drgn-tools", "drgn-tools-fleet-run"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_man_shows_the_page(page: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("no man or groff on this machine")
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)],
        capture_output=True,
        text=True,
        env={"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANPAGER": "cat"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r".\x08", "", done.stdout)
    headings = re.findall(r"^[A-Z][A-Z ]+", text, re.MULTILINE)
    assert {"NAME", "SYNOPSIS", "OPTIONS", "SEE ALSO"} <= {heading.strip() for heading in headings}
    # Words are not lost to the language of the page: a line that begins with a dot or a quote.
    for option in set(re.findall(r"\\-\\-([a-z]+)", page.read_text())):
        assert f"--{option}" in text
