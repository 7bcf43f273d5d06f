# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Attention on Ascend NPUs.

Two sets of operators, chosen once per process by `VLLM_NPU_USE_NNAL`:

* NNAL (Ascend Transformer Boost, `torch_npu._npu_*`): one operator writes the
  cache, one does prefill and one does decode. Chunked prefill, prefix-cache
  hits and mixed batches go to `npu_fused_infer_attention_score`, or to NNAL
  again where that operator does not take the head size.
* without NNAL: `npu_scatter_pa_kv_cache` writes the cache, and
  `npu_fused_infer_attention_score` computes every state from it.

A sliding window and tokens that see later ones (images of some models, batches
that are not causal) always go to `npu_fused_infer_attention_score`. What that
operator takes is said once, by `fused_refusal`.

Keys and values live in separate buffers `[blocks, 128, kv_heads, head_size]`.
Sequence lengths are host values for all of these operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
import torch_npu

import vllm.envs as envs
from vllm.compilation.npu_graph import NPUGraph
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.platforms.npu_config import MAX_CONTEXT, chunk_reason
from vllm.platforms.npu_nnal import uses_nnal
from vllm.utils.torch_utils import weak_ref_tensor
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
)

# npu-migrate: when graphs_hold_single_token_decodes
from vllm.v1.attention.backend import AttentionCGSupport

# npu-migrate: end
# npu-migrate: when has_kv_cache_layouts
from vllm.v1.kv_cache_interface import KVCacheLayout

# npu-migrate: end

# The fused attention operator takes a causal mask of this fixed size and
# applies it to sequences of any length (sparse_mode 3 and 4). The prefill
# operator of NNAL takes one as wide as the longest sequence: longer prompts
# than this go to the fused operator instead of a mask that grows with them.
MASK_SIZE = 2048
UNMASKED = 0
CAUSAL = 3
BAND = 4
UNLIMITED = 2**31 - 1
"""`pre_tokens` and `next_tokens` that hide nothing."""

# Head sizes that it takes with sequences packed one after the other (TND), and
# the largest one that the prefill operators of NNAL take.
FUSED_HEAD_SIZES = (64, 128, 192)
MAX_NNAL_HEAD_SIZE = 256

# Query heads that may share a key.
MAX_GROUP = 64

# Side of the mask that NNAL's operator for a cached prefix takes.
PREFIX_MASK_SIZE = 128

# What `block_size` means to the operators: tokens of a cache block.
KERNEL_BLOCK_SIZE = 128


@cache
def _scatter_takes_cache_mode() -> bool:
    # torch_npu 2.8 has no such argument, and no layout but the fractal one.
    schema = torch.ops.npu.npu_scatter_pa_kv_cache.default._schema
    return any(argument.name == "cache_mode" for argument in schema.arguments)


@cache
def cann_version() -> tuple[int, int]:
    """Major and minor version of CANN; a large one where it does not say."""
    found = re.match(r"(\d+)\.(\d+)", torch_npu.npu.utils.get_cann_version() or "")
    return (int(found[1]), int(found[2])) if found else (99, 0)


@cache
def fused_refusal(
    dtype: torch.dtype, head_size: int, group: int = 1, window: int | None = None
) -> str | None:
    """Why the fused operator does not take an attention; None if it does.

    Args:
        dtype: of queries and cache. float32 passes: whether it may is for the
            platform to say, no device takes it.
        head_size: elements of a query's, key's and value's head.
        group: query heads of a key's head.
        window: tokens that a token sees with itself, or None for all before it.

    """
    version = cann_version()
    cann = ".".join(map(str, version))
    if head_size not in FUSED_HEAD_SIZES:
        sizes = ", ".join(map(str, FUSED_HEAD_SIZES))
        return f"a head size of {sizes}, not {head_size}"
    if version < (8, 3):
        return f"CANN 8.3 or newer, not {cann}"
    if version < (8, 5) and dtype is torch.float16:
        return f"bfloat16 on CANN before 8.5 (this is {cann}), not float16"
    if version < (8, 5) and head_size == 64:
        return f"CANN 8.5 or newer for heads of 64, not {cann}"
    if head_size == 192 and group > 1:
        return "a key's head for each query's with heads of 192"
    if head_size == 192 and window is not None:
        return "heads of 64 or 128 for a sliding window, not 192"
    return None


def refusal(
    dtype: torch.dtype,
    head_size: int,
    group: int = 1,
    window: int | None = None,
    sees_later: bool = False,
) -> str | None:
    """Why no operator here takes an attention, in a few words; None if one does.

    Args:
        dtype: of queries and cache.
        head_size: elements of a query's, key's and value's head.
        group: query heads of a key's head.
        window: tokens that a token sees with itself, or None for all before it.
        sees_later: some tokens see later ones, which only the fused operator does.

    """
    if group > MAX_GROUP:
        return f"at most {MAX_GROUP} query heads of a key's head, not {group}"
    if window is not None and window < 1:
        # What newer releases of vLLM take for none: here the cache would keep none.
        return f"a sliding window of at least a token, not {window}"
    fused = fused_refusal(dtype, head_size, group, window)
    if fused is None:
        return None
    if window is not None:
        return f"{fused}, with a sliding window"
    if sees_later:
        return f"{fused}, where tokens see later ones"
    if not uses_nnal():
        return f"{fused}, without NNAL"
    if head_size % 16 or head_size > MAX_NNAL_HEAD_SIZE:
        return (
            "a head size that is a multiple of 16 and at most "
            f"{MAX_NNAL_HEAD_SIZE}, not {head_size}"
        )
    return None


# What a selector may ask for beside dtypes and sizes: its name for it, ours, and
# how the backend says whether it does it.
_FEATURES = {
    "use_mla": ("multi-head latent attention", "is_mla"),
    "has_sink": ("attention sinks", "supports_sink"),
    "use_sparse": ("sparse attention", "is_sparse"),
    "is_blocksparse": ("block-sparse attention", "is_sparse"),
    "use_mm_prefix": ("attention in both directions", "supports_mm_prefix"),
    "use_per_head_quant_scales": (
        "quantization scales of each head",
        "supports_per_head_quant_scales",
    ),
    "has_sliding_window": ("a sliding window", "supports_sliding_window"),
    "use_rswa": ("a rotating sliding window", "supports_rswa"),
    "use_non_causal": ("non-causal attention", "supports_non_causal"),
    "use_batch_invariant": ("batch invariance", "supports_batch_invariance"),
    "use_kv_connector": ("KV connectors", "supports_kv_connector"),
    "use_pcp": ("prefill context parallelism", "supports_pcp"),
    "use_dcp": ("decode context parallelism", "supports_dcp"),
    "use_adaptive_verification": (
        "adaptive verification of drafts",
        "supports_device_cpu_query_lens_mismatch",
    ),
}


class AscendAttentionBackend(AttentionBackend):
    accept_output_buffer: bool = True
    forward_includes_kv_cache_update: bool = True
    supported_dtypes: ClassVar[list[torch.dtype]] = [
        torch.float16,
        torch.bfloat16,
        torch.float32,
    ]
    supported_kernel_block_sizes: ClassVar[list[int]] = [KERNEL_BLOCK_SIZE]

    @staticmethod
    def get_name() -> str:
        # vLLM looks this name up among its backends: CUSTOM is the entry for
        # the ones that a platform brings.
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type:
        return AscendAttentionImpl

    @staticmethod
    def get_metadata_cls() -> type[AscendMetadata]:
        return AscendMetadata

    @staticmethod
    def get_builder_cls() -> type[AscendMetadataBuilder]:
        return AscendMetadataBuilder

    @classmethod
    def get_supported_dtypes(cls) -> list[torch.dtype]:
        return cls.supported_dtypes

    @classmethod
    def supports_dtype(cls, dtype: torch.dtype) -> bool:
        return dtype in cls.supported_dtypes and (
            dtype is not torch.float32 or envs.VLLM_NPU_ALLOW_FLOAT32
        )

    @classmethod
    def validate_head_size(cls, head_size: int) -> None:
        if not cls.supports_head_size(head_size):
            reason = refusal(torch.bfloat16, head_size)
            raise NotImplementedError(f"NPU attention needs {reason}.")

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        return refusal(torch.bfloat16, head_size) is None

    @classmethod
    def supports_kv_cache_dtype(cls, kv_cache_dtype: str | None) -> bool:
        return kv_cache_dtype in (None, "auto", "float16", "bfloat16")

    @classmethod
    def supports_block_size(cls, block_size: int | None) -> bool:
        return block_size is None or block_size % KERNEL_BLOCK_SIZE == 0

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return getattr(attn_type, "value", attn_type) == "decoder"

    @classmethod
    def is_mla(cls) -> bool:
        return False

    @classmethod
    def is_sparse(cls) -> bool:
        return False

    @classmethod
    def supports_sink(cls) -> bool:
        return False

    @classmethod
    def supports_alibi_sqrt(cls) -> bool:
        return False

    @classmethod
    def supports_mm_prefix(cls) -> bool:
        return True

    @classmethod
    def supports_per_head_quant_scales(cls) -> bool:
        return False

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @classmethod
    def supports_rswa(cls) -> bool:
        return False

    @classmethod
    def supports_non_causal(cls) -> bool:
        return True

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        return False

    @classmethod
    def supports_kv_connector(cls) -> bool:
        # Which ones, the platform knows.
        return True

    @classmethod
    def supports_pcp(cls) -> bool:
        return False

    @classmethod
    def supports_dcp(cls) -> bool:
        return False

    @classmethod
    def supports_device_cpu_query_lens_mismatch(cls) -> bool:
        # Query lengths go to the operators as numbers.
        return False

    @classmethod
    def validate_configuration(  # type: ignore[override] # all is asked by name
        cls, **asked: Any
    ) -> list[str]:
        """What of a selector's questions this backend does not do.

        Releases ask about more and more things. One that is not known here is not
        supported, unless it is not wanted either.

        Args:
            asked: what the selector asks for, by vLLM's own names.

        Returns:
            What is not supported, in words; nothing if everything is.

        """
        asked = {name: value for name, value in asked.items() if value is not None}
        asked.pop("device_capability", None)
        # The first engine of vLLM has other builders, another runner and no graphs.
        reasons = [] if asked.pop("use_v1", True) else ["the V0 engine"]
        dtype = asked.pop("dtype", torch.bfloat16)
        if not cls.supports_dtype(dtype):
            reasons.append(str(dtype).removeprefix("torch."))
        cache_dtype = asked.pop("kv_cache_dtype", "auto")
        # npu-migrate: when runner_asks_by_cache_dtype
        # Layers ask by the option, the model runner by what it came to.
        cache_dtype = str(cache_dtype).removeprefix("torch.")
        # npu-migrate: end
        if cache_dtype not in ("auto", str(dtype).removeprefix("torch.")):
            reasons.append(f"a KV cache of {cache_dtype}")
        block_size = asked.pop("block_size", None)
        if not cls.supports_block_size(block_size):
            reasons.append(
                f"blocks of {block_size} tokens, which is no multiple of "
                f"{KERNEL_BLOCK_SIZE}"
            )
        kind = asked.pop("attn_type", "decoder")
        if not cls.supports_attn_type(kind):
            reasons.append(f"attention of type {getattr(kind, 'value', kind)}")
        sees_later = asked.get("use_mm_prefix") or asked.get("use_non_causal")
        window = 1 if asked.get("has_sliding_window") else None
        head_size = asked.pop("head_size", None)
        if head_size is not None and not asked.get("use_mla"):
            missing = refusal(
                dtype, head_size, window=window, sees_later=bool(sees_later)
            )
            if missing is not None:
                reasons.append(f"its heads (it needs {missing})")
        for name, value in asked.items():
            what, supports = _FEATURES.get(name, (name, ""))
            if value and not (supports and getattr(cls, supports)()):
                reasons.append(what)
        return reasons

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec=None) -> list:
        return [KERNEL_BLOCK_SIZE]

    # npu-migrate: when has_kv_cache_layouts
    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        # All of a layer's blocks together, which NPUModelRunner splits into a
        # key and a value buffer.
        return (KVCacheLayout.LBNHC,)

    # npu-migrate: otherwise
    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_size: int,
        cache_dtype_str: str = "auto",
    ) -> tuple[int, ...]:
        # What the two buffers of NPUModelRunner would be as one tensor.
        return (2, num_blocks, block_size, num_kv_heads, head_size)

    # npu-migrate: end


class AscendAttentionState(Enum):
    PREFILL_NO_CACHE = 0
    """Every request starts here: its keys and values are those of the batch."""
    DECODE = 1
    """One token per request."""
    MIXED = 2
    """Anything else: chunked prefill, prefix-cache hits, mixed batches."""


@dataclass
class AscendMetadata:
    num_actual_tokens: int
    """Tokens of the batch without graph padding."""
    state: AscendAttentionState
    seq_lens: torch.Tensor
    """[num_reqs] int32, on the host: context lengths with the new tokens."""
    query_lens: torch.Tensor
    """[num_reqs] int32, on the host: new tokens."""
    seq_lens_list: list[int]
    max_seq_len: int
    cum_query_lens: list[int]
    """End of each request's tokens in the batch; the last is num_actual_tokens."""
    block_table: torch.Tensor
    """[num_reqs, max_blocks] int32, on the device."""
    slot_mapping: torch.Tensor
    """[num_actual_tokens] int32, on the device: block * block_size + offset."""
    attn_mask: torch.Tensor
    """[2048, 2048] int8, on the device: 1 above the diagonal."""
    causal: bool | list[bool] = True
    """Whether tokens see earlier ones only, of the batch or of each request."""
    mm_prefix_range: dict[int, list[tuple[int, int]]] | None = None
    """Of some requests: first and last positions of tokens that see each other.

    Some releases set it after the builder is done.
    """
    calls: dict[tuple[int | None, bool], list[FusedCall] | None] = field(
        default_factory=dict
    )
    """By window, and whether that bounds `mm_prefix_range` too: see `fused_calls`."""


class Mask(NamedTuple):
    """Which keys the fused operator lets a query see, counted from the last of both."""

    sparse_mode: int
    pre_tokens: int = UNLIMITED
    next_tokens: int = UNLIMITED


@dataclass
class Piece:
    """Tokens of a request that one mask describes."""

    request: int
    first: int
    """Row of the batch."""
    num_rows: int
    num_keys: int
    """They see at most the first so many tokens of the request..."""
    first_key: int = 0
    """...without so many at the start. Other than 0, they are taken from the cache."""


@dataclass
class FusedCall:
    """Pieces of a batch that one call of the fused operator attends to."""

    mask: Mask
    rows: torch.Tensor
    """[tokens] int64, on the device: rows of the batch."""
    cum_query_lens: list[int]
    seq_lens: list[int]
    """Keys of each piece."""
    block_table: torch.Tensor
    """[pieces, max_blocks] int32, on the device."""
    key_slots: torch.Tensor | None
    """[keys] int64, on the device: where the keys are, if they are to be gathered."""


def split_request(
    request: int,
    first: int,
    num_rows: int,
    num_keys: int,
    causal: bool,
    ranges: list[tuple[int, int]],
    window: int | None,
    clamp: bool,
) -> Iterator[tuple[Mask, Piece]]:
    """Cut a request's new tokens where what they see changes its shape.

    A token sees itself and what is before it, or the last `window` of these, and
    what is in the same one of `ranges`, whatever the window.

    Args:
        request: place of the request in the batch.
        first: row of the first new token in the batch.
        num_rows: new tokens.
        num_keys: tokens with the new ones, which are the last.
        causal: False: every token sees every other, or `window` on each side.
        ranges: first and last positions of tokens that see each other.
        window: tokens that a token sees with itself, or None for all before it.
        clamp: the window bounds what is seen of `ranges` towards the start.

    """
    base = Mask(CAUSAL) if window is None else Mask(BAND, window - 1, 0)
    start = num_keys - num_rows

    def piece(begin: int, end: int, keys: int, first_key: int = 0) -> Piece:
        return Piece(request, first + begin - start, end - begin, keys, first_key)

    if not causal:
        both = Mask(UNMASKED) if window is None else Mask(BAND, window - 1, window - 1)
        yield both, piece(start, num_keys, num_keys)
        return
    done = start
    for range_first, range_last in sorted(ranges):
        begin, end = max(range_first, done), min(range_last + 1, num_keys)
        if end - begin < 1 or range_first == range_last:
            continue
        if done < begin:
            yield base, piece(done, begin, begin)
        done = end
        if window is None:
            yield Mask(UNMASKED), piece(begin, end, end)
            continue
        # Up to here the window begins before the range, so it is a band.
        banded = end if clamp else max(min(end, range_first + window), begin)
        if begin < banded:
            behind = window - 1 + end - banded
            yield Mask(BAND, behind, UNLIMITED), piece(begin, banded, end)
        if banded < end:
            yield Mask(UNMASKED), piece(banded, end, end, range_first)
    if done < num_keys:
        yield base, piece(done, num_keys, num_keys)


def fused_calls(
    metadata: AscendMetadata, window: int | None, clamp: bool, block_size: int
) -> list[FusedCall] | None:
    """The calls that a batch takes in which tokens see later ones.

    Args:
        metadata: of the batch.
        window: tokens that a token sees with itself, or None for all before it.
        clamp: the window bounds what is seen of image ranges towards the start.
        block_size: tokens of a block of the cache.

    Returns:
        None where no token sees a later one.

    """
    causal = metadata.causal
    ranges = metadata.mm_prefix_range or {}
    if causal is True and not any(ranges.values()):
        return None
    groups: dict[tuple[Mask, bool], list[Piece]] = {}
    first = 0
    for request, end in enumerate(metadata.cum_query_lens):
        pieces = split_request(
            request,
            first,
            end - first,
            metadata.seq_lens_list[request],
            causal if isinstance(causal, bool) else causal[request],
            ranges.get(request) or [],
            window,
            clamp,
        )
        for mask, piece in pieces:
            groups.setdefault((mask, piece.first_key > 0), []).append(piece)
        first = end
    base = Mask(CAUSAL) if window is None else Mask(BAND, window - 1, 0)
    if set(groups) <= {(base, False)}:
        return None
    return [
        _fused_call(mask, gathered, pieces, metadata.block_table, block_size)
        for (mask, gathered), pieces in groups.items()
    ]


def _fused_call(
    mask: Mask,
    gathered: bool,
    pieces: list[Piece],
    block_table: torch.Tensor,
    block_size: int,
) -> FusedCall:
    device = block_table.device
    rows = [row for p in pieces for row in range(p.first, p.first + p.num_rows)]
    ends: list[int] = []
    for p in pieces:
        ends.append(p.num_rows + (ends[-1] if ends else 0))
    table = block_table[torch.tensor([p.request for p in pieces], device=device)]
    key_slots = None
    lengths = [p.num_keys - p.first_key for p in pieces]
    if gathered:
        spots = [(i, k) for i, p in enumerate(pieces) for k in range(p.num_keys)]
        spots = [(i, k) for i, k in spots if k >= pieces[i].first_key]
        index, position = torch.tensor(spots, device=device).unbind(1)
        blocks = table[index, position // block_size].long()
        key_slots = blocks * block_size + position % block_size
        # Keys that lie one after the other are counted through, as queries are.
        for i in range(1, len(lengths)):
            lengths[i] += lengths[i - 1]
    return FusedCall(
        mask, torch.tensor(rows, device=device), ends, lengths, table, key_slots
    )


@cache
def _causal_mask(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[2048, 2048] with something above the diagonal and 0 elsewhere.

    NNAL adds a float16 mask to the scores as it is. A bfloat16 mask it takes
    times -10000, and integers are flags: there 1 hides a key.
    """
    hidden = float("-inf") if dtype is torch.float16 else 1
    mask = torch.full((MASK_SIZE, MASK_SIZE), hidden, dtype=dtype)
    return torch.triu(mask, diagonal=1).to(device)


@cache
def _prefix_mask(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[128, 128] with 1 above the diagonal: a pattern, whatever the dtype."""
    mask = torch.ones(PREFIX_MASK_SIZE, PREFIX_MASK_SIZE, dtype=dtype)
    return torch.triu(mask, diagonal=1).to(device)


def split_kv_cache(
    kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's key and value buffer.

    Each is `[num_blocks, 128, num_kv_heads, head_size]`.

    Args:
        kv_cache: one tensor of both, or these two.

    """
    if isinstance(kv_cache, torch.Tensor):
        # The keys of all blocks come first in memory, whichever dimension counts
        # blocks.
        blocks_first = kv_cache.stride(0) < kv_cache.stride(1)
        return kv_cache.unbind(1 if blocks_first or kv_cache.shape[0] == 1 else 0)
    return kv_cache


class AscendMetadataBuilder(AttentionMetadataBuilder[AscendMetadata]):
    # npu-migrate: when graphs_hold_single_token_decodes
    # Decode steps of one token a request can be captured as a whole; with drafts,
    # those in which each request has as many as a step can.
    _cudagraph_support: ClassVar[AttentionCGSupport] = (
        AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
    )
    cudagraph_support: AttentionCGSupport = _cudagraph_support

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        # Only the fused operator can be given new lengths in a graph.
        head_size = getattr(kv_cache_spec, "head_size", None)
        if head_size is None:
            return AttentionCGSupport.NEVER
        heads = vllm_config.model_config.get_num_attention_heads(
            vllm_config.parallel_config
        )
        unfit = fused_refusal(
            kv_cache_spec.dtype,
            head_size,
            heads // kv_cache_spec.num_kv_heads,
            getattr(kv_cache_spec, "sliding_window", None),
        )
        if unfit:
            return AttentionCGSupport.NEVER
        if vllm_config.speculative_config is not None:
            return AttentionCGSupport.UNIFORM_BATCH
        return cls._cudagraph_support

    # npu-migrate: end
    # npu-migrate: when builders_take_layer_names
    def __init__(
        self,
        kv_cache_spec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        # npu-migrate: end
        # npu-migrate: when graphs_hold_single_token_decodes
        # Earlier releases ask the builder, not its class.
        self.cudagraph_support = self.get_cudagraph_support(vllm_config, kv_cache_spec)
        # npu-migrate: end
        # npu-migrate: when builders_take_layer_names
        self._prepare(device, vllm_config)

    # npu-migrate: end
    # npu-migrate: when builders_take_the_config_only
    def __init__(self, kv_cache_spec, vllm_config: VllmConfig, device: torch.device):
        super().__init__(kv_cache_spec, vllm_config, device)
        self._prepare(device, vllm_config)

    # npu-migrate: end
    # npu-migrate: when builders_take_the_runner
    def __init__(self, runner, kv_cache_spec, block_table):
        # The runner holds what later releases hand over with each batch.
        self.runner = runner
        self.block_table = block_table
        self._prepare(runner.device, runner.vllm_config)

    # npu-migrate: end
    def _prepare(self, device: torch.device, vllm_config: VllmConfig) -> None:
        """Make what batches share: the mask, and the slots that graphs read."""
        self.speculates = vllm_config.speculative_config is not None
        max_tokens = _max_batch_tokens(vllm_config)
        self.attn_mask = _causal_mask(device, torch.int8)
        # What padding is written to. NNAL skips a slot below 0. The other operators
        # skip none: there it goes to the null block, which nobody reads, each
        # token to a slot of its own.
        unused = torch.full((max_tokens,), -1, dtype=torch.int32, device=device)
        if not uses_nnal():
            unused = torch.arange(max_tokens, dtype=torch.int32, device=device)
            unused %= KERNEL_BLOCK_SIZE
        self.unused_slots = unused
        self.slots = unused.clone()

    def reorder_batch(self, input_batch, scheduler_output) -> bool:
        return False

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> AscendMetadata:
        common = common_attn_metadata
        # npu-migrate: when builders_take_the_runner
        query_start_loc = self.runner.query_start_loc_cpu
        block_table = self.block_table.get_device_tensor()
        slot_mapping = self.block_table.slot_mapping
        slot_mapping[: common.num_actual_tokens].copy_(
            self.block_table.slot_mapping_cpu[: common.num_actual_tokens],
            non_blocking=True,
        )
        # npu-migrate: otherwise
        query_start_loc = common.query_start_loc_cpu
        block_table = common.block_table_tensor
        slot_mapping = common.slot_mapping
        # npu-migrate: end
        ends = query_start_loc[1 : common.num_reqs + 1]
        starts = query_start_loc[: common.num_reqs]
        query_lens = ends - starts
        # Graph padding adds requests without tokens at the end of the batch.
        num_reqs = int(torch.count_nonzero(query_lens))
        query_lens = query_lens[:num_reqs].to(torch.int32)
        seq_lens = self._host_seq_lens(common)[:num_reqs].to(torch.int32)
        num_tokens = int(ends[num_reqs - 1]) if num_reqs else 0

        causal = getattr(common, "causal", True)
        if isinstance(causal, torch.Tensor):
            causal = causal[:num_reqs].tolist()
            causal = True if all(causal) else causal

        if common.max_query_len == 1:
            state = AscendAttentionState.DECODE
        elif torch.equal(query_lens, seq_lens):
            state = AscendAttentionState.PREFILL_NO_CACHE
        else:
            state = AscendAttentionState.MIXED
        return AscendMetadata(
            num_actual_tokens=num_tokens,
            state=state,
            seq_lens=seq_lens,
            query_lens=query_lens,
            seq_lens_list=seq_lens.tolist(),
            max_seq_len=int(seq_lens.max()) if num_reqs else 0,
            cum_query_lens=ends[:num_reqs].tolist(),
            block_table=block_table[:num_reqs],
            slot_mapping=self._slots(slot_mapping)[:num_tokens],
            attn_mask=self.attn_mask,
            causal=causal,
            mm_prefix_range=getattr(common, "mm_req_doc_ranges", None),
        )

    def _slots(self, slot_mapping: torch.Tensor) -> torch.Tensor:
        """Slots as operators take them, where captured graphs look for them.

        Once for all layers, and padding of a graph that is longer than this
        batch is not left with the slots of an earlier one.
        """
        slots, unused = self.slots, self.unused_slots
        slot_mapping = slot_mapping[: slots.shape[0]]
        num_slots = slot_mapping.shape[0]
        if uses_nnal():
            slots[:num_slots].copy_(slot_mapping)
        else:
            kept = slot_mapping.to(torch.int32)
            torch.where(kept < 0, unused[:num_slots], kept, out=slots[:num_slots])
        slots[num_slots:].copy_(unused[num_slots:])
        return slots

    def _host_seq_lens(self, common: CommonAttentionMetadata) -> torch.Tensor:
        # npu-migrate: when common_metadata_has_exact_host_lengths
        if self.speculates:
            # Proposers lengthen requests on the device alone, and leave the host
            # the lengths of before.
            return common.seq_lens.cpu()
        return common.seq_lens_cpu
        # npu-migrate: end
        # npu-migrate: when builders_take_the_runner
        return self.runner.seq_lens_cpu
        # npu-migrate: end
        # npu-migrate: when common_metadata_only_bounds_host_lengths
        if self.speculates or common.seq_lens_cpu_upper_bound is None:
            # The host only knows an upper bound while drafts are in flight.
            return common.seq_lens.cpu()
        return common.seq_lens_cpu_upper_bound
        # npu-migrate: end


def _max_batch_tokens(vllm_config: VllmConfig) -> int:
    """Tokens of the longest batch, padding to the size of a graph included."""
    sizes = vllm_config.compilation_config.cudagraph_capture_sizes or [0]
    return max(vllm_config.scheduler_config.max_num_batched_tokens, *sizes)


@cache
def no_softmax_lse(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """What the fused operator is given for a result that nobody wants."""
    return torch.empty(1, dtype=dtype, device=device)


def write_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """Write a batch's keys and values to their slots.

    Args:
        key: [num_tokens, num_kv_heads, size], contiguous.
        value: as `key`; its size may be another.
        key_cache: [num_blocks, block_size, num_kv_heads, size]
        value_cache: as `key_cache`, of the size of values.
        slot_mapping: [num_tokens], block * block_size + offset.

    """
    # Those of the builder are int32: nothing is copied.
    slots = slot_mapping.to(torch.int32)
    if uses_nnal():
        torch_npu._npu_reshape_and_cache(
            key=key,
            value=value,
            key_cache=key_cache,
            value_cache=value_cache,
            slot_indices=slots,
        )
        return
    if _scatter_takes_cache_mode():
        # The default cache mode is a fractal layout, not these buffers'.
        torch_npu.npu_scatter_pa_kv_cache(
            key, value, key_cache, value_cache, slots, cache_mode="Norm"
        )
    else:
        for cache, tokens in ((key_cache, key), (value_cache, value)):
            torch_npu.npu_scatter_nd_update_(
                cache.flatten(0, 1), slots.unsqueeze(1), tokens
            )


def _current_config() -> VllmConfig | None:
    # Some releases answer None, others assert that there is a configuration.
    try:
        return get_current_vllm_config()
    except AssertionError:
        return None


def model_refusals() -> Iterator[str]:
    """What of the model as a whole the operators do not take, in words."""
    config = _current_config()
    if config is None or config.model_config is None:
        return
    max_model_len = config.model_config.max_model_len
    if max_model_len is not None and max_model_len > MAX_CONTEXT:
        yield (
            f"contexts of {max_model_len} tokens (at most {MAX_CONTEXT}: set "
            "--max-model-len)"
        )
    block_size = max(config.cache_config.block_size or 0, KERNEL_BLOCK_SIZE)
    if reason := chunk_reason(config.model_config, block_size):
        yield reason


def _sees_later_tokens() -> bool:
    """Whether some tokens of this model see later ones."""
    config = _current_config()
    if config is None:
        return False
    return bool(
        getattr(config.model_config, "is_mm_prefix_lm", False)
        or getattr(getattr(config, "attention_config", None), "use_non_causal", False)
    )


class AscendAttentionImpl(AttentionImpl):
    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        # npu-migrate: when attention_takes_blocksparse_params
        blocksparse_params: dict[str, Any] | None = None,
        # npu-migrate: end
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        **extra_impl_args,
    ):
        # A string in some releases, an enumeration with these values in others.
        kind = getattr(attn_type, "value", attn_type)
        unsupported = [
            name
            for name, used in {
                "ALiBi": alibi_slopes is not None,
                # npu-migrate: when attention_takes_blocksparse_params
                "block-sparse attention": blocksparse_params is not None,
                # npu-migrate: end
                "a logits soft cap": bool(logits_soft_cap),
                f"attention of type {kind}": attn_type != AttentionType.DECODER,
                f"a KV cache of {kv_cache_dtype}": kv_cache_dtype
                not in ("auto", "float16", "bfloat16"),
                "attention sinks": extra_impl_args.get("sinks") is not None,
            }.items()
            if used
        ]
        unsupported += model_refusals()
        if unsupported:
            raise NotImplementedError(
                f"NPU attention does not support {', '.join(unsupported)}."
            )
        group = num_heads // (num_kv_heads or num_heads)
        missing = refusal(
            torch.get_default_dtype(),
            head_size,
            group,
            sliding_window,
            _sees_later_tokens(),
        )
        if missing is not None:
            raise NotImplementedError(f"NPU attention needs {missing}.")
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.sliding_window = sliding_window
        self.kv_cache_dtype = kv_cache_dtype
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.nnal = uses_nnal()
        self.group = group

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        attn_metadata: AscendMetadata,
        output: torch.Tensor | None = None,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write the batch's keys and values to the cache, then attend.

        Args:
            layer: the attention layer.
            query: [num_tokens, num_heads, head_size]
            key: [num_tokens, num_kv_heads, head_size]; None or of no interest if
                the layer reads the cache of another one.
            value: as `key`.
            kv_cache: as of `split_kv_cache`.
            attn_metadata: of the batch; None while memory is profiled.
            output: [num_tokens, num_heads, head_size], written in place.
            output_scale: of a quantized output, which is refused.
            output_block_scale: as `output_scale`.

        """
        assert output is not None, "the caller provides the output buffer"
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("NPU attention does not quantize its output.")
        if attn_metadata is None:
            # A profiling run has no batch.
            return output.fill_(0)
        num_tokens = attn_metadata.num_actual_tokens
        if num_tokens == 0:
            return output.fill_(0)
        query, out = query[:num_tokens].contiguous(), output[:num_tokens]
        key_cache, value_cache = split_kv_cache(kv_cache)
        shares_cache = self.kv_sharing_target_layer_name is not None
        if not shares_cache:
            key = key[:num_tokens].contiguous()
            value = value[:num_tokens].contiguous()
            write_cache(key, value, key_cache, value_cache, attn_metadata.slot_mapping)

        state = attn_metadata.state
        graph = NPUGraph.recording
        unfit = fused_refusal(
            query.dtype, self.head_size, self.group, self.sliding_window
        )
        calls = self._fused_calls(layer, attn_metadata, key_cache.shape[1])
        if graph is not None:
            self._capture(
                graph, layer, query, key_cache, value_cache, attn_metadata, out
            )
        elif calls is not None:
            if unfit is not None:
                raise NotImplementedError(
                    f"NPU attention needs {unfit}, where tokens see later ones."
                )
            for call in calls:
                self._fused_pieces(
                    call, query, key_cache, value_cache, attn_metadata, out
                )
        elif not self.nnal or self.sliding_window is not None:
            self._fused_infer(query, key_cache, value_cache, attn_metadata, out)
        elif state is AscendAttentionState.DECODE:
            torch_npu._npu_paged_attention(
                query=query,
                key_cache=key_cache,
                value_cache=value_cache,
                num_kv_heads=self.num_kv_heads,
                num_heads=self.num_heads,
                scale_value=self.scale,
                block_table=attn_metadata.block_table,
                context_lens=attn_metadata.seq_lens,
                out=out,
            )
        elif (
            state is AscendAttentionState.PREFILL_NO_CACHE
            and not shares_cache
            and attn_metadata.max_seq_len <= MASK_SIZE
        ):
            torch_npu._npu_flash_attention(
                query=query,
                key=key,
                value=value,
                mask=_causal_mask(query.device, query.dtype),
                seq_len=attn_metadata.seq_lens,
                scale_value=self.scale,
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                out=out,
            )
        elif unfit is None:
            self._fused_infer(query, key_cache, value_cache, attn_metadata, out)
        else:
            # Decodes in the batch are prefills of one token here.
            torch_npu._npu_flash_attention_qlens(
                query=query,
                key_cache=key_cache,
                value_cache=value_cache,
                block_table=attn_metadata.block_table,
                mask=_prefix_mask(query.device, query.dtype),
                seq_len=attn_metadata.query_lens,
                context_lens=attn_metadata.seq_lens,
                num_kv_heads=self.num_kv_heads,
                num_heads=self.num_heads,
                scale_value=self.scale,
                out=out,
            )
        return output

    def _capture(
        self,
        graph: NPUGraph,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
        out: torch.Tensor,
    ) -> None:
        """Capture a decode step with lengths that can change between replays."""
        # Nothing may be allocated while lengths are changed, and a strong
        # reference would keep the graph's memory from being used again.
        arguments = self._fused_arguments(key_cache, value_cache, attn_metadata)
        seq_lens = arguments.pop("actual_seq_lengths_kv")
        # Layers run one after the other: those that ask for the same share it.
        asked = (query.shape, query.dtype, self.num_kv_heads, self.sliding_window)
        if asked not in graph.workspaces:
            graph.workspaces[asked] = (
                torch_npu._npu_fused_infer_attention_score_get_max_workspace(
                    query=query, actual_seq_lengths_kv=seq_lens, **arguments
                )
            )
        no_lse = no_softmax_lse(query.device, query.dtype)
        query, out = weak_ref_tensor(query), weak_ref_tensor(out)

        def launch(lengths: list[int]) -> None:
            torch_npu.npu_fused_infer_attention_score.out(
                query=query,
                actual_seq_lengths_kv=lengths,
                workspace=graph.workspaces[asked],
                out=[out, no_lse],
                **arguments,
            )

        # Every request of a captured batch has as many new tokens.
        query_len = arguments["actual_seq_lengths"][0]
        graph.add_attention(
            layer.layer_name, seq_lens, query_len, arguments["block_table"], launch
        )

    def _fused_calls(
        self, layer: torch.nn.Module, attn_metadata: AscendMetadata, block_size: int
    ) -> list[FusedCall] | None:
        """The calls of a batch in which tokens see later ones, else None."""
        clamp = getattr(layer, "mm_prefix_clamp_sliding_window", False)
        if attn_metadata.state is AscendAttentionState.DECODE and (
            self.sliding_window is None or clamp
        ):
            # A request's only new token is its last.
            return None
        key = (self.sliding_window, clamp)
        if key not in attn_metadata.calls:
            attn_metadata.calls[key] = fused_calls(attn_metadata, *key, block_size)
        return attn_metadata.calls[key]

    def _fused_pieces(
        self,
        call: FusedCall,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
        out: torch.Tensor,
    ) -> None:
        arguments = self._fused_arguments(key_cache, value_cache, attn_metadata)
        arguments |= call.mask._asdict()
        arguments["actual_seq_lengths"] = call.cum_query_lens
        arguments["actual_seq_lengths_kv"] = call.seq_lens
        arguments["block_table"] = call.block_table
        if call.mask.sparse_mode == UNMASKED:
            del arguments["atten_mask"]
        if call.key_slots is not None:
            del arguments["block_table"], arguments["block_size"]
            arguments["key"] = key_cache.flatten(0, 1)[call.key_slots]
            arguments["value"] = value_cache.flatten(0, 1)[call.key_slots]
        result, _ = torch_npu.npu_fused_infer_attention_score(
            query=query[call.rows], **arguments
        )
        out[call.rows] = result

    def _fused_infer(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
        out: torch.Tensor,
    ) -> None:
        torch_npu.npu_fused_infer_attention_score.out(
            query=query,
            out=[out, no_softmax_lse(query.device, query.dtype)],
            **self._fused_arguments(key_cache, value_cache, attn_metadata),
        )

    def _fused_arguments(
        self,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
    ) -> dict[str, Any]:
        """All arguments of `npu_fused_infer_attention_score` but the query."""
        num_blocks, block_size = key_cache.shape[:2]
        window = self.sliding_window
        # A token sees itself and window - 1 tokens before it.
        mask = Mask(CAUSAL) if window is None else Mask(BAND, window - 1, 0)
        return {
            "key": key_cache.view(num_blocks, block_size, -1),
            "value": value_cache.view(num_blocks, block_size, -1),
            "atten_mask": attn_metadata.attn_mask,
            "block_table": attn_metadata.block_table,
            "input_layout": "TND",
            "block_size": block_size,
            "actual_seq_lengths": attn_metadata.cum_query_lens,
            "actual_seq_lengths_kv": attn_metadata.seq_lens_list,
            "num_key_value_heads": self.num_kv_heads,
            "num_heads": self.num_heads,
            "scale": self.scale,
            **mask._asdict(),
        }
