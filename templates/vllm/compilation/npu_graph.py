# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Graphs that hold attention on an Ascend NPU.

The attention operators take context lengths from the host, as plain numbers,
and a captured graph would repeat those of its capture for ever. So attention is
captured as a task group, which can be given other numbers before each replay.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch_npu  # noqa: F401

import vllm.envs as envs
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import weak_ref_tensor


@dataclass
class AttentionTask:
    """One layer's attention in a captured graph."""

    layer_name: str
    handle: object
    """Of the task group, from torch_npu."""
    ready: torch.npu.ExternalEvent
    """The graph waits for it: the task has its new lengths."""
    launch: Callable[[list[int]], None]
    """Runs the operator on the captured tensors with other context lengths."""
    query_len: int
    """New tokens of each request: one, and as many as are drafted."""
    block_table: torch.Tensor
    """[num_reqs, max_blocks] on the device; padding of the batch is included."""


class NPUGraph(torch.npu.NPUGraph):
    """A graph that brings the attention it holds up to date when it is replayed."""

    recording: ClassVar[NPUGraph | None] = None
    """The graph that is being captured, for the attention layers."""
    update_stream: ClassVar[torch.npu.Stream | None] = None
    step: ClassVar[weakref.ref | None] = None
    """The forward context of the last replay: the pieces of a step have the same."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[AttentionTask] = []
        self.workspaces: dict[Hashable, torch.Tensor] = {}
        """Scratch memory of the captured operators, by what asks for the same."""

    def capture_begin(self, *args, **kwargs) -> None:
        NPUGraph.recording = self
        super().capture_begin(*args, **kwargs)

    def capture_end(self) -> None:
        NPUGraph.recording = None
        super().capture_end()
        # It filled its random state on this stream, and a replay fills it on another.
        torch.npu.current_stream().synchronize()
        # Only captured work uses it from now on, and graphs run one at a time:
        # the pool that they share may hand the same memory to the next one.
        self.workspaces = {
            asked: weak_ref_tensor(memory) for asked, memory in self.workspaces.items()
        }

    def add_attention(
        self,
        layer_name: str,
        seq_lens: list[int],
        query_len: int,
        block_table: torch.Tensor,
        launch: Callable[[list[int]], None],
    ) -> None:
        """Capture `launch(seq_lens)` as a task whose lengths can change."""
        stream = torch.npu.current_stream()
        ready = torch.npu.ExternalEvent()
        # The event is made when it is first recorded. Some releases of torch_npu
        # leave a wait for one that is not made out of the graph, without a word.
        ready.record(self._update_stream())
        ready.reset(self._update_stream())
        ready.wait(stream)
        ready.reset(stream)
        torch.npu.graph_task_group_begin(stream)
        launch(seq_lens)
        handle = torch.npu.graph_task_group_end(stream)
        task = AttentionTask(layer_name, handle, ready, launch, query_len, block_table)
        self.tasks.append(task)

    @staticmethod
    def _update_stream() -> torch.npu.Stream:
        if NPUGraph.update_stream is None:
            NPUGraph.update_stream = torch.npu.Stream()
        return NPUGraph.update_stream

    def replay(self) -> None:
        if not self.tasks:
            if envs.VLLM_NPU_SYNCHRONIZE_STEPS:
                self._wait_for_last_step()
            super().replay()
            return
        # Of one batch: it is a list where a batch is split, which is refused.
        metadata: Any = get_forward_context().attn_metadata
        # The last replay may still be waiting to run with its own lengths.
        torch.npu.current_stream().synchronize()
        self._pad(metadata)
        # It runs up to the first layer's attention while lengths are brought in.
        super().replay()
        self._update_tasks(metadata)

    @staticmethod
    def _wait_for_last_step() -> None:
        """Let the device finish a step before the first piece of the next begins.

        Asynchronous scheduling prepares a step while the last one runs. Without this,
        pieces that are replayed then were seen to give wrong tokens on devices.
        """
        context = get_forward_context()
        if NPUGraph.step is None or NPUGraph.step() is not context:
            NPUGraph.step = weakref.ref(context)
            torch.npu.current_stream().synchronize()

    def _pad(self, metadata: dict) -> None:
        """Let requests of padding read the null block, which is never given away."""
        tables: dict[int, AttentionTask] = {
            task.block_table.data_ptr(): task for task in self.tasks
        }
        for task in tables.values():
            num_reqs = len(metadata[task.layer_name].seq_lens_list)
            task.block_table[num_reqs:, :1] = 0

    def _update_tasks(self, metadata: dict) -> None:
        stream = self._update_stream()
        with torch.npu.stream(stream):
            for task in self.tasks:
                seq_lens = metadata[task.layer_name].seq_lens_list
                # No operator has to take a query without a key: a request of
                # padding has as many.
                num_padding = task.block_table.shape[0] - len(seq_lens)
                padding = [task.query_len] * num_padding
                torch.npu.graph_task_update_begin(stream, task.handle)
                task.launch(seq_lens + padding)
                torch.npu.graph_task_update_end(stream)
                task.ready.record(stream)
