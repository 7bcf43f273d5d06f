# SPDX-License-Identifier: Apache-2.0
"""What a program does with tensors on a simulated NPU, against the same on the CPU."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

NPU = torch.device("npu", 0)


def same(got: Any, want: Any, **tolerance: float) -> None:
    torch.testing.assert_close(got.cpu(), want, equal_nan=True, **tolerance)


@contextlib.contextmanager
def refused(pattern: str, kind: type[Exception] = RuntimeError) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if not re.search(pattern, str(error)):
            raise AssertionError("refused for another reason") from error
    else:
        raise AssertionError("not refused")


def two() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 5), torch.randn(4, 5)


# ---- devices of operands ------------------------------------------------------------------


def check_a_host_operand_is_refused() -> None:
    a, b = two()
    cases: list[Callable[[], object]] = [
        lambda: a.to(NPU) + b,
        lambda: a + b.to(NPU),
        lambda: torch.cat([a.to(NPU), b]),
        lambda: F.linear(a.to(NPU), b),
        lambda: torch.matmul(a, b.to(NPU).t()),
        lambda: torch.where(a.to(NPU) > 0, a.to(NPU), b),
        lambda: F.embedding(torch.tensor([1]), a.to(NPU)),
        lambda: F.layer_norm(a.to(NPU), (5,), torch.ones(5)),
        lambda: torch.gather(a.to(NPU), 1, torch.zeros(4, 1, dtype=torch.long)),
        lambda: a.to(NPU).index_select(0, torch.tensor([0])),
        lambda: a.add_(b.to(NPU)),
        lambda: torch.add(a.to(NPU), 1, out=torch.empty(0)),
        lambda: torch.zeros(()).add_(a.to(NPU).sum()),
        lambda: a.to(NPU).scatter(0, torch.zeros(1, 5, dtype=torch.long), a.to(NPU)),
    ]
    for case in cases:
        with refused("Expected all tensors to be on the same device.*npu:0 and cpu"):
            case()
    with refused("Expected query, key, and value to have the same device"):
        F.scaled_dot_product_attention(a.to(NPU)[None], b[None], b[None])


def check_a_host_scalar_is_taken() -> None:
    a, _ = two()
    same(a.to(NPU) * torch.tensor(2.0), a * 2)
    same(torch.tensor(2.0) - a.to(NPU), 2 - a)
    same(torch.where(a.to(NPU) > 0, a.to(NPU), torch.tensor(0.0)), torch.where(a > 0, a, 0))
    same(a.to(NPU).masked_fill(a.to(NPU) > 0, torch.tensor(3.0)), a.masked_fill(a > 0, 3.0))


def check_host_indices_are_moved() -> None:
    a, _ = two()
    rows = torch.tensor([2, 0])
    same(a.to(NPU)[rows], a[rows])
    same(a.to(NPU)[rows.to(NPU)], a[rows])
    moved, kept = a.to(NPU), a.clone()
    moved[rows] = 7.0
    kept[rows] = 7.0
    same(moved, kept)
    with refused("npu:0 and cpu|cpu and npu:0"):
        a.to(NPU)[rows] = torch.randn(2, 5)


def check_two_devices_are_not_mixed() -> None:
    assert torch.npu.device_count() >= 2
    a, b = two()
    other = torch.device("npu", 1)
    with refused("at least two devices, npu:0 and npu:1"):
        a.to(NPU) + b.to(other)
    with refused("at least two devices, npu:0 and npu:1"):
        a.to(NPU)[torch.tensor([0], device=other)]
    same(a.to(NPU).to(other), a)
    target = torch.empty(4, 5, device=other)
    target.copy_(a.to(NPU))
    same(target, a)
    with torch.npu.device(1):
        assert torch.ones(1, device="npu").device == other
        assert torch.arange(3, device="npu").device == other
    assert torch.ones(1, device="npu").device == NPU
    with refused("nvalid device|does not exist|107001|ordinal"):
        torch.ones(1, device="npu:7")


# ---- memory, views, writes -----------------------------------------------------------------


def check_views_share_memory() -> None:
    a, _ = two()
    x = a.to(NPU)
    x[1:3].zero_()
    x.t()[0].fill_(9)
    x.view(2, 10)[0, 3] = 5
    x.unsqueeze(0).transpose(1, 2)[0, 4, 3] = -1
    a[1:3].zero_()
    a.t()[0].fill_(9)
    a.view(2, 10)[0, 3] = 5
    a[3, 4] = -1
    same(x, a)
    assert x[1:].data_ptr() == x.data_ptr() + 5 * 4
    assert x.t().contiguous().stride() == (4, 1)


def check_in_place_operators_keep_the_tensor() -> None:
    a, b = two()
    x, y = a.to(NPU), b.to(NPU)
    address = x.data_ptr()
    assert x.add_(y) is x
    x.mul_(2).relu_().clamp_(max=1.5)
    torch.addcmul(x, x, y, out=x)
    assert x.data_ptr() == address
    want = (a + b).mul(2).relu().clamp(max=1.5)
    same(x, want + want * b)


def check_out_is_resized_and_restrided() -> None:
    a, b = two()
    out = torch.empty(0, device=NPU)
    assert torch.add(a.to(NPU), b.to(NPU), out=out) is out
    same(out, a + b)
    out = torch.empty(0, dtype=torch.long, device=NPU)
    values = torch.empty(0, device=NPU)
    torch.sort(a.to(NPU), dim=1, out=(values, out))
    same(values, a.sort(1).values)
    same(out, a.sort(1).indices)
    base = torch.zeros(4, 10, device=NPU)
    torch.mul(a.to(NPU), 3, out=base[:, ::2])
    same(base[:, ::2], a * 3)
    same(base[:, 1::2], torch.zeros(4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of resizing a tensor that is not empty
        big = torch.ones(2, device=NPU)
        torch.cat([a.to(NPU), b.to(NPU)], out=big)
    same(big, torch.cat([a, b]))


def check_resize_and_set() -> None:
    x = torch.arange(6.0, device=NPU)
    x.resize_(2, 3)
    same(x, torch.arange(6.0).view(2, 3))
    x.resize_(4, 4)
    same(x.flatten()[:6], torch.arange(6.0))
    y = torch.empty(0, device=NPU).set_(x)
    assert y.data_ptr() == x.data_ptr()


def check_copies_between_host_and_device() -> None:
    a, _ = two()
    pinned = a.pin_memory()
    assert pinned.is_pinned()
    assert not a.is_pinned()
    assert not a.to(NPU).is_pinned()
    assert torch.empty(3, pin_memory=True).is_pinned()
    moved = pinned.to(NPU, non_blocking=True)
    same(moved, a)
    back = torch.empty(4, 5, pin_memory=True)
    back.copy_(moved * 2, non_blocking=True)
    torch.npu.current_stream().synchronize()
    torch.testing.assert_close(back, a * 2)
    same(a.to(NPU, torch.float16), a.half())
    same(a.t().to(NPU), a.t())
    same(torch.empty(5, 4, device=NPU).copy_(a.t()), a.t())
    same(torch.zeros(4, 5, device=NPU).copy_(a[0]), a[0].expand(4, 5))
    with refused("Only dense CPU tensors can be pinned"):
        torch.randn(3, device=NPU, pin_memory=True)


def check_save_and_load() -> None:
    a, _ = two()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "state.pt")
        torch.save({"w": a.to(NPU), "b": [torch.arange(3, device=NPU)]}, path)
        state = torch.load(path)
        assert state["w"].device == NPU
        same(state["w"], a)
        assert torch.load(path, map_location="cpu")["w"].device.type == "cpu"
        # torch_npu 2.8 loads to the current device, whatever number is asked for.
        if torch.__version__ >= "2.9":
            assert torch.load(path, map_location="npu:1")["w"].device == torch.device("npu", 1)
    buffer = io.BytesIO()
    torch.save(a, buffer)
    buffer.seek(0)
    assert torch.load(buffer, map_location="npu").device == NPU


# ---- autograd, modes -------------------------------------------------------------------------


def check_backward() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(11, 8),
        torch.nn.LayerNorm(8),
        torch.nn.Linear(8, 16),
        torch.nn.GELU(),
        torch.nn.Linear(16, 8),
    )
    x, target = torch.randint(11, (3, 4)), torch.randint(8, (12,))
    F.cross_entropy(model(x).view(12, 8), target).backward()
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    model = model.to(NPU)
    F.cross_entropy(model(x.to(NPU)).view(12, 8), target.to(NPU)).backward()
    for parameter, want in zip(model.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.device == NPU
        same(parameter.grad, want)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = next(model.parameters()).detach().clone()
    optimizer.step()
    assert not torch.equal(before, next(model.parameters()))


def check_convolution_and_norm_backward() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.MaxPool2d(2)
    )
    x = torch.randn(2, 3, 8, 8)
    want = model(x)
    want.sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    other = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.MaxPool2d(2)
    )
    other[0].load_state_dict(model[0].state_dict())
    other = other.to(NPU)
    got = other(x.to(NPU))
    same(got, want.detach(), rtol=1e-4, atol=1e-5)
    got.sum().backward()
    for parameter, grad in zip(other.parameters(), grads, strict=True):
        assert parameter.grad is not None
        same(parameter.grad, grad, rtol=1e-3, atol=1e-3)


def check_recurrent_layers() -> None:
    torch.manual_seed(0)
    for layer in (
        torch.nn.LSTM(4, 5, 2, bidirectional=True),
        torch.nn.GRU(4, 5),
        torch.nn.RNN(4, 5),
    ):
        x = torch.randn(3, 2, 4)
        want = layer(x)[0]
        want.sum().backward()
        grads = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        layer.zero_grad(set_to_none=True)
        layer.to(NPU)
        got = layer(x.to(NPU))[0]
        same(got, want.detach(), rtol=1e-4, atol=1e-5)
        got.sum().backward()
        for parameter, grad in zip(layer.parameters(), grads, strict=True):
            assert parameter.grad is not None
            same(parameter.grad, grad, rtol=1e-4, atol=1e-4)


def check_scaled_dot_product_attention() -> None:
    torch.manual_seed(0)
    mask = torch.ones(6, 6).tril().bool()
    cases: list[dict[str, Any]] = [
        {},
        {"is_causal": True},
        {"attn_mask": mask},
        {"attn_mask": torch.randn(6, 6)},
        {"scale": 0.3},
    ]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        for case in cases:
            q, k, v = (torch.randn(2, 4, 6, 8).to(dtype) for _ in range(3))
            on_cpu = [t.clone().requires_grad_() for t in (q, k, v)]
            on_npu = [t.to(NPU).requires_grad_() for t in (q, k, v)]
            case_cpu = {
                n: c.to(dtype) if isinstance(c, torch.Tensor) and c.is_floating_point() else c
                for n, c in case.items()
            }
            case_npu = {
                n: c.to(NPU) if isinstance(c, torch.Tensor) else c for n, c in case_cpu.items()
            }
            want = F.scaled_dot_product_attention(*on_cpu, **case_cpu)
            got = F.scaled_dot_product_attention(*on_npu, **case_npu)
            same(got, want.detach(), rtol=tolerance, atol=tolerance)
            want.sum().backward()
            got.sum().backward()
            for x, y in zip(on_npu, on_cpu, strict=True):
                assert x.grad is not None
                assert y.grad is not None
                same(x.grad, y.grad, rtol=10 * tolerance, atol=10 * tolerance)
    q, k = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    same(
        F.scaled_dot_product_attention(q.to(NPU), k.to(NPU), k.to(NPU), enable_gqa=True),
        F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
        rtol=1e-5,
        atol=1e-5,
    )


def check_inference_mode_and_no_grad() -> None:
    a, _ = two()
    with torch.inference_mode():
        x = a.to(NPU)
        x += 1
        y = x @ x.t()
        assert x.is_inference()
        assert y.is_inference()
        same(y, (a + 1) @ (a + 1).t(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        w = torch.nn.Parameter(a.to(NPU))
        w.mul_(2)
        assert not (w * 2).requires_grad


def check_autocast() -> None:
    a, b = two()
    with torch.autocast("npu", dtype=torch.bfloat16):
        out = a.to(NPU) @ b.to(NPU).t()
        assert out.dtype == torch.bfloat16
        assert F.softmax(out, -1).dtype == torch.float32
    same(out, a.bfloat16() @ b.bfloat16().t(), rtol=1e-2, atol=1e-1)


def check_foreach_operators() -> None:
    a, b = two()
    lists = [a.to(NPU), b.to(NPU)]
    for got, want in zip(torch._foreach_add(lists, 1.5), (a + 1.5, b + 1.5), strict=True):
        same(got, want)
    torch._foreach_mul_(lists, lists)
    same(lists[0], a * a)
    torch._foreach_copy_(lists, [b, a])
    same(lists[0], b)
    same(torch.nn.utils.get_total_norm(lists), torch.nn.utils.get_total_norm([b, a]))


def check_complex_numbers() -> None:
    a = torch.randn(3, 4, dtype=torch.complex64)
    x = a.to(NPU)
    same(x.conj() * 2j, a.conj() * 2j)
    same(x.conj().resolve_conj(), a.conj().resolve_conj())
    same(torch.view_as_real(x), torch.view_as_real(a))
    same(x @ x.t().conj(), a @ a.t().conj(), rtol=1e-4, atol=1e-5)
    same(x.abs(), a.abs())


# ---- random numbers ------------------------------------------------------------------------------


def check_seeds_reproduce() -> None:
    def draw() -> list[torch.Tensor]:
        return [
            torch.randn(5, device=NPU),
            torch.rand(5, device=NPU),
            torch.randint(100, (5,), device=NPU),
            torch.randperm(20, device=NPU),
            torch.empty(5, device=NPU).exponential_(),
            torch.multinomial(torch.ones(50, device=NPU), 5),
            torch.bernoulli(torch.full((20,), 0.5, device=NPU)),
            F.dropout(torch.ones(40, device=NPU), 0.5),
            torch.normal(0.0, torch.ones(5, device=NPU)),
        ]

    for seed in (torch.manual_seed, torch.npu.manual_seed, torch.npu.manual_seed_all):
        seed(3)
        first = draw()
        second = draw()
        seed(3)
        third = draw()
        for a, b, c in zip(first, second, third, strict=True):
            assert torch.equal(a, c)
            assert not torch.equal(a, b)
    torch.manual_seed(4)
    assert not torch.equal(first[0], draw()[0])


def check_generators_have_state() -> None:
    generator = torch.Generator(device=NPU)
    generator.manual_seed(11)
    assert generator.initial_seed() == 11
    state = generator.get_state()
    a = torch.randn(4, device=NPU, generator=generator)
    b = torch.randn(4, device=NPU, generator=generator)
    assert not torch.equal(a, b)
    assert not torch.equal(state, generator.get_state())
    generator.set_state(state)
    assert torch.equal(a, torch.randn(4, device=NPU, generator=generator))
    default = torch.npu.get_rng_state()
    c = torch.rand(4, device=NPU)
    torch.npu.set_rng_state(default)
    assert torch.equal(c, torch.rand(4, device=NPU))
    # An explicit generator leaves the default one alone.
    torch.npu.manual_seed(0)
    want = torch.rand(2, device=NPU)
    torch.npu.manual_seed(0)
    torch.rand(2, device=NPU, generator=generator)
    assert torch.equal(want, torch.rand(2, device=NPU))
    with refused("Expected a 'npu' device type for generator but found 'cpu'"):
        torch.randn(2, device=NPU, generator=torch.Generator())
    with refused("generator"):
        torch.randn(2, device=NPU, generator=torch.Generator(device="npu:1"))


def check_the_hosts_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    torch.rand(3, device=NPU)
    F.dropout(torch.ones(9, device=NPU), 0.5)
    torch.randperm(9, device=NPU)
    F.rrelu(torch.randn(9, device=NPU), training=True)
    torch.multinomial(torch.ones(9, device=NPU), 2)
    assert torch.equal(want, torch.rand(3))


def check_draws_are_distributed_as_they_should() -> None:
    torch.manual_seed(1)
    x = torch.randn(20000, device=NPU)
    assert abs(x.mean().item()) < 0.03
    assert abs(x.std().item() - 1) < 0.03
    u = torch.cat([torch.rand(10, device=NPU) for _ in range(500)])
    # Draws of consecutive calls are independent: their lag-10 correlation is small.
    centred = u - u.mean()
    assert abs((centred[10:] * centred[:-10]).mean().item() / u.var().item()) < 0.06
    kept = F.dropout(torch.ones(20000, device=NPU), 0.25)
    assert abs((kept > 0).float().mean().item() - 0.75) < 0.02


# ---- streams and events -----------------------------------------------------------------------


def check_events_measure_time() -> None:
    first, second = (torch.npu.Event(enable_timing=True) for _ in range(2))
    first.record()
    time.sleep(0.05)
    second.record()
    torch.npu.synchronize()
    assert 45 < first.elapsed_time(second) < 5000
    assert second.query()


def check_streams() -> None:
    stream = torch.npu.Stream()
    with torch.npu.stream(stream):
        assert torch.npu.current_stream() == stream
        x = torch.ones(3, device=NPU) * 2
        x.record_stream(stream)
    torch.npu.current_stream().wait_stream(stream)
    stream.synchronize()
    assert stream.query()
    same(x, torch.full((3,), 2.0))
    assert torch.npu.current_stream() != stream


def check_printing_and_python_values() -> None:
    x = torch.arange(4, device=NPU)
    assert "device='npu:0'" in repr(x)
    assert x.tolist() == [0, 1, 2, 3]
    assert x[2].item() == 2
    assert int(x.sum()) == 6
    assert bool((x >= 0).all())
    assert x.cpu().numpy().sum() == 6
    with refused("can't convert npu|Use Tensor.cpu", TypeError):
        x.numpy()
