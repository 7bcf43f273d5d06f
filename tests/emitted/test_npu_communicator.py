# SPDX-License-Identifier: Apache-2.0
"""The communicator of an NPU, without vLLM and torch."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from migrator.codemod.templates import template_root

PACKAGE = "vllm.distributed.device_communicators"


class Base:
    """vLLM's communicator of the releases that make kernels of experts when weights are read."""

    def prepare_communication_buffer_for_model(self, model: Any) -> None:
        """Let each mixture make its kernel."""
        for module in model.modules():
            module.maybe_init_modular_kernel()


@pytest.fixture
def communicator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An instance, without its initialization."""
    base = ModuleType(f"{PACKAGE}.base_device_communicator")
    base.DeviceCommunicatorBase = Base  # type: ignore[attr-defined]
    for module in (ModuleType("torch"), ModuleType("torch.distributed"), base):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("vllm", "vllm.distributed", PACKAGE):
        package = ModuleType(name)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(sys.modules["torch"], "distributed", None, raising=False)
    path = f"{PACKAGE.replace('.', '/')}/npu_communicator.py"
    space = {"__name__": f"{PACKAGE}.npu_communicator", "__package__": PACKAGE}
    exec((template_root() / path).read_text(encoding="utf-8"), space)
    class_: Any = space["NPUCommunicator"]
    return object.__new__(class_)


def test_experts_are_asked_for_no_kernel(communicator: Any) -> None:
    """From 0.20 to 0.27 the method of unquantized experts raises when it is asked for one."""

    def raising() -> None:
        raise ValueError("this function should not be called")

    model = SimpleNamespace(modules=lambda: [SimpleNamespace(maybe_init_modular_kernel=raising)])
    communicator.prepare_communication_buffer_for_model(model)
    with pytest.raises(ValueError, match="should not be called"):
        Base.prepare_communication_buffer_for_model(communicator, model)
