# SPDX-License-Identifier: LGPL-2.1-or-later
"""A report on a damaged dataset, or on something else, is one line of error."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.commands.main import main
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.dataset.views import VIEWS

from ...support.fleet_dataset import FLEET, write_dataset
from ...support.fleet_report import run


def one_error(code: int, err: str) -> tuple[int, str]:
    [line] = err.splitlines()
    assert line.startswith("drgn-tools: error: ")
    return code, line


def test_what_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        code, out, err = run([str(path)], capsys)
        assert one_error(code, err)[0] == 3
        assert str(path) in err
        assert not out


def test_a_dataset_of_another_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "d", FLEET[:1])
    (tmp_path / "d" / "dataset.json").write_text('{"schema": "drgn-tools.fleet/2"}')
    code, _, err = run([str(tmp_path / "d")], capsys)
    assert one_error(code, err) == (3, one_error(code, err)[1])
    assert "drgn-tools.fleet/2" in err
    assert "drgn-tools.fleet/1" in err


@pytest.mark.parametrize("more", [[], ["--sql", "SELECT sum(depth), count(frames) FROM tasks"]])
@pytest.mark.parametrize("folder", ["audits", "tasks"])
@pytest.mark.parametrize("damage", ["cut", "middle", "empty"])
def test_a_damaged_file_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    damage: str,
    more: list[str],
) -> None:
    dataset = write_dataset(tmp_path / "d", FLEET)
    file = sorted((dataset.path / folder).iterdir())[4]
    content = file.read_bytes()
    # The first half of a file is its pages: here compressed data that is none.
    middle = content[:8] + b"\xff" * (len(content) // 4) + content[8 + len(content) // 4 :]
    file.write_bytes({"cut": content[:-20], "middle": middle, "empty": b""}[damage])
    code, out, err = run([str(dataset.path), *more], capsys)
    assert one_error(code, err)[0] == 3
    assert str(file) in err
    assert not out


def test_an_error_of_sql_is_exit_code_2(fleet: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([str(fleet.path), "--sql", "SELECT nope FROM audits"], capsys)
    assert one_error(code, err)[0] == 2
    assert not out


def test_a_format_that_there_is_not(fleet: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--sql", "FROM audits"]):
        code, out, err = run([str(fleet.path), "--format", "gihtub", *more], capsys)
        assert one_error(code, err)[0] == 2
        assert "did you mean github?" in err
        assert not out


def test_help_names_the_views(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "report", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(list(VIEWS)[:-1])} and {list(VIEWS)[-1]};" in out
    assert "DESCRIBE tasks" in out
