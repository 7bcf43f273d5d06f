# SPDX-License-Identifier: Apache-2.0
"""Sampling, row by row."""

from __future__ import annotations

import math

import torch
import torch_npu

from tests.simulator.inside.operators.calling import (
    call,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    softmax,
    sweep,
    wide,
)


def check_top_k_top_p() -> None:
    for rng, dtype in sweep(16):
        rows, columns = rng.randint(1, 4), rng.randint(2, 12)
        logits = rand(rng, rows, columns, dtype=dtype) * 2
        k = [rng.randint(1, columns) for _ in range(rows)]
        p = [rng.choice([0.0, 0.3, 0.8, 1.0]) for _ in range(rows)]
        which = rng.choice(["k", "p", "both"])
        top_p, top_k = torch.tensor(p).to(dtype), torch.tensor(k, dtype=torch.int32)
        got = call(
            "npu::npu_top_k_top_p",
            npu(logits),
            npu(top_p) if which != "k" else None,
            npu(top_k) if which != "p" else None,
        )
        assert got.dtype == dtype
        for i, row in enumerate(wide(logits)):
            kept = row
            if which != "p":
                least = sorted(row, reverse=True)[k[i] - 1]
                kept = [v if v >= least else -math.inf for v in row]
            want, border = kept, False
            if which != "k":
                order = sorted(range(columns), key=lambda j: (kept[j], j))
                weights = softmax(kept)
                bound, mass = 1 - float(top_p[i]), 0.0
                want = list(kept)
                for j in order[:-1]:
                    mass += weights[j]
                    # float32 decides a sum that comes within its own error of the bound.
                    border |= abs(mass - bound) < 1e-6 and weights[j] > 0
                    if mass <= bound:
                        want[j] = -math.inf
            if not border:
                assert got[i].tolist() == want, (got[i].tolist(), want)


def check_sort_v2() -> None:
    for rng, dtype in sweep(3):
        x = rand(rng, 3, 5, dtype=dtype)
        got = call("npu::npu_sort_v2", npu(x), 1, True)
        assert got.tolist() == [sorted(row, reverse=True) for row in x.tolist()]


def check_sampling_refusals() -> None:
    logits = npu(torch.ones(2, 2048))
    k = npu(torch.tensor([1, 1025], dtype=torch.int32))
    with refused("npu_top_k_top_p", "'k'", "[1, 1025)", "1025"):
        torch_npu.npu_top_k_top_p(logits, None, k)
    with refused("npu_top_k_top_p", "'k'", "int32", "int64"):
        torch_npu.npu_top_k_top_p(logits, None, k.long())
    with refused("npu_top_k_top_p", "'p'", "[0, 1]"):
        torch_npu.npu_top_k_top_p(logits, npu(torch.tensor([0.5, 1.5])))
    with refused("npu_top_k_top_p", "'p'", "dtype of logits"):
        torch_npu.npu_top_k_top_p(logits, npu(torch.tensor([0.5, 0.5]).half()))
    with refused("npu_top_k_top_p", "'p'", "where k is None"):
        torch_npu.npu_top_k_top_p(logits)
    with refused("npu_top_k_top_p", "'logits'", "2 dimensions"):
        torch_npu.npu_top_k_top_p(logits[0], None, k)


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
