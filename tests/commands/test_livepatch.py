# SPDX-License-Identifier: LGPL-2.1-or-later
"""``livepatch``: drawn patches and tasks made by hand, on the command line and in the REPL."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from msgspec.structs import replace

from drgn_tools.commands.main import main
from drgn_tools.records import Frame, KernelAudit, Reason, Symbol, TaskStack, Verdict

from ..support.command_line import joined, offer, refused
from ..support.drawn_livepatch import (
    ABSENT,
    IMAGE,
    PATCH2,
    SECOND_SAME,
    TARGET,
    TGT_READ,
    VFS_READ,
    VFS_WRITE,
    DrawnPatches,
    Func,
)
from ..support.fabricated import HOSTILE_COMM, KERNEL, task
from ..support.patch_files import by_hand
from ..support.repl import Repl


def sleeper(pid: int, *ips: int, state: int = 0, **fields: Any) -> TaskStack:
    return task(pid, frames=tuple(map(Frame, (0x9000, *ips))), **{"patch_state": state, **fields})


DONE = sleeper(1, VFS_READ.old + 8, state=1)
FREE = sleeper(2)
IN_READ = sleeper(3, VFS_READ.old + 8)
IN_MODULE = sleeper(4, TGT_READ.old, comm="reads", state=0, kthread=True)
UNRELIABLE = sleeper(
    5,
    verdict=Verdict.UNRELIABLE,
    reason=Reason.KERNEL_MODE_REGS,
    why="page fault in vfs_read+0x1",
)
RUNNING = sleeper(
    6, on_cpu=True, verdict=Verdict.UNKNOWN, reason=Reason.RUNNING, why="running on CPU 1"
)
UNREADABLE = sleeper(
    7, verdict=Verdict.UNKNOWN, reason=Reason.UNREADABLE, why="stack memory is not in the dump"
)
ALL = (DONE, FREE, IN_READ, IN_MODULE, UNRELIABLE, RUNNING)


def at_rest(stack: TaskStack) -> TaskStack:
    return replace(stack, patch_state=-1)


def patching() -> DrawnPatches:
    drawn = DrawnPatches(1)
    drawn.patch(
        "patch1",
        (None, [VFS_READ, VFS_WRITE]),
        ("target", [TGT_READ]),
        ("absent", [ABSENT]),
        transition=True,
    )
    return drawn


def hooked(drawn: DrawnPatches) -> DrawnPatches:
    drawn.hooks(*IMAGE.values(), SECOND_SAME, TARGET + 0x100)
    return drawn


def offer_kernel(
    monkeypatch: pytest.MonkeyPatch,
    drawn: DrawnPatches,
    *tasks: TaskStack,
    problems: Sequence[str] = (),
    reliable: bool = True,
) -> None:
    """Let the command line find drawn patches, and tasks."""
    kernel = replace(KERNEL, reliable_stacktrace=reliable)
    offer(monkeypatch, KernelAudit(kernel, tasks, tuple(problems)))
    monkeypatch.setattr("drgn_tools.program.open.open_program", lambda **_: drawn.kernel.prog)


def rows(text: str) -> list[list[str]]:
    """The words of the first line of each row of a table; PIDs have one digit here."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("PID"))
    return [line.split() for line in lines[at + 1 :] if line[:3].strip()]


# ---- the command line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["livepatch"], "give a core (-c VMCORE), -k for the running kernel"),
        *(
            (
                ["livepatch", "-c", "a", "--function", name],
                f"a function is given as [MODULE:]NAME[,POS], as in ext4:ext4_sync_file, not {name!r}",
            )
            for name in ("a b", "f,x", "f,0", "f+0x5", "vfs_*")
        ),
        (
            ["livepatch", "-c", "a", "--ko", __file__, "--ko", "b.ko"],
            f"--ko {__file__} and --ko b.ko: give one",
        ),
        (["livepatch", "-c", "a", "--replace"], "--replace works only with --function"),
        (
            ["livepatch", "-c", "a", "--ko", __file__, "--replace"],
            "--replace works only with --function",
        ),
        (
            ["livepatch", "-c", "a", "--ko", __file__, "--function", "f"],
            "--ko and --function name two patches: give one of them",
        ),
        (["livepatch", "-c", "a", "--watch"], "nothing changes in a vmcore"),
        (["livepatch", "-k", "--watch", "0"], "--watch takes seconds"),
        (["livepatch", "-k", "--watch", "nan"], "--watch takes seconds"),
        (["livepatch", "-k", "--watch", "1e9"], "--watch takes seconds"),
        (
            ["livepatch", "-k", "--watch", "1", "--function", "f"],
            "--watch follows a patch in transition",
        ),
        (
            ["livepatch", "-k", "--watch", "1", "--ko", __file__],
            "--watch follows a patch in transition",
        ),
        (["livepatch", "-k", "--watch", "1", "--format", "csv"], "it has table and jsonl"),
        (
            ["livepatch", "-k", "--watch", "--all"],
            "--all, --check, --sort and --columns do not work with --watch",
        ),
        (
            ["livepatch", "-k", "--watch", "--check"],
            "--all, --check, --sort and --columns do not work with --watch",
        ),
        (["livepatch", "-c", "a", "--state", "Q"], "'Q' is not a state"),
        (["livepatch", "-c", "a", "--verdict", "reliable"], "--verdict"),
        (["livepatch", "-c", "a", "--format", "text"], "no format 'text'"),
    ],
    ids=joined,
)
def test_a_usage_error_is_one_line_and_opens_nothing(
    argv: Sequence[str], says: str, nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(argv, says, capsys)


def test_a_file_that_is_not_there_opens_nothing(
    nothing_opens: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["livepatch", "-c", "a", "--ko", "/no/such.ko"]) == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", "drgn-tools: error: --ko '/no/such.ko': no such file\n")


def test_a_kernel_without_live_patching_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    drawn = hooked(DrawnPatches())
    drawn.kernel.forget_symbol("klp_enable_patch")
    drawn.image()
    offer_kernel(monkeypatch, drawn, FREE)
    assert main(["livepatch", "-c", "vmcore", "-q"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "this kernel has no live patching (CONFIG_LIVEPATCH is off)" in err
    # A file says nothing then, not even whether it is one.
    path = tmp_path / "fix.ko"
    for data in (by_hand().bytes(), b"no module"):
        path.write_bytes(data)
        assert main(["livepatch", "-c", "vmcore", "-q", "--ko", str(path)]) == 3
        assert capsys.readouterr() == (out, err)
    # Functions are looked up all the same.
    assert main(["livepatch", "-c", "vmcore", "-q", "--function", "vfs_reat"]) == 0
    said = capsys.readouterr().err
    assert "refuse the patch: this kernel has no live patching (CONFIG_LIVEPATCH is off)" in said
    assert "refuse the patch: vfs_reat: there is no such symbol" in said


# ---- exit codes


@pytest.mark.parametrize(
    ("tasks", "plain", "check"),
    [
        ((DONE, FREE), 0, 0),
        ((DONE, FREE, IN_READ), 0, 1),
        ((DONE, UNRELIABLE), 0, 1),
        ((DONE, RUNNING), 0, 1),
        ((DONE, UNREADABLE), 0, 5),
        ((IN_READ, UNREADABLE), 0, 1),  # a finding is certain
        ((), 0, 0),
    ],
)
def test_check_is_1_for_who_holds_it_back_and_5_for_what_is_unknown(
    tasks: tuple[TaskStack, ...],
    plain: int,
    check: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer_kernel(monkeypatch, patching(), *tasks)
    assert main(["livepatch", "-c", "vmcore"]) == plain
    assert main(["livepatch", "-c", "vmcore", "--check"]) == check


def test_a_list_of_tasks_that_is_incomplete_is_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, patching(), FREE, problems=["the task list loops"])
    for more in ([], ["--check"]):
        assert main(["livepatch", "-c", "vmcore", *more]) == 5
        assert "warning: the task list loops" in capsys.readouterr().err
    offer_kernel(monkeypatch, patching(), IN_READ, problems=["the task list loops"])
    assert main(["livepatch", "-c", "vmcore", "--check"]) == 1


def test_lists_of_patches_that_are_damaged_are_5_and_nobody_is_free(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = patching()
    drawn.kernel.put_word(drawn.ops_list, drawn.kernel.nowhere)
    offer_kernel(monkeypatch, drawn, DONE, FREE)
    assert main(["livepatch", "-c", "vmcore", "--all"]) == 5
    out, err = capsys.readouterr()
    assert "warning: the list klp_ops is damaged after 0 entries" in err
    assert [row[4] for row in rows(out)] == ["done", "unknown"]
    assert "1 of 2 tasks holds patch1 back: 1 unknown" in err
    assert main(["livepatch", "-c", "vmcore", "--check"]) == 5


def test_at_rest_check_is_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    offer_kernel(monkeypatch, drawn, at_rest(IN_READ), at_rest(RUNNING))
    assert main(["livepatch", "-c", "vmcore", "--check"]) == 0
    out, err = capsys.readouterr()
    assert out == "patch1: enabled\n  vmlinux: vfs_read\n"
    assert "no live patch is in transition" in err


def test_nothing_loaded_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, DrawnPatches(), at_rest(FREE))
    assert main(["livepatch", "-c", "vmcore"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        (
            "vfs_read",
            1,
            "the kernel would take the patch; 1 of 2 tasks would hold the patch back: 1 in vfs_read\n",
        ),
        (
            "vfs_write",
            0,
            "the kernel would take the patch; none of 2 tasks would hold the patch back\n",
        ),
        ("same", 1, "warning: the kernel would refuse the patch: same: 2 symbols have this name"),
    ],
)
def test_what_if(
    function: str,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer_kernel(monkeypatch, hooked(DrawnPatches()), at_rest(IN_READ), at_rest(FREE))
    argv = ["livepatch", "-c", "vmcore", "--function", function]
    assert main(argv) == 0
    assert main([*argv, "--check"]) == code
    out, err = capsys.readouterr()
    assert err.count(says) == 2
    assert "refuse" not in out


@pytest.mark.parametrize(
    ("tasks", "code"),
    [
        # What runs at this moment does not count against a patch that is not loaded.
        ((RUNNING, FREE), 0),
        ((RUNNING, IN_READ), 1),
        ((RUNNING, UNRELIABLE), 1),
        ((RUNNING, UNREADABLE), 5),
    ],
)
def test_check_of_a_plan_ignores_tasks_that_run(
    tasks: tuple[TaskStack, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer_kernel(monkeypatch, hooked(DrawnPatches()), *map(at_rest, tasks))
    argv = ["livepatch", "-c", "vmcore", "--function", "vfs_read"]
    assert main([*argv, "--check"]) == code
    out, err = capsys.readouterr()
    assert ["6", "running"] in [[row[0], row[3]] for row in rows(out)]
    assert "1 on a CPU" in err
    assert main([*argv, "--function", "vfs_reat", "--check"]) == 1


@pytest.mark.parametrize("style", ["table", "json", "jsonl", "csv"])
def test_refusals_are_warnings_in_every_format(
    style: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, hooked(DrawnPatches()), at_rest(FREE))
    argv = ["livepatch", "-c", "vmcore", "--function", "vfs_reat", "--function", "no_such,2"]
    assert main([*argv, "--format", style]) == 0
    _, err = capsys.readouterr()
    assert err.splitlines()[-3:] == [
        "drgn-tools: warning: the kernel would refuse the patch: vfs_reat: there is no such symbol",
        "drgn-tools: warning: the kernel would refuse the patch: no_such,2: there is no such symbol",
        "the kernel would refuse the patch; none of 1 task would hold the patch back",
    ]
    # A warning is not for -q.
    assert main([*argv, "--format", style, "-q", "--check"]) == 1
    assert capsys.readouterr().err.splitlines() == err.splitlines()[-3:-1]


def test_a_function_given_twice_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, hooked(DrawnPatches()), at_rest(FREE))
    twice = ("vfs_write", "vfs_read", "vmlinux:vfs_write")
    argv = [word for name in twice for word in ("--function", name)]
    assert main(["livepatch", "-c", "vmcore", *argv]) == 0
    assert capsys.readouterr().out == "the patch: not loaded\n  vmlinux: vfs_write, vfs_read\n"


def test_what_if_of_a_kernel_whose_hooks_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, DrawnPatches(), at_rest(FREE))
    assert main(["livepatch", "-c", "vmcore", "--function", "vfs_read"]) == 5
    assert "warning: the addresses that ftrace can hook cannot be read" in capsys.readouterr().err


def test_what_if_of_a_module_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "fix.ko"
    path.write_bytes(by_hand([(None, [("vfs_read", 0)]), ("ext4", [("f", 0)])]).bytes())
    offer_kernel(monkeypatch, hooked(DrawnPatches()), at_rest(IN_READ))
    assert main(["livepatch", "-c", "vmcore", "--ko", str(path), "--check"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "fix: not loaded",
        "  vmlinux: vfs_read",
        "  ext4 (not loaded; patched once it is): f",
    ]
    assert "the kernel would take fix; 1 of 1 task would hold fix back: 1 in vfs_read\n" in err
    path.write_bytes(b"no module")
    assert main(["livepatch", "-c", "vmcore", "--ko", str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert f"drgn-tools: error: {path}: is not a 64-bit ELF file" in err


def test_a_replacing_what_if_names_what_it_takes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    offer_kernel(monkeypatch, hooked(drawn), at_rest(FREE))
    argv = ["livepatch", "-c", "vmcore", "--function", "vfs_write", "--replace"]
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines() == [
        "patch1: enabled",
        "  vmlinux: vfs_read",
        "the patch: not loaded, replaces all older patches",
        "  vmlinux: vfs_write, vfs_read (back to the original)",
    ]


# ---- the table


def test_the_table_has_who_holds_it_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, patching(), *ALL)
    assert main(["livepatch", "-c", "vmcore"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:5] == [
        "patch1: patching",
        "  vmlinux: vfs_read, vfs_write",
        "  target: tgt_read",
        "  absent (not loaded; patched once it is): absent_fn",
        "",
    ]
    assert [row[0] for row in rows(out)] == ["3", "4", "5", "6"]
    assert "tgt_read [target] (#1)" in out
    assert (
        "4 of 6 tasks hold patch1 back: 1 in vfs_read, 1 in tgt_read, 1 on a CPU,"
        " 1 with an unreliable stack\n"
    ) in err
    assert main(["livepatch", "-c", "vmcore", "--all"]) == 0
    out = capsys.readouterr().out
    found = {int(row[0]): row[3] for row in rows(out)}
    assert found == {1: "new", 2: "old", 3: "old", 4: "old", 5: "old", 6: "old"}


def test_filters_choose_who_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, patching(), *ALL)
    assert main(["livepatch", "-c", "vmcore", "--comm", "reads"]) == 0
    out, err = capsys.readouterr()
    assert [row[0] for row in rows(out)] == ["4"]
    assert "1 of 1 task holds patch1 back" in err
    assert "no task matches" not in err


def test_filters_that_match_no_task_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, hooked(patching()), *ALL)
    for more in ([], ["--format", "json"], ["--function", "vfs_read"]):
        assert main(["livepatch", "-c", "vmcore", "--comm", "no*", "--state", "D", *more]) == 0
        assert "drgn-tools: warning: no task matches --comm 'no*' --state D\n" in (
            capsys.readouterr().err
        )
    # Tasks that match and are free are tasks.
    assert main(["livepatch", "-c", "vmcore", "--pid", "2"]) == 0
    assert "no task matches" not in capsys.readouterr().err
    offer_kernel(monkeypatch, patching())
    assert main(["livepatch", "-c", "vmcore"]) == 0
    assert "no task matches" not in capsys.readouterr().err


def test_a_task_in_a_replacement_is_shown_in_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    at = Frame(VFS_READ.new + 8, Symbol("patch1_0", 8, "patch1"))
    stack = replace(at_rest(FREE), frames=(Frame(0x9000), at))
    offer_kernel(monkeypatch, hooked(drawn), stack)
    argv = ["livepatch", "-c", "vmcore", "--function", "vfs_read"]
    assert main(argv) == 0
    assert "vfs_read (#1: patch1_0 [patch1])" in " ".join(capsys.readouterr().out.split())
    assert main([*argv, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (found["function"], found["frame"]) == ("vfs_read", 1)


def test_a_plan_has_no_column_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, hooked(DrawnPatches()), at_rest(IN_READ))
    argv = ["livepatch", "-c", "vmcore"]
    assert main([*argv, "--function", "vfs_read"]) == 0
    headings = "PID  COMM    S  ANSWER       WHY            LEAVES WHEN"
    assert headings in capsys.readouterr().out.splitlines()
    assert main([*argv, "--all"]) == 0
    assert "CODE" in capsys.readouterr().out


def test_lines_about_patches_wrap_at_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    drawn = hooked(DrawnPatches())
    many = [Func(f"function_number_{i}", IMAGE["vfs_read"], 0, PATCH2) for i in range(20)]
    drawn.patch("patch1", (None, many))
    offer_kernel(monkeypatch, drawn, at_rest(FREE))
    assert main(["livepatch", "-c", "vmcore"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "patch1: enabled"
    assert len(lines) > 1
    assert all(len(line) <= 100 for line in lines)
    assert lines[0].startswith("  vmlinux: function_number_0, ")
    assert all(line.startswith("      function_number_") for line in lines[1:])
    assert sum(line.count("function_number_") for line in lines) == 20


def test_text_of_the_dump_does_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = DrawnPatches(1)
    evil = "e\x1b[31m\nvil"
    at = IMAGE["vfs_read"] + 0x40
    drawn.image((evil, at))
    drawn.patch("patch1", (None, [Func(evil, at, 0xC0, PATCH2 - 0x1_0000)]), transition=True)
    offer_kernel(monkeypatch, drawn, sleeper(3, at, comm=HOSTILE_COMM))
    for style in ("table", "json", "jsonl", "csv"):
        main(["livepatch", "-c", "vmcore", "--format", style])
        out, err = capsys.readouterr()
        for character in (out + err).replace("\n", "").replace("\r", ""):
            assert character.isprintable()
        if style == "json":
            assert json.loads(out)["tasks"][0]["function"] == evil


# ---- machines


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    offer_kernel(monkeypatch, patching(), *ALL, problems=["the task list loops"])
    main(["livepatch", "-c", "vmcore", "--all", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "drgn-tools.livepatch/1"
    assert document["kernel"]["release"] == KERNEL.release
    assert document["problems"] == ["the task list loops"]
    assert document["planned"] is None
    (patch,) = document["patches"]
    assert list(patch)[:5] == ["name", "enabled", "transition", "replace", "objects"]
    assert (patch["name"], patch["enabled"], patch["transition"]) == ("patch1", True, "patching")
    assert [(obj["name"], obj["patched"]) for obj in patch["objects"]] == [
        ("vmlinux", True),
        ("target", True),
        ("absent", False),
    ]
    assert patch["objects"][0]["functions"][0] == {
        "name": "vfs_read",
        "sympos": 0,
        "old_addr": f"{VFS_READ.old:#x}",
        "old_size": 0x100,
        "new_addr": f"{VFS_READ.new:#x}",
        "new_size": 0x40,
        "nop": False,
    }
    assert [found["answer"] for found in document["tasks"]] == [
        "done",
        "free",
        "in_function",
        "in_function",
        "unreliable",
        "running",
    ]
    in_module = document["tasks"][3]
    assert in_module == {
        "task": f"{IN_MODULE.task:#x}",
        "pid": 4,
        "tgid": 4,
        "comm": "reads",
        "state": "S",
        "patch_state": 0,
        "answer": "in_function",
        "function": "tgt_read",
        "object": "target",
        "frame": 1,
        "reason": None,
        "why": "sleeping on tgt_read [target], frame 1",
        "leaves_when": "it leaves tgt_read by itself; 2 fake signals did not help",
        "notes": [
            "tgt_read is not on the stack itself: the call before it does not return, so the"
            " return address is the first byte of tgt_read"
        ],
    }
    assert document["tasks"][2]["object"] == "vmlinux"
    assert document["tasks"][4]["reason"] == "kernel_mode_regs"


def test_json_has_the_patch_that_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = DrawnPatches()
    drawn.patch("patch1", (None, [VFS_READ]))
    offer_kernel(monkeypatch, hooked(drawn), at_rest(FREE))
    names = ("vfs_write", "vfs_reat", "ext4:f,2")
    argv = ["livepatch", "-c", "vmcore", "--format", "json"]
    argv += [word for name in names for word in ("--function", name)]
    for more in ([], ["--replace"]):
        assert main([*argv, *more]) == 0
        document = json.loads(capsys.readouterr().out)
        assert [patch["name"] for patch in document["patches"]] == ["patch1"]
        planned = document["planned"]
        assert list(planned) == ["name", "replace", "refusals", "objects"]
        assert (planned["name"], planned["replace"]) == ("the patch", bool(more))
        assert planned["refusals"] == ["vfs_reat: there is no such symbol"]
        image, module = planned["objects"]
        assert (image["name"], image["patched"]) == ("vmlinux", True)
        assert [(func["name"], func["nop"]) for func in image["functions"]] == [
            ("vfs_write", False),
            *([("vfs_read", True)] if more else []),
        ]
        assert image["functions"][0]["old_addr"] == f"{VFS_WRITE.old:#x}"
        assert (module["name"], module["patched"]) == ("ext4", False)
        assert [(func["name"], func["sympos"]) for func in module["functions"]] == [("f", 2)]


def test_jsonl_and_csv_have_the_same_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_kernel(monkeypatch, patching(), *ALL)
    main(["livepatch", "-c", "vmcore", "--format", "json"])
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    main(["livepatch", "-c", "vmcore", "--format", "jsonl"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == tasks
    main(["livepatch", "-c", "vmcore", "--format", "csv"])
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [list(row) for row in found] == [list(row) for row in tasks]
    assert [row["pid"] for row in found] == ["3", "4", "5", "6"]
    assert [row["function"] for row in found] == ["vfs_read", "tgt_read", "", ""]


# ---- --watch


def offer_looks(
    monkeypatch: pytest.MonkeyPatch, drawn: DrawnPatches, *looks: Sequence[TaskStack]
) -> list[float]:
    """Let each look find the next of these tasks; no patch is in transition at the last."""
    rest = list(looks)
    slept: list[float] = []
    offer_kernel(monkeypatch, drawn)

    def audit_under_way(prog: object, **_: Any) -> KernelAudit:
        assert rest, "it looks on after the end"
        tasks = rest.pop(0)
        if not rest:
            drawn.kernel.put_word(drawn.transition, 0)
            drawn.kernel.put(drawn.target, (-1).to_bytes(4, "little", signed=True))
        return KernelAudit(KERNEL, tuple(tasks))

    monkeypatch.setattr("drgn_tools.analysis.audit.audit_under_way", audit_under_way)
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def test_watch_ends_with_the_transition(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = replace(IN_READ, patch_state=1)
    slept = offer_looks(
        monkeypatch, patching(), [IN_READ, FREE], [IN_READ, FREE], [done], [at_rest(FREE)]
    )
    assert main(["livepatch", "-k", "--watch", "7"]) == 0
    lines = [line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "patch1: transition begins",
        "patch1: 3 reader (S) holds it back: sleeping on vfs_read, frame 1",
        "patch1: 3 reader (S) left after 0 s: sleeping on vfs_read, frame 1",
        "patch1: transition ends after 0 s",
    ]
    assert len(slept) == 3
    assert all(0 < seconds <= 7 for seconds in slept)


def test_watch_at_rest_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = offer_looks(monkeypatch, DrawnPatches(), [at_rest(FREE)])
    assert main(["livepatch", "-k", "--watch"]) == 0
    assert capsys.readouterr().out.endswith("no live patch is in transition\n")
    assert slept == []


def test_watch_in_json_has_an_object_for_each_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_looks(monkeypatch, patching(), [IN_READ], [at_rest(IN_READ)])
    assert main(["livepatch", "-k", "--watch", "1", "--format", "jsonl", "-q"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(event) for event in events] == [["time", "event", "patch", "for_s", "task"]] * 4
    assert [(event["event"], event["patch"]) for event in events] == [
        ("begins", "patch1"),
        ("holds", "patch1"),
        ("left", "patch1"),
        ("ends", "patch1"),
    ]
    tasks: list[Optional[dict[str, Any]]] = [event["task"] for event in events]
    assert tasks[0] is tasks[3] is None
    assert tasks[1] is not None
    assert (tasks[1]["pid"], tasks[1]["answer"]) == (3, "in_function")


def test_watch_that_is_interrupted_says_so_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_looks(monkeypatch, patching(), [IN_READ], [IN_READ])

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    assert main(["livepatch", "-k", "--watch", "1"]) == 130
    assert "holds it back" in capsys.readouterr().out


# ---- the REPL


def test_repl_livepatch(terminal: Repl) -> None:
    said = terminal.type("%livepatch --function pipe_read")
    assert said.splitlines()[0] == "the patch: not loaded"
    assert terminal.type("{type(found).__name__ for found in _}") in ("{'TaskAnswer'}", "set()")
    terminal.type("%livepatch --all")
    assert terminal.type("len(_) == len(list(task_stacks()))") == "True"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%livepatch --check", "there is no option --check"),
        ("%livepatch --watch", "there is no option --watch"),
        ("%livepatch --replace", "--replace works only with --function"),
        ("%livepatch --function a,b", "a function is given as [MODULE:]NAME[,POS]"),
        ("%livepatch --ko /no/such.ko", "--ko '/no/such.ko': no such file"),
    ],
)
def test_repl_a_mistake_is_one_line(terminal: Repl, line: str, says: str) -> None:
    said = terminal.type(line)
    assert len(said.splitlines()) == 1
    assert says in said


def test_repl_help(terminal: Repl) -> None:
    said = terminal.type("%livepatch --help")
    assert said.startswith("usage: %livepatch [options] [TASK ...]")
    assert "--watch" not in said.partition("examples:")[0]
