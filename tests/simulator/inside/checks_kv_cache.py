# SPDX-License-Identifier: Apache-2.0
"""The KV cache of an emitted tree as its walkers find it: halves, shapes, copies, pages of a host.

The release's own copy of blocks and classes of offloading are used where it has them.
"""

from __future__ import annotations

import ast
import importlib
import types
from collections.abc import Callable
from typing import Any

import torch

from tests.simulator.inside.checks_attention import BLOCK, NAMES, NPU, TREE, A, refusal_of

NAMES["register_mla_prefill_backend"] = lambda *_: lambda backend: backend
R = importlib.import_module("vllm.v1.worker.npu_model_runner")
BLOCKS, HEADS, SIZE = 6, 2, 64
PAGE = 2 * BLOCK * HEADS * SIZE * 4
_READ = TREE / "read/vllm"
_WALKERS = _READ / "v1/worker/utils.py"
_PAGES = TREE / "vllm/v1/kv_offload/cpu/npu_worker.py"


def _counts_blocks_first() -> bool:
    """Whether the release's connector indexes blocks by the first dimension of all caches."""
    folder = _READ / "distributed/kv_transfer/kv_connector/v1"
    text = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    return "reshape(2," not in "".join(text.split())


BLOCKS_FIRST = _counts_blocks_first()


def buffers(heads: int = HEADS, value_size: int = SIZE, latent: int | None = None) -> Any:
    spec = types.SimpleNamespace(
        block_size=BLOCK,
        num_kv_heads=heads,
        head_size=SIZE,
        head_size_v=value_size,
        dtype=torch.float32,
        page_size_bytes=PAGE,
    )
    if latent is not None:
        spec.num_kv_heads, spec.head_size = 1, latent + SIZE
    return R.Buffers(spec, BLOCK, types.SimpleNamespace(kv_lora_rank=latent))


def allocated(**layers: Any) -> dict[str, Any]:
    made: dict[str, Any] = R._allocate(list(layers), PAGE * BLOCKS, layers, NPU)
    return made


def numbered() -> torch.Tensor:
    """A layer's cache, every element of which is another."""
    (cache,) = allocated(layer=buffers()).values()
    for number, half in enumerate(A.split_kv_cache(cache)):
        count = half.numel()
        half.copy_(torch.arange(number * count, (number + 1) * count).view(half.shape))
    return cache


def check_halves_are_contiguous() -> None:
    for half in A.split_kv_cache(numbered()):
        assert half.shape == (BLOCKS, BLOCK, HEADS, SIZE)
        assert half.is_contiguous()


def check_dimensions_are_those_of_the_release() -> None:
    shape = tuple(numbered().shape)
    assert shape[2:] == (BLOCK, HEADS, SIZE)
    assert shape[:2] == ((BLOCKS, 2) if BLOCKS_FIRST else (2, BLOCKS))


def check_a_cache_of_one_block_is_split_as_well() -> None:
    for both in (torch.zeros(2, 1, 3), torch.zeros(2, 1, 3).transpose(0, 1)):
        assert [half.shape for half in A.split_kv_cache(both)] == [(1, 3)] * 2


def check_slots_are_found_as_a_connector_finds_them() -> None:
    cache, slots = numbered(), torch.tensor([0, 130, 131, 700])
    keys, values = (half.flatten(0, 1)[slots.npu()].cpu() for half in A.split_kv_cache(cache))
    if BLOCKS_FIRST:
        found = cache[slots.npu() // BLOCK, :, slots.npu() % BLOCK].cpu()
        ours, theirs = found[:, 0], found[:, 1]
    else:
        ours, theirs = cache.reshape(2, BLOCKS * BLOCK, -1)[:, slots.npu()].cpu()
    assert torch.equal(ours.flatten(1), keys.flatten(1))
    assert torch.equal(theirs.flatten(1), values.flatten(1))


def check_layers_that_share_memory_share_both_halves() -> None:
    one, other = allocated(one=buffers(), other=buffers()).values()
    assert one.data_ptr() == other.data_ptr()
    assert one.stride() == other.stride()


def check_layers_that_split_shared_memory_otherwise_are_refused() -> None:
    said = refusal_of(lambda: allocated(one=buffers(), other=buffers(heads=1)))
    assert "split it differently" in said


def check_sizes_that_differ_are_two_tensors() -> None:
    (cache,) = allocated(layer=buffers(value_size=SIZE // 2)).values()
    assert [half.shape[-1] for half in cache] == [SIZE, SIZE // 2]
    (cache,) = allocated(layer=buffers(latent=128)).values()
    assert [part.shape[-1] for part in cache] == [128, SIZE]


def copier() -> Callable[..., None] | None:
    """The release's function that copies blocks, None if it has none."""
    if not _WALKERS.is_file():
        return None
    tree = ast.parse(_WALKERS.read_text(encoding="utf-8"))
    name = "copy_kv_cache_blocks_inplace"
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    if not body:
        return None
    space: dict[str, Any] = {
        "np": importlib.import_module("numpy"),
        "torch": torch,
        "async_tensor_h2d": lambda array, device: torch.from_numpy(array).to(device),
    }
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *body], []), "utils.py", "exec"), space)
    found: Callable[..., None] = space[name]
    return found


def check_blocks_are_copied_whole() -> None:
    copy = copier()
    if copy is None:
        return
    for flat in (True, False):
        cache = numbered()
        before = [half.cpu() for half in A.split_kv_cache(cache)]
        # V1's list has the halves, V2's the whole.
        copy(A.split_kv_cache(cache) if flat else [cache], BLOCKS, [(1, 4), (0, 2)])
        for old, new in zip(before, A.split_kv_cache(cache), strict=True):
            old[4], old[2] = old[1].clone(), old[0].clone()
            assert torch.equal(new.cpu(), old)


def check_blocks_come_back_from_the_host() -> None:
    if not _PAGES.is_file():
        return
    pages = importlib.import_module("vllm.v1.kv_offload.cpu.npu_worker")
    base = importlib.import_module("vllm.v1.kv_offload.base")
    caches = {"first": numbered(), "second": numbered()}
    caches["second"].neg_()
    before = {name: [h.cpu() for h in A.split_kv_cache(c)] for name, c in caches.items()}
    group = types.SimpleNamespace(layer_names=list(caches))
    config = types.SimpleNamespace(num_blocks=BLOCKS, kv_cache_groups=[group])
    canonical = pages.canonical_kv_caches(types.SimpleNamespace(kv_cache_config=config), caches)
    assert [t.tensor.shape for t in canonical.tensors] == [(BLOCKS, PAGE // 2)] * 4
    spec = types.SimpleNamespace(num_chunks=3, blocks_per_chunk=2)
    worker = pages.NPUOffloadingWorker(spec, canonical)

    class Host(base.BlockIDsLoadStoreSpec):  # type: ignore[misc,name-defined]
        @staticmethod
        def medium() -> str:
            return "CPU"

    # The second half of a chunk and all of the next one.
    chunks = Host([2, 0])
    assert worker.submit_store(1, base.GPULoadStoreSpec([1, 4, 5], [3], [1]), chunks)
    worker.wait({1})
    (stored,) = worker.get_finished()
    assert (stored.job_id, stored.success) == (1, True)
    assert stored.transfer_size == 3 * PAGE * 2
    for cache in caches.values():
        cache.zero_()
    assert worker.submit_load(2, chunks, base.GPULoadStoreSpec([0, 3, 2], [3], [1]))
    worker.wait({2})
    assert [result.job_id for result in worker.get_finished()] == [2]
    for name, cache in caches.items():
        for old, new in zip(before[name], A.split_kv_cache(cache), strict=True):
            wanted = torch.zeros_like(old)
            wanted[0], wanted[3], wanted[2] = old[1], old[4], old[5]
            assert torch.equal(new.cpu(), wanted)
    worker.shutdown()


def check_runs_are_as_long_as_both_sides_go_on() -> None:
    if not _PAGES.is_file():
        return
    pages = importlib.import_module("vllm.v1.kv_offload.cpu.npu_worker")
    # Blocks 4 and 5 follow each other, and so do their rows 8 and 9; 6 lies in another chunk.
    assert list(pages.runs([4, 5, 6, 9], [4, 1], 0, 2)) == [(4, 8, 2), (6, 2, 1), (9, 3, 1)]
    assert list(pages.runs([7, 8], [3, 4], 3, 2)) == [(7, 7, 2)]
    assert list(pages.runs([], [], 0, 2)) == []
