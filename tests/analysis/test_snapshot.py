# SPDX-License-Identifier: LGPL-2.1-or-later
"""A snapshot that was saved as JSON is the same when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_tools.analysis.snapshot import is_saved_snapshot, saved_snapshot
from drgn_tools.analysis.task_diff import ChangeKind, diff_tasks
from drgn_tools.errors import InputError

from ..support.snapshots import EARLIER, save


def document(path: Path) -> dict[str, Any]:
    return json.loads(save(EARLIER, path).read_text())


def test_a_saved_look_differs_in_nothing(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "snapshot.json")
    diff = diff_tasks(saved_snapshot(path), EARLIER)
    assert diff.same_boot
    assert {c.kind for c in diff.changes} <= {ChangeKind.STILL, ChangeKind.UNCLEAR}
    unclear = {c.last.comm for c in diff.of_kind(ChangeKind.UNCLEAR)}
    assert unclear == {"reader", "uspin"}  # an empty stack that is broken, and a task on a CPU
    assert len(diff.changes) == len(EARLIER)


def test_without_frames_the_function_is_known_but_not_the_stack(tmp_path: Path) -> None:
    saved = saved_snapshot(save(EARLIER, tmp_path / "snapshot.json", frames=False))
    assert not any(seen.has_stack for seen in saved.tasks)
    functions = {seen.task.pid: seen.function for seen in saved.tasks}
    assert functions[1] == "do_wait"
    diff = diff_tasks(saved, EARLIER)
    # These tasks do not say how often they were switched: they may have run and come back.
    assert {c.kind for c in diff.changes} == {ChangeKind.UNCLEAR}


def test_the_kernel_of_a_saved_look_names_both_sources(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "snapshot.json")
    assert saved_snapshot(path).kernel.source == f"{path} (live)"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda saved: saved.pop("tasks"), "a value in it is missing"),
        (lambda saved: saved["tasks"][0].pop("pid"), "a value in it is missing"),
        (lambda saved: saved["tasks"][0].update(pid="1"), "or has the wrong type; save the output"),
        (
            lambda saved: saved["tasks"][0].update(verdict="good"),
            "or has the wrong type; save the output",
        ),
        (lambda saved: saved["tasks"][0].update(task="0xnothing"), "'0xnothing' is not an address"),
        (
            lambda saved: saved["tasks"][0]["frames"][0].update(symbol="f+x"),
            "'x' is not an address",
        ),
        (lambda saved: saved.update(schema="drgn-tools.tasks/2"), "which this version cannot read"),
        (
            lambda saved: saved.update(schema="drgn-tools.regs/1"),
            "which does not have the states of tasks",
        ),
        (
            lambda saved: saved.update(schema="drgn-tools." + "x" * 999),
            "which does not have the states of tasks",
        ),
        (
            lambda saved: saved.update(schema="another"),
            "is not the output of drgn-tools tasks --format",
        ),
        (lambda saved: saved.pop("schema"), "is not the output of drgn-tools tasks --format json"),
    ],
)
def test_what_is_no_saved_look_is_one_line(tmp_path: Path, damage: Any, says: str) -> None:
    path = tmp_path / "snapshot.json"
    saved = document(path)
    damage(saved)
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError) as error:
        saved_snapshot(path)
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
    assert is_saved_snapshot(str(path))
    with pytest.raises(InputError) as error:
        saved_snapshot(path)
    assert str(error.value).startswith(
        f"{path}: is not the output of drgn-tools tasks --format json"
    )


def test_a_look_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "snapshot.json")
    path.write_text(path.read_text()[:-100])
    with pytest.raises(InputError, match="is cut short"):
        saved_snapshot(path)


def test_a_look_that_was_formatted_anew_is_the_same(tmp_path: Path) -> None:
    path = save(EARLIER, tmp_path / "snapshot.json")
    saved = saved_snapshot(path)
    path.write_text("\n" + json.dumps(json.loads(path.read_text()), indent=2))  # as jq prints it
    assert is_saved_snapshot(str(path))
    assert saved_snapshot(path) == saved


def test_a_reason_of_a_later_version_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    saved = document(path)
    saved["tasks"][0].update(verdict="unreliable", reason="of_the_future", why="not yet known")
    saved["tasks"][0]["new_field"] = 1
    path.write_text(json.dumps(saved))
    task = saved_snapshot(path).tasks[0].task
    assert (task.verdict.value, task.reason, task.why) == ("unreliable", None, "not yet known")


def test_a_saved_look_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert is_saved_snapshot(str(save(EARLIER, tmp_path / "snapshot.json")))
    core = tmp_path / "vmcore"
    for start in (b"\x7fELF", b"[    0.000000] Linux version 6.12.0\n", b"task,pid\n", b""):
        core.write_bytes(start)
        assert not is_saved_snapshot(str(core))
    assert not is_saved_snapshot(str(tmp_path / "missing"))
    assert not is_saved_snapshot(str(tmp_path))
    assert not is_saved_snapshot("https://host/vmcore\0")
