# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest: fits vLLM's test modules to an NPU, takes a sample, writes each outcome.

A module is fitted by names that it has when it is imported (`FITTINGS`); a name that is gone ends
the run, for then the tests would not test what they are said to. UPSTREAM_JOB names a JSON file
with `samples` (test file → cases of each of its functions; 0: all) and `out`, where lines of JSON
go: first the cases that were chosen, then each outcome.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BLOCK_SIZE = 128
"""The tokens of a cache block, the only ones that the platform takes."""
BLOCKS = 600
"""Blocks of a cache: more than the largest batch needs, less than the tests would take."""


class FittingError(Exception):
    """A test module has no such name any more."""


def replace(module: ModuleType, name: str, value: object) -> None:
    """Set what a module has under a name."""
    if not hasattr(module, name):
        raise FittingError(f"{module.__name__} has no {name}; fit it anew in {Path(__file__).name}")
    setattr(module, name, value)


# -- attention


def dense_mask(mask_mod: Callable[..., Any], *_: Any, **sizes: Any) -> Any:
    """In place of `create_block_mask`: [queries, keys], true where a query sees a key."""
    import torch

    zero = torch.zeros((), dtype=torch.int64)
    queries = torch.arange(sizes["Q_LEN"])[:, None]
    keys = torch.arange(sizes["KV_LEN"])[None]
    return mask_mod(zero, zero, queries, keys).expand(queries.shape[0], keys.shape[1])


def dense_attention(
    query: Any, key: Any, value: Any, *, block_mask: Any, scale: float, **_: Any
) -> Any:
    """In place of `flex_attention`, which compiles for a GPU: float32, on the host.

    Query, key and value are [1, heads, tokens, size] with as many heads each.
    """
    import torch

    queries, keys, values = (part.float().cpu() for part in (query, key, value))
    scores = queries @ keys.transpose(-2, -1) * scale
    weights = torch.softmax(scores.masked_fill(~block_mask, -torch.inf), dim=-1)
    return (weights @ values).to(query.dtype).to(query.device)


def split_cache(cache: Any) -> tuple[Any, Any]:
    """A cache [blocks, heads, block, key and value] as the runner of an NPU hands it over.

    Two buffers, keys and values, of [blocks, block, heads, size].
    """
    keys, values = cache.permute(0, 2, 1, 3).chunk(2, dim=-1)
    return keys.contiguous(), values.contiguous()


def fit_attention(module: ModuleType) -> None:
    """The NPU's backend as the only one, its cache, and a reference that needs no GPU."""
    from vllm.v1.attention.backends import registry  # type: ignore[import-not-found]

    custom = registry.AttentionBackendEnum.CUSTOM
    registry.register_backend(
        custom, "vllm.v1.attention.backends.ascend_attn.AscendAttentionBackend"
    )
    for name in (
        "BACKENDS_TO_TEST",
        "SLIDING_WINDOW_BACKENDS_TO_TEST",
        "SLIDING_WINDOW_ENCODER_BACKENDS_TO_TEST",
        "NON_CAUSAL_BACKENDS_TO_TEST",
    ):
        replace(module, name, [custom])
    # Which backends want larger blocks depends on it: all of them have one size here.
    replace(module, "is_torch_equal_or_newer", lambda _: False)
    replace(module, "create_block_mask", dense_mask)
    replace(module, "flex_attention", dense_attention)

    configured = module.create_vllm_config
    metadata = module.create_common_attn_metadata
    populate = module.create_and_prepopulate_kv_cache
    compare = module._test_backend_correctness
    run = module.run_attention_backend
    calls: list[str] = []

    def create_vllm_config(**options: Any) -> Any:
        return configured(**{**options, "num_gpu_blocks": BLOCKS, "block_size": BLOCK_SIZE})

    def create_common_attn_metadata(batch: Any, size: int, device: Any) -> Any:
        return metadata(batch, size, device, max_block_idx=BLOCKS)

    def create_and_prepopulate_kv_cache(**options: Any) -> Any:
        return split_cache(populate(**options))

    def run_attention_backend(*arguments: Any, **options: Any) -> Any:
        calls.append("run")
        return run(*arguments, **options)

    def _test_backend_correctness(*arguments: Any, **options: Any) -> None:
        calls.clear()
        compare(*arguments, **options)
        if not calls:
            pytest.skip("nothing was compared: the backend says that it does not take this")

    for function in (
        create_vllm_config,
        create_common_attn_metadata,
        create_and_prepopulate_kv_cache,
        run_attention_backend,
        _test_backend_correctness,
    ):
        replace(module, function.__name__, function)


# -- the runner


def fit_runner(module: ModuleType) -> None:
    """The NPU's runner in place of the GPU's, with blocks that it takes."""
    from vllm.v1.worker.npu_model_runner import NPUModelRunner  # type: ignore[import-not-found]

    attention = module.Attention

    def half_precision(*arguments: Any, **options: Any) -> Any:
        """A layer in the dtype of the test's model; as it is made here, it would be in float32."""
        import torch

        from vllm.utils.torch_utils import set_default_torch_dtype  # type: ignore[import-not-found]

        with set_default_torch_dtype(torch.float16):
            return attention(*arguments, **options)

    replace(module, "GPUModelRunner", NPUModelRunner)
    replace(module, "BLOCK_SIZE", BLOCK_SIZE)
    replace(module, "Attention", half_precision)


# -- adapters


def fit_adapters(module: ModuleType) -> None:
    """The wrapper of an NPU as the one that has to be there."""
    from vllm.lora.punica_wrapper import punica_npu  # type: ignore[import-not-found]

    def check_punica_wrapper(wrapper: object) -> bool:
        return type(wrapper) is punica_npu.PunicaWrapperNPU

    replace(module, "check_punica_wrapper", check_punica_wrapper)


# -- drafts


def fit_rejection(module: ModuleType) -> None:
    """What a worker does when it is made: the platform's kernels in the place of Triton's."""
    module.current_platform.register_triton_kernel_overrides()


# -- routers


def fit_grouped_router(module: ModuleType) -> None:
    """Let the reference choose by float32 scores, where a sigmoid would round them to bfloat16.

    The NPU's branch keeps them in float32 for any number of groups, as transformers does, and as
    CUDA's kernel does for one group; for several CUDA's rounds as the reference does.
    """

    class GroupedTopk(module.GroupedTopk):  # type: ignore[misc, name-defined]
        def forward(self, hidden_states: Any, gating_output: Any, *rest: Any, **more: Any) -> Any:
            if self.scoring_func == "sigmoid":
                gating_output = gating_output.float()
            return super().forward(hidden_states, gating_output, *rest, **more)

    replace(module, "GroupedTopk", GroupedTopk)


FITTINGS: dict[str, Callable[[ModuleType], None]] = {
    "kernels/moe/test_grouped_topk.py": fit_grouped_router,
    "lora/test_layers.py": fit_adapters,
    "v1/attention/test_attention_backends.py": fit_attention,
    "v1/sample/test_rejection_sampler.py": fit_rejection,
    "v1/worker/test_gpu_model_runner.py": fit_runner,
}


# -- the plugin


def relative(path: Path) -> str:
    """A test file below `tests`."""
    parts = path.parts
    return "/".join(parts[len(parts) - parts[::-1].index("tests") :])


def sample(items: list[pytest.Item], sizes: dict[str, int]) -> Iterator[pytest.Item]:
    """At most so many cases of each test function of a file, the same ones each time."""
    groups: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        groups[item.nodeid.partition("[")[0]].append(item)
    for group in groups.values():
        drawn = sorted(group, key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        yield from drawn[: sizes[relative(group[0].path)] or None]


class Recorder:
    """Writes what became of each case."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.fitted: set[str] = set()

    def write(self, entry: dict[str, Any]) -> None:
        with Path(self.job["out"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        for item in items:
            assert isinstance(item, pytest.Function)
            file = relative(item.path)
            if file in FITTINGS and file not in self.fitted:
                FITTINGS[file](item.module)
                self.fitted.add(file)
            # To collect the garbage of all that was imported takes longer than a test. One that
            # opens process groups closes them all the same.
            item.add_marker(pytest.mark.skip_global_cleanup)
        chosen = list(sample(items, self.job["samples"]))
        kept = {item.nodeid for item in chosen}
        self.write({"collected": [i.nodeid for i in items], "chosen": sorted(kept)})
        items[:] = [item for item in items if item.nodeid in kept]

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        import torch

        # Some tests leave it set, and then the next ones pin memory of a device.
        torch.set_default_device(None)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(
                {"id": report.nodeid, "outcome": "failed", "says": last(report.longreprtext)}
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        says = ""
        if report.skipped:
            says = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
        elif report.failed:
            says = last(report.longreprtext)
        self.write(
            {
                "id": report.nodeid,
                "outcome": report.outcome,
                "says": says,
                "seconds": round(report.duration, 2),
            }
        )


def last(text: str) -> str:
    """What an error says: the lines that pytest marks, and where it was raised."""
    said = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    place = re.findall(r"^(\S+\.py):\d+: ", text, flags=re.MULTILINE)
    return " ".join(said)[:2000] + (f" (in {Path(place[-1]).name})" if place else "")


def pytest_configure(config: pytest.Config) -> None:
    from vllm.model_executor.models import registry  # type: ignore[import-not-found]

    # A process for each model that is looked at costs as much as all the tests.
    replace(registry, "_run_in_subprocess", lambda function: function())
    job = json.loads(Path(os.environ["UPSTREAM_JOB"]).read_text(encoding="utf-8"))
    config.pluginmanager.register(Recorder(job), "upstream-recorder")
