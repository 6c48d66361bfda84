# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report, character by character, as it was when its golden files were written."""

from __future__ import annotations

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools import __version__
from drgn_tools.commands.main import main
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.report.sections import SECTIONS

from ...commands.test_golden import GOLDEN as GOLDEN_FILES
from ...commands.test_golden import check

GOLDEN = (
    "fleet report DATASET",
    *(f"fleet report DATASET --section {name} --top 5" for name in SECTIONS),
    "fleet report DATASET --format json --top 3",
    "fleet report DATASET --section kernels --format csv",
    "fleet report DATASET --section kernels --format github",
    "fleet report DATASET --section stacks --top 2 --format jsonl",
)


@pytest.mark.parametrize("line", GOLDEN)
def test_golden(
    line: str,
    fleet: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    code = main(line.replace("DATASET", str(fleet.path)).split())
    out, err = capsys.readouterr()
    text = f"$ drgn-tools {line}\n{out}[stderr]\n{err}[exit code {code}]\n"
    text = text.replace(str(fleet.path), "DATASET").replace(f'"{__version__}"', '"VERSION"')
    check("fleet", line, text.replace(f"  {__version__}\n", "  VERSION\n"))


def test_no_golden_file_is_left_over() -> None:
    found = {path.stem for path in (GOLDEN_FILES / "fleet").glob("*")}
    assert found <= {line.replace(" ", "_") for line in GOLDEN}
