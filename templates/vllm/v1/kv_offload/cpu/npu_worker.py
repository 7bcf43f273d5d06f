# npu-migrate: when offloading_has_workers
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Blocks of the KV cache that go from an Ascend NPU to its host and back.

A block of a layer is two pages, for the keys of all blocks are one contiguous piece
of memory and their values another. Copies are torch's: no operator copies by
address here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch_npu  # noqa: F401

from vllm.v1.attention.backends.ascend_attn import split_kv_cache
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)


def canonical_kv_caches(
    connector: Any, kv_caches: dict[str, torch.Tensor]
) -> CanonicalKVCaches:
    """The cache as offloading takes it: pages of bytes, block by block.

    Args:
        connector: the worker side of the connector, which has the cache's
            configuration itself or by its spec.
        kv_caches: layer name to its cache, as of `split_kv_cache`.

    Returns:
        Two tensors a layer, `[num_blocks, page_size]` of int8. Layers that share
        memory share theirs.

    """
    config = getattr(connector, "kv_cache_config", None)
    config = config or connector.spec.kv_cache_config
    tensors: list[CanonicalKVCacheTensor] = []
    indices: dict[int, int] = {}
    group_data_refs: list[list[CanonicalKVCacheRef]] = []
    for group in config.kv_cache_groups:
        refs = []
        for name in group.layer_names:
            for part in split_kv_cache(kv_caches[name]):
                pages = part.view(torch.int8).view(config.num_blocks, -1)
                page_size = pages.shape[1]
                index = indices.setdefault(pages.data_ptr(), len(tensors))
                if index == len(tensors):
                    tensors.append(CanonicalKVCacheTensor(pages, page_size))
                refs.append(CanonicalKVCacheRef(index, page_size))
        group_data_refs.append(refs)
    return CanonicalKVCaches(tensors, group_data_refs)


class Run(NamedTuple):
    """Blocks that follow each other on the device and on the host."""

    block: int
    row: int
    length: int


def runs(
    block_ids: Sequence[int],
    chunk_ids: Sequence[int],
    first: int,
    blocks_per_chunk: int,
) -> Iterator[Run]:
    """Runs of blocks that one copy can move.

    Args:
        block_ids: blocks on the device, in the order of their tokens.
        chunk_ids: chunks on the host that they are parts of, in the same order.
        first: index of the first block in its request; the first chunk begins at a
            multiple of `blocks_per_chunk`.
        blocks_per_chunk: blocks of a chunk.

    """
    found: Run | None = None
    for position, block in enumerate(block_ids, first % blocks_per_chunk):
        chunk = chunk_ids[position // blocks_per_chunk]
        row = chunk * blocks_per_chunk + position % blocks_per_chunk
        if found is not None:
            start, start_row, length = found
            if (block, row) == (start + length, start_row + length):
                found = Run(start, start_row, length + 1)
                continue
            yield found
        found = Run(block, row, 1)
    if found is not None:
        yield found


class Transfer(NamedTuple):
    """Copies that were queued on a stream."""

    job_id: int
    start: torch.npu.Event
    end: torch.npu.Event
    num_bytes: int


class Direction:
    """Copies one way, one after the other, on a stream of their own."""

    def __init__(self) -> None:
        self.stream = torch.npu.Stream()
        self.transfers: deque[Transfer] = deque()

    def submit(
        self, job_id: int, pairs: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Queue a copy for each pair of a target and what it gets."""
        start, end = (torch.npu.Event(enable_timing=True) for _ in range(2))
        # What is stored has to be written, and what is loaded is not to be
        # overwritten by what was queued before.
        self.stream.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(self.stream):
            start.record(self.stream)
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
            end.record(self.stream)
        num_bytes = sum(target.numel() for target, _ in pairs)
        self.transfers.append(Transfer(job_id, start, end, num_bytes))

    def finished(self) -> Iterator[TransferResult]:
        """Those that are done and were not told of before."""
        while self.transfers and self.transfers[0].end.query():
            job_id, start, end, num_bytes = self.transfers.popleft()
            # Milliseconds.
            seconds = start.elapsed_time(end) * 1e-3
            yield TransferResult(
                job_id=job_id,
                success=True,
                transfer_size=num_bytes,
                transfer_time=seconds,
            )

    def wait(self, job_ids: set[int]) -> None:
        for transfer in self.transfers:
            if transfer.job_id in job_ids:
                transfer.end.synchronize()


class NPUOffloadingWorker(OffloadingWorker):
    """Keeps blocks in pinned memory of the host."""

    def __init__(self, spec: Any, kv_caches: CanonicalKVCaches) -> None:
        """Allocate the host's memory.

        Args:
            spec: vLLM's, of offloading to the host: how many chunks there are, and
                how many blocks of the device are one.
            kv_caches: as of `canonical_kv_caches`.

        """
        # Later releases call them chunks.
        num_chunks = getattr(spec, "num_chunks", None)
        if num_chunks is None:
            num_chunks = spec.num_blocks
        factor = getattr(spec, "blocks_per_chunk", None) or spec.block_size_factor
        self.blocks_per_chunk = factor
        self.refs = kv_caches.group_data_refs
        self.device_pages = [tensor.tensor for tensor in kv_caches.tensors]
        self.host_pages = [
            torch.zeros(
                num_chunks * factor,
                tensor.page_size_bytes,
                dtype=torch.int8,
                pin_memory=True,
            )
            for tensor in kv_caches.tensors
        ]
        self.stores = Direction()
        self.loads = Direction()
        # Not to queue behind loads that nobody waits for.
        self.expedited = Direction()

    def _pairs(
        self, device: GPULoadStoreSpec, host: LoadStoreSpec
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pages of the device, and those of the host that belong to them."""
        assert isinstance(host, BlockIDsLoadStoreSpec)
        blocks, chunks = device.block_ids.tolist(), host.block_ids.tolist()
        for refs, size, first in zip(
            self.refs, device.group_sizes, device.block_indices, strict=True
        ):
            if not size:
                continue
            end = first % self.blocks_per_chunk + size
            num_chunks = -(-end // self.blocks_per_chunk)
            moved = list(
                runs(blocks[:size], chunks[:num_chunks], first, self.blocks_per_chunk)
            )
            blocks, chunks = blocks[size:], chunks[num_chunks:]
            for index in {ref.tensor_idx: None for ref in refs}:
                on_device, on_host = self.device_pages[index], self.host_pages[index]
                for block, row, length in moved:
                    yield (
                        on_device[block : block + length],
                        on_host[row : row + length],
                    )
        assert not blocks
        assert not chunks

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        pairs = self._pairs(src_spec, dst_spec)
        self.stores.submit(job_id, [(host, device) for device, host in pairs])
        return True

    def submit_load(
        self,
        job_id: int,
        src_spec: LoadStoreSpec,
        dst_spec: GPULoadStoreSpec,
        expedited: bool = False,
    ) -> bool:
        direction = self.expedited if expedited else self.loads
        direction.submit(job_id, list(self._pairs(dst_spec, src_spec)))
        return True

    def get_finished(self) -> list[TransferResult]:
        directions = (self.stores, self.loads, self.expedited)
        return [result for one in directions for result in one.finished()]

    def wait(self, job_ids: set[int]) -> None:
        for direction in (self.stores, self.loads, self.expedited):
            direction.wait(job_ids)

    def shutdown(self) -> None:
        for direction in (self.stores, self.loads, self.expedited):
            direction.stream.synchronize()
            direction.transfers.clear()
        self.device_pages.clear()
        self.host_pages.clear()


# npu-migrate: end
