# SPDX-License-Identifier: Apache-2.0
"""NPU230: the router of a mixture of experts on NPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from migrator.codemod.matchers import parameter_names
from migrator.codemod.recipes import npu_branch
from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site
from migrator.rules._routers import OPS, routes_only_by

_CHOICE = ("renormalize", "e_score_correction_bias", "is_padding")
_ROUTERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "topk_softmax": (
        "gating_output",
        ("topk_weights", "topk_ids", "token_expert_indices", "gating_output"),
        _CHOICE,
    ),
    "topk_sigmoid": (
        "gating_output",
        ("topk_weights", "topk_ids", "token_expert_indices", "gating_output"),
        (*_CHOICE, "routed_scaling_factor"),
    ),
    "topk_hash_softplus_sqrt": (
        "gating_output",
        ("topk_weights", "topk_indices", "token_expert_indices", "gating_output"),
        (
            *_CHOICE,
            "routed_scaling_factor",
            "input_tokens",
            "hash_indices_table",
            "bias_vl",
            "image_sentinel_lo",
        ),
    ),
    "grouped_topk": (
        "scores",
        (
            "scores",
            "num_expert_group",
            "topk_group",
            "topk",
            "renormalize",
            "routed_scaling_factor",
        ),
        ("scores_with_bias", "bias", "scoring_func"),
    ),
}
"""Wrapper of a router's operator → the tensor whose device decides, what it has to take, and what
it takes in some releases."""
_RETURNING = frozenset({"grouped_topk"})
"""Those that return weights and experts; the others write them."""


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

    ## Safety
    Guarded: a tensor on another device goes on to the body, which stays as it is.
    """

    code = "NPU230"
    safety = Safety.GUARDED
    paths = (OPS,)
    triggers = (r"def (topk_\w+|grouped_topk)\b",)
    sites = (
        Site("topk_softmax", (OPS,)),
        Site(
            "topk_sigmoid",
            (OPS,),
            (
                Absence(
                    "<0.16",
                    "experts are chosen by softmax, or in PyTorch",
                    partial(routes_only_by, {"topk_softmax", "grouped_topk"}),
                ),
            ),
        ),
        Site(
            "topk_hash_softplus_sqrt",
            (OPS,),
            (
                Absence(
                    "<0.20",
                    "no router scores by softplus",
                    partial(routes_only_by, {"topk_softmax", "grouped_topk", "topk_sigmoid"}),
                ),
            ),
        ),
        Site(
            "grouped_topk",
            (OPS,),
            (
                Absence(
                    "<0.10.2",
                    "grouped routers are in PyTorch on every platform",
                    partial(routes_only_by, {"topk_softmax"}),
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the wrappers that have no branch for NPU tensors."""
        for name, (tensor, required, optional) in _ROUTERS.items():
            function = file.function(name)
            names = parameter_names(function) if function is not None else []
            arguments = [*required, *(f"{n}={n}" for n in names if n in optional)]
            listed = "".join(f"    {argument},\n" for argument in arguments)
            call = f"npu_{name}(\n{listed})\n"
            yield from npu_branch(
                file,
                name,
                tensor=tensor,
                known=(*required, *optional),
                optional=optional,
                body="from vllm.model_executor.layers.fused_moe.npu_fused_moe import (\n"
                f"    {name} as npu_{name},\n"
                ")\n\n" + (f"return {call}" if name in _RETURNING else f"{call}return\n"),
                reason=f"the operator of {name} in torch.ops._moe_C is not built for NPU; "
                "npu_fused_moe.py has one of the same contract",
                needs=(),
            )
