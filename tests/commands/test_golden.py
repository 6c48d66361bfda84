# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each command line prints, kept in a file each under tests/golden/.

``golden/fabricated`` is of the records in tests/support/fabricated.py, ``golden/demo``
of the vmcore in the package. After a change that is meant::

    DRGN_TOOLS_UPDATE_GOLDEN=1 python -m pytest tests/commands/test_golden.py
    git diff tests/golden
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from drgn_tools import Verdict, __version__, open_program, task_stacks
from drgn_tools.commands.main import main
from drgn_tools.data import demo_vmcore

from ..support.command_line import offer
from ..support.fabricated import AUDIT
from ..support.snapshots import EARLIER, LATER, save

GOLDEN = Path(__file__).parents[1] / "golden"
UPDATE = os.environ.get("DRGN_TOOLS_UPDATE_GOLDEN") == "1"

FABRICATED = (
    "tasks",
    "tasks --frames",
    "tasks --format json",
    "tasks --format jsonl",
    "tasks --format csv",
    "tasks --format github",
    "tasks --frames --format json",
    "tasks --frames --format csv",
    "tasks --verdict unreliable --check --quiet",
    "stack --all",
    "stack 51 --format json",
    "stack 51 --format csv",
    "stack --on-cpu",
    "stack",
    "stack 51 --format table",
    "regs",
    "regs --format json",
    "regs --format csv",
    "groups",
    "groups --format json",
    "groups --format csv",
    "groups --format folded",
    "groups --format folded --by-comm",
    "diff BEFORE",
    "diff BEFORE --all",
    "diff BEFORE --kind still,came --check --quiet",
    "diff BEFORE --all --format json",
    "diff BEFORE --all --format csv",
    "COLUMNS=100 tasks",
    "COLUMNS=80 tasks --frames",
    "COLUMNS=100 regs",
    "COLUMNS=80 groups",
    "COLUMNS=100 tasks --color always",
    "stack --all --color always",
    "tasks --columns task,pid,flags,function --sort -depth,pid",
    "tasks --columns pid,function --format csv",
    "tasks --columns pid,on_cpu --format jsonl 51-57",
    "tasks --columns help",
    "regs --columns pid,r15,ip --format csv",
    "groups --sort verdict,-count --columns count,verdict,why,pids",
)
"""BEFORE stands for a saved look."""

DEMO = (
    "demo",
    "demo --format csv",
    "tasks",
    "tasks --sort verdict",
    "tasks --verdict unreliable --frames",
    "tasks --format json",
    "tasks --format jsonl",
    "tasks --format csv",
    "tasks --format github",
    "tasks --frames --format json",
    "tasks --frames --format csv",
    "tasks --check --quiet",
    "stack UNRELIABLE",
    "stack UNRELIABLE --format json",
    "stack UNRELIABLE --format jsonl",
    "stack UNRELIABLE --format csv",
    "stack UNRELIABLE --format table",
    "stack UNRELIABLE --raw",
    "stack UNRELIABLE --raw --format json",
    "stack UNRELIABLE --raw --format csv",
    "stack UNRELIABLE --raw --format table",
    "stack --all",
    "stack 999999",
    "stack",
    "stack --on-cpu",
    "livepatch",
    "livepatch --function pipe_read --function do_wait,1",
    "livepatch --function pipe_read --check --quiet --format csv",
    "livepatch --function pipe_read --function nonsense --function xfs:xfs_sync --format json",
    "livepatch --all --comm w-pipe* --function lab_helper:spinner",
    "hung",
    "hung --all --format json",
    "hung --all --comm w-*",
    "hung --check --format csv --longer 1 --quiet",
    "regs",
    "regs --mode kernel",
    "regs --format json",
    "regs --format jsonl",
    "regs --format csv",
    "groups",
    "groups --format json",
    "groups --format jsonl",
    "groups --format csv",
    "groups --format folded",
    "groups --format folded --by-comm",
    "shell",
    "COLUMNS=80 tasks",
    "COLUMNS=100 tasks",
    "COLUMNS=120 tasks",
    "COLUMNS=100 regs",
    "COLUMNS=100 groups --verdict unreliable",
    "COLUMNS=80 livepatch --function pipe_read --function do_wait,1",
)
"""A width stands before the command. UNRELIABLE stands for the PID of the first task whose verdict that is."""

SCRIPT = "for s in task_stacks(prog):\n    print(s.pid, s.verdict.value, len(s.frames))\n"
"""What ``shell`` is fed."""


def check(folder: str, line: str, text: str) -> None:
    """Is *text* what the golden file of this command line holds?"""
    path = GOLDEN / folder / f"{line.replace(' ', '_')}.txt"
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing; DRGN_TOOLS_UPDATE_GOLDEN=1 makes it"
    assert text == path.read_text()


def run(line: str, argv: list[str], capsys: pytest.CaptureFixture[str], *core: str) -> str:
    """Everything a command line gives, as one text."""
    code = main(argv)
    out, err = capsys.readouterr()
    if "--format json" in line and "jsonl" not in line:
        json.loads(out)
    text = f"$ drgn-tools {line}\n{out}[stderr]\n{err}[exit code {code}]\n"
    for path in core:
        text = text.replace(path, "CORE")
    return text.replace(f'"tool": "{__version__}"', '"tool": "VERSION"')


def words(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    first, *rest = line.split()
    variable, is_variable, value = first.partition("=")
    if not is_variable:
        return [first, *rest]
    monkeypatch.setenv(variable, value)
    return rest


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.mark.parametrize("line", FABRICATED)
def test_fabricated(
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    offer(monkeypatch, LATER if "BEFORE" in line else AUDIT)
    before = str(save(EARLIER, tmp_path / "before.json"))
    argv = [word.replace("BEFORE", before) for word in words(line, monkeypatch)]
    shown = run(line, [*argv, "-c", "vmcore"], capsys).replace(before, "BEFORE")
    check("fabricated", line, shown)


@pytest.fixture(scope="module")
def unreliable_pid(demo_core: str) -> str:
    tasks = task_stacks(open_program(core=demo_core))
    return str(next(task.pid for task in tasks if task.verdict is Verdict.UNRELIABLE))


@pytest.mark.skipif(
    "DRGN_TOOLS_DEMO_CORE" in os.environ, reason="golden files are of the vmcore in the package"
)
@pytest.mark.parametrize("line", DEMO)
def test_demo(
    line: str,
    demo_core: str,
    unreliable_pid: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SCRIPT))
    argv = words(line.replace("UNRELIABLE", unreliable_pid), monkeypatch)
    if argv[0] != "demo":
        argv += ["-c", demo_core]
    check("demo", line, run(line, argv, capsys, demo_core, str(demo_vmcore())))


def test_no_golden_file_is_left_over() -> None:
    for folder, lines in (("fabricated", FABRICATED), ("demo", DEMO)):
        found = {path.stem for path in (GOLDEN / folder).glob("*")}
        assert found <= {line.replace(" ", "_") for line in lines}
