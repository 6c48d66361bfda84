# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page counts what the records say, and explains its figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.analysis.labels import function_label
from drgn_tools.analysis.waiting import kernel_frames
from drgn_tools.fleet.dataset.stack_hash import stack_hash
from drgn_tools.fleet.report.page import write_page
from drgn_tools.fleet.report.page_data import PageLimits
from drgn_tools.records import KernelAudit, Verdict
from drgn_tools.terminal.escape import escape

from ...support import fabricated
from ...support.fleet_dataset import FLEET, day, of_audit, write_dataset
from ...support.fleet_page import TASKS, Open, column, figure, number, reason_of, rows, verdicts


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
    kernels: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    hosts: dict[str, Counter[str]] = defaultdict(Counter)
    for source in FLEET:
        counts = Counter(sources=1, failed=source.tasks is None) + verdicts(source.tasks or ())
        if source["release"]:
            key = (escape(source["release"]), source["arch"] or "–", source["unwinder"] or "–")
            kernels[key] += counts
        hosts[escape(source["host"] or "(not known)")] += counts
    seen = {(row["release"], row["arch"], row["unwinder"]): row for row in rows(page, "kernels")}
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


def test_one_release_on_two_architectures_is_two_kernels(tmp_path: Path, open_page: Open) -> None:
    sources = [
        of_audit(f"/{arch}", KernelAudit(replace(fabricated.KERNEL, arch=arch), ()), host=arch)
        for arch in ("i386", "x86_64")
    ]
    write_page(write_dataset(tmp_path / "dataset", sources), tmp_path / "page.html")
    found = rows(open_page(tmp_path / "page.html"), "kernels")
    assert sorted((row["arch"], row["sources"]) for row in found) == [
        ("i386", "1"),
        ("x86_64", "1"),
    ]


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


def test_what_hangs_and_what_holds_patches_back_are_those_of_the_report(page: Any) -> None:
    hung = rows(page, "hung")
    assert [(row["held up by"], row["what"], row["tasks"], row["longest"]) for row in hung] == [
        ("deadlock", "net_mutex", "2", "60 min"),
        ("deadlock", "rtnl_mutex", "1", "60 min"),
    ]
    assert {row["host or source"] for row in hung} == {"sick"}
    patches = rows(page, "livepatch")
    assert [(row["answer"], row["tasks"], row["comms"]) for row in patches] == [
        ("in_function", "6", "init"),
        ("running", "3", "uspin"),
        ("unreliable", "3", "reader"),
    ]
    assert {row["host or source"] for row in patches} == {"web-0, web-1, web-2"}


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
