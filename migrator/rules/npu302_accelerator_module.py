# SPDX-License-Identifier: Apache-2.0
"""NPU302: the module that names the device's torch module."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class AcceleratorModule(Rule):
    """Add `vllm/accelerator.py`, which gives `torch.npu` on an NPU and `torch.cuda` elsewhere.

    ## What it does
    Adds a module without imports from vLLM, so that every module can import it. Rule NPU210
    rewrites the calls that the NPU shares with other devices to go through it.

    ## Why
    The GPU worker and its model runner call `torch.cuda` by name. Rebinding those names at run
    time, as adapters do, changes them for everybody in the process; a call that says what it
    means does not.

    ## Example
    ```python
    self.transfer_event = device_module().Event()
    ```

    ## Safety
    Equivalent: on any device but an NPU the call is the `torch.cuda` one that it was.
    """

    code = "NPU302"
    safety = Safety.EQUIVALENT
    templates = ("vllm/accelerator.py",)
