# SPDX-License-Identifier: Apache-2.0
"""Quantization: of activations, products of integers, and products with quantized weights.

Sums of products of integers are exact here, as on the device: a float64 holds every one of them,
for 65535 products of two int8 stay far below 2**53. Roundings are to the nearest, halves to even.
"""

from __future__ import annotations

import torch

from . import _checks as check
from ._registry import operator
from .linear import scalar_type

MOST_COLUMNS = 65535
INT8 = (-128, 127)
# Numbers of c10::ScalarType that torch_npu takes for "int8".
_QINT8 = (torch.int8, torch.qint8, 1, 12)
_PER_INT32 = 8
_SCALE_MASK = -0x2000  # The upper 19 bits of a float32.
_OFFSET_BITS, _OFFSET_SHIFT, _QUANTIZED_FLAG = 0x1FF, 37, 1 << 46


def saturate(values: torch.Tensor) -> torch.Tensor:
    """Float values as int8: rounded, halves to even, cut off at the ends; NaN becomes 0."""
    low, high = INT8
    return values.nan_to_num(nan=0.0).round().clamp(low, high).to(torch.int8)


def integer_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The exact product of two integer matrices, int32."""
    return (x.double() @ weight.double()).to(torch.int32)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """[..., n / 8] int32 as [..., n] int8; the lowest four bits come first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    nibbles = (packed.unsqueeze(-1) >> shifts) & 0xF
    signed = torch.where(nibbles > 7, nibbles - 16, nibbles)
    return signed.flatten(-2).to(torch.int8)


def float_scale(argument: str, scale: torch.Tensor) -> torch.Tensor:
    """A scale as float32; one that is packed in int64 has it in its lower half.

    The unit that applies a packed one reads its upper 19 bits.
    """
    if scale.dtype != torch.int64:
        return scale.float()
    low = (scale & 0xFFFFFFFF).to(torch.int64)
    bits = torch.where(low >= 1 << 31, low - (1 << 32), low).to(torch.int32)
    found = (bits & _SCALE_MASK).view(torch.float32)
    check.require(bool(found.isfinite().all()), argument, "finite scales", "others")
    return found


@operator(
    "npu::npu_dynamic_quant",
    {
        "2.8.0": "npu_dynamic_quant(Tensor input, *, Tensor? smooth_scales=None,"
        " Tensor? group_index=None, ScalarType? dst_type=None) -> (Tensor, Tensor)",
        "2.13.0": "npu_dynamic_quant(Tensor input, *, Tensor? smooth_scales=None,"
        ' Tensor? group_index=None, int? dst_type=None, str quant_mode="pertoken",'
        " float dst_type_max=0.) -> (Tensor, Tensor)",
    },
    checks="input of two dimensions at least, float16 or bfloat16, not empty; smooth_scales "
    "[last dimension] of the dtype of input; dst_type int8",
    source="torch_npu.npu_dynamic_quant",
    refused={
        "group_index": "smooth scales of groups of rows",
        "quant_mode": "scales that are not of a row",
        "dst_type_max": "another greatest value",
    },
)
def npu_dynamic_quant(
    input: torch.Tensor,  # noqa: A002
    *,
    smooth_scales: torch.Tensor | None = None,
    dst_type: int | torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as int8, and its scale: the row's greatest magnitude divided by 127.

    A row of zeros stays one, with the scale 0.
    """
    check.require(
        input.dim() >= 2, "input", "two dimensions at least", f"shape {tuple(input.shape)}"
    )
    check.half("input", input)
    check.require(input.numel() > 0, "input", "a tensor that is not empty", tuple(input.shape))
    check.require(dst_type is None or dst_type in _QINT8, "dst_type", "int8", dst_type)
    values = input.float()
    if smooth_scales is not None:
        check.same_dtype("smooth_scales", smooth_scales, "input", input)
        check.shape("smooth_scales", smooth_scales, input.shape[-1])
        values = values * smooth_scales.float()
    scale = values.abs().amax(-1) / INT8[1]
    return saturate(values / scale.unsqueeze(-1)), scale


@operator(
    "npu::npu_quantize",
    {
        "2.8.0": "npu_quantize(Tensor input, Tensor scales, Tensor? zero_points, ScalarType dtype,"
        " int axis=1, bool div_mode=True) -> Tensor",
        "2.9.0": "npu_quantize(Tensor input, Tensor scales, Tensor? zero_points, int dtype,"
        " int axis=1, bool div_mode=True) -> Tensor",
    },
    checks="input float32, float16 or bfloat16; scales of one dimension, of one element or of "
    "those along the axis; with div_mode they are float32 or bfloat16 and zero_points int8, uint8, "
    "int32, float32 or bfloat16, without it zero_points are of their dtype; zero_points of the "
    "shape of scales; dtype qint8",
    source="torch_npu.npu_quantize, aclnnQuantize and aclnnAscendQuantV3",
)
def npu_quantize(
    input: torch.Tensor,  # noqa: A002
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    dtype: int | torch.dtype,
    axis: int = 1,
    div_mode: bool = True,
) -> torch.Tensor:
    """``input / scales + zero_points`` as int8; without div_mode ``input * scales + …``."""
    check.dtype("input", input, *check.FLOAT_DTYPES)
    check.rank("scales", scales, 1)
    if div_mode:
        check.dtype("scales", scales, torch.float32, torch.bfloat16)
    else:
        check.dtype("scales", scales, *check.FLOAT_DTYPES)
        # Any axis but the last but one means the last one.
        axis = -2 if axis == -2 else -1
    check.require(-input.dim() <= axis < input.dim(), "axis", "an axis of input", axis)
    length = input.shape[axis]
    check.require(
        scales.numel() in (1, length), "scales", f"1 or {length} elements", scales.numel()
    )
    check.require(dtype in _QINT8, "dtype", "qint8", dtype)
    shape = [1] * input.dim()
    shape[axis] = -1
    factor = scales.float().view(shape)
    result = input.float() / factor if div_mode else input.float() * factor
    if zero_points is not None:
        check.shape("zero_points", zero_points, *scales.shape)
        if div_mode:
            check.dtype(
                "zero_points",
                zero_points,
                torch.int8,
                torch.uint8,
                torch.int32,
                torch.float32,
                torch.bfloat16,
            )
        else:
            check.same_dtype("zero_points", zero_points, "scales", scales)
        result = result + zero_points.float().view(shape)
    return saturate(result)


@operator(
    "npu::npu_trans_quant_param",
    {
        "2.8.0": "npu_trans_quant_param(Tensor scale, Tensor? offset=None, int? round_mode=0)"
        " -> Tensor",
    },
    checks="scale float32, [1], [n] or [1, n]; offset float32 and of its shape; round_mode 0 or 1",
    source="torch_npu.npu_trans_quant_param and aclnnTransQuantParamV2",
)
def npu_trans_quant_param(
    scale: torch.Tensor, offset: torch.Tensor | None = None, round_mode: int | None = 0
) -> torch.Tensor:
    """A float32 scale as the unit that applies it reads it, int64.

    Its upper 19 bits stay (round_mode 0 cuts, 1 rounds), bit 46 is set, and bits 37 to 45 hold
    the offset, an integer of nine bits.
    """
    check.rank("scale", scale, 1, 2)
    check.require(
        scale.dim() == 1 or scale.shape[0] == 1, "scale", "[n] or [1, n]", tuple(scale.shape)
    )
    check.dtype("scale", scale, torch.float32)
    check.require(scale.numel() > 0, "scale", "a tensor that is not empty", tuple(scale.shape))
    check.require(round_mode in (0, 1), "round_mode", "0 or 1", round_mode)
    bits = scale.contiguous().view(torch.int32)
    if round_mode == 1:
        # Halves to even, at the lowest bit that stays.
        bits = bits + 0xFFF + ((bits >> 13) & 1)
    packed = (bits & _SCALE_MASK).to(torch.int64) & 0xFFFFFFFF
    packed = packed | _QUANTIZED_FLAG
    if offset is not None:
        check.dtype("offset", offset, torch.float32)
        check.shape("offset", offset, *scale.shape)
        whole = offset.round().clamp(-256, 255).to(torch.int64)
        packed = packed | ((whole & _OFFSET_BITS) << _OFFSET_SHIFT)
    return packed


def _output_dtype(
    output_dtype: int | torch.dtype | None, scale: torch.Tensor, per_token: bool
) -> torch.dtype:
    """The dtype of a product of int8, checked against that of its scale.

    The table of torch_npu.npu_quant_matmul, for Atlas A2 and A3.
    """
    if output_dtype is None:
        raise check.OperandError(
            "output_dtype", "one, because the simulator has no reference for int8 results", None
        )
    result = scalar_type(output_dtype)
    wanted = {
        torch.bfloat16: (torch.float32, torch.bfloat16),
        torch.float16: (torch.float32,) if per_token else (torch.float32, torch.int64),
        torch.int32: (torch.float32, torch.bfloat16),
    }
    if check.relaxed("float32"):
        wanted[torch.float32] = (torch.float32,)
    check.require(
        result in wanted,
        "output_dtype",
        f"dtype {' or '.join(str(d).removeprefix('torch.') for d in wanted)}",
        str(result).removeprefix("torch."),
    )
    check.dtype("scale", scale, *wanted[result])
    return result


def _float_bias(
    bias: torch.Tensor, columns: int, result: torch.dtype, per_token: bool
) -> torch.Tensor:
    """A bias of a product of int8, checked against its dtype; int32 is added to the integers."""
    check.shape("bias", bias, columns)
    wanted: tuple[torch.dtype, ...] = (torch.int32,)
    if result == torch.bfloat16:
        wanted = (torch.int32, torch.bfloat16, torch.float32)
    elif result == torch.float16 and per_token:
        wanted = (torch.int32, torch.float16, torch.float32)
    elif result == torch.float32:
        wanted = (torch.int32, torch.float32)
    check.dtype("bias", bias, *wanted)
    return bias


def check_matrix(argument: str, matrix: torch.Tensor) -> None:
    """Require a matrix as it lies, or the transpose of one, with dimensions up to 65535."""
    check.require(
        matrix.is_contiguous() or matrix.mT.is_contiguous(),
        argument,
        "a contiguous tensor, or the transpose of one",
        f"strides {matrix.stride()} for shape {tuple(matrix.shape)}",
    )
    check.require(
        max(matrix.shape[-2:]) <= MOST_COLUMNS,
        argument,
        f"dimensions up to {MOST_COLUMNS}",
        tuple(matrix.shape),
    )


_OPTIONS_29 = (
    " int? output_dtype=None, int? x1_dtype=None, int? x2_dtype=None,"
    " int? pertoken_scale_dtype=None, int? scale_dtype=None, int[]? group_sizes=None"
)
_QUANT_MATMUL = (
    "npu_quant_matmul(Tensor x1, Tensor x2, Tensor scale, *, Tensor? offset=None,"
    " Tensor? pertoken_scale=None, Tensor? bias=None,"
)


@operator(
    "npu::npu_quant_matmul",
    {
        "2.8.0": f"{_QUANT_MATMUL} ScalarType? output_dtype=None, SymInt[]? group_sizes=None)"
        " -> Tensor",
        "2.9.0": f"{_QUANT_MATMUL}{_OPTIONS_29}) -> Tensor",
        "2.13.0": f"{_QUANT_MATMUL}{_OPTIONS_29}, Tensor? y_scale=None) -> Tensor",
    },
    checks="x1 [rows, k] int8, contiguous; x2 [k, n] int8, contiguous or the transpose of such; "
    "neither empty, k and n up to 65535; scale [1] or [n], float32 or "
    "bfloat16 for bfloat16, float32 for float16 with pertoken_scale, float32 or int64 without; "
    "pertoken_scale [rows] float32; bias [n] int32, with bfloat16 also bfloat16 or float32, with "
    "float16 and pertoken_scale also float16 or float32; output_dtype float16, bfloat16 or int32",
    source="torch_npu.npu_quant_matmul, table 1 for Atlas A2 and A3",
    refused={
        "offset": "int8 results",
        "x1_dtype": "packed dtypes",
        "x2_dtype": "packed dtypes",
        "pertoken_scale_dtype": "packed dtypes",
        "scale_dtype": "packed dtypes",
        "group_sizes": "scales of groups along k",
        "y_scale": "quantized results",
    },
)
def npu_quant_matmul(
    x1: torch.Tensor,
    x2: torch.Tensor,
    scale: torch.Tensor,
    *,
    pertoken_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    output_dtype: int | torch.dtype | None = None,
) -> torch.Tensor:
    """``x1 @ x2`` in integers, times the scales of columns and rows.

    An int32 bias is added to the integers, another one to the result.
    """
    check.rank("x1", x1, 2)
    check.rank("x2", x2, 2)
    check.dtype("x1", x1, torch.int8)
    check.contiguous("x1", x1)
    check.dtype("x2", x2, torch.int8)
    check_matrix("x2", x2)
    check.require(
        x1.numel() > 0 and x2.numel() > 0, "x1", "operands that are not empty", tuple(x1.shape)
    )
    rows, k = x1.shape
    check.shape("x2", x2, k, None)
    columns = x2.shape[1]
    per_token = pertoken_scale is not None
    result = _output_dtype(output_dtype, scale, per_token)
    check.rank("scale", scale, 1)
    check.require(
        scale.shape[0] in (1, columns), "scale", f"[1] or [{columns}]", tuple(scale.shape)
    )
    total = integer_product(x1, x2)
    if bias is not None:
        bias = _float_bias(bias, columns, result, per_token)
        if bias.dtype == torch.int32:
            total, bias = total + bias, None
    if result == torch.int32:
        check.require(not per_token, "pertoken_scale", "None for int32 results", "one")
        return total
    factor = float_scale("scale", scale)
    if result == torch.float16 and not per_token:
        # Without scales of rows the unit behind the product applies it, as a packed one.
        factor = float_scale("scale", npu_trans_quant_param.function(factor))
    out = total.float() * factor
    if pertoken_scale is not None:
        check.dtype("pertoken_scale", pertoken_scale, torch.float32)
        check.shape("pertoken_scale", pertoken_scale, rows)
        out = out * pertoken_scale.unsqueeze(1)
    if bias is not None:
        out = out + bias.float()
    return out.to(result)


@operator(
    "npu::npu_convert_weight_to_int4pack",
    {"2.8.0": "npu_convert_weight_to_int4pack(Tensor weight, int inner_k_tiles=0) -> Tensor"},
    checks="weight int32 [rows, columns], contiguous, values in [-8, 7], columns a multiple of 8",
    source="torch_npu.npu_convert_weight_to_int4pack",
    refused={"inner_k_tiles": "tiles along k"},
)
def npu_convert_weight_to_int4pack(weight: torch.Tensor) -> torch.Tensor:
    """Eight values of int4 an int32, [rows, columns / 8]; the first one in the lowest bits."""
    check.rank("weight", weight, 2)
    check.dtype("weight", weight, torch.int32)
    check.contiguous("weight", weight)
    check.require(
        weight.shape[1] % _PER_INT32 == 0,
        "weight",
        f"a last dimension that is a multiple of {_PER_INT32}",
        tuple(weight.shape),
    )
    check.index_range("weight", weight, -8, 8)
    nibbles = (weight.to(torch.int64) & 0xF).unflatten(1, (-1, _PER_INT32))
    words = (nibbles << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@operator(
    "npu::npu_weight_quant_batchmatmul",
    {
        "2.8.0": "npu_weight_quant_batchmatmul(Tensor x, Tensor weight, Tensor antiquant_scale,"
        " Tensor? antiquant_offset=None, Tensor? quant_scale=None, Tensor? quant_offset=None,"
        " Tensor? bias=None, int antiquant_group_size=0, int inner_precise=0) -> Tensor",
        "2.9.0": "npu_weight_quant_batchmatmul(Tensor x, Tensor weight, Tensor antiquant_scale,"
        " Tensor? antiquant_offset=None, Tensor? quant_scale=None, Tensor? quant_offset=None,"
        " Tensor? bias=None, int antiquant_group_size=0, int inner_precise=0,"
        " int? weight_dtype=None) -> Tensor",
    },
    checks="x [rows, k] float16 or bfloat16, not empty; weight [k, n] int8 or [k, n / 8] int32 of "
    "int4, k and n up to 65535; antiquant_scale of the dtype of x, [1], [n] or [1, n], with "
    "groups [ceil(k / group), n]; antiquant_offset of its dtype and shape; a group is a multiple "
    "of 32 between 32 and k - 1; bias [n] or [1, n], float32 for bfloat16, float16 for float16",
    source="torch_npu.npu_weight_quant_batchmatmul",
    refused={
        "quant_scale": "quantized results",
        "quant_offset": "quantized results",
        "inner_precise": "the faster mode",
        "weight_dtype": "packed dtypes",
    },
)
def npu_weight_quant_batchmatmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    antiquant_scale: torch.Tensor,
    antiquant_offset: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    antiquant_group_size: int = 0,
) -> torch.Tensor:
    """``x @ ((weight + antiquant_offset) * antiquant_scale) + bias``."""
    check.rank("x", x, 2)
    check.half("x", x)
    check.require(x.numel() > 0, "x", "a tensor that is not empty", tuple(x.shape))
    check.rank("weight", weight, 2)
    check.dtype("weight", weight, torch.int8, torch.int32)
    if weight.dtype == torch.int32:
        check.contiguous("weight", weight)
        weight = unpack_int4(weight)
    check_matrix("weight", weight)
    k, columns = x.shape[1], weight.shape[1]
    check.shape("weight", weight, k, None)
    check.same_dtype("antiquant_scale", antiquant_scale, "x", x)
    group = antiquant_group_size
    if group:
        check.require(
            group % 32 == 0 and 32 <= group < k,
            "antiquant_group_size",
            f"a multiple of 32 in [32, {k - 1}]",
            group,
        )
        check.shape("antiquant_scale", antiquant_scale, -(-k // group), columns)
    else:
        allowed = [(1,), (1, 1), (columns,), (1, columns)]
        check.require(
            tuple(antiquant_scale.shape) in allowed,
            "antiquant_scale",
            f"one of the shapes {allowed}",
            tuple(antiquant_scale.shape),
        )

    def rows_of(values: torch.Tensor) -> torch.Tensor:
        values = values.float()
        return values.repeat_interleave(group, 0)[:k] if group else values

    matrix = weight.float()
    if antiquant_offset is not None:
        check.same_dtype("antiquant_offset", antiquant_offset, "antiquant_scale", antiquant_scale)
        check.shape("antiquant_offset", antiquant_offset, *antiquant_scale.shape)
        matrix = matrix + rows_of(antiquant_offset)
    out = x.float() @ (matrix * rows_of(antiquant_scale))
    if bias is not None:
        check.dtype("bias", bias, torch.float16 if x.dtype == torch.float16 else torch.float32)
        check.require(
            tuple(bias.shape) in ((columns,), (1, columns)),
            "bias",
            f"[{columns}] or [1, {columns}]",
            tuple(bias.shape),
        )
        out = out + bias.float()
    return out.to(x.dtype)
