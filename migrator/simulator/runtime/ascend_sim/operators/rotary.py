# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: the NNAL operator and those of torch_npu."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import _checks as check
from ._registry import operator

# The wheel's _npu_rotary_embedding keeps cos and sin of the first cos_sin_cache that the
# process passes and never looks at a later one. A second cache with other values is silently
# wrong on the device, so here it is an error.
_first_cache: list[torch.Tensor] = []


def forget_cos_sin_cache() -> None:
    """Start as a new process does: the next _npu_rotary_embedding sets the cache."""
    _first_cache.clear()


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat((-right, left), -1)


def _rotate_pairs(x: torch.Tensor) -> torch.Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


@operator(
    "atb::_npu_rotary_embedding",
    {
        "2.8.0": "_npu_rotary_embedding(Tensor positions, Tensor(a!) query, Tensor(b!) key,"
        " int head_size, Tensor cos_sin_cache, bool is_neox_style) -> ()",
    },
)
def _npu_rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
) -> None:
    """Rotate ``query`` and ``key`` in place.

    The heads are as wide as ``cos_sin_cache`` [positions, rotary_dim] (cos in the first half of a
    row, sin in the second), whatever ``head_size`` says: with rotary_dim < head_size the caller
    passes the rotated slices of the heads, made contiguous.
    """
    tokens, rotary_dim = positions.numel(), cos_sin_cache.shape[1]
    check.require(rotary_dim % 2 == 0, "cos_sin_cache", "an even rotary_dim", rotary_dim)
    if not (query.dtype == torch.float16 and cos_sin_cache.dtype == torch.float32):
        check.same_dtype("cos_sin_cache", cos_sin_cache, "query", query)
    for name, tensor in (("query", query), ("key", key)):
        check.shape(name, tensor, tokens, None)
        check.require(
            tensor.shape[1] % rotary_dim == 0,
            name,
            f"a second dimension that is a multiple of rotary_dim {rotary_dim}",
            tensor.shape[1],
        )
    check.require(
        key.shape[1] == 0 or query.shape[1] % key.shape[1] == 0,
        "query",
        f"a second dimension that is a multiple of that of key, {key.shape[1]}",
        query.shape[1],
    )
    check.require(
        is_neox_style or head_size == rotary_dim,
        "head_size",
        f"rotary_dim {rotary_dim}, when is_neox_style is False",
        head_size,
    )
    check.index_range("positions", positions, 0, cos_sin_cache.shape[0])
    where = positions.flatten().long()
    rows = cos_sin_cache.index_select(0, where)
    if not _first_cache:
        _first_cache.append(cos_sin_cache.clone())
    first = _first_cache[0]
    same = (
        first.shape[1] == rotary_dim
        and first.dtype == rows.dtype
        and (tokens == 0 or int(where.max()) < first.shape[0])
        and torch.equal(first.index_select(0, where), rows)
    )
    check.require(
        same,
        "cos_sin_cache",
        "the values of the cache that the process passed first, because torch_npu keeps those "
        "for every later call (use npu_rotary_mul or npu_mrope for a second rotary embedding)",
        "other values",
    )
    cos, sin = rows.float().unsqueeze(1).chunk(2, -1)
    if is_neox_style:
        cos, sin, turn = cos.repeat(1, 1, 2), sin.repeat(1, 1, 2), _rotate_half
    else:
        cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
        turn = _rotate_pairs
    for tensor in (query, key):
        heads = tensor.view(tokens, -1, rotary_dim)
        x = heads.float()
        heads.copy_(x * cos + turn(x) * sin)


@operator(
    "npu::npu_rotary_mul",
    {
        "2.8.0": "npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half')"
        " -> Tensor",
        "2.9.0": "npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half',"
        " Tensor? rotate=None) -> Tensor",
    },
)
def npu_rotary_mul(
    input: torch.Tensor,  # noqa: A002
    r1: torch.Tensor,
    r2: torch.Tensor,
    rotary_mode: str = "half",
    rotate: torch.Tensor | None = None,
) -> torch.Tensor:
    """``input * r1 + turn(input) * r2``; r1 holds cos, r2 sin, each as wide as ``input``.

    ``turn``: (-second half, first half), or in mode interleave (-odd, even) of each pair, or the
    product with the matrix ``rotate``.
    """
    width = input.shape[-1]
    check.require(
        0 < width < 896 and width % 2 == 0, "input", "an even last dimension below 896", width
    )
    for name, factor in (("r1", r1), ("r2", r2)):
        check.require(
            all(a in (1, b) for a, b in zip(factor.shape[:3], input.shape[:3], strict=True))
            and factor.shape[3] == width,
            name,
            f"a shape that broadcasts over {tuple(input.shape)}, last dimension {width}",
            tuple(factor.shape),
        )
    check.shape("r2", r2, *r1.shape)
    if rotary_mode == "interleave" and rotate is None:
        check.require(
            sum(n != 1 for n in r1.shape[:3]) <= 1,
            "r1",
            "one dimension other than 1 before the last, in mode interleave",
            tuple(r1.shape),
        )
    x = input.float()
    if rotate is not None:
        check.shape("rotate", rotate, width, width)
        turned = x @ rotate.float()
    else:
        turned = _rotate_half(x) if rotary_mode == "half" else _rotate_pairs(x)
    return (x * r1.float() + turned * r2.float()).to(input.dtype)


@operator(
    "npu::npu_interleave_rope",
    {"2.8.0": "npu_interleave_rope(Tensor x, Tensor cos, Tensor sin) -> Tensor"},
)
def npu_interleave_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of x after its pairs are separated: even elements first, then odd."""
    check.shape("x", x, None, None, None, 64)
    for name, factor in (("cos", cos), ("sin", sin)):
        check.shape(name, factor, x.shape[0], 1, None, 64)
        check.require(
            factor.shape[2] in (1, x.shape[2]), name, f"S of 1 or {x.shape[2]}", factor.shape[2]
        )
    apart = torch.cat((x[..., ::2], x[..., 1::2]), -1).float()
    return (apart * cos.float() + _rotate_half(apart) * sin.float()).to(x.dtype)


@operator(
    "npu::npu_mrope",
    {
        "2.8.0": "npu_mrope(Tensor positions, Tensor query, Tensor key, Tensor cos_sin_cache,"
        " int head_size, *, int[]? mrope_section=None, str? rotary_mode='half')"
        " -> (Tensor, Tensor)",
        "2.9.0": "npu_mrope(Tensor positions, Tensor query, Tensor key, Tensor cos_sin_cache,"
        " int head_size, *, int[]? mrope_section=None, str? rotary_mode='half',"
        " str? cache_mode='default') -> (Tensor, Tensor)",
    },
)
def npu_mrope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    *,
    mrope_section: Sequence[int] | None = None,
    rotary_mode: str | None = "half",
    cache_mode: str | None = "default",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated copies of query and key; the part of a head past rotary_dim stays as it is.

    With ``mrope_section`` (t, h, w) the frequencies come from three rows of positions: in
    cache mode default the first t from row 0, the next h from row 1, the rest from row 2; in
    mode interleave frequency i comes from row i % 3 as long as i < 3 * h, else from row 0.
    """
    rotary_dim = cos_sin_cache.shape[1]
    unit = 16 if query.dtype == torch.float32 else 32
    check.require(
        rotary_dim % unit == 0 and rotary_dim <= head_size,
        "cos_sin_cache",
        f"a rotary_dim that is a multiple of {unit} and at most head_size {head_size}",
        rotary_dim,
    )
    mode = rotary_mode or "half"
    section = [int(n) for n in mrope_section or ()]
    multimodal = any(section)
    tokens = positions.shape[-1]
    if multimodal:
        check.shape("positions", positions, 3, None)
        check.require(
            len(section) == 3 and sum(section) == rotary_dim // 2,
            "mrope_section",
            f"three sections that add up to rotary_dim / 2 = {rotary_dim // 2}",
            section,
        )
        # The device's formula takes the second section for row 1 and row 2 both.
        check.require(
            cache_mode != "interleave" or section[1] == section[2],
            "mrope_section",
            "equal second and third sections, with cache_mode 'interleave'",
            section,
        )
    else:
        check.shape("positions", positions, None)
    for name, tensor in (("query", query), ("key", key)):
        check.shape(name, tensor, tokens, None)
        check.require(
            tensor.shape[1] % head_size == 0,
            name,
            f"a second dimension that is a multiple of head_size {head_size}",
            tensor.shape[1],
        )
    check.index_range("positions", positions, 0, cos_sin_cache.shape[0])
    cos, sin = cos_sin_cache[positions.long()].float().chunk(2, -1)
    if multimodal:
        frequency = torch.arange(rotary_dim // 2)
        if cache_mode == "interleave":
            row = frequency % 3
            row = torch.where(frequency < 3 * section[1], row, 0)
        else:
            row = torch.repeat_interleave(torch.arange(3), torch.tensor(section))
        cos, sin = cos[row, :, frequency].T, sin[row, :, frequency].T
    if mode == "half":
        cos, sin, turn = cos.repeat(1, 2), sin.repeat(1, 2), _rotate_half
    else:
        cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
        turn = _rotate_pairs
    results = []
    for tensor in (query, key):
        heads = tensor.reshape(tokens, -1, head_size).clone()
        x = heads[..., :rotary_dim].float()
        heads[..., :rotary_dim] = (x * cos.unsqueeze(1) + turn(x) * sin.unsqueeze(1)).to(x.dtype)
        results.append(heads.view(tensor.shape))
    return results[0], results[1]


_APPLY_AXES = {"BSND": 4, "SBND": 4, "BNSD": 4, "BSH": 4, "TND": 3}


@operator(
    "npu::npu_apply_rotary_pos_emb",
    {
        "2.8.0": "npu_apply_rotary_pos_emb(Tensor query, Tensor key, Tensor cos, Tensor sin,"
        " str layout='BSH', str rotary_mode='half') -> (Tensor, Tensor)",
        "2.11.0": "npu_apply_rotary_pos_emb(Tensor query, Tensor key, Tensor cos, Tensor sin,"
        " str layout='BSND', str rotary_mode='half') -> (Tensor, Tensor)",
    },
)
def npu_apply_rotary_pos_emb(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "BSND",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated query and key.

    On the device the operands are also overwritten with the results; the schema does not say so,
    and a caller that reads an operand afterwards is wrong there. Here the operands stay.
    """
    check.rank("query", query, _APPLY_AXES[layout])
    lead, width = query.shape[:-2], query.shape[-1]
    check.require(width in (64, 128), "query", "a last dimension of 64 or 128", width)
    check.require(query.numel() > 0, "query", "a tensor that is not empty", tuple(query.shape))
    check.shape("key", key, *lead, None, width)
    check.shape("cos", cos, *lead, 1, width)
    check.shape("sin", sin, *lead, 1, width)
    c, s = cos.float(), sin.float()
    q, k = query.float(), key.float()
    q, k = q * c + _rotate_half(q) * s, k * c + _rotate_half(k) * s
    return q.to(query.dtype), k.to(key.dtype)
