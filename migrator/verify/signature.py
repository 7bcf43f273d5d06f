# SPDX-License-Identifier: Apache-2.0
"""Signatures of operators and of Python functions, and the binding of a call to one of them."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How an argument reaches its parameter."""

    POSITIONAL_ONLY = "positional only"
    EITHER = "positional or keyword"
    VAR_POSITIONAL = "*args"
    KEYWORD_ONLY = "keyword only"
    VAR_KEYWORD = "**kwargs"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; `type` is the schema's type text, None where the language has none."""

    name: str
    kind: Kind
    required: bool
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a callable takes. `text` is what a reader is shown."""

    text: str
    parameters: tuple[Parameter, ...]

    def without_first(self) -> Signature:
        """The same without the parameter that a bound method fills (`self`, `cls`)."""
        first = self.parameters[:1]
        if first and first[0].kind in (Kind.POSITIONAL_ONLY, Kind.EITHER):
            name = first[0].name
            text = re.sub(rf"\({name}\b[^,)]*(?:, (?:/, )?|(?=\)))", "(", self.text, count=1)
            return Signature(text, self.parameters[1:])
        return self


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why a call does not bind, at the argument that causes it."""

    message: str
    node: ast.AST


@dataclass(frozen=True, slots=True)
class Bound:
    """What a call gives to the parameters, as far as its source shows."""

    problems: tuple[Problem, ...]
    arguments: tuple[tuple[Parameter, ast.expr], ...]


def bind(signature: Signature, call: ast.Call) -> Bound:
    """Bind `call` to `signature` as the interpreter would, and keep on after a problem.

    `*args` and `**kwargs` in the call may fill any parameter, so with them neither a missing
    argument nor (after `*args`) a doubled one is claimed.
    """
    either = [p for p in signature.parameters if p.kind in (Kind.POSITIONAL_ONLY, Kind.EITHER)]
    by_keyword = {
        p.name: p for p in signature.parameters if p.kind in (Kind.EITHER, Kind.KEYWORD_ONLY)
    }
    takes_any_position = any(p.kind is Kind.VAR_POSITIONAL for p in signature.parameters)
    takes_any_keyword = any(p.kind is Kind.VAR_KEYWORD for p in signature.parameters)
    problems: list[Problem] = []
    arguments: list[tuple[Parameter, ast.expr]] = []
    filled: set[str] = set()
    starred = False

    positional = 0
    for argument in call.args:
        if isinstance(argument, ast.Starred):
            starred = True
        elif not starred:
            if positional < len(either):
                arguments.append((either[positional], argument))
                filled.add(either[positional].name)
            positional += 1
    given = positional
    if given > len(either) and not takes_any_position:
        extra = [a for a in call.args if not isinstance(a, ast.Starred)][len(either)]
        problems.append(
            Problem(
                f"takes {_count(len(either))}, {given} given" + _keyword_only_hint(signature),
                extra,
            )
        )

    double_starred = False
    for keyword in call.keywords:
        if keyword.arg is None:
            double_starred = True
            continue
        parameter = by_keyword.get(keyword.arg)
        if parameter is None:
            if not takes_any_keyword:
                problems.append(
                    Problem(
                        f"has no argument `{keyword.arg}`" + did_you_mean(keyword.arg, by_keyword),
                        keyword,
                    )
                )
        elif parameter.name in filled:
            problems.append(Problem(f"argument `{parameter.name}` is given twice", keyword))
        else:
            filled.add(parameter.name)
            arguments.append((parameter, keyword.value))

    if not starred and not double_starred:
        missing = [p.name for p in signature.parameters if p.required and p.name not in filled]
        if missing:
            names = ", ".join(f"`{name}`" for name in missing)
            problems.append(Problem(f"required argument {names} is missing", call))
    elif not double_starred:
        missing = [
            p.name
            for p in signature.parameters
            if p.required and p.kind is Kind.KEYWORD_ONLY and p.name not in filled
        ]
        if missing:
            names = ", ".join(f"`{name}`" for name in missing)
            problems.append(Problem(f"required keyword argument {names} is missing", call))
    return Bound(tuple(problems), tuple(arguments))


def of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str | None = None) -> Signature:
    """The signature in the source of a function; `name` replaces its own in the text."""
    spec = node.args
    parameters: list[Parameter] = []
    positional = [*spec.posonlyargs, *spec.args]
    first_default = len(positional) - len(spec.defaults)
    for index, argument in enumerate(positional):
        kind = Kind.POSITIONAL_ONLY if index < len(spec.posonlyargs) else Kind.EITHER
        parameters.append(Parameter(argument.arg, kind, required=index < first_default))
    if spec.vararg:
        parameters.append(Parameter(spec.vararg.arg, Kind.VAR_POSITIONAL, required=False))
    parameters.extend(
        Parameter(argument.arg, Kind.KEYWORD_ONLY, required=default is None)
        for argument, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    )
    if spec.kwarg:
        parameters.append(Parameter(spec.kwarg.arg, Kind.VAR_KEYWORD, required=False))
    return Signature(f"{name or node.name}({ast.unparse(spec)})", tuple(parameters))


def did_you_mean(name: str, known: Sequence[str] | dict[str, Parameter] | set[str]) -> str:
    """`; did you mean …?` for the nearest of `known`, or nothing."""
    near = nearest(name, list(known))
    if not near:
        return ""
    return "; did you mean " + " or ".join(f"`{n}`" for n in near) + "?"


def nearest(name: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Up to `count` of `known` that a slip could have turned into `name`, best first."""
    return difflib.get_close_matches(name, known, n=count, cutoff=0.75)


def _count(number: int) -> str:
    if number == 0:
        return "no positional argument"
    return f"at most {number} positional argument" + ("s" if number > 1 else "")


def _keyword_only_hint(signature: Signature) -> str:
    names = [p.name for p in signature.parameters if p.kind is Kind.KEYWORD_ONLY]
    if not names:
        return ""
    shown = ", ".join(f"`{n}`" for n in names[:3]) + (", …" if len(names) > 3 else "")
    return f" (by keyword only: {shown})"
