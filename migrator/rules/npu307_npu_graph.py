# SPDX-License-Identifier: Apache-2.0
"""NPU307: graphs that hold attention."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuGraph(Rule):
    """Add the NPU's graph, whose attention can be given other lengths before a replay.

    ## What it does
    Adds `vllm/compilation/npu_graph.py`, a small subclass of `torch.npu.NPUGraph`.

    ## Why
    The attention operators take context lengths from the host. In a decode step that is captured as
    a whole, they would stay those of the capture; captured as task groups, they can be updated.

    ## Example
    ```python
    torch.npu.graph_task_update_begin(stream, task.handle)
    task.launch(seq_lens)
    torch.npu.graph_task_update_end(stream)
    ```

    ## Safety
    Guarded: only `device_graph()` on an NPU makes one.
    """

    code = "NPU307"
    safety = Safety.GUARDED
    templates = ("vllm/compilation/npu_graph.py",)
