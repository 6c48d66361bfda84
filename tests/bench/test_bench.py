# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark: what it divides, what it keeps, what it says where it cannot measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_tools import open_program, task_stacks
from drgn_tools.arch.registry import layout_of
from tests.lab.cache import cache_dir

from . import cli
from .figures import FIGURES, Bench, Figure, Measured
from .table import BEGIN, END, in_words, line_of, read_lines, table_of, update
from .timing import ROOT, NotMeasured, Ratio, Sample, in_turns, run_process, run_worker, usual

WHERE = {
    "cpu": "1 x a CPU", "memory": "1 GiB", "kernel": "6", "python": "3", "drgn": "0",
    "drgn-tools": "abc", "crash": "none", "load": "0.0",
}  # fmt: skip


def figure(measure: object, **changes: object) -> Figure:
    values: dict[str, object] = {"name": "drgn", "what": "a / b", "bound": 4, "at_least": False}
    return Figure(**{**values, "measure": measure, **changes})  # type: ignore[arg-type]


def measured(value: float) -> Measured:
    return Measured(Ratio(value, value - 1, value + 1), "a dump, 3 tasks")


# ---- dividing


def test_two_things_are_timed_in_turns_after_a_round_that_does_not_count() -> None:
    order = []

    def timed(name: str) -> Sample:
        order.append(name)
        return Sample(len(order), 1.0)

    firsts, seconds = in_turns(lambda: timed("a"), lambda: timed("b"), 3, lambda done: None)
    assert "".join(order) == "ab" * 4
    assert [s.seconds for s in firsts] == [3, 5, 7]
    assert [s.seconds for s in seconds] == [4, 6, 8]


def test_of_several_in_a_row_the_usual_one_counts() -> None:
    times = iter([3.0, 9.0, 1.0, 2.0, 8.0])
    assert usual(lambda: Sample(next(times), 1.0), 5).seconds == 3.0


def test_ratio_is_the_median_with_its_quartiles() -> None:
    assert Ratio.of([5, 1, 3, 2, 4]) == Ratio(3, 2, 4)
    assert Ratio.of([2]) == Ratio(2, 2, 2)


def test_times_are_compared_for_one_of_what_was_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3, True, None, lambda text: None)
    result = bench.compare(lambda: Sample(10, 6, 10), lambda: Sample(2, 1, 4), "d")
    assert result.value.median == pytest.approx(1 / 0.5)
    assert result.cpu is not None
    assert result.cpu.median == pytest.approx(0.6 / 0.25)
    assert result.details == {"first_seconds": 1, "second_seconds": 0.5}


def test_bounds_are_upper_or_lower_ones() -> None:
    assert [figure(None).holds(value) for value in (3.9, 4, 4.1)] == [True, True, False]
    lower = figure(None, at_least=True)
    assert [lower.holds(value) for value in (3.9, 4, 4.1)] == [False, True, True]


def test_the_figures_are_those_that_were_asked_for() -> None:
    bounds = {f.name: (f.bound, f.at_least) for f in FIGURES}
    assert bounds == {
        "drgn": (100, True),
        "varied": (None, True),
        "no-dwarf": (None, True),
        "read": (4, False),
        "cold": (2.5, False),
        "warm": (1.5, False),
        "growth": (1.15, False),
        "memory": (200, False),
        "crash": (5, True),
        "orc": (None, True),
        "orc-read": (4, False),
        "orc-fp": (1.5, False),
        "orc-cold": (2, False),
        "arm64": (None, True),
        "arm64-read": (None, False),
    }


# ---- processes


def test_a_process_that_fails_is_not_measured_and_says_why() -> None:
    with pytest.raises(NotMeasured, match=r"failed: the last line$"):
        run_process([sys.executable, "-c", "import sys; sys.exit('first\\nthe last line')"])
    with pytest.raises(NotMeasured, match=r"it ended with 3$"):
        run_process([sys.executable, "-c", "import sys; sys.exit(3)"])


def test_a_process_is_timed_with_its_cpu_time() -> None:
    sample = run_process([sys.executable, "-c", "sum(range(3_000_000))"])
    assert sample.cpu_seconds > 0
    assert sample.seconds > 0


def test_reads_are_recorded_as_they_are_made(demo_core: str, tmp_path: Path) -> None:
    out = tmp_path / "reads.json"
    recorded = run_worker("record", demo_core, out)
    reads = json.loads(out.read_text())
    prog = open_program(core=demo_core)
    stacks = list(task_stacks(prog))
    assert recorded["count"] == len(stacks)
    assert recorded["reads"] == len(reads)
    assert recorded["bytes"] == sum(count for _, count, _ in reads)
    # Every frame's return address, and every task, lies in something that was read.
    spans = [(address, address + count) for address, count, physical in reads if not physical]
    pid = layout_of(prog).task.pid[0]
    wanted = [s.task + pid for s in stacks] + [r.address for s in stacks for r in s.regs]
    if len(spans) == len(reads):
        assert all(any(a <= w < b for a, b in spans) for w in wanted)
    replayed = run_worker("replay", demo_core, out)
    assert replayed["count"] == len(reads)


def test_peak_memory_is_that_of_the_command_line(demo_core: str) -> None:
    result = run_worker("peak", 4 << 30, "tasks", "-c", demo_core, "--format", "jsonl")
    assert 10 << 20 < result["peak_bytes"] < 4 << 30
    with pytest.raises(NotMeasured, match="ended with 3"):
        run_worker("peak", 4 << 30, "tasks", "-c", "/dev/null")


# ---- what is kept


def test_a_line_holds_all_that_the_table_says(tmp_path: Path) -> None:
    line = line_of(figure(None), measured(4.5), "run", WHERE, quick=False)
    assert json.loads(json.dumps(line)) == line
    assert line["holds"] is False
    assert in_words(line) == "4.50 (3.50 to 5.50)"
    rows = table_of([line]).splitlines()
    row = next(row for row in rows if "4.50" in row)
    assert "| missed | a dump, 3 tasks |" in row
    assert sum("not measured" in row for row in rows) == len(FIGURES) - 1
    assert rows[-1].startswith("Measured on 1 x a CPU, 1 GiB, Linux 6; python 3")


def test_the_table_is_of_the_newest_thorough_run() -> None:
    lines = [
        line_of(figure(None), measured(value), "run", WHERE, quick)
        for value, quick in ((9.0, False), (2.0, False), (3.0, True))
    ]
    table = table_of(lines)
    assert "2.00" in table
    assert "9.00" not in table
    assert "3.00 (" not in table


def test_the_table_is_written_where_the_document_has_a_place(tmp_path: Path) -> None:
    document = tmp_path / "speed.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update(document, "new")
    update(document, "newer")
    assert document.read_text() == f"before\n{BEGIN}\nnewer\n{END}\nafter\n"
    document.write_text("nothing")
    with pytest.raises(LookupError, match="no place"):
        update(document, "new")


# ---- the command line


def run_cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, figures: list[Figure], *words: str
) -> int:
    monkeypatch.setattr(cli, "FIGURES", figures)
    monkeypatch.setattr(cli, "machine_and_versions", lambda: WHERE)
    results = tmp_path / "results" / "bench.jsonl"
    return cli.main(["--results", str(results), "--scratch", str(tmp_path / "scratch"), *words])


def test_a_missed_bound_is_said_and_with_check_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = [figure(lambda bench: measured(5.0))]
    assert run_cli(monkeypatch, tmp_path, figures) == 0
    assert "at most 4: missed" in capsys.readouterr().out
    assert run_cli(monkeypatch, tmp_path, figures, "--check") == 1
    assert run_cli(monkeypatch, tmp_path, [figure(lambda bench: measured(3.0))], "--check") == 0
    lines = read_lines(tmp_path / "results" / "bench.jsonl")
    assert [line["holds"] for line in lines] == [False, False, True]


def test_what_cannot_be_measured_says_why_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(bench: Bench) -> Measured:
        raise NotMeasured("no crash yet")

    figures = [figure(fails, name="crash"), figure(lambda bench: measured(3.0))]
    assert run_cli(monkeypatch, tmp_path, figures, "--check") == 0
    out = capsys.readouterr().out
    assert "not measured: no crash yet" in out
    assert "3.00" in out


def test_scratch_is_left_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def leaves(bench: Bench) -> Measured:
        with bench.multiplied(300) as dump:
            assert dump.core.exists()
            return measured(1.0)

    assert run_cli(monkeypatch, tmp_path, [figure(leaves)]) == 0
    assert list((tmp_path / "scratch").iterdir()) == []


def test_without_the_labs_dump_the_figures_on_it_name_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_dir() != tmp_path
    monkeypatch.setenv("DRGN_TOOLS_LAB_CACHE", str(tmp_path))
    bench = Bench(tmp_path, 1, True, None, lambda text: None)
    for name in ("drgn", "varied", "no-dwarf", "read", "crash"):
        with pytest.raises(NotMeasured, match="lab"):
            next(f for f in FIGURES if f.name == name).measure(bench)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sped"], "no figure is named sped"),
        (["--rounds", "0"], "at least one"),
        (["--vmlinux", "x"], "goes with --core"),
        (["--core", "/nowhere"], "no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_wrong_use_is_an_error_in_a_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(words)
    assert exit_info.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_help_names_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--help"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    for f in FIGURES:
        assert f"  {f.name}" in done.stdout
