# SPDX-License-Identifier: Apache-2.0
"""The attention backend of an emitted tree over the operators, against dense attention in float32.

`EMITTED_TREE` holds the modules under test. Every other module of vLLM is a stub with the few names
that these need.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch_npu

from ascend_sim.operators import _rules

TREE = Path(os.environ["EMITTED_TREE"])
NPU = torch.device("npu", 0)
BLOCK = 128
TOLERANCE = {torch.bfloat16: 0.03, torch.float16: 0.004}


class Config(types.SimpleNamespace):
    """Has every attribute: None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class Anything(type):
    """Of classes that stand for a type: an annotation, a base."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __or__(cls, _: Any) -> Any:
        return cls

    def __getitem__(cls, _: Any) -> Any:
        return cls


class Nothing(metaclass=Anything):
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 0


class Stub(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return NAMES.get(f"{self.__name__}.{name}", NAMES.get(name, Nothing))


weakened: list[torch.Tensor] = []
context = Config()
config = Config(
    model_config=Config(max_model_len=1024, hf_config=Config(), hf_text_config=Config()),
    cache_config=Config(block_size=BLOCK),
)


def weaken(tensor: torch.Tensor) -> torch.Tensor:
    weakened.append(tensor)
    return tensor


NAMES: dict[str, Any] = {
    "VLLM_NPU_USE_NNAL": None,
    "VLLM_NPU_ALLOW_FLOAT32": False,
    "VLLM_NPU_SYNCHRONIZE_STEPS": True,
    "get_current_vllm_config": lambda: config,
    "get_current_vllm_config_or_none": lambda: None,
    "get_dcp_world_size_and_rank": lambda *_: (1, 0),
    "get_forward_context": lambda: context,
    "weak_ref_tensor": weaken,
}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != "vllm":
            return None
        file = TREE / (fullname.replace(".", "/") + ".py")
        if file.is_file():
            return importlib.util.spec_from_file_location(fullname, file)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def platform_with_the_selectors_question() -> type:
    """vLLM's `Platform` with the release's own `get_attn_backend_cls` and nothing else."""
    tree = ast.parse((TREE / "vllm/platforms/interface.py").read_text(encoding="utf-8"))
    (platform,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Platform"]
    platform.bases, platform.keywords = [], []
    platform.body = [
        n
        for n in platform.body
        if isinstance(n, ast.FunctionDef) and n.name == "get_attn_backend_cls"
    ]
    space: dict[str, Any] = {}
    future = ast.parse("from __future__ import annotations").body
    code = ast.fix_missing_locations(ast.Module([*future, platform], []))
    exec(compile(code, "interface.py", "exec"), space)
    found: type = space["Platform"]
    return found


sys.meta_path.insert(0, Finder())
NAMES["vllm.platforms.interface.Platform"] = platform_with_the_selectors_question()
stub = Stub("vllm.platforms.interface")
sys.modules["vllm.platforms.interface"] = stub
A = importlib.import_module("vllm.v1.attention.backends.ascend_attn")
NPUGraph = importlib.import_module("vllm.compilation.npu_graph").NPUGraph
State = A.AscendAttentionState


@contextmanager
def machine(nnal: bool | None = None, cann: tuple[int, int] | None = None) -> Iterator[None]:
    """With or without NNAL, and with another version of CANN."""
    version = A.cann_version
    envs = importlib.import_module("vllm.envs")
    envs.VLLM_NPU_USE_NNAL = nnal  # type: ignore[attr-defined]
    A.uses_nnal.cache_clear()
    A.fused_refusal.cache_clear()
    if cann is not None:
        setattr(A, "cann_version", lambda: cann)  # noqa: B010 - a name that mypy knows of no module
    try:
        yield
    finally:
        setattr(A, "cann_version", version)  # noqa: B010
        envs.VLLM_NPU_USE_NNAL = None  # type: ignore[attr-defined]
        A.uses_nnal.cache_clear()
        A.fused_refusal.cache_clear()


@contextmanager
def calls_of(*names: str) -> Iterator[list[str]]:
    """Notes which of torch_npu's operators are called."""
    called: list[str] = []
    kept = {name: getattr(torch_npu, name) for name in names}

    def noting(name: str) -> Callable[..., Any]:
        def operator(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return kept[name](*args, **kwargs)

        return operator

    for name in names:
        setattr(torch_npu, name, noting(name))
    try:
        yield called
    finally:
        for name, operator in kept.items():
            setattr(torch_npu, name, operator)


def dense(q: Any, k: Any, v: Any, seen: torch.Tensor) -> torch.Tensor:
    """Attention of one request in float32; `seen` is [queries, keys]."""
    group = q.shape[1] // k.shape[1]
    k, v = (t.float().repeat_interleave(group, 1) for t in (k, v))
    weights = torch.einsum("qhd,khd->hqk", q.float(), k) * q.shape[2] ** -0.5
    weights = weights.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def seen_by(
    new: int,
    total: int,
    causal: bool,
    ranges: list[tuple[int, int]],
    window: int | None,
    clamp: bool,
) -> torch.Tensor:
    q, k = torch.arange(total - new, total)[:, None], torch.arange(total)[None]
    if not causal:
        return (q - k).abs() < (window or total)
    seen = (k <= q) & (q - k < (window or total))
    for first, last in ranges:
        both = (q >= first) & (q <= last) & (k >= first) & (k <= last)
        seen |= both & (q - k < window) if clamp and window else both
    return seen


class Batch:
    """Requests, each with new tokens and a context, in the cache and beside it."""

    def __init__(
        self,
        requests: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.bfloat16,
        heads: int = 4,
        kv_heads: int = 2,
        size: int = 64,
        written: bool = False,
    ) -> None:
        """`requests`: new tokens and all tokens; `written`: the new ones are in the cache."""
        torch.manual_seed(0)
        self.requests, self.dtype = requests, dtype
        self.heads, self.kv_heads, self.size = heads, kv_heads, size
        counts = [-(-total // BLOCK) for _, total in requests]
        self.table = torch.zeros(len(requests), max(counts), dtype=torch.int32)
        blocks = (torch.randperm(sum(counts)) + 1).split(counts)
        caches = torch.zeros(2, sum(counts) + 1, BLOCK, kv_heads, size, dtype=dtype)
        self.q: list[torch.Tensor] = []
        self.k: list[torch.Tensor] = []
        self.v: list[torch.Tensor] = []
        slots = []
        for row, own, (new, total) in zip(self.table, blocks, requests, strict=True):
            row[: len(own)] = own
            self.q.append(torch.randn(new, heads, size).to(dtype))
            position = torch.arange(total)
            slot = own[position // BLOCK] * BLOCK + position % BLOCK
            for cache, kept in ((caches[0], self.k), (caches[1], self.v)):
                kept.append(torch.randn(total, kv_heads, size).to(dtype))
                there = total if written else total - new
                cache.view(-1, kv_heads, size)[slot[:there]] = kept[-1][:there]
            slots.append(slot[total - new :])
        self.slots = torch.cat(slots).to(torch.int32)
        self.caches = (caches[0].npu(), caches[1].npu())

    def metadata(self, **more: Any) -> Any:
        new, total = torch.tensor(self.requests, dtype=torch.int32).unbind(1)
        state = State.MIXED
        if new.max() == 1:
            state = State.DECODE
        elif torch.equal(new, total):
            state = State.PREFILL_NO_CACHE
        return A.AscendMetadata(
            num_actual_tokens=int(new.sum()),
            state=state,
            seq_lens=total.contiguous(),
            query_lens=new.contiguous(),
            seq_lens_list=total.tolist(),
            max_seq_len=int(total.max()),
            cum_query_lens=new.cumsum(0).tolist(),
            block_table=self.table.npu(),
            slot_mapping=self.slots.npu(),
            attn_mask=A._causal_mask(NPU, torch.int8),
            **more,
        )

    def layer(self, window: int | None = None, **more: Any) -> Any:
        return A.AscendAttentionImpl(
            self.heads, self.size, self.size**-0.5, self.kv_heads, sliding_window=window, **more
        )

    def attend(self, layer: Any, metadata: Any, clamp: bool = False, junk: bool = False) -> Any:
        """What a layer makes of the batch; `junk`: its own keys and values are nonsense."""
        own = [
            torch.cat([t[-new:] for t, (new, _) in zip(kept, self.requests, strict=True)])
            for kept in (self.k, self.v)
        ]
        if junk:
            own = [torch.randn_like(t) for t in own]
        query = torch.cat(self.q).npu()
        module = types.SimpleNamespace(layer_name="0", mm_prefix_clamp_sliding_window=clamp)
        out = torch.full_like(query, float("nan"))
        layer.forward(module, query, own[0].npu(), own[1].npu(), self.caches, metadata, out)
        return out

    def same(
        self,
        got: torch.Tensor,
        causal: bool | list[bool] = True,
        ranges: dict[int, list[tuple[int, int]]] | None = None,
        window: int | None = None,
        clamp: bool = False,
    ) -> None:
        want = [
            dense(
                self.q[i],
                self.k[i],
                self.v[i],
                seen_by(
                    new,
                    total,
                    causal if isinstance(causal, bool) else causal[i],
                    (ranges or {}).get(i, []),
                    window,
                    clamp,
                ),
            )
            for i, (new, total) in enumerate(self.requests)
        ]
        bound = TOLERANCE[self.dtype]
        torch.testing.assert_close(got.cpu().float(), torch.cat(want), rtol=0, atol=bound)


BATCHES = (
    ((200, 200), (20, 20), (205, 205)),
    ((200, 200), (20, 150), (5, 300)),
    ((60, 160), (10, 10), (1, 40)),
)
RANGES = {0: [(3, 30), (100, 180)], 1: [(0, 12)], 2: [(30, 39), (296, 298)]}


def check_every_batch_under_both_sets_of_operators() -> None:
    for nnal in (True, False):
        with machine(nnal):
            for requests in (*BATCHES, ((1, 200), (1, 20), (1, 129))):
                for window in (None, 8, 64):
                    batch = Batch(requests)
                    batch.same(batch.attend(batch.layer(window), batch.metadata()), window=window)


def check_tokens_that_see_later_ones_of_their_range() -> None:
    for nnal in (True, False):
        with machine(nnal):
            for requests in BATCHES:
                for window, clamp in ((None, False), (8, False), (8, True), (64, False)):
                    batch = Batch(requests)
                    metadata = batch.metadata(mm_prefix_range=RANGES)
                    got = batch.attend(batch.layer(window), metadata, clamp)
                    batch.same(got, ranges=RANGES, window=window, clamp=clamp)


def check_batches_that_are_not_causal() -> None:
    for causal in (False, [True, False, True]):
        for requests in BATCHES:
            for window in (None, 8):
                batch = Batch(requests)
                got = batch.attend(batch.layer(window), batch.metadata(causal=causal))
                batch.same(got, causal=causal, window=window)


def check_a_shared_cache_is_what_a_layer_attends_to() -> None:
    for nnal in (True, False):
        with machine(nnal):
            for requests in (*BATCHES, ((1, 200), (1, 20))):
                batch = Batch(requests, written=True)
                before = [cache.clone() for cache in batch.caches]
                layer = batch.layer(kv_sharing_target_layer_name="another")
                batch.same(batch.attend(layer, batch.metadata(), junk=True))
                assert all(map(torch.equal, before, batch.caches))


def check_float16_before_cann_85_goes_to_nnal() -> None:
    names = ("_npu_flash_attention_qlens", "_npu_flash_attention")
    for cann, wanted in (((8, 3), [names[0]]), ((8, 5), [])):
        with machine(True, cann), calls_of(*names) as called:
            batch = Batch(BATCHES[1], torch.float16, size=128)
            batch.same(batch.attend(batch.layer(), batch.metadata()))
        assert called == wanted, (cann, called)


def check_what_the_fused_operator_takes() -> None:
    half, bf16 = torch.float16, torch.bfloat16
    for cann, dtype, size, group, window, takes in (
        ((8, 5), bf16, 64, 1, None, True),
        ((8, 5), half, 128, 64, 4, True),
        ((8, 5), bf16, 192, 1, None, True),
        ((8, 5), bf16, 192, 2, None, False),
        ((8, 5), bf16, 192, 1, 4, False),
        ((8, 5), bf16, 96, 1, None, False),
        ((8, 3), half, 128, 1, None, False),
        ((8, 3), bf16, 128, 1, None, True),
        ((8, 3), bf16, 64, 1, None, False),
        ((8, 2), bf16, 128, 1, None, False),
        ((9, 0), half, 64, 8, None, True),
    ):
        with machine(cann=cann):
            refused = A.fused_refusal(dtype, size, group, window)
        assert (refused is None) == takes, (cann, dtype, size, group, window, refused)


def refusal_of(build: Callable[[], Any]) -> str:
    try:
        build()
    except (NotImplementedError, ValueError) as error:
        text = str(error)
        assert "\n" not in text
        return text
    return ""


def check_the_port_refuses_what_the_rules_of_the_operator_do() -> None:
    operator = "npu::npu_fused_infer_attention_score"
    for cann, dtype, size, group, window in itertools.product(
        ((8, 2), (8, 3), (8, 5), (9, 1)),
        (torch.bfloat16, torch.float16),
        (64, 80, 128, 192, 256),
        (1, 2),
        (None, 16),
    ):
        facts = {
            "layout": "TND",
            "rotated": False,
            "paged": True,
            "sink": False,
            "dtype": str(dtype).removeprefix("torch."),
            "query_size": size,
            "value_size": size,
            "sizes": (size, size),
            "group": group,
            "sparse_mode": 3 if window is None else 4,
            "block_size": BLOCK,
        }
        rules = _rules.holding(operator, f"{cann[0]}.{cann[1]}.0", "Ascend910B3")
        broken = [text for _, text in _rules.refusals(rules, facts)]
        with machine(cann=cann):
            refused = A.fused_refusal(dtype, size, group, window)
        assert bool(broken) == (refused is not None), (cann, facts, broken, refused)


def check_layers_that_no_operator_takes_are_refused_when_they_are_made() -> None:
    attention = A.AscendAttentionImpl
    for nnal, cann, arguments, message in (
        (True, (8, 5), (71, 64, 1.0, 1), "at most 64 query heads of a key's head, not 71"),
        (False, (8, 5), (4, 192, 1.0, 2), "heads of 192, without NNAL"),
        (True, (8, 5), (4, 192, 1.0, 4, None, 8), "heads of 64 or 128 for a sliding window"),
        (True, (8, 5), (4, 72, 1.0, 4), "a head size that is a multiple of 16"),
        (True, (8, 5), (4, 96, 1.0, 4, None, 8), "not 96, with a sliding window"),
        (True, (8, 5), (4, 128, 1.0, 4, None, 0), "a sliding window of at least a token, not 0"),
        (False, (8, 3), (4, 64, 1.0, 4), "CANN 8.5 or newer for heads of 64"),
    ):
        with machine(nnal, cann):
            found = refusal_of(lambda given=arguments: attention(*given))  # type: ignore[misc]
        assert message in found, (arguments, found)
    with machine(True):
        attention(4, 96, 1.0, 4)
        attention(4, 192, 1.0, 2)
    torch.set_default_dtype(torch.float16)
    try:
        with machine(False, (8, 3)):
            found = refusal_of(lambda: attention(4, 128, 1.0, 4))
        assert "bfloat16 on CANN before 8.5 (this is 8.3), not float16" in found
    finally:
        torch.set_default_dtype(torch.float32)


def check_models_that_no_operator_takes_are_refused() -> None:
    model = config.model_config
    text = model.hf_text_config
    for told, name, value, message in (
        (model, "max_model_len", 262145, "contexts of 262145 tokens (at most 262144"),
        (text, "attention_chunk_size", 100, "in chunks of 100 tokens"),
    ):
        before = getattr(told, name, None)
        setattr(told, name, value)
        found = refusal_of(lambda: A.AscendAttentionImpl(4, 64, 1.0, 4))
        setattr(told, name, before)
        assert message in found, found
    model.max_model_len = 262144
    A.AscendAttentionImpl(4, 64, 1.0, 4)


def check_the_selector_gets_an_answer() -> None:
    platform = importlib.import_module("vllm.platforms.npu").NPUPlatform
    import inspect

    names = list(inspect.signature(platform.__mro__[1].get_attn_backend_cls).parameters)[1:]
    plain = {
        "head_size": 128,
        "dtype": torch.bfloat16,
        "kv_cache_dtype": "auto",
        "block_size": BLOCK,
        "use_v1": True,
    }

    def ask(**more: Any) -> str:
        asked = {**plain, **more}
        if names[0] == "attn_selector_config":
            tuple_ = types.SimpleNamespace(_asdict=lambda: asked)
            found: str = platform.get_attn_backend_cls(None, attn_selector_config=tuple_)
        else:
            given = [asked.get(name, False) for name in names if name != "attn_type"]
            unknown = set(more) - set(names)
            if unknown:
                return "unasked"
            found = platform.get_attn_backend_cls(None, *given)
        return found

    assert ask().endswith("AscendAttentionBackend")
    for more, message in (
        ({"head_size": 72}, "its heads (it needs a head size"),
        ({"dtype": torch.float32}, "float32"),
        ({"kv_cache_dtype": "fp8"}, "a KV cache of fp8"),
        ({"block_size": 64}, "blocks of 64 tokens"),
        ({"use_v1": False}, "the V0 engine"),
        ({"has_sink": True}, "attention sinks"),
        ({"use_sparse": True}, "sparse attention"),
        ({"use_per_head_quant_scales": True}, "quantization scales of each head"),
        ({"attn_type": "encoder_only"}, "attention of type encoder_only"),
        ({"use_rswa": True}, "a rotating sliding window"),
        ({"use_batch_invariant": True}, "batch invariance"),
        ({"use_pcp": True}, "prefill context parallelism"),
        ({"use_dcp": True}, "decode context parallelism"),
        ({"use_adaptive_verification": True}, "adaptive verification"),
        ({"use_mm_prefix": True, "head_size": 256}, "where tokens see later ones"),
        ({"use_what_nobody_knows": True}, "use_what_nobody_knows"),
        ({"has_sink": True, "use_sparse": True}, "sinks, sparse"),
    ):
        answers: list[str] = []
        found = refusal_of(lambda m=more, a=answers: a.append(ask(**m)))  # type: ignore[misc]
        if answers != ["unasked"]:
            assert found.startswith("NPU attention does not support "), (more, answers)
            assert message in found, (more, found)
    for more in (
        {"use_mm_prefix": True},
        {"use_non_causal": True},
        {"use_kv_connector": True},
        {"use_what_nobody_knows": 0},
    ):
        assert "unasked" in (answer := ask(**more)) or answer.endswith("AscendAttentionBackend")


def check_slots_are_converted_once_where_graphs_read_them() -> None:
    for nnal, padding in ((True, [-1, -1, -1]), (False, [2, 3, 4])):
        with machine(nnal):
            builder = object.__new__(A.AscendMetadataBuilder)
            builder.vllm_config = Config()
            sizes = Config(max_num_batched_tokens=8)
            builder._prepare(NPU, Config(scheduler_config=sizes, compilation_config=Config()))
            for slots in ([130, 131, 300, 301, 302], [140, 310]):
                ends = [0, len(slots) - 1, len(slots), len(slots)]
                lengths = torch.tensor([12, 50, 0], dtype=torch.int32)
                common = Config(
                    num_reqs=3,
                    num_actual_tokens=len(slots),
                    max_query_len=len(slots) - 1,
                    query_start_loc_cpu=torch.tensor(ends, dtype=torch.int32),
                    seq_lens_cpu=lengths,
                    seq_lens_cpu_upper_bound=lengths,
                    block_table_tensor=torch.zeros(3, 1, dtype=torch.int32, device=NPU),
                    slot_mapping=torch.tensor(slots, device=NPU),
                    causal=torch.tensor([True, False, True]),
                )
                found = builder.build(0, common)
                assert found.slot_mapping.dtype == torch.int32
                assert found.slot_mapping.tolist() == slots
                assert found.slot_mapping.data_ptr() == builder.slots.data_ptr()
                assert found.seq_lens_list == [12, 50]
                assert found.causal == [True, False]
            assert builder.slots[2:5].tolist() == padding, "slots of the longer batch are left"


def check_a_full_graph_takes_new_lengths_and_pads() -> None:
    captured = Batch([(1, 5)] * 4)
    caches = captured.caches
    layer = captured.layer()
    table = torch.full((4, 2), 3, dtype=torch.int32, device=NPU)
    query = torch.zeros(4, 4, 64, dtype=torch.bfloat16, device=NPU)
    key, value = (torch.zeros(4, 2, 64, dtype=torch.bfloat16, device=NPU) for _ in range(2))
    slots = torch.full((4,), -1, dtype=torch.int32, device=NPU)
    out = torch.zeros_like(query)
    metadata = captured.metadata()
    metadata.block_table, metadata.slot_mapping = table, slots
    module = types.SimpleNamespace(layer_name="0")
    graph = NPUGraph()
    with torch.npu.graph(graph):
        for _ in range(2):
            layer.forward(module, query, key, value, caches, metadata, out)
    (workspace,) = graph.workspaces.values()
    assert any(tensor is workspace for tensor in weakened), "the graph keeps its workspace"
    lengths: list[list[int]] = []
    for task in graph.tasks:
        launch = task.launch

        def noted(given: list[int], launch: Callable[[list[int]], None] = launch) -> None:
            lengths.append(given)
            launch(given)

        task.launch = noted
    # Each step has lengths that the last one had not.
    for given in (Batch([(1, 200), (1, 77)]), Batch([(1, 9), (1, 150)])):
        for cache, new in zip(caches, given.caches, strict=True):
            cache[: len(new)] = new
        context.attn_metadata = {"0": given.metadata()}
        query[:2] = torch.cat(given.q).npu()
        key[:2], value[:2] = (
            torch.cat([t[-1:] for t in kept]).npu() for kept in (given.k, given.v)
        )
        slots[:2] = given.slots.npu()
        table[:2], table[2:] = given.table.npu(), 10**6
        out.fill_(float("nan"))
        graph.replay()
        given.same(out[:2])
        assert not out.isnan().any()
    assert lengths == [[200, 77, 1, 1]] * 2 + [[9, 150, 1, 1]] * 2


def check_pieces_wait_once_a_step_unless_they_are_told_not_to() -> None:
    global context
    envs = importlib.import_module("vllm.envs")
    number = torch.ones(8, device=NPU)
    pieces = [NPUGraph(), NPUGraph()]
    for piece in pieces:
        with torch.npu.graph(piece):
            number += 1
    waits: list[int] = []
    synchronize = torch.npu.Stream.synchronize

    def counted(stream: Any) -> None:
        waits[-1] += 1
        synchronize(stream)

    kept = context
    torch.npu.Stream.synchronize = counted
    try:
        for wanted in (True, False):
            envs.VLLM_NPU_SYNCHRONIZE_STEPS = wanted  # type: ignore[attr-defined]
            for _ in range(3):
                context = Config()
                waits.append(0)
                for piece in pieces:
                    piece.replay()
    finally:
        torch.npu.Stream.synchronize = synchronize
        envs.VLLM_NPU_SYNCHRONIZE_STEPS = True  # type: ignore[attr-defined]
        context = kept
    assert waits == [1, 1, 1, 0, 0, 0], waits
    assert (number == 13).all()
