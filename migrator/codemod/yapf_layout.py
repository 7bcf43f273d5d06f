# SPDX-License-Identifier: Apache-2.0
"""Lays out code as yapf and isort do, in trees that were formatted by these.

vLLM was until 0.11.0. yapf weighs all the ways to break a line against each other, so that nothing
short of yapf itself writes what it would; what is added to such a tree goes through it and needs no
comment that keeps a formatter away. Both have formatted alike in all their releases since.
"""

from __future__ import annotations

import ast
import gc
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_HOOK = re.compile(rb"^\s*- id: (yapf|isort)\s*$", re.M)
PASSES = 4
"""How often code is laid out at most until it stays."""


@dataclass(frozen=True, slots=True)
class YapfStyle:
    """How yapf is told to lay out a tree, and isort, if it has a say there."""

    yapf: tuple[tuple[str, str], ...]
    """Options of yapf."""
    isort: tuple[tuple[str, Any], ...] | None
    """Options of isort; None where a tree does without."""

    @classmethod
    def of(cls, tools: Mapping[str, Any], hooks: bytes | None) -> YapfStyle | None:
        """What a tree says; None where yapf is not among its hooks.

        Args:
            tools: `[tool.…]` of its `pyproject.toml`.
            hooks: its `.pre-commit-config.yaml`.
        """
        named = {match.decode() for match in _HOOK.findall(hooks or b"")}
        if "yapf" not in named:
            return None
        options = {"based_on_style": "pep8", **tools.get("yapf", {})}
        yapf = tuple(sorted((key, str(value)) for key, value in options.items()))
        # Which files are skipped is not for one that is laid out.
        told = {key: value for key, value in tools.get("isort", {}).items() if "skip" not in key}
        plain = tuple(sorted((key, told[key]) for key in told if isinstance(told[key], _PLAIN)))
        return cls(yapf, plain if "isort" in named else None)

    def laid_out(self, code: str) -> str:
        """A module, or statements at indentation zero, as both leave them.

        Where they want an import in two ways, isort has its own, as in vLLM's files. Code that yapf
        cannot read, such as syntax that is younger, stays as it is.
        """
        imported = self._by_isort(code)
        for _ in range(PASSES):
            new = self._by_yapf(imported)
            again = self._by_isort(new)
            if again != new:
                new = self._by_yapf(self._set_apart(imported))
                again = self._by_isort(new)
            if new == code:
                break
            code, imported = new, again
        return code

    def _by_isort(self, code: str) -> str:
        if self.isort is None or "import" not in code:
            return code
        import isort

        return isort.code(code, config=_isort_config(self.isort))

    def _by_yapf(self, code: str) -> str:
        from yapf.yapflib import errors, yapf_api

        try:
            text, _ = yapf_api.FormatCode(code, style_config=dict(self.yapf))
        except (errors.YapfError, SyntaxError):
            return code
        finally:
            # Its trees refer to their parents, and the collector may be off.
            gc.collect(0)
        return str(text)

    def _set_apart(self, code: str) -> str:
        """Keep yapf from the imports that isort lays out in another way."""
        lines = code.splitlines(keepends=True)
        imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
        for node in sorted(imports, key=lambda node: -node.lineno):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            indent = " " * node.col_offset
            own = textwrap.dedent("".join(lines[first:last]))
            if self.narrower(node.col_offset)._by_yapf(own) != own:
                lines.insert(last, f"{indent}# yapf: enable\n")
                apart = "# yapf conflicts with isort for this block\n", "# yapf: disable\n"
                lines[first:first] = [indent + comment for comment in apart]
        return "".join(lines)

    def narrower(self, columns: int) -> YapfStyle:
        """The style of what stands behind so many columns, and is laid out without them."""
        from yapf.yapflib import style

        options = dict(self.yapf)
        limit = style.CreateStyleFromConfig(options)["COLUMN_LIMIT"]
        options["column_limit"] = str(limit - columns)
        return YapfStyle(tuple(sorted(options.items())), None)


_PLAIN = (bool, int, str)


@lru_cache(maxsize=8)
def _isort_config(options: tuple[tuple[str, Any], ...]) -> Any:
    import isort

    # By itself it takes what lies in the working directory for the tree's own.
    nowhere = (os.devnull,)
    return isort.Config(src_paths=nowhere, known_first_party=("vllm",), **dict(options))
