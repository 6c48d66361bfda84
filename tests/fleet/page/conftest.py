# SPDX-License-Identifier: LGPL-2.1-or-later
"""A browser, and the page of a fleet in it.

``DRGN_TOOLS_CHROMIUM`` names the browser.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

Open = Callable[..., Any]


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install '.[page-test]'"
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


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from drgn_tools.fleet.report.page import write_page  # with the extra

    from ...support.fleet_dataset import FLEET, write_dataset

    folder = tmp_path_factory.mktemp("fleet")
    write_page(write_dataset(folder / "dataset", FLEET), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def page(fleet: Path, open_page: Open) -> Any:
    return open_page(fleet)
