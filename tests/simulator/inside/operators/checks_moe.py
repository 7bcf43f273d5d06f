# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts, element by element in float64."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch_npu

from tests.simulator.inside.operators.calling import (
    call,
    close,
    every_operator_was_tested,
    exists,
    matrix_product,
    npu,
    rand,
    refused,
    sigmoid,
    softmax,
    sweep,
    wide,
)


def _best(scores: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:count]


def check_gating_top_k_softmax() -> None:
    for rng, dtype in sweep(8):
        rows, experts = rng.randint(1, 5), rng.randint(2, 9)
        k = rng.randint(1, experts)
        x = rand(rng, rows, experts, dtype=dtype)
        done = torch.tensor([rng.random() < 0.3 for _ in range(rows)])
        given = npu(done) if rng.random() < 0.5 else None
        y, index, row = call("npu::npu_moe_gating_top_k_softmax", npu(x), given, k)
        weights = [softmax(r) for r in wide(x)]
        # In 16 bits two experts may have equal logits: the lower one comes first.
        chosen = [_best(w, k) for w in weights]
        close(y, [[w[e] for e in c] for w, c in zip(weights, chosen, strict=True)], terms=experts)
        hidden = [
            [experts] * k if given is not None and done[i] else c for i, c in enumerate(chosen)
        ]
        assert index.tolist() == hidden
        assert index.dtype == row.dtype == torch.int32
        assert row.tolist() == [[c * rows + i for c in range(k)] for i in range(rows)]
        if not exists("npu::npu_moe_gating_top_k_softmax_v2"):
            continue
        y2, index2, whole = call(
            "npu::npu_moe_gating_top_k_softmax_v2", npu(x), k=k, finished=given, output_softmax=True
        )
        assert torch.equal(y2.cpu(), y.cpu())
        assert torch.equal(index2.cpu(), index.cpu())
        close(whole, weights, terms=experts)
        y3, _, none = call("npu::npu_moe_gating_top_k_softmax_v2", npu(x), k=k, renorm=1)
        logits = wide(x)
        close(y3, [softmax([logits[i][e] for e in c]) for i, c in enumerate(chosen)], terms=k)
        assert none.numel() == 0


def check_gating_top_k() -> None:
    for rng, dtype in sweep(12):
        groups = rng.choice([1, 2, 4])
        rows, experts = rng.randint(1, 4), groups * rng.randint(3, 5)
        kept = rng.randint(1, groups)
        k = rng.randint(1, kept * experts // groups)
        kind, select = rng.choice([0, 1]), rng.choice([0, 1])
        x = rand(rng, rows, experts, dtype=dtype)
        bias = rand(rng, experts, dtype=dtype) if rng.random() < 0.7 else None
        y, index, norm = call(
            "npu::npu_moe_gating_top_k",
            npu(x),
            k,
            bias=None if bias is None else npu(bias),
            k_group=kept,
            group_count=groups,
            group_select_mode=select,
            norm_type=kind,
            out_flag=True,
            routed_scaling_factor=2.5,
        )
        scores = [softmax(r) if kind == 0 else [sigmoid(v) for v in r] for r in wide(x)]
        close(norm, scores, terms=experts)
        extra = [0.0] * experts if bias is None else wide(bias)
        per = experts // groups
        values, picks = [], []
        for row in scores:
            total = [a + b for a, b in zip(row, extra, strict=True)]
            marks = []
            for g in range(groups):
                ranked = sorted(total[g * per : (g + 1) * per], reverse=True)
                marks.append(ranked[0] if select == 0 else ranked[0] + ranked[1])
            alive = set(_best(marks, kept)) if groups > 1 else {0}
            open_to = [t if e // per in alive else -math.inf for e, t in enumerate(total)]
            pick = _best(open_to, k)
            value = [row[e] for e in pick]
            share = math.fsum(value) + 1e-20 if kind == 1 else 1.0
            values.append([v / share * 2.5 for v in value])
            picks.append(pick)
        assert index.tolist() == picks
        close(y, values, terms=experts, size=3)
    _, _, hidden = torch_npu.npu_moe_gating_top_k(npu(torch.ones(2, 4)), 2)
    assert hidden.isnan().all()


def check_init_routing() -> None:
    for rng, dtype in sweep(6):
        rows, k, width = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 5)
        x = rand(rng, rows, width, dtype=dtype)
        experts = [[rng.randrange(4) for _ in range(k)] for _ in range(rows)]
        numbers = [[c * rows + i for c in range(k)] for i in range(rows)]
        active = rng.randint(1, rows + 1)
        out, place, order = call(
            "npu::npu_moe_init_routing",
            npu(x),
            npu(torch.tensor(numbers, dtype=torch.int32)),
            npu(torch.tensor(experts, dtype=torch.int32)),
            active,
        )
        flat = [(experts[i][c], i * k + c) for i in range(rows) for c in range(k)]
        flat.sort()
        assert order.tolist() == [e for e, _ in flat]
        source = [(entry // k, entry % k) for _, entry in flat]
        want = [wide(x)[i] for i, _ in source[: min(active, rows) * k]]
        close(out, want)
        for copy, (i, c) in enumerate(source):
            assert place[numbers[i][c]] == copy


def check_init_routing_v2() -> None:
    for rng, dtype in sweep(10):
        rows, k, width, total = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 5), 6
        x = rand(rng, rows, width, dtype=dtype)
        experts = torch.tensor([[rng.randrange(total) for _ in range(k)] for _ in range(rows)])
        first = rng.randrange(total)
        span = [first, rng.randint(first + 1, total)] if rng.random() < 0.7 else [0, total]
        kind, scatter = rng.choice([0, 1, 2]), rng.choice([0, 1])
        scale = rand(rng, rows)
        out, place, counts, scales = call(
            "npu::npu_moe_init_routing_v2",
            npu(x),
            npu(experts.int()),
            scale=npu(scale),
            active_num=rows * k,
            expert_num=total,
            expert_tokens_num_type=kind,
            expert_tokens_num_flag=True,
            quant_mode=-1,
            active_expert_range=span,
            row_idx_type=scatter,
        )
        entries = experts.flatten().tolist()
        order = sorted((e, n) for n, e in enumerate(entries) if span[0] <= e < span[1])
        source = [n for _, n in order]
        blank = rows * k - len(source)
        close(out, [wide(x)[n // k] for n in source] + [[math.nan] * width] * blank)
        close(scales, [wide(scale)[n // k] for n in source] + [math.nan] * blank)
        if scatter:
            assert place.tolist() == source + [-1] * blank
        else:
            assert place.tolist() == [
                source.index(n) if n in source else -1 for n in range(rows * k)
            ]
        tokens = [entries.count(e) for e in range(*span)]
        if kind == 0:
            assert counts.tolist() == list(itertools.accumulate(tokens))
        elif kind == 1:
            assert counts.tolist() == tokens
        else:
            pairs = [[span[0] + i, n] for i, n in enumerate(tokens) if n]
            assert counts.tolist() == pairs + [[0, 0]] * (total - len(pairs))
        assert counts.dtype == torch.int64


def check_compute_expert_tokens() -> None:
    for seed in range(6):
        rng = random.Random(seed)
        experts = rng.randint(1, 7)
        rows = sorted(rng.randrange(experts) for _ in range(rng.randint(0, 12)))
        got = call(
            "npu::npu_moe_compute_expert_tokens",
            npu(torch.tensor(rows, dtype=torch.int32)),
            experts,
        )
        assert got.tolist() == [sum(r <= e for r in rows) for e in range(experts)]
        assert got.dtype == torch.int32


def check_finalize_routing() -> None:
    for rng, dtype in sweep(10):
        rows, k, width, experts = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 5), 5
        mode = rng.choice([0, 2])
        source = rand(rng, rows * k, width, dtype=dtype)
        where = rng.sample(range(rows * k), rows * k)
        chosen = [[rng.randrange(experts) for _ in range(k)] for _ in range(rows)]
        scales = rand(rng, rows, k, dtype=dtype)
        bias = rand(rng, experts, width, dtype=dtype) if rng.random() < 0.5 else None
        skips = [rand(rng, rows, width, dtype=dtype) for _ in range(rng.randint(0, 2))]
        got = call(
            "npu::npu_moe_finalize_routing",
            npu(source),
            npu(skips[0]) if skips else None,
            npu(skips[1]) if len(skips) > 1 else None,
            None if bias is None else npu(bias),
            npu(scales),
            npu(torch.tensor(where, dtype=torch.int32)),
            npu(torch.tensor(chosen, dtype=torch.int32)),
            mode,
        )
        want = []
        for i, d in itertools.product(range(rows), range(width)):
            total = math.fsum(wide(s)[i][d] for s in skips)
            for c in range(k):
                entry = c * rows + i if mode == 0 else i * k + c
                value = wide(source)[where[entry]][d]
                if bias is not None:
                    value += wide(bias)[chosen[i][c]][d]
                total += wide(scales)[i][c] * value
            want.append(total)
        close(got, want, terms=k, size=16)


def check_permute_and_unpermute() -> None:
    for rng, dtype in sweep(8):
        rows, k, width = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 5)
        x = rand(rng, rows, width, dtype=dtype)
        experts = [[rng.randrange(4) for _ in range(k)] for _ in range(rows)]
        indices = npu(torch.tensor(experts))
        out, place = call("npu::npu_moe_token_permute", npu(x), indices)
        order = [n for _, n in sorted((e, n) for n, e in enumerate(itertools.chain(*experts)))]
        close(out, [wide(x)[n // k] for n in order])
        assert place.dtype == torch.int32
        assert place.tolist() == [order.index(n) for n in range(rows * k)]
        kept = rng.randint(1, rows * k)
        cut, _ = torch_npu.npu_moe_token_permute(npu(x), indices, kept)
        close(cut, [wide(x)[n // k] for n in order[:kept]])
        less, _ = torch_npu.npu_moe_token_permute(npu(x), indices, kept - rows * k)
        close(less, [wide(x)[n // k] for n in order[: kept or None]])
        probs = rand(rng, rows, k, dtype=dtype)
        for name in ("npu::npu_moe_token_unpermute", "npu::_npu_moe_token_unpermute"):
            if not exists(name):
                continue
            back = call(name, out, place, npu(probs))
            if name.startswith("npu::_"):
                assert back[1].data_ptr() == out.data_ptr()
                back = back[0]
            want = [
                [math.fsum(p * v for p in wide(probs)[i]) for v in wide(x)[i]] for i in range(rows)
            ]
            close(back, want, terms=k, size=16)
        # With autograd on, torch_npu takes the other operator from 2.13 on.
        with torch.inference_mode():
            one = torch_npu.npu_moe_token_unpermute(out, place)
        close(one, [wide(x)[n // k] for n in range(rows * k)])
        # Copies that permute dropped count as zero.
        some = torch_npu.npu_moe_token_unpermute(cut, place, npu(probs))
        left = [
            math.fsum(
                wide(probs)[i][c] * wide(x)[i][d] for c in range(k) if order.index(i * k + c) < kept
            )
            for i, d in itertools.product(range(rows), range(width))
        ]
        close(some, left, terms=k, size=16)


def check_grouped_matmul() -> None:
    for rng, dtype in sweep(12):
        groups, k, n = rng.randint(2, 4), rng.randint(1, 6), rng.randint(2, 6)
        sizes = [rng.randint(0, 3) for _ in range(groups)]
        spare = rng.randint(0, 2)
        rows = sum(sizes) + spare
        x = rand(rng, rows, k, dtype=dtype)
        weight = rand(rng, groups, k, n, dtype=dtype)
        bias = rand(rng, groups, n, dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
        kind, single, with_bias = rng.choice([0, 1, 2]), rng.random() < 0.5, rng.random() < 0.5
        numbers: Any = list(itertools.accumulate(sizes)) if kind == 0 else sizes
        turn = list(range(groups))
        if kind == 2:
            rng.shuffle(turn)
            numbers = [[g, sizes[g]] for g in turn]
        given = [npu(weight)] if single else [npu(w.contiguous()) for w in weight]
        if single and rng.random() < 0.5:
            given = [npu(weight.transpose(1, 2).contiguous()).transpose(1, 2)]
        biases = None
        if with_bias:
            biases = [npu(bias)] if single else [npu(b.contiguous()) for b in bias]
        common: dict[str, Any] = {"bias": biases, "split_item": rng.choice([2, 3]), "group_type": 0}
        (out,) = call(
            "npu::npu_grouped_matmul",
            [npu(x)],
            given,
            group_list=npu(torch.tensor(numbers)),
            group_list_type=kind,
            **common,
        )
        want, at = [], 0
        for g in turn:
            part = x[at : at + sizes[g]]
            want += matrix_product(part, weight[g], wide(bias[g]) if with_bias else None)
            at += sizes[g]
        close(out, want + [[math.nan] * n] * spare, terms=k, size=16)
        if kind == 0:
            (same,) = call(
                "npu::npu_grouped_matmul.List", [npu(x)], given, group_list=numbers, **common
            )
            assert torch.equal(same.cpu().nan_to_num(7), out.cpu().nan_to_num(7))
        several = [rand(rng, rng.randint(1, 3), k, dtype=dtype) for _ in range(groups)]
        results = torch_npu.npu_grouped_matmul(
            [npu(a) for a in several],
            [npu(w.contiguous()) for w in weight],
            split_item=0,
            group_type=-1,
        )
        for got, a, w in zip(results, several, weight, strict=True):
            close(got, matrix_product(a, w, None), terms=k, size=16)


def check_moe_refusals() -> None:
    x, e = npu(torch.ones(2, 4)), npu(torch.tensor([[0, 1], [1, 2]], dtype=torch.int32))
    with refused("npu_moe_gating_top_k_softmax", "'k'", "1 to 4", "5"):
        torch_npu.npu_moe_gating_top_k_softmax(x, None, 5)
    with refused("npu_moe_gating_top_k_softmax", "'finished'", "bool"):
        torch_npu.npu_moe_gating_top_k_softmax(x, npu(torch.ones(2)), 1)
    with refused("npu_moe_gating_top_k", "'bias'", "shape (4)"):
        torch_npu.npu_moe_gating_top_k(x, 1, bias=x[0, :2])
    with refused("npu_moe_gating_top_k", "'group_count'", "more than 2 experts"):
        torch_npu.npu_moe_gating_top_k(x, 1, group_count=2)
    with refused("npu_moe_gating_top_k", "'renorm'", "0"):
        torch_npu.npu_moe_gating_top_k(x, 1, renorm=1)
    route = torch_npu.npu_moe_init_routing_v2
    good: dict[str, Any] = {
        "expert_num": 3, "expert_tokens_num_type": 1, "expert_tokens_num_flag": True,
        "quant_mode": -1, "active_expert_range": [0, 3],
    }  # fmt: skip
    route(x, e, **good)
    for change, parts in (
        ({"quant_mode": 1}, ("'quant_mode'", "-1")),
        ({"drop_pad_mode": 1}, ("'drop_pad_mode'", "0")),
        ({"expert_tokens_num_flag": False}, ("'expert_tokens_num_flag'", "True")),
        ({"active_expert_range": [0, 4]}, ("'active_expert_range'", "3 experts", "[0, 4]")),
        ({"expert_num": 2, "active_expert_range": [0, 2]}, ("'expert_idx'", "[0, 2)")),
        ({"active_num": 1}, ("'active_num'", "at least rows * k = 4")),
        ({"offset": x}, ("'offset'", "no reference for quantised routing")),
    ):
        with refused("npu_moe_init_routing_v2", *parts):
            route(x, e, **{**good, **change})
    with refused("npu_moe_init_routing_v2", "'expert_idx'", "int32", "int64"):
        route(x, e.long(), **good)
    with refused("npu_moe_init_routing", "'row_idx'", "each of 0 to 3 once"):
        torch_npu.npu_moe_init_routing(x, e, e, 2)
    with refused("npu_moe_compute_expert_tokens", "sorted values"):
        torch_npu.npu_moe_compute_expert_tokens(e.flatten().flip(0), 4)
    with refused("npu_moe_finalize_routing", "'drop_pad_mode'", "0 or 2"):
        torch_npu.npu_moe_finalize_routing(x, None, None, None, None, e[0], None, 1)
    with refused("npu_moe_finalize_routing", "'expanded_src_to_dst_row'", "[0, 2)", "-1"):
        torch_npu.npu_moe_finalize_routing(
            x, None, None, None, npu(torch.ones(1, 2)), e[0] - 1, None
        )
    with refused("npu_moe_token_unpermute", "'sorted_indices'", "[0, 2)", "-1"):
        torch_npu.npu_moe_token_unpermute(x, e[0] - 1)
    with refused("npu_moe_token_permute", "'padded_mode'", "False"):
        torch_npu.npu_moe_token_permute(x, e, padded_mode=True)
    w, sizes = npu(torch.ones(2, 4, 3)), npu(torch.tensor([1, 2]))
    multiply = torch_npu.npu_grouped_matmul
    rows: dict[str, Any] = {"split_item": 2, "group_type": 0, "group_list": sizes}
    multiply([x], [w], **rows)
    for change, parts in (
        ({"group_list": sizes.int()}, ("'group_list'", "int64", "int32")),
        ({"group_list": sizes.cpu()}, ("'group_list'", "on the NPU")),
        ({"group_list": sizes[:1]}, ("'group_list'", "shape (2)")),
        ({"group_list": sizes.flip(0)}, ("'group_list'", "cumulative")),
        ({"group_list": sizes + 1}, ("'group_list'", "at most 2 rows", "3")),
        ({"group_list": None}, ("'group_list'", "None")),
        ({"group_type": 2}, ("'group_type'", "no reference for groups along k")),
        ({"split_item": 0}, ("'split_item'", "2 or 3")),
        ({"act_type": 1}, ("'act_type'", "fused activations")),
        ({"bias": [w[0, :1]]}, ("'bias'", "shape (2, 3)")),
        ({"scale": [x]}, ("'scale'", "None but for int8")),
    ):
        with refused("npu_grouped_matmul", *parts):
            multiply([x], [w], **{**rows, **change})
    with refused("npu_grouped_matmul", "'weight'", "dtype of x"):
        multiply([x], [w.half()], **rows)
    with refused("npu_grouped_matmul", "'weight'", "shape (*, 4, *)"):
        multiply([x], [w.transpose(1, 2).contiguous()], **rows)
    with refused("npu_linear", "'weight'", "shape (*, 4)"):
        torch_npu.npu_linear(x, npu(torch.ones(4, 3)))


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
