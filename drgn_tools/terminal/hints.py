# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guess what the user meant by an option that does not exist."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

__all__ = ("unknown_words",)

_OPTIONS: Mapping[str, str] = {
    "-a": "--all or --on-cpu",
    "-f": "--frames",
    "-p": "--pid",
    "-j": "--format json",
    "--json": "--format json",
    "--jsonl": "--format jsonl",
    "--csv": "--format csv",
    "--colour": "--color",
    "--pids": "--pid",
    "--name": "--comm",
    "--vmcore": "--core",
    "--vmlinux": "--symbols",
    "--live": "--kernel",
}
"""An option of other programs -> ours."""


def unknown_words(words: Sequence[str], options: Iterable[str]) -> str:
    """Return what is wrong with words that a command does not accept, with a hint if there is one.

    :param words: The words that were left over.
    :param options: The options that the command has.
    """
    word = next((word for word in words if word.startswith("-")), None)
    if word is None:
        return f"too many words: {shlex.join(words)}"
    name = word.partition("=")[0]
    hint = _option_hint(name, options)
    return f"there is no option {name}" + (f": did you mean {hint}?" if hint else "")


def _option_hint(name: str, options: Iterable[str]) -> Optional[str]:
    known = set(options)
    ours = _OPTIONS.get(name, "")
    if ours.partition(" ")[0] in known:
        return ours
    names = {option.lstrip("-"): option for option in sorted(known)}
    near = difflib.get_close_matches(name.lstrip("-"), names, n=1)
    return names[near[0]] if near else None
