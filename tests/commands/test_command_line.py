# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong with a command line, which options may stand where, and the help."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_tools import __version__
from drgn_tools.commands.command_line import parse_command_line
from drgn_tools.commands.hints import _CRASH_COMMANDS, _OURS
from drgn_tools.commands.main import main
from drgn_tools.commands.registry import SUMMARIES
from drgn_tools.errors import InputError, UsageError

from ..support.command_line import ROOT, joined, refused


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "which command?"),
        (["help", "nonsense"], "there is no command 'nonsense'"),
        (["tsks", "-c", "a"], "did you mean drgn-tools tasks -c a?"),
        (["ps", "-c", "a"], "drgn-tools tasks -c a does that"),
        (["-c", "a", "bt", "51"], "drgn-tools stack 51 -c a does that"),
        (["foreach", "bt"], "drgn-tools stack --all"),
        (["log", "-c", "a"], "echo 'print_dmesg()' | drgn-tools shell -c a prints"),
        (["mod"], "%crash mod in drgn-tools shell"),
        (["README.md"], "is a file, not a command: drgn-tools tasks README.md lists its tasks"),
        (["README.md"], "drgn-tools hung README.md what hangs"),
        (["--vmcore", "a", "tasks"], "no option --vmcore: did you mean --core?"),
        (["tasks", "-c", "a", "--json"], "did you mean --format json?"),
        (["fleet", "report", "a", "--topp", "5"], "did you mean --top?"),
        (["tasks", "no-such-file"], "error: no-such-file: no such file; give a core (-c VMCORE)"),
        (["stack", "51", "t/no"], "error: t/no: no such file; give a core (-c VMCORE), -k for the"),
        (["groups", "init", "t/no", "9"], "error: t/no: no such file; give a core"),
        (["hung", "2026-11-29/vmcore"], "error: 2026-11-29/vmcore: no such file; give a core"),
        (["tasks", "vmcroe", "init"], "error: none of vmcroe, init is a file; give a core"),
        (
            ["tasks", "https://u:secret@h/vmcore?sig"],
            "error: https://h/vmcore: is a URL, not a file",
        ),
        (["tasks", "v" * 999], f"error: {'v' * 999}: File name too long; give a core"),
        (["tasks", "a\0b"], "error: 'a\\x00b': not a valid file name; give a core"),
        (["tasks", "a\ud800b"], "error: 'a\\ud800b': not a valid file name; give a core"),
        (["shell", "no-such-file"], "error: no-such-file: no such file; give a core"),
        (["t/no"], "'t/no' is neither a file nor a command: drgn-tools tasks VMCORE"),
        (["tasks", "51"], "error: which kernel? give a core (-c VMCORE), -k for the running"),
        (["nonsense"], "'nonsense'"),
        (["-q", "fleet", "report", "a"], "options of fleet come after it"),
        (
            ["tasks"],
            "which kernel? give a core (-c VMCORE), -k for the running kernel, or --qemu S",
        ),
        (["tasks", "-c", "a", "-k"], "-c and -k exclude each other"),
        (["-k", "tasks", "--qemu", "a"], "-k and --qemu exclude each other"),
        (["tasks", "-c"], "-c/--core"),
        (["tasks", "-c", "a", "--format", "jsn"], "no format 'jsn': did you mean json?"),
        (["tasks", "-c", "a", "-c", "b"], "-c a and -c b: give one"),
        (["tasks", "-c", "a", "--format", "JSN"], "did you mean json? it has table, json,"),
        (["shell", "-c", "a", "extra"], "'extra' is not a file"),
        (["tasks", "-c", "a", "--frame"], "no option --frame: did you mean --frames?"),
        (["tasks", "-c", "a", "--log-level", "loud"], "--log-level"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


def test_options_of_all_commands_may_stand_before_and_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []

    def open_program(**kwargs: Any) -> None:
        seen.append(kwargs)
        raise InputError("enough")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    main(["-c", "core", "-s", "a", "--vmcoreinfo", "v", "tasks", "-s", "b", "-q"])
    main(["tasks", "-c", "core", "-s", "a", "-s", "b", "--vmcoreinfo", "v"])
    for given in seen:
        del given["progress"]
    assert seen[0] == seen[1]
    assert seen[0]["core"] == "core"
    assert seen[0]["symbols"] == ["a", "b"]


def test_what_stands_after_the_command_wins(
    fabricated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--format", "json", "tasks", "-k", "--format", "csv"])
    assert capsys.readouterr().out.startswith("task,pid,")
    main(["--format", "csv", "tasks", "-k"])
    assert capsys.readouterr().out.startswith("task,pid,")


@pytest.mark.parametrize(
    ("argv", "core", "words"),
    [
        (["tasks", "./vmcore"], "./vmcore", []),
        (["tasks", "51", "vmcore", "init"], "vmcore", ["51", "init"]),
        (["tasks", "51", "--state", "S", "vmcore", "-q"], "vmcore", ["51"]),
        (["tasks", "2026-dump"], "2026-dump", []),
        (["-c", "a", "tasks", "vmcore"], "a", ["vmcore"]),  # a task may be called so
        (["tasks", "-c", "a", "vmcore"], "a", ["vmcore"]),
        (["stack", "vmcore"], "vmcore", []),
        (["stack", "51", "vmcore"], "vmcore", ["51"]),
        (["stack", "-c", "a", "51"], "a", ["51"]),  # a PID, and a file beside
        (["shell", "vmcore"], "vmcore", []),
    ],
    ids=joined,
)
def test_a_lone_file_is_the_core(
    argv: list[str],
    core: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("vmcore", "2026-dump", "51"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    args: Any = parse_command_line(argv).args
    assert (args.core, list(args.words)) == (core, words)


def test_a_file_in_a_folder_that_may_not_be_searched_is_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who opens it says that this is not permitted. (Root may search every folder.)
    path = str(tmp_path / "vmcore")
    stat = os.stat

    def refuse(what: Any, **options: Any) -> os.stat_result:
        if what == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(what, **options)

    monkeypatch.setattr(os, "stat", refuse)
    args: Any = parse_command_line(["tasks", path, "51"]).args
    assert (args.core, args.words) == (path, ["51"])


def test_a_pid_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "51").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="which kernel"):
        parse_command_line(["tasks", "51"])


@pytest.mark.parametrize(
    ("argv", "same"),
    [
        (["help", "tasks"], ["tasks", "--help"]),
        (["help", "fleet", "run"], ["fleet", "run", "--help"]),
        (["help"], ["--help"]),
        (["help", "help"], ["--help"]),
        (["help", "--help"], ["--help"]),
    ],
    ids=joined,
)
def test_help_is_a_command(
    argv: list[str], same: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 0
    found = capsys.readouterr()
    assert main(same) == 0
    assert capsys.readouterr() == found
    assert found.out.startswith("usage: ")


def test_a_command_of_crash_that_a_hint_names_is_there(demo_program: Program) -> None:
    from drgn.commands._crash.common import CRASH_COMMAND_NAMESPACE

    there = {name for name, _ in CRASH_COMMAND_NAMESPACE.enabled(demo_program)}
    assert there >= _CRASH_COMMANDS


def test_what_a_hint_advises_is_there() -> None:
    for ours in _OURS.values():
        assert ours.split()[0] in {*SUMMARIES, "--version"}


def test_a_core_after_the_command_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def open_program(core: str, **_: Any) -> None:
        seen.append(core)
        raise InputError("enough")

    monkeypatch.setattr("drgn_tools.program.open.open_program", open_program)
    main(["-c", "a", "tasks", "-c", "b"])
    main(["-c", "a", "tasks"])
    assert seen == ["b", "a"]


def test_help_has_examples_and_exit_codes_and_tells_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "exit codes:" in text
    for command in SUMMARIES:
        assert command in text
        assert main([command, "--help"]) == 0
        assert f"usage: drgn-tools {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"drgn-tools {__version__}\n"


def modules_after(*argv: str) -> set[str]:
    """Return the modules that a command line imports."""
    code = (
        "import sys; from drgn_tools.commands.main import main; main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["tasks"], *([name, "--help"] for name in SUMMARIES), ["fleet", "run"]],
    ids=joined,
)
def test_help_and_mistakes_need_neither_drgn_nor_tabulate(argv: list[str]) -> None:
    assert not {"drgn", "_drgn", "tabulate"} & modules_after(*argv)


def test_only_the_command_that_was_typed_is_imported() -> None:
    modules = {f"drgn_tools.commands.{name}" for name in SUMMARIES}
    assert not modules & modules_after("--help")
    assert modules & modules_after("stack", "--help") == {"drgn_tools.commands.stack"}
