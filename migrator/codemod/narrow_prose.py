# SPDX-License-Identifier: Apache-2.0
"""Comments, docstrings and messages over shorter lines than they were written in.

Templates are written in the 88 columns of today's vLLM; formatters lay out code in the columns that
a tree has, and leave prose alone.
"""

from __future__ import annotations

import ast
import re

_QUOTES = '"""'
_ITEM = re.compile(r"[*-] ")
_ENTRY = re.compile(r"[\w*`.]+: ")
_SECTION = re.compile(r"\w+:$")


def narrowed(text: str, width: int) -> str:
    """A module whose comments, docstrings and messages keep to so many columns.

    What is too much for a line begins the next one of its paragraph, or a new one. A string that
    has its line for itself becomes two, one behind the other. Comments behind code stay, and so
    does what has no space where a line could end.
    """
    lines = text.splitlines()
    if all(len(line) <= width for line in lines):
        return text
    documented = _documented(text)
    # A line is visited after those before it have put into it what they had too much.
    todo = [
        (line, number in documented, number in documented or line.lstrip().startswith("#"))
        for number, line in enumerate(lines)
    ]
    todo.reverse()
    done: list[str] = []
    while todo:
        line, is_document, is_prose = todo.pop()
        if not is_prose:
            done += _parted(line, width)
            continue
        cut = _cut(line, width) if len(line) > width else 0
        if not cut:
            done.append(line)
            continue
        rest = line[cut:].strip()
        done.append(line[:cut].rstrip())
        follows, *_ = todo[-1:] or [("", False, False)]
        if is_document and rest.endswith(_QUOTES):
            todo.append((_indent(line) + _QUOTES, True, True))
            todo.append((_continued(line, is_document) + rest.removesuffix(_QUOTES), True, True))
        elif follows[1:] == (is_document, True) and _goes_on(line, follows[0], is_document):
            todo.pop()
            lead = _indent(follows[0]) + ("" if is_document else "# ")
            words = follows[0][len(lead) :].lstrip()
            todo.append((f"{lead}{rest} {words}", is_document, True))
        else:
            todo.append((_continued(line, is_document) + rest, is_document, True))
    return "\n".join(done) + "\n"


def _documented(text: str) -> set[int]:
    """Numbers of the lines of docstrings, those of attributes too, from 0."""
    return {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno - 1, node.end_lineno or node.lineno)
    }


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _cut(line: str, width: int) -> int:
    """Where a line that is too long may end; 0 where it may not."""
    cut = line.rfind(" ", 0, width + 1)
    return cut if line[:cut].strip(f' #*-{_QUOTES}"') else 0


_STRING = re.compile(
    r"(?P<lead> *)(?P<keyword>(?:return |yield )?)"
    r'(?P<kind>f?)"(?P<text>(?:[^"\\]|\\.)*)"(?P<behind>[,)]*)'
)


def _parted(line: str, width: int) -> list[str]:
    """A line of a string alone, which stands in brackets, over several; behind a keyword too."""
    string = _STRING.fullmatch(line)
    if string is None or len(line) <= width:
        return [line]
    lead, keyword, kind, text, behind = string.groups()
    if keyword:
        parts = _parted(f'{lead}    {kind}"{text}"', width)
        enough = all(len(part) <= width for part in parts)
        return [f"{lead}{keyword}(", *parts, f"{lead})"] if enough else [line]
    parts = []
    while len(lead) + len(kind) + 2 + len(text) + len(behind) > width:
        cut = text.rfind(" ", 0, width - len(lead) - len(kind) - 2) + 1
        while kind and text[:cut].count("{") != text[:cut].count("}"):
            cut = text.rfind(" ", 0, cut - 1) + 1
        if not cut:
            break
        parts.append(text[:cut])
        text = text[cut:]
    parts.append(text)
    # What holds no value needs no `f`; braces that stand for themselves do.
    kinds = [kind if "{" in part or "}" in part else "" for part in parts]
    if kind and not any(kinds):
        kinds[0] = kind
    quoted = [f'{lead}{kind}"{part}"' for kind, part in zip(kinds, parts, strict=True)]
    return [*quoted[:-1], quoted[-1] + behind]


def _continued(line: str, is_document: bool) -> str:
    """What the next line of a paragraph begins with."""
    prose, lead = line.lstrip(), _indent(line)
    if not is_document:
        return f"{lead}# "
    if _ITEM.match(prose):
        return f"{lead}  "
    # An entry of a section is one level below it, and that below the docstring.
    return f"{lead}    " if len(lead) >= 8 and _ENTRY.match(prose) else lead


def _goes_on(line: str, follows: str, is_document: bool) -> bool:
    """Does the next line belong to the paragraph of this one?"""
    prose = follows.strip()
    if not is_document:
        return _indent(line) == _indent(follows) and prose.strip("#") != ""
    if not prose or prose.startswith(_QUOTES) or _ITEM.match(prose) or _SECTION.match(prose):
        return False
    return _indent(follows) == _continued(line, is_document) or (
        _indent(follows) == _indent(line) and not _ENTRY.match(prose)
    )
