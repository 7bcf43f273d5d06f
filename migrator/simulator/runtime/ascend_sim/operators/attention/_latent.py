# SPDX-License-Identifier: Apache-2.0
"""Multi-head latent attention: what the fused operator takes with query_rope and key_rope.

A key is the sum of two parts, one of them rotated, which lie in tensors of their own. With heads of
512 that is a decode step over one latent head, whose latent is key and value; with heads of 128 it
is a prefill over keys and values of each head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _checks as check

ROPE = 64
"""Size of the rotated part."""
LATENT, EXPANDED = 512, 128
NBSD = ("BSH_NBSD", "BSND_NBSD", "BNSD_NBSD", "TND_NTD")
"""Layouts that put the heads of the result first; for latent attention alone."""
DECODE_LAYOUTS = ("BSH", "BSND", "BNSD", "TND", *NBSD)
PREFILL_LAYOUTS = ("TND", "NTD_TND")
DECODE_HEADS = (1, 2, 4, 8, 16, 32, 64, 128)
PACKED_DECODE_HEADS = (32, 64, 128)
MOST_DECODED = 16
"""Query tokens of a sequence in a decode step."""


def check_latent(
    layout: str,
    sizes: tuple[int, int, int],
    heads: tuple[int, int],
    lengths: Sequence[tuple[int, int]],
    *,
    widest: int,
    block_size: int | None,
    sparse_mode: int,
    masked: bool,
    lse: bool,
) -> None:
    """Check a call with rotated parts.

    Args:
        layout: of the operands.
        sizes: of a head of query, value and the rotated part.
        heads: of query and key.
        lengths: query and key tokens of each sequence.
        widest: most query tokens that a sequence has room for.
        block_size: of a paged cache, else None.
        sparse_mode: as the operator takes it.
        masked: whether there is a mask.
        lse: whether the log of the sum of exponentials is asked for.
    """
    size, value, rope = sizes
    if not check.relaxed("head_size"):
        check.require(rope == ROPE, "query_rope", f"a head size of {ROPE}", rope)
        check.require(
            size in (LATENT, EXPANDED),
            "query",
            f"a head size of {LATENT} or {EXPANDED} with query_rope",
            size,
        )
        check.require(value == size, "value", f"the head size of query, {size}", value)
    if block_size is not None:
        _check_decode(layout, heads, widest, block_size, sparse_mode, masked, lse)
        return
    check.require(
        size != LATENT, "block_table", f"one, with heads of {LATENT} and query_rope", None
    )
    check.require(
        layout in PREFILL_LAYOUTS,
        "input_layout",
        f"one of {PREFILL_LAYOUTS} with query_rope and without a block_table",
        layout,
    )
    check.require(
        heads[0] == heads[1],
        "num_key_value_heads",
        f"the {heads[0]} heads of query, with query_rope and without a block_table",
        heads[1],
    )
    _check_mode((0, 3), sparse_mode, masked)
    if sparse_mode == 3:
        for new, keys in lengths:
            check.require(
                new <= keys, "sparse_mode", "no sequence with more query than key tokens", new
            )


def _check_decode(
    layout: str,
    heads: tuple[int, int],
    widest: int,
    block_size: int,
    sparse_mode: int,
    masked: bool,
    lse: bool,
) -> None:
    check.require(
        layout in DECODE_LAYOUTS,
        "input_layout",
        f"one of {DECODE_LAYOUTS} with query_rope and a block_table",
        layout,
    )
    wanted = PACKED_DECODE_HEADS if layout.startswith("TND") else DECODE_HEADS
    check.require(
        heads[0] in wanted,
        "num_heads",
        f"one of {wanted} with query_rope in layout {layout}",
        heads[0],
    )
    check.require(
        heads[1] == 1, "num_key_value_heads", "1, the latent head, with query_rope", heads[1]
    )
    check.require(block_size in (16, 128), "block_size", "16 or 128 with query_rope", block_size)
    check.require(
        0 < widest <= MOST_DECODED,
        "query",
        f"1 to {MOST_DECODED} tokens of a sequence, with query_rope",
        widest,
    )
    _check_mode((0,) if widest == 1 else (3,), sparse_mode, masked)
    check.require(not lse, "softmax_lse_flag", "False with query_rope and a block_table", lse)


def _check_mode(modes: tuple[int, ...], sparse_mode: int, masked: bool) -> None:
    check.require(
        sparse_mode in modes, "sparse_mode", f"one of {modes} with query_rope", sparse_mode
    )
    check.require(
        masked == (sparse_mode == 3),
        "atten_mask",
        "a mask in sparse_mode 3 and none in 0, with query_rope",
        "one" if masked else None,
    )


def join(parts: Sequence[torch.Tensor], rotated: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Heads with their rotated parts behind them, per sequence."""
    return [torch.cat(both, -1) for both in zip(parts, rotated, strict=True)]
