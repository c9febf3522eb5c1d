"""Debian's headless Chromium, driven by Playwright; nothing is downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kits.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
READY = "document.documentElement.dataset.ready === 'yes'"


def needs_chromium() -> None:
    """Skip without a browser."""
    if not shutil.which("chromium"):
        pytest.skip("needs the Debian package chromium")


@contextmanager
def chromium(width: int = 1280, height: int = 1000, base_url: str | None = None) -> Iterator["Page"]:
    """A page of a browser with an empty profile, until the context ends; paths are relative to `base_url`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        try:
            page = browser.new_page(base_url=base_url, viewport={"width": width, "height": height})
            page.set_default_timeout(HANG_SECONDS * 1000)
            yield page
        finally:
            browser.close()


def open_report(page: "Page", path: Path) -> None:
    """Open a report page and wait until it is put together."""
    page.goto(path.as_uri())
    page.wait_for_function(READY, polling=10)
