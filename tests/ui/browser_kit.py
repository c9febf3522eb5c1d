"""Debian's headless Chromium, driven over its own ChromeDriver; nothing is downloaded."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


def chromium_or_skip() -> tuple[str, str]:
    """Paths of Chromium and ChromeDriver; without them skip, unless VIRNUC_REQUIRE_ALL forbids skipping."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    if os.environ.get("VIRNUC_REQUIRE_ALL"):
        pytest.fail("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    pytest.skip("chromium and chromedriver are not installed")


@contextmanager
def chromium(*flags: str, width: int = 1280, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile, until the context ends."""
    browser, driver = chromium_or_skip()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        window = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield window
        finally:
            window.quit()


def wait_for(window: webdriver.Chrome, script: str, seconds: float = 20) -> object:
    """Wait until a JavaScript expression is true, and return its value."""
    return WebDriverWait(window, seconds, poll_frequency=0.02).until(
        lambda browser: browser.execute_script(f"return {script}")
    )
