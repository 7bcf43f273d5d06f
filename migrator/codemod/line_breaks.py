# SPDX-License-Identifier: Apache-2.0
"""Breaks a statement over lines as ruff's formatter does.

An edit makes a line longer or shorter; what it leaves has to be written as the tree's formatter
would have it, and nothing else may be touched. So this lays out one statement at a time, at the
indentation and in the columns that it has.

The rules are those of ruff: an expression that is too long for its line is broken at its last
brackets if what stands before them fits, and put into parentheses of its own otherwise; the content
of brackets goes on a line of its own, and one part a line where that is too long as well, with a
trailing comma, which keeps it so. Operators begin a line. What it does not know how to write, such
as a statement with a comment inside of it, it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import libcst as cst

from migrator.codemod.documents import (
    Broken,
    Concat,
    Doc,
    Group,
    Indent,
    Line,
    Need,
    Printer,
    Wrappable,
    brackets,
    concat,
)


class UnknownLayoutError(Exception):
    """There is something in a statement that is not known how to break."""


# Expressions as documents.

_PRECEDENCE: dict[type[cst.CSTNode], int] = {
    cst.Power: 2,
    cst.Multiply: 4,
    cst.MatrixMultiply: 4,
    cst.Divide: 4,
    cst.Modulo: 4,
    cst.FloorDivide: 4,
    cst.Add: 5,
    cst.Subtract: 5,
    cst.LeftShift: 6,
    cst.RightShift: 6,
    cst.BitAnd: 7,
    cst.BitXor: 8,
    cst.BitOr: 9,
}
_ATTRIBUTE, _COMPARISON, _BOOLEAN, _CONDITIONAL, _STRINGS = 1, 10, 11, 12, 13
_OWN_BRACKETS = (
    cst.List,
    cst.Set,
    cst.Dict,
    cst.Tuple,
    cst.ListComp,
    cst.SetComp,
    cst.DictComp,
    cst.GeneratorExp,
)
_CODE = cst.Module([])


def _text(node: cst.CSTNode) -> str:
    """The source of a node that is not broken."""
    text = _CODE.code_for_node(node)
    if "\n" in text or "\r" in text or ("#" in text and not isinstance(node, _STRING_NODES)):
        raise UnknownLayoutError
    return text


_STRING_NODES = (cst.SimpleString, cst.FormattedString)


def _bare(node: cst.BaseExpression) -> cst.BaseExpression:
    """An expression without the parentheses around it."""
    if isinstance(node, (cst.Tuple, cst.GeneratorExp)):
        return node
    return node.with_changes(lpar=[], rpar=[])


def _expression(node: cst.BaseExpression, inside: bool) -> Doc:
    """An expression.

    Args:
        node: the expression.
        inside: it stands in brackets, so that it may be broken at its operators.
    """
    if node.lpar and not isinstance(node, (cst.Tuple, cst.GeneratorExp)):
        if len(node.lpar) > 1:
            raise UnknownLayoutError
        return brackets("(", _expression(_bare(node), True), ")")
    space: Doc = Line(" ") if inside else " "
    if isinstance(node, (cst.Attribute, cst.Call, cst.Subscript)):
        fluent = inside and _is_fluent(node)
        chain = _chain(node, inside, fluent)
        return Group(chain) if fluent else chain
    if isinstance(node, (cst.BooleanOperation, cst.BinaryOperation, cst.Comparison)):
        first, *others = _operands(node)
        parts: list[Doc] = [_expression(first[1], inside)]
        for operator, operand in others:
            if operator == "**" and all(map(_is_simple, (first[1], operand))):
                parts += [operator, _expression(operand, inside)]
            else:
                parts += [space, f"{operator} ", _expression(operand, inside)]
        content = concat(*parts)
        return Group(content) if inside else content
    if isinstance(node, cst.UnaryOperation):
        operator = _text(node.operator).strip()
        operator += " " if isinstance(node.operator, cst.Not) else ""
        return concat(operator, _expression(node.expression, inside))
    if isinstance(node, cst.IfExp):
        content = concat(
            _expression(node.body, inside),
            space,
            "if ",
            _expression(node.test, inside),
            space,
            "else ",
            _expression(node.orelse, inside),
        )
        return Group(content) if inside else content
    if isinstance(node, _OWN_BRACKETS):
        return _display(node)
    if isinstance(node, cst.ConcatenatedString):
        content = _joined_by(space, [_text(part) for part in _strings(node)])
        return Group(content) if inside else content
    return _text(node)


def _chain(node: cst.BaseExpression, inside: bool, fluent: bool) -> Doc:
    """Attributes, calls and subscripts, one behind the other; a fluent chain breaks at dots."""
    if node.lpar or not isinstance(node, (cst.Attribute, cst.Call, cst.Subscript)):
        return _expression(node, inside)
    if isinstance(node, cst.Call):
        return concat(_chain(node.func, inside, fluent), _arguments(node.args))
    value = _chain(node.value, inside, fluent)
    if isinstance(node, cst.Subscript):
        return concat(value, _listed([_slice(element) for element in node.slice], "[", "]"))
    dot = f".{node.attr.value}"
    if fluent and (node.value.lpar or isinstance(node.value, (cst.Call, cst.Subscript))):
        return concat(value, Line(), dot)
    return concat(value, dot)


def _is_fluent(node: cst.BaseExpression) -> bool:
    """Is it a chain of two calls of methods or more, which is broken before its dots?"""
    dots = 0
    at = node
    while True:
        if isinstance(at, cst.Attribute):
            at = at.value
            if at.lpar:
                return dots >= 1
            dots += isinstance(at, (cst.Call, cst.Subscript))
        elif isinstance(at, (cst.Call, cst.Subscript)):
            at = at.func if isinstance(at, cst.Call) else at.value
        else:
            return dots >= 2
        if at.lpar:
            return dots >= 2


def _operands(
    node: cst.BooleanOperation | cst.BinaryOperation | cst.Comparison,
) -> Iterator[tuple[str, cst.BaseExpression]]:
    """The operands of a chain of operators of one precedence, each with the operator before it."""
    if isinstance(node, cst.Comparison):
        yield "", node.left
        for target in node.comparisons:
            yield _operator(target.operator), target.comparator
        return
    left = node.left
    if type(left) is type(node) and not left.lpar and _rank(left) == _rank(node):
        yield from _operands(left)
    else:
        yield "", left
    yield _operator(node.operator), node.right


def _operator(node: cst.CSTNode) -> str:
    return " ".join(_CODE.code_for_node(node).split())


def _is_simple(node: cst.BaseExpression) -> bool:
    """Is it a name or number, so that a power of it has no spaces?"""
    if isinstance(node, cst.UnaryOperation) and not isinstance(node.operator, cst.Not):
        return _is_simple(node.expression)
    if isinstance(node, cst.Attribute):
        return _is_simple(node.value)
    return isinstance(node, (cst.Name, cst.Integer, cst.Float)) and not node.lpar


def _rank(node: cst.BaseExpression) -> object:
    if isinstance(node, cst.BinaryOperation):
        return _PRECEDENCE.get(type(node.operator))
    return type(node.operator) if isinstance(node, cst.BooleanOperation) else None


def _strings(node: cst.ConcatenatedString) -> Iterator[cst.BaseExpression]:
    yield node.left
    if isinstance(node.right, cst.ConcatenatedString):
        yield from _strings(node.right)
    else:
        yield node.right


def _joined_by(separator: Doc, parts: Iterable[Doc]) -> Concat:
    joined: list[Doc] = []
    for part in parts:
        joined += [separator, part] if joined else [part]
    return concat(*joined)


def _joined(parts: Sequence[Doc]) -> Concat:
    """What stands in brackets, with a comma behind a last part of several that ends its line."""
    content = _joined_by(concat(",", Line(" ")), parts)
    return concat(content, Broken(",")) if len(parts) > 1 else content


def _listed(parts: Sequence[Doc], left: str, right: str, *, kept_open: bool = False) -> Doc:
    """Arguments or parameters, which may stand on a line of their own together."""
    if kept_open and len(parts) == 1:
        return brackets(left, concat(parts[0], ","), right, expanded=True)
    return brackets(left, Group(_joined(parts), kept_open), right, expanded=kept_open)


def _arguments(arguments: Sequence[cst.Arg]) -> Doc:
    if not arguments:
        return "()"
    parts = []
    for argument in arguments:
        name = f"{argument.keyword.value}=" if argument.keyword is not None else argument.star
        parts.append(concat(name, _expression(argument.value, True)))
    only = arguments[0].value
    if len(arguments) == 1 and isinstance(only, cst.GeneratorExp) and not only.lpar:
        return brackets("(", Group(parts[0]), ")")
    return _listed(parts, "(", ")", kept_open=_is_kept_open(arguments[-1].comma))


def _is_kept_open(comma: object) -> bool:
    """Is there a comma behind the last part, which keeps each part on its own line?"""
    return isinstance(comma, cst.Comma)


def _slice(element: cst.SubscriptElement) -> Doc:
    index = element.slice
    if isinstance(index, cst.Index):
        return concat(index.star or "", _expression(index.value, True))
    return _text(index)


def _display(node: cst.CSTNode) -> Doc:
    """A list, set, dictionary, tuple or comprehension."""
    if isinstance(node, (cst.List, cst.Set, cst.Tuple)):
        left, right = {cst.List: ("[", "]"), cst.Set: ("{", "}"), cst.Tuple: ("(", ")")}[type(node)]
        if not node.elements:
            return left + right
        parts = [_element(element) for element in node.elements]
        if isinstance(node, cst.Tuple) and (not node.lpar or len(parts) == 1):
            if not node.lpar:
                raise UnknownLayoutError
            return brackets(left, concat(parts[0], ","), right)
        return _shown(parts, left, right, node.elements[-1].comma)
    if isinstance(node, cst.Dict):
        if not node.elements:
            return "{}"
        parts = [_entry(element) for element in node.elements]
        return _shown(parts, "{", "}", node.elements[-1].comma)
    assert isinstance(node, (cst.ListComp, cst.SetComp, cst.DictComp, cst.GeneratorExp))
    element: Doc
    if isinstance(node, cst.DictComp):
        element = concat(_expression(node.key, True), ": ", _expression(node.value, True))
    else:
        element = _expression(node.elt, True)
    content = Group(concat(element, *_comprehension(node.for_in)))
    if isinstance(node, cst.GeneratorExp):
        return brackets("(", content, ")") if node.lpar else content
    left, right = ("[", "]") if isinstance(node, cst.ListComp) else ("{", "}")
    return brackets(left, content, right)


def _shown(parts: Sequence[Doc], left: str, right: str, comma: object) -> Doc:
    """A display, of which each part has its own line where it is broken."""
    kept_open = _is_kept_open(comma)
    if kept_open and len(parts) == 1:
        return brackets(left, concat(parts[0], ","), right, expanded=True)
    return brackets(left, _joined(parts), right, expanded=kept_open)


def _in_optional_brackets(parts: Sequence[Doc], *, kept_open: bool = False) -> Doc:
    """Parts that are in parentheses where they do not fit, and each on its own line then."""
    comma = Broken("," if len(parts) == 1 else "")
    inner = Indent(concat(Line(), _joined(parts), comma))
    return Group(concat(Broken("("), inner, Line(), Broken(")")), kept_open)


def _element(element: cst.BaseElement) -> Doc:
    star = "*" if isinstance(element, cst.StarredElement) else ""
    return concat(star, _expression(element.value, True))


def _entry(element: cst.BaseDictElement) -> Doc:
    if isinstance(element, cst.DictElement):
        return concat(_text(element.key), ": ", _expression(element.value, True))
    return concat("**", _expression(element.value, True))


def _comprehension(node: cst.CompFor) -> Iterator[Doc]:
    yield Line(" ")
    yield f"{'async ' if node.asynchronous else ''}for {_text(node.target)} in "
    yield _expression(node.iter, True)
    for condition in node.ifs:
        yield from (Line(" "), "if ", _expression(condition.test, True))
    if node.inner_for_in is not None:
        yield from _comprehension(node.inner_for_in)


class _Precedence:
    """What the operators of an expression have to say about parentheses around it."""

    def __init__(self, node: cst.BaseExpression) -> None:
        self.highest = self.count = 0
        self.has_brackets = False
        self.first: cst.BaseExpression | None = None
        self.starts_with_token = False
        self.last: cst.BaseExpression | None = None
        self._look_into(node)

    def _count(self, precedence: int, count: int) -> None:
        if precedence > self.highest:
            self.highest, self.count = precedence, count
        elif precedence == self.highest:
            self.count += count

    def _visit(self, node: cst.BaseExpression) -> None:
        self.last = node
        if node.lpar and not isinstance(node, (cst.Tuple, cst.GeneratorExp)):
            self.has_brackets = True
        else:
            self._look_into(node)
        if self.first is None and not self.starts_with_token:
            self.first = node

    def _look_into(self, node: cst.BaseExpression) -> None:
        if isinstance(node, _OWN_BRACKETS):
            self.has_brackets = True
        elif isinstance(node, (cst.BooleanOperation, cst.BinaryOperation, cst.Comparison)):
            operands = list(_operands(node))
            precedence = (
                _COMPARISON
                if isinstance(node, cst.Comparison)
                else _BOOLEAN
                if isinstance(node, cst.BooleanOperation)
                else _PRECEDENCE[type(node.operator)]
            )
            self._count(precedence, len(operands) - 1)
            for _, operand in operands:
                self._visit(operand)
        elif isinstance(node, cst.IfExp):
            self._count(_CONDITIONAL, 2)
            for part in (node.body, node.test, node.orelse):
                self._visit(part)
        elif isinstance(node, (cst.Call, cst.Subscript)):
            self.has_brackets = True
            self._visit(node.func if isinstance(node, cst.Call) else node.value)
            self.last = node
        elif isinstance(node, cst.Attribute):
            self._visit(node.value)
            if _has_brackets(node.value):
                self._count(_ATTRIBUTE, 1)
            self.last = node
        elif isinstance(node, cst.UnaryOperation):
            self.starts_with_token = self.first is None
            self._visit(node.expression)
        elif isinstance(node, cst.ConcatenatedString):
            self._count(_STRINGS, len(list(_strings(node))) - 1)

    @property
    def may_omit(self) -> bool:
        """Can the expression do without parentheses, if it fits when its brackets are broken?"""
        if not self.has_brackets or self.count > 1:
            return False
        if self.highest <= _ATTRIBUTE:
            return True
        ends = [self.last, self.first]
        return any(end is not None and _has_brackets(end, filled=True) for end in ends)


def _has_brackets(node: cst.BaseExpression, *, filled: bool = False) -> bool:
    """Does an expression begin or end with brackets of its own, with something in them?"""
    if node.lpar:
        return True
    if isinstance(node, cst.Call):
        return bool(node.args) or not filled
    if isinstance(node, (cst.List, cst.Set, cst.Dict, cst.Tuple)):
        return bool(node.elements) or not filled
    return isinstance(node, (cst.Subscript, *_OWN_BRACKETS))


def _need(node: cst.BaseExpression) -> Need:
    """When an expression at the level of a statement gets parentheses."""
    if isinstance(node, _OWN_BRACKETS):
        return Need.NEVER
    look = _Precedence(node)
    if not look.has_brackets and not look.count:
        return Need.FITS
    if not look.may_omit:
        return Need.ALWAYS
    return Need.FIRST if look.highest <= _ATTRIBUTE else Need.RIGHT


def _whole(node: cst.BaseExpression) -> Doc:
    """An expression at the level of a statement."""
    if len(node.lpar) > 1:
        raise UnknownLayoutError
    if isinstance(node, cst.Tuple) and not node.lpar:
        if len(node.elements) < 2:
            raise UnknownLayoutError
        return _in_optional_brackets([_element(element) for element in node.elements])
    node = _bare(node)
    return Wrappable(_expression(node, False), _expression(node, True), _need(node))


# Statements.


def _simple(node: cst.BaseSmallStatement) -> Doc:
    if isinstance(node, cst.Expr):
        return _whole(node.value)
    if isinstance(node, cst.Assign):
        targets = "".join(f"{_text(target.target)} = " for target in node.targets)
        return concat(targets, _whole(node.value))
    if isinstance(node, cst.AnnAssign) and node.value is not None:
        annotated = f"{_text(node.target)}: {_text(node.annotation.annotation)} = "
        return concat(annotated, _whole(node.value))
    if isinstance(node, cst.AugAssign):
        operator = _text(node.operator).strip()
        return concat(f"{_text(node.target)} {operator} ", _whole(node.value))
    if isinstance(node, cst.Return) and node.value is not None:
        return concat("return ", _whole(node.value))
    if isinstance(node, cst.Raise) and node.exc is not None and node.cause is None:
        return concat("raise ", _whole(node.exc))
    if isinstance(node, cst.Assert):
        message = [] if node.msg is None else [", ", _whole(node.msg)]
        return concat("assert ", _whole(node.test), *message)
    if isinstance(node, cst.ImportFrom) and not isinstance(node.names, cst.ImportStar):
        dots = "." * len(node.relative)
        module = "" if node.module is None else _text(node.module)
        names = [_text(name.with_changes(comma=cst.MaybeSentinel.DEFAULT)) for name in node.names]
        kept_open = bool(node.lpar) and _is_kept_open(node.names[-1].comma)
        listed = _in_optional_brackets(names, kept_open=kept_open)
        return concat(f"from {dots}{module} import ", listed)
    return _text(node)


def _function(node: cst.FunctionDef) -> Doc:
    result = f" -> {_text(node.returns.annotation)}" if node.returns is not None else ""
    start = f"{'async ' if node.asynchronous else ''}def {node.name.value}"
    params = node.params
    parts: list[Doc] = [_parameter(parameter) for parameter in params.posonly_params]
    parts += ["/"] if parts else []
    parts += [_parameter(parameter) for parameter in params.params]
    if isinstance(params.star_arg, cst.Param):
        parts.append(_parameter(params.star_arg))
    elif params.kwonly_params:
        parts.append("*")
    parts += [_parameter(parameter) for parameter in params.kwonly_params]
    if params.star_kwarg is not None:
        parts.append(_parameter(params.star_kwarg))
    if not parts:
        return f"{start}(){result}:"
    kept_open = _CODE.code_for_node(params).rstrip().endswith(",")
    return concat(start, _listed(parts, "(", ")", kept_open=kept_open), result, ":")


def _parameter(node: cst.Param) -> str:
    alone = node.with_changes(
        comma=cst.MaybeSentinel.DEFAULT, whitespace_after_param=cst.SimpleWhitespace("")
    )
    return _text(alone)


def _header(node: cst.CSTNode, keyword: str) -> Doc:
    """The first line of a compound statement.

    Args:
        node: the statement.
        keyword: `if`, or `elif` for an `if` that is one.
    """
    if isinstance(node, (cst.If, cst.While)):
        word = keyword if isinstance(node, cst.If) else "while"
        return concat(f"{word} ", _whole(node.test), ":")
    if isinstance(node, cst.For) and node.asynchronous is None:
        return concat(f"for {_text(node.target)} in ", _whole(node.iter), ":")
    if isinstance(node, cst.With) and node.asynchronous is None and len(node.items) == 1:
        (item,) = node.items
        if item.asname is None and isinstance(item.item, cst.Call):
            return concat("with ", _whole(item.item), ":")
    if isinstance(node, cst.FunctionDef):
        return _function(node)
    raise UnknownLayoutError


def _broken(node: cst.CSTNode, make: Callable[[], Doc], width: int) -> str | None:
    if any(isinstance(inner, cst.Comment) for inner in _parts(node)):
        return None
    try:
        return Printer(width).print(make())
    except UnknownLayoutError:
        return None


def _parts(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A node and all below it, save for the suite of a compound statement."""
    todo = [child for child in node.children if not isinstance(child, _OUTSIDE)]
    while todo:
        at = todo.pop()
        yield at
        todo += at.children


_OUTSIDE = (cst.BaseSuite, cst.Else, cst.If, cst.EmptyLine)
"""What of a compound statement is not in its header."""


def simple(node: cst.BaseSmallStatement, width: int) -> str | None:
    """The text of a simple statement over lines; None where it is not known how to write it.

    Args:
        node: the statement.
        width: columns that it may take, at indentation zero.
    """
    return _broken(node, partial(_simple, node), width)


def header(node: cst.CSTNode, width: int, keyword: str = "if") -> str | None:
    """The text of a compound statement up to its colon; None where it is not known.

    Args:
        node: the statement.
        width: columns that it may take, at indentation zero.
        keyword: `if`, or `elif` for an `if` that is one.
    """
    return _broken(node, partial(_header, node, keyword), width)
