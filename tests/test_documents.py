# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command line in the documents and in the help is run, or it is said here why not.

``vmcore`` is the dump in the package. Where a document shows the output of a command on it, that is
its output.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import drgn
import pytest

from drgn_tools import task_stack
from drgn_tools.commands.command_line import parse_command_line
from drgn_tools.commands.main import main

from .support.documents import DOCUMENTS, ROOT, CommandLine, command_lines, missing_lines

LINES = list(dict.fromkeys(command_lines()))

# ---- what is not run, and why

ONLY_PARSED = (
    (r"^sudo | -k\b", "the running kernel"),
    (r" --live\b| --scheduler\b", "a Dask cluster"),
    (r" -s vmlinux\b", "a kernel with DWARF"),
    (r" --ko livepatch-fix\.ko\b", "the module of a live patch"),
)
"""What a line of ours has that is not here. Its words are parsed."""

SYNOPSIS = re.compile(r" \[-|\bCOMMAND\b|\bDATASET\b|\bQUERY\b|\bFILE\b")
"""A form that lines have, with names for what stands there."""

NOT_RUN = (
    (r"^make [a-z-]+", "sets up an environment of its own, or is what runs this test"),
    (r"^pip(x)? install ", "changes the environment of this test"),
    (r"^python3? -m (tests|cProfile)", "the lab, the bench and the fuzzer have tests of their own"),
    (r"^apt-get ", "installs packages of the machine"),
    (r"^dask ", "a Dask cluster, tests/fleet/test_cluster.py has one"),
    (r"^drgn -c vmcore$", "drgn's REPL, tests/commands/test_repl.py"),
    (r"^\.venv/bin/drgn ", "tests/test_contrib.py runs each script in drgn"),
    (r"^check-jsonschema ", "another package; tests/commands/test_schemas.py validates"),
    (r"^for \w+ in \w+\(?.*:", "Python"),
    (r"^(mkdir|cp|cat|head|ln|for) ", "run where everything is set up"),
)

IN_A_PROCESS = (
    (r"^(?!drgn-tools )", "another program"),
    (r"^drgn-tools fleet run ", "starts workers, and silences the loggers of Dask"),
    (r"^drgn-tools shell ", "drgn's REPL takes stdin and the globals of its process"),
)
"""What is not run in the process of this test, which is faster. A line with a pipe, a
redirect or ``&&`` needs a shell, and so a process, too."""

SET_UP = "docs/fleet.md"
"""The document whose lines up to the first report make the dumps and the dataset of the others."""

INSTEAD = {"/var/crash": "dumps", ".venv/bin/python": "python", "~/": "home/"}
"""Names in the documents, and what there is here."""

# ---- what to expect

EXIT_CODES = {
    "drgn-tools stack -c vmcore": 2,  # the dump in the package is of no crash
    "drgn-tools stack -c vmcore-crash": 2,
    "drgn-tools stack -c vmcore --pid 143": 2,  # a task of another dump
    "drgn-tools stack -c vmcore 0xff1100000261d000 --format json": 2,  # a task of another dump
    "drgn-tools livepatch -c vmcore --function pipe_read --check -q": 1,
    "drgn-tools tasks -c vmcore --max-tasks 50": 5,
    # Some stacks of that dump cannot be trusted.
    "drgn-tools tasks -c vmcore --check -q > /dev/null && echo every stack off its CPU can be"
    " trusted": 1,
    "drgn-tools fleet run /var/crash -o fleet": 5,  # one of the dumps is cut off
    "drgn-tools fleet run dumps -o fleet": 5,
    "drgn-tools fleet run dumps dumps/hosts.jsonl -o fleet": 5,
}
"""Other than 0."""

OF_OTHER_DUMPS = {
    ("README.md", "drgn-tools tasks -c vmcore --verdict unreliable"): "Debian's 6.1",
    ("README.md", "drgn-tools stack -c vmcore --pid 143"): "Debian's 6.1",
    ("README.md", "drgn-tools stack -c vmcore-crash"): "Debian's 7.2, crashed",
    ("docs/commands.md", "drgn-tools diff vmcore.1 vmcore.2 --comm 'w-*' --comm 'k-*'"): (
        "Debian's 6.12, twice booted"
    ),
    ("docs/commands.md", "drgn-tools stack -c vmcore"): "6.12, crashed",
    ("docs/hung.md", "drgn-tools hung -c vmcore"): "Debian's 6.12, deadlocked on purpose",
    ("docs/livepatch.md", "drgn-tools livepatch -c vmcore"): "Debian's 6.1, a patch in transition",
    ("docs/livepatch.md", "drgn-tools livepatch -c vmcore --ko livepatch-fix.ko"): "a module",
}
"""Samples that are not of the dump in the package, and of which they are."""


def reason_not_to_run(line: CommandLine) -> str:
    for pattern, why in NOT_RUN:
        if re.search(pattern, line.line):
            return why
    if line.program == "drgn-tools" and SYNOPSIS.search(line.line):
        return "a synopsis"
    return ""


def only_parsed(line: CommandLine) -> str:
    return next((why for pattern, why in ONLY_PARSED if re.search(pattern, line.line)), "")


def shell_words(line: str) -> list[str]:
    """The words of a line; ``|``, ``>``, ``&&`` and the like are words of their own."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words.commenters = ""
    return list(words)


def own_words(line: str) -> list[str]:
    """The words after the name of the program, up to a pipe, a redirect or the like."""
    words = shell_words(line)[1:]
    end = next((i for i, word in enumerate(words) if re.fullmatch(r"[|<>&;()]+", word)), None)
    return words[:end]


def needs_process(line: str) -> bool:
    if any(re.search(pattern, line) for pattern, _ in IN_A_PROCESS):
        return True
    return own_words(line) != shell_words(line)[1:]


RUN = [line for line in LINES if not reason_not_to_run(line) and not only_parsed(line)]
PARSED = [line for line in LINES if not reason_not_to_run(line) and only_parsed(line)]


def name(line: CommandLine) -> str:
    return f"{line.where}: {line.line.splitlines()[0]}"


# ---- a folder as the documents suppose it


COLUMNS = "100"


class Done(NamedTuple):
    """What a line did."""

    returncode: int
    stdout: str
    stderr: str


def captured(run: Callable[[], object]) -> Done:
    """Run what returns an exit code, or raises SystemExit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run()
        except SystemExit as end:
            code = end.code
    return Done(int(str(code or 0)), out.getvalue(), err.getvalue())


class Place:
    """A folder with what the documents name."""

    def __init__(self, folder: Path, core: str) -> None:
        self.folder = folder
        self._done: dict[str, Done] = {}
        for link in ("vmcore", "vmcore.1", "vmcore.2", "vmcore-crash"):
            (folder / link).symlink_to(core)
        (folder / "home").mkdir()
        for part in ("drgn_tools", "contrib"):
            (folder / part).symlink_to(ROOT / part)
        programs = folder / "bin"
        programs.mkdir()
        run = f'#!/bin/sh\nexec "{sys.executable}" '
        for program, text in (
            ("drgn-tools", f'{run}-m drgn_tools "$@"\n'),
            ("python", f'{run}"$@"\n'),
            ("flamegraph.pl", "#!/bin/sh\nexec cat\n"),
            ("jq", "#!/bin/sh\nexec cat\n"),
        ):
            if program != "jq" or shutil.which("jq") is None:
                (programs / program).write_text(text)
                (programs / program).chmod(0o755)

    def run(self, line: str) -> Done:
        """Run a line, once for all documents that have it."""
        for there, here in INSTEAD.items():
            line = line.replace(there, here)
        if line not in self._done:
            run = self._run_in_process if needs_process(line) else self._run_here
            self._done[line] = run(line)
        return self._done[line]

    def _run_here(self, line: str) -> Done:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("COLUMNS", COLUMNS)
            patch.setattr(sys, "stdin", io.StringIO())
            return captured(lambda: main(own_words(line)))

    def _run_in_process(self, line: str) -> Done:
        redirected = re.search(r"> (home/\S+)", line)
        if redirected:
            (self.folder / redirected[1]).parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "COLUMNS": COLUMNS,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, demo_core: str) -> Place:
    return Place(tmp_path_factory.mktemp("documents"), demo_core)


@pytest.fixture(scope="module")
def with_fleet(place: Place) -> Place:
    if any(find_spec(package) is None for package in ("distributed", "duckdb", "pyarrow")):
        pytest.skip("needs the extra drgn-tools[fleet]")
    for line in LINES:
        if line.where == SET_UP and not line.line.startswith("pip "):
            if line.line.startswith("drgn-tools fleet report"):
                break
            done = place.run(line.line)
            assert done.returncode == EXIT_CODES.get(line.line, 0), done.stderr
    return place


# ---- the tests


@pytest.mark.parametrize("line", RUN, ids=name)
def test_a_command_line_works(line: CommandLine, request: pytest.FixtureRequest) -> None:
    fixture = "with_fleet" if " fleet " in line.line else "place"
    done = request.getfixturevalue(fixture).run(line.line)
    # head leaves early.
    expected = {EXIT_CODES.get(line.line, 0)} | ({141} if "| head" in line.line else set())
    assert done.returncode in expected, done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 0 and ">" not in line.line.partition("'")[0]:
        assert (done.stdout + done.stderr).strip()
    if line.output and (line.where, line.line) not in OF_OTHER_DUMPS:
        assert missing_lines(line.output, done.stdout + done.stderr) == []


@pytest.mark.parametrize("line", PARSED, ids=name)
def test_a_command_line_that_needs_more_is_understood(
    line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "livepatch-fix.ko").touch()
    monkeypatch.chdir(tmp_path)
    typed = line.line.removeprefix("sudo ")
    assert typed.startswith("drgn-tools ")
    parse_command_line(own_words(typed))


def test_no_line_is_left_out_by_mistake() -> None:
    # A pattern that fits nothing, or that fits a line of ours, is a mistake of this file.
    for pattern, _ in (*ONLY_PARSED, *NOT_RUN, *IN_A_PROCESS):
        assert any(re.search(pattern, line.line) for line in LINES), pattern
    for line in LINES:
        if line.line.startswith("drgn-tools ") and not SYNOPSIS.search(line.line):
            assert not reason_not_to_run(line), line
    known = {(line.where, line.line) for line in LINES}
    assert set(OF_OTHER_DUMPS) <= known
    assert set(EXIT_CODES) <= {line for _, line in known}
    assert len(RUN) >= 90
    assert {line.where for line in RUN} >= {"README.md", "docs/commands.md", "docs/cookbook.md"}


@pytest.mark.parametrize("line", [line for line in LINES if line.program == "make"], ids=name)
def test_make_has_the_target(line: CommandLine) -> None:
    target = line.line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in LINES if line.program == "pip"], ids=name)
def test_an_extra_that_is_advised_exists(line: CommandLine) -> None:
    part = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = re.findall(r"^([\w-]+) = ", part.partition("\n[")[0], re.MULTILINE)
    for found in re.findall(r"\[([\w-]+)\]", line.line):
        assert found in extras
    # The package is on no index: it is installed from where it lies.
    assert "drgn-tools" not in line.line


@pytest.mark.parametrize(
    "line",
    [line for line in LINES if re.match(r"python3? -m tests\.(lab|bench|fuzz)\b ", line.line)],
    ids=name,
)
def test_a_tool_of_the_tests_has_the_option(
    line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line.line)[2:]
    options = {word for word in words[1:] if word.startswith("--")}
    command = [words[1]] if words[0] == "tests.lab" and not words[1].startswith("-") else []
    monkeypatch.setattr(sys, "argv", [words[0], *command, "--help"])
    done = captured(lambda: runpy.run_module(words[0], run_name="__main__", alter_sys=True))
    assert done.returncode == 0, done.stderr
    assert options <= set(re.findall(r"--[a-z-]+", done.stdout))


# ---- what is no command line


def python_blocks() -> list[tuple[str, str]]:
    """The scripts in the documents that open the dump."""
    return [
        (path.name, block)
        for path in DOCUMENTS
        for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.M | re.S)
        if "open_program(" in block
    ]


@pytest.mark.parametrize(
    "block", [block for _, block in python_blocks()], ids=[name for name, _ in python_blocks()]
)
def test_a_script_works(block: str, place: Place) -> None:
    (place.folder / "script.py").write_text(block)
    done = place.run("python script.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_drawn_stack_is_the_one_in_the_dump(demo_program: drgn.Program) -> None:
    text = (ROOT / "docs" / "verdict.md").read_text()
    words = re.findall(r"(ff5fad0d[0-9a-f]{8}) +([0-9a-f]{16})\b", text)
    assert len(words) >= 13
    for address, word in words:
        assert f"{demo_program.read_u64(int(address, 16)):016x}" == word, address
    regs = task_stack(demo_program, 97).regs[0]
    assert f"{regs.address:x}" in text
    assert regs["ip"] == 0xFFFFFFFF97FBECEA
    assert regs.caller is not None and regs.caller.ip == 0xFFFFFFFF97E80246
