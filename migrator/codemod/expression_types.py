# SPDX-License-Identifier: Apache-2.0
"""What the expressions of a module are, as far as it matters whether they are tensors."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable

from migrator.codemod.bindings import ENTERED, ITEM, STARRED, Binding, Bindings, Scope
from migrator.codemod.flow import Flow
from migrator.codemod.kinds import NOTHING, PLAIN, UNKNOWN, Type, named, parts_of, union, within
from migrator.codemod.syntax import dotted, own_nodes, parameters, set_on_self
from migrator.codemod.tensor_api import ATTRIBUTES, FUNCTIONS, LAYERS, LISTS, METHODS, TENSORS

_PLAIN = frozenset(
    "bool bytes complex float int str bytearray object_ np.ndarray numpy.ndarray slice range "
    "torch.dtype torch.device torch.Size".split()
)
"""Classes without `is_cuda`: where it is asked for, the object is none of them."""

_SEQUENCES = frozenset(
    "list List tuple Tuple set Set frozenset FrozenSet deque Sequence MutableSequence Iterable "
    "Iterator Collection Generator AsyncIterator AsyncIterable AsyncGenerator KeysView ValuesView "
    "Deque Reversible Container".split()
)
_MAPPINGS = frozenset(
    "dict Dict Mapping MutableMapping OrderedDict defaultdict DefaultDict".split()
)
_WRAPPERS = frozenset({"Annotated", "ClassVar", "Final", "InitVar", "Required", "NotRequired"})
_MODULES = frozenset(
    {"torch.nn.Module", "torch.nn.modules.Module", "torch.nn.modules.module.Module"}
)


STEPS = 5000
"""Expressions that are looked at for one receiver."""
DEPTH = 60
"""How far they may depend on each other."""
ROUNDS = 4
_NONE = sys.maxsize
Modules = Callable[[str], tuple[ast.Module, bytes] | None]
"""Gives the syntax tree and the source of another module by its name; None where there is none."""


class Types:
    """Finds out what expressions of a module are.

    Args:
        flow: the module's names.
        attribute: the attribute that receivers are asked for.
        modules: other modules.
    """

    def __init__(self, flow: Flow, attribute: str, modules: Modules) -> None:
        self.flow = flow
        self.attribute = attribute
        self.steps = 0
        self._modules = modules
        self._others: dict[str, Types | None] = {}
        self._typed: dict[tuple[int, tuple[str | int, ...]], Type] = {}
        self._open: dict[tuple[int, tuple[str | int, ...]], tuple[int, Type]] = {}
        """What is being found out → how deep, and what it is assumed to be until then."""
        self._lowest = _NONE
        """The outermost of them that something was assumed of."""

    def bases(self, class_: ast.ClassDef) -> list[Type]:
        """What the bases of a class are, and theirs."""
        found: list[Type] = []
        for base in class_.bases:
            kind = self.annotation(base, self.flow.scope_of(class_))
            if kind.kind == "own" and kind.node is not None and kind.node is not class_:
                found += self.bases(kind.node)
            elif kind.kind == "other":
                found.append(UNKNOWN)  # a class from elsewhere, with bases of its own
            else:
                found.append(kind)
        return found

    @staticmethod
    def binds(class_: ast.ClassDef, name: str) -> bool:
        """Does a class, or one of its methods, bind a name or an attribute of that name?"""
        return any(
            (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name)
            or (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store))
            or (
                isinstance(node, ast.Attribute)
                and node.attr == name
                and isinstance(node.ctx, ast.Store)
            )
            for node in ast.walk(class_)
        )

    # -- expressions ---------------------------------------------------------------------------

    def type_of(self, node: ast.expr) -> Type:
        """What an expression may be."""
        return self._remember((id(node), ()), lambda: self._type_of(node))

    def _remember(self, key: tuple[int, tuple[str | int, ...]], find: Callable[[], Type]) -> Type:
        """What `find` comes to, found out once.

        What goes in a circle, as a name that a loop binds again, is assumed to be nothing at first
        and looked at again with what came out, until that is the same. Only what depends on no such
        assumption is kept.
        """
        known = self._typed.get(key)
        if known is not None:
            return known
        if key in self._open:
            depth, assumed = self._open[key]
            self._lowest = min(self._lowest, depth)
            return assumed
        self.steps += 1
        if self.steps > STEPS or len(self._open) > DEPTH:
            self._lowest = -1
            return UNKNOWN
        depth, outer = len(self._open), self._lowest
        found = NOTHING
        for _ in range(ROUNDS):
            self._lowest = _NONE
            assumed = found
            self._open[key] = depth, assumed
            found = find()
            del self._open[key]
            if self._lowest == _NONE or found == assumed:
                break
        else:
            found = UNKNOWN
        if self._lowest >= depth:
            self._typed[key] = found
            self._lowest = outer
        else:
            self._lowest = min(outer, self._lowest)
        return found

    def _type_of(self, node: ast.expr) -> Type:
        match node:
            case ast.Name():
                return self._name(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Subscript():
                return self._item(self.type_of(node.value), node.slice)
            case ast.Call():
                return self._call(node)
            case ast.IfExp():
                return union([self.type_of(node.body), self.type_of(node.orelse)])
            case ast.BoolOp():
                return union([self.type_of(value) for value in node.values])
            case ast.NamedExpr():
                return self.type_of(node.value)
            case ast.BinOp():
                left, right = self.type_of(node.left), self.type_of(node.right)
                if NOTHING in (left, right):
                    return NOTHING
                if left.kind == "tensor" and right.kind in ("tensor", "plain", "unknown"):
                    return left
                return right if right.kind == "tensor" and left.kind == "plain" else UNKNOWN
            case ast.UnaryOp():
                return PLAIN if isinstance(node.op, ast.Not) else self.type_of(node.operand)
            case ast.Compare():
                left = self.type_of(node.left)
                if len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot | ast.In):
                    return PLAIN
                return left if left.kind == "tensor" or left == NOTHING else UNKNOWN
            case ast.Constant() | ast.JoinedStr():
                return PLAIN
            case ast.Tuple() | ast.List() | ast.Set():
                if any(isinstance(element, ast.Starred) for element in node.elts):
                    return Type("items", parts=(union([self._starred(e) for e in node.elts]),))
                return Type("tuple", parts=tuple(self.type_of(e) for e in node.elts))
            case ast.Dict():
                if any(key is None for key in node.keys):
                    return UNKNOWN
                return Type(
                    "map", parts=(UNKNOWN, union([self.type_of(value) for value in node.values]))
                )
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return Type("items", parts=(self.type_of(node.elt),))
            case ast.DictComp():
                return Type("map", parts=(self.type_of(node.key), self.type_of(node.value)))
        return UNKNOWN

    def _starred(self, node: ast.expr) -> Type:
        if isinstance(node, ast.Starred):
            return self._each(self.type_of(node.value))
        return self.type_of(node)

    def _name(self, node: ast.Name) -> Type:
        bindings = self.flow.bindings(node)
        if not bindings:
            return UNKNOWN
        found = [self._bound(binding) for binding in _sorted(bindings)]
        if any(part.kind == "unknown" for part in found):
            declared = self._declared(node)
            if declared is not None:
                found = [declared if part.kind == "unknown" else part for part in found]
        return union(found)

    def _declared(self, node: ast.Name) -> Type | None:
        """By `name: Class` without a value, in the same scope."""
        scope = self.flow.scope_of(node)
        made = [b for b in scope.bound.get(node.id, ()) if b.kind == "declared"]
        if len(made) != 1 or not isinstance(made[0].node, ast.AnnAssign):
            return None
        return self.annotation(made[0].node.annotation, scope)

    def _bound(self, binding: Binding) -> Type:
        key = id(binding.node), (binding.kind, binding.name, *binding.steps)
        return self._remember(key, lambda: self._find_bound(binding))

    def _find_bound(self, binding: Binding) -> Type:
        node, scope = binding.node, binding.scope or self.flow.top
        match binding.kind:
            case "parameter" if isinstance(node, ast.arg):
                return self._parameter(node, scope)
            case "annotated" if isinstance(node, ast.AnnAssign):
                said = self.annotation(node.annotation, scope)
                return named(said, f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}")
            case "value" if isinstance(node, ast.expr):
                found = self.type_of(node)
                for step in binding.steps:
                    found = self._step(found, step)
                return found
            case "isinstance" if isinstance(node, ast.expr):
                if isinstance(node, ast.Attribute) and dotted(node) == "torch.is_tensor":
                    return Type("tensor", "torch.is_tensor is asked")
                said = self._classes_of(node, scope)
                return named(said, f"isinstance of {ast.unparse(node)} is asked")
            case "import":
                return Type("imported", f"it is imported: {binding.name}")
            case "definition" if isinstance(node, ast.ClassDef):
                return Type("class", f"{node.name} is a class of this module", node=node)
            case "definition":
                return Type("class", "it is a function")
        return Type("unknown", f"it comes from {binding.name}" if binding.name else UNKNOWN.why)

    def _classes_of(self, node: ast.expr, scope: Scope) -> Type:
        if isinstance(node, ast.Tuple):
            return union([self.annotation(element, scope) for element in node.elts])
        return self.annotation(node, scope)

    def _parameter(self, node: ast.arg, scope: Scope) -> Type:
        function = scope.node
        if node.annotation is not None:
            said = self.annotation(node.annotation, scope.outer or scope)
            spec = getattr(function, "args", None)
            if spec is not None and node is spec.vararg:
                said = Type("items", parts=(said,))
            elif spec is not None and node is spec.kwarg:
                said = Type("map", parts=(PLAIN, said))
            return named(said, f"parameter {node.arg}: {ast.unparse(node.annotation)}")
        if scope.class_ is not None and isinstance(
            function, ast.FunctionDef | ast.AsyncFunctionDef
        ):
            first = parameters(function)[0]
            marks = {dotted(d) for d in function.decorator_list}
            if node is first and "staticmethod" not in marks:
                kind = "class" if "classmethod" in marks else "own"
                why = f"{node.arg} is an object of this module's own class"
                if kind == "own" and self._own_class(scope.class_).kind == "tensor":
                    return Type("tensor", f"{node.arg} of a class that derives from a tensor")
                return Type(kind, why, node=scope.class_)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            # A docstring is an annotation of the old kind.
            text = rf"^[ \t]*{node.arg}(?::|[ \t]*\()\s*`*torch\.Tensor\b(?!\s*(?:\||or\b|/))"
            if re.search(text, ast.get_docstring(function) or "", re.MULTILINE):
                return Type("tensor", f"the docstring says that {node.arg} is a torch.Tensor")
        return UNKNOWN

    def _step(self, found: Type, step: str | int) -> Type:
        if step == ITEM:
            return self._each(found)
        if step == STARRED:
            return Type("items", parts=(self._each(found),))
        if step == ENTERED or isinstance(step, str):
            return UNKNOWN
        return self._item(found, ast.Constant(step))

    def _each(self, found: Type) -> Type:
        """What iterating over something gives."""
        match found.kind:
            case "tensor":
                return Type("tensor", f"a part of a tensor: {found.why}")
            case "items":
                return within(found.parts[0], found)
            case "tuple":
                return within(union(found.parts), found)
            case "map":
                return found.parts[0]
            case "union":
                return union([self._each(part) for part in found.parts if part.kind != "plain"])
        return UNKNOWN

    def _item(self, found: Type, index: ast.expr) -> Type:
        if isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub):
            inner = index.operand
            if isinstance(inner, ast.Constant) and isinstance(inner.value, int):
                index = ast.Constant(-inner.value)
        match found.kind:
            case "tensor":
                return Type("tensor", f"a part of a tensor: {found.why}")
            case "items" | "tuple" if isinstance(index, ast.Slice):
                return Type("items", found.why, (self._each(found),))
            case "tuple" if isinstance(index, ast.Constant) and isinstance(index.value, int):
                if -len(found.parts) <= index.value < len(found.parts):
                    return within(found.parts[index.value], found)
                return UNKNOWN
            case "items" | "tuple":
                return self._each(found)
            case "map":
                return within(found.parts[1], found)
            case "union":
                return union(
                    [self._item(part, index) for part in found.parts if part.kind != "plain"]
                )
        return UNKNOWN

    # -- attributes ----------------------------------------------------------------------------

    def _attribute(self, node: ast.Attribute) -> Type:
        reached = self.flow.bindings(node)
        if reached:
            return union([self._bound(binding) for binding in _sorted(reached)])
        qualified, certain = self.flow.qualified(node)
        if qualified is not None:
            why = f"{ast.unparse(node).partition('.')[0]} is imported: {_head(qualified, node)}"
            return Type("imported", why) if certain else UNKNOWN
        return union([self._of(owner, node.attr) for owner in parts_of(self.type_of(node.value))])

    def _of(self, owner: Type, name: str) -> Type:
        """What the attribute of something is."""
        if owner.kind == "tensor" and name in ATTRIBUTES:
            return Type("tensor", f"{name} of a tensor: {owner.why}")
        if owner.kind == "plain":
            return PLAIN
        if owner.kind == "layer" and name in ("weight", "bias"):
            layer = owner.parts[0].kind
            return Type("tensor", f"{name} of a {layer}") if layer in LAYERS else UNKNOWN
        if owner.kind in ("own", "class") and owner.node is not None:
            return self._field(owner.node, name, ())
        return UNKNOWN

    def _field(self, class_: ast.ClassDef, name: str, below: tuple[ast.ClassDef, ...]) -> Type:
        """What an attribute of an object of one of the module's classes is."""
        key = id(class_), ("field", name)
        return self._remember(key, lambda: self._find_field(class_, name, below))

    def _find_field(self, class_: ast.ClassDef, name: str, below: tuple[ast.ClassDef, ...]) -> Type:
        scope = self.flow.inner.get(id(class_))
        said: list[Type] = []
        made: list[Type] = []
        for binding in _sorted(scope.bound.get(name, ())) if scope is not None else ():
            if binding.kind in ("annotated", "declared") and isinstance(
                binding.node, ast.AnnAssign
            ):
                text = ast.unparse(binding.node.annotation)
                kind = self.annotation(binding.node.annotation, scope or self.flow.top)
                said.append(named(kind, f"field {name}: {text}"))
            elif binding.kind == "definition" and isinstance(
                binding.node, ast.FunctionDef | ast.AsyncFunctionDef
            ):
                marks = {dotted(d) for d in binding.node.decorator_list}
                if marks & {"property", "cached_property", "functools.cached_property"}:
                    made.append(self._returned(binding.node))
                elif not any((mark or "").startswith(f"{name}.") for mark in marks):
                    made.append(Type("class", f"{name} is a method"))
            else:
                made.append(self._bound(binding))
        for target, value, annotation, inside in set_on_self(class_, name):
            if annotation is not None:
                where = self.flow.inner.get(id(inside), self.flow.top)
                kind = self.annotation(annotation, where)
                said.append(named(kind, f"field {name}: {ast.unparse(annotation)}"))
            elif target is not None and value is not None:
                self.flow.enter([inside.lineno])
                made.append(self.type_of(value))
            else:
                made.append(UNKNOWN)
        if said:
            # The class says what it is; a value of which nothing is known is no evidence against.
            return union([*said, *(part for part in made if part.kind not in ("unknown", "plain"))])
        if made:
            return union(made)
        for base in class_.bases:
            kind = self.annotation(base, self.flow.scope_of(class_))
            if kind.kind == "own" and kind.node is not None and kind.node not in below:
                found = self._field(kind.node, name, (*below, class_))
                if found.kind != "unknown":
                    return found
        return UNKNOWN

    # -- calls ---------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Type:
        func = node.func
        called, certain = self.flow.qualified(func)
        if called is not None:
            return self._imported_call(node, called) if certain else UNKNOWN
        if isinstance(func, ast.Name):
            if not self.flow.bindings(func):
                return self._builtin(node, func.id)
            found = [self._result(binding) for binding in _sorted(self.flow.bindings(func))]
            return union(found)
        if isinstance(func, ast.Attribute):
            owners = parts_of(self.type_of(func.value))
            return union([self._method(owner, func.attr, node) for owner in owners])
        return UNKNOWN

    def _imported_call(self, node: ast.Call, called: str) -> Type:
        if called in TENSORS or called in FUNCTIONS:
            if called == "torch.where" and len(node.args) + len(node.keywords) < 3:
                return UNKNOWN  # of a condition alone, it is a tuple
            return Type("tensor", f"the result of {called}")
        if called in LISTS:
            return Type("items", f"the result of {called}", (Type("tensor", f"of {called}"),))
        if called in ("typing.cast", "typing_extensions.cast") and len(node.args) == 2:
            said = self.annotation(node.args[0], self.flow.scope_of(node.func))
            return named(said, f"cast to {ast.unparse(node.args[0])}")
        if called == "itertools.chain":
            return Type("items", parts=(union([self._starred_items(a) for a in node.args]),))
        if called.startswith("vllm."):
            return self._elsewhere(called)
        if called in ("copy.copy", "copy.deepcopy") and len(node.args) == 1:
            return self.type_of(node.args[0])
        if called in ("collections.deque", "collections.OrderedDict") and node.args:
            return self._builtin(node, "list" if called.endswith("deque") else "dict")
        return UNKNOWN

    def _starred_items(self, node: ast.expr) -> Type:
        found = self.type_of(node.value) if isinstance(node, ast.Starred) else None
        return self._each(self.type_of(node) if found is None else self._each(found))

    def _builtin(self, node: ast.Call, called: str) -> Type:
        args = node.args
        if any(isinstance(argument, ast.Starred) for argument in args):
            return UNKNOWN
        match called:
            case "next" if args:
                rest = [self.type_of(argument) for argument in args[1:]]
                return union([self._each(self.type_of(args[0])), *rest])
            case "iter" | "list" | "tuple" | "set" | "frozenset" | "reversed" | "sorted" if args:
                found = self.type_of(args[0])
                return Type("items", found.why, (self._each(found),))
            case "zip":
                parts = tuple(self._each(self.type_of(argument)) for argument in args)
                return Type("items", parts=(Type("tuple", parts=parts),))
            case "enumerate" if args:
                pair = Type("tuple", parts=(PLAIN, self._each(self.type_of(args[0]))))
                return Type("items", parts=(pair,))
            case "filter" if len(args) == 2:
                return Type("items", parts=(self._each(self.type_of(args[1])),))
            case "dict" if len(args) == 1 and not node.keywords:
                found = self.type_of(args[0])
                return found if found.kind == "map" else UNKNOWN
            case "len" | "int" | "str" | "float" | "bool" | "repr" | "hash" | "id" | "isinstance":
                return PLAIN
        return UNKNOWN

    def _result(self, binding: Binding) -> Type:
        """What calling what is bound to a name gives."""
        node = binding.node
        if binding.kind == "definition" and isinstance(node, ast.ClassDef):
            return Type("own", f"an object of this module's class {node.name}", node=node)
        if binding.kind == "definition" and isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef
        ):
            return self._returned(node)
        return UNKNOWN

    def _returned(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Type:
        """What calling a function gives: what it says, or else what its results are."""
        marks = {dotted(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list}
        if isinstance(node, ast.AsyncFunctionDef) or not marks <= _KEEP_RESULTS:
            return UNKNOWN  # what a decorator makes of it is not known
        if node.returns is not None:
            said = self.annotation(node.returns, self.flow.scope_of(node))
            return named(said, f"{node.name} returns {ast.unparse(node.returns)}")
        return self._remember((id(node), ("returned",)), lambda: self._results_of(node))

    def _results_of(self, node: ast.FunctionDef) -> Type:
        self.flow.enter([node.lineno])
        own = [*own_nodes(node.body)]
        if any(isinstance(part, ast.YieldFrom) for part in own):
            return UNKNOWN
        given = [part.value for part in own if isinstance(part, ast.Yield)]
        if given:
            found = [UNKNOWN if value is None else self.type_of(value) for value in given]
            return Type("items", parts=(union(found),))
        results = [part.value for part in own if isinstance(part, ast.Return)]
        if not results:
            return UNKNOWN
        return union([PLAIN if value is None else self.type_of(value) for value in results])

    def _elsewhere(self, called: str) -> Type:
        """What a function of another module gives: what it says."""
        source, _, name = called.rpartition(".")
        if source not in self._others:
            found = self._modules(source) if source else None
            self._others[source] = (
                None if found is None else Types(Flow(*found), self.attribute, lambda _: None)
            )
        other = self._others[source]
        if other is None:
            return UNKNOWN
        bound = other.flow.top.bound.get(name, set())
        function = next(iter(bound)).node if len(bound) == 1 else None
        if not isinstance(function, ast.FunctionDef) or function.returns is None:
            return UNKNOWN
        said = other._returned(function)
        return UNKNOWN if "own" in {part.kind for part in parts_of(said)} else said

    def _method(self, owner: Type, name: str, node: ast.Call) -> Type:
        """What calling a method gives."""
        match owner.kind:
            case "tensor" if name in METHODS:
                return Type("tensor", f"{name} of a tensor: {owner.why}")
            case "tensor" if name in ("split", "chunk", "unbind", "tensor_split"):
                return Type("items", parts=(owner,))
            case "layer":
                return self._of_layer(name)
            case "items" | "tuple" if name in ("pop", "popleft", "copy"):
                return owner if name == "copy" else self._each(owner)
            case "map":
                return self._of_map(owner, name, node)
            case "own" | "class" if owner.node is not None:
                return self._own_method(owner.node, name, ())
            case "plain":
                return PLAIN
        return UNKNOWN

    def _of_map(self, owner: Type, name: str, node: ast.Call) -> Type:
        key, value = owner.parts
        if name == "values":
            return Type("items", owner.why, (value,))
        if name == "keys":
            return Type("items", owner.why, (key,))
        if name == "items":
            return Type("items", parts=(Type("tuple", owner.why, (key, value)),))
        if name in ("get", "pop", "setdefault"):
            rest = [self.type_of(argument) for argument in node.args[1:]]
            return union([within(value, owner), *rest])
        return owner if name == "copy" else UNKNOWN

    @staticmethod
    def _of_layer(name: str) -> Type:
        tensor = Type("tensor", f"one of a torch module's {name.removeprefix('named_')}")
        if name in ("parameters", "buffers"):
            return Type("items", parts=(tensor,))
        if name in ("named_parameters", "named_buffers"):
            return Type("items", parts=(Type("tuple", parts=(PLAIN, tensor)),))
        if name == "state_dict":
            return UNKNOWN
        return UNKNOWN

    def _own_method(self, class_: ast.ClassDef, name: str, below: tuple[ast.ClassDef, ...]) -> Type:
        scope = self.flow.inner.get(id(class_))
        bound = scope.bound.get(name, ()) if scope is not None else ()
        functions = [
            b.node for b in bound if isinstance(b.node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        if functions and len(functions) == len(bound):
            return union([self._returned(function) for function in functions])
        if bound:
            return UNKNOWN
        for base in class_.bases:
            kind = self.annotation(base, self.flow.scope_of(class_))
            if kind.kind == "layer":
                return self._of_layer(name)
            if kind.kind == "own" and kind.node is not None and kind.node not in below:
                found = self._own_method(kind.node, name, (*below, class_))
                if found.kind != "unknown":
                    return found
        return UNKNOWN

    # -- annotations ---------------------------------------------------------------------------

    def annotation(self, node: ast.expr, scope: Scope, depth: int = 0) -> Type:
        """What an annotation says."""
        if depth > 12:
            return UNKNOWN
        match node:
            case ast.Constant(value=None):
                return PLAIN
            case ast.Constant(value=str() as text):
                try:
                    inner = ast.parse(text.strip(), mode="eval").body
                except (SyntaxError, ValueError):
                    return UNKNOWN
                return self.annotation(inner, scope, depth + 1)
            case ast.BinOp(op=ast.BitOr()):
                sides = (node.left, node.right)
                return union([self.annotation(side, scope, depth + 1) for side in sides])
            case ast.Subscript():
                return self._generic(node, scope, depth)
            case ast.Name() | ast.Attribute():
                return self._class(node, scope, depth)
        return UNKNOWN

    def _generic(self, node: ast.Subscript, scope: Scope, depth: int) -> Type:
        name, _ = self._resolve(node.value, scope)
        last = (name or "").rpartition(".")[2]
        known = name is not None and name.partition(".")[0] in (
            *("typing", "collections", "typing_extensions"),
            last,
        )
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]

        def said(part: ast.expr) -> Type:
            return self.annotation(part, scope, depth + 1)

        if not known:
            return self.annotation(node.value, scope, depth + 1)
        if last in ("Optional", "Union"):
            return union([*(said(part) for part in inner), *([PLAIN] * (last[0] == "O"))])
        if last in _WRAPPERS:
            return said(inner[0])
        if last in ("tuple", "Tuple"):
            if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
                return Type("items", parts=(said(inner[0]),))
            return Type("tuple", parts=tuple(said(part) for part in inner))
        if last in _SEQUENCES:
            return Type("items", parts=(said(inner[0]),))
        if last in _MAPPINGS and len(inner) == 2:
            return Type("map", parts=(said(inner[0]), said(inner[1])))
        if last in ("type", "Type", "Literal", "Callable"):
            return PLAIN if last == "Literal" else Type("other", f"it is a {last}")
        return UNKNOWN

    def _class(self, node: ast.expr, scope: Scope, depth: int) -> Type:
        name, bindings = self._resolve(node, scope)
        if name is not None:
            if name in TENSORS:
                return Type("tensor", name)
            if name in _MODULES or name.startswith(("torch.nn.modules.", "torch.nn.")):
                return Type("layer", name, (Type(name),))
            last = name.rpartition(".")[2]
            if name in _PLAIN or (not bindings and last in _SEQUENCES | _MAPPINGS):
                return PLAIN
            if name in ("Any", "typing.Any", "object", "typing.Self", "Self"):
                return UNKNOWN
            if name in ("None", "Optional", "Union"):
                return PLAIN
            return Type("other", f"it is annotated with the class {ast.unparse(node)}")
        found: list[Type] = []
        for binding in _sorted(bindings):
            if isinstance(binding.node, ast.ClassDef):
                found.append(self._own_class(binding.node))
            elif binding.kind == "value" and not binding.steps:
                assert isinstance(binding.node, ast.expr)
                found.append(self.annotation(binding.node, self.flow.top, depth + 1))
            elif binding.kind == "annotated" and isinstance(binding.node, ast.AnnAssign):
                value = binding.node.value
                found.append(
                    UNKNOWN if value is None else self.annotation(value, self.flow.top, depth + 1)
                )
            elif binding.kind == "import" and binding.name in TENSORS:
                found.append(Type("tensor", binding.name))
            else:
                found.append(Type("other", f"{ast.unparse(node)} is defined several times"))
        return union(found)

    def _own_class(self, node: ast.ClassDef) -> Type:
        """An object of one of the module's classes; of one that derives from a tensor, a tensor."""
        key = id(node), ("class",)

        def find() -> Type:
            bases = self.bases(node)
            if (
                len(bases) == 1
                and bases[0].kind == "tensor"
                and not self.binds(node, self.attribute)
            ):
                return Type("tensor", f"{node.name} derives from {bases[0].why}")
            return Type("own", f"it is annotated with the class {node.name}", node=node)

        return self._remember(key, find)

    def _resolve(self, node: ast.expr, scope: Scope) -> tuple[str | None, Bindings]:
        """The qualified name of a class by the imports, or else what its name may be bound to."""
        text = dotted(node)
        if text is None:
            return None, frozenset()
        first, dot, rest = text.partition(".")
        bindings = self.flow.lookup(first, scope)
        if not bindings:
            return text, bindings
        names = {b.name if b.kind == "import" else None for b in bindings}
        if len(names) == 1 and None not in names:
            return f"{names.pop()}{dot}{rest}", bindings
        return (None, bindings) if not dot else (text, bindings)


_KEEP_RESULTS = frozenset(
    "staticmethod classmethod property torch.no_grad torch.inference_mode override typing.override "
    "abstractmethod abc.abstractmethod cached_property functools.cached_property lru_cache cache "
    "functools.lru_cache functools.cache overload typing.overload".split()
)
"""Decorators behind which a function returns what it says."""


def _head(qualified: str, node: ast.Attribute) -> str:
    """The part of a qualified name that an import binds."""
    depth = ast.unparse(node).count(".")
    return qualified.rsplit(".", depth)[0]


def _sorted(bindings: Iterable[Binding]) -> list[Binding]:
    """Bindings in the order of the source, so that reasons are the same in every run."""
    return sorted(
        bindings,
        key=lambda b: (
            getattr(b.node, "lineno", 0),
            getattr(b.node, "col_offset", 0),
            b.kind,
            str(b.steps),
            b.name,
        ),
    )
