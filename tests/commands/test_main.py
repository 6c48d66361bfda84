# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors, bugs and interrupts: what is printed, where, and the exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from drgn_tools.commands.main import main
from drgn_tools.errors import InputError, TaskNotFoundError, TypesError
from drgn_tools.records import KernelAudit, Verdict

from ..support.command_line import PROGRAM, ROOT, in_a_shell, offer, start
from ..support.fabricated import HOSTILE, KERNEL, ORC_KERNEL, ORC_TASK, TASKS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("vmcore: not a vmcore"), 3),
        (TypesError("vmcore: no BTF, and no -s"), 4),
        (TaskNotFoundError("no task with pid 5 in vmcore"), 2),
    ],
    ids=["input", "types", "task"],
)
def test_an_error_is_one_line_and_has_its_exit_code(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def open_program(**_: object) -> None:
        raise error

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    for options in ([], ["-q"]):
        assert main(["tasks", "-c", "vmcore", *options]) == code
        assert capsys.readouterr() == ("", f"drgn-tools: error: {error}\n")


def test_a_bug_is_one_line_and_its_traceback_is_for_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_program(**_: object) -> None:
        raise KeyError("evil\x1b[31m\nname")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    assert main(["tasks", "-c", "vmcore"]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drgn-tools: bug: KeyError: ")
    assert "test_main.py:" in err
    assert err.count("\n") == 1
    assert "\x1b" not in err

    assert main(["tasks", "-c", "vmcore", "--log-level", "debug"]) == 70
    assert "Traceback (most recent call last):" in capsys.readouterr().err


# ---- what goes where


@pytest.mark.parametrize("style", ["json", "jsonl", "csv", "table", "github"])
@pytest.mark.parametrize("command", [["tasks"], ["stack", "--all"], ["regs"], ["groups"]])
def test_nothing_but_the_result_is_on_stdout(
    command: list[str], style: str, fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-c", "vmcore", "--format", style]) == 5
    loud = capsys.readouterr()
    assert main([*command, "-c", "vmcore", "--format", style, "-q"]) == 5
    quiet = capsys.readouterr()
    assert loud.out == quiet.out
    assert KERNEL.release in loud.err
    assert "22 tasks: 13 reliable, 6 unreliable, 3 unknown" in loud.err
    assert KERNEL.release not in quiet.err


def test_quiet_still_says_what_could_not_be_read(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tasks", "-c", "vmcore", "-q"])
    assert capsys.readouterr().err == (
        "drgn-tools: warning: the task list loops at 0xff11000002600000\n"
        "drgn-tools: warning: 1 of the stacks could not be read to the end (unreadable)\n"
    )


def test_the_note_of_a_kernel_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, KernelAudit(ORC_KERNEL, (ORC_TASK,) * 3))
    assert main(["tasks", "-k"]) == 0
    out, err = capsys.readouterr()
    assert err.count("ORC unwinder") == 1
    assert "ORC" not in out
    assert out.count("orc_unclear") == 3


@pytest.mark.parametrize("command", ["tasks", "regs", "groups", "demo"])
def test_filters_that_match_nothing_are_quoted(
    command: str, sound: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [] if command == "demo" else ["-c", "vmcore"]
    assert main([command, *source, "-q", "--pid", "99999", "--comm", "no one"]) == 0
    assert capsys.readouterr().err == (
        "drgn-tools: warning: no task matches --pid 99999 --comm 'no one'\n"
    )


def test_the_hostile_task_cannot_reach_a_terminal(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["tasks", "--frames"], ["stack", "--all"], ["regs"], ["groups"]):
        main([*command, "-c", "vmcore"])
        out, err = capsys.readouterr()
        assert HOSTILE.comm not in out
        assert all(line.isprintable() for line in (out + err).split("\n"))


def test_the_verdicts_of_the_fabricated_kernel_are_all_there() -> None:
    assert {task.verdict for task in TASKS} == set(Verdict)


def test_the_table_is_as_wide_as_columns_says(
    sound: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns, width in (("300", 300), ("20", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        main(["tasks", "-c", "vmcore", "--pid", "51-52"])
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= width
        assert ("preempted by the timer interrupt in vfs_read+0x8f" in out) == (width == 300)


# ---- a process of its own


@pytest.mark.parametrize("style", ["table", "json", "jsonl", "csv"])
def test_a_reader_that_leaves_early_is_no_error(style: str) -> None:
    process = start("tasks", "-c", "vmcore", "--frames", "--format", style, "-q", times=300)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 141
    assert err == b""


def test_help_into_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "drgn_tools", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, b"")


def test_ctrl_c_ends_it_without_a_word() -> None:
    body = 'print("here", file=sys.stderr, flush=True); time.sleep(60)'
    # Who was started in the background ignores it, and so would what it starts.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start("tasks", "-c", "vmcore", body=body, preexec_fn=heeding)
    assert process.stderr is not None
    assert process.stderr.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_ctrl_c_during_the_import() -> None:
    code = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "drgn_tools.commands.command_line":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from drgn_tools.__main__ import main
assert "drgn_tools.records" not in sys.modules
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_full_disk_is_said() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body="pass", times=1), "tasks", "-k", "-q"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert process.returncode == 74
    assert process.stderr.startswith(b"drgn-tools: error: cannot write the result: ")
    assert process.stderr.count(b"\n") == 1


DEMO_LINES = (
    "demo", "demo --format json", "tasks -c CORE", "stack --all -c CORE", "regs -c CORE",
    "groups --format folded -c CORE", "shell -c CORE", "--help", "tasks --help", "--version",
)  # fmt: skip


@pytest.mark.parametrize("line", DEMO_LINES)
def test_a_closed_stdout_is_said(line: str, demo_core: str) -> None:
    process = in_a_shell(line, demo_core, ">&-")
    assert process.returncode == 74
    assert process.stderr.startswith(b"drgn-tools: error: cannot write the result: ")
    assert process.stderr.count(b"\n") == 1


# What a script cannot write is its own error.
@pytest.mark.parametrize("line", [line for line in DEMO_LINES if not line.startswith("shell")])
def test_a_full_disk_is_said_of_everything(line: str, demo_core: str) -> None:
    process = in_a_shell(line, demo_core, ">/dev/full")
    assert process.returncode == 74
    *_, last = process.stderr.splitlines()
    assert last.startswith(b"drgn-tools: error: cannot write the result: ")
    assert b"Exception ignored" not in process.stderr


@pytest.mark.parametrize("line", (*DEMO_LINES, "nonsense", "tasks -c /no/such/core"))
@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"], ids=["full", "closed"])
def test_a_stderr_that_takes_nothing_changes_nothing(
    line: str, redirect: str, demo_core: str
) -> None:
    usual = in_a_shell(line, demo_core, "")
    mute = in_a_shell(line, demo_core, redirect)
    assert (mute.returncode, mute.stdout) == (usual.returncode, usual.stdout)
    assert mute.stderr == b""


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    process = start("stack", "-c", "x", "--all", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert out.isascii()
    assert b"| RAX: " in out


def test_lc_all_c_is_ascii() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for locale, is_ascii in (("C", True), ("C.UTF-8", False)):
        process = start("stack", "-c", "x", "--all", env={**plain, "LC_ALL": locale})
        out, _ = process.communicate(timeout=60)
        assert out.isascii() == is_ascii
