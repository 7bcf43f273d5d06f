# SPDX-License-Identifier: Apache-2.0
"""The review page in Chromium: no error, it is usable at once, filters, keys and links work."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrator.api.plans import choose_rules
from migrator.files.tree import DiskTree
from migrator.planning.plan import Plan, make_plan
from migrator.review import render_page, review_plan
from tests import trees
from tests.review import chromium
from tests.review.chromium import SIZES, Page
from tests.trees import SELECT, copy_mini

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
    opened.js("localStorage.clear(); location.replace(location.pathname);")
    opened.js("return new Promise(done => setTimeout(done, 300))")
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
    second = page.js("return document.querySelectorAll('article.file')[1].id")
    assert focus(page) == second
    page.keys("v")
    seen = "return document.getElementById(arguments[0]).classList.contains('seen')"
    assert page.js(seen, second)
    assert shown(page, "#marks")[0].startswith("1 of ")
    page.js("location.reload()")
    assert page.js(seen, second), "kept"
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
    (anchor,) = page.js(
        "return [...document.querySelectorAll('.note')].filter("
        "note => note.id.startsWith('NPU102-')).map(note => note.id)"
    )
    page.js(
        "const s = document.querySelector('#rule'); s.value = 'NPU130';"
        "s.dispatchEvent(new Event('change')); location.hash = arguments[0]",
        anchor,
    )
    page.js("return new Promise(done => setTimeout(done, 100))")
    assert focus(page) == anchor
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


# ---- what the reader marks -----------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Writes the page of the small tree, without some rules, to the same file."""
    tree = copy_mini(tmp_path / "mini")

    def write(*without: str, **edits: bytes) -> Path:
        for name, text in edits.items():
            (tree / f"vllm/{name}.py").write_bytes(text)
        rules = [r for r in choose_rules(SELECT.split(","), ()) if r.code not in without]
        path = tmp_path / "review.html"
        review = review_plan(make_plan(DiskTree(tree), rules), DiskTree(tree))
        path.write_text(render_page(review), encoding="utf-8")
        return path

    return write


def ids(page: Page) -> list[str]:
    found: list[str] = page.js("return [...document.querySelectorAll('.note')].map(n => n.id)")
    return found


def verdicts(page: Page) -> dict[str, str]:
    """Id of each marked change → its verdict and its note."""
    found: dict[str, str] = page.js(
        "return Object.fromEntries([...document.querySelectorAll('.note')].map(n => [n.id,"
        " `${n.dataset.verdict} ${n.querySelector('textarea').value}`.trim()]).filter(p => p[1]))"
    )
    return found


def mark(page: Page) -> dict[str, str]:
    """Mark the first change of some rules from the keyboard; what it comes to."""
    wanted = {}
    for code, keys, verdict in (
        ("NPU102", "a", "approve"),
        ("NPU130", "q", "question"),
        ("NPU110", "a", "approve"),
    ):
        anchor = next(name for name in ids(page) if name.startswith(code))
        page.js("document.getElementById(arguments[0]).focus()", anchor)
        page.keys(keys)
        wanted[anchor] = verdict
        if code == "NPU130":
            page.keys("c")
            page.keys("Why -- is <this> right?")
            page.escape()
            assert focus(page) == anchor
            wanted[anchor] += " Why -- is <this> right?"
    assert verdicts(page) == wanted
    return wanted


def test_marks_survive_another_run(small: Callable[..., Path]) -> None:
    """A rule left out, a line added above, and a change that is another than was approved."""
    with chromium.chromium("desktop") as page:
        page.open(small())
        wanted = mark(page)
        assert shown(page, "#marks") == [f"2 of {len(ids(page))} approved, 1 question"]
        page.open(small("NPU110"))
        assert verdicts(page) == {k: v for k, v in wanted.items() if not k.startswith("NPU110")}
        page.open(small())
        assert verdicts(page) == wanted, "what came back is still approved"
        ops = (trees.MINI / "vllm/_custom_ops.py").read_bytes()
        page.open(small(_custom_ops=b"# moved\n" + ops))
        assert verdicts(page) == wanted, "it only moved"
        page.open(
            small(_custom_ops=ops.replace(b"def rms_norm(", b"def rms_norm(  # new\n    ", 1))
        )
        assert verdicts(page) == {k: v for k, v in wanted.items() if not k.startswith("NPU102")}
        assert page.errors() == []


def test_marks_are_saved_and_taken_in(small: Callable[..., Path], tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    with chromium.chromium("desktop") as page:
        page.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )
        page.open(small())
        wanted = mark(page)

        def save(button: str, name: str) -> str:
            page.js(f"document.querySelector('#{button}').click()")
            deadline = time.monotonic() + 20
            while not (downloads / name).exists():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            return (downloads / name).read_text(encoding="utf-8")

        text = save("save-markdown", "review.md")
        github = json.loads(save("save-github", "review.json"))
        assert text.startswith("# Review: vLLM 0.11.0 on Ascend NPUs\n")
        assert "## Questions\n\n- [ ] `vllm/distributed/parallel_state.py:" in text
        assert "  > Why -- is <this> right?" in text
        assert text.count("- [x] ") == 2
        assert set(github) == {"event", "body", "comments"}
        assert github["event"] == "COMMENT"
        (comment,) = github["comments"]
        assert set(comment) >= {"path", "side", "line", "body"}
        assert comment["path"] == "vllm/distributed/parallel_state.py"
        assert comment["body"].startswith("**Question** on NPU130")
        assert comment["body"].endswith("Why -- is <this> right?")
        assert "Why -- is" not in github["body"], "nothing ends the comment early"
        for name in ("review.md", "review.json"):
            page.js("localStorage.clear(); location.reload()")
            page.open(small())
            assert verdicts(page) == {}
            page.js("document.querySelector('#marks').click()")
            page.driver.find_element("id", "take").send_keys(str(downloads / name))
            page.js("return new Promise(done => setTimeout(done, 300))")
            assert verdicts(page) == wanted, name
            assert shown(page, "#told") == [
                "3 marks taken in; 0 of changes that are not on this page."
            ]
        page.driver.find_element("id", "take").send_keys(str(trees.MINI / "vllm/_custom_ops.py"))
        page.js("return new Promise(done => setTimeout(done, 300))")
        assert shown(page, "#told") == ["That file holds no marks that this page saved."]
        assert page.errors() == []


def test_what_is_shown_is_in_the_address(small: Callable[..., Path]) -> None:
    with chromium.chromium("desktop") as page:
        path = small()
        page.open(path)
        mark(page)
        page.keys("/")
        page.keys("is_cuda")
        hits = shown(page, ".note .tag")
        assert hits
        assert len(hits) < len(ids(page)), "it looks into the code"
        page.js(
            "for (const [id, value] of [['marked', 'approve'], ['order', 'path']]) {"
            "const field = document.getElementById(id); field.value = value;"
            "field.dispatchEvent(new Event('change')); }"
        )
        address = page.js("return location.href")
        assert address.endswith("review.html?q=is_cuda&marks=approve&order=path")
        left = shown(page, ".note .tag")
        assert "NPU110" in left
        assert len(left) < len(hits)
        numbers = (
            "return [...document.querySelectorAll('article.file')].map(a => +a.dataset.number)"
        )
        order = page.js(numbers)
        assert order == sorted(order)
        page.js("location.reload()")
        page.js("return new Promise(done => setTimeout(done, 500))")
        assert shown(page, ".note .tag") == left
        assert page.js(numbers) == order
        page.escape()
        page.keys("w")
        assert page.js("return location.search") == "?order=path&space=1"


def test_a_hunk_is_copied_as_a_patch(small: Callable[..., Path], tmp_path: Path) -> None:
    """Every hunk applies by itself, and all of them together are what the tool writes."""
    with chromium.chromium("desktop") as page:
        page.open(small())
        patches = page.js(
            "const found = [];"
            "Object.defineProperty(navigator, 'clipboard', {value: {"
            "  writeText: async text => { found.push(text); }}});"
            "for (const button of document.querySelectorAll('.copy')) button.click();"
            "return found"
        )
        assert len(patches) == page.js("return document.querySelectorAll('.hunk').length")
    tree = tmp_path / "mini"
    for patch in patches:
        checked = subprocess.run(
            ["git", "apply", "--check", "-"], cwd=tree, input=patch.encode(), capture_output=True
        )
        assert checked.returncode == 0, checked.stderr.decode() + patch
    plan = make_plan(DiskTree(tree), choose_rules(SELECT.split(","), ()))
    for patch in patches:
        subprocess.run(["git", "apply", "-"], cwd=tree, input=patch.encode(), check=True)
    for change in plan.files:
        assert (tree / change.path).read_bytes() == change.after


AXE = os.environ.get("AXE_CORE", "")
"""A copy of axe.min.js, as `npm pack axe-core` has it."""


@pytest.mark.skipif(not AXE, reason="AXE_CORE names no axe.min.js")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing(size: str, dark: bool, small: Callable[..., Path]) -> None:
    with chromium.chromium(size, dark=dark) as page:
        page.open(small())
        page.js(Path(AXE).read_text(encoding="utf-8"))
        page.driver.set_script_timeout(300)
        for ready in ("", "document.querySelector('#marks').click();"):
            found = page.driver.execute_async_script(
                f"{ready} axe.run().then(result => arguments[0](result.violations.map("
                "v => [v.id, v.nodes.map(n => n.html)])))"
            )
            assert found == []


def test_it_prints_in_tens_of_pages(page_of: Callable[[str], Path]) -> None:
    with chromium.chromium("desktop") as page:
        page.open(page_of("0.33.0"))

        def printed() -> int:
            data = page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
            return len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(data["data"])))

        assert 10 < printed() < 60
        page.js(
            "const s = document.querySelector('#rule'); s.value = 'NPU130';"
            "s.dispatchEvent(new Event('change'))"
        )
        assert printed() < 20


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
