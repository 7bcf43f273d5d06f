# SPDX-License-Identifier: Apache-2.0
"""Renders a review as one page of HTML: `page.html.j2` with `page.css` and `page.js` inside."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from migrator.files.tree import VLLM, digest
from migrator.messages.escaping import page
from migrator.messages.wording import counted
from migrator.reports.changed_lines import Block, Hunk, hunks_of
from migrator.review.code import coloured, escape, line_html, open_strings, pairs, word_ranges
from migrator.review.model import (
    OUTSIDE,
    Change,
    Diff,
    FileReview,
    Package,
    Review,
    RuleReview,
    Text,
    package_of,
)
from migrator.review.treemap import Box, divide

MORE = 15
"""Unchanged lines that can be opened above and below a hunk."""
APART = 12
"""Unchanged lines between two changes that are shown without being asked for."""
LINE = 20
"""Height of a line in pixels, to tell the browser how long what it has not laid out may be."""


def render_page(review: Review) -> str:
    """The page, as text that ends with a line feed; the same for the same review."""
    safety = {rule.entry.code: rule.entry.safety for rule in review.rules}
    # What is outside of the package comes last: it is what a reviewer knows best.
    ordered = sorted(review.files, key=lambda f: (package_of(f.path) == OUTSIDE, f.path))
    files = [_file(number, file, safety, review) for number, file in enumerate(ordered, 1)]
    first = {
        package_of(file.review.path): file.anchor
        for file in reversed(files)
        if file.review.diff is not None
    }
    risky = {file.path: _risk(file, safety, review.conflicts) for file in review.files}
    return _template().render(
        review=review,
        files=files,
        by_risk=sorted(files, key=lambda file: risky[file.review.path]),
        totals=_totals(review),
        safeties=_safeties(review),
        groups=_treemap(review.packages),
        packages=sorted(
            (p for p in review.packages if p.touched or p.new),
            key=lambda p: (-(p.added + p.removed), p.name),
        ),
        outside=OUTSIDE,
        first=first,
        folders=_folders(files),
        left=[group for rule in review.rules for group in _left(rule)],
        others=[entry for entry in review.left if entry.rule is None and entry.kind == "link"],
        by_hand=[file for file in files if file.review.by_hand],
        css=Markup(_asset("page.css")),
        js=Markup(_asset("page.js")),
        subject=review.label.release or "no release",
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # What no filter has made into HTML, such as a title, loses what cannot be seen.
        finalize=lambda value: page(value) if type(value) is str else value,
    )
    environment.filters.update(
        code=_code, prose=_prose, count=_count, shown=_shown, breakable=_breakable
    )
    return environment.from_string(_asset("page.html.j2"))


def _asset(name: str) -> str:
    return resources.files("migrator.review").joinpath(name).read_text(encoding="utf-8")


def _count(number: int) -> str:
    """A number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def _shown(text: str) -> Markup:
    """A text out of a tree, with signs that would deceive spelled out."""
    return Markup(escape(text))


def _breakable(path: str) -> Markup:
    """A path that may go on in the next line after a slash or an underscore."""
    parts = re.split(r"(?<=[/_])(?=[^/_])", path)
    return Markup("<wbr>".join(escape(part) for part in parts))


def _code(text: str) -> Markup:
    """A line of Markdown: what stands between backticks as code."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup(
        "".join(
            f"<code>{escape(part)}</code>" if index % 2 else escape(part)
            for index, part in enumerate(parts)
        )
    )


def _prose(text: str) -> Markup:
    """The Markdown of a rule's docstring: paragraphs, lists, code."""
    parts = []
    for index, part in enumerate(re.split(r"^```\w*\n(.*?)^```$", text, flags=re.M | re.S)):
        if index % 2:
            lines = part.rstrip("\n").split("\n")
            colours = coloured("x.py", lines)
            rows = (
                line_html(line, ranges, ()) for line, ranges in zip(lines, colours, strict=True)
            )
            parts.append(f"<pre>{chr(10).join(rows)}</pre>")
            continue
        for paragraph in re.split(r"\n\s*\n", part.strip()):
            items = re.split(r"^- ", paragraph, flags=re.M)
            if items[0].strip():
                parts.append(f"<p>{_code(items[0].strip())}</p>")
            if len(items) > 1:
                listed = (f"<li>{_code(item.strip())}</li>" for item in items[1:])
                parts.append(f"<ul>{''.join(listed)}</ul>")
    return Markup("".join(parts))


# ---- numbers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Totals:
    """What stands at the top."""

    changes: int
    modified: int
    new: int
    added: int
    removed: int
    rules: int
    untouched: int
    """Python files below `vllm/` that are as they were."""


def _totals(review: Review) -> Totals:
    diffs = [file.diff for file in review.files if file.diff is not None]
    written = [file for file in review.files if file.diff is not None]
    touched = [
        file
        for file in review.files
        if not file.is_new and file.path.startswith(VLLM) and file.path.endswith(".py")
    ]
    return Totals(
        changes=len(review.changes),
        modified=sum(not file.is_new for file in written),
        new=sum(file.is_new for file in written),
        added=sum(diff.added for diff in diffs),
        removed=sum(diff.removed for diff in diffs),
        rules=sum(bool(rule.changes) for rule in review.rules),
        untouched=sum(package.files for package in review.packages) - len(touched),
    )


SAFETIES = (
    ("behaviour", "May change what other platforms see. The rule says what, and why it is right."),
    ("equivalent", "Does the same on every device; only the way it is written changes."),
    ("guarded", "New code that only runs for an NPU tensor or on an NPU platform."),
)
"""Kinds of safety, those that want the most attention first, and what they mean."""


@dataclass(frozen=True)
class SafetyCount:
    """How many changes and rules are of one kind."""

    name: str
    meaning: str
    changes: int
    rules: int


def _safeties(review: Review) -> list[SafetyCount]:
    rules = [rule for rule in review.rules if rule.changes]
    return [
        SafetyCount(
            name,
            meaning,
            sum(len(rule.changes) for rule in rules if rule.entry.safety == name),
            sum(rule.entry.safety == name for rule in rules),
        )
        for name, meaning in SAFETIES
    ]


# ---- the map -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A package on the map; its box is in percent of its group's."""

    package: Package
    label: str
    box: Box
    level: int
    """How much of it changes, from 0 to 4."""


@dataclass(frozen=True)
class Group:
    """A package right below `vllm/`, with those in it; its box is in percent of the map's."""

    name: str
    box: Box
    cells: tuple[Cell, ...]

    @property
    def named(self) -> bool:
        """Is there room for its name above its cells?"""
        return len(self.cells) > 1 and self.box.width > 7 and self.box.height > 14


def _treemap(packages: Sequence[Package]) -> list[Group]:
    """The packages of vLLM, as large as they have lines, by how much of them changes."""
    inside = [package for package in packages if package.name != OUTSIDE]
    total = sum(package.lines for package in inside)
    if not total:
        return []
    groups: dict[str, list[Package]] = {}
    for package in inside:
        groups.setdefault("/".join(package.name.split("/")[:2]), []).append(package)

    def size(package: Package) -> float:
        # The smallest ones would be too thin to be seen, or to be hit.
        return max(package.lines, total / 400)

    def size_of(name: str) -> float:
        return sum(size(package) for package in groups[name])

    names = sorted(groups, key=lambda name: (-size_of(name), name))
    boxes = divide(Box(0, 0, 100, 36), [size_of(name) for name in names])
    found = []
    for name, box in zip(names, boxes, strict=True):
        members = sorted(groups[name], key=lambda package: (-size(package), package.name))
        parts = divide(Box(0, 0, box.width, box.height), [size(package) for package in members])
        cells = tuple(
            Cell(
                package,
                package.name.removeprefix(name).lstrip("/") or "modules",
                _percent(part, box.width, box.height),
                _level(package.added + package.removed),
            )
            for package, part in zip(members, parts, strict=True)
        )
        found.append(Group(name, _percent(box, 100, 36), cells))
    return found


def _percent(box: Box, width: float, height: float) -> Box:
    x, y = 100 / width, 100 / height
    return Box(
        round(box.left * x, 2),
        round(box.top * y, 2),
        round(box.width * x, 2),
        round(box.height * y, 2),
    )


def _level(lines: int) -> int:
    return sum(lines >= least for least in (1, 10, 50, 200))


# ---- what was left alone -------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What one rule skips for one reason."""

    rule: RuleReview
    reason: str
    entries: tuple[Any, ...]


def _left(rule: RuleReview) -> Iterator[Left]:
    reasons: dict[str, list[Any]] = {}
    for entry in rule.left:
        if entry.kind == "skipped":
            reasons.setdefault(entry.reason, []).append(entry)
    for reason, entries in reasons.items():
        yield Left(rule, reason, tuple(entries))


# ---- files ---------------------------------------------------------------------------------


RISKS = ("behaviour", "hand", "equivalent", "guarded")
"""Kinds of changes, those that a reviewer reads first."""


def _risk(
    file: FileReview, safety: Mapping[str, str], conflicts: Sequence[str]
) -> tuple[int, int, int, str]:
    """Order of a file: conflicts, the riskiest kind of change in it, code that others lose."""
    kinds = set() if file.diff is None else {safety.get(c.rule, "") for c in file.diff.changes}
    if file.by_hand:
        kinds.add("hand")
    rank = next((n for n, kind in enumerate(RISKS) if kind in kinds), len(RISKS))
    removed = 0 if file.diff is None else file.diff.removed
    # What is new and guarded is met only by way of what changed in the others.
    rank = len(RISKS) + 1 if file.is_new and rank >= RISKS.index("guarded") else rank
    return -1 if file.path in conflicts else rank, -removed, -len(kinds), file.path


@dataclass(frozen=True)
class FilePart:
    """A file on the page."""

    number: int
    """Its place by path."""
    anchor: str
    state: str
    """A digest of what is shown of it: a file that was viewed is to be viewed again if it differs.
    """
    review: FileReview
    rules: tuple[str, ...]
    added: int
    removed: int
    body: Markup
    height: int
    """About how high its diff is, in pixels."""

    @property
    def folder(self) -> str:
        """The directory that the file is in."""
        return self.review.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The file's name in it."""
        return self.review.path.rpartition("/")[2]


def _folders(files: Iterable[FilePart]) -> dict[str, list[FilePart]]:
    folders: dict[str, list[FilePart]] = {}
    for file in files:
        folders.setdefault(file.folder, []).append(file)
    return folders


def _file(number: int, file: FileReview, safety: Mapping[str, str], review: Review) -> FilePart:
    parts: list[str] = []
    lines = 0
    if file.diff is not None:
        parts += _Body(file, file.diff, safety, review).html()
        lines += file.diff.added + 8 * len(file.diff.blocks)
    if file.hand is not None:
        if file.diff is not None:
            parts.append('<h4 class="hand">Edited by hand since</h4>')
        parts += _Body(file, file.hand, safety, review, by_hand=True).html()
        lines += file.hand.added + 8 * len(file.hand.blocks)
    shown = file.diff or file.hand
    codes = {change.rule for change in file.diff.changes} if file.diff is not None else ()
    diffs = [diff for diff in (file.diff, file.hand) if diff is not None]
    sides = [digest(text.data) for diff in diffs for text in (diff.before, diff.after)]
    return FilePart(
        number=number,
        anchor=f"file-{digest(file.path.encode())[:10]}",
        state=digest(" ".join(sides).encode())[:10],
        review=file,
        rules=tuple(sorted(codes)),
        added=0 if shown is None else shown.added,
        removed=0 if shown is None else shown.removed,
        body=Markup("".join(parts)),
        height=LINE * lines + 60,
    )


class _Side:
    """One state of a file, coloured where it is shown."""

    def __init__(self, path: str, text: Text) -> None:
        self.path = path
        self.text = text
        self._open = open_strings(text.lines) if path.endswith((".py", ".pyi")) else {}

    def coloured(self, start: int, stop: int) -> dict[int, Any]:
        """Index of each line from `start` to before `stop` → its colours."""
        lines = self.text.lines[start:stop]
        found = coloured(self.path, lines, self._open.get(start, ""))
        return dict(enumerate(found, start))


class _Body:
    """The diff of a file as HTML: a hunk is a section, with the reason above each change."""

    def __init__(
        self,
        file: FileReview,
        diff: Diff,
        safety: Mapping[str, str],
        review: Review,
        *,
        by_hand: bool = False,
    ) -> None:
        self.review = review
        self.file = file
        self.diff = diff
        self.safety = safety
        self.by_hand = by_hand
        self.old, self.new = _Side(file.path, diff.before), _Side(file.path, diff.after)
        self.told: set[int] = set()
        """Changes whose reason was written."""

    def html(self) -> Iterator[str]:
        """The hunks, and first the changes that no line belongs to any more."""
        owned = {owner for block in self.diff.blocks for owner in block.owners}
        rest = [index for index in range(len(self.diff.changes)) if index not in owned]
        if rest:
            yield f'<section class="hunk"{self._kinds(rest)}>'
            yield from self._notes(rest)
            yield "</section>"
        hunks = hunks_of(self.diff.blocks, len(self.diff.before.raw), apart=APART)
        limits = [0, *(hunk.new_stop for hunk in hunks)]
        starts = [*(hunk.new_start for hunk in hunks[1:]), len(self.diff.after.raw)]
        for index, hunk in enumerate(hunks):
            # A gap between two hunks is shared: below the first as much as there is room for.
            room = hunk.new_start - limits[index]
            above = min(MORE, room if index == 0 else max(room - MORE, 0))
            below = min(MORE, starts[index] - hunk.new_stop)
            yield from self._hunk(hunk, above, below)

    def _kinds(self, owners: Iterable[int]) -> str:
        codes = sorted({self.diff.changes[owner].rule for owner in owners})
        kinds = sorted({self.safety.get(code, "") for code in codes} - {""})
        if self.by_hand or self.file.mixed:
            kinds.append("hand")
        return f' data-rules="{escape(" ".join(codes))}" data-kinds="{escape(" ".join(kinds))}"'

    def _hunk(self, hunk: Hunk, above: int, below: int) -> Iterator[str]:
        one = self.file.is_new and not self.by_hand
        owners = [owner for block in hunk.blocks for owner in block.owners]
        first, last = hunk.new_start - above, hunk.new_stop + below
        new = self.new.coloured(first, last)
        old = self.old.coloured(hunk.start, hunk.stop) if hunk.stop > hunk.start else {}
        yield f'<section class="hunk"{self._kinds(owners)}{self._patch(hunk)}>'
        if not one:
            yield self._head(hunk)
        if above:
            yield from self._more(first, hunk.new_start, new, "above")
        done, new_done = hunk.start, hunk.new_start
        for block in hunk.blocks:
            yield from self._same(done, block.start, new_done, new)
            yield from self._notes(block.owners)
            yield from self._block(block, old, new, one=one)
            done, new_done = block.stop, block.new_stop
        yield from self._same(done, hunk.stop, new_done, new)
        if below:
            yield from self._more(hunk.new_stop, last, new, "below")
        yield "</section>"

    def _patch(self, hunk: Hunk) -> str:
        """What the script needs to write a hunk as a patch, where the page shows all of it."""
        data = ""
        if all(self._only_space(block) for block in hunk.blocks):
            data += ' data-space="1"'
        if self.old.text.exact and self.new.text.exact:
            old = f"{hunk.start + (hunk.stop > hunk.start)},{hunk.stop - hunk.start}"
            count = hunk.new_stop - hunk.new_start
            data += f' data-range="-{old} +{hunk.new_start + (count > 0)},{count}"'
            if self.new.text.windows:
                data += ' data-windows="1"'
            if self.file.is_new and not self.by_hand:
                data += ' data-new="1"'
        return data

    def _only_space(self, block: Block) -> bool:
        """Does a block change nothing but white space?"""
        left = self.old.text.lines[block.start : block.stop]
        right = self.new.text.lines[block.new_start : block.new_stop]
        return "".join("".join(left).split()) == "".join("".join(right).split())

    def _head(self, hunk: Hunk) -> str:
        inside = _definition(self.new.text.lines, hunk.blocks[0].new_start)
        place = f" in <b>{escape(inside)}</b>" if inside else ""
        old = f"{hunk.start + 1}–{hunk.stop}" if hunk.stop > hunk.start else f"{hunk.start}"
        if not self.by_hand and hunk.stop > hunk.start:
            old = self._upstream(old, hunk.start + 1, hunk.stop)
        return (
            f'<div class="at"><span>{old} → {hunk.new_start + 1}–{hunk.new_stop}</span>'
            f"{place}</div>"
        )

    def _upstream(self, text: str, line: int, end: int) -> str:
        """A text as a link to lines of the source, where that is to be read."""
        address = upstream_address(self.review, self.file.path, line, end)
        if address is None:
            return text
        return f'<a class="up" href="{escape(address)}" rel="noreferrer">{text}</a>'

    def _more(self, start: int, stop: int, new: Mapping[int, Any], where: str) -> Iterator[str]:
        count = stop - start
        yield f'<details class="more {where}"><summary>{counted(count, "line")} {where}'
        yield '</summary><div class="code one">'
        for index in range(start, stop):
            yield self._line("div", "n", self.new.text, index, new[index], ())
        yield "</div></details>"

    def _same(self, start: int, stop: int, new_start: int, new: Mapping[int, Any]) -> Iterator[str]:
        """Unchanged lines; those of the old side are drawn beside, and hidden in one column."""
        if start == stop:
            return
        yield '<div class="code">'
        for offset in range(stop - start):
            colours = new[new_start + offset]
            yield self._line("div", "o", self.old.text, start + offset, colours, ())
            yield self._line("div", "n", self.new.text, new_start + offset, colours, ())
        yield "</div>"

    def _block(
        self, block: Block, old: Mapping[int, Any], new: Mapping[int, Any], *, one: bool
    ) -> Iterator[str]:
        left = self.old.text.lines[block.start : block.stop]
        right = self.new.text.lines[block.new_start : block.new_stop]
        marks: dict[tuple[str, int], list[tuple[int, int]]] = {}
        space = self._spaces(block, left, right)
        for i, j in pairs(left, right):
            old_marks, new_marks = word_ranges(left[i], right[j])
            marks["o", block.start + i] = old_marks
            marks["n", block.new_start + j] = new_marks
        yield f'<div class="code{" one" if one else ""}">'
        for index in range(block.start, block.stop):
            found = marks.get(("o", index), ())
            kind = "o w" if ("o", index) in space else "o"
            yield self._line("del", kind, self.old.text, index, old[index], found)
        for index in range(block.new_start, block.new_stop):
            found = marks.get(("n", index), ())
            kind = "n w" if ("n", index) in space else "n"
            yield self._line("ins", kind, self.new.text, index, new[index], found)
        yield "</div>"

    def _spaces(
        self, block: Block, left: Sequence[str], right: Sequence[str]
    ) -> set[tuple[str, int]]:
        """Lines of a block that are there on both sides but for white space, and empty ones."""
        one, two = (["".join(line.split()) for line in side] for side in (left, right))
        found = {("o", block.start + n) for n, line in enumerate(one) if not line}
        found |= {("n", block.new_start + n) for n, line in enumerate(two) if not line}
        if left and right:
            matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
            for i, j, size in matcher.get_matching_blocks():
                found |= {("o", block.start + i + n) for n in range(size)}
                found |= {("n", block.new_start + j + n) for n in range(size)}
        return found

    def _line(self, tag: str, side: str, text: Text, index: int, colours: Any, marks: Any) -> str:
        body = line_html(text.lines[index], colours, marks)
        if text.ends_open and index == len(text.lines) - 1:
            body += '<b class="odd" title="no line feed at the end of the file">no end</b>'
        return f'<{tag} class="{side}" data-n="{index + 1}">{body}</{tag}>'

    def _notes(self, owners: Iterable[int]) -> Iterator[str]:
        for owner in owners:
            if owner not in self.told:
                self.told.add(owner)
                yield self._note(self.diff.changes[owner])

    def _note(self, change: Change) -> str:
        kind = self.safety.get(change.rule, "")
        site = "" if change.site == change.path else f"<b>{escape(change.site)}</b> "
        return (
            f'<div class="note {kind}" id="{escape(change.anchor)}" tabindex="-1"'
            f' data-lines="{change.side} {change.own.line} {change.own.end_line}">'
            f'<a class="tag" href="#{escape(change.rule)}">{escape(change.rule)}</a>'
            f'<p>{site}{_code(change.reason)}</p><span class="kind">{kind}</span>'
            f"{self._behind(change)}"
            f'<a class="self" href="#{escape(change.anchor)}" aria-label="Link to this">#</a>'
            "</div>"
        )

    def _behind(self, change: Change) -> str:
        """A link to the site in the source."""
        if change.line is None:
            return ""
        return self._upstream("upstream", change.line, change.end_line or change.line)


def upstream_address(review: Review, path: str, line: int, end: int) -> str | None:
    """Where lines of the source are to be read, or None where nobody knows.

    Args:
        review: has the pattern, and the release that it may ask for.
        path: of the file, from the root of the tree.
        line: the first line, from 1 on.
        end: the last one.
    """
    pattern = review.upstream
    if not pattern or ("{release}" in pattern and review.label.release is None):
        return None
    fields = {
        "release": quote(review.label.release or "", safe=""),
        "path": quote(path),
        "line": str(line),
        "end": str(end),
    }
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], pattern)


_DEFINITION = re.compile(r"(\s*)(?:async\s+def|def|class)\s+(\w+)")


def _definition(lines: Sequence[str], index: int) -> str:
    """Qualified name of what the line at `index` is in, by indentation; empty for a module."""
    names: list[str] = []
    line = next((n for n in range(index, len(lines)) if lines[n].strip()), index)
    limit = _indentation(lines[line]) if line < len(lines) else 0
    for at in range(min(line, len(lines)) - 1, -1, -1):
        if limit == 0:
            break
        if not lines[at].strip() or _indentation(lines[at]) >= limit:
            continue
        found = _DEFINITION.match(lines[at])
        if found is not None:
            names.append(found[2])
        # What closes a signature is indented as the definition itself.
        if found is not None or not lines[at].lstrip().startswith((")", "]", "}")):
            limit = _indentation(lines[at])
    return ".".join(reversed(names))


def _indentation(line: str) -> int:
    expanded = line.expandtabs(8)
    return len(expanded) - len(expanded.lstrip())
