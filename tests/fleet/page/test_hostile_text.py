# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hostile text of a dump is shown on the page and does nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.report.page import write_page
from drgn_tools.records import Frame, KernelAudit

from ...support import fabricated
from ...support.fleet_dataset import FLEET, Source, day, of_audit, write_dataset
from ...support.fleet_page import IMAGE, Open, figure, rows


def hostile_fleet() -> Iterable[Source]:
    yield from FLEET
    frames = (Frame(0xFFFF_FFFF_8130_0001, fabricated.symbol(f"{IMAGE}+0x1", IMAGE), regs=0x1000),)
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
