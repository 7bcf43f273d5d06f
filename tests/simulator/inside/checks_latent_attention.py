# SPDX-License-Identifier: Apache-2.0
"""The backend of latent attention of an emitted tree, against dense attention in float64."""

from __future__ import annotations

import importlib
import inspect
import itertools
import types
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from tests.simulator.inside.checks_attention import (
    BLOCK,
    NAMES,
    NPU,
    TOLERANCE,
    A,
    State,
    calls_of,
    context,
    machine,
    refusal_of,
)

NAMES["register_mla_prefill_backend"] = lambda *_: lambda backend: backend
NAMES["UnquantizedLinearMethod"] = type("UnquantizedLinearMethod", (), {})
M = importlib.import_module("vllm.v1.attention.backends.mla.ascend_mla")
LATENT, NOPE, ROPE, VALUE = 512, 128, 64, 128
SIZES = {
    "kv_lora_rank": LATENT,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUE,
}


def layer(heads: int, weight: torch.Tensor, **other: Any) -> Any:
    """An implementation whose `kv_b_proj` has a weight [heads * 256, 512]."""
    project = types.SimpleNamespace(weight=weight, quant_method=M.UnquantizedLinearMethod())

    class Project:
        def __getattr__(self, name: str) -> Any:
            return getattr(project, name)

        def __call__(self, latents: torch.Tensor) -> tuple[torch.Tensor, None]:
            return torch.nn.functional.linear(latents, weight), None

    arguments: dict[str, Any] = {
        "num_heads": heads,
        "head_size": LATENT + ROPE,
        "scale": (NOPE + ROPE) ** -0.5,
        "num_kv_heads": 1,
        "alibi_slopes": None,
        "sliding_window": None,
        "kv_cache_dtype": "auto",
        "logits_soft_cap": None,
        "attn_type": A.AttentionType.DECODER,
        "kv_sharing_target_layer_name": None,
        "q_lora_rank": None,
        **SIZES,
        "qk_head_dim": NOPE + ROPE,
        "kv_b_proj": Project(),
        "indexer": None,
    }
    made = M.AscendMLAImpl(**{**arguments, **other})
    made.process_weights_after_loading(weight.dtype)
    return made


class Batch:
    """Requests, each with new tokens and a context that is in the cache."""

    def __init__(
        self,
        requests: Sequence[tuple[int, int]],
        heads: int = 4,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`requests`: new tokens and all tokens."""
        torch.manual_seed(0)
        self.requests, self.heads, self.dtype = requests, heads, dtype
        self.weight = torch.randn(heads * (NOPE + VALUE), LATENT).to(dtype) * LATENT**-0.5
        counts = [-(-total // BLOCK) for _, total in requests]
        self.table = torch.zeros(len(requests), max(counts), dtype=torch.int32)
        blocks = (torch.randperm(sum(counts)) + 1).split(counts)
        caches = [
            torch.zeros(sum(counts) + 1, BLOCK, 1, size, dtype=dtype) for size in (LATENT, ROPE)
        ]
        self.q: list[torch.Tensor] = []
        self.latents: list[torch.Tensor] = []
        self.ropes: list[torch.Tensor] = []
        slots = []
        for row, own, (new, total) in zip(self.table, blocks, requests, strict=True):
            row[: len(own)] = own
            self.q.append(torch.randn(new, heads, NOPE + ROPE).to(dtype))
            position = torch.arange(total)
            slot = own[position // BLOCK] * BLOCK + position % BLOCK
            for cache, kept in zip(caches, (self.latents, self.ropes), strict=True):
                size = cache.shape[-1]
                kept.append(torch.randn(total, size).to(dtype))
                cache.view(-1, size)[slot[: total - new]] = kept[-1][: total - new]
            slots.append(slot[total - new :])
        self.slots = torch.cat(slots).to(torch.int32)
        self.caches = M.LatentCache(*(cache.npu() for cache in caches))

    def metadata(self, workspace: int) -> Any:
        """Made by the backend's builder out of the metadata of plain attention."""
        new, total = torch.tensor(self.requests, dtype=torch.int32).unbind(1)
        base = A.AscendMetadata(
            num_actual_tokens=int(new.sum()),
            state=State.MIXED,
            seq_lens=total.contiguous(),
            query_lens=new.contiguous(),
            seq_lens_list=total.tolist(),
            max_seq_len=int(total.max()),
            cum_query_lens=new.cumsum(0).tolist(),
            block_table=self.table.npu(),
            slot_mapping=self.slots.npu(),
            attn_mask=A._causal_mask(NPU, torch.int8),
        )
        builder = object.__new__(M.AscendMLAMetadataBuilder)
        builder.workspace = workspace
        plain = A.AscendMetadataBuilder.build
        A.AscendMetadataBuilder.build = lambda *_, **__: base
        try:
            return builder.build(0, None)
        finally:
            A.AscendMetadataBuilder.build = plain

    def attend(self, workspace: int = 4096) -> torch.Tensor:
        """[tokens, heads * value size], by the interface of the release."""
        made = layer(self.heads, self.weight.npu())
        metadata = self.metadata(workspace)
        q = torch.cat(self.q).npu()
        own = [
            torch.cat([t[-new:] for t, (new, _) in zip(kept, self.requests, strict=True)]).npu()
            for kept in (self.latents, self.ropes)
        ]
        # Lines of padding belong to nobody.
        q, latents, ropes = (
            torch.nn.functional.pad(t, (0, 0) * (t.dim() - 1) + (0, 3)) for t in (q, *own)
        )
        ropes = ropes.unsqueeze(1)
        module = types.SimpleNamespace(layer_name="0", impl=made)
        out = torch.full((q.shape[0], self.heads * VALUE), float("nan"), dtype=self.dtype).npu()
        count = metadata.num_actual_tokens
        if hasattr(made, "workspace"):
            made.forward(module, q, latents, ropes, self.caches, metadata, out)
            return out[:count]
        context.attn_metadata, context.no_compile_layers = {"0": metadata}, {"0": module}
        slots = torch.full((q.shape[0],), -1).npu()
        made.do_kv_cache_update(latents, ropes, self.caches, slots, "auto", None)
        first = metadata.num_decode_tokens
        if first < count:
            made.forward_mha(
                q[first:count],
                latents[first:count],
                ropes[first:count],
                self.caches,
                metadata,
                None,
                out[first:count],
            )
        if first:
            nope, rope = q[:first].split([NOPE, ROPE], -1)
            # As the layer does.
            up, value = self.weight.npu().view(self.heads, -1, LATENT).split([NOPE, VALUE], 1)
            absorbed = torch.bmm(nope.transpose(0, 1), up).transpose(0, 1)
            found, lse = made.forward_mqa((absorbed, rope), self.caches, metadata, module)
            assert lse is None
            found = found.view(-1, self.heads, LATENT).transpose(0, 1)
            values = torch.bmm(found, value.transpose(1, 2)).transpose(0, 1)
            out[:first] = values.reshape(first, -1)
        return out[:count]

    def dense(self) -> torch.Tensor:
        found = []
        split = self.weight.double().view(self.heads, NOPE + VALUE, LATENT)
        up, value = split.split([NOPE, VALUE], 1)
        for q, latents, rope, (new, total) in zip(
            self.q, self.latents, self.ropes, self.requests, strict=True
        ):
            k = torch.einsum("tl,hpl->thp", latents.double(), up)
            k = torch.cat([k, rope.double()[:, None].expand(-1, self.heads, -1)], -1)
            v = torch.einsum("tl,hvl->thv", latents.double(), value)
            weights = torch.einsum("qhd,khd->hqk", q.double(), k) * (NOPE + ROPE) ** -0.5
            later = torch.arange(total)[None] > torch.arange(total - new, total)[:, None]
            weights = weights.masked_fill(later, float("-inf")).softmax(-1)
            found.append(torch.einsum("hqk,khv->qhv", weights, v).flatten(1))
        return torch.cat(found)

    def same(self, got: torch.Tensor) -> None:
        bound = TOLERANCE[self.dtype]
        torch.testing.assert_close(got.cpu().double(), self.dense(), rtol=0, atol=bound)
        for cache, kept in zip(self.caches, (self.latents, self.ropes), strict=True):
            rows = cache.cpu().flatten(0, 2)[self.slots.long()]
            news = [t[-new:] for t, (new, _) in zip(kept, self.requests, strict=True)]
            assert torch.equal(rows, torch.cat(news))


BATCHES = (
    # Decodes alone, one of them the first token of all.
    ((1, 200), (1, 1), (1, 129)),
    # Prefills alone.
    ((40, 40), (2, 2), (130, 130)),
    # Decodes, then prefills with a cached prefix, with none and with a long one.
    ((1, 140), (1, 5), (20, 150), (7, 7), (30, 300)),
)


def check_every_batch_under_both_sets_of_operators() -> None:
    for nnal, dtype in itertools.product((True, False), (torch.bfloat16, torch.float16)):
        with machine(nnal):
            for requests in BATCHES:
                batch = Batch(requests, dtype=dtype)
                batch.same(batch.attend())


def check_a_context_in_pieces() -> None:
    for workspace in (37, 128, 130, 399, 400, 401):
        batch = Batch(BATCHES[2])
        batch.same(batch.attend(workspace))


def check_any_number_of_heads() -> None:
    for heads in (1, 3, 20, 128):
        for requests in (((1, 30), (1, 4)), ((1, 9), (5, 12))):
            batch = Batch(requests, heads)
            batch.same(batch.attend())


def check_the_caches_are_written_by_the_set_of_operators() -> None:
    names = ("_npu_reshape_and_cache", "npu_scatter_pa_kv_cache", "npu_scatter_nd_update_")
    for nnal, wanted in ((True, names[:1]), (False, names[1:])):
        with machine(nnal), calls_of(*names) as called:
            Batch(BATCHES[0]).attend()
        assert called, nnal
        assert set(called) <= set(wanted), (nnal, called)


def check_a_plan_has_every_cached_token_once_and_no_piece_without_any() -> None:
    for lengths, workspace in itertools.product(
        ((0,), (5, 0, 3), (100, 1, 0, 64), (7,) * 9), (1, 3, 64, 1000)
    ):
        seen: list[tuple[int, int]] = []
        for chunk in M.plan_context(lengths, workspace):
            assert 0 < sum(piece.end - piece.start for piece in chunk) <= workspace
            assert len({piece.request for piece in chunk}) == len(chunk)
            for piece in chunk:
                assert piece.start < piece.end
                seen += [(piece.request, at) for at in range(piece.start, piece.end)]
        wanted = [(i, at) for i, length in enumerate(lengths) for at in range(length)]
        assert seen == wanted


def check_what_saw_no_key_is_no_value() -> None:
    torch.manual_seed(1)
    out, more = torch.randn(2, 3, 4, 8)
    lse, more_lse = torch.randn(2, 3, 4, 1)
    for which in range(2):
        given = [lse.clone(), more_lse.clone()]
        given[which][1] = torch.inf
        merged, total = M.merge_states(out, given[0], more, given[1])
        torch.testing.assert_close(merged[1], (more, out)[which][1])
        torch.testing.assert_close(total[1], given[1 - which][1])
        both = torch.cat([lse, more_lse], -1)[0]
        torch.testing.assert_close(total[0], both.logsumexp(-1, keepdim=True))
        weights = both.softmax(-1)
        want = out[0] * weights[:, :1] + more[0] * weights[:, 1:]
        torch.testing.assert_close(merged[0], want)


def check_layers_that_no_operator_takes_are_refused_when_they_are_made() -> None:
    weight = torch.zeros(4 * (NOPE + VALUE), LATENT, dtype=torch.bfloat16)
    for cann, heads, other, message in (
        ((8, 5), 4, {"kv_lora_rank": 256}, "a kv_lora_rank of 512, not 256"),
        ((8, 5), 4, {"v_head_dim": 256}, "a v_head_dim of 128, not 256"),
        ((8, 5), 4, {"qk_nope_head_dim": 192}, "a qk_nope_head_dim of 128, not 192"),
        ((8, 5), 129, {}, "at most 128 heads on a rank, not 129"),
        ((8, 2), 4, {}, "CANN 8.3 or newer, not 8.2"),
        ((8, 5), 4, {"indexer": object()}, "does not support indexer"),
        ((8, 5), 4, {"sliding_window": 128}, "does not support a sliding window"),
        ((8, 5), 4, {"kv_cache_dtype": "fp8"}, "a KV cache of fp8"),
        (
            (8, 5),
            4,
            {"kv_b_proj": types.SimpleNamespace(quant_method=object())},
            "does not support a quantized kv_b_proj",
        ),
    ):
        with machine(cann=cann):
            found = refusal_of(partial(layer, heads, weight, **other))
        assert message in found, (heads, other, found)


def check_methods_take_what_those_of_the_release_take() -> None:
    base = M.AscendMLAImpl.__mro__[1]
    names = ("forward", "forward_mha", "forward_mqa", "do_kv_cache_update")
    wanted = {
        name: list(inspect.signature(f).parameters) for name in names if (f := vars(base).get(name))
    }
    assert wanted
    for name, parameters in wanted.items():
        ours = list(inspect.signature(getattr(M.AscendMLAImpl, name)).parameters)
        assert len(ours) >= len(parameters), (name, parameters)
        if name != "forward":
            # Some releases hand them over by name.
            assert ours[: len(parameters)] == parameters, name


def check_the_backend_answers_for_latent_attention_alone() -> None:
    ask = M.AscendMLABackend.validate_configuration
    plain = {"head_size": LATENT + ROPE, "dtype": torch.bfloat16, "use_mla": True}
    assert ask(**plain) == []
    others = ("use_sparse", "use_mm_prefix", "has_sliding_window", "use_non_causal")
    for name in (*others, "use_kv_connector"):
        assert len(ask(**plain, **{name: True})) == 1, name
    assert A.AscendAttentionBackend.validate_configuration(**plain)


def check_layers_see_whether_there_is_a_cache() -> None:
    """The layers of 0.20 ask by `numel`, others drop a dimension first."""
    for blocks, elements in ((0, 0), (3, 3 * BLOCK * (LATENT + ROPE))):
        cache = M.LatentCache(*(torch.empty(blocks, BLOCK, 1, size) for size in (LATENT, ROPE)))
        assert cache.squeeze(1).numel() == elements
