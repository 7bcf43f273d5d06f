# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium on a page: loads it, measures it, presses keys, makes screenshots."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
"""Name → width and height of the window in CSS pixels."""

# Network and background work are off: the page must not need them, and the tests must not wait.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def missing() -> str | None:
    """Why there is no browser to test with; None where there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    if not CHROMIUM or not DRIVER:
        return "chromium and chromedriver are not installed"
    return None


@dataclass
class Times:
    """Milliseconds; all but the last from the start of the navigation."""

    parsed: float
    """The document is parsed and its script has run."""
    painted: float
    """First contentful paint."""
    interactive: float
    """It is loaded and painted, and its script listens: keys, filter and links work."""
    answer: float
    """From the first key press until the page was drawn again."""
    work: float
    """Processor time of the page's main thread for all of this, however busy the machine is."""


class Page:
    """A page that is open in a window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        """Load a file and wait until its script has run."""
        address = path.resolve().as_uri()
        self.driver.get(address)
        # At its start the browser may still be about to load the page of its new tab.
        deadline = time.monotonic() + 30
        while self.js("return [location.href, document.documentElement.dataset.ready]") != [
            address,
            "true",
        ]:
            assert time.monotonic() < deadline, f"{path} did not get ready: {self.errors()}"
            time.sleep(0.1)

    def js(self, script: str, *arguments: object) -> Any:
        """Run a script in the page; what it returns."""
        return self.driver.execute_script(script, *arguments)

    def keys(self, text: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(text).perform()

    def errors(self) -> list[str]:
        """What the console was told since the last call, warnings too."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, other than files and data."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "about:", "chrome")):
                    found.append(url)
        return found

    def times(self) -> Times:
        """How long the page took until it could be used; to be asked once, right after `open`."""
        parsed, loaded, ready, painted, pressed, drawn = self.driver.execute_async_script(
            """
            const done = arguments[0];
            const [navigation] = performance.getEntriesByType("navigation");
            const [ready] = performance.getEntriesByName("review:ready");
            const pressed = performance.now();
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "j", bubbles: true}));
            requestAnimationFrame(() => setTimeout(async () => {
                const drawn = performance.now();
                let paint;
                // The browser tells of a paint a little later than it is there.
                while (!paint && performance.now() < drawn + 2000) {
                    [paint] = performance.getEntriesByName("first-contentful-paint");
                    await new Promise((next) => setTimeout(next, 10));
                }
                done([navigation.domContentLoadedEventEnd, navigation.loadEventEnd,
                      ready.startTime, paint.startTime, pressed, drawn]);
            }));
            """
        )
        metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        (work,) = (m["value"] * 1000 for m in metrics if m["name"] == "TaskDuration")
        return Times(parsed, painted, max(loaded, ready, painted), drawn - pressed, work)

    def shot(self, path: Path) -> None:
        """Write what is in the window as a PNG."""
        self.driver.save_screenshot(str(path))

    def tab(self) -> None:
        """Press the tabulator key."""
        from selenium.webdriver.common.keys import Keys

        self.keys(Keys.TAB)

    def escape(self) -> None:
        """Press Escape."""
        from selenium.webdriver.common.keys import Keys

        self.keys(Keys.ESCAPE)


@contextlib.contextmanager
def chromium(
    size: str = "desktop", *, dark: bool = False, flags: Sequence[str] = ()
) -> Iterator[Page]:
    """A new browser with a profile of its own, ended when the block is left."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    width, height = SIZES[size]
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        options = Options()
        options.binary_location = CHROMIUM or ""
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            # A window of a browser can be no narrower than 500 pixels; an emulated one can.
            metrics = {
                "width": width,
                "height": height,
                "deviceScaleFactor": 2 if size == "phone" else 1,
                "mobile": size == "phone",
            }
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            yield Page(driver)
        finally:
            driver.quit()
