# SPDX-License-Identifier: Apache-2.0
"""Is the object before the dot a tensor? Receiver-aware matching, from evidence in the module.

`current_platform.is_cuda`, `placement.is_cuda` and `tensor.is_cuda` read alike. Everything that may
be bound to the receiver where it is read is looked at: annotations, results of calls, fields of the
module's classes, questions by `isinstance`. A tensor is what every one of them says to be one.
Evidence against counts as much: another class, or one way on which it may be something else.
"""

from __future__ import annotations

import ast
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from migrator.codemod.flow import (
    ENTERED,
    ITEM,
    STARRED,
    Binding,
    Bindings,
    Flow,
    Scope,
    dotted,
    in_order,
    lines_of,
    own_nodes,
    parameters,
)

TENSORS = frozenset(
    "torch.Tensor torch.nn.Parameter torch.nn.parameter.Parameter torch.nn.Buffer "
    "torch.nn.parameter.Buffer torch.nn.parameter.UninitializedParameter "
    "torch.nn.parameter.UninitializedBuffer torch.nn.UninitializedParameter "
    "torch.FloatTensor torch.DoubleTensor torch.HalfTensor torch.BFloat16Tensor torch.LongTensor "
    "torch.IntTensor torch.ShortTensor torch.CharTensor torch.ByteTensor torch.BoolTensor "
    "torch.cuda.FloatTensor torch.cuda.HalfTensor torch.cuda.LongTensor".split()
)
"""Classes whose objects are tensors."""

_FUNCTIONS = frozenset(
    f"torch.{name}"
    for name in (
        "abs add addcmul addmm all amax amin any arange argmax argmin argsort "
        "as_strided as_tensor asarray baddbmm bernoulli bincount bitwise_and bitwise_or bmm "
        "bucketize cat ceil clamp clone concat concatenate conj cos cumprod cumsum deg2rad "
        "detach diag diff div dot einsum empty empty_like empty_strided eq erf exp "
        "expand_copy eye flatten flip floor floor_divide fmod from_dlpack from_numpy "
        "frombuffer full full_like gather ge greater gt hstack index_select inner inverse "
        "isfinite isin isinf isnan le lerp less linspace log log2 log_softmax logical_and "
        "logical_not logical_or logspace logsumexp lt masked_fill masked_select matmul "
        "maximum mean minimum mm movedim mul multinomial multiply mv narrow ne neg "
        "nn.functional.cross_entropy nn.functional.dropout nn.functional.embedding "
        "nn.functional.gelu nn.functional.interpolate nn.functional.layer_norm "
        "nn.functional.linear nn.functional.logsigmoid nn.functional.log_softmax "
        "nn.functional.normalize nn.functional.one_hot nn.functional.pad nn.functional.relu "
        "nn.functional.rms_norm nn.functional.scaled_dot_product_attention "
        "nn.functional.sigmoid nn.functional.silu nn.functional.softmax "
        "nn.functional.softplus nn.functional.tanh nn.functional.conv1d nn.functional.conv2d "
        "nn.functional.conv3d nonzero_static norm ones ones_like outer permute polar pow prod "
        "rand rand_like randint randint_like randn randn_like randperm range ravel real "
        "reciprocal remainder repeat_interleave reshape roll rot90 round rsqrt scalar_tensor "
        "scatter scatter_add select sigmoid sign sin softmax sparse_coo_tensor "
        "sparse_csr_tensor special.expit sqrt square squeeze stack sub subtract sum swapaxes "
        "t take take_along_dim tan tanh tensor tile transpose tril triu true_divide trunc "
        "unflatten unsqueeze view_as_complex view_as_real vstack where xlogy zeros zeros_like"
    ).split()
)
"""Functions that always return one tensor."""

_LISTS = frozenset(
    f"torch.{name}"
    for name in "chunk hsplit meshgrid split split_with_sizes tensor_split unbind vsplit".split()
)
"""Functions that return several tensors."""

_TAKE_TENSORS = frozenset(
    f"torch.{name}"
    for name in (
        "abs allclose amax amin argmax argsort bincount bmm clone cumsum empty_like equal exp "
        "full_like isfinite isinf isnan log log_softmax matmul mm nonzero numel ones_like "
        "rand_like randn_like rsqrt sigmoid softmax sqrt topk zeros_like"
    ).split()
)
"""Functions that refuse everything but a tensor as their first argument."""

_METHODS = frozenset(
    "abs add add_ all any amax amin argmax argmin argsort as_strided bfloat16 bitwise_and bmm bool "
    "broadcast_to byte ceil clamp clamp_ clamp_max clamp_min clone contiguous copy_ cos cpu cuda "
    "cumsum detach detach_ diag div div_ double eq exp exp_ expand expand_as fill_ flatten flip "
    "float floor floor_divide gather ge gt half index_add_ index_copy_ index_fill_ index_put_ "
    "index_select int isfinite isinf isnan le log log_softmax long lt masked_fill masked_fill_ "
    "masked_scatter masked_select matmul mean mm movedim mul mul_ narrow ne neg new_empty new_full "
    "new_ones new_tensor new_zeros norm normal_ permute pin_memory pow prod ravel reciprocal "
    "repeat repeat_interleave requires_grad_ reshape reshape_as roll round rsqrt scatter scatter_ "
    "scatter_add_ select short sigmoid sign sin softmax sqrt square squeeze squeeze_ sub sub_ sum "
    "t tanh to to_dense transpose transpose_ tril triu trunc type_as unflatten unfold uniform_ "
    "unsqueeze unsqueeze_ view view_as where zero_".split()
)
"""Methods of a tensor that return one tensor."""

_ATTRIBUTES = frozenset({"H", "T", "data", "imag", "mH", "mT", "real"})
"""Attributes of a tensor that are tensors."""

_ONLY_TENSORS = frozenset(
    "contiguous copy_ data_ptr detach dim element_size is_contiguous numel record_stream "
    "storage_offset stride unsqueeze untyped_storage zero_".split()
)
"""Methods; an object on which one is called is a tensor, unless the module knows of another class
that answers to `is_cuda`."""

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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a receiver."""

    tensor: bool | None
    """True, False, or None where a person has to look."""
    why: str


@dataclass(frozen=True, slots=True)
class Type:
    """What an expression may be.

    Kinds: `tensor`; `plain` (nothing that has `is_cuda`, None included); `items` (a collection of
    `parts[0]`); `tuple`; `map` (of keys to values); `own` (an object of one of the module's
    classes); `class` (such a class itself); `layer` (a torch module); `imported`; `other` (known to
    be something else); `union`; `unknown`. What is said about it does not tell two apart.
    """

    kind: str
    why: str = field(default="", compare=False)
    parts: tuple[Type, ...] = ()
    node: ast.ClassDef | None = None


NOTHING = Type("union")
"""What never comes to be."""
STEPS = 5000
"""Expressions that are looked at for one receiver."""
DEPTH = 60
"""How far they may depend on each other."""
ROUNDS = 4
_NONE = sys.maxsize
UNKNOWN = Type("unknown", "nothing in the module tells whether it is a tensor")
_PLAIN_TYPE = Type("plain")


Modules = Callable[[str], tuple[ast.Module, bytes] | None]
"""Gives the syntax tree and the source of another module by its name; None where there is none."""


def receivers(
    module: ast.Module, data: bytes, attribute: str, modules: Modules
) -> list[tuple[ast.Attribute, Evidence]]:
    """Each place of a module that asks an object for an attribute without calling it.

    Args:
        module: Python's syntax tree of it.
        data: its source.
        attribute: the attribute; the places come in the order of the source.
        modules: other modules, for the results of functions that are imported.

    Returns:
        The places, each with what is known of the object.
    """
    lines = lines_of(rf"\b{attribute}\b".encode(), data)
    asked = lines_of(rf"\b{attribute}\b(?!\()".encode(), data)
    places: list[ast.Attribute] = []
    called: set[int] = set()
    for statement in module.body:
        if _holds(statement, asked):
            for node in in_order(statement):
                if isinstance(node, ast.Call):
                    called.add(id(node.func))
                elif isinstance(node, ast.Attribute) and node.attr == attribute:
                    places.append(node)
    places = [node for node in places if id(node) not in called]
    if not places:
        return []
    flow = Flow(module, data)
    flow.enter(asked)
    judge = _Judge(flow, attribute, lines, modules)
    return [(node, judge.evidence(node)) for node in places]


def _holds(node: ast.stmt, lines: Sequence[int]) -> bool:
    """Do some of the lines lie in a statement?"""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    at = bisect_left(lines, first)
    return at < len(lines) and lines[at] <= (node.end_lineno or node.lineno)


class _Judge:
    """Finds out what expressions of a module are.

    Args:
        flow: the module's names.
        attribute: the attribute that receivers are asked for.
        lines: where it is named.
        modules: other modules.
    """

    def __init__(self, flow: Flow, attribute: str, lines: Sequence[int], modules: Modules) -> None:
        self.flow = flow
        self.attribute = attribute
        self._lines = lines
        self._modules = modules
        self._others: dict[str, _Judge | None] = {}
        self._typed: dict[tuple[int, tuple[str | int, ...]], Type] = {}
        self._open: dict[tuple[int, tuple[str | int, ...]], tuple[int, Type]] = {}
        """What is being found out → how deep, and what it is assumed to be until then."""
        self._lowest = _NONE
        """The outermost of them that something was assumed of."""
        self._steps = 0
        self._used: dict[int, dict[tuple[str, Bindings], str]] = {}
        """Outermost function → what is used in it as a tensor."""

    def evidence(self, place: ast.Attribute) -> Evidence:
        """Judge the receiver of an attribute."""
        self._steps = 0
        found = self.type_of(place.value)
        kinds = {part.kind: part for part in _parts(found) if part.kind != "plain"}
        if not kinds:
            return Evidence(None, UNKNOWN.why)
        if self._steps > STEPS:
            return Evidence(None, "too much would have to be looked at to tell whether it is one")
        if kinds.keys() == {"tensor"}:
            return Evidence(True, kinds["tensor"].why)
        if kinds.keys() <= {"own", "class", "imported"}:
            parts = [part for part in _parts(found) if part.kind in ("imported", "class")]
            own = [part for part in _parts(found) if part.kind == "own"]
            if all(self._answers(part.node) for part in own):
                return Evidence(False, [*own, *parts][0].why)
        if kinds.keys() <= {"tensor", "unknown"}:
            why = self._asked_as_tensor(place.value)
            if why is not None:
                return Evidence(True, why)
        against = [kinds[kind] for kind in kinds if kind not in ("tensor", "unknown")]
        if against and against[0].kind in ("layer", "items", "tuple", "map"):
            what = "a torch module" if against[0].kind == "layer" else "a collection"
            against = [Type(against[0].kind, f"it is {what}, not one tensor")]
        doubt = [kinds["unknown"]] if "unknown" in kinds else []
        if "tensor" in kinds and (against or doubt):
            other = [*against, *doubt][0].why
            other = other if against else "another value reaches it of which nothing tells"
            return Evidence(None, f"it may be a tensor ({kinds['tensor'].why}), but {other}")
        return Evidence(None, [*against, *doubt][0].why or UNKNOWN.why)

    def _answers(self, class_: ast.ClassDef | None) -> bool:
        """Does one of the module's classes for certain not inherit from a tensor?"""
        return (
            class_ is None
            or not any(part.kind in ("tensor", "unknown") for part in self._bases(class_))
            or self._binds(class_, self.attribute)
        )

    def _bases(self, class_: ast.ClassDef) -> list[Type]:
        found: list[Type] = []
        for base in class_.bases:
            kind = self.annotation(base, self.flow.scope_of(class_))
            if kind.kind == "own" and kind.node is not None and kind.node is not class_:
                found += self._bases(kind.node)
            elif kind.kind == "other":
                found.append(UNKNOWN)  # a class from elsewhere, with bases of its own
            else:
                found.append(kind)
        return found

    @staticmethod
    def _binds(class_: ast.ClassDef, name: str) -> bool:
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

    # -- what it is asked for ------------------------------------------------------------------

    @cached_property
    def _rivals(self) -> bool:
        """Has the module a class of its own that answers to the attribute?"""
        return any(
            self._binds(node, self.attribute)
            for statement in self.flow.module.body
            if _holds(statement, self._lines)
            for node in ast.walk(statement)
            if isinstance(node, ast.ClassDef)
        )

    def _used_in(self, scope: Scope) -> dict[tuple[str, Bindings], str]:
        """Expression and its bindings → what says that it is a tensor: it is used as one."""
        while scope.outer is not None and not isinstance(scope.outer.node, ast.Module):
            if isinstance(scope.outer.node, ast.ClassDef):
                break
            scope = scope.outer
        found = self._used.get(id(scope))
        if found is not None:
            return found
        found = self._used[id(scope)] = {}
        # What a module's functions do with names of their own says nothing of those of others.
        inside = () if isinstance(scope.node, ast.Module) else ast.walk(scope.node)
        for call in inside:
            if not isinstance(call, ast.Call):
                continue
            func = call.func
            if isinstance(func, ast.Attribute) and func.attr in _ONLY_TENSORS:
                self._use(func.value, f"{ast.unparse(func.value)}.{func.attr}() is called", found)
            name, certain = self.flow.qualified(func)
            taker = name in _TAKE_TENSORS and certain
            if isinstance(func, ast.Attribute) and func.attr == "copy_":
                taker = self.type_of(func.value).kind == "tensor"
            if taker and call.args:
                self._use(call.args[0], f"{ast.unparse(func)} takes tensors only", found)
        return found

    def _use(
        self, node: ast.expr, why: str, found: dict[tuple[str, Bindings], str], depth: int = 0
    ) -> None:
        for key in self._keys(node):
            found.setdefault(key, why)
        if isinstance(node, ast.Name) and depth < 3:
            for binding in self.flow.bindings(node):
                # `for t in (q, k): t.stride()` says it of both.
                if binding.steps == (ITEM,) and isinstance(binding.node, ast.Tuple | ast.List):
                    for element in binding.node.elts:
                        self._use(element, why, found, depth + 1)

    def _keys(self, node: ast.expr) -> Iterator[tuple[str, Bindings]]:
        """What identifies the object that an expression stands for, where that can be said."""
        base: ast.AST = node
        while isinstance(base, ast.Attribute | ast.Subscript):
            if isinstance(base, ast.Subscript) and not isinstance(base.slice, ast.Constant):
                return
            base = base.value
        if isinstance(base, ast.Name):
            bindings = self.flow.bindings(base)
            if bindings:
                yield ast.unparse(node), bindings

    def _asked_as_tensor(self, node: ast.expr) -> str | None:
        if self._rivals:
            return None
        base: ast.AST = node
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        used = self._used_in(self.flow.scope_of(base))
        for text, bindings in self._keys(node):
            # What is said of all the values that reach a later use is said of each of them.
            for (other, reaching), why in used.items():
                if other == text and bindings <= reaching:
                    return why
        return None

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
        self._steps += 1
        if self._steps > STEPS or len(self._open) > DEPTH:
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
                return _union([self.type_of(node.body), self.type_of(node.orelse)])
            case ast.BoolOp():
                return _union([self.type_of(value) for value in node.values])
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
                return _PLAIN_TYPE if isinstance(node.op, ast.Not) else self.type_of(node.operand)
            case ast.Compare():
                left = self.type_of(node.left)
                if len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot | ast.In):
                    return _PLAIN_TYPE
                return left if left.kind == "tensor" or left == NOTHING else UNKNOWN
            case ast.Constant() | ast.JoinedStr():
                return _PLAIN_TYPE
            case ast.Tuple() | ast.List() | ast.Set():
                if any(isinstance(element, ast.Starred) for element in node.elts):
                    return Type("items", parts=(_union([self._starred(e) for e in node.elts]),))
                return Type("tuple", parts=tuple(self.type_of(e) for e in node.elts))
            case ast.Dict():
                if any(key is None for key in node.keys):
                    return UNKNOWN
                return Type(
                    "map", parts=(UNKNOWN, _union([self.type_of(value) for value in node.values]))
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
        return _union(found)

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
                return _named(said, f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}")
            case "value" if isinstance(node, ast.expr):
                found = self.type_of(node)
                for step in binding.steps:
                    found = self._step(found, step)
                return found
            case "isinstance" if isinstance(node, ast.expr):
                if isinstance(node, ast.Attribute) and dotted(node) == "torch.is_tensor":
                    return Type("tensor", "torch.is_tensor is asked")
                said = self._classes_of(node, scope)
                return _named(said, f"isinstance of {ast.unparse(node)} is asked")
            case "import":
                return Type("imported", f"it is imported: {binding.name}")
            case "definition" if isinstance(node, ast.ClassDef):
                return Type("class", f"{node.name} is a class of this module", node=node)
            case "definition":
                return Type("class", "it is a function")
        return Type("unknown", f"it comes from {binding.name}" if binding.name else UNKNOWN.why)

    def _classes_of(self, node: ast.expr, scope: Scope) -> Type:
        if isinstance(node, ast.Tuple):
            return _union([self.annotation(element, scope) for element in node.elts])
        return self.annotation(node, scope)

    def _parameter(self, node: ast.arg, scope: Scope) -> Type:
        function = scope.node
        if node.annotation is not None:
            said = self.annotation(node.annotation, scope.outer or scope)
            spec = getattr(function, "args", None)
            if spec is not None and node is spec.vararg:
                said = Type("items", parts=(said,))
            elif spec is not None and node is spec.kwarg:
                said = Type("map", parts=(_PLAIN_TYPE, said))
            return _named(said, f"parameter {node.arg}: {ast.unparse(node.annotation)}")
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
                return _within(found.parts[0], found)
            case "tuple":
                return _within(_union(found.parts), found)
            case "map":
                return found.parts[0]
            case "union":
                return _union([self._each(part) for part in found.parts if part.kind != "plain"])
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
                    return _within(found.parts[index.value], found)
                return UNKNOWN
            case "items" | "tuple":
                return self._each(found)
            case "map":
                return _within(found.parts[1], found)
            case "union":
                return _union(
                    [self._item(part, index) for part in found.parts if part.kind != "plain"]
                )
        return UNKNOWN

    # -- attributes ----------------------------------------------------------------------------

    def _attribute(self, node: ast.Attribute) -> Type:
        reached = self.flow.bindings(node)
        if reached:
            return _union([self._bound(binding) for binding in _sorted(reached)])
        qualified, certain = self.flow.qualified(node)
        if qualified is not None:
            why = f"{ast.unparse(node).partition('.')[0]} is imported: {_head(qualified, node)}"
            return Type("imported", why) if certain else UNKNOWN
        return _union([self._of(owner, node.attr) for owner in _parts(self.type_of(node.value))])

    def _of(self, owner: Type, name: str) -> Type:
        """What the attribute of something is."""
        if owner.kind == "tensor" and name in _ATTRIBUTES:
            return Type("tensor", f"{name} of a tensor: {owner.why}")
        if owner.kind == "plain":
            return _PLAIN_TYPE
        if owner.kind == "layer" and name in ("weight", "bias"):
            layer = owner.parts[0].kind
            return Type("tensor", f"{name} of a {layer}") if layer in _LAYERS else UNKNOWN
        if owner.kind in ("own", "class") and owner.node is not None:
            return self._field(owner.node, name, ())
        return UNKNOWN

    def _field(self, class_: ast.ClassDef, name: str, below: tuple[ast.ClassDef, ...]) -> Type:
        """What an attribute of an object of one of the module's classes is."""
        key = id(class_), ("field", name)
        return self._remember(key, lambda: self._find_field(class_, name, below))

    def _find_field(self, class_: ast.ClassDef, name: str, below: tuple[ast.ClassDef, ...]) -> Type:
        scope = self.flow._inner.get(id(class_))
        said: list[Type] = []
        made: list[Type] = []
        for binding in _sorted(scope.bound.get(name, ())) if scope is not None else ():
            if binding.kind in ("annotated", "declared") and isinstance(
                binding.node, ast.AnnAssign
            ):
                text = ast.unparse(binding.node.annotation)
                kind = self.annotation(binding.node.annotation, scope or self.flow.top)
                said.append(_named(kind, f"field {name}: {text}"))
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
        for target, value, annotation, inside in _set_on_self(class_, name):
            if annotation is not None:
                where = self.flow._inner.get(id(inside), self.flow.top)
                kind = self.annotation(annotation, where)
                said.append(_named(kind, f"field {name}: {ast.unparse(annotation)}"))
            elif target is not None and value is not None:
                self.flow.enter([inside.lineno])
                made.append(self.type_of(value))
            else:
                made.append(UNKNOWN)
        if said:
            # The class says what it is; a value of which nothing is known is no evidence against.
            return _union(
                [*said, *(part for part in made if part.kind not in ("unknown", "plain"))]
            )
        if made:
            return _union(made)
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
            return _union(found)
        if isinstance(func, ast.Attribute):
            owners = _parts(self.type_of(func.value))
            return _union([self._method(owner, func.attr, node) for owner in owners])
        return UNKNOWN

    def _imported_call(self, node: ast.Call, called: str) -> Type:
        if called in TENSORS or called in _FUNCTIONS:
            if called == "torch.where" and len(node.args) + len(node.keywords) < 3:
                return UNKNOWN  # of a condition alone, it is a tuple
            return Type("tensor", f"the result of {called}")
        if called in _LISTS:
            return Type("items", f"the result of {called}", (Type("tensor", f"of {called}"),))
        if called in ("typing.cast", "typing_extensions.cast") and len(node.args) == 2:
            said = self.annotation(node.args[0], self.flow.scope_of(node.func))
            return _named(said, f"cast to {ast.unparse(node.args[0])}")
        if called == "itertools.chain":
            return Type("items", parts=(_union([self._starred_items(a) for a in node.args]),))
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
                return _union([self._each(self.type_of(args[0])), *rest])
            case "iter" | "list" | "tuple" | "set" | "frozenset" | "reversed" | "sorted" if args:
                found = self.type_of(args[0])
                return Type("items", found.why, (self._each(found),))
            case "zip":
                parts = tuple(self._each(self.type_of(argument)) for argument in args)
                return Type("items", parts=(Type("tuple", parts=parts),))
            case "enumerate" if args:
                pair = Type("tuple", parts=(_PLAIN_TYPE, self._each(self.type_of(args[0]))))
                return Type("items", parts=(pair,))
            case "filter" if len(args) == 2:
                return Type("items", parts=(self._each(self.type_of(args[1])),))
            case "dict" if len(args) == 1 and not node.keywords:
                found = self.type_of(args[0])
                return found if found.kind == "map" else UNKNOWN
            case "len" | "int" | "str" | "float" | "bool" | "repr" | "hash" | "id" | "isinstance":
                return _PLAIN_TYPE
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
            return _named(said, f"{node.name} returns {ast.unparse(node.returns)}")
        return self._remember((id(node), ("returned",)), lambda: self._results_of(node))

    def _results_of(self, node: ast.FunctionDef) -> Type:
        self.flow.enter([node.lineno])
        own = [*own_nodes(node.body)]
        if any(isinstance(part, ast.YieldFrom) for part in own):
            return UNKNOWN
        given = [part.value for part in own if isinstance(part, ast.Yield)]
        if given:
            found = [UNKNOWN if value is None else self.type_of(value) for value in given]
            return Type("items", parts=(_union(found),))
        results = [part.value for part in own if isinstance(part, ast.Return)]
        if not results:
            return UNKNOWN
        return _union([_PLAIN_TYPE if value is None else self.type_of(value) for value in results])

    def _elsewhere(self, called: str) -> Type:
        """What a function of another module gives: what it says."""
        source, _, name = called.rpartition(".")
        if source not in self._others:
            found = self._modules(source) if source else None
            self._others[source] = (
                None if found is None else _Judge(Flow(*found), self.attribute, (), lambda _: None)
            )
        other = self._others[source]
        if other is None:
            return UNKNOWN
        bound = other.flow.top.bound.get(name, set())
        function = next(iter(bound)).node if len(bound) == 1 else None
        if not isinstance(function, ast.FunctionDef) or function.returns is None:
            return UNKNOWN
        said = other._returned(function)
        return UNKNOWN if "own" in {part.kind for part in _parts(said)} else said

    def _method(self, owner: Type, name: str, node: ast.Call) -> Type:
        """What calling a method gives."""
        match owner.kind:
            case "tensor" if name in _METHODS:
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
                return _PLAIN_TYPE
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
            return _union([_within(value, owner), *rest])
        return owner if name == "copy" else UNKNOWN

    @staticmethod
    def _of_layer(name: str) -> Type:
        tensor = Type("tensor", f"one of a torch module's {name.removeprefix('named_')}")
        if name in ("parameters", "buffers"):
            return Type("items", parts=(tensor,))
        if name in ("named_parameters", "named_buffers"):
            return Type("items", parts=(Type("tuple", parts=(_PLAIN_TYPE, tensor)),))
        if name == "state_dict":
            return UNKNOWN
        return UNKNOWN

    def _own_method(self, class_: ast.ClassDef, name: str, below: tuple[ast.ClassDef, ...]) -> Type:
        scope = self.flow._inner.get(id(class_))
        bound = scope.bound.get(name, ()) if scope is not None else ()
        functions = [
            b.node for b in bound if isinstance(b.node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        if functions and len(functions) == len(bound):
            return _union([self._returned(function) for function in functions])
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
                return _PLAIN_TYPE
            case ast.Constant(value=str() as text):
                try:
                    inner = ast.parse(text.strip(), mode="eval").body
                except (SyntaxError, ValueError):
                    return UNKNOWN
                return self.annotation(inner, scope, depth + 1)
            case ast.BinOp(op=ast.BitOr()):
                sides = (node.left, node.right)
                return _union([self.annotation(side, scope, depth + 1) for side in sides])
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
            return _union([*(said(part) for part in inner), *([_PLAIN_TYPE] * (last[0] == "O"))])
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
            return _PLAIN_TYPE if last == "Literal" else Type("other", f"it is a {last}")
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
                return _PLAIN_TYPE
            if name in ("Any", "typing.Any", "object", "typing.Self", "Self"):
                return UNKNOWN
            if name in ("None", "Optional", "Union"):
                return _PLAIN_TYPE
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
        return _union(found)

    def _own_class(self, node: ast.ClassDef) -> Type:
        """An object of one of the module's classes; of one that derives from a tensor, a tensor."""
        key = id(node), ("class",)

        def find() -> Type:
            bases = self._bases(node)
            if (
                len(bases) == 1
                and bases[0].kind == "tensor"
                and not self._binds(node, self.attribute)
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


_LAYERS = frozenset(
    f"torch.nn.{name}"
    for name in "Bilinear Conv1d Conv2d Conv3d Embedding GroupNorm LayerNorm Linear RMSNorm".split()
)
_KEEP_RESULTS = frozenset(
    "staticmethod classmethod property torch.no_grad torch.inference_mode override typing.override "
    "abstractmethod abc.abstractmethod cached_property functools.cached_property lru_cache cache "
    "functools.lru_cache functools.cache overload typing.overload".split()
)
"""Decorators behind which a function returns what it says."""


def _parts(found: Type) -> tuple[Type, ...]:
    return found.parts if found.kind == "union" else (found,)


def _union(found: Sequence[Type]) -> Type:
    parts: list[Type] = []
    for each in found:
        for part in _parts(each):
            if part not in parts:
                parts.append(part)
    if len(parts) == 1:
        return parts[0]
    return Type("union", parts=tuple(parts))


def _named(found: Type, why: str) -> Type:
    """The same, with words about where it is said."""
    if found.kind == "union":
        return Type("union", parts=tuple(_named(part, why) for part in found.parts))
    if found.kind in ("items", "tuple", "map", "tensor"):
        return Type(found.kind, why, found.parts, found.node)
    return found


def _within(part: Type, whole: Type) -> Type:
    if part.kind == "tensor" and whole.why:
        return Type("tensor", f"an item of a collection: {whole.why}")
    return part


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


@lru_cache(maxsize=64)
def _self_targets(
    class_: ast.ClassDef,
) -> dict[str, list[tuple[ast.expr | None, ast.expr | None, ast.expr | None, ast.stmt]]]:
    """Attribute → (target, value, annotation, method) of what a class's methods set on `self`."""
    found: dict[str, list[tuple[ast.expr | None, ast.expr | None, ast.expr | None, ast.stmt]]] = {}
    for method in class_.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = parameters(method)
        if not given:
            continue
        own = given[0].arg

        def note(
            target: ast.expr,
            value: ast.expr | None,
            annotation: ast.expr | None,
            own: str = own,
            method: ast.stmt = method,
        ) -> None:
            if isinstance(target, ast.Tuple | ast.List):
                for part in target.elts:
                    note(part, None, None)
            elif (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == own
            ):
                found.setdefault(target.attr, []).append((target, value, annotation, method))

        for node in ast.walk(method):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    note(target, node.value, None)
            elif isinstance(node, ast.AnnAssign):
                note(node.target, node.value, node.annotation)
            elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor):
                note(node.target, None, None)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                note(node.optional_vars, None, None)
    return found


def _set_on_self(
    class_: ast.ClassDef, name: str
) -> list[tuple[ast.expr | None, ast.expr | None, ast.expr | None, ast.stmt]]:
    return _self_targets(class_).get(name, [])
