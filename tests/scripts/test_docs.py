# SPDX-License-Identifier: Apache-2.0
"""The docs site: it builds without a network, its links resolve, and nothing is left out of it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from migrator.cli.settings import TAKES
from migrator.codemod.rule import Rule, Status, examples_of
from migrator.rules import all_rules
from migrator.verify.report import CODES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(ROOT / "scripts"))

import docs_pages as pages  # noqa: E402 - found by the line above
import try_rule  # noqa: E402


class Page(HTMLParser):
    """What a page loads, what it links to, and the names that can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names.update(filter(None, (found.get("id"), found.get("name"))))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        elif tag == "link" and found.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(found.get("href") or "")
        elif tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loads.append(found["src"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as its one command builds it."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_of_the_site_resolves(site: Path, built: dict[Path, Page]) -> None:
    # mkdocs checks the links of Markdown; this sees those of raw HTML and of the theme, too.
    broken = []
    for path, page in built.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            # The page for what is not found is served at any depth: its links are absolute.
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.exists() or (
                anchor and not anchor.startswith("__") and anchor not in built[target].names
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_site_asks_no_other_host(site: Path, built: dict[Path, Page]) -> None:
    foreign = [
        f"{path.name}: {url}"
        for path, page in built.items()
        for url in page.loads
        if urlsplit(url).netloc
    ]
    foreign += [
        f"{path.name}: {url}"
        for path in site.rglob("*.css")
        for url in re.findall(
            r"(?:url\(|@import )\s*['\"]?((?:https?:)?//[^)'\"]+)", path.read_text()
        )
    ]
    assert not foreign


def test_every_rule_has_its_page(site: Path) -> None:
    index = (site / "rules" / "index.html").read_text(encoding="utf-8")
    for rule in all_rules():
        text = (site / "rules" / f"{rule.code.lower()}.html").read_text(encoding="utf-8")
        assert f"{rule.code.lower()}.html" in index
        for heading in ("What it does", "Why", "Safety", "Where it falls", "Source of the rule"):
            assert f">{heading}<" in text, f"{rule.code} has no {heading}"
        for path in rule.templates:
            assert path in text


def test_every_command_and_option_is_documented(site: Path) -> None:
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    seen = set()
    for path, command, context in pages.commands():
        seen.add(path)
        anchor = (path.partition(" ")[2] or path).replace(" ", "-")
        start = text.index(f'id="{anchor}"')
        end = text.find("<h2", start + 1)
        section = text[start : end if end > 0 else len(text)]
        for option in command.get_params(context):
            for name in option.opts:
                if name.startswith("-"):
                    assert f"<code>{name}" in section, f"{path} {name}"
    assert f"{pages.PROGRAM} apply" in seen
    assert f"{pages.PROGRAM} simulator doctor" in seen


def test_the_reference_of_the_log_has_every_field() -> None:
    text = pages.log_page()
    schema = (DOCS / "migration-log.schema.json").read_text(encoding="utf-8")
    for name in re.findall(r'^ {8}"(\w+)": \{', schema, re.M):
        assert f"| `{name}` |" in text


def test_messages_are_those_of_the_code() -> None:
    found = pages.messages()
    message = "<text> is neither a directory nor a release; name one, or write vllm==0.11.0"
    assert message in found["migrator/files/sources.py"]
    assert sum(len(texts) for texts in found.values()) > 60


def test_messages_that_the_faq_quotes_exist() -> None:
    text = (DOCS / "faq.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^### "(.*?)"', text, re.M)
    assert len(quoted) > 10
    sources = "\n".join(text for texts in pages.messages().values() for text in texts)
    for name in ("cli/common.py", "planning/plan.py", "reports/render.py"):
        sources += (ROOT / "migrator" / name).read_text(encoding="utf-8")
    # torch_npu says this one itself.
    elsewhere = {"Two accelerators cannot be used at the same time"}
    for quote in set(quoted) - elsewhere:
        for piece in re.split(r"\s*…\s*", quote.replace("\\", "")):
            assert piece in sources, f"no message says {piece!r}"


def test_prose_links_rules_and_leaves_code_alone() -> None:
    text = "See NPU123, `NPU123` and [NPU001](x.md).\n```\nNPU123\n```\n# NPU123\nNPU999\n"
    linked = pages.with_rule_links(text, "port/index.md")
    assert linked == (
        "See [NPU123](../rules/npu123.md), `NPU123` and [NPU001](x.md).\n"
        "```\nNPU123\n```\n# NPU123\nNPU999\n"
    )
    assert "[NPU123]" not in pages.with_rule_links("NPU123", "rules/npu123.md")


TUTORIAL = (DOCS / "contribute" / "add-a-rule.md").read_text(encoding="utf-8")
TUTORIAL_RULES = re.findall(
    r'^```python title="migrator/rules/(\w+)\.py"\n(.*?)^```$', TUTORIAL, re.M | re.S
)


@pytest.mark.parametrize(("stem", "source"), TUTORIAL_RULES, ids=[s for s, _ in TUTORIAL_RULES])
def test_a_rule_of_the_tutorial_works(stem: str, source: str) -> None:
    module = types.ModuleType(f"migrator.rules.{stem}")
    exec(compile(source, f"{stem}.py", "exec"), module.__dict__)
    (rule,) = (
        value()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rule) and value is not Rule
    )
    assert stem == f"{rule.code.lower()}_{rule.name.replace('-', '_')}"
    assert len(source.splitlines()) <= 30, "a rule of a known shape takes 30 lines"
    for heading in ("What it does", "Why", "Example", "Safety"):
        assert rule.section(heading)
    beside = re.search(rf'^```diff title="\S+/{stem}\.diff"\n(.*?)^```$', TUTORIAL, re.M | re.S)
    assert beside is not None
    (example,) = examples_of(beside[1])
    after, statuses = try_rule.run(rule, example, example.before)
    assert (after, statuses) == (example.after, [Status.CHANGED])
    assert try_rule.run(rule, example, after) == (after, [Status.MIGRATED])


def test_the_tutorial_has_its_rules() -> None:
    assert [stem[:6] for stem, _ in TUTORIAL_RULES] == ["npu126", "npu127"]


def test_sites_by_release_reads_the_measured_table() -> None:
    found = pages.sites_by_release(DOCS / "releases.md")
    assert set(found) <= {rule.code for rule in all_rules()}
    assert found["NPU102"]["0.11.0"] == 1
    assert found["NPU218"]["0.9.2"] is None


def test_the_codes_of_verify_are_those_of_the_code() -> None:
    text = (DOCS / "verify.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (V\d{3}) \|", text, re.M) == list(CODES)


def test_every_setting_is_documented() -> None:
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    for name in TAKES:
        assert re.search(rf"^{name} = ", text, re.M), name
