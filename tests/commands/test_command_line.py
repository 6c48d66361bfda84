# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong with a command line, which options may stand where, and the help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from drgn_tools import __version__
from drgn_tools.commands.main import main
from drgn_tools.commands.registry import SUMMARIES
from drgn_tools.errors import InputError

from ..support.command_line import ROOT, joined, refused


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "COMMAND"),
        (["nonsense"], "there is no command 'nonsense' (see drgn-tools --help)"),
        (["Task", "-c", "a"], "there is no command 'Task'; did you mean tasks? (see"),
        (
            ["README.md"],
            "'README.md' is a file, not a command; if it is a vmcore: drgn-tools tasks -c README.md",
        ),
        *(
            (
                [command, "README.md"],
                f"'README.md' is a file, not {what}; if it is the vmcore, give",
            )
            for command, what in (
                ("tasks", "a task"),
                ("regs", "a task"),
                ("groups", "an operand of groups"),
                ("livepatch", "an operand of livepatch"),
                ("shell", "an operand of shell"),
            )
        ),
        (["-q", "fleet", "report", "a"], "options of fleet come after it"),
        (["tasks"], "give -c VMCORE, -k for the running kernel, or --qemu SOCKET"),
        (["tasks", "-c", "a", "-k"], "-c and -k exclude each other"),
        (["-k", "tasks", "--qemu", "a"], "-k and --qemu exclude each other"),
        (["tasks", "-c"], "-c/--core"),
        (["tasks", "-c", "a", "--format", "jsn"], "no format 'jsn': did you mean json?"),
        (["tasks", "-c", "a", "-c", "b"], "-c a and -c b: give one"),
        (["tasks", "-c", "a", "--format", "JSN"], "did you mean json? it has table, json,"),
        (["tasks", "-c", "a", "extra"], "extra"),
        (["tasks", "-c", "a", "--frame"], "--frame"),
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
