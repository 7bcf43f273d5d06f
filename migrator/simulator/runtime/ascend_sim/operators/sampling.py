# SPDX-License-Identifier: Apache-2.0
"""Sampling: npu_top_k_top_p, and the sort of torch_npu."""

from __future__ import annotations

import torch

from . import _checks as check
from ._registry import operator

MOST_K = 1024


@operator(
    "npu::npu_top_k_top_p",
    {"2.8.0": "npu_top_k_top_p(Tensor logits, Tensor? p=None, Tensor? k=None) -> Tensor"},
)
def npu_top_k_top_p(
    logits: torch.Tensor, p: torch.Tensor | None = None, k: torch.Tensor | None = None
) -> torch.Tensor:
    """``logits`` with -inf for what is not among the k greatest and the nucleus of p.

    Equal logits at the k-th place all stay. The nucleus drops the least likely tokens whose
    probabilities (of what k left) add up to at most 1 - p; the most likely token always stays.
    """
    rows, columns = logits.shape
    check.require(p is not None or k is not None, "p", "a tensor where k is None", None)
    values, order = torch.sort(logits.float(), dim=-1, stable=True)
    if k is not None:
        check.shape("k", k, rows)
        check.index_range("k", k, 1, min(MOST_K, columns) + 1)
        least = values.gather(1, (columns - k.long()).unsqueeze(1))
        values = values.masked_fill(values < least, -torch.inf)
    if p is not None:
        check.shape("p", p, rows)
        top = p.float()
        check.require(bool(((top >= 0) & (top <= 1)).all()), "p", "values in [0, 1]", top.tolist())
        mass = values.softmax(-1).cumsum(-1)
        drop = mass <= 1 - top.unsqueeze(1)
        drop[:, -1:] = False
        values = values.masked_fill(drop, -torch.inf)
    return torch.empty_like(values).scatter_(1, order, values).to(logits.dtype)


@operator(
    "npu::npu_sort_v2",
    {"2.8.0": "npu_sort_v2(Tensor input, int dim=-1, bool descending=False) -> Tensor"},
)
def npu_sort_v2(
    input: torch.Tensor,  # noqa: A002
    dim: int = -1,
    descending: bool = False,
) -> torch.Tensor:
    """The sorted values without their indices."""
    return torch.sort(input, dim=dim, descending=descending).values
