# SPDX-License-Identifier: Apache-2.0
"""NPU230: the router of a mixture of experts on NPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from migrator.codemod.recipes.branches import NpuCall
from migrator.codemod.rule import Absence, Rule
from migrator.rules._routers import OPS, routes_only_by


@dataclass(frozen=True)
class _Router:
    """A wrapper of a router's operator."""

    name: str
    takes: tuple[str, ...]
    optional: tuple[str, ...]
    """What it takes in some releases."""
    writes: bool = True
    """Does it write weights and experts? Else it returns them."""
    absent: tuple[Absence, ...] = ()


_CHOICE = ("renormalize", "e_score_correction_bias", "is_padding")
_WRITTEN = ("topk_weights", "topk_ids", "token_expert_indices", "gating_output")
_ROUTERS = (
    _Router("topk_softmax", _WRITTEN, _CHOICE),
    _Router(
        "topk_sigmoid",
        _WRITTEN,
        (*_CHOICE, "routed_scaling_factor"),
        absent=(
            Absence(
                "<0.16",
                "experts are chosen by softmax, or in PyTorch",
                partial(routes_only_by, {"topk_softmax", "grouped_topk"}),
            ),
        ),
    ),
    _Router(
        "topk_hash_softplus_sqrt",
        ("topk_weights", "topk_indices", "token_expert_indices", "gating_output"),
        (
            *(*_CHOICE, "routed_scaling_factor", "input_tokens", "hash_indices_table"),
            *("bias_vl", "image_sentinel_lo"),
        ),
        absent=(
            Absence(
                "<0.20",
                "no router scores by softplus",
                partial(routes_only_by, {"topk_softmax", "grouped_topk", "topk_sigmoid"}),
            ),
        ),
    ),
    _Router(
        "grouped_topk",
        (
            *("scores", "num_expert_group", "topk_group", "topk", "renormalize"),
            "routed_scaling_factor",
        ),
        ("scores_with_bias", "bias", "scoring_func"),
        writes=False,
        absent=(
            Absence(
                "<0.10.2",
                "grouped routers are in PyTorch on every platform",
                partial(routes_only_by, {"topk_softmax"}),
            ),
        ),
    ),
)


class TopkSoftmax(Rule):
    """Choose experts by softmax, sigmoid or softplus when the logits are on an NPU.

    ## What it does
    Puts a branch before the body of `topk_softmax`, `topk_sigmoid`, `topk_hash_softplus_sqrt` and
    `grouped_topk` of `vllm/_custom_ops.py`, taken for an NPU tensor: the function of the same name
    in `fused_moe/npu_fused_moe.py`, which the tool adds. It gets what the release passes:
    renormalisation, a bias for the choice, a scaling factor, a table of experts by token, padding.

    ## Why
    The bodies call `torch.ops._moe_C`, which is not built for NPU. Every router of an unquantised
    mixture comes by here; NPU234 sends grouped ones, which have a way in PyTorch, too.

    ## Example
    ```python
    if gating_output.device.type == "npu":
        from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
            topk_softmax as npu_topk_softmax,
        )

        npu_topk_softmax(topk_weights, topk_ids, token_expert_indices, gating_output)
        return
    ```
    """

    code = "NPU230"
    recipes = tuple(
        NpuCall(
            router.name,
            (OPS,),
            tensor=router.takes[-1] if router.writes else router.takes[0],
            takes=router.takes,
            optional=router.optional,
            module="vllm.model_executor.layers.fused_moe.npu_fused_moe",
            function=router.name,
            alias=f"npu_{router.name}",
            returns=not router.writes,
            reason=f"the operator of {router.name} in torch.ops._moe_C is not built for NPU; "
            "npu_fused_moe.py has one of the same contract",
            absent=router.absent,
        )
        for router in _ROUTERS
    )
