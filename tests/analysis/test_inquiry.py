# SPDX-License-Identifier: LGPL-2.1-or-later
"""livepatch_answers(): the question of a program, about a patch in transition and one that is not loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from drgn import Program

from drgn_tools import livepatch_answers
from drgn_tools.analysis import inquiry
from drgn_tools.analysis.patch_question import Answer
from drgn_tools.errors import InputError, UsageError
from drgn_tools.records import Frame

from ..support.drawn_livepatch import IMAGE, SECOND_SAME, VFS_READ, VFS_WRITE, DrawnPatches
from ..support.fabricated import task
from ..support.patch_files import MODINFO, begin, by_hand

FREE = task(1, patch_state=-1)
IN_READ = task(2, frames=(Frame(0x9000), Frame(VFS_READ.old + 8)), patch_state=-1)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> DrawnPatches:
    """A kernel with two tasks."""
    drawn = DrawnPatches()
    drawn.hooks(*IMAGE.values(), SECOND_SAME)
    layout = SimpleNamespace(reliable_stacktrace=True)
    monkeypatch.setattr(inquiry, "kernel_of", lambda _: SimpleNamespace(layout=layout))
    monkeypatch.setattr(inquiry, "task_stacks", lambda _: iter((FREE, IN_READ)))
    return drawn


@pytest.fixture
def prog(drawn: DrawnPatches) -> Program:
    return drawn.kernel.prog


def ko(folder: Path, function: str, vermagic: str = MODINFO["vermagic"]) -> str:
    path = folder / "fix.ko"
    elf = begin({**MODINFO, "vermagic": vermagic})
    path.write_bytes(by_hand([(None, [(function, 0)])], elf=elf).bytes())
    return str(path)


def test_functions(prog: Program) -> None:
    found = livepatch_answers(prog, "vfs_write", "vfs_read", "vmlinux:vfs_read")
    assert [each.stack for each in found] == [FREE, IN_READ]
    assert [each.answer for each in found] == [Answer.FREE, Answer.IN_FUNCTION]
    assert found[1].function == "vfs_read"


def test_a_module_file(prog: Program, tmp_path: Path) -> None:
    answers = [each.answer for each in livepatch_answers(prog, ko=ko(tmp_path, "vfs_read"))]
    assert answers == [Answer.FREE, Answer.IN_FUNCTION]
    answers = [each.answer for each in livepatch_answers(prog, ko=ko(tmp_path, "vfs_write"))]
    assert answers == [Answer.FREE, Answer.FREE]


def test_what_the_kernel_would_refuse_is_an_error(prog: Program, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        livepatch_answers(prog, "vfs_reat", "vfs_read", "no_such")
    assert str(caught.value) == (
        "the kernel would refuse this patch: vfs_reat: there is no such symbol;"
        " no_such: there is no such symbol"
    )
    with pytest.raises(UsageError, match=r"built for 6\.13\.0, this is 6\.12\.0"):
        livepatch_answers(prog, ko=ko(tmp_path, "vfs_read", "6.13.0 SMP"))
    with pytest.raises(UsageError, match=r"a function is given as \[MODULE:\]NAME\[,POS\]"):
        livepatch_answers(prog, "vfs_*")


def test_two_patches_at_once_are_refused(prog: Program, tmp_path: Path) -> None:
    file = ko(tmp_path, "vfs_read")
    for functions, options in (
        (("vfs_write",), {"ko": file}),
        ((), {"ko": file, "replace": True}),
        ((), {"replace": True}),
    ):
        with pytest.raises(UsageError, match="give"):
            livepatch_answers(prog, *functions, **options)


def test_a_number_is_no_module_file_and_stays_open(prog: Program) -> None:
    with open(__file__, "rb") as file:
        with pytest.raises(UsageError, match="ko is a path"):
            livepatch_answers(prog, ko=file.fileno())  # type: ignore[arg-type]
        assert file.read(1) == b"#"


def test_a_file_that_is_no_live_patch_is_an_error(prog: Program) -> None:
    with pytest.raises(InputError, match="not a 64-bit ELF file"):
        livepatch_answers(prog, ko=__file__)


def test_without_a_plan_it_is_the_patch_in_transition(drawn: DrawnPatches) -> None:
    assert {each.answer for each in livepatch_answers(drawn.kernel.prog)} == {Answer.NO_TRANSITION}
    drawn.patch("patch1", (None, [VFS_WRITE]), transition=True)
    # A contradiction is not an error: nothing is in transition, and a patch is.
    assert len(livepatch_answers(drawn.kernel.prog)) == 2


def test_a_kernel_without_live_patching(drawn: DrawnPatches, tmp_path: Path) -> None:
    drawn.kernel.forget_symbol("klp_enable_patch")
    drawn.image()
    prog = drawn.kernel.prog
    for call in (
        lambda: livepatch_answers(prog),
        lambda: livepatch_answers(prog, "vfs_read"),
        lambda: livepatch_answers(prog, ko=ko(tmp_path, "vfs_read")),
    ):
        with pytest.raises(InputError, match="no live patching"):
            call()
