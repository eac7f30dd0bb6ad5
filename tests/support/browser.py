"""A real browser, headless; skips where there is none."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
_LOAD_S = 60


@contextmanager
def opened(path: Path, *, phone: bool = False) -> Iterator[Any]:
    """Give selenium's driver of chromium with the page open and its charts drawn or failed."""
    browser, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver_path is None:
        pytest.skip("no chromium and chromedriver (Debian: chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    waiting = pytest.importorskip("selenium.webdriver.support.wait")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        if phone:
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _PHONE)
        driver.get(path.resolve().as_uri())
        wait = waiting.WebDriverWait(driver, _LOAD_S)
        wait.until(lambda page: page.execute_script(_ALL_DRAWN))
        yield driver
    finally:
        driver.quit()


_ALL_DRAWN = """
return [...document.querySelectorAll(".chart")].every((place) => place.dataset.drawn);
"""


def undrawn(driver: Any) -> list[str]:
    """Return the names of the charts in which nothing can be seen."""
    found: list[str] = driver.execute_script(
        'return [...document.querySelectorAll(".chart")].filter((place) => '
        'place.dataset.drawn !== "yes" || !place.querySelector("svg .mark-line path, '
        'svg .mark-rect path")).map((place) => place.getAttribute("aria-label"))'
    )
    return found
