# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shell completion as somebody at the keyboard of a real bash, zsh and fish has it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from drgn_tools.commands.completion import SHELLS
from drgn_tools.commands.main import main

from ..support.command_line import ROOT, refused

TAB = "\t"
CLEAR_LINE = b"\x05\x15"
"""Ctrl-E, Ctrl-U."""

COMPLETED = (
    ("drgn-tools ta", "drgn-tools tasks"),
    ("drgn-tools tasks --for", "drgn-tools tasks --format"),
    ("drgn-tools tasks --format cs", "--format csv"),
    ("drgn-tools stack --format te", "--format text"),
    ("drgn-tools groups --format fol", "--format folded"),
    ("drgn-tools tasks --verdict unk", "--verdict unknown"),
    ("drgn-tools tasks --sort dep", "--sort depth"),
    ("drgn-tools tasks --log-level inf", "--log-level info"),
    ("drgn-tools tasks --columns fun", "--columns function"),
    ("drgn-tools tasks --color alw", "--color always"),
    ("drgn-tools tasks --no-p", "--no-pager"),
    ("drgn-tools tasks vmc", "tasks vmcore-of-web1"),
    ("drgn-tools diff here vmc", "here vmcore-of-web1"),
    ("drgn-tools diff --kind unc", "--kind unclear"),
    ("drgn-tools help liv", "help livepatch"),
    ("drgn-tools regs --mode ker", "--mode kernel"),
    ("drgn-tools tasks -c vmc", "-c vmcore-of-web1"),
    ("drgn-tools -c vmcore-of-web1 sta", "vmcore-of-web1 stack"),
    ("drgn-tools stack -c vmcore-of-web1 --on", "vmcore-of-web1 --on-cpu"),
    ("drgn-tools fleet rep", "fleet report"),
    ("drgn-tools fleet run --redo fai", "--redo failed"),
    ("drgn-tools fleet run here vmc", "here vmcore-of-web1"),
    ("drgn-tools completion fi", "completion fish"),
)
"""What is typed before TAB, and what the line has then."""

START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source {folder}/script"),
    "zsh": (["zsh", "-f", "-i"], "fpath+={folder}; autoload -U compinit; compinit -u -D"),
    "fish": (["fish", "--no-config", "-i"], "source {folder}/script"),
}
"""How a shell starts without the user's own settings, and how it gets the completion."""


class Keyboard:
    """A shell with somebody at the keyboard."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder)}
            os.execvpe(argv[0], argv, environment)

    def type(self, text: str, until: str) -> str:
        """Type *text*, and return what is on the screen when *until* is, or after 30 seconds."""
        os.write(self.fd, text.encode())
        shown = b""
        deadline = time.monotonic() + 30
        while until not in _text(shown) and time.monotonic() < deadline:
            ready, _, _ = select.select([self.fd], [], [], 1)
            if ready:
                shown += os.read(self.fd, 1 << 16)
        return _text(shown)

    def clear(self) -> None:
        """Take what is typed off the line."""
        os.write(self.fd, CLEAR_LINE)

    def close(self) -> None:
        """Hang up."""
        os.close(self.fd)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _text(shown: bytes) -> str:
    # Without colours, bells and what moves the cursor.
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|[\x07\x08]", "", shown.decode(errors="replace"))


@pytest.fixture(scope="module", params=SHELLS)
def keyboard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keyboard]:
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    folder = tmp_path_factory.mktemp(shell)
    script = (ROOT / "drgn_tools" / "completions" / f"drgn-tools.{shell}").read_text()
    (folder / "script").write_text(script)
    (folder / "_drgn-tools").write_text(script)
    (folder / "vmcore-of-web1").touch()
    argv, setup = START[shell]
    keyboard = Keyboard(argv, folder)
    # The word is put together by the shell, so that its echo does not have it.
    keyboard.type(f"{setup.format(folder=folder)}; echo re''ady\n", "ready")
    yield keyboard
    keyboard.close()


@pytest.mark.parametrize(("typed", "completed"), COMPLETED, ids=[typed for typed, _ in COMPLETED])
def test_tab_completes(keyboard: Keyboard, typed: str, completed: str) -> None:
    assert completed not in typed
    shown = keyboard.type(typed + TAB, completed)
    keyboard.clear()
    assert completed in shown


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = (ROOT / "drgn_tools" / "completions" / f"drgn-tools.{shell}").read_text()
    assert capsys.readouterr().out.rstrip("\n") == script.rstrip("\n")


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    refused(["completion", "csh"], "'csh'", capsys)
    refused(["completion"], "SHELL", capsys)
