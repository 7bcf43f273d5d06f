# SPDX-License-Identifier: Apache-2.0
"""NPU230: the router of a mixture of experts on NPU."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.matchers import parameter_names
from migrator.recipes import npu_branch
from migrator.rule import Example, File, Finding, Rule, Safety, Site

_OPS = "vllm/_custom_ops.py"
_SITE = "topk_softmax"
_REQUIRED = ("topk_weights", "topk_ids", "token_expert_indices", "gating_output")
_OPTIONAL = ("renormalize", "e_score_correction_bias", "is_padding")


class TopkSoftmax(Rule):
    """Choose experts with `npu_moe_gating_top_k_softmax` when the logits are on an NPU.

    ## What it does
    Puts a branch before the body of `vllm/_custom_ops.py::topk_softmax`, taken for an NPU tensor:
    the function of the same name in `fused_moe/npu_fused_moe.py`, which the tool adds. It gets what
    the release passes: renormalisation, a bias for the choice, padding.

    ## Why
    The body calls `torch.ops._moe_C.topk_softmax`, which is not built for NPU. Every router of an
    unquantised mixture comes by here.

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
    paths = (_OPS,)
    triggers = (r"def topk_softmax\b",)
    sites = (Site(_SITE, (_OPS,)),)
    examples = (
        Example(
            path=_OPS,
            before="""\
import torch


def topk_softmax(topk_weights: torch.Tensor, topk_ids: torch.Tensor,
                 token_expert_indices: torch.Tensor,
                 gating_output: torch.Tensor) -> None:
    torch.ops._moe_C.topk_softmax(topk_weights, topk_ids, token_expert_indices,
                                  gating_output)
""",
            after="""\
import torch


def topk_softmax(topk_weights: torch.Tensor, topk_ids: torch.Tensor,
                 token_expert_indices: torch.Tensor,
                 gating_output: torch.Tensor) -> None:
    if gating_output.device.type == "npu":
        from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
            topk_softmax as npu_topk_softmax,
        )

        npu_topk_softmax(
            topk_weights,
            topk_ids,
            token_expert_indices,
            gating_output,
        )
        return
    torch.ops._moe_C.topk_softmax(topk_weights, topk_ids, token_expert_indices,
                                  gating_output)
""",
        ),
        Example(
            path=_OPS,
            before="""\
import torch


def topk_softmax(
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool = False,
    e_score_correction_bias: torch.Tensor | None = None,
) -> None:
    torch.ops._moe_C.topk_softmax(topk_weights, topk_ids, gating_output, renormalize)
""",
            after="""\
import torch


def topk_softmax(
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool = False,
    e_score_correction_bias: torch.Tensor | None = None,
) -> None:
    if gating_output.device.type == "npu":
        from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
            topk_softmax as npu_topk_softmax,
        )

        npu_topk_softmax(
            topk_weights,
            topk_ids,
            token_expert_indices,
            gating_output,
            renormalize=renormalize,
            e_score_correction_bias=e_score_correction_bias,
        )
        return
    torch.ops._moe_C.topk_softmax(topk_weights, topk_ids, gating_output, renormalize)
""",
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the wrapper where it has no branch for NPU tensors."""
        function = file.function(_SITE)
        names = parameter_names(function) if function is not None else []
        arguments = [*_REQUIRED, *(f"{n}={n}" for n in _OPTIONAL if n in names)]
        listed = "".join(f"    {argument},\n" for argument in arguments)
        yield from npu_branch(
            file,
            _SITE,
            tensor="gating_output",
            known=(*_REQUIRED, *_OPTIONAL),
            optional=_OPTIONAL,
            body="from vllm.model_executor.layers.fused_moe.npu_fused_moe import (\n"
            "    topk_softmax as npu_topk_softmax,\n"
            ")\n\n"
            f"npu_topk_softmax(\n{listed})\n"
            "return\n",
            reason="torch.ops._moe_C.topk_softmax is not built for NPU; "
            "torch_npu.npu_moe_gating_top_k_softmax takes its place",
            needs=(),
        )
