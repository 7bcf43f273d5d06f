# SPDX-License-Identifier: Apache-2.0
"""The review page in Chromium: no error, it is usable at once, filters, keys and links work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrator.files.tree import DiskTree
from migrator.planning.plan import Plan
from migrator.review import render_page, review_plan
from tests.review import chromium
from tests.review.chromium import SIZES, Page

MISSING = chromium.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.releases,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
INTERACTIVE = 2000
"""Milliseconds of work within which the page of a release has to be usable, and to answer."""


@pytest.fixture(scope="module")
def page_of(
    release: Callable[[str], Path],
    release_plan: Callable[[str], Plan],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """The page of a real release, written to a file."""
    folder = tmp_path_factory.mktemp("pages")

    def write(version: str) -> Path:
        path = folder / f"{version}.html"
        if not path.exists():
            review = review_plan(release_plan(version), DiskTree(release(version)))
            path.write_text(render_page(review), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def opened(page_of: Callable[[str], Path]) -> Iterator[Page]:
    """0.33.0's page in a window on a desk."""
    with chromium.chromium("desktop") as page:
        page.open(page_of("0.33.0"))
        yield page


@pytest.fixture
def page(opened: Page) -> Page:
    """The same, with nothing filtered, marked or scrolled."""
    opened.js("localStorage.clear(); location.hash = ''; location.reload();")
    assert opened.js("return document.documentElement.dataset.ready") == "true"
    opened.js("scrollTo(0, 0)")
    return opened


def shown(page: Page, selector: str) -> list[str]:
    """Texts of the elements that can be seen, or that hold what can."""
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter(e => !e.closest('[hidden]')).map(e => e.textContent.trim())"
    )
    found: list[str] = page.js(script, selector)
    return found


def shown_paths(page: Page) -> list[str]:
    """Paths of the files that the filter leaves."""
    found: list[str] = page.js(
        "return [...document.querySelectorAll('article.file:not([hidden])')]"
        ".map(file => file.dataset.path)"
    )
    return found


def focus(page: Page) -> str:
    """The id of what has the focus."""
    found: str = page.js("return document.activeElement.id")
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("version", ["0.11.0", "0.33.0"])
def test_it_opens(version: str, size: str, page_of: Callable[[str], Path]) -> None:
    with chromium.chromium(size) as page:
        page.open(page_of(version))
        times = page.times()
        assert page.errors() == []
        assert page.requests() == []
        # Processor time: what others do on the machine at the same time is not in it.
        assert 0 < times.work < INTERACTIVE
        # Nothing sticks out at the right: no way to scroll sideways, wherever one is.
        widths = page.js(
            "document.querySelectorAll('details').forEach(d => d.open = true);"
            "return [document.documentElement.scrollWidth, innerWidth,"
            " ...[...document.querySelectorAll('.file, .note, .rule, .code > *')]"
            "   .map(e => Math.round(e.getBoundingClientRect().right))]"
        )
        assert max(widths) <= SIZES[size][0]


@pytest.mark.parametrize("size", SIZES)
def test_columns(size: str, page_of: Callable[[str], Path]) -> None:
    """Two columns on a desk, one on a phone: there what is removed comes before what is added."""
    with chromium.chromium(size) as page:
        page.open(page_of("0.11.0"))
        boxes = page.js(
            "const code = [...document.querySelectorAll('.code')].find(c => c.querySelector('del')"
            " && c.querySelector('ins'));"
            "code.scrollIntoView();"
            "return ['del', 'ins'].map(t => code.querySelector(t).getBoundingClientRect())"
            ".map(box => [box.left, box.top])"
        )
        (left, top), (right, below) = boxes
        if size == "desktop":
            assert left < right
            assert top == below
        else:
            assert left == right
            assert top < below


def test_filter_by_rule(page: Page) -> None:
    total = len(shown(page, ".note"))
    page.js(
        "const s = document.querySelector('#rule'); s.value = 'NPU130';"
        "s.dispatchEvent(new Event('change'))"
    )
    tags = shown(page, ".note .tag")
    assert tags.count("NPU130") == 4
    assert len(tags) < total
    assert all("NPU130" in codes for codes in shown(page, "article.file .rules"))
    assert shown(page, ".rule[data-safety] > summary .tag") == ["NPU130"]
    assert shown(page, "#shown") == [f"{len(tags)} of {total}"]
    page.escape()
    assert len(shown(page, ".note")) == total


def test_filter_by_safety(page: Page) -> None:
    page.js("document.querySelector('.legend [data-kind=behaviour]').click()")
    kinds = set(
        page.js(
            "return [...document.querySelectorAll('.hunk:not([hidden])')].map(h => h.dataset.kinds)"
        )
    )
    assert kinds
    assert all("behaviour" in kind.split() for kind in kinds)
    assert page.js("return document.querySelector('#changes').getBoundingClientRect().top") < 200


def test_filter_by_text(page: Page) -> None:
    page.keys("/")
    assert focus(page) == "query"
    page.keys("worker/gpu_worker.py")
    paths = shown_paths(page)
    assert paths == ["vllm/v1/worker/gpu_worker.py"]
    assert len(shown(page, ".side [data-file]")) == 1
    page.keys(" nothing-has-this")
    assert shown(page, "article.file") == []
    assert shown(page, "#nothing") == ["No change matches the filter."]
    page.escape()
    assert focus(page) != "query"
    assert len(shown(page, "article.file")) > 20


def test_map_leads_to_its_files(page: Page) -> None:
    page.js("document.querySelector('.treemap a[data-path=\"vllm/v1/worker\"]').click()")
    paths = shown_paths(page)
    assert paths
    assert all(path.startswith("vllm/v1/worker/") for path in paths)


def test_keys_step_through_changes(page: Page) -> None:
    notes = page.js("return [...document.querySelectorAll('.note')].map(n => n.id)")
    page.js("document.querySelector('#changes').scrollIntoView()")
    page.keys("j")
    assert focus(page) == notes[0]
    page.keys("jjj")
    assert focus(page) == notes[3]
    page.keys("k")
    assert focus(page) == notes[2]
    top, height = page.js(
        "const b = document.activeElement.getBoundingClientRect(); return [b.top, innerHeight]"
    )
    assert 0 < top < height / 2, "it is in sight, below the bar"
    for _ in range(len(notes)):
        page.keys("j")
    assert focus(page) == notes[-1], "the last one is the last"
    # Scrolled away, the next one is the next in sight.
    page.js("document.getElementById(arguments[0]).scrollIntoView()", notes[10])
    page.keys("j")
    assert focus(page) in notes[9:13]


def test_keys_step_through_files(page: Page) -> None:
    page.js("document.querySelector('#changes').scrollIntoView()")
    page.keys("nn")
    assert focus(page) == "file-2"
    page.keys("v")
    assert page.js("return document.querySelector('#file-2').classList.contains('seen')")
    assert shown(page, "#progress")[0].startswith("1 of ")
    page.js("location.reload()")
    assert page.js("return document.querySelector('#file-2').classList.contains('seen')"), "kept"
    page.keys("v")
    page.keys("p")


def test_rule_and_back(page: Page) -> None:
    page.js("document.querySelector('#changes').scrollIntoView()")
    page.keys("jj")
    note = focus(page)
    code = page.js("return document.activeElement.querySelector('.tag').textContent")
    page.keys("r")
    assert page.js("return document.activeElement.parentElement.id") == code
    assert page.js("return document.activeElement.parentElement.open")
    page.keys("r")
    assert focus(page) == note


def test_a_link_shows_what_was_put_away(page: Page) -> None:
    page.js(
        "const s = document.querySelector('#rule'); s.value = 'NPU130';"
        "s.dispatchEvent(new Event('change')); location.hash = '#NPU102-1'"
    )
    page.js("return new Promise(done => setTimeout(done, 100))")
    assert focus(page) == "NPU102-1"
    assert len(shown(page, ".note")) > 100


def test_theme_view_and_help(page: Page) -> None:
    light = page.js("return getComputedStyle(document.body).backgroundColor")
    page.keys("t")
    assert page.js("return getComputedStyle(document.body).backgroundColor") != light
    page.keys("t")
    assert page.js("return getComputedStyle(document.body).backgroundColor") == light
    columns = (
        "return getComputedStyle(document.querySelector('.code:not(.one)'))"
        ".gridTemplateColumns.split(' ').length"
    )
    assert page.js(columns) == 2
    page.keys("u")
    assert page.js(columns) == 1
    page.keys("u?")
    assert page.js("return document.querySelector('#keys').open")
    page.escape()
    assert not page.js("return document.querySelector('#keys').open")


def test_tabulator_shows_where_it_is(page: Page) -> None:
    page.js("document.activeElement.blur()")
    page.tab()
    assert page.js("return document.activeElement.className") == "skip"
    assert page.js("return document.activeElement.getBoundingClientRect().top") >= 0
    for _ in range(4):
        page.tab()
        style = page.js(
            "const style = getComputedStyle(document.activeElement);"
            "return [style.outlineStyle, style.outlineWidth]"
        )
        assert style != ["none", "0px"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(dark: bool, page_of: Callable[[str], Path]) -> None:
    """Text stands out from what is behind it by 4.5 to 1 (WCAG AA)."""
    with chromium.chromium("desktop", dark=dark) as page:
        page.open(page_of("0.33.0"))
        weak = page.js(CONTRAST)
        assert weak == []


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => {
    const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [x, y, z] = [r, g, b].map(v => linear(v / 255));
    return .2126 * x + .7152 * y + .0722 * z;
};
const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
        const colour = rgba(getComputedStyle(e).backgroundColor);
        if (colour[3] === 255) return colour;
    }
    return rgba(getComputedStyle(document.body).backgroundColor);
};
const weak = new Set();
const seen = new Set();
for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (e.matches("script, style, option, :disabled") || e.closest(":disabled")) continue;
    const key = e.tagName + e.className + "|" + e.parentElement.tagName + e.parentElement.className;
    if (seen.has(key)) continue;
    seen.add(key);
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) weak.add(`${key} ${e.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
}
return [...weak];
"""
