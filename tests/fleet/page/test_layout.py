# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page fits windows of any size. ``DRGN_TOOLS_PAGE_SHOTS`` names a folder for pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")


from ...support.fleet_page import Open


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
