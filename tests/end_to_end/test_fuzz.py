# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged BTF and kallsyms: no traceback, no hang, no memory blow-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 1000


@pytest.mark.timeout(900)
def test_damaged_types_and_symbols_give_an_answer_or_one_clear_error(demo_core: str) -> None:
    # In a process of its own: its memory is limited and each run has an alarm.
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz_types", demo_core, "0", str(RUNS)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print("\n" + done.stdout.strip())
    # "1000 runs: 400 answers, 600 errors of ours, peak 300 MiB"
    words = done.stdout.split()
    answers, errors = int(words[2]), int(words[4])
    # The damage is neither so mild that nothing happens nor so wild that nothing opens.
    assert answers + errors == RUNS
    assert answers > RUNS // 20
    assert errors > RUNS // 20
