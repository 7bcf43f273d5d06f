# SPDX-License-Identifier: Apache-2.0
"""NPU101: rotary embedding on NPU."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import annotation_text, parameter_names, parameters
from migrator.codemod.recipes.branches import NpuBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_TAKES = ("positions", "query", "key", "head_size", "cos_sin_cache", "is_neox")
_OPTIONAL = ("rope_dim_offset", "inverse")
HELPER = '''\
_npu_rotary_uses_nnal = False
if torch_npu is not None:
    from vllm.platforms.npu_nnal import uses_nnal

    _npu_rotary_uses_nnal = uses_nnal()

# torch_npu keeps the cos and sin of the first cache that _npu_rotary_embedding
# gets in a process, and does not look at a later one.
_npu_cos_sin_cache = None


def _rotary_embedding_npu(
    positions: torch.Tensor,
    query: torch.Tensor,
    key{optional},
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
    rope_dim_offset: int = 0,
    inverse: bool = False,
) -> None:
    """Rotate query and key in place.

    The operators take whole heads of contiguous tensors. So where a tensor is
    strided or only a part of each head turns, that part is copied out, rotated
    and copied back.
    """
    global _npu_cos_sin_cache
    num_tokens = positions.numel()
    rotary_dim = cos_sin_cache.shape[-1]
    stop = rope_dim_offset + rotary_dim
    parts = [
        tensor.view(*positions.shape, -1, head_size)[..., rope_dim_offset:stop]
        for tensor in (query, key)
        if tensor is not None
    ]
    rotated = [part.reshape(num_tokens, -1).contiguous() for part in parts]

    fits_nnal = (
        _npu_rotary_uses_nnal
        and query.dtype in (torch.float16, torch.bfloat16)
        and cos_sin_cache.dtype == query.dtype
        and not inverse
    )
    if fits_nnal and _npu_cos_sin_cache is None:
        _npu_cos_sin_cache = cos_sin_cache
    if fits_nnal and cos_sin_cache is _npu_cos_sin_cache:
        if key is None:
            # The operator always takes a key: one head stands in for it.
            rotated.append(
                rotated[0][:, :rotary_dim].clone(memory_format=torch.contiguous_format)
            )
        torch_npu._npu_rotary_embedding(
            positions.flatten(),
            rotated[0],
            rotated[1],
            rotary_dim,
            cos_sin_cache,
            is_neox,
        )
    else:
        rows = cos_sin_cache.to(query.dtype).index_select(0, positions.flatten())
        cos, sin = rows.chunk(2, dim=-1)
        if inverse:
            sin = -sin
        if is_neox:
            mode, cos, sin = "half", cos.repeat(1, 2), sin.repeat(1, 2)
        else:
            mode = "interleave"
            cos, sin = cos.repeat_interleave(2, dim=1), sin.repeat_interleave(2, dim=1)
        for tensor in rotated:
            result = torch_npu.npu_rotary_mul(
                tensor.view(1, num_tokens, -1, rotary_dim),
                cos.view(1, num_tokens, 1, rotary_dim),
                sin.view(1, num_tokens, 1, rotary_dim),
                rotary_mode=mode,
            )
            tensor.copy_(result.view(tensor.shape))
    for part, result in zip(parts, rotated):
        if not part.is_contiguous():
            part.copy_(result.view(part.shape))
'''
BATCHED = """\
positions = positions + cos_sin_cache_offsets.view_as(positions)
rotary_embedding(
    positions, query, key, head_size, cos_sin_cache, is_neox
)
return
"""

_OPS = "vllm/_custom_ops.py"
_LAYERS = (
    "vllm/model_executor/layers/rotary_embedding/base.py",
    "vllm/model_executor/layers/rotary_embedding.py",
)


def _rotates_without_offsets(tree: Tree) -> bool:
    """Does the rotary layer take no offsets, for which alone there was a batched kernel?"""
    taken = (tree.parameters(path, "RotaryEmbedding.forward_cuda") for path in _LAYERS)
    known = [names for names in taken if names is not None]
    return bool(known) and not any("offsets" in names for names in known)


def _call(function: cst.FunctionDef) -> str:
    names = parameter_names(function)
    arguments = [*_TAKES, *(f"{name}={name}" for name in _OPTIONAL if name in names)]
    # On one line where they fit into 80 columns, else one a line.
    listed = ", ".join(arguments)
    if len(listed) > 68:
        listed = ",\n    ".join(arguments) + ","
    return f"_rotary_embedding_npu(\n    {listed}\n)\nreturn\n"


def _helper(function: cst.FunctionDef) -> str:
    types = {p.name.value: annotation_text(p.annotation) for p in parameters(function)}
    return HELPER.replace("{optional}", f": {types['key']}" if types.get("key") else "")


class CustomOpsRotaryEmbedding(Rule):
    """Rotate query and key with `torch_npu._npu_rotary_embedding` when they are on an NPU.

    ## What it does
    Puts a branch before the body of `vllm/_custom_ops.py::rotary_embedding`, taken for an NPU
    tensor, that calls a helper added after it; and one in `batched_rotary_embedding`, which the
    releases before 0.11.0 have, that adds the offsets to the positions first.

    ## Why
    The body calls `torch.ops._C`, which is not built for NPU. `_npu_rotary_embedding` (NNAL) works
    in place on contiguous 2-D tensors and turns whole heads, so the helper copies out and back
    what is strided or only partly rotated (`rotary_dim < head_size`), and stands in for a missing
    key (cross-layer KV sharing).

    torch_npu keeps the cos and sin of the first cache that this operator gets in a process and
    ignores later ones: a model with two rotary embeddings, or a draft model, would be rotated
    wrongly without a word. So the helper remembers which cache that was, and sends every other one
    to `npu_rotary_mul`, which has no such memory. float32, `inverse` (passed from 0.20.2 on) and
    installations without NNAL go there too, and everything if `VLLM_NPU_USE_NNAL` is 0.

    ## Example
    ```python
    def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox):
        if query.device.type == "npu":
            _rotary_embedding_npu(positions, query, key, head_size, cos_sin_cache, is_neox)
            return
        torch.ops._C.rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox)
    ```
    """

    code = "NPU101"
    # What its branch imports comes with it, whichever other rules are chosen.
    templates = ("vllm/platforms/npu_nnal.py",)
    recipes = (
        NpuBranch(
            "rotary_embedding",
            (_OPS,),
            tensor="query",
            takes=_TAKES,
            optional=_OPTIONAL,
            body=_call,
            helper=_helper,
            reason="torch.ops._C.rotary_embedding is not built for NPU; "
            "torch_npu._npu_rotary_embedding does the same on contiguous whole heads",
        ),
        NpuBranch(
            "batched_rotary_embedding",
            (_OPS,),
            tensor="query",
            takes=(*_TAKES, "rot_dim", "cos_sin_cache_offsets"),
            body=BATCHED,
            reason="torch.ops._C.batched_rotary_embedding is not built for NPU; with the offsets "
            "added to the positions it is rotary_embedding",
            absent=(
                Absence(
                    ">=0.11.0",
                    "vLLM dropped the batched kernel with its LoRA use",
                    _rotates_without_offsets,
                ),
            ),
        ),
    )
