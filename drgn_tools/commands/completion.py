# SPDX-License-Identifier: LGPL-2.1-or-later
"""``completion``: print the completion script of a shell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EXIT_OK
from ..terminal.console import write_lines
from ..terminal.parser import Arguments, Parser, add_log_options
from .base import Command
from .registry import SUMMARIES

if TYPE_CHECKING:
    from ..terminal.console import Console

__all__ = ("COMMAND", "SHELLS")

SHELLS = ("bash", "zsh", "fish")
"""Shells whose completion ships with the package."""

_FOLDER = Path(__file__).parent.parent / "completions"

_EPILOG = """\
where to install it, for one user:
  drgn-tools completion bash > ~/.local/share/bash-completion/completions/drgn-tools
  drgn-tools completion fish > ~/.config/fish/completions/drgn-tools.fish
  drgn-tools completion zsh > ~/.zfunc/_drgn-tools

For zsh, ~/.zshrc needs "fpath+=~/.zfunc" before compinit. bash needs the package bash-completion.
Create the folder if it does not exist. Then start a new shell.
"""


class CompletionArguments(Arguments):
    """The command line of ``completion``."""

    shell: str


class Completion(Command[CompletionArguments]):
    """The command ``completion``."""

    options_may_come_first = False

    def parser(self, name: str) -> Parser:
        parser = Parser(
            prog=f"drgn-tools {name}", description=f"{SUMMARIES[name]}.", epilog=_EPILOG
        )
        parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
        add_log_options(parser)
        return parser

    def parse(
        self, name: str, words: Sequence[str], before: argparse.Namespace
    ) -> CompletionArguments:
        return self.parser(name).parse_words(words, CompletionArguments())

    def main(self, args: CompletionArguments, console: Console) -> int:
        write_lines((_FOLDER / f"drgn-tools.{args.shell}").read_text().splitlines())
        return EXIT_OK


COMMAND = Completion()
