# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a notebook shows of a record: HTML with nothing in it that the dump has put there."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any, Optional

import pytest

from drgn_tools import diff_tasks
from drgn_tools.records import KernelAudit
from drgn_tools.render.stack import draw_stack
from drgn_tools.render.summary import diff_line

from ..support.fabricated import AUDIT, FAULTING, HOSTILE, KERNEL, SLEEPER, TASKS
from ..support.snapshots import EARLIER, LATER

ALLOWED = {"pre", "b", "p", "br", "table", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    """The text of a page; a tag or attribute that could do anything is a failure."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= {"style"}
        assert "url" not in str(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "b":
            self.bold.append(data)


def read(record: Any) -> Reader:
    return Reader(record._repr_html_())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.pid))
def test_a_stack_is_its_drawing(task: Any) -> None:
    assert read(task).text == draw_stack(task)


def test_the_verdict_and_its_frame_are_marked() -> None:
    verdict, frame = read(FAULTING).bold
    assert verdict == "VERDICT: unreliable at #4: page fault in rep_stos_alternative+0x40"
    assert frame.startswith(" =>  #4  ")
    assert read(SLEEPER).bold == ["VERDICT: reliable"]


def test_an_audit_is_a_table_of_its_tasks() -> None:
    page = read(AUDIT)
    assert "Linux 6.12.117" in page.text
    assert AUDIT.problems[0] in page.text
    assert page.rows[0][:3] == ["PID", "COMM", "S"]
    assert [row[0] for row in page.rows[1:]] == [str(task.pid) for task in TASKS]
    hostile = next(row for row in page.rows if row[0] == str(HOSTILE.pid))
    assert hostile[1] == "\\x1b[31m\\x0a,;\"'|<b>\\u202e\\udc80"


def test_an_audit_of_many_tasks_is_cut_and_says_so() -> None:
    page = read(KernelAudit(KERNEL, (SLEEPER,) * 1000))
    assert len(page.rows) == 201
    assert "800 more rows: to_pandas() has all" in page.text


def test_a_diff_is_a_table_of_what_is_not_still_there() -> None:
    page = read(diff_tasks(EARLIER, LATER))
    assert {row[0] for row in page.rows[1:]} == {"changed", "unclear", "came", "went"}
    assert "14 still in the same stack" in page.text


def test_a_diff_prints_as_its_table() -> None:
    diff = diff_tasks(EARLIER, LATER)
    heading, *rows, empty, last = str(diff).splitlines()
    assert heading.split()[:3] == ["CHANGE", "PID", "COMM"]
    changes = [row.split()[0] for row in rows if not row.startswith(" ")]
    assert changes == [each.kind.value for each in diff.changes if each.kind.value != "still"]
    assert (empty, last) == ("", diff_line(diff))
