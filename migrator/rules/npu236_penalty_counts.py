# SPDX-License-Identifier: Apache-2.0
"""NPU236: the counts of tokens for penalties."""

from __future__ import annotations

from migrator.codemod.recipes.branches import NpuBranch
from migrator.codemod.rule import Rule

BODY = """\
# A scatter of int64 is left to the device's CPU.
bin_counts = torch.zeros(
    (num_seqs, vocab_size + 1), dtype=torch.int32, device=tokens.device
)
bin_counts.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=torch.int32))
bin_counts = bin_counts[:, :vocab_size]
return bin_counts, bin_counts > 0
"""


class PenaltyCounts(Rule):
    """Count a request's tokens in int32 on NPUs.

    ## What it does
    Puts a branch before the body of `get_token_bin_counts_and_mask`, taken for an NPU tensor, that
    counts in int32. The counts are as exact: a request has fewer than 2**31 tokens.

    ## Why
    A step with penalties counts every token of its requests by `scatter_add_` in int64, for which
    CANN has no kernel on the device's vector cores: it runs on the device's CPU.
    """

    code = "NPU236"
    recipes = (
        NpuBranch(
            "get_token_bin_counts_and_mask",
            ("vllm/model_executor/layers/utils.py",),
            tensor="tokens",
            takes=("tokens", "vocab_size", "num_seqs"),
            body=BODY,
            reason="it counts by a scatter of int64, for which CANN has no kernel on vector cores",
        ),
    )
