# SPDX-License-Identifier: Apache-2.0
"""What a name may be bound to where it is read, in Python's own syntax tree.

Scopes are Python's: functions, lambdas, comprehensions and classes, `global` and `nonlocal`. Within
a function or a module the bindings that reach a read are followed through branches, loops, `try`
and `match`; a function that is called at another time may see any binding of the scopes around it.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence

from migrator.codemod.bindings import Binding, Bindings, Noted, Scope
from migrator.codemod.flow_walker import walk
from migrator.codemod.syntax import dotted, lines_of, span


class Flow(Noted):
    """The names of a module.

    Functions are looked into when they are asked for: most of a module matters to nobody.

    Args:
        module: Python's syntax tree of it.
        data: its source.
        package: parts of the package that relative imports start from; left out where unknown.
    """

    def __init__(self, module: ast.Module, data: bytes, package: Sequence[str] = ()) -> None:
        super().__init__(module, package)
        walk(self, module.body)
        # What these bind is seen everywhere.
        self.enter(lines_of(rb"\b(?:global|nonlocal)\b", data))

    def enter(self, lines: Collection[int]) -> None:
        """Look into the functions around some lines, and those inside of them."""
        entered: set[int] = set()
        more = True
        while more:
            more = False
            for key, (node, look) in [*self.bodies.items()]:
                first, last = span(node)
                within = id(self.scopes[key].node) in entered
                if within or any(first <= line <= last for line in lines):
                    del self.bodies[key]
                    entered.add(key)
                    look()
                    more = True
        for add in self.late:
            add()
        self.late.clear()

    def bindings(self, node: ast.Name | ast.Attribute) -> Bindings:
        """What may be bound to a name where it is read; empty for a builtin or an unbound name.

        A chain of attributes has bindings where it was assigned, or asked about by `isinstance`,
        on the way to this read.
        """
        return frozenset(self.reads.get(id(node), ()))

    def scope_of(self, node: ast.AST) -> Scope:
        """The scope that a name, an attribute or a definition stands in."""
        return self.scopes.get(id(node), self.top)

    def qualified(self, node: ast.AST) -> tuple[str | None, bool]:
        """The qualified name of a name or a chain of attributes, by the imports that reach it.

        Returns:
            The name, None where no import is behind it; and whether that is certain: nothing but
            imports of the same thing, or assignments of it, reach it.
        """
        chain: list[str] = []
        at = node
        while isinstance(at, ast.Attribute):
            chain.append(at.attr)
            at = at.value
        if not isinstance(at, ast.Name):
            return None, True
        found = {self._origin(binding, 0) for binding in self.bindings(at) if not _is_none(binding)}
        names = {name for name in found if name is not None}
        if not names:
            return None, True
        certain = len(found) == 1
        return ".".join([min(names), *reversed(chain)]), certain

    def _origin(self, binding: Binding, depth: int) -> str | None:
        if binding.kind == "import":
            return binding.name
        if binding.kind == "value" and not binding.steps and isinstance(binding.node, ast.expr):
            return self._stands_for(binding.node, depth + 1)
        return None

    def _stands_for(self, node: ast.expr, depth: int) -> str | None:
        """The qualified name that an expression stands for, where only imports reach it."""
        if depth > 4:
            return None
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        base: str | None = None
        if isinstance(node, ast.Name):
            found = {self._origin(each, depth) for each in self.bindings(node)}
            base = found.pop() if len(found) == 1 else None
        elif isinstance(node, ast.Call) and node.args:
            last = node.args[-1]
            text = last.value if isinstance(last, ast.Constant) else None
            called = dotted(node.func) or ""
            if not isinstance(text, str):
                base = None
            elif called == "getattr" and len(node.args) == 2:
                of = self._stands_for(node.args[0], depth + 1)
                base = None if of is None else f"{of}.{text}"
            elif called.rpartition(".")[2] == "import_module" and len(node.args) == 1:
                base = text
        return None if base is None else ".".join([base, *reversed(parts)])


def _is_none(binding: Binding) -> bool:
    """Is nothing bound, as where an import failed?"""
    node = binding.node
    return (
        binding.kind == "value"
        and not binding.steps
        and isinstance(node, ast.Constant)
        and node.value is None
    )
