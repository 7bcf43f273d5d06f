# SPDX-License-Identifier: Apache-2.0
"""Operands that the attention operators have in common: heads, layouts, block tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _checks as check


def kv_heads_of(num_heads: int, num_kv_heads: int, kv_name: str = "num_kv_heads") -> int:
    check.require(num_heads > 0, "num_heads", "more than 0", num_heads)
    kv_heads = num_kv_heads or num_heads
    check.require(
        kv_heads > 0 and num_heads % kv_heads == 0,
        kv_name,
        f"a divisor of the number of query heads {num_heads}, or 0",
        num_kv_heads,
    )
    return kv_heads


def tokens(name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[tokens, heads, size] of a tensor of that shape or [tokens, heads * size]."""
    check.rank(name, tensor, 2, 3)
    if tensor.dim() == 2:
        check.require(
            tensor.shape[1] % heads == 0,
            name,
            f"a second dimension that is a multiple of {heads} heads",
            tensor.shape[1],
        )
        return tensor.reshape(tensor.shape[0], heads, tensor.shape[1] // heads)
    check.shape(name, tensor, None, heads, None)
    return tensor


def check_block_table(
    table: torch.Tensor, lengths: Sequence[int], block_size: int, blocks: int, name: str
) -> None:
    """Check a block table [sequences, blocks per sequence] for the lengths of its sequences."""
    check.dtype(name, table, torch.int32)
    check.rank(name, table, 2)
    check.require(
        table.shape[0] >= len(lengths),
        name,
        f"a row for each of the {len(lengths)} sequences",
        tuple(table.shape),
    )
    for row, length in zip(table, lengths, strict=False):
        count = -(-length // block_size)
        check.require(
            count <= row.numel(),
            name,
            f"at least {count} columns, for {length} tokens in blocks of {block_size}",
            row.numel(),
        )
        check.index_range(name, row[:count], 0, blocks)


def per_batch(name: str, values: Sequence[int] | None, batch: int, size: int) -> list[int]:
    if values is None:
        return [size] * batch
    found = check.lengths(name, values)
    check.require(
        len(found) == 1 or len(found) >= batch,
        name,
        f"1 length or one for each of the {batch} sequences",
        len(found),
    )
    found = found * batch if len(found) == 1 else found[:batch]
    check.require(max(found, default=0) <= size, name, f"lengths of at most {size}", found)
    return found


def rows(layout: str, name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """A tensor in a batched layout as [batch, tokens, heads, size]."""
    if layout == "BSH":
        check.rank(name, tensor, 3)
        check.require(
            tensor.shape[2] % heads == 0,
            name,
            f"a last dimension that is a multiple of {heads} heads",
            tensor.shape[2],
        )
        return tensor.reshape(*tensor.shape[:2], heads, tensor.shape[2] // heads)
    check.rank(name, tensor, 4)
    axis = 2 if layout == "BSND" else 1
    check.require(
        tensor.shape[axis] == heads, name, f"{heads} heads in layout {layout}", tuple(tensor.shape)
    )
    return tensor if layout == "BSND" else tensor.transpose(1, 2)


def sequence(layout: str, name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """A tensor in a packed layout as [tokens, heads, size]."""
    if layout == "NTD_TND":
        check.shape(name, tensor, heads, None, None)
        return tensor.transpose(0, 1)
    check.shape(name, tensor, None, heads, None)
    return tensor
