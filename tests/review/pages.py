# SPDX-License-Identifier: Apache-2.0
"""A page of HTML as the tests see it: its elements, their texts and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "input", "br", "img", "hr", "wbr"})


@dataclass
class Element:
    """An element, with what is in it."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str = "", class_: str = "") -> list[Element]:
        """Elements inside of this one, by tag or by class or by both."""
        return [
            element
            for element in self.walk()
            if element is not self
            and (not tag or element.tag == tag)
            and (not class_ or class_ in element.classes)
        ]

    def above(self, class_: str) -> Element:
        """The nearest element around this one that has a class."""
        element = self.parent
        while element is not None and class_ not in element.classes:
            element = element.parent
        assert element is not None
        return element


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.here = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> at {self.getpos()} ends <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def parse(page: str) -> Element:
    """The page's root; the test fails where elements are not closed in order."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.here is parser.root, f"<{parser.here.tag}> is never closed"
    return parser.root


def shown_lines(article: Element) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Removed and added lines that a file's diff shows: number from 1 on, text."""
    removed = [(int(e.attributes["data-n"]), e.text) for e in article.all("del", "o")]
    added = [(int(e.attributes["data-n"]), e.text) for e in article.all("ins", "n")]
    return removed, added
