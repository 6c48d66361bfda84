# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines in the documents and in the help, and the output that is shown below them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drgn_tools.commands.command_line import whole_parser

ROOT = Path(__file__).parents[2]

DOCUMENTS = (
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "contrib" / "README.md",
    ROOT / "tests" / "lab" / "README.md",
)

_PROMPT = re.compile(r"^(?:[$#] )")
_PROGRAMS = (
    "drgn-tools python python3 make pip drgn .venv/bin/drgn .venv/bin/python ln mkdir head cat for xz dask"
    " echo apt-get man check-jsonschema sudo kill curl pipx scripts/generate.py"
).split()


class CommandLine(NamedTuple):
    """A command line in a document."""

    where: str
    """``docs/commands.md``; ``drgn-tools tasks --help``."""
    line: str
    """As it is typed: without the prompt, and without the remark beside it."""
    output: tuple[str, ...]
    """What is shown below it; empty if it has no prompt."""

    @property
    def program(self) -> str:
        return self.line.split()[0]


def command_lines() -> Iterator[CommandLine]:
    """Yield the command lines of all documents and of every ``--help``."""
    for path in DOCUMENTS:
        for block in code_blocks(path.read_text()):
            yield from _command_lines(path.relative_to(ROOT).as_posix(), block)
    for prog, text in _helps():
        yield from _command_lines(f"{prog} --help", [line[2:] for line in text.splitlines()])


def _helps() -> Iterator[tuple[str, str]]:
    parsers = [whole_parser()]
    for parser in parsers:
        yield (
            parser.prog,
            "\n".join(re.findall(r"(?:^| )  .*|^example: .*", parser.epilog or "", re.M)),
        )
        for action in parser._actions:
            if isinstance(action.choices, dict):
                parsers += action.choices.values()


def typed_in(where: str) -> list[tuple[str, list[str]]]:
    """Return the lines that are typed at Python's prompt in a document, each with the output shown below it."""
    shown: list[tuple[str, list[str]]] = []
    for block in code_blocks((ROOT / where).read_text()):
        sample: list[str] = []
        for line in block:
            if line.startswith(">>> "):
                sample = []
                # A remark follows after two spaces.
                shown.append((re.sub(r"\s\s+#.*", "", line[4:]), sample))
            elif line:
                sample.append(line)
    return shown


def missing_lines(sample: tuple[str, ...], output: str) -> list[str]:
    """Return the lines of a sample that the output does not have. ``...`` stands for omitted lines."""
    found = {text.strip() for text in output.splitlines()}
    return [
        text for text in sample if text.strip(" │") not in ("", "...") and text.strip() not in found
    ]


def code_blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each block of code in Markdown, fenced or indented, except Python and JSON."""
    lines = iter(text.splitlines())
    block: list[str] = []
    before = ""
    for line in lines:
        fence = re.match(r"^(`{3,})(\w*)", line)
        if fence:
            inside = []
            for inner in lines:
                if inner.startswith(fence[1]):
                    break
                inside.append(inner)
            if fence[2] not in ("python", "json"):
                yield inside
            line = ""
        elif line.startswith("    ") and (block or not before.strip()):
            block.append(line[4:])
        elif line.strip() or not block:
            if block:
                yield block
            block = []
        else:
            block.append("")
        before = line
    if block:
        yield block


def _command_lines(where: str, block: list[str]) -> Iterator[CommandLine]:
    lines = iter(enumerate(block))
    for number, text in lines:
        prompt = _PROMPT.match(text)
        line = without_remark(text[prompt.end() :] if prompt else text)
        if not line or (line.split()[0] not in _PROGRAMS and not (prompt and text.startswith("$"))):
            continue
        here = re.search(r"<<'(\w+)'$", line)
        if here:
            for _, more in lines:
                line += "\n" + more
                if more == here[1]:
                    break
        yield CommandLine(where, line, tuple(_output(block[number + 1 :])) if prompt else ())


def _output(below: list[str]) -> Iterator[str]:
    for line in below:
        if _PROMPT.match(line):
            return
        yield line


def without_remark(line: str) -> str:
    """Cut off the remark beside a command, after two spaces or a #."""
    quoted = r"""'[^']*'|"[^"]*"|[^'"\s]"""
    match = re.match(rf"(?:{quoted}| (?![ #]))*", line.strip())
    return match[0] if match else ""
