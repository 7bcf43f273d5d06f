# SPDX-License-Identifier: Apache-2.0
"""The wrappers of the emitted `vllm/_custom_ops.py`, on NPU tensors and on others."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch

from tests.emitted.inside import Call, CudaTensor, Recorder, TorchNpu, cuda, npu, rotate, same, vllm

RELEASES = ("0.9.2", "0.11.0", "0.33.0")
TOKENS, HEADS, KV_HEADS, SIZE = 5, 4, 2, 16


def angles_of(rotary_dim: int) -> torch.Tensor:
    """[64 positions, rotary_dim / 2] angles in radians, none of them near a whole turn."""
    frequencies = 100.0 ** (-torch.arange(0, rotary_dim, 2).double() / rotary_dim)
    return torch.outer(torch.arange(64).double(), frequencies) * 0.037


def cache_of(rotary_dim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    angles = angles_of(rotary_dim)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


def turned(tensor: torch.Tensor, angles: torch.Tensor, neox: bool, start: int = 0) -> torch.Tensor:
    """What rotating a part of each head gives, computed apart from the code under test."""
    tokens = angles.shape[0]
    heads = tensor.reshape(tokens, -1, SIZE).clone()
    stop = start + 2 * angles.shape[1]
    heads[..., start:stop] = rotate(heads[..., start:stop], angles, neox)
    return heads.reshape(tensor.shape)


class Layout:
    """Query and key inside of one fused projection, or apart, in one of vLLM's shapes."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        query, key = HEADS * SIZE, KV_HEADS * SIZE
        self.positions = torch.tensor([3, 0, 41, 7, 7])
        self.whole: torch.Tensor | None = None
        if name.startswith("fused"):
            self.whole = torch.randn(TOKENS, query + 2 * key, dtype=dtype)
            self.query = self.whole[:, :query]
            self.key = self.whole[:, query : query + key]
        else:
            self.query, self.key = (
                torch.randn(TOKENS, query, dtype=dtype),
                torch.randn(TOKENS, key, dtype=dtype),
            )
        if name.endswith("heads"):
            self.query = self.query.view(TOKENS, HEADS, SIZE)
            self.key = self.key.view(TOKENS, KV_HEADS, SIZE)
        if name == "one token":
            self.query, self.key = self.query[:1], self.key[:1]
            self.positions = self.positions[:1]
        if name == "batched":
            self.query = torch.randn(2, 3, query, dtype=dtype)
            self.key = torch.randn(2, 3, key, dtype=dtype)
            self.positions = torch.tensor([[0, 1, 2], [9, 10, 11]])


LAYOUTS = ("apart", "apart heads", "fused", "fused heads", "one token", "batched")


CLOSE = {torch.float32: {}, torch.bfloat16: {"rtol": 2e-2, "atol": 4e-2}}
"""How near a result has to be, by the type that it is computed in."""


def operators(dtype: torch.dtype, *, with_key: bool) -> list[str]:
    """NNAL's operator for 16-bit tensors, else one call for the query and one for the key."""
    if dtype == torch.bfloat16:
        return ["_npu_rotary_embedding"]
    return ["npu_rotary_mul"] * (2 if with_key else 1)


def check_rotary_embedding() -> None:
    """In place on every layout, on whole heads and on a part, with a key and without."""
    for release, name, rotary_dim, neox, with_key, dtype in itertools.product(
        RELEASES, LAYOUTS, (SIZE, SIZE // 2), (True, False), (True, False), CLOSE
    ):
        layout = Layout(name, dtype)
        beyond = None if layout.whole is None else layout.whole[:, -KV_HEADS * SIZE :].clone()
        angles = angles_of(rotary_dim)[layout.positions.flatten()]
        want_query = turned(layout.query, angles, neox)
        want_key = turned(layout.key, angles, neox)
        kept_key = layout.key.clone()
        device = TorchNpu()
        kernels = Recorder("rotary_embedding")
        # One wrapper for the fused projection: query and key are views of it on the device too.
        query, key = npu(layout.query), npu(layout.key)
        with vllm(release, torch_npu=device, kernels=kernels) as load:
            ops = load("vllm._custom_ops")
            result = ops.rotary_embedding(
                npu(layout.positions),
                query,
                key if with_key else None,
                SIZE,
                npu(cache_of(rotary_dim, dtype)),
                neox,
            )
        case = (release, name, rotary_dim, neox, with_key, dtype)
        assert result is None, case
        assert device.names() == operators(dtype, with_key=with_key), case
        assert kernels.calls == [], case
        _, args, kwargs = device.calls[0]
        if dtype == torch.bfloat16:
            assert args[3:4] + args[5:] == (rotary_dim, neox), case
            assert kwargs == {}, case
        else:
            assert kwargs == {"rotary_mode": "half" if neox else "interleave"}, case
        same(layout.query, want_query, **CLOSE[dtype])
        same(layout.key, want_key if with_key else kept_key, **CLOSE[dtype])
        if beyond is not None:
            assert layout.whole is not None
            same(layout.whole[:, -KV_HEADS * SIZE :], beyond)


def check_a_second_cache_is_not_rotated_by_the_first() -> None:
    """The operator keeps the first cache of a process: others, and inverses, go past it."""
    dtype = torch.bfloat16
    device = TorchNpu()
    with vllm("0.33.0", torch_npu=device) as load:
        ops = load("vllm._custom_ops")
        caches = [npu(cache_of(SIZE, dtype)), npu(cache_of(8, dtype))]
        scaled = angles_of(SIZE) * 3
        caches.append(npu(torch.cat([scaled.cos(), scaled.sin()], dim=-1).to(dtype)))
        for which, inverse in ((0, False), (2, False), (1, False), (0, True), (0, False)):
            layout = Layout("fused", dtype)
            angles = (angles_of(SIZE), angles_of(8), scaled)[which][layout.positions]
            angles = -angles if inverse else angles
            want = turned(layout.query, angles, True), turned(layout.key, angles, True)
            device.calls.clear()
            ops.rotary_embedding(
                npu(layout.positions),
                npu(layout.query),
                npu(layout.key),
                SIZE,
                caches[which],
                True,
                inverse=inverse,
            )
            first = which == 0 and not inverse
            assert (device.names() == ["_npu_rotary_embedding"]) is first
            same(layout.query, want[0], **CLOSE[dtype])
            same(layout.key, want[1], **CLOSE[dtype])


def check_without_nnal() -> None:
    """Without NNAL `_npu_rotary_embedding` is there and raises; a switch turns NNAL off."""
    cases: tuple[tuple[bool, dict[str, Any]], ...] = (
        (False, {}),
        (True, {"VLLM_NPU_USE_NNAL": False}),
    )
    for nnal, switches in cases:
        device = TorchNpu(nnal=nnal)
        layout = Layout("fused", torch.bfloat16)
        want = turned(layout.query, angles_of(SIZE)[layout.positions], False)
        with vllm("0.11.0", torch_npu=device, switches=switches) as load:
            load("vllm._custom_ops").rotary_embedding(
                npu(layout.positions),
                npu(layout.query),
                npu(layout.key),
                SIZE,
                npu(cache_of(SIZE, torch.bfloat16)),
                False,
            )
        assert device.names() == ["npu_rotary_mul"] * 2
        same(layout.query, want, **CLOSE[torch.bfloat16])


def check_nnal_that_is_asked_for_and_not_there() -> None:
    for wanted, installed in itertools.product((None, True, False), (True, False)):
        switches = {"VLLM_NPU_USE_NNAL": wanted}
        with vllm("0.33.0", torch_npu=TorchNpu(nnal=installed), switches=switches) as load:
            module = load("vllm.platforms.npu_nnal")
            assert module.uses_nnal() is (installed if wanted is None else wanted)
            said = ""
            try:
                module.check_nnal()
            except ValueError as error:
                said = str(error)
            assert bool(said) is (wanted is True and not installed)
            assert "\n" not in said
            if said:
                assert "VLLM_NPU_USE_NNAL=1" in said


def check_whole_contiguous_heads_are_not_copied() -> None:
    layout = Layout("apart", torch.bfloat16)
    device = TorchNpu()
    with vllm("0.11.0", torch_npu=device) as load:
        query, key = npu(layout.query), npu(layout.key)
        load("vllm._custom_ops").rotary_embedding(
            npu(layout.positions), query, key, SIZE, npu(cache_of(SIZE, torch.bfloat16)), True
        )
    _, args, _ = device.calls[0]
    assert args[1].inner.data_ptr() == layout.query.data_ptr()
    assert args[2].inner.data_ptr() == layout.key.data_ptr()


def check_cache_takes_the_querys_type() -> None:
    layout = Layout("fused")
    query, key = layout.query.bfloat16(), layout.key.bfloat16()
    angles = angles_of(SIZE)[layout.positions]
    want = turned(query.float(), angles, True)
    device = TorchNpu()
    with vllm("0.11.0", torch_npu=device) as load:
        load("vllm._custom_ops").rotary_embedding(
            npu(layout.positions), npu(query), npu(key), SIZE, npu(cache_of(SIZE)), True
        )
    same(query.float(), want, rtol=2e-2, atol=4e-2)
    assert query.dtype == torch.bfloat16


def check_rope_dim_offset_and_inverse() -> None:
    for name, rotary_dim, offset, inverse, neox in itertools.product(
        LAYOUTS, (SIZE // 2, SIZE // 4), (0, 4, 8), (True, False), (True, False)
    ):
        layout = Layout(name)
        angles = angles_of(rotary_dim)[layout.positions.flatten()]
        angles = -angles if inverse else angles
        want_query = turned(layout.query, angles, neox, offset)
        want_key = turned(layout.key, angles, neox, offset)
        device = TorchNpu()
        with vllm("0.33.0", torch_npu=device) as load:
            load("vllm._custom_ops").rotary_embedding(
                npu(layout.positions),
                npu(layout.query),
                npu(layout.key),
                SIZE,
                npu(cache_of(rotary_dim)),
                neox,
                rope_dim_offset=offset,
                inverse=inverse,
            )
        same(layout.query, want_query)
        same(layout.key, want_key)


def check_inverse_undoes() -> None:
    layout = Layout("fused heads")
    before = layout.query.clone()
    with vllm("0.33.0", torch_npu=TorchNpu()) as load:
        ops = load("vllm._custom_ops")
        for inverse in (False, True):
            ops.rotary_embedding(
                npu(layout.positions),
                npu(layout.query),
                None,
                SIZE,
                npu(cache_of(8)),
                False,
                8,
                inverse,
            )
            assert torch.allclose(layout.query, before, atol=1e-5) is inverse


def check_batched_rotary_embedding() -> None:
    """Each token's offset chooses its part of a cache that holds several scalings."""
    for rotary_dim, neox, with_key in itertools.product((SIZE, 8), (True, False), (True, False)):
        layout = Layout("fused")
        offsets = torch.tensor([0, 16, 8, 0, 32])
        angles = angles_of(rotary_dim)[layout.positions + offsets]
        want, want_key = turned(layout.query, angles, neox), turned(layout.key, angles, neox)
        kept = layout.key.clone()
        positions = layout.positions.clone()
        device = TorchNpu()
        with vllm("0.9.2", torch_npu=device) as load:
            load("vllm._custom_ops").batched_rotary_embedding(
                npu(positions),
                npu(layout.query),
                npu(layout.key) if with_key else None,
                SIZE,
                npu(cache_of(rotary_dim)),
                neox,
                rotary_dim,
                npu(offsets),
            )
        assert device.names() == operators(torch.float32, with_key=with_key)
        same(layout.query, want)
        same(layout.key, want_key if with_key else kept)
        same(positions, layout.positions)


def norm(data: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    rows = data.double()
    result = rows / (rows.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    return (result if weight is None else result * weight.double()).to(data.dtype)


def takes_no_weight(function: Callable[..., Any]) -> bool:
    return "None" in str(inspect.signature(function).parameters["weight"].annotation)


def check_rms_norm() -> None:
    for release in RELEASES:
        data, weight = torch.randn(6, 8)[:, :4], torch.randn(4)
        out = torch.full((6, 4), torch.nan)
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            target = npu(out)
            result = load("vllm._custom_ops").rms_norm(target, npu(data), npu(weight), 0.25)
        assert result is None
        assert device.names() == ["npu_rms_norm"]
        assert device.calls[0][1][2] == 0.25
        same(out, norm(data, weight, 0.25))


def check_fused_add_rms_norm() -> None:
    for release in RELEASES:
        data, residual, weight = torch.randn(6, 4), torch.randn(6, 4), torch.randn(4)
        total = data + residual
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            result = load("vllm._custom_ops").fused_add_rms_norm(
                npu(data), npu(residual), npu(weight), 0.25
            )
        assert result is None
        assert device.names() == ["npu_add_rms_norm"]
        assert device.calls[0][1][3] == 0.25
        same(data, norm(total, weight, 0.25))
        same(residual, total)


def check_norms_of_what_no_operator_takes() -> None:
    """No rows, rows with gaps, and a weight or residual of another dtype."""
    for release in RELEASES:
        device = TorchNpu()
        with vllm(release, torch_npu=device) as load:
            ops = load("vllm._custom_ops")
            nothing = npu(torch.empty(0, 4))
            ops.rms_norm(nothing, nothing, npu(torch.randn(4)), 0.25)
            ops.fused_add_rms_norm(nothing, nothing, npu(torch.randn(4)), 0.25)
            assert device.calls == []
            data, weight = torch.randn(6, 3, 8).bfloat16()[..., :4], torch.randn(4)
            out = torch.empty(6, 3, 4).bfloat16()
            ops.rms_norm(npu(out), npu(data), npu(weight), 0.25)
            same(out, norm(data.double(), weight, 0.25).bfloat16())
            residual = torch.randn(4, 3, 6).bfloat16().transpose(0, 2)
            total = data.float() + residual.float()
            ops.fused_add_rms_norm(npu(data), npu(residual), npu(weight), 0.25)
            same(data, norm(total.double(), weight, 0.25).bfloat16())
            same(residual, total.bfloat16())


def check_missing_weight() -> None:
    data, residual, out = torch.randn(6, 4), torch.randn(6, 4), torch.empty(6, 4)
    total = data + residual
    with vllm("0.33.0", torch_npu=TorchNpu()) as load:
        ops = load("vllm._custom_ops")
        assert takes_no_weight(ops.rms_norm)
        assert takes_no_weight(ops.fused_add_rms_norm)
        ops.rms_norm(npu(out), npu(data), None, 0.5)
        same(out, norm(data, None, 0.5))
        ops.fused_add_rms_norm(npu(data), npu(residual), None, 0.5)
    same(data, norm(total, None, 0.5))
    same(residual, total)


def check_repetition_penalties_of_npu_tensors_are_torchs() -> None:
    for release in ("0.11.0", "0.33.0"):
        kernels = Recorder("apply_repetition_penalties_")
        logits = torch.tensor([[2.0, -2.0, 1.0]])
        mask, none = torch.tensor([[True, True, False]]), torch.zeros(1, 3, dtype=torch.bool)
        with vllm(release, torch_npu=TorchNpu(), kernels=kernels) as load:
            load("vllm._custom_ops").apply_repetition_penalties(
                npu(logits), npu(mask), npu(none), npu(torch.tensor([2.0]))
            )
        same(logits, torch.tensor([[1.0, -4.0, 1.0]]))
        assert kernels.calls == []


# ---- other devices: as before ----------------------------------------------------------------


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        layouts = (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        return type(one) is type(other) and layouts and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def same_calls(release: str, name: str, operators: tuple[str, ...], *args: Any) -> list[Call]:
    """Call a wrapper of the pristine and of the emitted file, and compare what they call."""
    seen = []
    for kind in ("pristine", "emitted"):
        kernels = Recorder(*operators)
        with vllm(release, kind, kernels=kernels, device_type="cuda") as load:
            ops = load("vllm._custom_ops")
            if kind == "emitted":
                assert ops.torch_npu is None
            assert getattr(ops, name)(*args) is None
        seen.append(kernels.calls)
    before, after = seen
    assert [c[0] for c in before] == [c[0] for c in after]
    for (_, one, ones), (_, other, others) in zip(before, after, strict=True):
        assert len(one) == len(other)
        assert all(a is b or equal(a, b) for a, b in zip(one, other, strict=True))
        assert ones.keys() == others.keys()
        assert all(equal(ones[k], others[k]) for k in ones)
    return after


def check_cuda_tensors_reach_the_kernels_as_before() -> None:
    for release in RELEASES:
        layout = Layout("fused")
        for key in (cuda(layout.key), None):
            tensors = (cuda(layout.positions), cuda(layout.query), key)
            rest: tuple[Any, ...] = (SIZE, cuda(cache_of(SIZE)), True)
            calls = same_calls(release, "rotary_embedding", ("rotary_embedding",), *tensors, *rest)
            assert [c[0] for c in calls] == ["rotary_embedding"]
            assert all(a is b for a, b in zip(calls[0][1], (*tensors, *rest), strict=True))
        data, residual, out = (cuda(torch.randn(6, 8)[:, :4]) for _ in range(3))
        weight = cuda(torch.randn(4))
        calls = same_calls(release, "rms_norm", ("rms_norm",), out, data, weight, 0.5)
        assert [c[0] for c in calls] == ["rms_norm"]
        assert calls[0][1][0] is out
        calls = same_calls(
            release,
            "fused_add_rms_norm",
            ("fused_add_rms_norm",),
            data,
            residual,
            weight,
            0.5,
        )
        assert calls == [("fused_add_rms_norm", (data, residual, weight, 0.5), {})] or all(
            a is b for a, b in zip(calls[0][1], (data, residual, weight, 0.5), strict=True)
        )


def check_newer_rotary_arguments_reach_the_kernel_as_before() -> None:
    layout = Layout("apart")
    tensors = (cuda(layout.positions), cuda(layout.query), cuda(layout.key))
    for offset, inverse in ((0, False), (4, False), (0, True)):
        rest = (SIZE, cuda(cache_of(8)), True, offset, inverse)
        calls = same_calls("0.33.0", "rotary_embedding", ("rotary_embedding",), *tensors, *rest)
        given = len(calls[0][1])
        assert given == (8 if offset or inverse else 6)


def check_batched_rotary_reaches_the_kernel_as_before() -> None:
    layout = Layout("apart")
    tensors = (cuda(layout.positions), cuda(layout.query), cuda(layout.key))
    rest = (SIZE, cuda(cache_of(8)), True, 8, cuda(torch.zeros(TOKENS, dtype=torch.long)))
    name = "batched_rotary_embedding"
    calls = same_calls("0.9.2", name, (name,), *tensors, *rest)
    assert [c[0] for c in calls] == [name]


def check_repetition_penalties_of_cuda_tensors_reach_the_kernel() -> None:
    for release in ("0.11.0", "0.33.0"):
        name = "apply_repetition_penalties_"
        mask = cuda(torch.ones(1, 3, dtype=torch.bool))
        args = (cuda(torch.randn(1, 3)), mask, mask, cuda(torch.tensor([2.0])))
        calls = same_calls(release, "apply_repetition_penalties", (name,), *args)
        assert [c[0] for c in calls] == [name]
        assert all(isinstance(a, CudaTensor) for a in calls[0][1])


def check_repetition_penalties_of_strided_cuda_tensors_are_torchs() -> None:
    for release in ("0.11.0", "0.33.0"):
        wide = torch.tensor([[2.0, 0.0, -2.0, 0.0]])
        mask = cuda(torch.ones(1, 2, dtype=torch.bool))
        same_calls(
            release,
            "apply_repetition_penalties",
            (),
            cuda(wide)[:, ::2],
            mask,
            mask,
            cuda(torch.tensor([2.0])),
        )
        same(wide, torch.tensor([[0.5, 0.0, -8.0, 0.0]]))  # by the pristine file and the emitted


def check_host_tensors_go_where_they_went() -> None:
    for release in RELEASES:
        data, weight, out = torch.randn(6, 4), torch.randn(4), torch.empty(6, 4)
        calls = same_calls(release, "rms_norm", ("rms_norm",), out, data, weight, 0.5)
        assert [c[0] for c in calls] == ["rms_norm"]


def check_host_tensors_go_where_they_went_with_torch_npu_too() -> None:
    for release in RELEASES:
        kernels, device = Recorder("rms_norm"), TorchNpu()
        with vllm(release, torch_npu=device, kernels=kernels) as load:
            load("vllm._custom_ops").rms_norm(
                torch.empty(6, 4), torch.randn(6, 4), torch.randn(4), 0.5
            )
        assert (device.calls, [c[0] for c in kernels.calls]) == ([], ["rms_norm"])
