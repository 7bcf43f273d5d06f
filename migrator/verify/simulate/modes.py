# SPDX-License-Identifier: Apache-2.0
"""The ways in which a model is run: what the engine is told and what has to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from migrator.verify.simulate.models import BATCHED_TOKENS, MAX_MODEL_LENGTH, MAX_RANK

DEVICE_MEMORY = "256MiB"
"""Memory of a simulated device: little, so that the cache's size comes from real profiling."""

ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": MAX_MODEL_LENGTH,
    "max_num_batched_tokens": BATCHED_TOKENS,
    "max_num_seqs": 8,
    "enable_prefix_caching": True,
    "gpu_memory_utilization": 0.6,
    "seed": 0,
}
"""Arguments of `vllm.LLM` in every mode."""


@dataclass(frozen=True)
class Mode:
    """One way to run.

    `collectives`: of each set, one has to be called, on device tensors over HCCL.
    `operators`: fused operators that this mode has to reach beside those of the model.
    `adapters`: slots for LoRA adapters; with some, requests with and without adapters take the
    place of all others.
    """

    name: str
    summary: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    devices: int = 1
    multiprocess: bool = False
    graphs: bool = False
    collectives: tuple[tuple[str, ...], ...] = ()
    operators: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[str, ...] = ()
    ray: bool = False
    """Whether the workers, or the engines of a server, are actors of a Ray cluster."""
    nnal: bool = True
    """Whether NNAL is installed on the machine."""
    adapters: int = 0
    draft: str = ""
    """What makes drafts for speculative decoding, a key of DRAFTS; nothing if it is empty."""
    connector: str = ""
    """What a KV connector is put to, a key of `connectors.PROOFS`; nothing if it is empty."""
    triton: bool = False
    """Whether Triton has an NPU on the machine, by its interpreter."""

    @property
    def runner_v2(self) -> bool:
        """Whether the run asks for model runner V2."""
        return self.variables.get(RUNNER_VARIABLE) == "1"

    @property
    def dtype(self) -> str:
        """The dtype of the run; tokens of float32 are compared exactly, others by their logits."""
        return str(self.engine.get("dtype", ENGINE["dtype"]))

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the process that makes the engine."""
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if self.multiprocess else "0",
            **self.variables,
        }


RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"

SET_FOR_WORKERS = {"HCCL_CONNECT_TIMEOUT": "601", "ASCEND_GLOBAL_LOG_LEVEL": "3"}
"""What a run over Ray sets for vLLM and not for the cluster: workers get it from vLLM or not."""
_EAGER = {"enforce_eager": True}
_FUSED_ATTENTION = (("npu_fused_infer_attention_score", "npu_fused_infer_attention_score_v2"),)
_NNAL = (
    "_npu_reshape_and_cache",
    "_npu_paged_attention",
    "_npu_flash_attention",
    "_npu_flash_attention_qlens",
    "_npu_rotary_embedding",
)
_POINT_TO_POINT = (("isend", "send"), ("irecv", "recv"))

_ALL = (
    Mode("eager", "one process, no graphs", _EAGER),
    Mode(
        "graph",
        "one process, graphs captured piece by piece",
        {"enforce_eager": False},
        graphs=True,
    ),
    Mode("mp", "the engine and its worker in a process of their own", _EAGER, multiprocess=True),
    Mode(
        "tp2",
        "tensor parallel over two devices",
        {**_EAGER, "tensor_parallel_size": 2, "distributed_executor_backend": "mp"},
        devices=2,
        multiprocess=True,
        collectives=(("all_reduce",),),
    ),
    Mode(
        "tp2-ep",
        "tensor parallel over two devices, each with half of a mixture's experts",
        {
            **_EAGER,
            "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp",
            "enable_expert_parallel": True,
        },
        devices=2,
        multiprocess=True,
        collectives=(("all_reduce",),),
    ),
    Mode(
        "pp2",
        "pipeline parallel over two devices, the workers started anew in place of forks",
        {**_EAGER, "pipeline_parallel_size": 2, "distributed_executor_backend": "mp"},
        {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"},
        devices=2,
        multiprocess=True,
        collectives=_POINT_TO_POINT,
    ),
    Mode(
        "ray-tp2",
        "tensor parallel over two devices, the workers actors of a Ray cluster",
        {**_EAGER, "tensor_parallel_size": 2, "distributed_executor_backend": "ray"},
        SET_FOR_WORKERS,
        devices=2,
        multiprocess=True,
        collectives=(("all_reduce",),),
        ray=True,
    ),
    Mode(
        "ray-pp2",
        "pipeline parallel over two devices, the workers actors of a Ray cluster",
        {**_EAGER, "pipeline_parallel_size": 2, "distributed_executor_backend": "ray"},
        SET_FOR_WORKERS,
        devices=2,
        multiprocess=True,
        ray=True,
    ),
    Mode(
        "tp2-graph",
        "tensor parallel over two devices, with graphs",
        {
            "enforce_eager": False,
            "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp",
        },
        devices=2,
        multiprocess=True,
        graphs=True,
        collectives=(("all_reduce",),),
    ),
    Mode(
        "full-graph",
        "one process, decode steps captured as a whole",
        {
            "enforce_eager": False,
            "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
        },
        graphs=True,
    ),
    Mode(
        "tp2-full-graph",
        "tensor parallel over two devices, decode steps captured as a whole",
        {
            "enforce_eager": False,
            "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp",
            "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
        },
        devices=2,
        multiprocess=True,
        graphs=True,
        collectives=(("all_reduce",),),
    ),
    # What the device's attention takes: here the simulator relaxes nothing.
    Mode("bfloat16", "eager, in bfloat16", {**_EAGER, "dtype": "bfloat16"}),
    Mode("float16", "eager, in float16", {**_EAGER, "dtype": "float16"}),
    Mode(
        "bfloat16-full-graph",
        "one process, in bfloat16, decode steps captured as a whole",
        {
            "enforce_eager": False,
            "compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY"},
            "dtype": "bfloat16",
        },
        graphs=True,
    ),
    Mode(
        "nz",
        "eager, in bfloat16, weights of linear layers in FRACTAL_NZ",
        {**_EAGER, "dtype": "bfloat16"},
        {"VLLM_NPU_WEIGHT_NZ": "1"},
        operators=(("npu_format_cast", "npu_format_cast_"),),
    ),
    Mode(
        "no-nnal",
        "eager, with no operator of NNAL",
        _EAGER,
        {"VLLM_NPU_USE_NNAL": "0"},
        operators=_FUSED_ATTENTION,
        forbidden=_NNAL,
    ),
    # In bfloat16, in which alone NNAL would rotate.
    Mode(
        "no-nnal-installed",
        "eager, in bfloat16, on a machine without NNAL",
        {**_EAGER, "dtype": "bfloat16"},
        operators=_FUSED_ATTENTION,
        forbidden=_NNAL,
        nnal=False,
    ),
)


def _with_adapters() -> Iterator[Mode]:
    """The modes with LoRA: eager and both kinds of graphs, on one and two devices."""
    known = {mode.name: mode for mode in _ALL}
    sharded = {"fully_sharded_loras": True}
    ways: list[tuple[str, int, dict[str, bool]]] = [
        (name, slots, {})
        for name in ("eager", "graph", "full-graph", "tp2", "tp2-graph", "tp2-full-graph")
        for slots in (1, 2)
    ]
    for name, slots, more in (*ways, ("tp2", 2, sharded)):
        mode = known[name]
        lora = {"enable_lora": True, "max_loras": slots, "max_lora_rank": MAX_RANK, **more}
        many = "one slot" if slots == 1 else f"{slots} slots"
        yield replace(
            mode,
            name=f"lora{slots}-{name}{'-sharded' if more else ''}",
            summary=f"{mode.summary}; {'sharded ' if more else ''}LoRA adapters in {many}",
            engine={**mode.engine, **lora},
            adapters=slots,
        )


DRAFTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "ngram": (
        "drafts are what followed the same token before",
        {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 3},
    ),
    "draft": ("drafts by the model itself", {"method": "draft_model"}),
    "eagle": ("drafts by an EAGLE head of the model's own layers", {"method": "eagle"}),
    "eagle3": ("drafts by an EAGLE-3 head that knows what follows", {"method": "eagle3"}),
    "mtp": ("drafts by one layer more, which knows what follows", {"method": "mtp"}),
}
"""Kind of drafts → what it is, and vLLM's configuration of it without the path of a model."""
DRAFTED_TOKENS = 3
ACCEPTED: Mapping[str, float] = {
    "ngram": 0.0,
    "draft": 0.9,
    "eagle": 0.01,
    "eagle3": 0.1,
    "mtp": 0.1,
}
"""Kind of drafts → the share of its tokens that a greedy run accepts at least."""
SAME = frozenset({"draft"})
"""Kinds of drafts that the model itself makes."""
MADE: Mapping[str, str] = {
    "eagle": "LlamaForCausalLM",
    "eagle3": "LlamaForCausalLM",
    "mtp": "DeepseekV3ForCausalLM",
}
"""Kinds of drafts by what `programs/draft.py` makes → the class of the models that it takes."""
WITHIN = frozenset({"mtp"})
"""Kinds of these that lie in the model's own checkpoint, which is then the one that is made."""


def _with_drafts() -> Iterator[Mode]:
    """The modes with speculative decoding."""
    known = {mode.name: mode for mode in _ALL}
    for kind, (what, config) in DRAFTS.items():
        speculative = {**config, "num_speculative_tokens": DRAFTED_TOKENS}
        for name in ("eager", "graph", "full-graph", "mp", "tp2", "no-nnal"):
            mode = known[name]
            yield replace(
                mode,
                name=f"{kind}-{name}",
                summary=f"{mode.summary}; {what}",
                # Without statistics nobody counts what is accepted.
                engine={
                    **mode.engine,
                    "speculative_config": speculative,
                    "disable_log_stats": False,
                },
                draft=kind,
            )


def _with_runner_v2() -> Iterator[Mode]:
    """The modes with model runner V2, by Triton's kernels and without."""
    known = {mode.name: mode for mode in _ALL}
    for name in ("eager", "graph", "full-graph", "mp", "tp2", "pp2"):
        mode = known[name]
        yield replace(
            mode,
            name="v2" if name == "eager" else f"v2-{name}",
            summary=f"{mode.summary}; model runner V2, vLLM's Triton kernels interpreted",
            variables={**mode.variables, RUNNER_VARIABLE: "1"},
            triton=True,
        )
    yield replace(
        known["eager"],
        name="v2-no-triton",
        summary=f"{known['eager'].summary}; model runner V2 on a machine without Triton",
        variables={**known["eager"].variables, RUNNER_VARIABLE: "1"},
    )


SMALL_MODEL_LENGTH = 512
SMALL_CACHE = 12
"""Blocks on a device: enough for what runs at once, too few to keep it."""


def _with_connectors() -> Iterator[Mode]:
    """The modes with a KV connector: eager, each engine in a process of its own."""
    whole_prompts = {
        **_EAGER,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": MAX_MODEL_LENGTH,
        # Without statistics nobody counts what is loaded.
        "disable_log_stats": False,
    }
    small = {
        **_EAGER,
        "max_model_len": SMALL_MODEL_LENGTH,
        "num_gpu_blocks_override": SMALL_CACHE,
        "disable_log_stats": False,
    }
    ways: tuple[tuple[str, str, dict[str, Any], int], ...] = (
        ("files", "an engine saves the cache in files, a second one loads it", whole_prompts, 1),
        ("pair", "a prefill and a decode engine side by side, a device each", whole_prompts, 2),
        ("host", "a small cache, whose blocks go to the host and come back", small, 1),
    )
    for kind, summary, engine, devices in ways:
        mode = Mode(f"connector-{kind}", summary, engine, devices=devices, connector=kind)
        yield mode
        yield replace(
            mode,
            name=f"v2-connector-{kind}",
            summary=f"{summary}; model runner V2, vLLM's Triton kernels interpreted",
            variables={RUNNER_VARIABLE: "1"},
            triton=True,
        )


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        *_ALL,
        *_with_adapters(),
        *_with_drafts(),
        *_with_runner_v2(),
        *_with_connectors(),
    )
}
DEFAULT_MODES = ("eager", "graph", "mp", "tp2")


def select(names: Sequence[str]) -> list[Mode]:
    """The modes called `names`, each once; raises `ValueError` with the list."""
    for name in names:
        if name not in MODES:
            raise ValueError(f"no mode is called '{name}'; there are {', '.join(MODES)}")
    return [MODES[name] for name in dict.fromkeys(names)]
