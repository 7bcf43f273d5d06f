# SPDX-License-Identifier: Apache-2.0
"""Calls of each operator of the port, with shapes, dtypes and layouts as its modules have them.

A case makes its operands on the CPU from a seeded generator, so that every machine has the same.
Sizes are those of a small model: 8 query heads of 128, 2 key heads, blocks of 128 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

HEADS, KV_HEADS, SIZE, BLOCK, BLOCKS = 8, 2, 128, 128, 6
HIDDEN = HEADS * SIZE
SCALE = SIZE**-0.5
HALF = (torch.bfloat16, torch.float16)
NZ = 29
"""FRACTAL_NZ."""
CAUSAL = 3
"""The sparse mode of a causal mask that lies at each request's last key."""


class Call(NamedTuple):
    """Operands of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Case(NamedTuple):
    """One call of an operator; `operator` is namespace, name and overload."""

    operator: str
    name: str
    make: Callable[[torch.Generator], Call]
    expected: Callable[[Call], Any] | None = None
    """What it returns, where the reference works on a device's tensors alone."""


NOT_COMPARED: Mapping[str, str] = {
    "npu::_npu_fused_infer_attention_score_get_max_workspace": "its result is memory, whose size "
    "is the device's own",
}
"""Operators of the port without a case, and why."""


def _call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs)


def _with(
    value: Any, make: Callable[[torch.Generator, Any], Call]
) -> Callable[[torch.Generator], Call]:
    """What makes the operands, with a value of a loop as it is now."""
    return lambda generator: make(generator, value)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _random(
    generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> torch.Tensor:
    return (torch.randn(*shape, generator=generator) * scale).to(dtype)


def _int8(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)


def _scales(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator) * 0.02 + 0.001


def cases() -> Iterator[Case]:
    """Every case, in the order of a report."""
    for dtype in HALF:
        yield from _layers(dtype)
        yield from _cache(dtype)
        yield from _attention(dtype)
        yield from _latent(dtype)
        yield from _experts(dtype)
    yield from _sampling()
    yield from _int8_products()


def _layers(dtype: torch.dtype) -> Iterator[Case]:
    of = _name(dtype)

    def rows(g: torch.Generator, columns: int = HIDDEN) -> torch.Tensor:
        return _random(g, 5, columns, dtype=dtype)

    def weight(g: torch.Generator) -> torch.Tensor:
        return _random(g, HIDDEN, dtype=dtype)

    yield Case("npu::npu_rms_norm", of, lambda g: _call(rows(g), weight(g), 1e-6))
    yield Case("npu::npu_add_rms_norm", of, lambda g: _call(rows(g), rows(g), weight(g), 1e-6))
    yield Case("npu::npu_gemma_rms_norm", of, lambda g: _call(rows(g), weight(g) * 0.1, 1e-6))
    yield Case("npu::npu_swiglu", of, lambda g: _call(rows(g, 2 * HIDDEN)))
    yield Case("npu::npu_fast_gelu", of, lambda g: _call(rows(g)))
    for approximate, form in ((0, "exact"), (1, "tanh")):
        yield Case(
            "npu::npu_geglu",
            f"{form}, {of}",
            _with(
                approximate,
                lambda g, approximate: _call(
                    rows(g, 2 * HIDDEN), -1, approximate, activate_left=True
                ),
            ),
        )
    yield Case(
        "npu::npu_format_cast",
        f"to FRACTAL_NZ and back, {of}",
        lambda g: _call(_random(g, 256, 512, dtype=dtype), NZ),
        lambda call: call.args[0],
    )
    for mode in ("half", "interleave"):
        yield Case(
            "npu::npu_rotary_mul",
            f"{mode}, {of}",
            _with(
                mode,
                lambda g, mode: _call(
                    _random(g, 1, 5, HEADS, 64, dtype=dtype),
                    *_rotation(g, dtype, mode),
                    rotary_mode=mode,
                ),
            ),
        )
    # torch_npu keeps the first table of a process for every later call: there is one dtype.
    for neox in (True, False) if dtype is HALF[0] else ():
        yield Case(
            "atb::_npu_rotary_embedding",
            f"{'halves' if neox else 'pairs'}, {of}",
            _with(
                neox,
                lambda g, neox: _call(
                    torch.randint(0, 512, (5,), generator=g),
                    rows(g),
                    rows(g, KV_HEADS * SIZE),
                    SIZE,
                    _cos_sin(512, SIZE, dtype),
                    neox,
                ),
            ),
        )


def _angles(positions: torch.Tensor, size: int) -> torch.Tensor:
    frequencies = 10000.0 ** (-torch.arange(0, size, 2) / size)
    return positions[:, None].float() * frequencies


def _cos_sin(length: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    angles = _angles(torch.arange(length), size)
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)


def _rotation(
    generator: torch.Generator, dtype: torch.dtype, mode: str
) -> tuple[torch.Tensor, torch.Tensor]:
    angles = _angles(torch.randint(0, 512, (5,), generator=generator), 64)
    both = angles.repeat_interleave(2, -1) if mode == "interleave" else angles.repeat(1, 2)
    shape = (1, 5, 1, 64)
    return both.cos().view(shape).to(dtype), both.sin().view(shape).to(dtype)


def _caches(generator: torch.Generator, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (BLOCKS, BLOCK, KV_HEADS, SIZE)
    return _random(generator, *shape, dtype=dtype), _random(generator, *shape, dtype=dtype)


def _slots(generator: torch.Generator, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randperm(BLOCKS * BLOCK, generator=generator)[:tokens].to(dtype)


def _cache(dtype: torch.dtype) -> Iterator[Case]:
    of = _name(dtype)

    def written(g: torch.Generator, slots: torch.dtype) -> tuple[Any, ...]:
        keys = _random(g, 5, KV_HEADS, SIZE, dtype=dtype)
        values = _random(g, 5, KV_HEADS, SIZE, dtype=dtype)
        return keys, values, *_caches(g, dtype), _slots(g, 5, slots)

    yield Case("atb::_npu_reshape_and_cache", of, lambda g: _call(*written(g, torch.int32)))
    yield Case(
        "npu::npu_scatter_pa_kv_cache",
        of,
        lambda g: _call(*written(g, torch.int32), cache_mode="Norm"),
    )
    yield Case(
        "npu::npu_scatter_nd_update_",
        of,
        lambda g: _call(
            _random(g, BLOCKS * BLOCK, 1, 512, dtype=dtype),
            _slots(g, 5, torch.int64)[:, None],
            _random(g, 5, 1, 512, dtype=dtype),
        ),
    )


_TABLE = torch.tensor([[3, 1], [5, 0], [2, 4]], dtype=torch.int32)
_LENGTHS = (130, 7, 256)


def _paged(generator: torch.Generator, dtype: torch.dtype) -> dict[str, Any]:
    """Keys and values of three requests in a cache, as the fused operator takes them."""
    keys, values = _caches(generator, dtype)
    return {
        "key": keys.flatten(2),
        "value": values.flatten(2),
        "block_table": _TABLE,
        "block_size": BLOCK,
        "num_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "scale": SCALE,
    }


def _hidden(size: int) -> torch.Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def _attention(dtype: torch.dtype) -> Iterator[Case]:
    of = _name(dtype)
    fused = "npu::npu_fused_infer_attention_score"

    def queries(g: torch.Generator, tokens: int) -> torch.Tensor:
        return _random(g, tokens, HEADS, SIZE, dtype=dtype)

    yield Case(
        fused,
        f"prefill, {of}",
        lambda g: _call(
            queries(g, 40),
            _random(g, 40, KV_HEADS, SIZE, dtype=dtype),
            _random(g, 40, KV_HEADS, SIZE, dtype=dtype),
            atten_mask=_hidden(2048),
            sparse_mode=CAUSAL,
            input_layout="TND",
            actual_seq_lengths=[17, 40],
            actual_seq_lengths_kv=[17, 40],
            num_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            scale=SCALE,
        ),
    )
    yield Case(
        fused,
        f"decode, {of}",
        lambda g: _call(
            queries(g, 3),
            **_paged(g, dtype),
            input_layout="TND",
            actual_seq_lengths=[1, 2, 3],
            actual_seq_lengths_kv=list(_LENGTHS),
        ),
    )
    yield Case(
        fused,
        f"chunked, {of}",
        lambda g: _call(
            queries(g, 2 + 7 + 100),
            **_paged(g, dtype),
            atten_mask=_hidden(2048),
            sparse_mode=CAUSAL,
            input_layout="TND",
            actual_seq_lengths=[2, 9, 109],
            actual_seq_lengths_kv=list(_LENGTHS),
        ),
    )
    yield Case(
        "atb::_npu_paged_attention",
        f"decode, {of}",
        lambda g: _call(
            queries(g, 3),
            *_caches(g, dtype),
            KV_HEADS,
            HEADS,
            SCALE,
            _TABLE,
            torch.tensor(_LENGTHS, dtype=torch.int32),
            torch.empty(3, HEADS, SIZE, dtype=dtype),
        ),
    )
    hides = float("-inf") if dtype is torch.float16 else 1.0
    yield Case(
        "atb::_npu_flash_attention",
        f"prefill, {of}",
        lambda g: _call(
            queries(g, 40),
            _random(g, 40, KV_HEADS, SIZE, dtype=dtype),
            _random(g, 40, KV_HEADS, SIZE, dtype=dtype),
            torch.full((2048, 2048), hides).triu(1).to(dtype),
            torch.tensor([17, 23], dtype=torch.int32),
            SCALE,
            HEADS,
            KV_HEADS,
            torch.empty(40, HEADS, SIZE, dtype=dtype),
        ),
    )
    yield Case(
        "atb::_npu_flash_attention_qlens",
        f"chunked, {of}",
        lambda g: _call(
            queries(g, 2 + 7 + 100),
            *_caches(g, dtype),
            _TABLE,
            torch.ones(128, 128, dtype=dtype).triu(1),
            torch.tensor([2, 7, 100], dtype=torch.int32),
            torch.tensor(_LENGTHS, dtype=torch.int32),
            KV_HEADS,
            HEADS,
            SCALE,
            torch.empty(109, HEADS, SIZE, dtype=dtype),
        ),
    )


def _latent(dtype: torch.dtype) -> Iterator[Case]:
    rank, rope = 512, 64

    def decode(g: torch.Generator) -> Call:
        latents = _random(g, BLOCKS, 1, BLOCK, rank, dtype=dtype)
        return _call(
            _random(g, 3, HEADS, 1, rank, dtype=dtype),
            latents,
            latents,
            query_rope=_random(g, 3, HEADS, 1, rope, dtype=dtype),
            key_rope=_random(g, BLOCKS, 1, BLOCK, rope, dtype=dtype),
            block_table=_TABLE,
            block_size=BLOCK,
            num_heads=HEADS,
            num_key_value_heads=1,
            input_layout="BNSD",
            actual_seq_lengths_kv=list(_LENGTHS),
            scale=(SIZE + rope) ** -0.5,
        )

    yield Case("npu::npu_fused_infer_attention_score", f"latent decode, {_name(dtype)}", decode)


def _experts(dtype: torch.dtype) -> Iterator[Case]:
    of = _name(dtype)
    experts, chosen, tokens = 4, 2, 6

    def choice(g: torch.Generator) -> torch.Tensor:
        scores = torch.rand(tokens, experts, generator=g)
        return scores.topk(chosen).indices.to(torch.int32)

    yield Case(
        "npu::npu_moe_init_routing_v2",
        of,
        lambda g: _call(
            _random(g, tokens, HIDDEN, dtype=dtype),
            choice(g),
            active_num=tokens * chosen,
            expert_num=experts,
            expert_tokens_num_type=1,
            expert_tokens_num_flag=True,
            active_expert_range=[0, experts],
            quant_mode=-1,
            row_idx_type=0,
        ),
    )
    yield Case(
        "npu::npu_grouped_matmul",
        of,
        lambda g: _call(
            [_random(g, tokens * chosen, HIDDEN, dtype=dtype)],
            [_random(g, experts, HIDDEN, 256, dtype=dtype, scale=0.03)],
            group_list=torch.tensor([4, 0, 5, 3]),
            split_item=2,
            group_type=0,
            group_list_type=1,
        ),
    )
    yield Case(
        "npu::npu_moe_token_unpermute",
        of,
        lambda g: _call(
            _random(g, tokens * chosen, HIDDEN, dtype=dtype),
            torch.randperm(tokens * chosen, generator=g).to(torch.int32),
            probs=torch.rand(tokens, chosen, generator=g).to(dtype),
        ),
    )
    yield Case(
        "npu::npu_moe_gating_top_k_softmax",
        of,
        lambda g: _call(
            torch.stack([torch.randperm(8, generator=g) for _ in range(tokens)]).to(dtype),
            finished=None,
            k=chosen,
        ),
    )


def _sampling() -> Iterator[Case]:
    def logits(g: torch.Generator) -> torch.Tensor:
        return _random(g, 4, 1024, scale=3.0)

    p = torch.tensor([0.9, 1.0, 0.5, 0.99])
    k = torch.tensor([20, 1024, 1, 50], dtype=torch.int32)
    for name, ps, ks in (("top-p", p, None), ("top-k", None, k), ("both", p, k)):
        yield Case(
            "npu::npu_top_k_top_p",
            name,
            _with((ps, ks), lambda g, bounds: _call(logits(g), *bounds)),
        )


def _int8_products() -> Iterator[Case]:
    def scale_of(outputs: int) -> torch.Tensor:
        return torch.linspace(0.001, 0.02, outputs)

    yield Case("npu::npu_trans_quant_param", "float32", lambda g: _call(_scales(g, 256)))
    for dtype in HALF:
        of = _name(dtype)
        yield Case(
            "npu::npu_dynamic_quant",
            of,
            _with(dtype, lambda g, d: _call(_random(g, 5, HIDDEN, dtype=d))),
        )
        yield Case(
            "npu::npu_quantize",
            of,
            _with(
                dtype,
                lambda g, d: _call(
                    _random(g, 5, HIDDEN, dtype=d),
                    torch.full((1,), 0.03),
                    torch.zeros(1, dtype=torch.int8),
                    torch.qint8,
                    axis=-1,
                    div_mode=True,
                ),
            ),
        )
    yield Case(
        "npu::npu_quant_matmul",
        "a scale for each token, bfloat16",
        lambda g: _call(
            _int8(g, 5, 512),
            _int8(g, 512, 256),
            scale_of(256).to(torch.bfloat16),
            pertoken_scale=_scales(g, 5),
            output_dtype=torch.bfloat16,
        ),
    )
    for dtype, scales in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        yield Case(
            "npu::npu_grouped_matmul",
            f"int8, {_name(dtype)}",
            _with(
                (dtype, scales),
                lambda g, of: _call(
                    [_int8(g, 12, 512)],
                    [_int8(g, 4, 512, 256)],
                    scale=[_scales(g, 4, 256).to(of[1])],
                    per_token_scale=[_scales(g, 12)],
                    group_list=torch.tensor([4, 0, 5, 3]),
                    split_item=2,
                    group_type=0,
                    group_list_type=1,
                    output_dtype=of[0],
                ),
            ),
        )
