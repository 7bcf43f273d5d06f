# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Graphs that hold attention on an Ascend NPU.

The attention operators take context lengths from the host, as plain numbers,
and a captured graph would repeat those of its capture for ever. So attention is
captured as a task group, which can be given other numbers before each replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch_npu  # noqa: F401

from vllm.forward_context import get_forward_context


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
    num_reqs: int
    """Requests that the graph was captured for, padding included."""


class NPUGraph(torch.npu.NPUGraph):
    """A graph that brings the attention it holds up to date when it is replayed."""

    recording: ClassVar[NPUGraph | None] = None
    """The graph that is being captured, for the attention layers."""
    update_stream: ClassVar[torch.npu.Stream | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[AttentionTask] = []

    def capture_begin(self, *args, **kwargs) -> None:
        NPUGraph.recording = self
        super().capture_begin(*args, **kwargs)

    def capture_end(self) -> None:
        NPUGraph.recording = None
        super().capture_end()

    def add_attention(
        self, layer_name: str, seq_lens: list[int], launch: Callable[[list[int]], None]
    ) -> None:
        """Capture `launch(seq_lens)` as a task whose lengths can change."""
        stream = torch.npu.current_stream()
        ready = torch.npu.ExternalEvent()
        ready.wait(stream)
        ready.reset(stream)
        torch.npu.graph_task_group_begin(stream)
        launch(seq_lens)
        handle = torch.npu.graph_task_group_end(stream)
        task = AttentionTask(layer_name, handle, ready, launch, len(seq_lens))
        self.tasks.append(task)

    def replay(self) -> None:
        if self.tasks:
            # The last replay may still be waiting to run with its own lengths.
            torch.npu.current_stream().synchronize()
            self._update_tasks()
        super().replay()

    def _update_tasks(self) -> None:
        if NPUGraph.update_stream is None:
            NPUGraph.update_stream = torch.npu.Stream()
        stream = NPUGraph.update_stream
        metadata = get_forward_context().attn_metadata
        with torch.npu.stream(stream):
            for task in self.tasks:
                seq_lens = metadata[task.layer_name].seq_lens_list
                # Requests of graph padding have no context.
                padding = [0] * (task.num_reqs - len(seq_lens))
                torch.npu.graph_task_update_begin(stream, task.handle)
                task.launch(seq_lens + padding)
                torch.npu.graph_task_update_end(stream)
                task.ready.record(stream)
