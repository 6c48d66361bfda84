# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shell completion, made from the command line's parser by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from drgn_tools.commands.base import KernelCommand, TaskCommand
from drgn_tools.commands.command_line import whole_parser
from drgn_tools.commands.diff import KINDS
from drgn_tools.commands.registry import SUMMARIES, load_command
from drgn_tools.records import Verdict
from drgn_tools.render.views import column_names
from drgn_tools.terminal.parser import ROW_FORMATS

__all__ = ("completion",)

_FILES = {"PATH", "FILE", "SOCK", "SOURCE", "VMCORE", "SNAPSHOT", "TASK"}
"""Operands that may be files, by their names in the help. A word that may be a task may also be the core."""
_FOLDERS = {"DATASET"}

_TABULATE_FORMATS = ("github", "grid", "html", "latex", "orgtbl", "plain", "rst", "simple", "tsv")
"""The formats of tabulate that completion offers. The command accepts all, but they differ by version of tabulate."""


def completion(shell: str) -> str:
    """Return the completion script of one of :data:`SHELLS`."""
    parser = whole_parser()
    for command, action in _actions(parser, ""):
        _offer_values(command, action)
    script: str = shtab.complete(parser, shell)
    # For any number of operands, shtab writes the code for one.
    return script.replace('"(*)::', '"*:') if shell == "zsh" else script


def _actions(
    parser: argparse.ArgumentParser, command: str
) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        yield command, action
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _actions(below, command or name)


def _formats(name: str) -> tuple[str, ...]:
    command = load_command(name)
    return command.formats if isinstance(command, KernelCommand) else ()


def _columns(name: str) -> list[str]:
    command = load_command(name)
    assert isinstance(command, TaskCommand)
    defaults = command.parser(name).parse_words([], command.arguments())
    return column_names(command.whole_view(defaults), "table")


def _offer_values(command: str, action: argparse.Action) -> None:
    # This parser is for completion only: choices restrict nothing.
    if action.dest == "format":
        # zsh also uses the values of a top-level option after the command.
        names = [command] if command else list(SUMMARIES)
        formats = dict.fromkeys((*ROW_FORMATS, *(f for name in names for f in _formats(name))))
        action.choices = [*formats, *_TABULATE_FORMATS]
    elif action.dest == "verdict":
        action.choices = [verdict.value for verdict in Verdict]
    elif action.dest in ("columns", "sort"):
        action.choices = _columns(command)
    elif action.dest == "kind":
        action.choices = KINDS
    elif action.metavar in _FILES:
        vars(action)["complete"] = shtab.FILE
    elif action.metavar in _FOLDERS:
        vars(action)["complete"] = shtab.DIRECTORY
    elif not action.option_strings and not action.choices:
        # Where zsh expects an operand that it knows nothing about, it would only list the matching
        # option, and complete it at the next Tab.
        vars(action)["complete"] = {"zsh": "{:}"}
