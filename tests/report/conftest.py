"""A real browser, where one is installed."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Page:
    """A loaded page of a report."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, address: str | Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get_log("browser")
        self.driver.get(address.as_uri() if isinstance(address, Path) else address)
        self.wait("return document.documentElement.dataset.ready === 'true'")
        return self

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str, limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not self.js(condition):
            assert time.monotonic() < end, f"not within {limit_s} s: {condition}; console: {self.driver.get_log('browser')}"
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """What the console has to say."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def press(self, keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def set(self, name: str, value: str) -> None:
        """Fills a filter as a person does."""
        script = "const f = document.querySelector(`#filters [name='${arguments[0]}']`); f.value = arguments[1];"
        self.js(script + "f.dispatchEvent(new Event('input')); f.dispatchEvent(new Event('change'))", name, value)

    def shown(self) -> int:
        return self.js("return rayrl.browser.view.length")


def missing() -> str:
    """What a test in a browser needs and does not find here; empty where nothing is missing."""
    if importlib.util.find_spec("selenium") is None:
        return "pip install selenium"
    return "" if _browser() and shutil.which("chromedriver") else "apt install chromium chromium-driver"


@contextmanager
def browser() -> Iterator:
    """A headless Chromium with a fresh profile, driven by selenium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = _browser()
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    if needs := missing():
        pytest.skip(f"the page is tested in a real browser: {needs}")
    with browser() as driver:
        yield Page(driver)


def _browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
