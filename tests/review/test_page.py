# SPDX-License-Identifier: Apache-2.0
"""The review page without a browser: it shows what the plan does, and nothing of a tree runs."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from migrator.api.plans import choose_rules
from migrator.codemod.rule import Rule, Status
from migrator.files.tree import DiskTree, Label
from migrator.messages.errors import MigrateError
from migrator.messages.github import commands
from migrator.messages.wording import Tense
from migrator.planning.plan import Plan, make_plan
from migrator.reports.changed_lines import blocks_of, cut_plan
from migrator.reports.render import annotated
from migrator.review import Review, evidence, render_page, review_plan, review_tree
from migrator.review.model import Coverage, Diff, FileReview, Text, Unclaimed
from migrator.verify.report import Finding
from migrator.verify.report import Report as Verified
from migrator.verify.simulate.report import Report as Simulated
from migrator.verify.simulate.report import Run
from tests.conftest import RunCli
from tests.review.pages import Element, parse, shown_lines
from tests.trees import ODD_FILES, SELECT, copy_mini, snapshot

HOSTILE = "</script><script>alert(1)</script><!-- ]]> {{ 7*7 }} \"'&amp;"
EXTRA = {
    **ODD_FILES,
    "vllm/manual.py": b"def f(x):\n    return x.is_cuda\n",
    "vllm/broken.py": b"ok = x.is_cuda and\n",
    "vllm/v1/</script><img src=x onerror=alert(1)>.py": (
        f"import torch\n\nNAME = {HOSTILE!r}\nok = torch.ones(1).is_cuda  # {HOSTILE}\n"
    ).encode(),
    "vllm/turned.py": (
        'import torch\n\nsafe = "\u202e\u2066 \x1b[2J"\nok = torch.ones(1).is_cuda  # \u200b\n'
    ).encode(),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_mini(tmp_path_factory.mktemp("review") / "mini", EXTRA)


@pytest.fixture(scope="module")
def plan(tree: Path) -> Plan:
    return make_plan(DiskTree(tree), _rules())


def _rules() -> list[Rule]:
    return choose_rules(SELECT.split(","), ())


@pytest.fixture(scope="module")
def review(plan: Plan, tree: Path) -> Review:
    return review_plan(plan, DiskTree(tree))


@pytest.fixture(scope="module")
def page(review: Review) -> Element:
    return parse(render_page(review))


def articles(page: Element) -> dict[str, Element]:
    return {a.attributes["data-path"]: a for a in page.all("article", "file")}


def assert_shows_the_plan(page: Element, plan: Plan) -> None:
    """Every changed line is on the page once, under its number, and no other."""
    shown = articles(page)
    assert set(shown) == {change.path for change in plan.files}
    for cut in cut_plan(plan):
        text = render_lines(cut.change.before or b""), render_lines(cut.change.after)
        removed, added = shown_lines(shown[cut.change.path])
        expected = [
            (n + 1, text[0][n]) for block in cut.blocks for n in range(block.start, block.stop)
        ]
        assert removed == expected, cut.change.path
        expected = [
            (n + 1, text[1][n])
            for block in cut.blocks
            for n in range(block.new_start, block.new_stop)
        ]
        assert added == expected, cut.change.path


def render_lines(data: bytes) -> list[str]:
    """Lines as the page shows them: in their encoding, odd signs spelled out."""
    encoding = "latin-1" if b"latin-1" in data[:40] else "utf-8-sig"
    windows = data.count(b"\n") == data.count(b"\r\n") > 0
    lines = data.decode(encoding).split("\n")
    if lines[-1] == "":
        lines.pop()
    else:
        lines[-1] += "no end"
    if windows:
        lines = [line.removesuffix("\r") for line in lines]

    def spelled(match: re.Match[str]) -> str:
        return f"U+{ord(match[0]):04X}"

    return [
        re.sub("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e\u2066\u200b\ufeff]", spelled, line)
        for line in lines
    ]


# ---- what it shows -------------------------------------------------------------------------


def test_it_shows_what_the_plan_does(page: Element, plan: Plan) -> None:
    assert_shows_the_plan(page, plan)


def test_every_change_has_its_reason(page: Element, plan: Plan) -> None:
    notes = page.all(class_="note")
    told = Counter((n.all("a", "tag")[0].text, n.all("p")[0].text) for n in notes)
    expected = Counter(
        (r.rule, ("" if r.site == r.path else f"{r.site} ") + r.reason.replace("`", ""))
        for r in plan.records
        if r.status is Status.CHANGED
    )
    assert told == expected


def test_links_lead_from_rules_to_sites_and_back(page: Element, review: Review) -> None:
    ids = [e.attributes["id"] for e in page.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids)), "each id is there once"
    targets = {e.attributes["id"]: e for e in page.walk() if "id" in e.attributes}
    links = [e.attributes["href"] for e in page.all("a") if "up" not in e.classes]
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(ids)
    for rule in review.rules:
        section = targets[rule.entry.code]
        sites = (
            [a.attributes["href"][1:] for a in section.all("ul", "sites")[0].all("a")]
            if rule.changes
            else []
        )
        assert sites == [change.anchor for change in rule.changes]
        for anchor in sites:
            note = targets[anchor]
            assert "note" in note.classes
            assert note.all("a", "tag")[0].attributes["href"] == f"#{rule.entry.code}"
    for article in page.all("article", "file"):
        assert any(
            a.attributes["href"] == f"#{article.attributes['id']}"
            for a in page.all("nav")[0].all("a")
        )


def test_filters_have_what_they_ask_for(page: Element, review: Review) -> None:
    safety = {rule.entry.code: rule.entry.safety for rule in review.rules}
    for hunk in page.all("section", "hunk"):
        codes = hunk.attributes["data-rules"].split()
        assert codes == sorted({note.all("a", "tag")[0].text for note in hunk.all(class_="note")})
        assert hunk.attributes["data-kinds"].split() == sorted({safety[code] for code in codes})
    options = [o.attributes["value"] for o in page.all("select")[0].all("option")]
    assert options == ["", *(rule.entry.code for rule in review.rules if rule.changes)]
    boxes = {i.attributes["value"] for i in page.all("input") if i.attributes.get("name") == "kind"}
    assert boxes == {safety[change.rule] for change in review.changes}


def test_totals_are_those_of_the_plan(page: Element, plan: Plan) -> None:
    tiles = {
        tile.all("dt")[0].text: tile.all("dd")[0].text.strip()
        for tile in page.all("dl", "tiles")[0].all("div")
    }
    cuts = [(cut, block) for cut in cut_plan(plan) for block in cut.blocks]
    added = sum(cut.lines(block)[0] for cut, block in cuts)
    removed = sum(cut.lines(block)[1] for cut, block in cuts)
    assert tiles["Lines"] == f"+{added} \u2212{removed}"
    assert tiles["Files changed"] == str(sum(c.before is not None for c in plan.files))
    assert tiles["Files added"] == str(sum(c.before is None for c in plan.files))
    assert tiles["For a person"] == "2", "a site and a file"


def test_what_was_left_alone_is_told(page: Element, plan: Plan) -> None:
    left = next(s for s in page.all("section") if s.attributes.get("id") == "left").text
    person = next(s for s in page.all("section", "attention")).text
    assert "vllm/manual.py:2" in person
    assert "return x.is_cuda" in person, "with its line of source"
    assert "vllm/broken.py" in person
    assert "not valid Python" in person
    for record in plan.records:
        if record.status is Status.SKIPPED:
            assert record.reason in left
            assert record.site in left
            assert f"{record.path}:{record.before.line if record.before else ''}" in left
    assert plan.absent
    for absent in plan.absent:
        assert absent.site in left


def test_the_map_has_every_package(page: Element, tree: Path) -> None:
    cells = page.all(class_="treemap")[0].all(class_="cell")
    named = {cell.attributes["title"].partition(":")[0] for cell in cells}
    packages = {path.parent.relative_to(tree).as_posix() for path in (tree / "vllm").rglob("*.py")}
    assert named == {"/".join(package.split("/")[:3]) for package in packages}
    touched = {c.attributes["title"].partition(":")[0] for c in cells if c.tag == "a"}
    assert {"vllm", "vllm/model_executor/layers"} <= touched


def test_missing_sites_come_first(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    ops = tree / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes().replace(b"def rms_norm(", b"def rms_norm_("))
    done = run_cli("review", tree, "-q", "--select", "NPU102")
    assert done.code == 3  # the page is written
    assert "NPU102 finds no rms_norm in vllm/_custom_ops.py" in done.err
    page = parse((tmp_path / "review.html").read_text(encoding="utf-8"))
    assert "Finds no rms_norm in vllm/_custom_ops.py" in page.all("section", "attention")[0].text


# ---- anchors, links to the source, order ----------------------------------------------------


def anchors(review: Review) -> dict[str, tuple[str, str, str]]:
    return {change.anchor: (change.rule, change.path, change.site) for change in review.changes}


def test_anchors_go_by_a_change_s_own_lines(plan: Plan, tree: Path, review: Review) -> None:
    """Each rule left out in turn: the anchors of what the others do are the same."""
    before = anchors(review)
    assert len(before) == len(review.changes), "no anchor twice"
    for code in sorted({change.rule for change in review.changes}):
        rest = [rule for rule in _rules() if rule.code != code]
        after = anchors(review_plan(make_plan(DiskTree(tree), rest), DiskTree(tree)))
        gone = {anchor for anchor, (rule, *_) in before.items() if rule == code}
        lost = {before[anchor] for anchor in before.keys() - after.keys() - gone}
        # An import that the rule's code alone needs goes with it.
        assert {rule for rule, *_ in lost} <= {"NPU001", "NPU200"}, code
        assert not after.keys() - before.keys(), code


def test_an_anchor_is_another_where_the_change_is(tree: Path, tmp_path: Path) -> None:
    """What was approved is no longer what is there: the mark has to go."""
    edited = tmp_path / "mini"
    shutil.copytree(tree, edited)
    ops = edited / "vllm/_custom_ops.py"
    source = ops.read_bytes()
    assert b"def rms_norm(" in source
    ops.write_bytes(b"# a line above moves it, and is nothing to it\n" + source)
    first = [rule for rule in _rules() if rule.code == "NPU102"]

    def found(root: Path) -> list[str]:
        return [
            c.anchor for c in review_plan(make_plan(DiskTree(root), first), DiskTree(root)).changes
        ]

    assert found(edited) == found(tree)
    ops.write_bytes(source.replace(b"def rms_norm(", b"def rms_norm(  # edited\n    ", 1))
    assert found(edited) != found(tree)


def test_equal_changes_are_told_apart_by_their_order(tmp_path: Path) -> None:
    text = b"import torch\n\n\ndef f(x: torch.Tensor):\n    return x.is_cuda\n"
    tree = copy_mini(
        tmp_path / "mini", {"vllm/twice.py": text + text.replace(b"import torch", b"")}
    )
    plan = make_plan(DiskTree(tree), choose_rules(["NPU110"], ()))
    found = [c.anchor for c in review_plan(plan, DiskTree(tree)).changes if "twice" in c.path]
    assert len(found) == 2
    assert found[1] == f"{found[0]}-2"


def test_marks_are_said_to_be_of_lines_that_differ(page: Element, review: Review) -> None:
    """GitHub takes comments on lines of the difference only."""
    for article in page.all("article", "file"):
        removed, added = ({n for n, _ in lines} for lines in shown_lines(article))
        for note in article.all(class_="note"):
            side, first, last = note.attributes["data-lines"].split()
            lines = added if side == "RIGHT" else removed
            assert set(range(int(first), int(last) + 1)) <= lines, note.text


def test_links_lead_to_the_source(review: Review, page: Element) -> None:
    sources = {change.anchor: change for change in review.changes}
    for note in page.all(class_="note"):
        change = sources[note.attributes["id"]]
        links = [a.attributes["href"] for a in note.all("a", "up")]
        if change.line is None:
            assert links == []
            continue
        address = "https://github.com/vllm-project/vllm/blob/v0.11.0"
        if "<" not in change.path:
            assert links == [f"{address}/{change.path}#L{change.line}-L{change.end_line}"]
    hostile = [
        a.attributes["href"] for a in page.all("a", "up") if "script" in a.attributes["href"]
    ]
    assert hostile
    assert not [href for href in hostile if "<" in href or " " in href]
    unreleased = replace(review, label=Label(claim="0.11.1.dev3"))
    assert not parse(render_page(unreleased)).all("a", "up")
    own = replace(unreleased, upstream="https://git.example/fork/{path}?from={line}&to={end}")
    links = [a.attributes["href"] for a in parse(render_page(own)).all("a", "up")]
    assert "https://git.example/fork/vllm/_custom_ops.py?from=" in " ".join(links)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("javascript:alert(1)//{path}", "has to begin with https://"),
        ("https://git.example/{file}", "{path} has to be there"),
        ("https://git.example/{path}/{0}", "takes {release}, {path}"),
    ],
)
def test_patterns_that_no_link_can_be_made_of(
    pattern: str, why: str, mini_tree: Path, run_cli: RunCli
) -> None:
    done = run_cli("review", mini_tree, "-q", "--select", "NPU102", "--upstream", pattern)
    assert done.code == 2
    assert why in done.err


def test_the_riskiest_comes_first(page: Element, review: Review) -> None:
    safety = {rule.entry.code: rule.entry.safety for rule in review.rules}
    ranks = []
    for article in page.all("article", "file"):
        kinds = {safety[tag.text] for tag in article.all("a", "tag")}
        rank = next(n for n, k in enumerate(("behaviour", "equivalent", "guarded")) if k in kinds)
        ranks.append(3 if rank == 2 and "added" in article.classes else rank)
    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 1
    numbers = {
        a.attributes["data-path"]: int(a.attributes["data-number"]) for a in page.all("article")
    }
    inside = sorted(path for path in numbers if path.startswith("vllm/"))
    assert sorted(inside, key=lambda path: numbers[path]) == inside


def test_changes_of_white_space_are_known(tmp_path: Path) -> None:
    """A line that is only indented otherwise, and a hunk of nothing else."""
    tree = copy_mini(tmp_path / "mini")
    plan = make_plan(DiskTree(tree), choose_rules(["NPU102"], ()))
    body = Text(b"def f():\n    a\n    b\n"), Text(b"def f():\n    if x:\n        a\n        b\n")
    blocks = tuple(blocks_of(body[0].raw, body[1].raw))
    file = FileReview("vllm/x.py", False, None, Diff(*body, blocks))
    shown = parse(
        render_page(replace(review_plan(plan, DiskTree(tree)), files=(file,), packages=()))
    )
    lines = [(e.tag, e.text, "w" in e.classes) for e in (*shown.all("del"), *shown.all("ins"))]
    assert lines == [
        ("del", "    a", True),
        ("del", "    b", True),
        ("ins", "    if x:", False),
        ("ins", "        a", True),
        ("ins", "        b", True),
    ]
    assert "data-space" not in shown.all("section", "hunk")[0].attributes


def test_what_was_found_of_this_very_tree_is_shown(mini_tree: Path, run_cli: RunCli) -> None:
    """Results that are kept are those of the same bytes, and of no others."""
    run_cli("apply", mini_tree, "-q", "--select", SELECT)
    adapted = mini_tree.parent / "mini-npu"
    key = evidence.key_of_adapted(DiskTree(adapted))
    assert key == evidence.key_of_plan(make_plan(DiskTree(mini_tree), _rules()))
    assert key is not None
    finding = Finding("vllm/a.py", 3, 1, "V101", "undefined name `x` </script>")
    wheel = {"version": "2.8.0", "file": "w", "reason": "the tree's torch"}
    evidence.keep(key, Verified(1, "0.11.0", wheel, 7, 9, [finding], []))
    run = Run("llama", "eager", True, [], 1.0, log=["/somewhere/secret"])
    evidence.keep(key, Simulated(1, "/somewhere", "0.11.0", "3.11", {"torch": "2.8"}, [], [run]))
    other = Run("llama", "graph", True, [], 1.0)
    evidence.keep(key, Simulated(1, "/somewhere", "0.11.0", "3.11", {"torch": "2.8"}, [], [other]))

    def shown(*arguments: str | Path) -> str:
        done = run_cli("review", *arguments, "-q", "-o", "-")
        (found,) = (
            s
            for s in parse(done.out.decode()).all("section")
            if s.attributes.get("id") == "evidence"
        )
        return found.text

    base = ("--base", mini_tree)
    text = shown(adapted, *base)
    assert "1 finding in 7 files and 9 calls of torch_npu, against torch_npu 2.8.0" in text
    assert "undefined name `x` </script>" in text
    assert "2 of 2 runs" in text
    assert "/somewhere" not in text
    assert "1 finding in 7 files" in shown(mini_tree, "--select", SELECT)
    assert "1 finding" not in shown(adapted, *base, "--no-evidence")
    ops = adapted / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"# edited\n")
    assert "1 finding" not in shown(adapted, *base)


# ---- nothing of a tree runs, nothing is fetched --------------------------------------------


@pytest.mark.parametrize("name", ["verify/checks.py", "csrc/acl.cpp", "csrc/acl.h"])
def test_evidence_is_of_the_code_that_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A simulator that is another one has not run anything yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(evidence, "PACKAGE", tmp_path / "package")
    place = tmp_path / "package" / name
    place.parent.mkdir(parents=True)
    wheel = {"version": "2.8.0", "file": "w", "reason": "the tree's torch"}
    found = Verified(1, "0.11.0", wheel, 7, 9, [], [])
    for text, known in (("1", None), ("2", None), ("1", found)):
        place.write_text(text, encoding="utf-8")
        evidence._code.cache_clear()
        assert evidence.kept("key", Verified) == known
        evidence.keep("key", found)
    evidence._code.cache_clear()


def test_hostile_names_and_sources_stay_text(review: Review) -> None:
    text = render_page(review)
    page = parse(text)
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    assert not page.all("img")
    assert not [e for e in page.walk() if any(name.startswith("on") for name in e.attributes)]
    assert text.count("</script>") == 1
    assert "<!--" not in text
    article = articles(page)["vllm/v1/</script><img src=x onerror=alert(1)>.py"]
    assert article.all("h3")[0].text == article.attributes["data-path"]
    _, added = shown_lines(article)
    assert added[-1][1].endswith(f"# {HOSTILE}")


def test_signs_that_deceive_are_spelled_out(review: Review, page: Element) -> None:
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x1b]", render_page(review))
    article = articles(page)["vllm/turned.py"]
    odd = {e.text: e.attributes["title"] for e in article.all("b", "odd")}
    assert odd["U+202E"] == "RIGHT-TO-LEFT OVERRIDE"
    assert odd["U+200B"] == "ZERO WIDTH SPACE"
    assert odd["U+001B"] == "control character"


def test_it_is_one_file_that_asks_no_network(review: Review, page: Element) -> None:
    text = render_page(review)
    for element in page.walk():
        assert "src" not in element.attributes
        if element.tag == "link":
            assert element.attributes["href"] == "data:,"
    style = page.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style
    policy = next(m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none'")
    script = page.all("script")[0].text
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\b", script)
    for link in page.all("a", "up"):
        text = text.replace(f'href="{link.attributes["href"]}"', "")
    assert "https://" not in text.replace(HOSTILE, "")


def test_it_is_the_same_wherever_and_whenever(tree: Path, tmp_path: Path, review: Review) -> None:
    other = tmp_path / "deep" / "below" / "mini"
    shutil.copytree(tree, other)
    again = render_page(review_plan(make_plan(DiskTree(other), _rules(), jobs=2), DiskTree(other)))
    assert again == render_page(review)
    assert str(tree.parent) not in again
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", again)


def test_it_works_without_a_script(page: Element) -> None:
    """What needs the script is hidden until that runs; links and `details` do the rest."""
    for name in ("filter", "tools"):
        (element,) = (e for e in page.walk() if e.attributes.get("id") == name)
        assert "hidden" in element.attributes
    assert all(label.attributes.get("hidden") == "" for label in page.all("label", "viewed"))


def test_people_who_cannot_see_it_get_about(page: Element) -> None:
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    skips = [a.attributes["href"] for a in page.all("a", "skip")]
    assert skips == ["#changes", "#rules"]
    for control in (*page.all("button"), *page.all("input"), *page.all("select")):
        named = control.text.strip() or control.attributes.get("aria-label")
        label = control.parent is not None and control.parent.tag == "label"
        assert named or label, control
    levels = [int(e.tag[1]) for e in page.walk() if re.fullmatch("h[1-6]", e.tag)]
    assert levels.count(1) == 1
    for section in page.all("section"):
        heading = section.attributes.get("aria-labelledby")
        assert heading is None or any(e.attributes.get("id") == heading for e in section.walk())


# ---- an adapted tree -----------------------------------------------------------------------


@pytest.fixture
def adapted(tree: Path, tmp_path: Path, run_cli: RunCli) -> Path:
    out = tmp_path / "adapted"
    run_cli("apply", tree, "-o", out, "-q", "--select", SELECT)
    return out


def done(adapted: Path, tree: Path) -> tuple[Review, Element]:
    review = review_tree(DiskTree(adapted), DiskTree(tree))
    return review, parse(render_page(review))


def test_an_adapted_tree_shows_what_was_done(adapted: Path, tree: Path, plan: Plan) -> None:
    before = snapshot(adapted)
    review, page = done(adapted, tree)
    assert review.done
    assert_shows_the_plan(page, plan)
    assert len(page.all(class_="note")) == len(review.changes)
    assert not page.all(class_="hand")
    assert "vllm/manual.py" in page.all("section", "attention")[0].text
    assert snapshot(adapted) == before


def test_hand_edits_are_told_apart(adapted: Path, tree: Path, plan: Plan) -> None:
    """Edited, added by the tool and edited, removed, new, and edited where no rule was."""
    ops = adapted / "vllm/_custom_ops.py"
    ops.write_bytes(b"# mine\n" + ops.read_bytes())
    (adapted / "vllm/accelerator.py").unlink()
    (adapted / "vllm/mine.py").write_bytes(b"mine = 1\n")
    (adapted / "README.md").write_bytes(b"mine\n")
    review, page = done(adapted, tree)
    by_hand = {file.path: file for file in review.files if file.by_hand}
    assert set(by_hand) == {
        "README.md",
        "vllm/_custom_ops.py",
        "vllm/accelerator.py",
        "vllm/mine.py",
    }
    assert not any(file.mixed for file in by_hand.values())
    assert by_hand["vllm/accelerator.py"].removed
    hunks = [h for h in page.all("section", "hunk") if h.attributes["data-kinds"] == "hand"]
    assert len(hunks) == 4
    assert {h.above("file").attributes["data-path"] for h in hunks} == set(by_hand)
    # What the migration did is shown as if nobody had been there.
    cut = next(cut for cut in cut_plan(plan) if cut.change.path == "vllm/_custom_ops.py")
    _, added = shown_lines(articles(page)["vllm/_custom_ops.py"])
    new = sum(cut.lines(block)[0] for block in cut.blocks)
    assert len(added) == new + 1
    assert added[-1] == (1, "# mine")


def test_what_cannot_be_told_apart_is_said(adapted: Path, tree: Path) -> None:
    """The tool that made the tree wrote something else than this one would."""
    log = adapted / "migration-log.json"
    text = json.loads(log.read_bytes())
    (entry,) = (file for file in text["files"] if file["path"] == "vllm/_custom_ops.py")
    entry["after"] = "0" * 64
    log.write_text(json.dumps(text), encoding="utf-8")
    ops = adapted / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"# mine\n")
    review, page = done(adapted, tree)
    (file,) = (file for file in review.files if file.by_hand)
    assert file.mixed
    article = articles(page)["vllm/_custom_ops.py"]
    assert article.all("p", "mixed")
    assert shown_lines(article)[1][-1][1] == "# mine"
    kinds = {h.attributes["data-kinds"].split()[-1] for h in article.all("section", "hunk")}
    assert kinds == {"hand"}


def test_another_source_is_refused(adapted: Path, tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    ops = other / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"\n")
    with pytest.raises(MigrateError, match=r"other is not the source of adapted: its vllm/_custom"):
        review_tree(DiskTree(adapted), DiskTree(other))
    with pytest.raises(MigrateError, match="it was not made by this tool"):
        review_tree(DiskTree(tree), DiskTree(tree))


def test_an_updated_tree_shows_whose_lines_are_whose(
    mini_tree: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    """The engineer's edits, carried to the next release, stay apart from what the rules did."""
    path = "vllm/_custom_ops.py"
    run_cli("apply", mini_tree, "-o", tmp_path / "old", "-q", "--select", SELECT)
    ops = tmp_path / "old" / path
    ops.write_bytes(ops.read_bytes().replace(b"import torch\n", b"import torch\n\nMINE = 1\n", 1))
    newer = copy_mini(tmp_path / "newer")
    source = newer / path
    source.write_bytes(source.read_bytes() + b"\n\ndef new():\n    return 1\n")
    out = tmp_path / "out"
    done = run_cli(
        "update", tmp_path / "old", newer, "--base", mini_tree, "-o", out, "--select", SELECT
    )
    assert done.code in (0, 1), done.err
    assert b"MINE = 1" in (out / path).read_bytes()
    review = review_tree(DiskTree(out), DiskTree(newer))
    page = parse(render_page(review))
    assert [file.path for file in review.files if file.by_hand] == [path]
    assert [entry.path for entry in review.carried] == [path]
    assert "Carried over by an update" in page.text
    article = articles(page)[path]
    hand = [h for h in article.all("section", "hunk") if h.attributes["data-kinds"] == "hand"]
    assert [line.text for h in hand for line in h.all("ins")] == ["", "MINE = 1"]
    rest = [h for h in article.all("section", "hunk") if h not in hand]
    for hunk in rest:
        for note in hunk.all(class_="note"):
            if note.all("a", "tag")[0].text == "NPU102":
                assert "npu_rms_norm" in hunk.text, "the reason stands at its lines"
    plan = make_plan(DiskTree(newer), _rules())
    cut = next(cut for cut in cut_plan(plan) if cut.change.path == path)
    added = [line for h in rest for line in h.all("ins")]
    assert len(added) == sum(cut.lines(block)[0] for block in cut.blocks)


def test_a_file_that_was_edited_between_two_runs(mini_tree: Path, run_cli: RunCli) -> None:
    """What the second run wrote holds the edit too: it is not taken for the migration's."""
    base = copy_mini(mini_tree.parent / "base")
    in_place = ("apply", mini_tree, "--in-place", "--force", "-q", "--select")
    assert run_cli(*in_place, "NPU102").code == 0
    ops = mini_tree / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"\nMINE = 1\n")
    assert run_cli(*in_place, SELECT).code == 0
    review = review_tree(DiskTree(mini_tree), DiskTree(base))
    (file,) = (file for file in review.files if file.by_hand)
    assert (file.path, file.mixed) == ("vllm/_custom_ops.py", True)


def test_marks_of_a_conflict_wait_for_a_person(adapted: Path, tree: Path) -> None:
    log = adapted / "migration-log.json"
    entry = {"path": "vllm/mine.py", "kind": "conflict", "was": None, "reason": "both changed it"}
    text = json.loads(log.read_bytes()) | {"by_hand": [entry]}
    log.write_text(json.dumps(text), encoding="utf-8")
    (adapted / "vllm/mine.py").write_bytes(b"<<<<<<< ours\n1\n=======\n2\n>>>>>>> theirs\n")
    review, page = done(adapted, tree)
    assert review.conflicts == ("vllm/mine.py",)
    assert "vllm/mine.py still has the marks" in page.all("section", "attention")[0].text
    (adapted / "vllm/mine.py").write_bytes(b"2\n")
    review, page = done(adapted, tree)
    assert review.conflicts == ()
    assert "both changed it" in page.text


# ---- the command ---------------------------------------------------------------------------

RUNS = """{"schema_version": 1, "tree": "/somewhere/tree", "release": "0.11.0", "python": "3.11.7",
"versions": {"torch": "2.8.0"}, "missing": [], "runs": [
{"model": "llama", "mode": "eager", "equal": true, "problems": [], "seconds": 1.5,
 "paths": {"prefill": 8, "decode": 1200}},
{"model": "gpt2", "mode": "tp2", "equal": false, "problems": ["a <b>token</b> differs"],
 "seconds": 2.5, "log": ["File /somewhere/secret.py"]}]}"""


def test_command(tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    done = run_cli("review", tree, "-o", "there.html", "--select", SELECT)
    assert done.code == 1, "a site is left for a person"
    assert done.out == b""
    assert done.err.endswith("Review: there.html\n")
    written = (tmp_path / "there.html").read_bytes()
    assert run_cli("review", tree, "-q", "-o", "-", "--select", SELECT).out == written
    assert [p.name for p in tmp_path.iterdir()] == ["there.html"]


def test_command_on_an_adapted_tree(
    mini_tree: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is had by the name of the release, or named."""
    run_cli("apply", mini_tree, "-q", "--select", SELECT)
    adapted = mini_tree.parent / "mini-npu"
    named = run_cli("review", adapted, "--base", mini_tree, "-o", "-")
    assert named.code == 0, named.err
    monkeypatch.setattr(
        "migrator.files.sources.fetch", lambda release: {"0.11.0": mini_tree}[release]
    )
    assert run_cli("review", adapted, "-o", "-").out == named.out
    refused = run_cli("review", mini_tree, "--base", mini_tree)
    assert (refused.code, "--base goes with an adapted tree" in refused.err) == (2, True)
    refused = run_cli("review", adapted, "--base", mini_tree, "--select", "NPU1")
    assert (refused.code, "leave --select and --ignore out" in refused.err) == (2, True)


def test_simulated_runs(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    runs = tmp_path / "runs.json"
    runs.write_text(RUNS, encoding="utf-8")
    done = run_cli("review", mini_tree, "-q", "--select", SELECT, "--simulated", runs)
    assert done.code == 0, done.err
    page = parse((tmp_path / "review.html").read_text(encoding="utf-8"))
    (evidence,) = (s for s in page.all("section") if s.attributes.get("id") == "evidence")
    assert "1 of 2 runs" in evidence.text
    rows = [
        [c.text.strip() for c in row.children if isinstance(c, Element)]
        for row in evidence.all("tr")
    ]
    assert rows[1] == ["llama", "eager", "equal", "8", "1\u202f200", "–", "–", "–", "passed"]
    assert rows[2][:3] == ["gpt2", "tp2", "differ"]
    assert rows[2][-1] == "faileda <b>token</b> differs"
    assert "/somewhere" not in page.text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "is not what `verify TREE --simulate --format json` prints"),
        (RUNS.replace('"0.11.0"', '"0.12.0"'), "is of vLLM 0.12.0, not 0.11.0"),
        (RUNS.replace('"schema_version": 1', '"schema_version": 9'), "has schema 9, not 1"),
    ],
)
def test_other_results_are_refused(
    text: str, why: str, mini_tree: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    runs = tmp_path / "runs.json"
    runs.write_text(text, encoding="utf-8")
    done = run_cli("review", mini_tree, "-q", "--select", "NPU102", "--simulated", runs)
    assert done.code == 2
    assert why in done.err
    assert not (tmp_path / "review.html").exists()


def test_output_that_cannot_be_written(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    where = tmp_path / "none" / "review.html"
    done = run_cli("review", mini_tree, "-q", "--select", "NPU102", "-o", where)
    assert done.code == 2
    assert done.err.startswith(f"Error: cannot write {where}: ")


def test_nothing_to_review(tmp_path: Path, run_cli: RunCli) -> None:
    tree = tmp_path / "tree"
    (tree / "vllm").mkdir(parents=True)
    (tree / "vllm/__init__.py").write_bytes(b"")
    done = run_cli("review", tree, "-q", "--select", "NPU001")
    assert done.code == 0, done.err
    page = parse((tmp_path / "review.html").read_text(encoding="utf-8"))
    assert "Nothing would change." in page.text
    assert not page.all("article")


@pytest.mark.releases
def test_a_real_release(
    release: Callable[[str], Path], release_plan: Callable[[str], Plan]
) -> None:
    plan = release_plan("0.11.0")
    text = render_page(review_plan(plan, DiskTree(release("0.11.0"))))
    page = parse(text)
    assert set(articles(page)) == {change.path for change in plan.files}
    assert len(page.all(class_="note")) == sum(r.status is Status.CHANGED for r in plan.records)
    assert len(text) < 1_500_000
    github = commands(annotated(plan, Tense.WOULD))
    assert github


def test_what_no_rule_claims(review: Review, page: Element) -> None:
    sites = (
        Unclaimed("vllm/a.py", 7, "f", "torch.cuda", f"torch.cuda.x({HOSTILE!r})", "small", "why"),
        Unclaimed("vllm/a.py", 9, "g", "nccl", "nccl", "large", "because"),
        Unclaimed("vllm/b.py", 1, "<module>", "nccl", "nccl", "trivial", "because"),
    )
    found = Coverage((("torch.cuda", (1, 0, 2000, 3)), ("nccl", (2, 0, 0, 0))), sites)
    shown = parse(render_page(replace(review, coverage=found)))
    (section,) = (s for s in shown.all("section") if s.attributes.get("id") == "coverage")
    rows = [
        [cell.text for cell in row.walk() if cell.tag in ("th", "td")] for row in section.all("tr")
    ]
    assert rows[1:] == [
        ["torch.cuda", "1", "–", "2\u202f000", "3"],
        ["nccl", "2", "–", "–", "–"],
    ]
    files = section.all("details")
    assert [len(file.all("li")) for file in files] == [2, 1]
    assert HOSTILE in files[0].all("li")[0].text.replace("\\", "")
    assert len(shown.all("script")) == 1
    assert "was not asked for" in page.text
    assert "was not asked for" not in shown.text


@pytest.mark.slow
@pytest.mark.releases
def test_what_no_rule_claims_of_a_real_release(
    release: Callable[[str], Path], tmp_path: Path, run_cli: RunCli
) -> None:
    source = release("0.11.0")
    assert run_cli("review", source, "-q", "--coverage").code == 0
    page = parse((tmp_path / "review.html").read_text(encoding="utf-8"))
    (section,) = (s for s in page.all("section") if s.attributes.get("id") == "coverage")
    listed = json.loads(run_cli("coverage", source, "-q", "--format", "json").out)["sites"]
    reachable = [site for site in listed if site["grade"] == "reachable"]
    assert len(reachable) > 100
    assert sum(len(ul.all("li")) for ul in section.all("ul", "sites")) == len(reachable)
    assert len(section.all("details")) == len({site["path"] for site in reachable})
