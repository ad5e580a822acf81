"""Debian's Chromium, driven by Playwright, for the tests of the page."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SHOTS = os.environ.get("GEM_RAG_SHOTS")
"""A folder for screenshots of what the tests see; none are taken without it."""
WIDE, MIDDLE, NARROW = (1280, 800), (900, 800), (390, 780)
REQUIRED = bool(os.environ.get("GEM_RAG_REQUIRE_BROWSER"))
"""Where it is set, a missing browser is a failure: a skipped test proves nothing."""


def why_not() -> str | None:
    """Why the page cannot be tested here; None if it can."""
    if CHROMIUM is None:
        return "no Chromium: apt-get install chromium"
    try:
        import playwright.sync_api  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        return f"{error.name} is missing: pip install 'gem-rag[server]' playwright"
    return None


needs_browser = pytest.mark.skipif(why_not() is not None and not REQUIRED, reason=str(why_not()))


@contextmanager
def chromium():
    """A browser; one for a module's tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def until(page, expression: str, seconds: float = 30) -> None:
    """Wait for an expression to be true; Playwright's own way needs `eval`, which is forbidden."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(30)


class Visitor:
    """Somebody who uses the page, and notes what the browser complains of."""

    def __init__(
        self,
        browser,
        url: str,
        size: tuple[int, int] = WIDE,
        look: str = "light",
        touch: bool = False,
    ):
        width, height = size
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=look, has_touch=touch
        )
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.url = url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._look_at)

    def _note(self, message) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _look_at(self, request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def open(self):
        """Go to the page; returns Playwright's page."""
        self.page.goto(self.url)
        self.page.wait_for_selector("#question")
        return self.page

    def ask(self, question: str) -> None:
        """Ask, and wait for the end of the answer."""
        before = self.page.locator(".turn").count()
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        self.page.locator(".turn").nth(before).wait_for()
        self.page.wait_for_selector(f".turn:nth-child({before + 1})[aria-busy=false]")

    def shot(self, name: str) -> None:
        """Keep what is seen as a picture, where pictures are wanted."""
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SHOTS}/{name}.png")

    def violations(self) -> list[str]:
        """What axe-core holds against the page, serious or worse."""
        # Evaluated by the debugger, whom the page's policy does not bind.
        self.page.evaluate(AXE.read_text() + "; undefined")
        found = self.page.evaluate("async () => (await axe.run()).violations")
        return [
            f"{each['id']}: {json.dumps([node['html'][:120] for node in each['nodes'][:3]])}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def drop(self, **files: str) -> None:
        """Drop files on the page; their names and words."""
        data = self.page.evaluate_handle(
            """files => {
              const data = new DataTransfer();
              for (const name in files) data.items.add(new File([files[name]], name));
              return data; }""",
            files,
        )
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event("#app", event, {"dataTransfer": data})

    def drop_from_disk(self, *paths: Path) -> None:
        """Drop files and folders on the page, as a file manager does."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        debugger = self.context.new_cdp_session(self.page)
        for event in ("dragEnter", "dragOver", "drop"):
            place = {"type": event, "x": 640, "y": 400, "data": data}
            debugger.send("Input.dispatchDragEvent", place)

    def close(self) -> None:
        """Leave; nothing may have been complained of, and nothing asked for elsewhere."""
        self.context.close()
        assert self.complaints == []
        assert self.foreign == []
