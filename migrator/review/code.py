# SPDX-License-Identifier: Apache-2.0
"""Source as HTML: syntax colours by Pygments, the words that differ, signs that would deceive.

Every text goes through `escape` here, one run of characters at a time; nothing else makes HTML of
what a tree holds.
"""

from __future__ import annotations

import difflib
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    String,
    _TokenType,
)
from pygments.util import ClassNotFound

from migrator.messages.escaping import UNSEEN

KINDS: tuple[tuple[_TokenType, str], ...] = (
    (String.Doc, "c"),
    (Comment, "c"),
    (Keyword.Constant, "n"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (Number, "n"),
    (String.Interpol, ""),
    (String, "s"),
    (Name.Decorator, "d"),
    (Name.Function, "d"),
    (Name.Class, "d"),
    (Name.Builtin.Pseudo, "b"),
    (Name.Builtin, "b"),
    (Name.Exception, "b"),
)
"""Kind of token → class in the page; the first that fits. Others stay plain: most of a text is."""

Range = tuple[int, int]
"""Characters of a line, from 0 on, the last excluded."""

_OPENING = re.compile(
    r"""\#[^\n]*
    | (?P<prefix>\b[rRbBuUfF]{1,2})?(?P<quote>\"\"\"|'''|"|')""",
    re.X,
)
_BODY = {
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*"""', re.S),
    "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*'''", re.S),
    '"': re.compile(r'(?:[^"\\\n]|\\.)*"?', re.S),
    "'": re.compile(r"(?:[^'\\\n]|\\.)*'?", re.S),
}


@lru_cache(maxsize=64)
def _lexer(name: str) -> Lexer:
    options: dict[str, Any] = {"stripnl": False, "ensurenl": False}
    for known in (name, name.partition(".")[0]):
        try:
            return get_lexer_for_filename(known, **options)
        except ClassNotFound:
            continue
    return TextLexer(**options)


@cache
def _kind(token: _TokenType) -> str:
    return next((kind for parent, kind in KINDS if token[: len(parent)] == parent), "")


def open_strings(lines: Sequence[str]) -> dict[int, str]:
    """Index of each line that begins inside of a string of Python → what opened the string."""
    text = "\n".join(lines)
    found: dict[int, str] = {}
    at = line = 0
    counted = 0
    while (match := _OPENING.search(text, at)) is not None:
        at = match.end()
        quote = match["quote"]
        if quote is None:
            continue
        body = _BODY[quote].match(text, at)
        end = len(text) if body is None else body.end()
        inside = text.count("\n", at, end)
        if inside:
            line += text.count("\n", counted, at)
            counted = at
            for inner in range(inside):
                found[line + 1 + inner] = (match["prefix"] or "") + quote
        at = max(end, at)
    return found


def coloured(path: str, lines: Sequence[str], opened_by: str = "") -> list[list[tuple[Range, str]]]:
    """For each of some consecutive lines the ranges that have a colour, and its class.

    Args:
        path: tells the language.
        lines: without their ends.
        opened_by: prefix and quote of a string that the first line begins inside of.
    """
    lexer = _lexer("x.py" if path.endswith(".py") else path.rpartition("/")[2])
    text = opened_by + "\n".join(lines)
    found: list[list[tuple[Range, str]]] = [[] for _ in lines]
    line, column = 0, -len(opened_by)
    for token, value in lexer.get_tokens(text):
        kind = _kind(token)
        for index, part in enumerate(value.split("\n")):
            if index:
                line, column = line + 1, 0
            end = column + len(part)
            if kind and end > max(column, 0) and line < len(found):
                found[line].append(((max(column, 0), end), kind))
            column = end
    return found


def word_ranges(old: str, new: str) -> tuple[list[Range], list[Range]]:
    """The words that differ between two lines; nothing where most of them do."""
    one, two = _words(old), _words(new)
    matcher = difflib.SequenceMatcher(None, [old[a:b] for a, b in one], [new[a:b] for a, b in two])
    same = sum(
        one[i + n][1] - one[i + n][0]
        for i, _, size in matcher.get_matching_blocks()
        for n in range(size)
        if not old[slice(*one[i + n])].isspace()
    )
    longest = max(len(old.replace(" ", "")), len(new.replace(" ", "")), 1)
    if same / longest < 0.35:
        return [], []
    left: list[Range] = []
    right: list[Range] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != "equal":
            if i1 < i2:
                left.append((one[i1][0], one[i2 - 1][1]))
            if j1 < j2:
                right.append((two[j1][0], two[j2 - 1][1]))
    return left, right


def _words(text: str) -> list[Range]:
    return [match.span() for match in re.finditer(r"\w+|\s+|[^\w\s]", text)]


def pairs(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Lines of a block that became each other, in order: one to one, or those that are alike."""
    if len(old) == len(new):
        yield from zip(range(len(old)), range(len(new)), strict=True)
        return
    at = 0
    for i, line in enumerate(old):
        scores = [
            (difflib.SequenceMatcher(None, line, new[j]).ratio(), -j) for j in range(at, len(new))
        ]
        best, place = max(scores, default=(0.0, 0))
        if best >= 0.6:
            yield i, -place
            at = -place + 1


def line_html(text: str, colours: Sequence[tuple[Range, str]], marks: Sequence[Range]) -> str:
    """One line as HTML, with its colours and marks.

    Args:
        text: the line.
        colours: ranges in order, none over another.
        marks: the same, for words that differ.
    """
    kinds = [""] * len(text)
    for (start, stop), kind in colours:
        kinds[start:stop] = [kind] * (stop - start)
    marked = [False] * len(text)
    for start, stop in marks:
        marked[start:stop] = [True] * (stop - start)
    parts: list[str] = []
    inside = False
    at = 0
    while at < len(text):
        end = at
        while end < len(text) and kinds[end] == kinds[at] and marked[end] == marked[at]:
            end += 1
        if marked[at] != inside:
            parts.append("</mark>" if inside else "<mark>")
            inside = marked[at]
        run = escape(text[at:end])
        parts.append(f'<i class="{kinds[at]}">{run}</i>' if kinds[at] and run.strip() else run)
        at = end
    if inside:
        parts.append("</mark>")
    return "".join(parts)


_SUSPECT = re.compile(f"[{UNSEEN}]")


def escape(text: str) -> str:
    """Text as HTML, with signs that cannot be seen, or that turn what is seen, spelled out."""
    if _SUSPECT.search(text) is None:
        return html.escape(text)
    parts = []
    at = 0
    for match in _SUSPECT.finditer(text):
        sign = match[0]
        name = unicodedata.name(sign, "control character")
        parts.append(html.escape(text[at : match.start()]))
        parts.append(f'<b class="odd" title="{html.escape(name)}">U+{ord(sign):04X}</b>')
        at = match.end()
    return "".join([*parts, html.escape(text[at:])])
