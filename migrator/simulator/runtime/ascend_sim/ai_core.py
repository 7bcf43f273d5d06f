# SPDX-License-Identifier: Apache-2.0
"""Which operators of torch CANN computes on the AI cores of a 910B or 910C, by their dtype.

CANN's aclnn functions ask a list of dtypes before they launch a kernel; what is not in it goes to
the AI CPU, one to two orders of magnitude slower, and says nothing. The table here is of these
lists, as CANN publishes them (ops-math c4193324 and ops-nn, both of 2026-08-22, read again at the
tags v8.5.0, v9.0.0 and v9.1.0 where it says `later`). Nothing here imports torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ascend_sim.operators._rules import CANN_VARIABLE, DEFAULT_CANN, DEFAULT_SOC, SOC_VARIABLE
from ascend_sim.operators._rules import chip as chip_of
from ascend_sim.operators._rules import version as version_of

CHIPS = ("910B", "910C")
"""Of which the lists are; those of other chips differ."""
_FLOATS = frozenset(("float32", "float16", "bfloat16"))
_BYTES = frozenset(("int8", "uint8"))
_WORDS = frozenset(("int32", "int64"))
_NUMBERS = _FLOATS | _BYTES | {"int32"}
_COMMON = _NUMBERS | {"int64", "bool"}
_WIDE = _COMMON | {"int16", "uint16", "uint32", "uint64"}


@dataclass(frozen=True)
class Kernel:
    """A kernel of CANN's AI cores."""

    name: str
    """Of the operator in CANN."""
    operators: tuple[str, ...]
    """Of ATen that become it, without namespace, overload and the underscore of those in place."""
    dtypes: frozenset[str]
    """Of the elements that it takes, as torch names them."""
    source: str
    """Where CANN asks for them."""
    by: str = "written"
    """Whose dtype is asked for: that of the first tensor that is "read", or that is "written", to
    which aclnn casts what is read."""
    later: tuple[tuple[tuple[int, int], frozenset[str]], ...] = ()
    """What CANN took in addition, from a version on."""

    def takes(self, dtype: str, cann: tuple[int, int]) -> bool:
        """Whether it computes elements of the dtype under a CANN."""
        added = (more for since, more in self.later if since <= cann)
        return dtype in self.dtypes.union(*added)


def _unary(name: str, *dtypes: str, source: str = "") -> Kernel:
    """One of floats, and of more dtypes, whose operator is called as the kernel is."""
    place = source or f"ops-math, {name.lower()}.cpp"
    return Kernel(name, (name.lower(),), _FLOATS | frozenset(dtypes), place)


KERNELS: tuple[Kernel, ...] = (
    Kernel("Add", ("add",), _COMMON | {"complex64"}, "ops-math, add.cpp"),
    Kernel("Sub", ("sub", "rsub"), _COMMON | {"complex64"}, "ops-math, sub.cpp"),
    Kernel("Mul", ("mul",), _COMMON | {"complex64"}, "ops-math, mul.cpp"),
    Kernel("RealDiv", ("div", "true_divide"), _FLOATS | {"bool"}, "ops-math, realdiv.cpp"),
    Kernel(
        "FloorDiv",
        ("floor_divide", "div.Tensor_mode", "div.Scalar_mode"),
        _NUMBERS,
        "ops-math, floordiv.cpp",
        later=(((9, 0), frozenset(("int64",))),),
    ),
    Kernel("FloorMod", ("remainder",), _WIDE, "ops-math, floor_mod.cpp"),
    Kernel("Mod", ("fmod",), _NUMBERS, "ops-math, mod.cpp"),
    Kernel("Equal", ("eq",), _COMMON, "ops-math, equal.cpp", "read"),
    Kernel("NotEqual", ("ne",), _COMMON, "ops-math, not_equal.cpp", "read"),
    Kernel("Less", ("lt",), _COMMON, "ops-math, less.cpp", "read"),
    Kernel("LessEqual", ("le",), _COMMON - {"bool"}, "ops-math, less_equal.cpp", "read"),
    Kernel("Greater", ("gt",), _COMMON - {"bool"}, "ops-math, greater.cpp", "read"),
    Kernel("GreaterEqual", ("ge",), _COMMON - {"bool"}, "ops-math, greater_equal.cpp", "read"),
    Kernel(
        "BitwiseAnd, BitwiseOr, BitwiseXor",
        ("bitwise_and", "bitwise_or", "bitwise_xor"),
        _WORDS | {"int16", "uint16", "bool"},
        "ops-math, bitwiseand.cpp and its neighbours; of bool they are LogicalAnd and so on",
    ),
    Kernel(
        "Invert", ("bitwise_not",), frozenset(("int16", "uint16", "bool")), "ops-math, invert.cpp"
    ),
    Kernel(
        "LogicalAnd, LogicalOr, LogicalNot",
        ("logical_and", "logical_or", "logical_not"),
        frozenset(("bool",)),
        "ops-math, logical_and.cpp: aclnn casts to bool before",
    ),
    Kernel(
        "MaskedFill", ("masked_fill",), _COMMON - {"int64", "uint8"}, "ops-math, masked_fill.cpp"
    ),
    Kernel("SelectV2", ("where",), _COMMON, "ops-math, select.cpp; of bool as of uint8"),
    Kernel("Fill", ("fill", "full"), _WIDE - {"uint8", "int16"}, "ops-math, fill.cpp"),
    Kernel(
        "ZerosLike", ("zero", "zeros", "zeros_like", "new_zeros"), _COMMON, "ops-math, zero_op.cpp"
    ),
    Kernel("OnesLike", ("ones_like",), _COMMON - {"int64"}, "ops-math, ones_like.cpp"),
    Kernel("Range", ("arange",), _FLOATS | _WORDS, "ops-math, arange.cpp"),
    Kernel("Cumsum", ("cumsum",), _FLOATS | {"int32"}, "ops-math, cumsum.cpp"),
    Kernel("Cummax", ("cummax",), frozenset(), "ops-math, cummax.cpp: the AI CPU alone"),
    Kernel("ArgMaxV2", ("argmax",), _FLOATS | _WORDS, "ops-math, argmax_v2.cpp", "read"),
    Kernel("ArgMin", ("argmin",), _FLOATS | {"int64"}, "ops-math, argmin.cpp", "read"),
    Kernel(
        "ReduceMax, ReduceMin", ("amax", "amin"), _COMMON - {"bool"}, "ops-math, reduce_max.cpp"
    ),
    Kernel("ReduceSum", ("sum",), _FLOATS | _WORDS, "ops-math, reduce_sum_op.cpp"),
    Kernel("ReduceMean", ("mean",), _FLOATS, "ops-math, reduce_mean.cpp"),
    Kernel("ReduceProd", ("prod",), _COMMON - {"bool"}, "ops-math, reduce_prod.cpp"),
    Kernel("TopKV2", ("topk",), _FLOATS, "ops-math, topk.cpp", "read"),
    Kernel("Sort", ("sort", "argsort"), _FLOATS, "ops-math, sort.cpp", "read"),
    Kernel(
        "SearchSorted", ("searchsorted", "bucketize"), frozenset(), "ops-math, searchsorted.cpp"
    ),
    Kernel("Bincount", ("bincount",), frozenset(), "ops-math, bincount.cpp: the AI CPU alone"),
    Kernel(
        "MultinomialWithReplacement",
        ("multinomial",),
        frozenset(),
        "ops-math, multinomial_with_replacement.cpp: the AI CPU alone",
    ),
    Kernel(
        "UniqueWithCountsExt2",
        ("_unique2", "unique_dim"),
        frozenset(),
        "ops-nn, unique_with_counts_ext2.cpp: the AI CPU alone",
        "read",
    ),
    Kernel(
        "SoftmaxV2, LogSoftmaxV2",
        ("softmax", "_softmax", "log_softmax", "_log_softmax"),
        _FLOATS,
        "ops-nn, softmax_v2_op.cpp and log_softmax_v2.cpp",
        "read",
    ),
    Kernel("GatherElements", ("gather",), _WIDE - {"bool"}, "ops-nn, gather_elements.cpp", "read"),
    Kernel("GatherV2", ("index_select", "embedding"), _WIDE, "ops-nn, gather_v2.cpp", "read"),
    Kernel("Index", ("index",), _COMMON, "ops-nn, aclnn_index.cpp", "read"),
    Kernel(
        "InplaceIndexAdd",
        ("index_add",),
        _FLOATS | {"int16", "int32"},
        "ops-nn, aclnn_index_add.cpp",
    ),
    Kernel(
        "ScatterElementsV2",
        ("scatter", "scatter_add", "scatter_reduce"),
        _NUMBERS,
        "ops-nn, scatter_elements.cpp",
    ),
    Kernel("NonZero", ("nonzero",), _FLOATS | _BYTES | {"bool"}, "ops-nn, nonzero.cpp", "read"),
    Kernel("Tile", ("repeat",), _WIDE | {"complex64"}, "ops-math, tile.cpp"),
    Kernel("Pow", ("pow",), _NUMBERS, "ops-math, pow.cpp"),
    Kernel(
        "ViewCopy",
        ("copy", "clone", "contiguous", "cat", "stack"),
        _WIDE,
        "ops-math, view_copy.cpp",
    ),
    Kernel(
        "Maximum, Minimum",
        ("maximum", "minimum"),
        _FLOATS | _WORDS | {"int8"},
        "ops-math, maximum.cpp",
    ),
    Kernel(
        "StatelessRandomUniformV2",
        ("exponential", "uniform", "rand"),
        _FLOATS,
        "ops-math, stateless_random_uniform_v2.cpp",
    ),
    Kernel(
        "MatMulV2",
        ("matmul", "linear", "mm", "addmm", "bmm"),
        _FLOATS,
        "cubes take these alone",
        "read",
    ),
    _unary("Abs", "int32", "int64"),
    _unary("Neg", "int32", "int8", "int64"),
    _unary("Square", "int32", "int64"),
    _unary("Sign", "int32"),
    _unary("Round", "int32"),
    Kernel(
        "ClipByValueV2",
        ("clamp", "clip", "clamp_min", "clamp_max"),
        _FLOATS | _WORDS,
        "ops-math, clip_by_value.cpp",
    ),
    *(
        _unary(name)
        for name in (
            *("Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Log1p", "Reciprocal", "Rsqrt"),
            *("Sin", "Sqrt"),
        )
    ),
    _unary("Sigmoid", source="ops-nn, sigmoid.cpp"),
)
"""The lists; an operator that is in none of them is not judged."""
_BY_OPERATOR = {operator: kernel for kernel in KERNELS for operator in kernel.operators}


def kernel(operator: str) -> Kernel | None:
    """The kernel of an operator ("aten::masked_fill_.Scalar"); None for one that is not judged."""
    namespace, _, name = operator.partition("::")
    if namespace != "aten":
        return None
    base, dot, overload = name.partition(".")
    # Those in place end with an underscore; those that begin with one keep it.
    plain = base if base.startswith("_") else base.rstrip("_")
    return _BY_OPERATOR.get(f"{plain}{dot}{overload}") or _BY_OPERATOR.get(plain)


def on_ai_cpu(
    operator: str, dtypes: str, cann: str | None = None, soc: str | None = None
) -> bool | None:
    """Whether the AI CPU computes a launch.

    Args:
        operator: as the observer names it, "aten::masked_fill_.Scalar".
        dtypes: that it reads and writes, "int64,bool->int64".
        cann: the version of CANN; that of the simulated machine if None.
        soc: the chip; that of the simulated machine if None.

    Returns:
        None where nothing is known of the operator, its dtypes or the chip. Operators of torch_npu
        and of atb are kernels of AI cores.
    """
    cann = cann or os.environ.get(CANN_VARIABLE) or DEFAULT_CANN
    soc = soc or os.environ.get(SOC_VARIABLE) or DEFAULT_SOC
    if chip_of(soc) not in CHIPS:
        return None
    if operator.startswith(("npu::", "atb::")):
        return False
    found = kernel(operator)
    read, arrow, written = dtypes.partition("->")
    if found is None or not arrow:
        return None
    # An operator that is made of others here tells what it reads alone.
    dtype, _, _ = (read if found.by == "read" or not written else written).partition(",")
    return None if not dtype else not found.takes(dtype, version_of(cann))
