# SPDX-License-Identifier: Apache-2.0
"""NPU236: the counts of tokens for penalties."""

from __future__ import annotations

import ast
import itertools

import libcst as cst

from migrator.codemod.recipes.branches import NpuBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_PENALTIES = "vllm/v1/sample/ops/penalties.py"
_SITE = "apply_all_penalties"
_FILL = "output_tokens_t.masked_fill_(output_tokens_t == -1, vocab_size)"
_TAKEN = (
    *("logits", "prompt_token_ids", "output_tokens_t"),
    *("presence_penalties", "frequency_penalties", "repetition_penalties"),
)
COUNTS = """\
# A scatter of int64 is left to the device's CPU.
bin_counts = torch.zeros(
    (num_seqs, vocab_size + 1), dtype=torch.int32, device=tokens.device
)
bin_counts.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=torch.int32))
bin_counts = bin_counts[:, :vocab_size]
return bin_counts, bin_counts > 0
"""
CHOICE = f"""\
# A fill of int64 is left to the device's CPU; a choice is not.
output_tokens_t = torch.where(
    output_tokens_t == -1,
    torch.full_like(output_tokens_t, vocab_size),
    output_tokens_t,
)
return apply_penalties(
{"".join(f"    {name},{chr(10)}" for name in _TAKEN)})
"""


def _fill(function: cst.FunctionDef) -> cst.CSTNode | None:
    """The fill of what stands for no token yet, where the penalties follow upon it."""
    statements = function.body.body
    for statement, following in itertools.pairwise(statements):
        if _source(statement) == _FILL and _source(following) == (
            f"return apply_penalties({', '.join(_TAKEN)})"
        ):
            return statement
    return None


def _source(statement: cst.CSTNode) -> str:
    """A simple statement as `ast.unparse` writes it; of others nothing."""
    if not isinstance(statement, cst.SimpleStatementLine):
        return ""
    bare = statement.with_changes(leading_lines=())
    return ast.unparse(ast.parse(cst.Module([bare]).code))


def _all_are_tokens(tree: Tree) -> bool:
    """Are the penalties those of the tokens as they come from the host?"""
    function = tree.definition(_PENALTIES, _SITE)
    if not isinstance(function, ast.FunctionDef):
        return False
    uses = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and node.id == "output_tokens_t"
    ]
    made = any(
        isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("_convert_to_tensors(")
        for node in function.body
    )
    return made and len(uses) == 2  # made, and handed over


class PenaltyCounts(Rule):
    """Count a request's tokens in int32 on NPUs.

    ## What it does
    Puts a branch before the body of `get_token_bin_counts_and_mask`, taken for an NPU tensor, that
    counts in int32. The counts are as exact: a request has fewer than 2**31 tokens. Where
    `apply_all_penalties` fills in for tokens that are not known yet, an NPU chooses between two
    tensors instead.

    ## Why
    A step with penalties counts every token of its requests by `scatter_add_` in int64, and fills
    by `masked_fill_` in int64, for which CANN has no kernels on the device's vector cores: they run
    on the device's CPU.
    """

    code = "NPU236"
    recipes = (
        NpuBranch(
            "get_token_bin_counts_and_mask",
            ("vllm/model_executor/layers/utils.py",),
            tensor="tokens",
            takes=("tokens", "vocab_size", "num_seqs"),
            body=COUNTS,
            reason="it counts by a scatter of int64, for which CANN has no kernel on vector cores",
        ),
        NpuBranch(
            _SITE,
            (_PENALTIES,),
            absent=(
                Absence("<0.11.1", "every token is known: none is filled in for", _all_are_tokens),
            ),
            tensor="logits",
            body=CHOICE,
            at=_fill,
            reason="it fills in int64, for which CANN has no kernel on vector cores",
        ),
    )
