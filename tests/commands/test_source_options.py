# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of the kernel that was chosen: that its core is unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_tools.commands.main import main
from drgn_tools.data import demo_vmcore
from drgn_tools.terminal import console as console_module


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes any time takes long."""
    monkeypatch.setattr(console_module._Once, "_AFTER_S", 0.0)


def of_unpacking(err: str) -> str:
    (line,) = (line for line in err.splitlines() if line.startswith("unpacking"))
    return line


def test_a_core_is_kept_if_that_is_said(
    at_once: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["tasks", str(demo_vmcore()), "1"]) == 0
    assert of_unpacking(capsys.readouterr().err).endswith("done); it is kept for the next time")
    assert len(list((tmp_path / "cache" / "drgn-tools" / "cores").glob("*.core"))) == 1
    assert main(["tasks", str(demo_vmcore()), "1"]) == 0
    assert "unpacking" not in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named_while_a_core_is_unpacked(
    at_once: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    for _ in range(2):
        assert main(["tasks", str(demo_vmcore()), "1"]) == 0
        line = of_unpacking(capsys.readouterr().err)
        assert "kept" not in line
        assert line.endswith(
            f"done); again each time, because {in_the_way}/drgn-tools/cores cannot be written:"
            " set XDG_CACHE_HOME to a folder that can be"
        )
