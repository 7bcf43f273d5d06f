# SPDX-License-Identifier: Apache-2.0
"""Attention masks and sparse modes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _checks as check
from ._softmax import UNLIMITED, band

COMPRESSED = 2048
"""Side of the triangular mask that sparse modes 2, 3 and 4 take."""


def triangle(name: str, mask: torch.Tensor | None, mode: int) -> None:
    """Check the compressed mask that modes 2, 3 and 4 take."""
    wanted = f"a {COMPRESSED} x {COMPRESSED} mask in sparse_mode {mode}"
    if mask is None:
        raise check.OperandError(name, wanted, None)
    check.require(
        tuple(mask.shape[-2:]) == (COMPRESSED, COMPRESSED)
        and mask.numel() == COMPRESSED * COMPRESSED
        and mask.dim() <= 4,
        name,
        wanted,
        tuple(mask.shape),
    )
    flat = mask.reshape(COMPRESSED, COMPRESSED)
    # Samples that tell a triangle from its transpose and from a mask of zeros: reading the
    # whole mask in every call would cost more than the attention of a small batch.
    ok = (
        bool((flat[0, 1:] != 0).all())
        and not bool((flat[:, 0] != 0).any())
        and not bool((flat[-1] != 0).any())
        and bool((flat.diagonal(1) != 0).all())
        and not bool((flat.diagonal() != 0).any())
    )
    check.require(ok, name, "1 above the diagonal and 0 elsewhere", "other values")


def _full_mask(
    mask: torch.Tensor, batch: int, q_len: int, kv_len: int, packed: bool
) -> torch.Tensor:
    """A mask of sparse modes 0 and 1 as bool [1 or batch, q, kv]; True hides."""
    seen = mask != 0
    if seen.dim() == 2:
        if q_len == 1 and not packed and seen.shape[0] == batch and batch != 1:
            seen = seen.unsqueeze(1)
        else:
            seen = seen.unsqueeze(0)
    elif seen.dim() == 4:
        check.require(seen.shape[1] == 1, "atten_mask", "one head, (B, 1, S, S)", tuple(mask.shape))
        seen = seen.squeeze(1)
    check.require(
        seen.dim() == 3
        and seen.shape[0] in (1, batch)
        and seen.shape[1] >= q_len
        and seen.shape[2] >= kv_len,
        "atten_mask",
        f"(1 or {batch}, 1, {q_len}, {kv_len}), or without the leading dimensions, or larger",
        tuple(mask.shape),
    )
    return seen


def hidden_keys(
    q_lens: Sequence[int],
    kv_lens: Sequence[int],
    mask: torch.Tensor | None,
    mode: int,
    before: int,
    after: int,
    *,
    single: bool,
    packed: bool,
) -> list[torch.Tensor | None]:
    """Per sequence, what each query does not see (True), or None where it sees all."""
    if mask is not None:
        check.contiguous("atten_mask", mask)
    if mode in (0, 1):
        if mask is None:
            check.require(mode == 0, "atten_mask", "a mask in sparse_mode 1", None)
            return [None] * len(q_lens)
        check.require(
            not packed, "atten_mask", "no mask with sparse_mode 0 or 1 in a packed layout", "one"
        )
        full = _full_mask(mask, len(q_lens), max(q_lens), max(kv_lens), packed)
        found: list[torch.Tensor | None] = []
        for i, (q, kv) in enumerate(zip(q_lens, kv_lens, strict=True)):
            own = full[i if full.shape[0] > 1 else 0, :q, :kv]
            # One query token ignores the band.
            if mode == 0 and not single:
                own = own | band(q, kv, 0, before, after)
            found.append(own)
        return found
    if single:
        # sparse_mode has no effect on one query token in a batched layout.
        return [None] * len(q_lens)
    triangle("atten_mask", mask, mode)
    check.require(
        mode != 4 or before + after >= 0,
        "pre_tokens",
        "at least -next_tokens in sparse_mode 4",
        f"{before} with next_tokens {after}",
    )
    result: list[torch.Tensor | None] = []
    for q, kv in zip(q_lens, kv_lens, strict=True):
        if mode == 2:
            result.append(band(q, kv, 0, UNLIMITED, 0))
        elif mode == 3:
            result.append(band(q, kv, kv - q, UNLIMITED, 0))
        else:
            result.append(band(q, kv, kv - q, before, after))
    return result
