# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of a stack, one line each, lowest address first::

task stack, ff5fad0d803138d0 to ff5fad0d80314000
      ff5fad0d803138f8  ff5fad0d80313968  stack +0x70
  #0  ff5fad0d80313900  ffffffff97fc5820  __schedule+0x4f0
      ff5fad0d80313908  0000000000000001
      ff5fad0d80313940  ff1f215bc0ec9540  task 97 "w-kfault-write"
   ?  ff5fad0d80313a80  ffffffff97dc2b23  __pte_offset_map+0x20
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Optional

from ..analysis.raw_word import RawWord
from ..arch.registry import arch_named
from ..records import TaskStack
from ..terminal.escape import escape
from .stack import head_lines

__all__ = ("draw_raw_stacks",)

_FOLDED_FROM = 4
"""This many equal words in a row become one line, and one that says how many more there are."""
_SHOWN_AS_IS = ("frame", "regs")
"""Kinds of words that are known, not guessed from the value."""


def draw_raw_stacks(stacks: Iterable[tuple[TaskStack, Iterable[RawWord]]]) -> Iterator[str]:
    """Yield the lines of stacks word by word, and an empty line between two tasks.

    :param stacks: Tasks, each with its words.
    :return: Lines without newlines, safe for a terminal.
    """
    for number, (task, words) in enumerate(stacks):
        if number > 0:
            yield ""
        yield from head_lines(task)
        yield from _words(words, arch_named(task.arch).digits)


def _words(words: Iterable[RawWord], digits: int) -> Iterator[str]:
    none = True
    for stack, of_stack in groupby(words, lambda word: word.stack):
        none = False
        begins = True
        # The word and all that is shown for it.
        for _, run in groupby(of_stack, lambda word: (word.value, word.kind, word.label)):
            equal = list(run)
            if begins:
                yield f"{escape(stack)} stack, from {equal[0].address:0{digits}x}"
                begins = False
            shown = equal if len(equal) < _FOLDED_FROM else equal[:1]
            for word in shown:
                yield _line(word, digits)
            if len(shown) < len(equal):
                yield f"      ... {len(equal) - 1} more"
    if none:
        yield "     (no words: the stack is freed, or the task is on a CPU whose registers are not known)"


def _line(word: RawWord, digits: int) -> str:
    value = "(not in the dump)" if word.value is None else f"{word.value:0{digits}x}"
    return f"{_mark(word):>4}  {word.address:0{digits}x}  {value}  {_meaning(word)}".rstrip()


def _mark(word: RawWord) -> str:
    # As in an oops: an address that the unwinder did not find is marked as unsure.
    if word.kind == "text":
        return "?"
    return "" if word.frame is None or word.kind not in _SHOWN_AS_IS else f"#{word.frame}"


def _meaning(word: RawWord) -> str:
    label: Optional[str] = word.label
    if label is None:
        return ""
    if word.kind == "encoded":
        return f"encoded {escape(label)} of #{word.frame}"
    kind = "" if word.kind in (*_SHOWN_AS_IS, "text") else f"{word.kind} "
    return f"{kind}{escape(label)}"
