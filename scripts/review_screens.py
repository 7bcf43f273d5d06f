# SPDX-License-Identifier: Apache-2.0
"""Opens the review pages of releases in Chromium: prints how quick they are, makes screenshots.

python scripts/review_screens.py /tmp/screens                        # 0.11.0 and 0.33.0
python scripts/review_screens.py /tmp/screens --release 0.20.0 --repeat 5
python scripts/review_screens.py docs/images --documents             # the two of the documents

Times are of a page that is read from a file, with an empty cache; the machine is not quiet, so
each is the median of some runs. Exit code 1 where a page told its console of an error, asked the
network for something, or was not usable in time.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrator.api.plans import choose_rules
from migrator.files.sources import fetch
from migrator.files.tree import DiskTree
from migrator.planning.plan import make_plan
from migrator.review import render_page, review_plan
from tests import trees
from tests.review import chromium
from tests.review.chromium import SIZES, Page, Times

LIMIT = 2000
"""Milliseconds within which a page has to be usable."""
VIEWS = {
    "top": "#top",
    "map": "#map",
    "rules": "#rules",
    "changes": "#changes",
    "change": "[id^='NPU130-']",
}
"""Name → what is scrolled to."""
DOCUMENTS = (
    ("review-summary", "0.33.0", False, "#top"),
    ("review-change", None, True, "[id^='NPU102-']"),
)
"""The screenshots of the documents: name, release, dark, what is scrolled to.

None is the small tree of the fixtures: where source is to be read, it is our own.
"""


def write_page(version: str | None, folder: Path) -> Path:
    """The page of a release, or of the small tree of the fixtures, written to a file."""
    tree = DiskTree(trees.MINI if version is None else fetch(version))
    rules = choose_rules(trees.SELECT.split(",") if version is None else (), ())
    path = folder / f"{tree.name}.html"
    review = review_plan(make_plan(tree, rules, jobs=2), tree)
    path.write_text(render_page(review), encoding="utf-8")
    return path


def show(page: Page, view: str) -> None:
    """Scroll to a view, and let what comes into sight be laid out."""
    for _ in range(2):
        page.js(f"document.querySelector(`{view}`).scrollIntoView()")
        page.js("return new Promise(done => requestAnimationFrame(() => setTimeout(done, 150)))")


def save(page: Page, path: Path) -> None:
    """Write a screenshot; where there is Pillow, in as few bytes as it takes without a loss."""
    page.shot(path)
    try:
        from PIL import Image
    except ImportError:
        return
    Image.open(path).convert("RGB").save(path, optimize=True)


def measure(path: Path, size: str, repeat: int) -> tuple[Times, list[str]]:
    """Medians over some runs, each in a browser of its own, and what went wrong."""
    runs: list[Times] = []
    wrong: list[str] = []
    for _ in range(repeat):
        with chromium.chromium(size) as page:
            page.open(path)
            runs.append(page.times())
            wrong += page.errors() + page.requests()
    names = [field.name for field in dataclasses.fields(Times)]
    return Times(*(statistics.median(getattr(r, name) for r in runs) for name in names)), wrong


def screens(
    path: Path, size: str, dark: bool, folder: Path, views: dict[str, str], name: str
) -> None:
    """Screenshots of some views of a page."""
    with chromium.chromium(size, dark=dark) as page:
        page.open(path)
        for view, target in views.items():
            show(page, target)
            save(page, folder / f"{name.format(view=view)}.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the screenshots go")
    parser.add_argument("--release", action="append", help="a release; may be given again")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each measurement")
    parser.add_argument("--documents", action="store_true", help="only the documents' screenshots")
    arguments = parser.parse_args()
    missing = chromium.missing()
    if missing is not None:
        parser.error(missing)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.documents:
            for name, release, dark, target in DOCUMENTS:
                path = write_page(release, Path(scratch))
                screens(path, "desktop", dark, arguments.folder, {"": target}, name)
            return 0
        print(
            f"{'page':<18}{'size':<9}{'bytes':>10}{'parsed':>9}{'painted':>9}{'usable':>9}{'key':>7}{'work':>9}"
        )
        for version in arguments.release or ["0.11.0", "0.33.0"]:
            path = write_page(version, Path(scratch))
            for size in SIZES:
                times, wrong = measure(path, size, arguments.repeat)
                print(
                    f"{version:<18}{size:<9}{path.stat().st_size:>10}{times.parsed:>6.0f} ms"
                    f"{times.painted:>6.0f} ms{times.interactive:>6.0f} ms{times.answer:>4.0f} ms"
                    f"{times.work:>6.0f} ms"
                )
                for line in wrong:
                    print(f"    {line}")
                good = good and not wrong and times.interactive < LIMIT
                for dark in (False, True):
                    name = f"{version}-{size}-{'dark' if dark else 'light'}-{{view}}"
                    screens(path, size, dark, arguments.folder, VIEWS, name)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
