"""Pages as a parser and as a real browser see them: harmless, laid out, quiet."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest


class Tags(HTMLParser):
    """Every tag with its attributes, and open tags at the end."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def assert_harmless(page: str) -> None:
    """No script, nothing loaded, no handler; every tag is closed."""
    tags = Tags(page)
    assert not tags.open
    names = {name for name, _ in tags.found}
    assert not names & {"script", "img", "iframe", "link", "object", "embed", "form", "a", "base"}
    for name, attributes in tags.found:
        assert not [key for key in attributes if key.startswith("on")], name
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#"), (name, attributes)
    policies = [
        attributes["content"]
        for _, attributes in tags.found
        if "Content-Security-Policy" in attributes.values()
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not re.search(r"url\((?!#)|@import", page)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
MORE_OPTIONS = ("--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars")
MEASURE = """<script>
const cards = [...document.querySelectorAll(".card")].map(one => one.getBoundingClientRect());
document.querySelectorAll("details").forEach(one => one.open = true);
const boxes = selector => [...document.querySelectorAll(selector)].map(one => one.getBoundingClientRect());
parent.document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth, room: innerWidth,
  plots: boxes("figure svg").map(box => [box.width, box.height]),
  texts: boxes("pre").filter(box => box.width > 0 && box.height > 0).length,
  blocks: boxes(".line i").filter(box => box.width > 0 && box.height > 0).length,
  labels: boxes("figure svg text").filter(box => box.width > 0).length,
  cards: cards.map(box => box.bottom),
  cut: [...document.querySelectorAll(".tile b")].filter(one => one.scrollWidth > one.clientWidth).length,
});
</script>"""


def dom(browser: str, path: Path, width: int = 1200) -> str:
    """The page as the browser has it after loading."""
    return _opened(browser, path, width).stdout


def complaints(browser: str, path: Path) -> list[str]:
    """What the browser writes to the page's console: refused resources, scripts, styles."""
    lines = _opened(browser, path, 1280, "--enable-logging=stderr").stderr.splitlines()
    return [line for line in lines if "CONSOLE" in line]


def _opened(browser: str, path: Path, width: int, *more: str) -> "subprocess.CompletedProcess[str]":
    options = [*OPTIONS, *MORE_OPTIONS, f"--window-size={width},900", f"--user-data-dir={path}.profile"]
    return subprocess.run(
        [browser, *options, *more, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def measure(browser: str, page: str, width: int, path: Path) -> dict[str, Any]:
    """Where everything lies in a window of this width and 900 pixels' height, with all details open.

    The page is measured from within, so without its policy, and in a frame: a browser's own window is no
    narrower than 500 pixels.
    """
    body = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</main>", f"</main>{MEASURE}")
    frame = (
        f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{html.escape(body)}"></iframe>'
    )
    path.write_text(f"<!doctype html><title>frame</title>{frame}", encoding="utf-8")
    found: dict[str, Any] = json.loads(title(dom(browser, path, max(width + 40, 500))))
    return found


def title(page: str) -> str:
    found = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def browser() -> str:
    found = next(filter(None, map(shutil.which, [os.environ.get("BROWSER_BINARY", ""), *BROWSERS])), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found
