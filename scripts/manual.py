# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make pages of a manual from the command line's parser: man pages, and the reference of the site.

argparse-manpage would put all commands in one page and lose the columns and examples at the end of
each command's help, and its output differs between versions of Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

from drgn_tools import __version__
from drgn_tools.commands.command_line import whole_parser

__all__ = ("Option", "Page", "Section", "command_pages", "man_page", "markdown_pages")


class Option(NamedTuple):
    """An option or an operand."""

    names: tuple[str, ...]
    """``("-c", "--core")``; empty for an operand."""
    value: str
    """The text after the name: ``PATH``, ``[SECONDS]``; for an operand, the operand."""
    help: str


class Section(NamedTuple):
    """A part of a page, below a title."""

    title: str
    text: str
    """Prose; empty if there is none."""
    options: tuple[Option, ...] = ()
    is_verbatim: bool = False
    """Whether the lines of :attr:`text` are kept unchanged."""


class Page(NamedTuple):
    """The manual of one command."""

    command: str
    """``drgn-tools tasks``"""
    summary: str
    synopsis: str
    sections: tuple[Section, ...]

    @property
    def name(self) -> str:
        """Name of the page: ``drgn-tools-tasks``."""
        return self.command.replace(" ", "-")


def command_pages() -> list[Page]:
    """Return a page for ``drgn-tools`` itself and one for each command, in the order of the help."""
    return list(
        _pages(whole_parser(), "drgn-tools", "stacks of a Linux kernel, and their verdicts")
    )


def _pages(parser: argparse.ArgumentParser, command: str, summary: str) -> Iterator[Page]:
    yield Page(command, summary, _synopsis(parser, command), tuple(_sections(parser, summary)))
    for name, below in _commands(parser).items():
        if name == "help":  # the list of commands says everything about it
            continue
        yield from _pages(below, f"{command} {name}", _summary(parser, name))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _summary(parser: argparse.ArgumentParser, name: str) -> str:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == name:
                    return choice.help or ""
    return ""


def _synopsis(parser: argparse.ArgumentParser, command: str) -> str:
    required = [
        f"{action.option_strings[0]} {_value(action)}"
        for action in parser._actions
        if action.option_strings and action.required
    ]
    operands = [_value(action) for action in parser._actions if not action.option_strings]
    return " ".join((command, *required, "[OPTION]...", *operands))


def _value(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return "COMMAND ..."
    if action.nargs == 0:
        return ""
    choices = action.choices and "{" + ",".join(map(str, action.choices)) + "}"
    metavar = str(action.metavar or choices or action.dest.upper())
    return {"?": f"[{metavar}]", "*": f"[{metavar}]...", "+": f"{metavar}..."}.get(
        str(action.nargs), metavar
    )


def _sections(parser: argparse.ArgumentParser, summary: str) -> Iterator[Section]:
    text = (parser.description or "").partition("\ncommands:\n")[0].strip()
    if text.rstrip(".").lower() != summary.lower():
        yield Section("description", text)
    commands = [Option((), name, _summary(parser, name)) for name in _commands(parser)]
    if commands:
        yield Section("commands", "", tuple(commands))
    for group in parser._action_groups:
        options = tuple(
            Option(tuple(action.option_strings), _value(action), _help(action))
            for action in group._group_actions
            if not isinstance(action, argparse._SubParsersAction)
        )
        title = str(group.title)
        if options:
            yield Section(
                {"positional arguments": "operands", "optional arguments": "options"}.get(
                    title, title
                ),
                group.description or "",
                options,
            )
    yield from _epilog(parser.epilog or "")


def _help(action: argparse.Action) -> str:
    if isinstance(action, argparse._HelpAction):
        return "show the help, and exit"
    if isinstance(action, argparse._VersionAction):
        return "show the version, and exit"
    return action.help or ""


def _epilog(text: str) -> Iterator[Section]:
    """Yield the sections at the end of a help: prose, and parts such as ``examples:`` whose lines are indented."""
    for part in re.split(r"\n\s*\n", text.strip()):
        heading, newline, rest = part.partition("\n")
        if newline and heading.endswith(":") and rest.startswith("  "):
            yield Section(heading[:-1], re.sub(r"(?m)^  ", "", rest), is_verbatim=True)
        elif part.startswith("example: "):
            yield Section("example", part[len("example: ") :], is_verbatim=True)
        elif part.startswith("exit codes: "):
            yield Section("exit codes", part[len("exit codes: ") :])
        elif part:
            yield Section("notes", part)


# ---- man(7)


def man_page(page: Page, pages: Iterable[Page]) -> str:
    """Return a page as man(7) source.

    :param pages: All pages, for SEE ALSO.
    """
    others = [other.name for other in pages if other.name != page.name]
    lines = [
        f'.TH {page.name.upper()} 1 "" "drgn-tools {__version__}" "drgn-tools manual"',
        ".SH NAME",
        f"{_roff(page.name)} \\- {_roff(page.summary)}",
        ".SH SYNOPSIS",
        f".B {_roff(page.synopsis)}",
    ]
    title: Optional[str] = None
    for section in page.sections:
        # Consecutive notes are one section.
        lines += [".PP"] if section.title == title else [f".SH {_roff(section.title.upper())}"]
        title = section.title
        lines += _man_text(section)
        for option in section.options:
            lines += [".TP", _man_term(option), _roff(option.help)]
    lines += [".SH SEE ALSO", ".ad l", ".nh", *(f".BR {_roff(name)} (1)," for name in others)]
    return "\n".join(lines).rstrip(",") + "\n"


def _man_text(section: Section) -> list[str]:
    if not section.text:
        return []
    lines = [_roff(line) for line in section.text.split("\n")]
    return [".nf", *lines, ".fi"] if section.is_verbatim else lines


def _man_term(option: Option) -> str:
    value = f"\\fI{_roff(option.value)}\\fR" if option.value else ""
    names = (f"\\fB{_roff(name)}\\fR{' ' if value else ''}{value}" for name in option.names)
    return ", ".join(names) or value


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    # At the start of a line these would be a request.
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped


# ---- Markdown


def markdown_pages(pages: Iterable[Page]) -> str:
    """Return all pages as one document in Markdown."""
    return "\n".join(line for page in pages for line in _markdown(page))


def _markdown(page: Page) -> Iterator[str]:
    yield from (f"## {page.command}", "", f"{page.summary[:1].upper()}{page.summary[1:]}.", "")
    yield from ("```text", page.synopsis, "```", "")
    for section in page.sections:
        if section.title not in ("description", "notes"):
            yield from (f"**{section.title[:1].upper()}{section.title[1:]}**", "")
        if section.is_verbatim:
            yield from ("```text", section.text, "```", "")
        elif section.text:
            yield from (_plain(section.text), "")
        if section.options:
            yield from ("| | |", "|---|---|")
            for option in section.options:
                value = f" {option.value}" if option.value else ""
                names = (
                    ", ".join(f"`{name}{value}`" for name in option.names) or f"`{option.value}`"
                )
                yield f"| {names} | {_plain(option.help)} |"
            yield ""


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)
