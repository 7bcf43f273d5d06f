# SPDX-License-Identifier: Apache-2.0
"""Modules that are added to a tree, laid out as its own are.

Where yapf does it, this takes longer than all else. So a text is laid out once, by any of several
processes, and what came of it is kept from one run to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Protocol

from migrator.codemod.tree_style import Style
from migrator.planning import workers


class Layouts(Protocol):
    """What texts were laid out to in earlier runs."""

    def get_layout(self, style: Style, text: bytes) -> bytes | None:
        """A module as a style has it; None where unknown."""

    def put_layout(self, style: Style, text: bytes, laid_out: bytes) -> None:
        """Keep a module as a style has it."""


def lay_out(
    rendered: Mapping[str, bytes], style: Style, jobs: int, known: Layouts | None
) -> dict[str, bytes]:
    """Files in the style of a tree.

    Args:
        rendered: path → content; what is no Python stays as it is.
        style: of the tree.
        jobs: processes to use at most.
        known: looked at before a module is laid out, and told what became of it.
    """
    done = dict(rendered)
    if style.yapf is None:
        return done
    todo = []
    # Longest first, so that no process is left with a long one at the end.
    for path in sorted(rendered, key=lambda path: (-len(rendered[path]), path)):
        if path.endswith(".py"):
            found = known.get_layout(style, rendered[path]) if known is not None else None
            if found is None:
                todo.append(path)
            else:
                done[path] = found
    new = _lay_out([rendered[path] for path in todo], style, jobs)
    for path, text in zip(todo, new, strict=True):
        done[path] = text
        if known is not None:
            known.put_layout(style, rendered[path], text)
    return done


def _lay_out(texts: Sequence[bytes], style: Style, jobs: int) -> list[bytes]:
    work = partial(_module, style)
    jobs = min(jobs, len(texts))
    if jobs > 1:
        try:
            with (
                workers.forking(),
                ProcessPoolExecutor(
                    jobs, mp_context=workers.FORK, initializer=workers.settle
                ) as pool,
            ):
                return list(pool.map(work, texts))
        except BrokenProcessPool:
            pass  # one was killed, as for its memory; alone there may be enough
    return list(map(work, texts))


def _module(style: Style, text: bytes) -> bytes:
    return style.module(text.decode()).encode()
