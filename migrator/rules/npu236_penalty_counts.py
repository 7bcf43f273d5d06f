# SPDX-License-Identifier: Apache-2.0
"""NPU236: the counts of tokens for penalties."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.recipes import npu_branch
from migrator.codemod.rule import File, Finding, Rule, Safety, Site

_UTILS = "vllm/model_executor/layers/utils.py"
_SITE = "get_token_bin_counts_and_mask"
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

    ## Example
    ```python
    if tokens.device.type == "npu":
        bin_counts = torch.zeros(
            (num_seqs, vocab_size + 1), dtype=torch.int32, device=tokens.device
        )
        bin_counts.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=torch.int32))
        bin_counts = bin_counts[:, :vocab_size]
        return bin_counts, bin_counts > 0
    ```

    ## Safety
    Guarded: a tensor on another device goes on to the body, which stays as it is.
    """

    code = "NPU236"
    safety = Safety.GUARDED
    paths = (_UTILS,)
    triggers = (rf"def {_SITE}\b",)
    sites = (Site(_SITE, (_UTILS,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function where it has no branch for NPU tensors."""
        yield from npu_branch(
            file,
            _SITE,
            tensor="tokens",
            known=("tokens", "vocab_size", "num_seqs"),
            body=BODY,
            reason="it counts by a scatter of int64, for which CANN has no kernel on vector cores",
            needs=(),
        )
