# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stack on the page: its frames, its functions, the command to see it in full."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.labels import frame_label
from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.fleet.dataset.stack_hash import stack_hash
from drgn_tools.fleet.report.page import write_page
from drgn_tools.fleet.report.page_stacks import command_to_go_on
from drgn_tools.records import Frame, KernelAudit, TaskStack
from drgn_tools.terminal.escape import escape

from ...support import fabricated
from ...support.fleet_dataset import Source, day, of_audit, write_dataset
from ...support.fleet_page import IMAGE, TASKS, Open, rows


def test_a_stack_opens_with_its_frames(page: Any) -> None:
    task = fabricated.FAULTING
    row = page.locator("#stacks tr[data-row]", has_text=stack_hash(task)).filter(
        has_text="unreliable"
    )
    row.locator(".opener").focus()
    page.keyboard.press("Enter")
    assert row.locator(".opener").get_attribute("aria-expanded") == "true"
    opened = page.locator("#stacks tr.opened")
    lines = opened.locator(".trace li").all_text_contents()
    assert len(lines) == len(task.frames)
    for number_, (line, frame_) in enumerate(zip(lines, task.frames)):
        where = f"user mode {frame_.ip:#x}" if frame_.user_mode else frame_label(frame_)
        assert line.startswith(f"#{number_}{where}")
        assert ("pt_regs" in line) == (frame_.regs is not None)
    assert opened.locator(".trace li.regs").count() == sum(
        f.regs is not None for f in kernel_frames(task)
    )
    said = opened.inner_text()
    assert task.why in said
    assert all(f"web-{i}" in said for i in range(6))
    # The latest that has a time.
    latest = max(
        (s for s, t in TASKS if stack_hash(t) == stack_hash(task) and s["time"]),
        key=lambda s: s["time"],
    )
    assert escape(latest["source"])[:12] in said
    row.locator("td").nth(3).click()
    assert page.locator("#stacks tr.opened").count() == 0


def test_the_command_to_go_on_is_there(page: Any) -> None:
    hash_ = stack_hash(fabricated.PREEMPTED)
    page.locator("#stacks tr[data-row]", has_text=hash_).locator(".opener").click()
    assert (
        page.inner_text("#stacks .command") == "drgn-tools stack -c /var/crash/everything/vmcore 52"
    )


def faulting_in(function: str) -> Source:
    # Alike but for what was interrupted, and who called that.
    frames = tuple(
        replace(
            frame,
            symbol=fabricated.symbol(f"{function}+0x40", frame.module),
            ip=frame.ip + len(function),
        )
        if frame.regs is not None and not frame.user_mode
        else frame
        for frame in fabricated.FAULTING.frames
    )
    task = replace(fabricated.FAULTING, frames=frames)
    audit = KernelAudit(fabricated.KERNEL, (task,))
    return of_audit(f"/dump/{function}", audit, time=day(1), host="h")


def test_what_was_interrupted_leads(tmp_path: Path, open_page: Open) -> None:
    functions = ("rep_movs_alternative", "rep_stos_alternative", "strncpy_from_user")
    dataset = write_dataset(tmp_path / "dataset", map(faulting_in, functions))
    write_page(dataset, tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert {row["stack"] for row in rows(page, "stacks")} == {
        f"{function} ⚡ (in handle_userfault) ← vfs_read ← do_syscall_64"
        " ← entry_SYSCALL_64_after_hwframe"
        for function in functions
    }
    page.fill("#stacks input", "strncpy_from_user ⚡")
    assert len(rows(page, "stacks")) == 1


def test_every_function_interrupted_is_seen_in_the_row(tmp_path: Path, open_page: Open) -> None:
    calls = tuple(Frame((1 << 63) + i, fabricated.symbol(f"caller_{i}+0x1")) for i in range(9))
    outer = Frame((1 << 63) + 99, fabricated.symbol("spinner+0x7", "lab_helper"), regs=0x2000)
    frames = (*fabricated.FAULTING.frames[:5], *calls, outer, *fabricated.FAULTING.frames[5:])
    tasks = (replace(fabricated.FAULTING, frames=frames), fabricated.SLEEPER)
    source = of_audit("/dump", KernelAudit(fabricated.KERNEL, tasks), time=day(1))
    write_page(write_dataset(tmp_path / "dataset", [source]), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert {row["verdict"]: row["stack"] for row in rows(page, "stacks")} == {
        "unreliable": "rep_stos_alternative ⚡ (in handle_userfault) ← caller_0 ← caller_1 ← caller_2"
        " … spinner [lab_helper] ⚡ …",
        "reliable": "do_wait ← do_syscall_64 ← entry_SYSCALL_64_after_hwframe",
    }


def test_recursion_is_folded(tmp_path: Path, open_page: Open) -> None:
    deep = Frame(0xFFFF_FFFF_C000_0019, fabricated.symbol("lab_deep+0x19", "lab_helper"))
    first = replace(deep, symbol=fabricated.symbol("lab_deep+0x20", "lab_helper"), ip=deep.ip + 7)
    frames = (*fabricated.SLEEPER.frames[:3], first, *[deep] * 97, *fabricated.SLEEPER.frames[3:])
    task = replace(fabricated.SLEEPER, frames=frames)
    source = of_audit("/dump", KernelAudit(fabricated.KERNEL, (task,)), time=day(1))
    write_page(write_dataset(tmp_path / "dataset", [source]), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    (row,) = rows(page, "stacks")
    assert row["stack"].startswith("do_wait ← lab_deep [lab_helper] ×98 ← do_syscall_64")
    page.locator("#stacks .opener").click()
    lines = page.locator("#stacks .trace li").all_text_contents()
    assert lines[3:6] == [
        "#3lab_deep+0x20 [lab_helper]",
        "#4lab_deep+0x19 [lab_helper] ×97",
        "#101do_syscall_64+0x93",
    ]


def test_an_open_function_shows_its_stacks(page: Any) -> None:
    page.locator("#functions .opener", has_text="vfs_read").click()
    stacks = page.locator("#functions tr.opened details")
    of_vfs_read = [
        row
        for row in rows(page, "stacks")
        if "vfs_read ⚡" in row["stack"] and row["verdict"] == "unreliable"
    ]
    assert stacks.count() == len(of_vfs_read) == 1
    summary = stacks.locator("summary")
    assert summary.inner_text().startswith(of_vfs_read[0]["stack"])
    assert f"{of_vfs_read[0]['tasks']} tasks, kernel_mode_regs" in summary.inner_text()
    head = page.locator("#functions .opener").first.bounding_box()
    assert summary.bounding_box()["x"] < head["x"] + 50, "not in mid-air"
    summary.focus()
    page.keyboard.press("Enter")
    stacks.locator(".trace").wait_for()
    lines = stacks.locator(".trace li").all_text_contents()
    assert len(lines) == len(fabricated.PREEMPTED.frames)
    assert stack_hash(fabricated.PREEMPTED) in stacks.inner_text()
    assert page.locator("#functions .opener[aria-expanded=true]").count() == 1, "still open"


def test_a_function_of_many_stacks_leads_to_all_of_them(tmp_path: Path, open_page: Open) -> None:
    def called_by(caller: str) -> TaskStack:
        frames = fabricated.FAULTING.frames
        return replace(
            fabricated.FAULTING,
            frames=(*frames[:5], Frame(1 << 63, fabricated.symbol(caller)), *frames[5:]),
        )

    audit = KernelAudit(fabricated.KERNEL, tuple(called_by(f"caller_{i}+0x1") for i in range(30)))
    write_page(write_dataset(tmp_path / "dataset", [of_audit("/d", audit)]), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    page.locator("#functions .opener").click()
    assert page.locator("#functions details").count() == 20
    page.get_by_role("button", name="List all its 30 stacks").click()
    assert page.input_value("#stacks input") == "rep_stos_alternative"
    assert len(rows(page, "stacks")) == 30


@pytest.mark.parametrize(
    "source",
    ["/var/crash/vmcore", "-c", "a b'c\"d$(touch x)`y`", "new\nline\t\u202e\udc80!\\", IMAGE],
)
def test_the_command_survives_a_shell(source: str) -> None:
    shell = shutil.which("bash")
    if not shell:
        pytest.skip("needs bash")
    script = f"drgn-tools() {{ printf '%s\\0' \"$@\"; }}; {command_to_go_on(source, 7)}"
    run = subprocess.run([shell, "-c", script], capture_output=True, timeout=20, check=True)
    given = source if not source.startswith("-") else f"./{source}"
    assert run.stdout == b"\0".join([b"stack", b"-c", os.fsencode(given), b"7", b""])
    assert escape(script) == script
