# SPDX-License-Identifier: Apache-2.0
"""What a condition comes to on an NPU, where its source tells.

An NPU stands outside of vLLM's `PlatformEnum`: `is_out_of_tree()` is true there and `is_cuda()`,
`is_rocm()` and the like are false. CUDA's libraries are not installed and Triton is not either,
unless somebody installs a build of it for Ascend; what is behind such a question counts as guarded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from migrator.codemod.syntax import dotted

DEVICES = frozenset({"cuda", "cpu", "xpu", "tpu", "hpu", "rocm", "hip", "neuron", "mps", "npu"})
_OTHER_PLATFORM = re.compile(
    r"is_(?:cuda|cuda_alike|rocm|xpu|tpu|hpu|cpu|neuron|zen_cpu|mps|unspecified)$"
    r"|(?:has|is)_device_capability\w*$|is_(?:blackwell|hopper|ampere)\w*$"
)
_LIBRARY = (
    r"flash_?infer|deep_?gemm|deep_?ep|pplx|cutlass|cute_?dsl|flash_?mla|aiter|tilelang|"
    r"triton|nvlink|nvshmem|quack|helion|trtllm|cudnn|fa3|fa4|flash_attn|xformers|cuda"
)
_ASKS_LIBRARY = re.compile(rf"_?(?:has|is|can|support|supports)_\w*(?:{_LIBRARY})\w*$", re.I)
_HAS_LIBRARY = re.compile(rf"_?(?:HAS|IS)_\w*(?:{_LIBRARY})\w*$", re.I)


def evaluate(test: ast.expr, known: Mapping[str, bool]) -> bool | None:
    """Whether an expression is true or false on an NPU; None where its source does not tell.

    Args:
        test: the expression.
        known: names that were given the result of such a question before.
    """
    match test:
        case ast.Constant():
            return bool(test.value)
        case ast.UnaryOp(op=ast.Not()):
            inner = evaluate(test.operand, known)
            return None if inner is None else not inner
        case ast.BoolOp():
            return _all_or_any(test, known)
        case ast.Name():
            if test.id == "TYPE_CHECKING" or _HAS_LIBRARY.match(test.id):
                return False
            return known.get(test.id)
        case ast.Attribute():
            value = known.get(dotted(test) or "")
            return _attribute(test) if value is None else value
        case ast.Call():
            return _call(test)
        case ast.Compare() if len(test.ops) == 1:
            return _compare(test.left, test.ops[0], test.comparators[0])
    return None


def settled(class_: ast.ClassDef, known: Mapping[str, bool]) -> dict[str, bool]:
    """Attributes of `self` that a class only ever gives one value on an NPU: `self.name` → value.

    One that is only given constants is a switch that others may turn, and is left out.
    """
    found: dict[str, set[bool | None]] = {}
    asked: set[str] = set()
    for node in ast.walk(class_):
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                name = f"{target.value.id}.{target.attr}"
                value = None if isinstance(node, ast.AugAssign) else evaluate(node.value, known)
                found.setdefault(name, set()).add(value)
                if not isinstance(node.value, ast.Constant):
                    asked.add(name)
    return {
        name: value
        for name, values in found.items()
        if name in asked and name.startswith("self.") and len(values) == 1
        for value in values
        if value is not None
    }


def _all_or_any(test: ast.BoolOp, known: Mapping[str, bool]) -> bool | None:
    values = [evaluate(value, known) for value in test.values]
    decisive = isinstance(test.op, ast.Or)
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def _attribute(test: ast.Attribute) -> bool | None:
    if test.attr in ("TYPE_CHECKING", "is_cuda") or _HAS_LIBRARY.match(test.attr):
        return False
    if dotted(test) in ("torch.version.cuda", "torch.version.hip", "torch.version.xpu"):
        return False
    return None


def _call(test: ast.Call) -> bool | None:
    name = dotted(test.func)
    if name is None:
        return None
    if name in ("torch.cuda.is_available", "torch.xpu.is_available", "torch.mps.is_available"):
        return False
    if name == "torch.npu.is_available":
        return True
    owner, _, last = name.rpartition(".")
    if owner.rpartition(".")[2].lower().endswith("platform"):
        if last == "is_out_of_tree":
            return True
        if _OTHER_PLATFORM.match(last):
            return False
    return False if _ASKS_LIBRARY.match(last) else None


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr) -> bool | None:
    equal = isinstance(op, ast.Eq | ast.Is | ast.In)
    if not equal and not isinstance(op, ast.NotEq | ast.IsNot | ast.NotIn):
        return None
    if isinstance(right, ast.Constant) and right.value is None:
        name = dotted(left)
        if name == "torch_npu":
            return not equal
        if name in ("torch.version.cuda", "torch.version.hip"):
            return equal
        return None
    if _names_platform(right):
        return not equal
    values = device_names(right)
    if values and asks_device(left):
        return ("npu" in values) is equal
    return None


def _names_platform(node: ast.expr) -> bool:
    name = dotted(node) or ""
    owner, _, last = name.rpartition(".")
    return owner.endswith("PlatformEnum") and last != "OOT"


def device_names(node: ast.expr) -> tuple[str, ...]:
    """The device types that a literal, or a literal collection, names; empty for others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,) if node.value in DEVICES else ()
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        names = [name for element in node.elts for name in device_names(element)]
        return tuple(names) if len(names) == len(node.elts) else ()
    return ()


def asks_device(node: ast.expr) -> bool:
    """Is this the type of a device: `x.device.type`, `device_type`, `platform.device_name`?"""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "str" and len(node.args) == 1
    last = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    if last == "type" and isinstance(node, ast.Attribute):
        inner = node.value
        last = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
        return "device" in last or isinstance(inner, ast.Call)
    return "device" in last


def ends(body: list[ast.stmt]) -> bool:
    """Does control never go past the end of these statements?"""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return ends(last.body) and ends(last.orelse)
    return isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break)
