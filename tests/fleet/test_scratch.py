# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folders for copies of cores: gone when done with, or when who made them was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from drgn_tools.fleet.run.scratch import Scratch, remove_abandoned

MAKER = """
import os, sys
from drgn_tools.fleet.run.scratch import Scratch
print(Scratch().path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_removed_when_done_with() -> None:
    scratch = Scratch()
    Path(scratch.path, "core").write_bytes(b"x")
    scratch.remove()
    assert not os.path.exists(scratch.path)


def test_only_what_nobody_uses_is_abandoned(tmp_path: Path) -> None:
    mine = Scratch()
    other = tmp_path / "somebody-elses"
    other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        theirs = maker.stdout.readline().strip()
        Path(theirs, "core").write_bytes(b"x")
        remove_abandoned()
        assert os.path.exists(theirs)
        maker.kill()
    remove_abandoned()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        (os.path.basename(mine.path), "somebody-elses")
    )
    mine.remove()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").touch()
    (tmp_path / "drgn-tools-scratch-link").symlink_to(target)
    remove_abandoned()
    assert (target / "file").exists()
