# SPDX-License-Identifier: LGPL-2.1-or-later
"""A snapshot that was saved as JSON is the same when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_tools.analysis.look import is_saved_look, saved_look
from drgn_tools.analysis.task_diff import ChangeKind, diff_tasks
from drgn_tools.errors import InputError

from ..support.looks import EARLIER, save


def document(path: Path) -> dict[str, Any]:
    return json.loads(save(EARLIER, path).read_text())


def test_a_saved_look_differs_in_nothing(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "look.json")
    diff = diff_tasks(saved_look(path), EARLIER)
    assert diff.same_boot
    assert {c.kind for c in diff.changes} <= {ChangeKind.STILL, ChangeKind.UNCLEAR}
    unclear = {c.last.comm for c in diff.of_kind(ChangeKind.UNCLEAR)}
    assert unclear == {"reader", "uspin"}  # an empty stack that is broken, and a task on a CPU
    assert len(diff.changes) == len(EARLIER)


def test_without_frames_the_function_is_known_but_not_the_stack(tmp_path: Path) -> None:
    look = saved_look(save(EARLIER, tmp_path / "look.json", frames=False))
    assert not any(seen.has_stack for seen in look.tasks)
    functions = {seen.task.pid: seen.function for seen in look.tasks}
    assert functions[1] == "do_wait"
    diff = diff_tasks(look, EARLIER)
    # These tasks do not say how often they were switched: they may have run and come back.
    assert {c.kind for c in diff.changes} == {ChangeKind.UNCLEAR}


def test_the_kernel_of_a_saved_look_names_both_sources(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "look.json")
    assert saved_look(path).kernel.source == f"{path} (live)"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda look: look.pop("tasks"), "a value in it is missing"),
        (lambda look: look["tasks"][0].pop("pid"), "a value in it is missing"),
        (lambda look: look["tasks"][0].update(pid="1"), "or has the wrong type; save the output"),
        (
            lambda look: look["tasks"][0].update(verdict="good"),
            "or has the wrong type; save the output",
        ),
        (lambda look: look["tasks"][0].update(task="0xnothing"), "'0xnothing' is not an address"),
        (lambda look: look["tasks"][0]["frames"][0].update(symbol="f+x"), "'x' is not an address"),
        (lambda look: look.update(schema="drgn-tools.tasks/2"), "which this version cannot read"),
        (
            lambda look: look.update(schema="drgn-tools.regs/1"),
            "which does not have the states of tasks",
        ),
        (
            lambda look: look.update(schema="drgn-tools." + "x" * 999),
            "which does not have the states of tasks",
        ),
        (
            lambda look: look.update(schema="another"),
            "is not the output of drgn-tools tasks --format",
        ),
        (lambda look: look.pop("schema"), "is not the output of drgn-tools tasks --format json"),
    ],
)
def test_what_is_no_saved_look_is_one_line(tmp_path: Path, damage: Any, says: str) -> None:
    path = tmp_path / "look.json"
    look = document(path)
    damage(look)
    path.write_text(json.dumps(look))
    with pytest.raises(InputError) as error:
        saved_look(path)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert "`" not in str(error.value)  # as msgspec quotes
    assert len(str(error.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    "text",
    ["{}", " {\n}\n", "[]", '[{"pid": 1}]', '{"schema": 5}', '{"pid": 1}\n{"pid": 2}\n', '{"a": ' + "[" * 99_999],
)  # fmt: skip
def test_other_json_is_no_saved_look_and_no_core(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e.json"
    path.write_text(text)
    assert is_saved_look(str(path))
    with pytest.raises(InputError) as error:
        saved_look(path)
    assert str(error.value).startswith(
        f"{path}: is not the output of drgn-tools tasks --format json"
    )


def test_a_look_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "look.json")
    path.write_text(path.read_text()[:-100])
    with pytest.raises(InputError, match="is cut short"):
        saved_look(path)


def test_a_look_that_was_formatted_anew_is_the_same(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "look.json")
    saved = saved_look(path)
    path.write_text("\n" + json.dumps(json.loads(path.read_text()), indent=2))  # as jq prints it
    assert is_saved_look(str(path))
    assert saved_look(path) == saved


def test_a_reason_of_a_later_version_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "look.json"
    look = document(path)
    look["tasks"][0].update(verdict="unreliable", reason="of_the_future", why="not yet known")
    look["tasks"][0]["new_field"] = 1
    path.write_text(json.dumps(look))
    task = saved_look(path).tasks[0].task
    assert (task.verdict.value, task.reason, task.why) == ("unreliable", None, "not yet known")


def test_a_saved_look_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert is_saved_look(str(save(EARLIER, tmp_path / "look.json")))
    core = tmp_path / "vmcore"
    for start in (b"\x7fELF", b"[    0.000000] Linux version 6.12.0\n", b"task,pid\n", b""):
        core.write_bytes(start)
        assert not is_saved_look(str(core))
    assert not is_saved_look(str(tmp_path / "missing"))
    assert not is_saved_look(str(tmp_path))
    assert not is_saved_look("https://host/vmcore\0")
