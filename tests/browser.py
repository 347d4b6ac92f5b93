"""Pages in a real browser that reaches nothing but the page itself."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import sync_playwright

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"  # for whoever looks at them
_ACTION_MILLISECONDS = 300_000  # other tests run beside
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, closed in the end."""
    path = shutil.which("chromium")
    assert path, "This test needs Chromium; install it with: apt-get install -y chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    path: Path, scheme: Literal["light", "dark"] = "light", *, width: int = 1100
) -> Iterator[Any]:
    """The page of a file; it must neither complain nor ask for anything while it is open."""
    said, asked = [], []

    def answer(route: Any) -> None:
        if Path(route.request.url.removeprefix("file://")) == path:
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    with chromium() as browser:
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        page.set_default_timeout(_ACTION_MILLISECONDS)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.route("**/*", answer)
        page.goto(path.as_uri())
        yield page
    assert said == [], said
    assert asked == []


def keep_screenshot(page: Any, name: str) -> None:
    """Keep what is seen, the whole page, among the artefacts of a test run."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
