# SPDX-License-Identifier: Apache-2.0
"""The layers of the emitted tree under the release's own `CustomOp` on an out-of-tree platform."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F

from tests.emitted.inside import NpuTensor, Recorder, TorchNpu, npu, rotate, same, vllm

RELEASES = ("0.11.0", "0.33.0")
ACTIVATION = "vllm.model_executor.layers.activation"
NORM = "vllm.model_executor.layers.layernorm"
ROTARY = "vllm.model_executor.layers.rotary_embedding.base"


def goes_native(layer: Any, *args: Any) -> bool:
    """Does a layer hand on to its native path, with just these arguments?"""
    seen: list[tuple[Any, ...]] = []

    def native(*given: Any) -> str:
        seen.append(given)
        return "native"

    layer.forward_native = native
    result = layer(*args)
    del layer.forward_native
    if result != "native":
        return False
    assert len(seen) == 1
    assert all(a is b for a, b in zip(seen[0], args, strict=False))
    return True


def on_npu(layer: Any) -> Any:
    """The layer with its weights on the device."""
    if "weight" in layer._parameters:
        data = layer.weight.data
        layer._parameters["weight"] = torch.nn.Parameter(npu(data), requires_grad=False)
    return layer


def check_silu_and_mul() -> None:
    for release, shape in itertools.product(RELEASES, ((6, 8), (2, 3, 8), (2, 3, 2, 8))):
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            layer = load(ACTIVATION).SiluAndMul()
            data = torch.randn(*shape)
            result = layer(npu(data))
            same(result, F.silu(data[..., :4]) * data[..., 4:])
            assert device.names() == ["npu_swiglu"]
            assert goes_native(layer, data)
        assert device.names() == ["npu_swiglu"]


def check_silu_and_mul_without_torch_npu() -> None:
    for release in RELEASES:
        with vllm(release) as load:
            module = load(ACTIVATION)
            assert module.torch_npu is None
            data = torch.randn(6, 8)
            same(module.SiluAndMul()(data), F.silu(data[:, :4]) * data[:, 4:])
            assert goes_native(module.SiluAndMul(), data)


def check_silu_and_mul_on_cuda_is_as_before() -> None:
    for release, kind in itertools.product(RELEASES, ("pristine", "emitted")):
        kernels = Recorder(
            "silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "gelu_quick", "rms_norm"
        )
        with vllm(release, kind, kernels=kernels, device_type="cuda") as load:
            module = load(ACTIVATION)
            data = torch.randn(6, 8)
            out = module.SiluAndMul()(data)
            assert out.shape == (6, 4)
            module.GeluAndMul("tanh")(data)
            module.QuickGELU()(data)
        names = [name for name, _, _ in kernels.calls]
        assert names == ["silu_and_mul", "gelu_tanh_and_mul", "gelu_quick"], (release, kind)
        assert kernels.calls[0][1][0] is out
        assert kernels.calls[0][1][1] is data


def check_quick_gelu() -> None:
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            layer = load(ACTIVATION).QuickGELU()
            data = torch.randn(6, 8)
            same(layer(npu(data)), data * torch.sigmoid(1.702 * data))
            assert goes_native(layer, data)
        assert device.names() == ["npu_fast_gelu"]


def check_gelu_and_mul() -> None:
    """vLLM activates the left half; the two forms of GELU differ."""
    for release, approximate in itertools.product(RELEASES, ("none", "tanh")):
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            layer = load(ACTIVATION).GeluAndMul(approximate)
            data = torch.randn(6, 8) * 2
            want = F.gelu(data[:, :4], approximate=approximate) * data[:, 4:]
            other = F.gelu(data[:, 4:], approximate=approximate) * data[:, :4]
            result = layer(npu(data))
            same(result, want)
            assert not torch.allclose(result.inner, other)
            assert goes_native(layer, data)
        assert device.names() == ["npu_geglu"]


def norm(data: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    rows = data.double()
    result = rows / (rows.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    return (result * weight.double()).to(data.dtype)


def check_rms_norm() -> None:
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            layer = load(NORM).RMSNorm(4, eps=0.25)
            weight = torch.randn(4)
            layer.weight.data = weight
            host = torch.randn(6, 4)
            assert goes_native(layer, host)
            assert goes_native(layer, host, host)
            on_npu(layer)
            data, residual = torch.randn(6, 4), torch.randn(6, 4)
            total = data + residual
            same(layer(npu(data)), norm(data, weight, 0.25))
            result, summed = layer(npu(data), npu(residual))
            same(result, norm(total, weight, 0.25))
            same(summed, total)
            assert isinstance(summed, NpuTensor)
        assert device.names() == ["npu_rms_norm", "npu_add_rms_norm"]


def check_rms_norm_that_stays_native() -> None:
    """A norm without a weight, or over a part of the hidden size, has no operator."""
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            norms = load(NORM)
            data = npu(torch.randn(6, 4))
            assert goes_native(norms.RMSNorm(4, has_weight=False), data)
            assert goes_native(norms.RMSNorm(4, var_hidden_size=2), data)
            assert goes_native(norms.RMSNorm(4, var_hidden_size=2), data, data)
            assert not goes_native(on_npu(norms.RMSNorm(4, var_hidden_size=4)), data)
        assert device.names() == ["npu_rms_norm"]


def check_gemma_rms_norm() -> None:
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            layer = load(NORM).GemmaRMSNorm(4, eps=0.25)
            weight = torch.randn(4)
            layer.weight.data = weight
            host = torch.randn(6, 4)
            assert goes_native(layer, host)
            on_npu(layer)
            data, residual = torch.randn(6, 4), torch.randn(6, 4)
            total = data + residual
            same(layer(npu(data)), norm(data, 1 + weight, 0.25))
            result, summed = layer(npu(data), npu(residual))
            same(result, norm(total, 1 + weight, 0.25))
            same(summed, total)
            half = npu(torch.randn(6, 4).half())
            assert goes_native(layer, half, half)
        assert device.names() == ["npu_gemma_rms_norm", "npu_gemma_rms_norm"]


def views(columns: int) -> list[torch.Tensor]:
    """Inputs as models have them: heads of a split projection, transposed, of more dimensions."""
    split = torch.randn(5, 3 * columns)[:, : 2 * columns]
    return [
        split.unflatten(-1, (2, columns)),
        split[:, columns:],
        torch.randn(columns, 6).t(),
        torch.randn(2, columns, 3).transpose(1, 2),
        torch.randn(2, 3, 4, columns),
        torch.randn(4, columns)[::2],
    ]


def check_views() -> None:
    """Every operator gets what it takes of a strided input, and the values are the native ones."""
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            norms, activations = load(NORM), load(ACTIVATION)
            layers = [
                norms.RMSNorm(8),
                norms.GemmaRMSNorm(8),
                activations.SiluAndMul(),
                activations.QuickGELU(),
                activations.GeluAndMul("none"),
                activations.GeluAndMul("tanh"),
            ]
            for layer, data in itertools.product(layers, views(8)):
                weight = torch.randn(8)
                if layer in layers[:2]:
                    layer._parameters["weight"] = torch.nn.Parameter(npu(weight), False)
                    scale = weight if layer is layers[0] else 1 + weight
                    want = norm(data, scale, layer.variance_epsilon)
                    residual = torch.randn_like(data)
                    got, total = layer(npu(data), npu(residual.mT.contiguous().mT))
                    same(got, norm(data + residual, scale, layer.variance_epsilon))
                    same(total, data + residual)
                else:
                    want = layer.forward_native(data.contiguous())
                before = len(device.calls)
                same(layer(npu(data)), want)
                assert len(device.calls) == before + 1


def check_operands_that_no_operator_takes() -> None:
    """No rows, or a weight or residual of another dtype: the native path, and no operator."""
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            norms, activations = load(NORM), load(ACTIVATION)
            empty, rows = npu(torch.randn(0, 2, 8)), npu(torch.randn(6, 8))
            half = npu(torch.randn(6, 8).bfloat16())
            for kind in (norms.RMSNorm, norms.GemmaRMSNorm):
                layer = on_npu(kind(8))
                assert goes_native(layer, empty)
                assert goes_native(layer, empty, empty)
                assert goes_native(layer, half)
                assert goes_native(layer, half, half)
                assert goes_native(layer, rows, half)
                assert not goes_native(layer, rows, rows)
                layer._parameters["weight"] = torch.nn.Parameter(npu(torch.ones(1)), False)
                assert goes_native(layer, rows)
            layers = [activations.SiluAndMul(), activations.QuickGELU()]
            for layer in (*layers, activations.GeluAndMul()):
                assert goes_native(layer, empty)
        assert device.names() == ["npu_add_rms_norm", "npu_gemma_rms_norm"]


def rotary_layer(module: Any, size: int, rotary_dim: int, neox: bool) -> Any:
    layer = module.RotaryEmbedding(size, rotary_dim, 64, 100.0, neox, torch.float32)
    layer.cos_sin_cache = npu(layer.cos_sin_cache)
    return layer


def check_rotary_embedding() -> None:
    """The layer reaches the operator through `_custom_ops`, whose branch is in the same tree."""
    for release, rotary_dim, neox, with_key in itertools.product(
        RELEASES, (16, 8), (True, False), (True, False)
    ):
        device = TorchNpu()
        positions = torch.tensor([3, 0, 41])
        fused = torch.randn(3, 96)
        query, key, before = fused[:, :64], fused[:, 64:], fused.clone()
        frequencies = 100.0 ** (-torch.arange(0, rotary_dim, 2).double() / rotary_dim)
        angles = torch.outer(positions.double(), frequencies)

        def turn(tensor: torch.Tensor, by: torch.Tensor, neox: bool) -> torch.Tensor:
            heads = tensor.reshape(3, -1, 16).clone()
            stop = 2 * by.shape[1]
            heads[..., :stop] = rotate(heads[..., :stop], by, neox)
            return heads.reshape(tensor.shape)

        want, want_key = turn(query, angles, neox), turn(key, angles, neox)
        kept = key.clone()
        with vllm(release, torch_npu=device) as load:
            layer = rotary_layer(load(ROTARY), 16, rotary_dim, neox)
            given = npu(query)
            got, got_key = layer(npu(positions), given, npu(key) if with_key else None)
        # Attention takes it as it is; the projection that it is a view of stays.
        assert got.is_contiguous()
        same(given, query)
        same(fused, before)
        same(got, want, rtol=1e-4, atol=1e-4)
        if with_key:
            assert got_key.is_contiguous()
            same(got_key, want_key, rtol=1e-4, atol=1e-4)
        else:
            assert got_key is None
            same(key, kept)
        assert device.names() == ["npu_rotary_mul"] * (2 if with_key else 1)


def check_rotary_embedding_elsewhere_is_native() -> None:
    for release, here in itertools.product(RELEASES, (TorchNpu(), None)):
        with vllm(release, torch_npu=here) as load:
            layer = load(ROTARY).RotaryEmbedding(16, 16, 64, 100.0, True, torch.float32)
            assert goes_native(layer, torch.tensor([1]), torch.randn(1, 32), torch.randn(1, 32))
        assert here is None or here.calls == []


def check_rotary_subclasses() -> None:
    """One that only scales the cache takes the operator; one with its own rotation stays native."""
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            base = load(ROTARY).RotaryEmbedding

            class Scaled(base):  # type: ignore[misc, valid-type]
                name = "scaled"

                def _compute_cos_sin_cache(self) -> torch.Tensor:
                    made: torch.Tensor = super()._compute_cos_sin_cache()
                    return made

            class Own(base):  # type: ignore[misc, valid-type]
                name = "own"

                def forward_native(
                    self, positions: Any, query: Any, key: Any = None, offsets: Any = None
                ) -> tuple[str, Any]:
                    return "native", offsets

                def forward_cuda(self, *args: Any) -> None:
                    raise AssertionError("the CUDA kernel is called on an NPU")

            class Coefficients(base):  # type: ignore[misc, valid-type]
                """Learned ones, as Fourier's: rotated natively, on CUDA too."""

                name = "coefficients"

                def forward_native(self, *_: Any) -> str:
                    return "native"

            tensors = [npu(torch.tensor([1])), npu(torch.randn(1, 32)), npu(torch.randn(1, 32))]
            scaled = Scaled(16, 16, 64, 100.0, True, torch.float32)
            scaled.cos_sin_cache = npu(scaled.cos_sin_cache)
            scaled(*tensors)
            assert device.names() == ["npu_rotary_mul", "npu_rotary_mul"]
            own = Own(16, 16, 64, 100.0, True, torch.float32)
            assert own(*tensors) == ("native", None)
            assert own(*tensors, offsets=7) == ("native", 7)
            learned = Coefficients(16, 16, 64, 100.0, True, torch.float32)
            assert learned(*tensors) == "native"
        assert device.names() == ["npu_rotary_mul", "npu_rotary_mul"]
