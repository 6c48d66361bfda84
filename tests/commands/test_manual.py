# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/commands.md has all options, fields, reasons and exit codes."""

from __future__ import annotations

import re

import pytest

from drgn_tools.analysis import record_fields as fields
from drgn_tools.analysis.hangups import RootKind
from drgn_tools.analysis.patch_question import Answer
from drgn_tools.analysis.selection import STATES
from drgn_tools.commands.main import main
from drgn_tools.commands.registry import SUMMARIES
from drgn_tools.kernel.waiting.records import WaitKind
from drgn_tools.records import Reason, Verdict

from ..support.command_line import ROOT

MANUAL = (ROOT / "docs" / "commands.md").read_text()
HUNG = (ROOT / "docs" / "hung.md").read_text()
PAGES = MANUAL + (ROOT / "docs" / "livepatch.md").read_text() + HUNG


@pytest.mark.parametrize("command", SUMMARIES)
def test_the_manual_has_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    for option in set(re.findall(r"--[a-z-]+", capsys.readouterr().out)):
        assert option in PAGES


def test_the_manual_has_every_word_of_the_contract() -> None:
    words = {*Reason, *Verdict, *STATES}
    for record in (fields.KERNEL, fields.TASK_WITH_FRAMES, fields.FRAME, fields.REGS, fields.GROUP):
        words.update(record)
    for word in words:
        assert re.search(rf"[`\[ ]{re.escape(str(getattr(word, 'value', word)))}[`\] ]", MANUAL), (
            word
        )


def test_the_manual_and_the_help_have_the_same_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--help"])
    help_text = capsys.readouterr().out.split("exit codes:")[1]
    in_help = set(re.findall(r"(?:^  |; )(\d+) ", help_text, re.MULTILINE))
    assert in_help == set(re.findall(r"^\| (\d+) \|", MANUAL, re.MULTILINE))
    assert in_help == {"0", "1", "2", "3", "4", "5", "70", "74", "130", "141"}


def test_the_page_of_live_patches_has_every_word_of_the_contract() -> None:
    page = (ROOT / "docs" / "livepatch.md").read_text()
    for word in (*fields.PATCH, *fields.PATCH_ANSWER, *Answer):
        assert f"`{word}`" in page


def test_the_page_about_what_hangs_has_every_field_and_word() -> None:
    names = {*fields.HUNG_TASK, *fields.HANGUP, *fields.CPU_QUEUE}
    words = {*(kind.value for kind in WaitKind), *(kind.value for kind in RootKind)}
    for word in (*names, *words, "exec_start", "last_arrival"):
        assert f"`{word}`" in HUNG, word
