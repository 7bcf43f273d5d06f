# SPDX-License-Identifier: Apache-2.0
"""The emitted mixture of experts over the real torch_npu, against dense float64 references."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
import types
from collections.abc import Callable
from dataclasses import field, make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

TEMPLATE = (
    Path(__file__).parents[3] / "templates/vllm/model_executor/layers/fused_moe/npu_fused_moe.py"
)
EXPERTS, HIDDEN, INNER, TOP_K = 6, 64, 32, 2
LIMIT = 1.0
NAN, INF = math.nan, math.inf


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("npu_fused_moe", TEMPLATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


moe = _load()


def refusal(call: Callable[..., Any], *args: Any) -> str:
    """The one line that a call is refused with."""
    said = ""
    try:
        call(*args)
    except NotImplementedError as error:
        said = str(error)
    assert said, "not refused"
    assert "\n" not in said
    return said


# ---- experts --------------------------------------------------------------------------------


def make_layer(activation: str = "silu", *, inner: int = INNER, **settings: Any) -> SimpleNamespace:
    torch.manual_seed(0)
    wide = inner if activation.endswith("_no_mul") else 2 * inner
    layer = SimpleNamespace(
        w13_weight=(torch.randn(EXPERTS, wide, HIDDEN) * 0.3).bfloat16().npu(),
        w2_weight=(torch.randn(EXPERTS, HIDDEN, inner) * 0.3).bfloat16().npu(),
        apply_router_weight_on_input=False,
        activation=activation,
        expert_map=None,
    )
    vars(layer).update(settings)
    return layer


def activated(layer: SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
    """The activation of [2 * inner] in float64, as vLLM's fused_moe/activation.py defines it."""
    name = layer.activation
    limit: Any = getattr(layer, "swiglu_limit", None)
    alpha: Any = getattr(layer, "swiglu_alpha", None)
    beta: Any = getattr(layer, "swiglu_beta", None)
    if name.endswith("_no_mul"):
        return {
            "silu_no_mul": F.silu,
            "gelu_no_mul": F.gelu,
            "gelu_tanh_no_mul": lambda y: F.gelu(y, approximate="tanh"),
            "relu2_no_mul": lambda y: y.clamp(min=0) ** 2,
        }[name](x)
    if name == "swigluoai":
        gate, up = x[::2].clamp(max=7.0), x[1::2].clamp(-7.0, 7.0)
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    gate, up = x.chunk(2)
    if name == "silu" and limit is not None:
        return F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    if name == "swigluoai_uninterleave":
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(alpha * gate) * (up + beta)
    if name == "swiglustep":
        return F.silu(gate).clamp(max=7.0) * up.clamp(-7.0, 7.0)
    if name == "situ":
        b, linear = layer.moe_config.activation_situ_beta, 2.5
        return b * torch.tanh(gate / b) * torch.sigmoid(gate) * linear * torch.tanh(up / linear)
    if name.startswith("gelu"):
        return F.gelu(gate, approximate="tanh" if name == "gelu_tanh" else "none") * up
    return F.silu(gate) * up


def expected(
    layer: SimpleNamespace, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """A loop over tokens and their experts in float64."""
    w13, w2 = layer.w13_weight.cpu().double(), layer.w2_weight.cpu().double()
    bias13, bias2 = (
        None if bias is None else bias.cpu().double()
        for bias in (getattr(layer, name, None) for name in ("w13_bias", "w2_bias"))
    )
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, choice in itertools.product(range(x.shape[0]), range(ids.shape[1])):
        expert = int(ids[token, choice])
        if layer.expert_map is not None:
            expert = int(layer.expert_map[expert])
            if expert < 0:
                continue
        weight = weights[token, choice].double()
        row = x[token].double()
        if layer.apply_router_weight_on_input:
            row, weight = row * weight, torch.tensor(1.0)
        inner = w13[expert] @ row + (0 if bias13 is None else bias13[expert])
        done = w2[expert] @ activated(layer, inner) + (0 if bias2 is None else bias2[expert])
        out[token] += weight * done
    return out


def inputs(tokens: int, top_k: int = TOP_K) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(tokens)
    x = torch.randn(tokens, HIDDEN).bfloat16()
    ids = [torch.randperm(EXPERTS)[:top_k] for _ in range(tokens)]
    return x, torch.rand(tokens, top_k), torch.stack(ids) if ids else torch.empty(0, top_k).long()


def compare(
    layer: SimpleNamespace, tokens: int = 7, dtype: torch.dtype = torch.int32, top_k: int = TOP_K
) -> None:
    x, weights, ids = inputs(tokens, top_k)
    want = expected(layer, x, weights, ids)
    with torch.inference_mode():
        got = moe.unquantized_experts(layer, x.npu(), weights.npu(), ids.to(dtype).npu())
    assert got.dtype == torch.bfloat16
    assert got.shape == x.shape
    tolerance = 0.03 * max(1.0, float(want.abs().max())) if tokens else 0.0
    torch.testing.assert_close(got.cpu().double(), want, atol=tolerance, rtol=0.0)


def check_a_swiglu_limit_is_honoured() -> None:
    for limit in (None, LIMIT, 7.0):
        compare(make_layer(swiglu_limit=limit, swiglu_alpha=None, swiglu_beta=None))
    # The limit makes a difference, so that one that nobody reads would show.
    x, weights, ids = inputs(7)
    bare, limited = make_layer(), make_layer(swiglu_limit=LIMIT)
    difference = expected(bare, x, weights, ids) - expected(limited, x, weights, ids)
    assert difference.abs().max() > 1


def check_every_activation() -> None:
    for name in sorted(moe.GATED | moe.PLAIN):
        settings: dict[str, Any] = {}
        if name == "swigluoai_uninterleave":
            settings = {"swiglu_limit": 2.0, "swiglu_alpha": 1.3, "swiglu_beta": 0.5}
        if name == "situ":
            settings["moe_config"] = SimpleNamespace(
                activation_situ_beta=1.5, activation_situ_linear_beta=2.5
            )
        compare(make_layer(name, **settings))
        # An enumeration with these values in later releases.
        layer = make_layer(name, **settings)
        x, weights, ids = (t.npu() for t in inputs(3))
        with torch.inference_mode():
            one = moe.unquantized_experts(layer, x, weights, ids)
            layer.activation = SimpleNamespace(value=name)
            other = moe.unquantized_experts(layer, x, weights, ids)
        assert torch.equal(one.cpu(), other.cpu()), name


def check_batches_and_types_of_ids() -> None:
    for tokens, dtype in itertools.product((0, 1, 5), (torch.int32, torch.int64)):
        compare(make_layer(), tokens, dtype)


def check_biases() -> None:
    torch.manual_seed(1)
    bias13 = torch.randn(EXPERTS, 2 * INNER).bfloat16().npu()
    bias2 = torch.randn(EXPERTS, HIDDEN).bfloat16().npu()
    compare(make_layer("swigluoai", w13_bias=bias13, w2_bias=bias2))


def check_router_weights_on_the_input() -> None:
    compare(make_layer(apply_router_weight_on_input=True), top_k=1)


def check_experts_of_other_ranks() -> None:
    for here in ([4, -1, 0, 5, 1, 3], [-1, 1, -1, 0, -1, -1], [-1] * EXPERTS):
        layer = make_layer(expert_map=torch.tensor(here).npu())
        compare(layer)
        compare(layer)  # with the map that it kept
        assert layer._npu_local_experts[0] is layer.expert_map
    layer.expert_map = torch.arange(EXPERTS).npu()  # another map is not the one that it kept
    compare(layer)


def check_experts_that_a_model_calls() -> None:
    torch.manual_seed(2)
    bias13 = torch.randn(EXPERTS, 2 * INNER).bfloat16().npu()
    bias2 = torch.randn(EXPERTS, HIDDEN).bfloat16().npu()
    x, weights, ids = inputs(7)
    for activation, settings in (
        ("silu", {}),
        ("gelu", {"w1_bias": bias13, "w2_bias": bias2}),
        ("swigluoai", {"expert_map": torch.tensor([4, -1, 0, 5, 1, 3]).npu()}),
        ("relu2_no_mul", {}),
    ):
        layer = make_layer(
            activation,
            w13_bias=settings.get("w1_bias"),
            w2_bias=settings.get("w2_bias"),
            expert_map=settings.get("expert_map"),
        )
        want = expected(layer, x, weights, ids)
        given = layer.w13_weight, layer.w2_weight, weights.npu(), ids.npu()
        for name, inplace in ((activation, False), (SimpleNamespace(value=activation), True)):
            mine = x.npu()
            with torch.inference_mode():
                got = moe.fused_experts(
                    mine, *given, inplace=inplace, activation=name,
                    global_num_experts=EXPERTS, use_fp8_w8a8=False, w1_scale=None, **settings,
                )  # fmt: skip
            assert (got is mine) is inplace
            assert torch.equal(mine.cpu(), x) is not inplace
            tolerance = 0.03 * max(1.0, float(want.abs().max()))
            torch.testing.assert_close(got.cpu().double(), want, atol=tolerance, rtol=0.0)

    def refused(**settings: Any) -> str:
        return refusal(lambda: moe.fused_experts(x.npu(), *given, **settings))

    assert "quantized weights (use_int8_w8a16)" in refused(use_int8_w8a16=True)
    assert "quantized weights (w1_scale)" in refused(w1_scale=torch.ones(1))
    assert "activation situ are not supported" in refused(activation="situ")
    assert "activation silu are not supported" in refused(is_act_and_mul=False)


# ---- what a layer may say -------------------------------------------------------------------


Config = make_dataclass(
    "Config",
    [
        ("num_experts", int),
        ("activation", str, "silu"),
        ("swiglu_limit", float, None),
        ("moe_backend", str, "auto"),
        ("extra", float, 1.0),
        ("extras", list, field(default_factory=list)),
    ],
)
"""Stands for FusedMoEConfig of a release that has more settings than are known."""


def layer_class(**parameters: Any) -> Any:
    """A layer of vLLM with these parameters, kept under their names."""

    def __init__(self: Any, /, activation: str = "silu", **given: Any) -> None:
        vars(self).update(activation=activation, **{**parameters, **given})

    known = [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("activation", inspect.Parameter.KEYWORD_ONLY, default="silu"),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in parameters.items()
        ),
    ]
    __init__.__signature__ = inspect.Signature(known)  # type: ignore[attr-defined]
    body = {"__init__": __init__, "__module__": "vllm.model_executor.layers.fused_moe.layer"}
    return types.new_class("FusedMoE", (), {}, lambda space: space.update(body))


def check_settings_that_are_not_known() -> None:
    FusedMoE = layer_class(
        renormalize=True, swiglu_limit=None, output_scale=1.0, other_library=False
    )
    for accepted in (
        FusedMoE(),
        FusedMoE(renormalize=False, swiglu_limit=LIMIT),
        # vLLM has asked for a library of another device, which is not there.
        FusedMoE(other_library=None),
        SimpleNamespace(activation="silu", moe_config=Config(8, swiglu_limit=LIMIT)),
    ):
        moe.check_experts(accepted)
    for refused, name in (
        (FusedMoE(output_scale=2.0), "output_scale=2.0"),
        (FusedMoE(output_scale=None), "output_scale"),
        (FusedMoE(other_library=True), "other_library=True"),
        (SimpleNamespace(activation="silu", moe_config=Config(8, extra=0.5)), "extra=0.5"),
        (SimpleNamespace(activation="silu", moe_config=Config(8, extras=[1])), "extras"),
        (
            SimpleNamespace(activation="silu", moe_config=Config(8, moe_backend="triton")),
            "moe_backend='triton'",
        ),
    ):
        assert f"the setting {name} " in refusal(moe.check_experts, refused)
    # One that the layer keeps under another name can not be seen.
    hidden = FusedMoE()
    del hidden.output_scale
    assert "the setting output_scale " in refusal(moe.check_experts, hidden)


def check_activations_and_parameters_that_are_refused() -> None:
    for activation, settings, said in (
        ("relu2", {}, "the activation relu2 "),
        ("silu", {"is_act_and_mul": False}, "the activation silu "),
        ("relu2_no_mul", {"is_act_and_mul": True}, "the activation relu2_no_mul "),
        ("gelu", {"swiglu_limit": LIMIT}, "gelu and swiglu_limit=1.0 "),
        ("silu", {"swiglu_alpha": 1.702}, "silu and swiglu_alpha=1.702 "),
        ("silu", {"swiglu_beta": 1.0}, "silu and swiglu_beta=1.0 "),
        ("swigluoai", {"swiglu_limit": LIMIT}, "swigluoai and swiglu_limit=1.0 "),
        ("swigluoai_uninterleave", {}, "swiglu_limit=None "),
        ("situ", {}, "activation_situ_beta=None "),
    ):
        layer = make_layer(activation, **settings)
        assert said in refusal(moe.check_experts, layer)
        # A layer that nobody checked when it was made is checked when it runs.
        assert said in refusal(moe.unquantized_experts, layer, *(t.npu() for t in inputs(3)))
    for activation, settings in (
        ("silu", {"swiglu_alpha": 1.0, "swiglu_beta": 0.0}),
        ("swigluoai", {"swiglu_limit": 7.0, "swiglu_alpha": 1.702, "swiglu_beta": 1.0}),
        ("relu2_no_mul", {"is_act_and_mul": False}),
    ):
        moe.check_experts(make_layer(activation, **settings))


# ---- routers --------------------------------------------------------------------------------


def softplus_sqrt(logits: torch.Tensor) -> torch.Tensor:
    return F.softplus(logits, threshold=20.0).sqrt()


SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "topk_softmax": lambda logits: logits.softmax(-1),
    "topk_sigmoid": torch.sigmoid,
    "topk_hash_softplus_sqrt": softplus_sqrt,
}


def route(
    name: str, logits: torch.Tensor, top_k: int, dtype: torch.dtype = torch.int32, **more: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = logits.shape[0]
    weights = torch.full((tokens, top_k), NAN).npu()
    ids = torch.full((tokens, top_k), -7, dtype=dtype).npu()
    rows = torch.full((tokens, top_k), -7, dtype=torch.int32).npu()
    on_npu = {k: v.npu() if isinstance(v, torch.Tensor) else v for k, v in more.items()}
    with torch.inference_mode():
        getattr(moe, name)(weights, ids, rows, logits.npu(), **on_npu)
    choices = torch.arange(tokens * top_k, dtype=torch.int32).view(top_k, tokens).t()
    assert torch.equal(rows.cpu(), choices)
    return weights.cpu(), ids.cpu()


def chosen(
    name: str,
    logits: torch.Tensor,
    top_k: int,
    renormalize: bool,
    bias: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What vLLM's kernels promise: the lower expert in a tie, 0 for what is no score."""
    scores = SCORES[name](logits.double()).nan_to_num(0.0, 0.0, 0.0)
    choice = scores if bias is None else scores + bias.double()
    ids = torch.sort(choice, dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = scores.gather(-1, ids)
    if renormalize:
        total = weights.sum(-1, keepdim=True)
        weights = weights / total.masked_fill(total <= 0, 1)
    return weights * scale, ids


def check_routers() -> None:
    torch.manual_seed(0)
    for name, tokens, renormalize, biased, dtype, index in itertools.product(
        SCORES, (0, 1, 33), (True, False), (True, False),
        (torch.float32, torch.bfloat16), (torch.int32, torch.int64),
    ):  # fmt: skip
        logits = (torch.randn(tokens, 16) * 3).to(dtype)
        more: dict[str, Any] = {}
        bias = torch.randn(16) * 0.5 if biased else None
        scale = 1.0
        if name != "topk_softmax":
            scale = more["routed_scaling_factor"] = 2.5
        want, experts = chosen(name, logits, 4, renormalize, bias, scale)
        got, ids = route(
            name, logits, 4, index, renormalize=renormalize, e_score_correction_bias=bias, **more
        )
        assert ids.dtype == index
        case = f"{name} {tokens} {renormalize} {biased} {dtype}"
        assert torch.equal(ids.long(), experts), case
        torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5, msg=case)


def check_logits_that_are_no_numbers() -> None:
    torch.manual_seed(0)
    for name, renormalize, biased, bad in itertools.product(
        SCORES, (True, False), (True, False), (NAN, INF, -INF)
    ):
        logits = torch.randn(5, 16)
        logits[0] = bad
        logits[1, 3] = bad
        logits[2, 4:] = bad
        bias = torch.randn(16) * 0.1 if biased else None
        want, experts = chosen(name, logits, 4, renormalize, bias, 1.0)
        got, ids = route(name, logits, 4, renormalize=renormalize, e_score_correction_bias=bias)
        case = f"{name} {renormalize} {biased} {bad}: {got} {ids}"
        assert got.isfinite().all(), case
        assert all(len(set(row)) == 4 and set(row) <= set(range(16)) for row in ids.tolist()), case
        torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5, msg=case)
        assert torch.equal(ids.long(), experts), case


def best_groups(choice: torch.Tensor, groups: int, kept: int) -> torch.Tensor:
    """The choice, with minus infinity for all experts but those of the best groups."""
    grouped = choice.view(choice.shape[0], groups, -1)
    best = grouped.topk(2, -1).values.sum(-1).topk(kept, -1).indices
    mask = torch.zeros(choice.shape[0], groups, dtype=torch.bool).scatter_(1, best, True)
    return grouped.masked_fill(~mask.unsqueeze(-1), -INF).flatten(1)


def check_grouped_routers() -> None:
    torch.manual_seed(0)
    for groups, kept, renormalize, sigmoid, dtype in itertools.product(
        (1, 4), (1, 2, 4), (True, False), (True, False), (torch.float32, torch.bfloat16)
    ):
        if kept > groups:
            continue
        logits = (torch.randn(9, 16) * 3).to(dtype)
        bias = torch.randn(16) * 0.5
        scores = logits if sigmoid else logits.softmax(-1)
        found = scores.double().sigmoid() if sigmoid else scores.double()
        choice = best_groups(found + bias.double(), groups, kept)
        experts = torch.sort(choice, dim=-1, descending=True, stable=True).indices[:, :4]
        want = found.gather(-1, experts)
        if renormalize:
            want = want / want.sum(-1, keepdim=True)
        ready = scores.npu(), groups, kept, 4, renormalize, 2.5
        with torch.inference_mode():
            got, ids = moe.grouped_topk(*ready, bias=bias.npu(), scoring_func=int(sigmoid))
        case = f"{groups} {kept} {renormalize} {sigmoid} {dtype}"
        assert ids.dtype == torch.int32
        assert got.dtype == torch.float32
        assert torch.equal(ids.cpu().long(), experts), case
        torch.testing.assert_close(got.cpu().double(), want * 2.5, atol=1e-5, rtol=1e-5, msg=case)
        if not sigmoid:  # older releases add the bias up themselves
            with torch.inference_mode():
                again = moe.grouped_topk(*ready, scores_with_bias=(scores.float() + bias).npu())
            assert torch.equal(again[1], ids), case
            assert torch.equal(again[0], got), case
    said = refusal(moe.grouped_topk, logits.npu(), 1, 1, 4, True, 1.0, None, 2)
    assert "routers with the scoring function 2 are not supported" in said


def check_grouped_routers_of_logits_that_are_no_numbers() -> None:
    for groups, renormalize in itertools.product((1, 4), (True, False)):
        logits = torch.full((3, 16), NAN)
        logits[1, :3] = torch.tensor([0.5, 2.0, 1.0])
        logits[1, 3], logits[1, 4] = INF, -INF
        logits[2] = 0
        with torch.inference_mode():
            got, ids = moe.grouped_topk(
                logits.npu(), groups, groups, 4, renormalize, 2.5,
                bias=torch.zeros(16).npu(), scoring_func=1,
            )  # fmt: skip
        weights, experts = got.cpu(), ids.cpu().tolist()
        if groups == 1:
            assert experts == [[0, 1, 2, 3], [1, 2, 0, 3], [0, 1, 2, 3]]
        assert all(len(set(row)) == 4 for row in experts)
        assert torch.equal(weights[0], torch.full((4,), 0.25 if renormalize else 0.0))
        finite = torch.tensor([2.0, 1.0, 0.5, -INF]).sigmoid()
        share = finite.sum() if renormalize else 1.0
        torch.testing.assert_close(weights[1], finite / share * 2.5)
        each = 2.5 / 4 if renormalize else 2.5 * 0.5
        torch.testing.assert_close(weights[2], torch.full((4,), each))


def check_padding_weighs_nothing() -> None:
    padding = torch.tensor([False, True, True, False])
    for name in SCORES:
        logits = torch.randn(4, 8)
        want, experts = chosen(name, logits, 2, True, None, 1.0)
        got, ids = route(name, logits, 2, renormalize=True, is_padding=padding)
        torch.testing.assert_close(
            got.double(), want.masked_fill(padding[:, None], 0), atol=1e-5, rtol=1e-5
        )
        assert torch.equal(ids.long(), experts)


def check_more_experts_than_the_router_operator_takes() -> None:
    logits = torch.randn(2, 1100)
    want, experts = chosen("topk_softmax", logits, 1050, True, None, 1.0)
    got, ids = route("topk_softmax", logits, 1050, renormalize=True)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-4)
    assert all(len(set(row)) == 1050 for row in ids.tolist())
    assert experts.shape == ids.shape


def check_experts_by_token_id_and_of_images() -> None:
    torch.manual_seed(0)
    logits, tokens = torch.randn(6, 8), torch.tensor([3, 100, 104, 105, 0, 99])
    table = torch.stack([torch.randperm(8)[:2] for _ in range(128)])
    of_image = torch.tensor([False, True, True, False, False, False])
    bias_vl = torch.randn(8)
    scores = softplus_sqrt(logits.double())
    for sentinel, vision in ((0, None), (100, bias_vl), (0, bias_vl)):
        experts = table[tokens]
        if sentinel:
            best = (scores + bias_vl.double()).topk(2).indices
            experts = torch.where(of_image[:, None], best, experts)
        weights = scores.gather(-1, experts)
        weights = weights / weights.sum(-1, keepdim=True) * 1.5
        for kind in (torch.int32, torch.int64):
            got, ids = route(
                "topk_hash_softplus_sqrt", logits, 2, renormalize=True, routed_scaling_factor=1.5,
                input_tokens=tokens.to(kind), hash_indices_table=table.to(kind),
                bias_vl=vision, image_sentinel_lo=sentinel,
            )  # fmt: skip
            assert torch.equal(ids.long(), experts)
            torch.testing.assert_close(got.double(), weights, atol=1e-5, rtol=1e-5)


def check_experts_without_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, HIDDEN).bfloat16()
    ids, scales = torch.randint(0, 12, (5, 4)), torch.rand(5, 4)
    of_zero = ids >= 8
    want = x.double() * (scales.double() * of_zero).sum(-1, keepdim=True)
    mine, weights = ids.npu(), scales.npu()
    with torch.inference_mode():
        got = moe.zero_experts(mine, weights, 8, "identity", x.npu())
    torch.testing.assert_close(got.cpu().double(), want, atol=0.05, rtol=0.01)
    assert torch.equal(mine.cpu(), ids.masked_fill(of_zero, 0))
    assert torch.equal(weights.cpu(), scales.masked_fill(of_zero, 0))
    said = refusal(moe.zero_experts, mine, weights, 8, "copy", x.npu())
    assert "zero experts of the type copy" in said
