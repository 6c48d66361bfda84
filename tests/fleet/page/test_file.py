# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page as a file, a device, a pipe, and on stdout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.report.page import print_page, write_page
from drgn_tools.terminal.console import OutputError, ReaderGoneError, discard

from ...support.fleet_dataset import FLEET, write_dataset
from ...support.fleet_page import Open, figure


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET[:1])
    with pytest.raises(OutputError, match=r"^\S+/no/page\.html: cannot be written: No such file"):
        write_page(dataset, tmp_path / "no" / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write_page(dataset, tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["dataset", "folder"]


def test_a_page_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET[:1])
    (tmp_path / "page.html").write_text("older")
    (tmp_path / "link.html").symlink_to("page.html")
    write_page(dataset, tmp_path / "link.html")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(os.listdir(tmp_path)) == ["dataset", "link.html", "page.html"]


def test_a_device_stays_one(tmp_path: Path) -> None:
    device = Path(os.devnull)
    write_page(write_dataset(tmp_path / "dataset", FLEET[:1]), device)
    assert device.is_char_device()


def test_a_page_goes_through_a_pipe(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset", FLEET[:1])
    code = (
        "import sys; from pathlib import Path; from drgn_tools.fleet.dataset.dataset import Dataset; "
        "from drgn_tools.fleet.report.page import write_page; "
        "write_page(Dataset.open(Path(sys.argv[1])), Path('/dev/stdout'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "dataset")],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.startswith(b"<!DOCTYPE html>") and run.stdout.endswith(b"</html>\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_page_goes_to_stdout(encoding: str, tmp_path: Path, open_page: Open) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET)
    code = (
        "import sys; from pathlib import Path; from drgn_tools.fleet.dataset.dataset import Dataset; "
        "from drgn_tools.fleet.report.page import print_page; print_page(Dataset.open(Path(sys.argv[1])))"
    )
    with open(tmp_path / "page.html", "wb") as out:
        subprocess.run(
            [sys.executable, "-c", code, str(dataset.path)],
            stdout=out,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
    page = open_page(tmp_path / "page.html")
    assert figure(page, "sources") == len(FLEET)
    write_page(dataset, tmp_path / "other.html")
    here, there = ((tmp_path / name).read_bytes() for name in ("page.html", "other.html"))
    written = rb'"written":\d+'
    assert re.sub(written, b"", here) == re.sub(written, b"", there)


def test_a_reader_of_the_page_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET[:1])
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        with pytest.raises(ReaderGoneError):
            print_page(dataset)
        discard(nobody)
