"""A real browser: Playwright from PyPI with Debian's Chromium, or the reason why there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.conftest import watched_runs  # noqa: F401  the runs that are shown

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The browser that $GLIMPSE_CHROMIUM names, or one on PATH."""
    named = os.environ.get("GLIMPSE_CHROMIUM")
    return named or next((found for name in _NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: `make test-browser` does it"
    )
    executable = find_chromium()
    if executable is None:
        pytest.skip("no chromium on PATH: `make test-browser` installs it, or says how")
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=executable,
                # Root has no sandbox in a container, and /dev/shm is small there.
                args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
            )
        except sync_api.Error as error:
            pytest.skip(f"{executable} does not start: {str(error).splitlines()[0]}")
        yield found
        found.close()


class Watch:
    """What a page complained of."""

    def __init__(self, page: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """A function that opens a file; at the end no page may have complained or asked for more."""
    contexts, watches = [], []

    def opened(path: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        watch = Watch(page)
        watches.append((path, watch))
        page.goto(path.as_uri(), timeout=120_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    for path, watch in watches:
        assert watch.complaints == []
        others = [url for url in watch.requests if not url.startswith(("data:", path.as_uri()))]
        assert others == []
