# SPDX-License-Identifier: LGPL-2.1-or-later
"""The measure of fleet runs: each way audits everything, and its parts are no more than the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from .fleet import MODES, Run, _copies, _lines, _Round, _run


@pytest.mark.parametrize("mode", ["sandbox", "1 worker"])
def test_a_run(mode: str, demo_core: str, tmp_path: Path) -> None:
    # It asserts by itself that each has a record.
    run = _run(mode, _copies([Path(demo_core)], 2, tmp_path), tmp_path)
    assert 0 < run.commits_s < run.run_s
    assert 0 < run.audits_s < run.run_s
    assert run.cpu_s > 0


def test_start_is_not_counted_in_what_a_dump_takes() -> None:
    one = {mode: Run(5.0, 1.5, 0.1, 0.01, 4.0) for mode in MODES}
    all_ = {mode: Run(5.0, 1.5 + 0.1 * 9 * (i + 1), 1.0, 0.1, 5.8) for i, mode in enumerate(MODES)}
    round_ = _Round(one, all_, 10)
    assert [round(round_.per_dump_s(mode), 9) for mode in MODES] == [0.1, 0.2, 0.3, 0.4]
    lines = "\n".join(_lines([round_]))
    assert "1 worker by loop: 3.00 (3.00 to 3.00); CPU time 1.00" in lines
    assert "throughput of 2 workers by 1: 0.75" in lines
