"""A real Chromium, and a real testbed with its console, for as long as the browser tests run."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from services.domain import Deadline
from testbed import local
from testbed.local import LinkAsked, TestbedSettings

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "out" / "browser"
START_SECONDS = 120
WAIT_SECONDS = 30
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Skips where there is no browser, unless one is required. No other event loop runs in this thread meanwhile."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        assert not os.environ.get("TEST_REQUIRE_BROWSER"), f"none of {', '.join(_NAMES)} is installed"
        pytest.skip(f"none of {', '.join(_NAMES)} is installed; on Debian or Ubuntu: apt install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop of its own: Playwright holds the one of this thread."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="testbed", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_SECONDS)
        loop.close()


@contextmanager
def console_of_testbed(logs: Path, splits: str | None = None) -> Iterator[str]:
    """The address of the console of a testbed with the digits, its links and slowdowns those of `make run`."""
    settings = TestbedSettings(
        ROOT / "models" / "digits",
        LinkAsked("20mbit", "10ms"),
        LinkAsked("50mbit", "40ms"),
        splits=splits,
        logs=logs,
        device_slowdown=1000,
        edge_slowdown=2,
        console="127.0.0.1:0",
    )
    with in_thread() as loop:
        stack = AsyncExitStack()
        entering = asyncio.run_coroutine_threadsafe(stack.enter_async_context(local.running(settings)), loop)
        testbed = entering.result(START_SECONDS)
        try:
            yield testbed.device.announced["console"]
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(START_SECONDS)


@pytest.fixture(scope="module")
def console(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A testbed whose plan is chosen."""
    with console_of_testbed(tmp_path_factory.mktemp("browser") / "logs") as address:
        yield address


@dataclass(slots=True)
class Seen:
    """An open console, and what the browser complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def until(self, condition: str) -> None:
        """Waits for an expression to become true: Playwright's own way needs what the page's policy forbids."""
        deadline = Deadline.after(WAIT_SECONDS)
        while not self.page.evaluate(condition):
            assert deadline.remaining() > 0, f"never became true: {condition}"
            self.page.wait_for_timeout(100)

    def load(self, per_second: int = 20) -> None:
        """Has samples sent, unless some are already."""
        if self.text("#load-button") != "Stop":
            self.page.fill("#load-rate", str(per_second))
            self.page.click("#load-button")
        self.until("document.querySelectorAll('.request').length > 3")

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=str(PICTURES / f"{name}.png"), full_page=True)


@contextmanager
def opened(browser: Any, console: str, width: int = 1440, scheme: str = "light", **more: Any) -> Iterator[Seen]:
    """The console in a new window; fails where the browser complained."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    context.set_default_timeout(1000 * WAIT_SECONDS)
    seen = Seen(context.new_page())
    seen.page.on("console", lambda message: seen.note(message))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    try:
        seen.page.goto(console)
        seen.page.wait_for_selector("#status[data-state=live]")
        yield seen
        assert seen.complaints == []
    finally:
        context.close()
