"""The report in a real browser: read offline, by keyboard, on a phone, light and dark, and found sound by axe-core.

The browser is Debian's chromium, driven headless; nothing is downloaded and nothing listens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from test_report import nothing_fits, with_changes

from edgebert.choosing.candidate import Report
from edgebert.choosing.report import write_report

# One worker, one browser.

PHONE, TABLET, DESKTOP = (360, 740), (768, 1024), (1280, 800)
REPORTS: dict[str, Callable[[], Report]] = {
    "many classes": lambda: with_changes(24, 960),
    "pairs": lambda: pairs(with_changes(3, 300)),
    "nothing fits": nothing_fits,
}
# Only what is wrong is reported on; there is nothing to preload where nothing may be fetched.
_AXE = {"resultTypes": ["violations"], "preload": False}
OPEN_ALL = "document.querySelectorAll('details').forEach(details => { details.open = true })"
# What the keyboard is on: the link's own text, else what a screen reader is told.
FOCUSED = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"


def pairs(report: Report) -> Report:
    """Examples of two texts, one of them without a place to break the line."""
    assert report.changes
    examples = tuple(dataclasses.replace(e, text_b="x" * 300) for e in report.changes.examples)
    return dataclasses.replace(report, changes=dataclasses.replace(report.changes, examples=examples))


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports by name, written once."""
    return {name: write_report(tmp_path_factory.mktemp("page"), made()) for name, made in REPORTS.items()}


@pytest.fixture
def opened(browser: Browser, files: dict[str, Path]) -> Iterator[Callable[..., Page]]:
    """Opens a report offline; at the end nothing may have been fetched, and nothing complained of."""
    contexts, asked, complaints = [], [], []

    def open_report(name: str, size: tuple[int, int], scheme: Any = "light") -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(files[name].as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert {url for url in asked if not url.startswith("data:,")} <= {path.as_uri() for path in files.values()}
    assert complaints == []


def serious(page: Page) -> list[str]:
    """What axe-core finds serious or worse, with every fold opened."""
    page.evaluate(OPEN_ALL)
    found = Axe().run(page, options=_AXE).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def test_the_pick_can_be_read(opened: Callable[..., Page]) -> None:
    pick = opened("pairs", DESKTOP).locator("#pick")
    assert pick.is_visible()
    assert pick.inner_text().replace("\xa0", " ").startswith("4 layers, int8 on cpu:")
    assert "Nothing fits." in opened("nothing fits", PHONE).locator("#pick").inner_text()


def test_who_decides_sees_verdict_cost_and_picture_without_scrolling(opened: Callable[..., Page]) -> None:
    page = opened("many classes", DESKTOP)
    for part in ("#pick", ".lead .costs", ".lead figure"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert 0 <= box["y"] < box["y"] + box["height"] <= DESKTOP[1], part


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, TABLET, DESKTOP], ids=str)
def test_axe_finds_nothing_serious(opened: Callable[..., Page], size: tuple[int, int], scheme: str) -> None:
    assert serious(opened("many classes", size, scheme)) == []


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "many classes"])
def test_axe_finds_nothing_serious_in_other_reports(opened: Callable[..., Page], name: str) -> None:
    assert serious(opened(name, PHONE, "dark")) == []


def test_axe_would_find_what_is_wrong(opened: Callable[..., Page]) -> None:
    page = opened("pairs", DESKTOP)
    page.evaluate("document.documentElement.removeAttribute('lang')")
    page.evaluate("document.querySelector('#pick').style.color = '#eee'")
    assert {found.partition(":")[0] for found in serious(page)} == {"color-contrast", "html-has-lang"}


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_never_scrolls_sideways(opened: Callable[..., Page], name: str) -> None:
    page = opened(name, (320, 640))
    page.evaluate(OPEN_ALL)
    for width in (320, 360, 600, 768, 1024, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 640})
        becomes(page, f"document.documentElement.scrollWidth === {width}")


def test_tab_reaches_the_skip_link_the_regions_and_the_folds(opened: Callable[..., Page]) -> None:
    page = opened("many classes", PHONE)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        reached.append(page.evaluate(FOCUSED))
    assert reached[0] == "Skip to the table of candidates"
    places = [next(i for i, text in enumerate(reached) if words in text) for words in (
        "1 warning", "Candidates", "Changes by class", "The other 14 classes", "Trained on train", "steps ok",
    )]  # fmt: skip
    assert places == sorted(places)


def test_the_skip_link_shows_itself_and_leads_to_the_table(opened: Callable[..., Page]) -> None:
    page = opened("pairs", PHONE)
    page.keyboard.press("Tab")
    link = page.locator(".skip").bounding_box()
    assert link is not None
    assert link["x"] >= 0
    assert link["x"] + link["width"] <= PHONE[0]
    page.keyboard.press("Enter")
    becomes(page, "document.activeElement.id === 'candidates'")
    # A fraction of a pixel is rounding.
    becomes(page, f"(y => -1 <= y && y < {PHONE[1]})(document.querySelector('#candidates').getBoundingClientRect().y)")


def test_the_folds_open_by_keyboard_and_regions_scroll(opened: Callable[..., Page]) -> None:
    page = opened("many classes", PHONE)
    fold = page.locator("details", has_text="other 14 classes")
    rows = fold.locator("tbody tr")
    assert not rows.first.is_visible()
    fold.locator("summary").press("Enter")
    assert rows.count() == 14
    assert rows.first.is_visible()
    region = page.get_by_role("region", name="Trained on train")
    region.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    becomes(page, "document.activeElement.scrollLeft > 0")


def becomes(page: Page, what: str) -> None:
    """Wait until it is true of the page; wait_for_function is forbidden by the page's own policy where it waits."""
    for _ in range(1500):
        if page.evaluate(what):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never {what}")
