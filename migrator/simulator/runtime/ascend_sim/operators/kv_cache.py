# SPDX-License-Identifier: Apache-2.0
"""Writes to the paged key and value caches, and scatter_nd_update."""

from __future__ import annotations

import torch

from . import _checks as check
from ._registry import operator


def _store(name: str, rows: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Write rows [tokens, heads, size] to slots of a cache [blocks, block_size, heads, size]."""
    kept = slots >= 0
    index = slots[kept].long()
    check.require(
        len(set(index.tolist())) == index.numel(), name, "slots without duplicates", "duplicates"
    )
    cache.flatten(0, 1)[index] = rows[kept]


def _store_nz(rows: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Write rows to a cache [blocks, heads * size // 16, block_size, 16] (PA_NZ)."""
    kept = slots >= 0
    index = slots[kept].long()
    block_size, last = cache.shape[2], cache.shape[3]
    flat = rows[kept].reshape(int(kept.sum()), -1, last)
    cache[index // block_size, :, index % block_size] = flat


@operator(
    "atb::_npu_reshape_and_cache",
    {
        "2.8.0": "_npu_reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache,"
        " Tensor(b!) value_cache, Tensor slot_indices) -> ()",
    },
)
def _npu_reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    """Write each token's key and value to its slot; slot = block * block_size + offset.

    A token whose slot is negative is not written.
    """
    check.shape("value", value, *key.shape[:2], None)
    blocks, block_size = key_cache.shape[:2]
    check.shape("key_cache", key_cache, blocks, block_size, *key.shape[1:])
    check.shape("value_cache", value_cache, blocks, block_size, *value.shape[1:])
    check.shape("slot_indices", slot_indices, key.shape[0])
    check.index_range("slot_indices", slot_indices, -(2**31), blocks * block_size)
    _store("slot_indices", key, key_cache, slot_indices)
    _store("slot_indices", value, value_cache, slot_indices)


@operator(
    "atb::_npu_reshape_and_cache_siso",
    {
        "2.8.0": "_npu_reshape_and_cache_siso(Tensor key, Tensor(a!) key_cache,"
        " Tensor slot_indices) -> ()",
    },
)
def _npu_reshape_and_cache_siso(
    key: torch.Tensor, key_cache: torch.Tensor, slot_indices: torch.Tensor
) -> None:
    """As :func:`_npu_reshape_and_cache` for one cache."""
    blocks, block_size = key_cache.shape[:2]
    check.shape("key_cache", key_cache, blocks, block_size, *key.shape[1:])
    check.shape("slot_indices", slot_indices, key.shape[0])
    check.index_range("slot_indices", slot_indices, -(2**31), blocks * block_size)
    _store("slot_indices", key, key_cache, slot_indices)


@operator(
    "npu::npu_scatter_pa_kv_cache",
    {
        "2.8.0": "npu_scatter_pa_kv_cache(Tensor key, Tensor value, Tensor(a!) key_cache,"
        " Tensor(b!) value_cache, Tensor slot_mapping, *, Tensor? compress_lens=None,"
        " Tensor? compress_seq_offsets=None, Tensor? seq_lens=None) -> ()",
        "2.9.0": "npu_scatter_pa_kv_cache(Tensor key, Tensor value, Tensor(a!) key_cache,"
        " Tensor(b!) value_cache, Tensor slot_mapping, *, Tensor? compress_lens=None,"
        " Tensor? compress_seq_offsets=None, Tensor? seq_lens=None, str? cache_mode='PA_NZ')"
        " -> ()",
    },
    refused={
        "compress_lens": "compressed caches",
        "compress_seq_offsets": "compressed caches",
        "seq_lens": "compressed caches",
    },
)
def npu_scatter_pa_kv_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    cache_mode: str | None = "PA_NZ",
) -> None:
    """Write each token's key and value to its slot; slot = block * block_size + offset.

    torch_npu 2.8 has no ``cache_mode``: its kernel always asks for the layout PA_NZ.
    """
    check.shape("value", value, *key.shape[:2], None)
    heads = key.shape[1]
    blocks = key_cache.shape[0]
    if cache_mode == "PA_NZ":
        last = 32 // key.element_size()
        block_size = key_cache.shape[2]
        for name, rows, cache in (
            ("key_cache", key, key_cache),
            ("value_cache", value, value_cache),
        ):
            check.require(
                heads * rows.shape[2] % last == 0
                and cache.shape == (blocks, heads * rows.shape[2] // last, block_size, last),
                name,
                f"shape (blocks, {heads} * {rows.shape[2]} // {last}, block_size, {last}), because "
                "cache_mode is 'PA_NZ', the default, and fixed in torch_npu 2.8 (from 2.9 on pass "
                "'Norm' for [blocks, block_size, heads, size])",
                tuple(cache.shape),
            )
    else:
        block_size = key_cache.shape[1]
        check.shape("key_cache", key_cache, blocks, block_size, *key.shape[1:])
        check.shape("value_cache", value_cache, blocks, block_size, *value.shape[1:])
    check.shape("slot_mapping", slot_mapping, key.shape[0])
    check.index_range("slot_mapping", slot_mapping, 0, blocks * block_size)
    if cache_mode == "PA_NZ":
        check.require(
            len(set(slot_mapping.tolist())) == slot_mapping.numel(),
            "slot_mapping",
            "slots without duplicates",
            "duplicates",
        )
        _store_nz(key, key_cache, slot_mapping)
        _store_nz(value, value_cache, slot_mapping)
    else:
        _store("slot_mapping", key, key_cache, slot_mapping)
        _store("slot_mapping", value, value_cache, slot_mapping)


def _scatter(target: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> None:
    depth = indices.shape[-1]
    check.require(
        depth <= target.dim(), "indices", f"a last dimension of at most {target.dim()}", depth
    )
    check.shape("updates", updates, *indices.shape[:-1], *target.shape[depth:])
    columns = indices.long().reshape(-1, depth).unbind(1)
    for column, size in zip(columns, target.shape, strict=False):
        check.index_range("indices", column, 0, size)
    target[columns] = updates.reshape(-1, *target.shape[depth:])


@operator(
    "npu::npu_scatter_nd_update_",
    {
        "2.8.0": "npu_scatter_nd_update_(Tensor(a!) input, Tensor indices, Tensor updates)"
        " -> Tensor(a!)",
    },
)
def npu_scatter_nd_update_(
    input: torch.Tensor,  # noqa: A002
    indices: torch.Tensor,
    updates: torch.Tensor,
) -> torch.Tensor:
    """``input[indices[..., 0], indices[..., 1], ...] = updates`` in place."""
    _scatter(input, indices, updates)
    return input


@operator(
    "npu::npu_scatter_nd_update",
    {"2.8.0": "npu_scatter_nd_update(Tensor input, Tensor indices, Tensor updates) -> Tensor"},
)
def npu_scatter_nd_update(
    input: torch.Tensor,  # noqa: A002
    indices: torch.Tensor,
    updates: torch.Tensor,
) -> torch.Tensor:
    """As :func:`npu_scatter_nd_update_`, on a copy."""
    result = input.clone(memory_format=torch.contiguous_format)
    _scatter(result, indices, updates)
    return result
