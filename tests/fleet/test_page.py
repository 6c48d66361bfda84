# SPDX-License-Identifier: LGPL-2.1-or-later
"""The HTML page in a real browser: what it shows, against the records it was made of.

``DRGN_TOOLS_CHROMIUM`` names the browser, ``DRGN_TOOLS_PAGE_SHOTS`` a folder for pictures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.labels import frame_label, function_label
from drgn_tools.analysis.queries import kernel_frames
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.dataset.stack_hash import stack_hash
from drgn_tools.fleet.report.page import print_page, write_page
from drgn_tools.fleet.report.page_data import PageLimits
from drgn_tools.fleet.report.page_stacks import command_to_go_on
from drgn_tools.fleet.report.time_line import TimeLine
from drgn_tools.records import Frame, KernelAudit, TaskStack, Verdict
from drgn_tools.terminal.console import OutputError, ReaderGoneError, discard
from drgn_tools.terminal.escape import escape

from ..support import fabricated
from ..support.fleet_dataset import FLEET, Source, day, of_audit, write_dataset

IMAGE = "</script><img src=x onerror=alert(1)>"
TASKS = tuple((source, task) for source in FLEET for task in source.tasks or ())


# ---- the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'drgn-tools[page-test]'"
    )
    chromium = os.environ.get("DRGN_TOOLS_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("needs Chromium: DRGN_TOOLS_CHROMIUM names one")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a file; afterwards nothing may have been asked of a network, complained or popped up."""
    contexts = []
    wrong: list[str] = []

    def refuse(dialog: Any) -> None:
        wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_file(path: Path, **options: Any) -> Any:
        context = browser.new_context(
            offline=True, **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "request",
            lambda request: wrong.append(request.url) if request.url != path.as_uri() else None,
        )
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", refuse)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    write_page(write_dataset(folder / "dataset", FLEET), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def page(fleet: Path, open_page: Open) -> Any:
    return open_page(fleet)


# ---- what is read off it


def rows(page: Any, table: str) -> list[dict[str, str]]:
    """The rows of a table by the words of its header."""
    names, cells = page.eval_on_selector(
        f"#{table} table",
        """table => [
            [...table.querySelectorAll('th')].map(cell => cell.textContent),
            [...table.querySelectorAll('tr[data-row]')].map(row => [...row.cells].map(cell => cell.textContent)),
        ]""",
    )
    return [dict(zip(names, line)) for line in cells]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def column(page: Any, table: str, name: str) -> list[int]:
    return [number(row[name]) for row in rows(page, table)]


def figure(page: Any, name: str) -> int:
    text = page.eval_on_selector(f'[data-figure="{name}"]', "e => e.firstChild.textContent")
    return number(text)


def header(page: Any, table: str, name: str) -> Any:
    return page.locator(f"#{table} th", has_text=re.compile(f"^{name}$"))


def sort_by(page: Any, table: str, name: str) -> str:
    header(page, table, name).locator("button").click()
    return str(header(page, table, name).get_attribute("aria-sort"))


def frame(page: Any, name: str) -> Any:
    return page.locator(".frame", has_text=re.compile(f"^{re.escape(name)}$")).first


def share_of_width(page: Any, name: str) -> float:
    graph = page.locator("#flame-graph").bounding_box()["width"]
    return float(frame(page, name).bounding_box()["width"] / graph)


def reason_of(task: TaskStack) -> str:
    return task.reason.value if task.reason else "–"


def verdicts(tasks: Iterable[TaskStack]) -> Counter[str]:
    return Counter(task.verdict.value for task in tasks)


# ---- numbers


def test_figures_are_those_of_the_records(page: Any) -> None:
    counts = verdicts(task for _, task in TASKS)
    assert figure(page, "sources") == len(FLEET)
    assert figure(page, "failed") == sum(source.tasks is None for source in FLEET) == 4
    assert figure(page, "hosts") == len({source["host"] for source in FLEET} - {None})
    assert figure(page, "kernels") == len({source["release"] for source in FLEET} - {None})
    assert figure(page, "tasks") == len(TASKS)
    assert {v.value: figure(page, v.value) for v in Verdict} == {
        v.value: counts[v.value] for v in Verdict
    }


def test_kernels_and_hosts_are_counted(page: Any) -> None:
    kernels: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    hosts: dict[str, Counter[str]] = defaultdict(Counter)
    for source in FLEET:
        counts = Counter(sources=1, failed=source.tasks is None) + verdicts(source.tasks or ())
        if source["release"]:
            kernels[escape(source["release"]), source["unwinder"] or "–"] += counts
        hosts[escape(source["host"] or "(not known)")] += counts
    seen = {(row["release"], row["unwinder"]): row for row in rows(page, "kernels")}
    assert seen.keys() == kernels.keys()
    for key, row in seen.items():
        assert number(row["sources"]) == kernels[key]["sources"]
        assert number(row["unreliable"]) == kernels[key]["unreliable"]
        judged = kernels[key]["unreliable"] + kernels[key]["reliable"]
        share = f"{100 * kernels[key]['unreliable'] / judged:.1f} %" if judged else "–"
        assert row["share"] == share
        assert number(row["tasks"]) == sum(kernels[key][verdict.value] for verdict in Verdict)
    assert {
        row["host"]: (number(row["sources"]), number(row["failed"]), number(row["unreliable"]))
        for row in rows(page, "hosts")
    } == {
        host: (counts["sources"], counts["failed"], counts["unreliable"])
        for host, counts in hosts.items()
    }


def test_each_stack_is_counted_once_across_hosts(page: Any) -> None:
    tasks: Counter[tuple[str, ...]] = Counter()
    hosts: dict[tuple[str, ...], set[str]] = defaultdict(set)
    times: dict[tuple[str, ...], list[datetime]] = defaultdict(list)
    for source, task in TASKS:
        key = (stack_hash(task), task.verdict.value, reason_of(task))
        tasks[key] += 1
        hosts[key].add(source["host"])
        times[key] += [source["time"]] if source["time"] else []
    seen = {(row["hash"], row["verdict"], row["reason"]): row for row in rows(page, "stacks")}
    assert {key: number(row["tasks"]) for key, row in seen.items()} == tasks
    assert {key: number(row["hosts"]) for key, row in seen.items()} == {
        key: len(hosts[key]) for key in tasks
    }
    assert {key: row["first seen"] for key, row in seen.items()} == {
        key: f"{min(times[key]):%Y-%m-%d %H:%M}" for key in tasks
    }


def test_functions_are_those_interrupted_in_unreliable_stacks(page: Any) -> None:
    tasks: Counter[str] = Counter()
    for _, task in TASKS:
        if task.verdict is Verdict.UNRELIABLE:
            interrupted = {function_label(f) for f in kernel_frames(task) if f.regs is not None}
            tasks.update(escape(name) for name in interrupted)
    assert tasks["rep_stos_alternative"] > 5
    assert {row["function"]: number(row["tasks"]) for row in rows(page, "functions")} == tasks


def test_failures_are_listed_with_their_line(page: Any) -> None:
    seen = {row["source"]: row for row in rows(page, "failures")}
    assert seen.keys() == {escape(s["source"]) for s in FLEET if s["status"] != "audited"}
    killer = seen["/var/crash/killer/vmcore"]
    assert (killer["cause"], killer["exit code"], killer["quarantined"]) == (
        "crashed",
        "139",
        "yes",
    )
    assert killer["line"] == "the process ended with SIGSEGV"


def test_outliers_are_those_of_the_report(page: Any) -> None:
    seen = rows(page, "outliers")
    share = next(row for row in seen if row["kind"] == "unreliable share")
    sick = next(source for source in FLEET if source["host"] == "sick")
    judged = sick["reliable"] + sick["unreliable"]
    assert (share["host"], share["value"]) == ("sick", f"{100 * sick['unreliable'] / judged:.1f} %")
    slowest = next(row for row in seen if row["kind"] == "slowest audit")
    assert (slowest["source"], slowest["value"]) == ("s3://dumps/sick/vmcore", "99.5 s")
    page.select_option("#host", label="everything")
    assert {row["host"] for row in rows(page, "outliers")} == {"everything"}


def test_sources_without_a_host_are_told_and_chosen(tmp_path: Path, open_page: Open) -> None:
    audit = KernelAudit(fabricated.KERNEL, (fabricated.FAULTING,))
    hosts = ["web-1", "web-2", "web-2", None, None]
    nowhere = [
        of_audit(f"/dump/{i}", audit, host=host, time=day(i)) for i, host in enumerate(hosts)
    ]
    dataset = write_dataset(tmp_path / "dataset", nowhere)
    write_page(dataset, tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert figure(page, "hosts") == 2
    assert page.inner_text('[data-figure="hosts"] small') == "2 sources without a name"
    assert column(page, "stacks", "hosts") == column(page, "functions", "hosts") == [2]
    assert Counter(row["host"] for row in rows(page, "sources")) == Counter(
        host or "(not known)" for host in hosts
    )
    assert "(not known)" in {row["host"] for row in rows(page, "outliers")}
    page.locator("#stacks .opener").click()
    assert "(not known), web-1, web-2" in page.inner_text("#stacks .facts")
    page.select_option("#host", label="(not known)")
    assert figure(page, "sources") == len(rows(page, "sources")) == 2
    assert figure(page, "hosts") == 0
    assert column(page, "stacks", "tasks") == [2]
    page.click("#clear")
    page.get_by_role("button", name="(not known)").first.click()
    assert figure(page, "sources") == 2
    # Taken together they stay what they are.
    write_page(dataset, tmp_path / "page.html", PageLimits(sources=1))
    page = open_page(tmp_path / "page.html")
    assert "2 sources whose host is not known are taken together" in page.inner_text("#notices")
    assert "1 host with 2 sources are taken together" in page.inner_text("#notices")
    assert page.inner_text('[data-figure="hosts"]').split("\n") == ["2", "2 sources without a name"]
    page.select_option("#host", label="(not known)")
    assert figure(page, "sources") == 2


def test_where_every_host_is_known_none_is_not(tmp_path: Path, open_page: Open) -> None:
    source = of_audit("/d", KernelAudit(fabricated.KERNEL, ()), host="web-1", time=day(1))
    write_page(write_dataset(tmp_path / "dataset", [source]), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert page.locator("#host option").all_text_contents() == ["all", "web-1"]
    assert page.inner_text('[data-figure="hosts"]') == "1"


# ---- what it says of itself


def test_the_page_explains_itself(page: Any) -> None:
    explained = page.locator("#help")
    assert not explained.locator("dl").is_visible()
    explained.locator("summary").click()
    assert explained.locator("dt").all_inner_texts() == [verdict.value for verdict in Verdict]
    assert "stack_trace_save_tsk_reliable()" in explained.inner_text()

    def colours(of: str) -> dict[str, str]:
        found: dict[str, str] = page.eval_on_selector_all(
            of,
            "all => Object.fromEntries(all.map(e => [e.className, getComputedStyle(e).backgroundColor]))",
        )
        return found

    said = colours("#help .swatch")
    drawn = {**colours("#timeline .swatch"), **colours("#flame-legend .swatch")}
    assert said.items() == drawn.items(), "all colours of the pictures, and the same"
    assert len(said) == 10


# ---- tables


def test_a_header_sorts_by_number(page: Any) -> None:
    before = column(page, "stacks", "tasks")
    assert sort_by(page, "stacks", "tasks") == "descending"
    falling = column(page, "stacks", "tasks")
    assert falling == sorted(before, reverse=True) != before
    assert sort_by(page, "stacks", "tasks") == "ascending"
    rising = column(page, "stacks", "tasks")
    assert rising == sorted(before)
    assert rising != sorted(before, key=str), "or text would sort alike"
    assert header(page, "stacks", "verdict").get_attribute("aria-sort") == "none"


def test_a_header_sorts_text_naturally_and_by_keyboard(page: Any) -> None:
    header(page, "kernels", "release").locator("button").focus()
    page.keyboard.press("Enter")
    releases = [row["release"] for row in rows(page, "kernels")]
    assert releases.index("6.6.63") < releases.index("6.12.117")


def test_rows_are_filtered_by_text(page: Any) -> None:
    page.fill("#sources input", "web-0 older")
    assert [row["source"] for row in rows(page, "sources")] == ["/var/crash/web-0/older"]
    assert page.text_content("#sources .count") == "1 of 17"
    page.fill("#sources input", "no such thing")
    assert rows(page, "sources") == []
    assert page.is_visible("#sources .nothing")


def test_a_filter_finds_a_stack_by_any_of_its_functions(page: Any) -> None:
    page.fill("#stacks input", "rep_stos_alternative")
    tasks = {task for _, task in TASKS if any("rep_stos" in (f.symbol or "") for f in task.frames)}
    assert sum(column(page, "stacks", "tasks")) == sum(task in tasks for _, task in TASKS)


def test_long_tables_are_drawn_in_parts(tmp_path: Path, open_page: Open) -> None:
    audit = KernelAudit(fabricated.KERNEL, (fabricated.SLEEPER,))
    sources = [of_audit(f"/dump/{i}", audit, host=f"h{i}", time=day(i)) for i in range(250)]
    write_page(write_dataset(tmp_path / "dataset", sources), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert len(rows(page, "sources")) == 200
    page.click("#sources .more")
    assert len(rows(page, "sources")) == 250
    assert page.is_hidden("#sources .more")


# ---- a stack


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
        replace(frame, symbol=f"{function}+0x40", ip=frame.ip + len(function))
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
    calls = tuple(Frame((1 << 63) + i, f"caller_{i}+0x1") for i in range(9))
    outer = Frame((1 << 63) + 99, "spinner+0x7", "lab_helper", regs=0x2000)
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
    deep = Frame(0xFFFF_FFFF_C000_0019, "lab_deep+0x19", "lab_helper")
    first = replace(deep, symbol="lab_deep+0x20", ip=deep.ip + 7)
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
            fabricated.FAULTING, frames=(*frames[:5], Frame(1 << 63, caller), *frames[5:])
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


# ---- filters


def test_a_kernel_and_a_host_narrow_everything(page: Any) -> None:
    page.select_option("#release", label="6.12.117")
    sources = [source for source in FLEET if source["release"] == "6.12.117"]
    assert figure(page, "sources") == len(sources)
    assert (
        figure(page, "unreliable")
        == verdicts(t for s in sources for t in s.tasks or ())["unreliable"]
    )
    page.get_by_role("button", name="web-1", exact=True).first.click()
    sources = [source for source in sources if source["host"] == "web-1"]
    tasks = [task for source in sources for task in source.tasks or ()]
    assert len(sources) == figure(page, "sources") == len(rows(page, "sources")) == 2
    assert sum(column(page, "stacks", "tasks")) == len(tasks)
    assert f"{len(tasks)} tasks" in frame(page, "all stacks").get_attribute("aria-label")
    assert {row["host"] for row in rows(page, "hosts")} == {"web-1"}
    page.click("#clear")
    assert figure(page, "sources") == len(FLEET)


def test_a_verdict_narrows_tasks(page: Any) -> None:
    page.uncheck("#verdicts [value=reliable]")
    page.uncheck("#verdicts [value=unknown]")
    unreliable = verdicts(task for _, task in TASKS)["unreliable"]
    assert figure(page, "tasks") == unreliable == sum(column(page, "stacks", "tasks"))
    assert f"{unreliable} tasks" in frame(page, "all stacks").get_attribute("aria-label")
    assert "reliable: 0" not in page.inner_text("#flame")
    assert {row["verdict"] for row in rows(page, "stacks")} == {"unreliable"}
    page.uncheck("#verdicts [value=unreliable]")
    assert figure(page, "tasks") == 0
    assert "No stack is shown" in page.inner_text("#flame-said")


# ---- the time line


def bars(page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.eval_on_selector_all(
        "#timeline button",
        "all => all.map(e => ({label: e.ariaLabel, pressed: e.ariaPressed, off: e.disabled}))",
    )
    return found


def sources_of(bar: dict[str, Any]) -> int:
    found = re.search(r"; ([\d,]+) sources?", bar["label"])
    assert found
    return number(found[1])


def test_every_source_is_on_the_time_line(page: Any) -> None:
    assert sum(map(sources_of, bars(page))) == len(FLEET)
    assert sources_of(next(b for b in bars(page) if "no time known" in b["label"])) == sum(
        source["time"] is None for source in FLEET
    )
    assert sum("failed" in bar["label"] for bar in bars(page)) >= 3


def test_a_time_is_chosen_and_left(page: Any) -> None:
    full = [
        i
        for i, bar in enumerate(bars(page))
        if sources_of(bar) > 1 and "no time" not in bar["label"]
    ]
    button = page.locator("#timeline button")
    button.nth(full[0]).click()
    assert figure(page, "sources") == len(rows(page, "sources")) == sources_of(bars(page)[full[0]])
    assert [i for i, bar in enumerate(bars(page)) if bar["pressed"] == "true"] == [full[0]]
    first, last = bars(page)[full[0]]["label"][:10], bars(page)[full[0]]["label"][14:24]
    assert all(first <= row["time"][:10] <= last for row in rows(page, "sources"))
    button.nth(full[-1]).click(modifiers=["Shift"])
    assert figure(page, "sources") == sum(map(sources_of, bars(page)[full[0] : full[-1] + 1]))
    page.click("#time-chip")
    assert figure(page, "sources") == len(FLEET)
    button.nth(full[0]).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert figure(page, "sources") == len(FLEET)


def seconds(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=timezone.utc).timestamp())


def test_a_time_line_has_sensible_parts() -> None:
    months = TimeLine([seconds(2024, 1, 15), seconds(2026, 3, 2)])
    assert months.buckets[0] == (seconds(2024, 1, 1), seconds(2024, 2, 1))
    assert len(months.buckets) == 27
    hours = TimeLine([seconds(2026, 3, 1, 10, 20), seconds(2026, 3, 2, 9)])
    assert all(start % hours.seconds == 0 for start, _ in hours.buckets if start)
    assert hours.seconds in (900, 3600)
    weeks = TimeLine([seconds(2026, 1, 1), seconds(2026, 9, 1)])
    assert (
        datetime.fromtimestamp(weeks.buckets[0][0] or 0, timezone.utc).strftime("%a %H") == "Mon 00"
    )


@pytest.mark.parametrize(
    "times",
    [[], [None], [0], [5] * 9, [-(2**62), 2**62, 3], [seconds(1, 1, 1), seconds(8999, 1, 1)]],
)
def test_a_time_line_holds_any_time(times: list[Optional[int]]) -> None:
    line = TimeLine(times)
    assert all(0 <= line.bucket(time) < len(line.buckets) <= 100 for time in times)


def test_a_broken_clock_does_not_stretch_the_time_line() -> None:
    times = [seconds(2026, 3, 1) + i * 3600 for i in range(100)]
    line = TimeLine([0, *times, seconds(2200, 1, 1)])
    assert line.seconds <= 86400
    start, end = line.buckets[line.bucket(0)]
    assert start is None and end is not None and end <= times[0]
    assert line.buckets[line.bucket(seconds(2200, 1, 1))][1] is None
    for time in times:
        start, end = line.buckets[line.bucket(time)]
        assert start is not None and end is not None and start <= time < end


# ---- the flame graph


def entered(name: str) -> list[TaskStack]:
    """Tasks whose stack begins in that function."""
    stacks = ((task, kernel_frames(task)) for _, task in TASKS)
    return [task for task, frames in stacks if frames and function_label(frames[-1]) == name]


def test_the_flame_graph_zooms_and_comes_back(page: Any) -> None:
    entry = "entry_SYSCALL_64_after_hwframe"
    tasks = entered(entry)
    assert share_of_width(page, entry) == pytest.approx(len(tasks) / len(TASKS), abs=0.005)
    assert f"{len(tasks)} tasks" in frame(page, entry).get_attribute("aria-label")
    frame(page, entry).click()
    assert share_of_width(page, entry) == pytest.approx(1, abs=0.005)
    assert page.locator(".frame", has_text="ret_from_fork_asm").count() == 0
    bad = verdicts(tasks)["unreliable"]
    assert f"{bad} unreliable ({100 * bad / len(tasks):.1f} %)" in page.inner_text("#flame-said")
    page.click("#flame-reset")
    assert share_of_width(page, entry) == pytest.approx(len(tasks) / len(TASKS), abs=0.005)
    assert page.is_disabled("#flame-reset")


def test_the_flame_graph_by_keyboard(page: Any) -> None:
    page.locator("#flame-graph [tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    largest = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") != largest
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == largest
    assert page.is_visible("#tip")
    page.keyboard.press("Enter")
    assert share_of_width(page, largest) == pytest.approx(1, abs=0.005)
    page.keyboard.press("Escape")
    assert share_of_width(page, largest) < 0.9


def test_the_flame_graph_finds_a_function(page: Any) -> None:
    page.fill("#flame-search", "rep_stos")
    tasks = sum(
        any("rep_stos" in (f.symbol or "") for f in kernel_frames(task)) for _, task in TASKS
    )
    assert page.inner_text("#flame-found").startswith(f"{tasks} tasks (")
    assert page.locator(".frame.found").count() > 0
    page.fill("#flame-search", "")
    assert page.locator(".frame.found").count() == 0


def test_the_flame_graph_is_coloured_by_verdict(page: Any) -> None:
    def colour(name: str) -> str:
        return str(frame(page, name).evaluate("e => getComputedStyle(e).backgroundColor"))

    assert verdicts(entered("ret_from_fork_asm"))["unreliable"] == 0
    page.select_option("#release", label="6.12.117")
    colours = [
        colour(name)
        for name in ("ret_from_fork_asm", "entry_SYSCALL_64_after_hwframe", "rep_stos_alternative")
    ]
    assert len(set(colours)) == 3


def test_a_tip_says_counts(page: Any) -> None:
    frame(page, "ret_from_fork_asm").hover()
    tip = page.inner_text("#tip")
    counts = verdicts(entered("ret_from_fork_asm"))
    assert f"{counts['reliable']} reliable" in tip
    assert f"{sum(counts.values())} tasks" in tip


# ---- hostile text


def hostile_fleet() -> Iterable[Source]:
    yield from FLEET
    frames = (Frame(0xFFFF_FFFF_8130_0001, f"{IMAGE}+0x1", IMAGE, regs=0x1000),)
    # The comm of the kernel ends after 15; a manifest's text and a symbol do not.
    task = replace(fabricated.FAULTING, comm=IMAGE[:15], frames=frames, why=IMAGE, brief=IMAGE)
    kernel = replace(fabricated.KERNEL, release=IMAGE)
    yield of_audit(
        IMAGE, KernelAudit(kernel, (task,), (IMAGE,)), host=IMAGE, tags={IMAGE: IMAGE}, time=day(5)
    )


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path, open_page: Open) -> None:
    dataset = write_dataset(tmp_path / "<b>dataset&amp;", hostile_fleet())
    write_page(dataset, tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    for table in ("functions", "stacks", "kernels", "hosts", "failures", "sources"):
        page.fill(f"#{table} input", "<script>alert(1)</script>")
        assert rows(page, table), table
        page.fill(f"#{table} input", IMAGE)
        assert (IMAGE in page.inner_text(f"#{table}")) or table == "failures", table
    page.fill("#stacks input", IMAGE)
    page.locator("#stacks .opener").first.click()
    assert IMAGE[:15] in page.inner_text("#stacks .facts")
    page.locator("#functions .opener").first.click()
    page.fill("#flame-search", "alert(1)")
    page.locator(".frame.found").first.click()
    page.locator(".frame.found").first.hover()
    assert "alert(1)" in page.inner_text("#tip")
    page.select_option("#host", label=IMAGE)
    assert figure(page, "sources") == 1
    assert "<b>dataset&amp;" in page.title()
    assert page.locator("img, b b, iframe, object, a[href]").count() == 0
    assert page.locator("script").count() == 2
    assert "\u202e" not in page.content()


def test_the_file_holds_nothing_a_dump_could_end(tmp_path: Path) -> None:
    write_page(write_dataset(tmp_path / "dataset", hostile_fleet()), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>\n<script>', text, re.S
    )
    assert found
    assert not set("<>&\u2028\u2029\u202e") & set(found[1])
    assert found[1].isascii()
    assert IMAGE in json.dumps(json.loads(found[1]))
    assert text.lower().count("</script>") == 2
    rest = text.replace(found[1], "")
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://|innerHTML|insertAdjacent", rest)


def test_no_script_but_its_own_runs(fleet: Path, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(fleet.as_uri())
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.strange = 1';
            document.body.append(script);
        }"""
    )
    assert page.evaluate("typeof window.strange") == "undefined"
    assert page.evaluate("fetch(location.href).then(() => 'loaded', () => 'refused')") == "refused"
    context.close()


# ---- bounds


def test_what_is_not_listed_is_said_and_counted(tmp_path: Path, open_page: Open) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET)
    write_page(dataset, tmp_path / "page.html", PageLimits(sources=6, stacks=5, failures=2))
    page = open_page(tmp_path / "page.html")
    notices = page.inner_text("#notices")
    assert re.search(r"\d+ rarer stacks with \d+ tasks are not listed", notices)
    assert re.search(r"\d+ hosts with \d+ sources are taken together", notices)
    assert "Failures: 2 of 5 are listed" in notices
    assert figure(page, "sources") == len(FLEET)
    assert figure(page, "hosts") == len({source["host"] for source in FLEET} - {None})
    assert figure(page, "unreliable") == verdicts(task for _, task in TASKS)["unreliable"]
    assert len(rows(page, "stacks")) == 5
    assert len(rows(page, "sources")) <= 6
    assert "(other hosts)" in {row["host"] for row in rows(page, "hosts")}
    assert f"{len(TASKS)} tasks" in frame(page, "all stacks").get_attribute("aria-label")
    page.select_option("#release", label="6.12.117")
    sources = [source for source in FLEET if source["release"] == "6.12.117"]
    assert figure(page, "sources") == len(sources)
    assert page.inner_text('[data-figure="hosts"]').startswith("≥ ")


def test_a_dataset_with_nothing_in_it_has_a_page(tmp_path: Path, open_page: Open) -> None:
    write_page(Dataset.create(tmp_path / "dataset"), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert figure(page, "sources") == figure(page, "tasks") == 0
    assert "No stack is shown" in page.inner_text("#flame-said")


def test_a_time_that_no_calendar_has_is_none(tmp_path: Path, open_page: Open) -> None:
    # A dump may say anything; the last that a Parquet timestamp holds is in 294247.
    times = (datetime(9999, 12, 31, tzinfo=timezone.utc), datetime(1, 1, 1, tzinfo=timezone.utc))
    sources = [
        of_audit(f"/dump/{time.year}", KernelAudit(fabricated.KERNEL, ()), time=time, host="h")
        for time in times
    ]
    write_page(write_dataset(tmp_path / "dataset", sources), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert {row["source"]: row["time"] for row in rows(page, "sources")} == {
        "/dump/9999": "–",
        "/dump/1": "0001-01-01 00:00",
    }


# ---- the file


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET[:1])
    with pytest.raises(OutputError, match=r"^\S+/no/page\.html: cannot be written: No such file"):
        write_page(dataset, tmp_path / "no" / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write_page(dataset, tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["dataset", "folder"]


def test_a_page_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET[:1])
    (tmp_path / "page.html").write_text("older")
    (tmp_path / "link.html").symlink_to("page.html")
    write_page(dataset, tmp_path / "link.html")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(os.listdir(tmp_path)) == ["dataset", "link.html", "page.html"]


def test_a_device_stays_one(tmp_path: Path) -> None:
    device = Path(os.devnull)
    write_page(write_dataset(tmp_path / "dataset", FLEET[:1]), device)
    assert device.is_char_device()


def test_a_page_goes_through_a_pipe(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset", FLEET[:1])
    code = (
        "import sys; from pathlib import Path; from drgn_tools.fleet.dataset.dataset import Dataset; "
        "from drgn_tools.fleet.report.page import write_page; "
        "write_page(Dataset.open(Path(sys.argv[1])), Path('/dev/stdout'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "dataset")],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.startswith(b"<!DOCTYPE html>") and run.stdout.endswith(b"</html>\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_page_goes_to_stdout(encoding: str, tmp_path: Path, open_page: Open) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET)
    code = (
        "import sys; from pathlib import Path; from drgn_tools.fleet.dataset.dataset import Dataset; "
        "from drgn_tools.fleet.report.page import print_page; print_page(Dataset.open(Path(sys.argv[1])))"
    )
    with open(tmp_path / "page.html", "wb") as out:
        subprocess.run(
            [sys.executable, "-c", code, str(dataset.path)],
            stdout=out,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
    page = open_page(tmp_path / "page.html")
    assert figure(page, "sources") == len(FLEET)
    write_page(dataset, tmp_path / "other.html")
    here, there = ((tmp_path / name).read_bytes() for name in ("page.html", "other.html"))
    written = rb'"written":\d+'
    assert re.sub(written, b"", here) == re.sub(written, b"", there)


def test_a_reader_of_the_page_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "dataset", FLEET[:1])
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        with pytest.raises(ReaderGoneError):
            print_page(dataset)
        discard(nobody)


# ---- how it looks


@pytest.mark.parametrize(("name", "options"), [
    ("light", {"color_scheme": "light"}),
    ("dark", {"color_scheme": "dark"}),
    ("narrow", {"viewport": {"width": 400, "height": 900}}),
])  # fmt: skip
def test_it_fits_the_window(
    name: str, options: dict[str, Any], fleet: Path, open_page: Open, tmp_path: Path
) -> None:
    page = open_page(fleet, **options)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#stacks .opener").first.click()
    folder = Path(os.environ.get("DRGN_TOOLS_PAGE_SHOTS") or tmp_path)
    page.screenshot(path=folder / f"fleet-{name}.png", full_page=True)
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (name == "dark")
