# SPDX-License-Identifier: Apache-2.0
"""Runs modules of an emitted vLLM tree on CPU data that says it lies on an NPU or a CUDA device.

Runs in a process of its own, with torch and without torch_npu: a recorder stands for that. Every
module of vLLM that is not under test is a stub whose attributes are falsy callables.
"""

from __future__ import annotations

import collections
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("npu")

TREES = Path(os.environ["EMITTED_TREES"])
"""Holds `<release>/emitted` and `<release>/pristine`, each with the modules under test."""


class NpuTensor(torch.Tensor):  # type: ignore[misc]
    """A CPU tensor that is on `npu:0` as far as anybody can ask; views share their memory."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> NpuTensor:
        made: NpuTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="npu:0",
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"npu({self.inner})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], kinds: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given: dict[int, NpuTensor] = {}

        def unwrap(value: Any) -> Any:
            if isinstance(value, NpuTensor):
                given[id(value.inner)] = value
                return value.inner
            if isinstance(value, torch.Tensor):
                assert value.dim() == 0, f"{func}: a host tensor among NPU ones"
            if isinstance(value, torch.device):
                assert value.type == "npu", f"{func}: makes a tensor on {value}"
                return torch.device("cpu")
            return value

        def wrap(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                known = given.get(id(value))
                return NpuTensor(value) if known is None else known
            return value

        args, kwargs = tree_map(unwrap, (args, kwargs or {}))
        return tree_map(wrap, func(*args, **kwargs))


class CudaTensor(torch.Tensor):  # type: ignore[misc]
    """A CPU tensor that says it is on `cuda:0`."""

    device = torch.device("cuda:0")
    is_cuda = True


def npu(tensor: torch.Tensor) -> NpuTensor:
    return NpuTensor(tensor)


def _empty(size: Sequence[int], dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    return npu(torch.empty(tuple(size), dtype=dtype))


# torch asks the device for memory when it turns a Python number into a tensor.
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _empty, "PrivateUse1")


def cuda(tensor: torch.Tensor) -> CudaTensor:
    made: CudaTensor = tensor.as_subclass(CudaTensor)
    return made


Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Stands for `torch.ops._C`: has the named operators, and notes their calls."""

    def __init__(self, *names: str) -> None:
        self.calls: list[Call] = []
        for name in names:
            setattr(self, name, self._operator(name))

    def _operator(self, name: str) -> Callable[..., None]:
        def operator(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, args, kwargs))

        return operator


def rotate(tensor: torch.Tensor, angles: torch.Tensor, neox: bool) -> torch.Tensor:
    """Turn whole heads by complex multiplication, in float64.

    Args:
        tensor: [tokens, heads, size].
        angles: [tokens, size / 2], in radians.
        neox: pairs are (i, i + size / 2); else (2 i, 2 i + 1).
    """
    half = tensor.shape[-1] // 2
    data = tensor.double()
    if neox:
        pairs = torch.complex(data[..., :half], data[..., half:])
    else:
        pairs = torch.complex(data[..., 0::2], data[..., 1::2])
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None, :].to(pairs.dtype)
    if neox:
        result = torch.cat([turned.real, turned.imag], dim=-1)
    else:
        result = torch.stack([turned.real, turned.imag], dim=-1).flatten(-2)
    return result.to(tensor.dtype)


@dataclass
class TorchNpu:
    """Stands for torch_npu: its operators compute, insist on their contracts, and are noted."""

    calls: list[Call] = field(default_factory=list)
    nnal: bool = True
    """Whether NNAL is installed. Its operators have a name either way, and raise without it."""
    first_cache: torch.Tensor | None = None
    """The cache whose cos and sin `_npu_rotary_embedding` keeps, as the real one does."""

    def module(self) -> types.ModuleType:
        made = types.ModuleType("torch_npu")
        for name in (
            "_npu_rotary_embedding",
            "npu_rotary_mul",
            "npu_rms_norm",
            "npu_add_rms_norm",
            "npu_gemma_rms_norm",
            "npu_swiglu",
            "npu_fast_gelu",
            "npu_geglu",
        ):
            setattr(made, name, self._noted(name))
        return made

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    def _noted(self, name: str) -> Callable[..., Any]:
        operator = getattr(self, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.Tensor):
                    assert value.device.type == "npu", f"{name} got a tensor on {value.device}"
            self.calls.append((name, args, kwargs))
            return operator(*args, **kwargs)

        return noted

    def _npu_rotary_embedding(
        self,
        positions: NpuTensor,
        query: NpuTensor,
        key: NpuTensor,
        head_size: int,
        cos_sin_cache: NpuTensor,
        is_neox_style: bool,
    ) -> None:
        if not self.nnal:
            raise OSError("Please check that the nnal package is installed.")
        assert positions.dim() == 1
        assert positions.dtype in (torch.int32, torch.int64)
        assert cos_sin_cache.shape[1] == head_size, "the operator turns whole heads"
        assert cos_sin_cache.dtype == query.dtype == key.dtype
        assert query.dtype in (torch.float16, torch.bfloat16)
        if self.first_cache is None:
            self.first_cache = cos_sin_cache.inner.clone()
        rows = self.first_cache[positions.inner].double()
        cos, sin = rows.chunk(2, dim=-1)
        for tensor in (query, key):
            assert tensor.dim() == 2
            assert tensor.shape[0] == positions.shape[0]
            assert tensor.shape[1] % head_size == 0
            assert tensor.is_contiguous()
            heads = tensor.inner.view(tensor.shape[0], -1, head_size)
            heads.copy_(rotate(heads, torch.atan2(sin, cos), is_neox_style))

    @staticmethod
    def npu_rotary_mul(
        data: NpuTensor, r1: NpuTensor, r2: NpuTensor, rotary_mode: str = "half"
    ) -> torch.Tensor:
        _, tokens, _, size = data.shape
        assert data.shape[0] == 1
        assert r1.shape == r2.shape == (1, tokens, 1, size)
        assert data.dtype == r1.dtype == r2.dtype
        x = data.inner
        if rotary_mode == "half":
            left, right = x.chunk(2, dim=-1)
            turned = torch.cat((-right, left), dim=-1)
        else:
            assert rotary_mode == "interleave"
            turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        return npu(x * r1.inner + turned * r2.inner)

    @staticmethod
    def npu_rms_norm(
        self: NpuTensor, gamma: NpuTensor, epsilon: float = 1e-6
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _operands(self, gamma)
        return _norm(self.inner, gamma.inner, epsilon)

    @staticmethod
    def npu_add_rms_norm(
        x1: NpuTensor, x2: NpuTensor, gamma: NpuTensor, epsilon: float = 1e-6
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        _operands(x1, x2, gamma)
        total = x1.inner + x2.inner
        return (*_norm(total, gamma.inner, epsilon), npu(total))

    @staticmethod
    def npu_gemma_rms_norm(
        self: NpuTensor, gamma: NpuTensor, epsilon: float = 1e-6
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _operands(self, gamma)
        return _norm(self.inner, 1 + gamma.inner, epsilon)

    @staticmethod
    def npu_swiglu(self: NpuTensor, dim: int = -1) -> torch.Tensor:
        _operands(self)
        left, right = self.inner.chunk(2, dim)
        return npu(torch.nn.functional.silu(left) * right)

    @staticmethod
    def npu_fast_gelu(self: NpuTensor) -> torch.Tensor:
        _operands(self)
        return npu(self.inner * torch.sigmoid(1.702 * self.inner))

    @staticmethod
    def npu_geglu(
        self: NpuTensor, dim: int = -1, approximate: int = 1, activate_left: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _operands(self)
        left, right = self.inner.chunk(2, dim)
        if not activate_left:
            left, right = right, left
        how = {0: "none", 1: "tanh"}[approximate]
        gelu = torch.nn.functional.gelu(left, approximate=how)
        return npu(gelu * right), npu(gelu)


def _operands(*tensors: NpuTensor) -> None:
    """What every release of CANN takes, whatever a page says of others."""
    for tensor in tensors:
        assert tensor.dtype == tensors[0].dtype
        assert tensor.is_contiguous()
        assert tensor.numel() > 0


def _norm(
    data: torch.Tensor, gamma: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    assert gamma.shape == data.shape[-1:]
    reciprocal = torch.rsqrt(data.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return npu((data.float() * reciprocal).to(data.dtype) * gamma), npu(reciprocal)


class Stub:
    """Takes any use and is false, as `current_platform.is_x()` on a platform that is not x."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub()

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return Stub()

    def __bool__(self) -> bool:
        return False

    def __getitem__(self, _: Any) -> Stub:
        return Stub()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __or__(self, _: Any) -> Stub:
        return Stub()

    def __lt__(self, _: Any) -> bool:
        return False

    __ror__ = __or__
    __gt__ = __le__ = __ge__ = __lt__


class StubModule(types.ModuleType):
    """A module with every attribute, and with the modules under test below it."""

    def __init__(self, name: str, tree: Path) -> None:
        super().__init__(name)
        self._directory = tree / name.replace(".", "/")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if (self._directory / f"{name}.py").is_file():
            return importlib.import_module(f"{self.__name__}.{name}")
        return Stub()


class Platform(Stub):
    """An out-of-tree platform on an NPU, or a CUDA one."""

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type

    def is_out_of_tree(self) -> bool:
        return self.device_type == "npu"

    def is_pin_memory_available(self) -> bool:
        return False

    def is_cuda(self) -> bool:
        return self.device_type == "cuda"

    is_cuda_alike = is_cuda


class _Config(Stub):
    """vLLM's compilation config with every custom operator enabled."""

    def __init__(self) -> None:
        self.custom_ops = ["all"]
        self.enabled_custom_ops: collections.Counter[str] = collections.Counter()
        self.disabled_custom_ops: collections.Counter[str] = collections.Counter()


_compiled: dict[str, types.CodeType | None] = {}


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a file once for all the times that it is imported."""

    def get_code(self, fullname: str) -> types.CodeType | None:
        if self.path not in _compiled:
            _compiled[self.path] = super().get_code(fullname)
        return _compiled[self.path]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules under test in their tree; every other module of vLLM is a stub."""

    def __init__(self, tree: Path, platform: Platform, switches: dict[str, Any]) -> None:
        self.tree = tree
        self.platform = platform
        self.switches = switches

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != "vllm":
            return None
        file = self.tree / (fullname.replace(".", "/") + ".py")
        if file.is_file():
            loader = _Loader(fullname, str(file))
            return importlib.util.spec_from_file_location(fullname, file, loader=loader)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = StubModule(spec.name, self.tree)
        if spec.name == "vllm.platforms":
            module.current_platform = self.platform  # type: ignore[attr-defined]
        elif spec.name == "vllm.config":
            config = _Config()
            module.get_cached_compilation_config = lambda: config  # type: ignore[attr-defined]
        elif spec.name == "vllm.envs":
            vars(module).update({"VLLM_NPU_USE_NNAL": None, **self.switches})
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        return None


@contextmanager
def vllm(
    release: str,
    kind: str = "emitted",
    *,
    torch_npu: TorchNpu | None = None,
    kernels: Recorder | None = None,
    device_type: str = "npu",
    switches: dict[str, Any] | None = None,
) -> Iterator[Callable[[str], Any]]:
    """Yield an importer of vLLM's modules, those under test taken from a release's tree.

    Args:
        release: such as 0.11.0.
        kind: `emitted` or `pristine`.
        torch_npu: what `import torch_npu` gives; None: it raises ImportError.
        kernels: what stands for `torch.ops._C`.
        device_type: of `current_platform`.
        switches: values of `vllm.envs`.
    """
    finder = _Finder(TREES / release / kind, Platform(device_type), switches or {})
    before = torch.ops.__dict__.get("_C")
    nnal = torch_npu is not None and torch_npu.nnal
    torch.ops.__dict__["atb"] = Recorder(*(("_npu_reshape_and_cache",) if nnal else ()))
    sys.meta_path.insert(0, finder)
    torch.ops.__dict__["_C"] = kernels or Recorder()
    sys.modules["torch_npu"] = torch_npu.module() if torch_npu else None  # type: ignore[assignment]
    try:
        yield importlib.import_module
    finally:
        sys.meta_path.remove(finder)
        torch.ops.__dict__.pop("_C")
        torch.ops.__dict__.pop("atb")
        if before is not None:
            torch.ops.__dict__["_C"] = before
        for name in [n for n in sys.modules if n.split(".")[0] in ("vllm", "torch_npu")]:
            del sys.modules[name]


def same(got: Any, want: torch.Tensor, **tolerance: float) -> None:
    got = got.inner if isinstance(got, NpuTensor) else got
    torch.testing.assert_close(got, want, **tolerance)
