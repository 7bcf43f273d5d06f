# SPDX-License-Identifier: Apache-2.0
"""What a tree calls its files and says in its code, made harmless for the medium it is shown in.

A name or a line of source may hold whatever a terminal, GitHub's runner, Markdown or HTML obeys.
There is one function for each medium here; HTML is what `page` gives, escaped as HTML once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f"
)
"""Signs that cannot be seen, or that turn what is seen, as a character class has them."""
_UNSEEN = re.compile(f"[{UNSEEN}]")
_IN_A_LINE = re.compile(f"[{UNSEEN}\n]")
_OLD_COMMAND = "##["
"""What GitHub's runner takes for a command anywhere in a line; `::` is one at its start only."""


def terminal(text: str) -> str:
    """One line of text for a terminal or a log: no sign in it does more than to be seen.

    Control characters are written as `^[`, bytes of a name that are not UTF-8 as `\\xe9`, and the
    others as `<U+202E>`. Nothing in it begins a command of GitHub's runner.
    """
    text = _IN_A_LINE.sub(_spelled, text)
    if _OLD_COMMAND in text:
        text = text.replace(_OLD_COMMAND, "##\\[")
    stripped = text.lstrip()
    if stripped.startswith("::"):
        text = text[: len(text) - len(stripped)] + "\\" + stripped
    return text


def page(text: str) -> str:
    """Text of several lines without signs that cannot be seen; it is still to be escaped."""
    return _UNSEEN.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    sign = match[0]
    number = ord(sign)
    if number < 0x20 or number == 0x7F:
        return f"^{chr(number ^ 64)}"
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return f"<U+{number:04X}>"


def code(text: str) -> str:
    """Text as code in Markdown: a span that nothing in it ends."""
    text = terminal(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    if not longest:
        return f"`{text}`"
    ticks = "`" * (longest + 1)
    return f"{ticks} {text} {ticks}"


def prose(text: str) -> str:
    """A sentence in Markdown: what is between backticks is code.

    Nothing else in it is markup: no heading, link, picture, tag or entity.
    """
    return "".join(_prose(terminal(text)))


def _prose(text: str) -> Iterator[str]:
    parts = text.split("`")
    if len(parts) % 2 == 0 or "``" in text:
        yield re.sub(r"[\\`<\[\]&]", r"\\\g<0>", text)
        return
    for number, part in enumerate(parts):
        if number % 2:
            yield code(part)
        else:
            yield re.sub(r"[\\<\[\]&]", r"\\\g<0>", part)
