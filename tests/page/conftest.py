"""Debian's Chromium, driven over a page that fake sources feed."""

from __future__ import annotations

import contextlib
import re
import shutil

import pytest

CHROMIUM = shutil.which("chromium")


@pytest.fixture
async def browser():
    """Closed with all that it opened; without Chromium the test is skipped."""
    playwright = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    async with playwright.async_playwright() as driver:
        running = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        await running.close()


class Tab:
    """A page of the browser, and what it complained of."""

    def __init__(self, page):
        self.page, self.complaints = page, []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))

    async def open(self, url: str) -> None:
        await self.page.goto(url)

    async def until_text(self, selector: str, pattern: str) -> None:
        """Wait until a text is like this."""
        from playwright.async_api import expect

        await expect(self.page.locator(selector).first).to_have_text(re.compile(pattern), timeout=20_000)

    async def until_count(self, selector: str, count: int) -> None:
        """Wait until there are so many of something."""
        from playwright.async_api import expect

        await expect(self.page.locator(selector)).to_have_count(count, timeout=20_000)

    async def text(self, selector: str) -> str:
        return await self.page.inner_text(selector)


@pytest.fixture
async def open_tab(browser):
    """Opens a tab of its own, as a person with other settings would."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(width: int = 1280, scheme: str = "light", **more) -> Tab:
            size = {"width": width, "height": 900}
            context = await browser.new_context(viewport=size, color_scheme=scheme, ignore_https_errors=True, **more)
            stack.push_async_callback(context.close)
            context.set_default_timeout(20_000)
            return Tab(await context.new_page())

        yield opened
