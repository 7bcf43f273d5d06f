# SPDX-License-Identifier: Apache-2.0
"""Records, in every process of a simulated run, what the tree calls on the NPU.

It stands on PYTHONPATH behind the simulator's own sitecustomize, which runs this one, and waits for
the import of torch_npu. Then each call of a reference operator, each replay of a graph, each
collective and each look at the free memory is one line of JSON in $NPU_MIGRATE_RECORD/PID.jsonl:
`at` (seconds since the epoch), `op`, and for attention `q` and `kv`: new tokens and context length
of each request. The first line of a process has the `op` "variables" and the settings of the device
that it sees.
"""

from __future__ import annotations

import os
import sys

if os.environ.get("NPU_MIGRATE_RECORD"):
    import functools
    import json
    import time
    from collections.abc import Callable, Mapping, Sequence
    from importlib.abc import Loader, MetaPathFinder
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    _files: dict[int, int] = {}
    _SETTINGS = ("ASCEND_", "HCCL_")

    def _write(line: dict[str, Any]) -> None:
        # A file for each process, forked ones too; one write a line, since processes get killed.
        pid = os.getpid()
        if pid not in _files:
            path = os.path.join(os.environ["NPU_MIGRATE_RECORD"], f"{pid}.jsonl")
            _files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            seen = {k: v for k, v in os.environ.items() if k.startswith(_SETTINGS)}
            _write({"op": "variables", "seen": seen})
        os.write(_files[pid], json.dumps({"at": time.time(), **line}).encode() + b"\n")

    def _numbers(value: Any) -> list[int]:
        return [int(number) for number in (value.tolist() if hasattr(value, "tolist") else value)]

    def _ends(value: Any) -> list[int]:
        """Lengths from their running sum."""
        ends = _numbers(value)
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def _lengths(name: str, call: Mapping[str, Any]) -> dict[str, list[int]]:
        if name == "_npu_paged_attention":
            context = _numbers(call["context_lens"])
            return {"q": [1] * len(context), "kv": context}
        if name in {"_npu_flash_attention", "_npu_flash_attention_unpad"}:
            lengths = _numbers(call["seq_len"])
            return {"q": lengths, "kv": lengths}
        if name == "_npu_flash_attention_qlens":
            return {"q": _numbers(call["seq_len"]), "kv": _numbers(call["context_lens"])}
        if name.startswith("npu_fused_infer_attention_score"):
            names = ("actual_seq_lengths", "actual_seq_lengths_kv")
            if "v2" in name:
                names = ("actual_seq_qlen", "actual_seq_kvlen")
            new, cached = call.get(names[0]), call.get(names[1])
            if cached is None:
                return {}
            packed = call.get("input_layout") == "TND"
            paged = call.get("block_table") is not None
            kv = _ends(cached) if packed and not paged else _numbers(cached)
            if new is None:
                single = call.get("input_layout") == "BNSD" and call["query"].shape[2] == 1
                return {"q": [1] * len(kv), "kv": kv} if single else {}
            return {"q": (_ends if packed else _numbers)(new), "kv": kv}
        return {}

    def _record_operators() -> None:
        from ascend_sim.operators._registry import Operator

        original = Operator.__call__

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            name = self.name.partition("::")[2].partition(".")[0]
            named = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
            _write({"op": name, **_lengths(name, named)})
            return original(self, *args, **kwargs)

        Operator.__call__ = call

    def _record_graphs() -> None:
        import torch

        for method in ("capture_begin", "replay"):
            original = getattr(torch.npu.NPUGraph, method)

            def call(
                self: Any, *args: Any, _original: Any = original, _name: str = method, **kwargs: Any
            ) -> Any:
                _write({"op": f"graph {_name}"})
                return _original(self, *args, **kwargs)

            setattr(torch.npu.NPUGraph, method, functools.wraps(original)(call))

    def _record_collectives() -> None:
        import torch
        from torch import distributed

        def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                if torch.compiler.is_compiling():
                    # A tracer has to see the collective alone; writing would break its graph.
                    return original(*args, **kwargs)
                values = [*args, *kwargs.values()]
                device = next((v.device.type for v in values if hasattr(v, "device")), "?")
                try:
                    backend = distributed.get_backend(kwargs.get("group"))
                except (ValueError, RuntimeError):
                    backend = "?"
                _write({"op": f"collective {name}", "device": device, "backend": str(backend)})
                return original(*args, **kwargs)

            return call

        for name in (
            "all_reduce",
            "all_gather_into_tensor",
            "all_gather",
            "gather",
            "reduce_scatter_tensor",
            "broadcast",
            "send",
            "recv",
            "isend",
            "irecv",
        ):
            setattr(distributed, name, wrap(name, getattr(distributed, name)))

    def _record_memory() -> None:
        import torch

        for module, name in ((torch.npu, "mem_get_info"), (torch.accelerator, "get_memory_info")):
            original = getattr(module, name, None)
            if original is None:
                continue

            def call(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
                _write({"op": "free memory"})
                return _original(*args, **kwargs)

            setattr(module, name, functools.wraps(original)(call))

    class _Loader(Loader):
        """Loads torch_npu as whoever found it does, then starts to record."""

        def __init__(self, inner: Loader) -> None:
            self._inner = inner

        def create_module(self, spec: ModuleSpec) -> ModuleType | None:
            return self._inner.create_module(spec)

        def exec_module(self, module: ModuleType) -> None:
            sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _Finder)]
            self._inner.exec_module(module)
            _record_operators()
            _record_graphs()
            _record_collectives()
            _record_memory()

    class _Finder(MetaPathFinder):
        """Finds torch_npu through the other finders, until it is loaded.

        Whoever only asks for its spec, as transformers does, may be the first to do so.
        """

        def find_spec(
            self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            if fullname != "torch_npu":
                return None
            for finder in [other for other in sys.meta_path if other is not self]:
                spec = finder.find_spec(fullname, path, target)
                if spec is not None and spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                    return spec
            return None

    sys.meta_path.insert(0, _Finder())
