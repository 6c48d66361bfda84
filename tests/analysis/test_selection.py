# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that name tasks, and conditions on tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from drgn_tools.analysis.selection import (
    Selection,
    TaskName,
    is_number,
    parse_numbers,
    parse_tasks,
)
from drgn_tools.errors import UsageError
from drgn_tools.records import Verdict

from ..support.fabricated import TASKS

_ADDRESS = 0xFF1F215BC0EC9540


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("51", (range(51, 52),)),
        ("0", (range(1),)),
        ("0x33", (range(51, 52),)),
        ("100-200", (range(100, 201),)),
        ("0x10-20", (range(16, 21),)),
        ("7-7", (range(7, 8),)),
        (f"{_ADDRESS:#x}", (_ADDRESS,)),
        (f"{_ADDRESS:#X}", (_ADDRESS,)),
        (f"{_ADDRESS:x}", (_ADDRESS,)),
        ("c1234560", (0xC1234560,)),  # x86-32
        ("0xc1234560", (0xC1234560,)),
        ("init", ("init",)),
        ("kworker/*", ("kworker/*",)),
        ("-", ("-",)),
        ("facade", ("facade",)),  # hexadecimal, but no address is as short
        ("1,5-9,init", (range(1, 2), range(5, 10), "init")),
    ],
)
def test_what_a_word_names(word: str, named: tuple[TaskName, ...]) -> None:
    assert parse_tasks(word) == named


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("", "''"),
        ("1,,2", "''"),
        ("1-", "'1-'"),
        ("1_0", "'1_0'"),
        ("0x", "'0x'"),
        ("1-2-3", "'1-2-3'"),
        ("5-x", "'5-x'"),
        ("\u0665\u0661", "'\u0665\u0661'"),  # digits of another script
        ("init,2nd", "'2nd'"),
        ("0xff1f215bc0ec95401", "'0xff1f215bc0ec95401'"),
    ],
)
def test_a_word_that_names_nothing(word: str, wrong: str) -> None:
    with pytest.raises(UsageError, match="does not name a task: give a PID") as caught:
        parse_tasks(word)
    assert str(caught.value).startswith(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("9-5", "'9-5' is an empty range: give 5-9"),
        ("4194304", "'4194304' is not a PID: the largest is 4194303"),
        ("00000051", "'00000051' is not the address of a task; as a PID it is 81"),
    ],
)
def test_a_number_that_no_task_has(word: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tasks(word)
    assert str(caught.value) == says
    assert is_number(word)


@given(st.text(max_size=24))
def test_a_word_is_names_or_wrong(word: str) -> None:
    try:
        named = parse_tasks(word)
    except UsageError as error:
        assert "\n" not in str(error)
        return
    assert len(named) == word.count(",") + 1
    assert is_number(word) == (not any(isinstance(name, str) for name in named))


def test_numbers_are_no_names() -> None:
    assert parse_numbers("1,5-9") == (range(1, 2), range(5, 10))
    with pytest.raises(UsageError, match="not 'init'; use --comm for a name"):
        parse_numbers("1,init")


def test_one_of_the_names_must_fit_and_all_conditions_hold() -> None:
    selection = Selection(tasks=parse_tasks("50-52,init,kworker/1?:0"))
    assert {task.pid for task in selection.of(TASKS)} == {
        1,
        10,
        11,
        12,
        13,
        14,
        15,
        16,
        17,
        18,
        51,
        52,
    }
    unreliable = replace(selection, verdicts=frozenset((Verdict.UNRELIABLE,)))
    assert {task.pid for task in unreliable.of(TASKS)} == {51, 52}
    assert not list(replace(unreliable, on_cpu=True).of(TASKS))


def test_tasks_named_one_by_one() -> None:
    named = Selection(tasks=parse_tasks(f"51,0x1,{_ADDRESS:x}"), typed="...")
    assert named.single_tasks == (51, 1, _ADDRESS)
    assert named.is_single_tasks
    assert not Selection(tasks=parse_tasks("51,init")).is_single_tasks
    assert not Selection(tasks=parse_tasks("51-52")).is_single_tasks
    assert not replace(named, on_cpu=True).is_single_tasks
    assert not Selection().is_single_tasks
