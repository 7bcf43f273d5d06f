# SPDX-License-Identifier: Apache-2.0
"""Each reference operator against float64 arithmetic done another way: element by element.

Every call goes through the dispatcher on npu tensors, so the wheel's meta kernel is compared on
the way; the last check counts that none was left out.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_npu
from torch import Tensor

from ascend_sim import operators
from ascend_sim.operators import _registry, rotary

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)
EPS32 = torch.finfo(torch.float32).eps
called: set[str] = set()


def npu(tensor: Tensor) -> Tensor:
    return tensor.to("npu")


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an operator of the wheel by namespace and name, and note that it was tested."""
    called.add(name)
    return operators.REGISTRY[name].overload(*args, **kwargs)


def takes(name: str, argument: str) -> bool:
    """Whether this wheel's operator has an argument; older wheels lack some."""
    return any(a.name == argument for a in operators.REGISTRY[name].overload._schema.arguments)


def exists(name: str) -> bool:
    """Whether this wheel has an operator at all."""
    try:
        return bool(operators.REGISTRY[name].overload)
    except AttributeError:
        return False


def rand(rng: random.Random, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randn(shape, generator=generator).to(dtype)


def wide(tensor: Tensor) -> Any:
    """Nested lists of Python floats, which are float64."""
    return tensor.cpu().double().tolist()


def close(got: Tensor, want: Any, *, terms: int = 1, size: float = 1.0) -> None:
    """One rounding to the result's dtype, and float32 sums of `terms` numbers up to `size`."""
    wanted = torch.tensor(want, dtype=torch.float64).reshape(got.shape)
    found = got.cpu().double()
    if not got.dtype.is_floating_point:
        assert torch.equal(found, wanted), (found, wanted)
        return
    info = torch.finfo(got.dtype)
    # Products, exponentials and sums each round in float32: a unit for every term.
    slack = EPS32 * (terms + 8) * max(size, 1e-30) + info.smallest_normal * info.eps
    limit = info.eps * wanted.abs() + slack
    same = (found - wanted).abs() <= limit
    same |= (found == wanted) | (found.isnan() & wanted.isnan())
    if not same.all():
        worst = ((found - wanted).abs() / limit).nan_to_num(0).argmax()
        raise AssertionError(
            f"{got.dtype} {tuple(got.shape)}: {(~same).sum()} values differ, the worst "
            f"{found.flatten()[worst]} from {wanted.flatten()[worst]}, limit "
            f"{limit.flatten()[worst]}"
        )


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The body is refused by a RuntimeError that has every one of `parts` in it."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
    else:
        raise AssertionError(f"not refused: {parts}")
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"


@contextlib.contextmanager
def relaxed(what: str) -> Iterator[None]:
    before = os.environ.get("ASCEND_SIM_RELAX")
    os.environ["ASCEND_SIM_RELAX"] = what
    try:
        yield
    finally:
        if before is None:
            del os.environ["ASCEND_SIM_RELAX"]
        else:
            os.environ["ASCEND_SIM_RELAX"] = before


def sweep(count: int) -> Iterator[tuple[random.Random, torch.dtype]]:
    """Seeds for each dtype."""
    for seed in range(count):
        for dtype in FLOATS:
            yield random.Random(f"{seed} {dtype}"), dtype


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


# ---- norms -------------------------------------------------------------------------------------


def _rms(row: list[float], gamma: list[float], eps: float) -> tuple[list[float], float]:
    scale = 1 / math.sqrt(sum(v * v for v in row) / len(row) + eps)
    return [v * scale * g for v, g in zip(row, gamma, strict=True)], scale


def _rms_case(rng: random.Random, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, int]:
    lead = [rng.randint(1, 4) for _ in range(rng.randint(1, 2))]
    tail = [rng.randint(1, 9) for _ in range(rng.randint(1, 2))]
    x = rand(rng, *lead, *tail, dtype=dtype) * 2 ** rng.randint(-3, 3)
    return x, rand(rng, *tail, dtype=dtype), rng.choice([1e-6, 1e-5]), math.prod(tail)


def check_rms_norm() -> None:
    for rng, dtype in sweep(12):
        x, gamma, eps, width = _rms_case(rng, dtype)
        y, rstd = call("npu::npu_rms_norm", npu(x), npu(gamma), eps)
        rows = [_rms(row, wide(gamma.flatten()), eps) for row in wide(x.reshape(-1, width))]
        size = max(abs(v) for row, _ in rows for v in row)
        close(y, [row for row, _ in rows], terms=width, size=size)
        close(rstd, [s for _, s in rows], terms=width, size=max(s for _, s in rows))
        assert rstd.shape == x.shape[: x.dim() - gamma.dim()] + (1,) * gamma.dim()
        y, _ = call("npu::npu_gemma_rms_norm", npu(x), npu(gamma), epsilon=eps)
        rows = [
            _rms(row, [1 + g for g in wide(gamma.flatten())], eps)
            for row in wide(x.reshape(-1, width))
        ]
        size = max(abs(v) for row, _ in rows for v in row)
        close(y, [row for row, _ in rows], terms=width, size=size)


def check_add_rms_norm() -> None:
    for rng, dtype in sweep(12):
        x, gamma, eps, width = _rms_case(rng, dtype)
        other = rand(rng, *x.shape, dtype=dtype)
        y, rstd, total = call("npu::npu_add_rms_norm", npu(x), npu(other), npu(gamma), eps)
        sums = (x.double() + other.double()).reshape(-1, width).tolist()
        rows = [_rms(row, wide(gamma.flatten()), eps) for row in sums]
        size = max(abs(v) for row, _ in rows for v in row)
        close(y, [row for row, _ in rows], terms=width, size=size)
        close(rstd, [s for _, s in rows], terms=width, size=max(s for _, s in rows))
        close(total, sums, size=max(abs(v) for row in sums for v in row))


def check_rms_norm_is_linear_in_memory() -> None:
    # A row of a view that is not contiguous is the row that the view shows.
    x = rand(random.Random(0), 6, 8)
    got, _ = torch_npu.npu_rms_norm(npu(x).t(), npu(torch.ones(6)))
    want, _ = torch_npu.npu_rms_norm(npu(x.t().contiguous()), npu(torch.ones(6)))
    assert torch.equal(got.cpu(), want.cpu())


def check_norm_refusals() -> None:
    x, g = npu(torch.ones(2, 4)), npu(torch.ones(4))
    with refused("npu_rms_norm", "'gamma'", "a tensor on the NPU", "cpu"):
        torch_npu.npu_rms_norm(x, g.cpu())
    with refused("npu_rms_norm", "'gamma'", "dtype of input, float32", "float16"):
        torch_npu.npu_rms_norm(x, g.half())
    with refused("npu_rms_norm", "'gamma'", "last dimensions of input (2, 4)", "(3,)"):
        torch_npu.npu_rms_norm(x, g[:3])
    with refused("npu_rms_norm", "'input'", "dtype float16 or bfloat16 or float32", "int32"):
        torch_npu.npu_rms_norm(x.int(), g.int())
    with refused("npu_add_rms_norm", "'x2'", "shape (2, 4)", "(1, 4)"):
        torch_npu.npu_add_rms_norm(x, x[:1], g)
    with refused("npu_gemma_rms_norm", "'input'", "contiguous"):
        torch_npu.npu_gemma_rms_norm(npu(torch.ones(4, 2)).t(), g)
    with refused("npu_gemma_rms_norm", "'input'", "not empty"):
        torch_npu.npu_gemma_rms_norm(x[:0], g)


# ---- activations -------------------------------------------------------------------------------


def check_swiglu() -> None:
    for rng, dtype in sweep(8):
        shape = [rng.randint(1, 4) * 2 for _ in range(rng.randint(1, 3))]
        dim = rng.randrange(-len(shape), len(shape))
        x = rand(rng, *shape, dtype=dtype) * 3
        y = call("npu::npu_swiglu", npu(x), dim)
        half = shape[dim] // 2
        moved = x.double().movedim(dim, 0)
        want = torch.empty_like(moved[:half])
        for i in range(half):
            a, b = moved[i].flatten(), moved[half + i].flatten()
            want[i] = torch.tensor(
                [p * sigmoid(p) * q for p, q in zip(a.tolist(), b.tolist(), strict=True)],
                dtype=torch.float64,
            ).view(moved[i].shape)
        close(y, want.movedim(0, dim).tolist(), size=float(want.abs().max()))


def _gelu(x: float, tanh: bool) -> float:
    if tanh:
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def check_geglu() -> None:
    for rng, dtype in sweep(8):
        rows, half, left = rng.randint(1, 4), rng.randint(1, 5), rng.random() < 0.5
        tanh = rng.random() < 0.5
        x = rand(rng, rows, 2 * half, dtype=dtype) * 3
        y, alone = call("npu::npu_geglu", npu(x), -1, int(tanh), left)
        gates, want = [], []
        for row in wide(x):
            a, b = row[:half], row[half:]
            gate = [_gelu(v, tanh) for v in (a if left else b)]
            gates.append(gate)
            want.append([g * v for g, v in zip(gate, b if left else a, strict=True)])
        close(alone, gates, size=16)
        close(y, want, size=100)
    default, _ = torch_npu.npu_geglu(npu(x))
    close(
        default,
        [_gelu(b, True) * a for r in wide(x) for a, b in zip(r[:half], r[half:], strict=True)],
        size=100,
    )


def check_clipped_swiglu() -> None:
    for rng, dtype in sweep(6):
        rows, width = rng.randint(1, 5), rng.randint(1, 5) * 2
        x = rand(rng, rows, width, dtype=dtype) * 6
        interleaved = rng.random() < 0.5
        used = rng.randint(0, rows)
        parts = npu(torch.tensor([used // 2, used - used // 2]))
        y = call(
            "npu::npu_clipped_swiglu",
            npu(x),
            group_index=parts,
            alpha=1.5,
            limit=5.0,
            bias=0.5,
            interleaved=interleaved,
        )
        want = []
        for n, row in enumerate(wide(x)):
            for i in range(width // 2):
                a, b = (
                    (row[2 * i], row[2 * i + 1]) if interleaved else (row[i], row[width // 2 + i])
                )
                a, b = min(a, 5.0), max(-5.0, min(b, 5.0))
                want.append(a * sigmoid(1.5 * a) * (b + 0.5) if n < used else math.nan)
        close(y, want, size=30)


def check_pointwise() -> None:
    formulas: dict[str, Callable[[float], float]] = {
        "npu::npu_fast_gelu": lambda v: v * sigmoid(1.702 * v),
        "npu::fast_gelu": lambda v: v * sigmoid(1.702 * v),
        "npu::npu_silu": lambda v: v * sigmoid(v),
        "npu::npu_gelu": lambda v: _gelu(v, False),
    }
    for rng, dtype in sweep(4):
        x = rand(rng, rng.randint(1, 4), rng.randint(1, 9), dtype=dtype) * 4
        for name, formula in formulas.items():
            close(call(name, npu(x)), [formula(v) for v in wide(x.flatten())], size=16)
        tanh = [_gelu(v, True) for v in wide(x.flatten())]
        close(call("npu::npu_gelu", npu(x), approximate="tanh"), tanh, size=16)
        own = npu(x)
        before = own.data_ptr()
        result = call("npu::npu_silu_", own)
        assert result.data_ptr() == before
        close(own, [v * sigmoid(v) for v in wide(x.flatten())], size=16)
        filled = call("npu::one_", own)
        assert filled.data_ptr() == before
        assert (own == 1).all()


def check_activation_refusals() -> None:
    with refused("npu_swiglu", "'input'", "even size in dimension -1", "(2, 3)"):
        torch_npu.npu_swiglu(npu(torch.ones(2, 3)))
    with refused("npu_swiglu", "'dim'", "rank 2", "2"):
        torch_npu.npu_swiglu(npu(torch.ones(2, 4)), dim=2)
    with refused("npu_swiglu", "'input'", "dtype", "int64"):
        torch_npu.npu_swiglu(npu(torch.ones(2, 4, dtype=torch.int64)))
    with refused("npu_clipped_swiglu", "'group_index'", "at most 2", "3"):
        torch_npu.npu_clipped_swiglu(npu(torch.ones(2, 4)), group_index=npu(torch.tensor([3])))
    with refused("npu_clipped_swiglu", "'x'", "contiguous"):
        torch_npu.npu_clipped_swiglu(npu(torch.ones(4, 4)).t())
    with refused("npu_gelu", "'approximate'", "'none' or 'tanh'"):
        torch_npu.npu_gelu(npu(torch.ones(2)), approximate="erf")


# ---- rotary embeddings -------------------------------------------------------------------------


def _turned(
    head: Sequence[float], cos: Sequence[float], sin: Sequence[float], neox: bool
) -> list[float]:
    """One head rotated by angles given as cos and sin of each pair."""
    half = len(cos)
    out = list(head)
    for i in range(half):
        a, b = (i, half + i) if neox else (2 * i, 2 * i + 1)
        out[a] = head[a] * cos[i] - head[b] * sin[i]
        out[b] = head[b] * cos[i] + head[a] * sin[i]
    return out


def _angles(rng: random.Random, positions: int, dim: int, dtype: torch.dtype) -> Tensor:
    angle = rand(rng, positions, dim // 2) * 3
    return torch.cat((angle.cos(), angle.sin()), -1).to(dtype)


def check_rotary_embedding() -> None:
    for seed, dtype in itertools.product(range(6), HALVES):
        rng = random.Random(seed)
        rotary.forget_cos_sin_cache()
        dim, tokens, kv = rng.choice([16, 64]), rng.randint(1, 6), rng.randint(1, 2)
        heads = kv * rng.randint(1, 3)
        neox = rng.random() < 0.5
        cache = _angles(rng, 32, dim, torch.float32 if dtype == torch.float16 else dtype)
        query = rand(rng, tokens, heads * dim, dtype=dtype)
        key = rand(rng, tokens, kv * dim, dtype=dtype)
        positions = torch.tensor([rng.randrange(32) for _ in range(tokens)])
        q, k = npu(query), npu(key)
        head_size = dim if not neox else rng.choice([dim, 2 * dim])
        result = call(
            "atb::_npu_rotary_embedding", npu(positions), q, k, head_size, npu(cache), neox
        )
        assert result is None
        for got, given in ((q, query), (k, key)):
            want = []
            for t, row in enumerate(wide(given)):
                angle = wide(cache)[positions[t]]
                for h in range(0, len(row), dim):
                    head = row[h : h + dim]
                    want += _turned(head, angle[: dim // 2], angle[dim // 2 :], neox)
            close(got, want, size=8)
    rotary.forget_cos_sin_cache()


def check_rotary_embedding_keeps_the_first_cache() -> None:
    rotary.forget_cos_sin_cache()
    rng = random.Random(1)
    first, second = (_angles(rng, 8, 16, torch.float16) for _ in range(2))
    q = npu(rand(rng, 2, 32, dtype=torch.float16))
    positions = npu(torch.tensor([1, 3]))

    def rotate(cache: Tensor) -> None:
        torch_npu._npu_rotary_embedding(positions, q, q.clone(), 16, npu(cache), True)

    rotate(first)
    rotate(first.clone())
    with refused("_npu_rotary_embedding", "'cos_sin_cache'", "passed first"):
        rotate(second)
    # Rows that are not used may differ: a longer cache of the same model is fine.
    rotate(torch.cat((first, second)))
    rotary.forget_cos_sin_cache()
    rotate(second)
    rotary.forget_cos_sin_cache()


def check_rotary_mul() -> None:
    for rng, dtype in sweep(6):
        b, s, n, d = rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 3), rng.choice([4, 16])
        neox = rng.random() < 0.5
        x = rand(rng, b, s, n, d, dtype=dtype)
        angle = rand(rng, s, d // 2)
        both = (angle.cos(), angle.sin())
        cos, sin = (
            (t.repeat(1, 2) if neox else t.repeat_interleave(2, 1)).view(1, s, 1, d).to(dtype)
            for t in both
        )
        y = call(
            "npu::npu_rotary_mul", npu(x), npu(cos), npu(sin), "half" if neox else "interleave"
        )
        step = slice(0, d // 2) if neox else slice(0, d, 2)
        want = [
            _turned(wide(x)[i][j][h], wide(cos)[0][j][0][step], wide(sin)[0][j][0][step], neox)
            for i in range(b)
            for j in range(s)
            for h in range(n)
        ]
        close(y, want, size=8)
    if not takes("npu::npu_rotary_mul", "rotate"):
        return
    # A matrix in place of the mode.
    x = rand(random.Random(3), 1, 2, 1, 4)
    r1, r2 = rand(random.Random(4), 1, 2, 1, 4), rand(random.Random(5), 1, 2, 1, 4)
    swap = torch.eye(4)[[1, 0, 3, 2]]
    y = torch_npu.npu_rotary_mul(npu(x), npu(r1), npu(r2), "interleave", npu(swap))
    close(
        y, (x.double() * r1.double() + x[..., [1, 0, 3, 2]].double() * r2.double()).tolist(), size=8
    )


def check_interleave_rope() -> None:
    for seed, dtype in itertools.product(range(3), HALVES):
        rng = random.Random(seed)
        b, n, s = rng.randint(1, 2), rng.randint(1, 3), rng.randint(1, 3)
        x = rand(rng, b, n, s, 64, dtype=dtype)
        cos, sin = (rand(rng, b, 1, s, 64, dtype=dtype) for _ in range(2))
        y = call("npu::npu_interleave_rope", npu(x), npu(cos), npu(sin))
        want = []
        for i, h, t in itertools.product(range(b), range(n), range(s)):
            row, c, z = wide(x)[i][h][t], wide(cos)[i][0][t], wide(sin)[i][0][t]
            apart = row[::2] + row[1::2]
            want += [
                apart[j] * c[j] + (-apart[j + 32] if j < 32 else apart[j - 32]) * z[j]
                for j in range(64)
            ]
        close(y, want, size=8)


def check_mrope() -> None:
    for rng, dtype in sweep(8):
        dim, tokens = 32, rng.randint(1, 5)
        size = dim + rng.choice([0, 32])
        sections = rng.choice([None, [4, 6, 6], [8, 4, 4]])
        neox, woven = rng.random() < 0.5, bool(sections) and rng.random() < 0.5
        mode = {"cache_mode": "interleave" if woven else "default"}
        if not takes("npu::npu_mrope", "cache_mode"):
            mode, woven = {}, False
        cache = _angles(rng, 16, dim, dtype)
        rows = 3 if sections else 1
        positions = torch.tensor([[rng.randrange(16) for _ in range(tokens)] for _ in range(rows)])
        query, key = (rand(rng, tokens, h * size, dtype=dtype) for h in (3, 1))
        out = call(
            "npu::npu_mrope",
            npu(positions if sections else positions[0]),
            npu(query),
            npu(key),
            npu(cache),
            size,
            mrope_section=sections,
            rotary_mode="half" if neox else "interleave",
            **mode,
        )
        table = wide(cache)
        for got, given in zip(out, (query, key), strict=True):
            want = []
            for t, row in enumerate(wide(given)):
                cos, sin = [], []
                for i in range(dim // 2):
                    axis = 0
                    if sections and woven:
                        axis = i % 3 if i < 3 * sections[1] else 0
                    elif sections:
                        axis = 0 if i < sections[0] else 1 if i < sections[0] + sections[1] else 2
                    at = table[positions[axis][t]]
                    cos.append(at[i])
                    sin.append(at[dim // 2 + i])
                for h in range(0, len(row), size):
                    head = row[h : h + size]
                    want += _turned(head[:dim], cos, sin, neox) + head[dim:]
            close(got, want, size=8)


def check_apply_rotary_pos_emb() -> None:
    for rng, dtype in sweep(3):
        b, s = rng.randint(1, 2), rng.randint(1, 3)
        q, k = rand(rng, b, s, 2, 64, dtype=dtype), rand(rng, b, s, 1, 64, dtype=dtype)
        cos, sin = (rand(rng, b, s, 1, 64, dtype=dtype) for _ in range(2))
        out = call(
            "npu::npu_apply_rotary_pos_emb", npu(q), npu(k), npu(cos), npu(sin), "BSND", "half"
        )
        for got, given in zip(out, (q, k), strict=True):
            want = []
            for i, j, h in itertools.product(range(b), range(s), range(given.shape[2])):
                row, c, z = wide(given)[i][j][h], wide(cos)[i][j][0], wide(sin)[i][j][0]
                want += [
                    row[e] * c[e] + (-row[e + 32] if e < 32 else row[e - 32]) * z[e]
                    for e in range(64)
                ]
            close(got, want, size=8)


def check_rotary_refusals() -> None:
    rotary.forget_cos_sin_cache()
    cache = npu(_angles(random.Random(0), 8, 16, torch.float16))
    q = npu(torch.ones(2, 32, dtype=torch.float16))
    at = npu(torch.tensor([1, 2]))
    op = torch_npu._npu_rotary_embedding
    with refused("_npu_rotary_embedding", "'query'", "contiguous"):
        op(at, npu(torch.ones(32, 2, dtype=torch.float16)).t(), q, 16, cache, True)
    with refused("_npu_rotary_embedding", "'query'", "multiple of that of key, 32", "16"):
        op(at, q[:, :16].contiguous(), q, 16, cache, True)
    with refused("_npu_rotary_embedding", "'query'", "shape (2, *)"):
        op(at, q.view(2, 2, 16), q, 16, cache, True)
    with refused("_npu_rotary_embedding", "'positions'", "[0, 8)", "8"):
        op(npu(torch.tensor([1, 8])), q, q.clone(), 16, cache, True)
    with refused("_npu_rotary_embedding", "'positions'", "on the NPU"):
        op(at.cpu(), q, q.clone(), 16, cache, True)
    with refused("_npu_rotary_embedding", "'head_size'", "rotary_dim 16", "32"):
        op(at, q, q.clone(), 32, cache, False)
    with refused("_npu_rotary_embedding", "'query'", "float16 or bfloat16", "ASCEND_SIM_RELAX"):
        op(at, q.float(), q.float(), 16, cache.float(), True)
    with relaxed("float32"):
        op(at, q.float(), q.float(), 16, cache.float(), True)
    rotary.forget_cos_sin_cache()
    x = npu(torch.ones(1, 2, 3, 8))
    with refused("npu_rotary_mul", "'r1'", "broadcasts over (1, 2, 3, 8)", "(1, 3, 1, 8)"):
        torch_npu.npu_rotary_mul(x, npu(torch.ones(1, 3, 1, 8)), npu(torch.ones(1, 3, 1, 8)))
    with refused("npu_rotary_mul", "'rotary_mode'", "'half' or 'interleave'"):
        torch_npu.npu_rotary_mul(x, x[:, :, :1], x[:, :, :1], "quarter")
    wide_cache = npu(torch.ones(8, 24))
    with refused("npu_mrope", "'cos_sin_cache'", "multiple of 16", "24"):
        torch_npu.npu_mrope(at, q.float(), q.float(), wide_cache, 32)
    with refused("npu_mrope", "'mrope_section'", "add up to rotary_dim / 2 = 8"):
        torch_npu.npu_mrope(
            npu(torch.ones(3, 2, dtype=torch.int64)),
            q.float(),
            q.float(),
            cache.float(),
            16,
            mrope_section=[1, 2, 3],
        )


# ---- caches ------------------------------------------------------------------------------------


def check_reshape_and_cache() -> None:
    for seed, dtype in itertools.product(range(6), (*HALVES, torch.int8)):
        rng = random.Random(seed)
        tokens, heads, size, blocks, block = rng.randint(1, 8), rng.randint(1, 3), 16, 3, 16
        key, value = (rand(rng, tokens, heads, n).mul(20).to(dtype) for n in (size, 2 * size))
        kc, vc = (torch.zeros(blocks, block, heads, n, dtype=dtype) for n in (size, 2 * size))
        slots = rng.sample(range(blocks * block), tokens)
        skipped = rng.randrange(tokens)
        slots[skipped] = -1
        caches = npu(kc), npu(vc)
        where = npu(torch.tensor(slots, dtype=torch.int32))
        call("atb::_npu_reshape_and_cache", npu(key), npu(value), *caches, where)
        for cache, rows, got in ((kc, key, caches[0]), (vc, value, caches[1])):
            for t, slot in enumerate(slots):
                if slot >= 0:
                    cache[slot // block, slot % block] = rows[t]
            assert torch.equal(got.cpu(), cache)
        alone = npu(torch.zeros_like(kc))
        call("atb::_npu_reshape_and_cache_siso", npu(key), alone, where)
        assert torch.equal(alone.cpu(), kc)


def check_scatter_pa_kv_cache() -> None:
    for seed, dtype in itertools.product(range(6), (*FLOATS, torch.int8)):
        rng = random.Random(seed)
        tokens, heads, blocks, block = rng.randint(1, 8), rng.randint(1, 3), 3, 8
        key, value = (rand(rng, tokens, heads, n).mul(20).to(dtype) for n in (32, 64))
        slots = rng.sample(range(blocks * block), tokens)
        where = npu(torch.tensor(slots, dtype=rng.choice([torch.int32, torch.int64])))
        last = 32 // key.element_size()
        nz = [torch.zeros(blocks, heads * n // last, block, last, dtype=dtype) for n in (32, 64)]
        got = [npu(t) for t in nz]
        call("npu::npu_scatter_pa_kv_cache", npu(key), npu(value), *got, where)
        for t, slot in enumerate(slots):
            for cache, rows in zip(nz, (key, value), strict=True):
                flat = rows[t].flatten()
                for e in range(flat.numel()):
                    cache[slot // block, e // last, slot % block, e % last] = flat[e]
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, nz, strict=True))
        if not takes("npu::npu_scatter_pa_kv_cache", "cache_mode"):
            continue
        plain = [torch.zeros(blocks, block, heads, n, dtype=dtype) for n in (32, 64)]
        got = [npu(t) for t in plain]
        torch_npu.npu_scatter_pa_kv_cache(npu(key), npu(value), *got, where, cache_mode="Norm")
        for t, slot in enumerate(slots):
            for cache, rows in zip(plain, (key, value), strict=True):
                cache[slot // block, slot % block] = rows[t]
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, plain, strict=True))


def check_scatter_nd_update() -> None:
    for rng, dtype in sweep(4):
        x = rand(rng, 4, 5, 3, dtype=dtype)
        depth = rng.choice([1, 2, 3])
        cells = rng.sample(list(itertools.product(*(range(n) for n in x.shape[:depth]))), 3)
        updates = rand(rng, 3, *x.shape[depth:], dtype=dtype)
        indices = npu(torch.tensor(cells, dtype=rng.choice([torch.int32, torch.int64])))
        want = x.clone()
        for cell, update in zip(cells, updates, strict=True):
            want[cell] = update
        fresh = call("npu::npu_scatter_nd_update", npu(x), indices, npu(updates))
        assert torch.equal(fresh.cpu(), want)
        own = npu(x)
        result = call("npu::npu_scatter_nd_update_", own, indices, npu(updates))
        assert result.data_ptr() == own.data_ptr()
        assert torch.equal(own.cpu(), want)


def check_cache_refusals() -> None:
    key = npu(torch.ones(2, 2, 16, dtype=torch.float16))
    cache = npu(torch.zeros(2, 16, 2, 16, dtype=torch.float16))
    slots = npu(torch.tensor([0, 1], dtype=torch.int32))

    def write(key: Tensor = key, cache: Tensor = cache, slots: Tensor = slots) -> None:
        torch_npu._npu_reshape_and_cache(
            key=key, value=key, key_cache=cache, value_cache=cache.clone(), slot_indices=slots
        )

    with refused("_npu_reshape_and_cache", "'slot_indices'", "dtype int32", "int64"):
        write(slots=slots.long())
    with refused("_npu_reshape_and_cache", "'slot_indices'", "a tensor on the NPU"):
        write(slots=slots.cpu())
    with refused("_npu_reshape_and_cache", "'slot_indices'", "32)", "32"):
        write(slots=slots + 31)
    with refused("_npu_reshape_and_cache", "'slot_indices'", "shape (2)", "(1,)"):
        write(slots=slots[:1])
    with refused("_npu_reshape_and_cache", "'slot_indices'", "without duplicates"):
        write(slots=slots * 0)
    with refused("_npu_reshape_and_cache", "'key_cache'", "(2, 2, 2, 16)", "(2, 2, 16, 16)"):
        write(cache=npu(torch.zeros(2, 2, 16, 16, dtype=torch.float16)))
    with refused("_npu_reshape_and_cache", "'key_cache'", "contiguous"):
        write(cache=npu(torch.zeros(16, 2, 2, 16, dtype=torch.float16)).transpose(0, 1))
    with refused("_npu_reshape_and_cache", "'value'", "float16"):
        torch_npu._npu_reshape_and_cache(key, key.bfloat16(), cache, cache.clone(), slots)
    with refused("_npu_reshape_and_cache", "'key'", "float16 or bfloat16 or int8", "float32"):
        write(key=key.float(), cache=cache.float())
    scatter = torch_npu.npu_scatter_pa_kv_cache
    with refused("npu_scatter_pa_kv_cache", "'key_cache'", "'PA_NZ'", "'Norm'"):
        scatter(key, key, cache, cache.clone(), slots)
    with refused("npu_scatter_pa_kv_cache", "'seq_lens'", "no reference for compressed caches"):
        scatter(key, key, cache, cache.clone(), slots, seq_lens=slots)
    nz = npu(torch.zeros(2, 2, 16, 16, dtype=torch.float16))
    with refused("npu_scatter_pa_kv_cache", "'slot_mapping'", "[0, 32)", "-1"):
        scatter(key, key, nz, nz.clone(), slots - 1)
    with refused("npu_scatter_nd_update_", "'indices'", "[0, 2)", "2"):
        torch_npu.npu_scatter_nd_update_(
            npu(torch.ones(2, 3)), npu(torch.tensor([[2]])), npu(torch.ones(1, 3))
        )


# ---- attention ---------------------------------------------------------------------------------


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    sees: Callable[[int, int], bool],
    sink: Sequence[float] | None = None,
) -> tuple[list[Any], list[Any]]:
    """[q, heads, size] and [q, heads] of one sequence, a logit at a time."""
    group = q.shape[1] // k.shape[1]
    qs, ks, vs = wide(q), wide(k), wide(v)
    out, lse = [], []
    for i in range(q.shape[0]):
        heads, sums = [], []
        for h in range(q.shape[1]):
            seen = [j for j in range(k.shape[0]) if sees(i, j)]
            logits = [
                scale * math.fsum(a * b for a, b in zip(qs[i][h], ks[j][h // group], strict=True))
                for j in seen
            ]
            extra = [sink[h]] if sink else []
            if not logits and not extra:
                heads.append([0.0] * v.shape[2])
                sums.append(math.inf)
                continue
            top = max(logits + extra)
            weights = [math.exp(x - top) for x in logits]
            total = math.fsum([*weights, *(math.exp(x - top) for x in extra)])
            heads.append(
                [
                    math.fsum(w * vs[j][h // group][d] for w, j in zip(weights, seen, strict=True))
                    / total
                    for d in range(v.shape[2])
                ]
            )
            sums.append(top + math.log(total))
        out.append(heads)
        lse.append(sums)
    return out, lse


def split(total: int, parts: int, rng: random.Random) -> list[int]:
    cuts = sorted(rng.randint(0, total) for _ in range(parts - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def paged(
    rng: random.Random,
    lengths: Sequence[int],
    block: int,
    heads: int,
    size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Caches [blocks, block, heads, size], a block table, and each sequence's keys and values.

    What no sequence owns is NaN, so that a read past a sequence shows.
    """
    counts = [-(-n // block) for n in lengths]
    blocks = sum(counts) + 2
    order = rng.sample(range(blocks), sum(counts))
    kc, vc = (torch.full((blocks, block, heads, size), math.nan, dtype=dtype) for _ in range(2))
    table = torch.full((len(lengths), max([*counts, 1]) + 1), -7, dtype=torch.int32)
    keys, values = [], []
    for i, n in enumerate(lengths):
        own = [order.pop() for _ in range(counts[i])]
        table[i, : counts[i]] = torch.tensor(own, dtype=torch.int32)
        k, v = (rand(rng, n, heads, size, dtype=dtype) for _ in range(2))
        for t in range(n):
            kc[own[t // block], t % block] = k[t]
            vc[own[t // block], t % block] = v[t]
        keys.append(k)
        values.append(v)
    return kc, vc, table, keys, values


def check_flash_attention() -> None:
    for seed, dtype in itertools.product(range(6), FLOATS):
        rng = random.Random(seed)
        kv_heads, size = rng.randint(1, 2), rng.choice([8, 16])
        heads = kv_heads * rng.randint(1, 3)
        lengths = [rng.randint(1, 5) for _ in range(rng.randint(1, 3))]
        tokens, longest = sum(lengths), max(lengths) + rng.randint(0, 3)
        q = rand(rng, tokens, heads, size, dtype=dtype)
        k, v = (rand(rng, tokens, kv_heads, size, dtype=dtype) for _ in range(2))
        above = torch.ones(longest, longest).triu(1)
        mask = above * (-10000.0 if dtype == torch.float16 else 1.0)
        if dtype == torch.float16 and rng.random() < 0.5:
            mask = torch.zeros(longest, longest).masked_fill(above.bool(), -math.inf)
        flat = rng.random() < 0.5
        out = npu(torch.zeros_like(q.flatten(1) if flat else q))
        given = [npu(t.flatten(1) if flat else t) for t in (q, k, v)]
        host = torch.tensor(lengths, dtype=torch.int32)
        with relaxed("float32"):
            call(
                "atb::_npu_flash_attention",
                *given,
                npu(mask.to(dtype)),
                host,
                0.3,
                heads,
                kv_heads,
                out,
            )
            every = npu(torch.zeros_like(q))
            call(
                "atb::_npu_flash_attention_unpad",
                *(npu(t) for t in (q, k, v)),
                host,
                0.3,
                heads,
                kv_heads,
                every,
            )
        causal, full, at = [], [], 0
        for n in lengths:
            a, b, c = (t[at : at + n] for t in (q, k, v))
            causal += attention(a, b, c, 0.3, lambda i, j: j <= i)[0]
            full += attention(a, b, c, 0.3, lambda i, j: True)[0]
            at += n
        close(out, causal, terms=size + longest, size=4)
        close(every, full, terms=size + longest, size=4)


def check_paged_attention() -> None:
    for seed, dtype in itertools.product(range(6), FLOATS):
        rng = random.Random(seed)
        kv_heads, size, block = rng.randint(1, 2), rng.choice([8, 16]), 16
        heads = kv_heads * rng.randint(1, 3)
        contexts = [rng.randint(0, 40) for _ in range(rng.randint(1, 4))]
        kc, vc, table, keys, values = paged(rng, contexts, block, kv_heads, size, dtype)
        q = rand(rng, len(contexts), heads, size, dtype=dtype)
        out = npu(torch.zeros_like(q))
        args = (
            npu(q),
            npu(kc),
            npu(vc),
            kv_heads,
            heads,
            0.25,
            npu(table),
            torch.tensor(contexts, dtype=torch.int32),
            out,
        )
        with relaxed("float32"):
            workspace = call("atb::_npu_paged_attention_get_workspace", *args)
            assert workspace.device.type == "npu"
            call("atb::_npu_paged_attention", *args, workspace=workspace)
        want = []
        for i in range(len(contexts)):
            want += attention(q[i : i + 1], keys[i], values[i], 0.25, lambda i, j: True)[0]
        close(out, want, terms=size + 40, size=4)


def check_flash_attention_qlens() -> None:
    for seed, dtype in itertools.product(range(4), HALVES):
        rng = random.Random(seed)
        contexts = [rng.randint(1, 24) for _ in range(rng.randint(1, 3))]
        queries = [rng.randint(1, n) for n in contexts]
        kc, vc, table, keys, values = paged(rng, contexts, 16, 2, 16, dtype)
        q = rand(rng, sum(queries), 4, 16, dtype=dtype)
        out = npu(torch.zeros_like(q))
        call(
            "atb::_npu_flash_attention_qlens",
            npu(q),
            npu(kc),
            npu(vc),
            npu(table),
            npu(torch.ones(128, 128, dtype=dtype).triu(1)),
            torch.tensor(queries, dtype=torch.int32),
            torch.tensor(contexts, dtype=torch.int32),
            2,
            4,
            0.25,
            out,
        )
        want, at = [], 0
        for i, (n, m) in enumerate(zip(queries, contexts, strict=True)):
            part = q[at : at + n]
            sees = _visible(3, n, m, 0, 0, None)
            want += attention(part, keys[i], values[i], 0.25, sees)[0]
            at += n
        close(out, want, terms=16 + 24, size=4)


TRIANGLE = torch.ones(2048, 2048, dtype=torch.int8).triu(1)


def _visible(
    mode: int, q: int, kv: int, before: int, after: int, mask: Tensor | None
) -> Callable[[int, int], bool]:
    def everything(i: int, j: int) -> bool:
        return True

    if mode == 0 and mask is None:
        return everything
    if mode in (0, 1):
        assert mask is not None
        plain = mask.tolist()
        if mode == 1:
            return lambda i, j: not plain[i][j]
        return lambda i, j: not plain[i][j] and i - before <= j <= i + after
    if mode == 2:
        return lambda i, j: j <= i
    if mode == 3:
        return lambda i, j: j <= i + kv - q
    return lambda i, j: i + kv - q - before <= j <= i + kv - q + after


def check_fused_infer_packed() -> None:
    """TND: paged in both cache layouts and not paged, sparse modes 0, 2, 3, 4, sinks, lse."""
    masks = [npu(TRIANGLE), npu(TRIANGLE.bool()), npu(TRIANGLE.to(torch.uint8))[None, None]]
    for seed, dtype in itertools.product(range(14), FLOATS):
        rng = random.Random(seed * 7 + 1)
        mode = (0, 2, 3, 4)[seed % 4]
        kv_heads, size = rng.randint(1, 2), 64
        heads = kv_heads * rng.randint(1, 2)
        contexts = [rng.randint(1, 20) for _ in range(rng.randint(1, 3))]
        queries = [rng.randint(1, min(4, n)) for n in contexts]
        if rng.random() < 0.3:
            queries = [1] * len(contexts)
        before, after = rng.randint(0, 6), rng.randint(0, 3)
        q = rand(rng, sum(queries), heads, size, dtype=dtype)
        ends = list(itertools.accumulate(queries))
        kc, vc, table, keys, values = paged(rng, contexts, 16, kv_heads, size, dtype)
        style = rng.choice(["blocks", "heads", "plain"])
        named: dict[str, Any] = {}
        if style == "plain":
            k, v = torch.cat(keys), torch.cat(values)
            kv_lengths = list(itertools.accumulate(contexts))
        else:
            k, v = (c.flatten(2) if style == "blocks" else c.transpose(1, 2) for c in (kc, vc))
            kv_lengths = contexts
            named = {"block_table": npu(table[:, :-1].contiguous()), "block_size": 16}
        sink = rand(rng, heads, dtype=torch.bfloat16) if seed % 5 == 4 else None
        flag = sink is None
        layout = "NTD_TND" if style == "plain" and rng.random() < 0.5 else "TND"
        q_in, k_in, v_in = q, k.contiguous(), v.contiguous()
        if layout == "NTD_TND":
            q_in, k_in, v_in = (t.transpose(0, 1).contiguous() for t in (q, k, v))
        common: dict[str, Any] = {
            "atten_mask": None if mode == 0 else rng.choice(masks),
            "num_key_value_heads": kv_heads,
            "pre_tokens": before,
            "next_tokens": after,
            "input_layout": layout,
            "sparse_mode": mode,
            **named,
        }
        operands = npu(q_in), npu(k_in), npu(v_in)
        with relaxed("float32"):
            out, lse = call(
                "npu::npu_fused_infer_attention_score_v2",
                *operands,
                actual_seq_qlen=ends,
                actual_seq_kvlen=kv_lengths,
                num_query_heads=heads,
                softmax_scale=0.1,
                return_softmax_lse=flag,
                learnable_sink=None if sink is None else npu(sink),
                **common,
            )
        want, sums, at = [], [], 0
        for i, (n, m) in enumerate(zip(queries, contexts, strict=True)):
            sees = _visible(mode, n, m, before, after, None)
            a, b = attention(
                q[at : at + n], keys[i], values[i], 0.1, sees, None if sink is None else wide(sink)
            )
            want += a
            sums += b
            at += n
        close(out, want, terms=size + 20, size=4)
        if not flag:
            assert lse.numel() == 0
            continue
        close(lse, sums, terms=size, size=8)
        with relaxed("float32"):
            first = call(
                "npu::npu_fused_infer_attention_score",
                *operands,
                actual_seq_lengths=ends,
                actual_seq_lengths_kv=kv_lengths,
                num_heads=heads,
                scale=0.1,
                softmax_lse_flag=True,
                **common,
            )
        assert torch.equal(first[0].cpu(), out.cpu())
        assert torch.equal(first[1].cpu(), lse.cpu())


def check_fused_infer_batched() -> None:
    """BSH, BSND, BNSD, BNSD_BSND: lengths, padding, masks, bands, and decode with a paged cache."""
    for seed, dtype in itertools.product(range(16), FLOATS):
        rng = random.Random(seed * 11 + 5)
        layout = ("BSH", "BSND", "BNSD", "BNSD_BSND")[seed % 4]
        mode = rng.choice([0, 0, 1, 2, 3, 4])
        batch, kv_heads, size = rng.randint(1, 3), rng.randint(1, 2), 16
        heads = kv_heads * rng.randint(1, 2)
        q_len = rng.choice([1, 2, 4]) if layout != "BNSD_BSND" else rng.choice([2, 4])
        kv_len = rng.randint(q_len, 8)
        q = rand(rng, batch, q_len, heads, size, dtype=dtype)
        k, v = (rand(rng, batch, kv_len, kv_heads, size, dtype=dtype) for _ in range(2))
        queries = [rng.randint(1, q_len) for _ in range(batch)]
        contexts = [rng.randint(n, kv_len) for n in queries]
        before, after = rng.randint(0, 6), rng.randint(0, 3)
        mask, plain = None, None
        if mode in (0, 1) and (mode == 1 or rng.random() < 0.6):
            plain = torch.rand(batch, q_len, kv_len, generator=torch.Generator().manual_seed(seed))
            plain = plain < 0.3
            mask = npu(plain.unsqueeze(1).contiguous())
        elif mode > 1:
            mask = npu(TRIANGLE)

        def lay(t: Tensor, layout: str = layout) -> Tensor:
            if layout == "BSH":
                return t.flatten(2)
            return t if layout == "BSND" else t.transpose(1, 2).contiguous()

        with relaxed("float32"):
            out, lse = call(
                "npu::npu_fused_infer_attention_score",
                npu(lay(q)),
                npu(lay(k)),
                npu(lay(v)),
                atten_mask=mask,
                actual_seq_lengths=queries,
                actual_seq_lengths_kv=contexts,
                num_heads=heads,
                num_key_value_heads=kv_heads,
                scale=0.2,
                input_layout=layout,
                sparse_mode=mode,
                pre_tokens=before,
                next_tokens=after,
                softmax_lse_flag=True,
            )
        full = torch.zeros(batch, q_len, heads, size, dtype=torch.float64)
        sums = torch.full((batch, heads, q_len, 1), math.inf, dtype=torch.float64)
        for i in range(batch):
            n, m = (1 if q_len == 1 else queries[i]), contexts[i]
            own = None if plain is None else plain[i]
            sees = _visible(mode, n, m, before, after, own)
            if q_len == 1:
                # Modes and bands do not apply to one token; a mask of its own does.
                sees = _visible(0 if own is None else 1, n, m, 0, 0, own)
            a, b = attention(q[i, :n], k[i, :m], v[i, :m], 0.2, sees)
            full[i, :n] = torch.tensor(a, dtype=torch.float64)
            sums[i, :, :n, 0] = torch.tensor(b, dtype=torch.float64).T
        want = full if layout == "BNSD_BSND" else lay(full)
        close(out, want.tolist(), terms=size + 8, size=4)
        close(lse, sums.tolist(), terms=size, size=8)


def check_fused_infer_decode_from_blocks() -> None:
    for seed, dtype in itertools.product(range(4), HALVES):
        rng = random.Random(seed)
        layout = ("BSH", "BNSD")[seed % 2]
        contexts = [rng.randint(0, 40) for _ in range(3)]
        kc, vc, table, keys, values = paged(rng, contexts, 16, 2, 16, dtype)
        q = rand(rng, 3, 1, 4, 16, dtype=dtype)
        q_in = q.flatten(2) if layout == "BSH" else q.transpose(1, 2).contiguous()
        arguments: dict[str, Any] = {
            "actual_seq_lengths_kv": contexts,
            "block_table": npu(table),
            "block_size": 16,
            "num_heads": 4,
            "num_key_value_heads": 2,
            "scale": 0.2,
            "input_layout": layout,
        }
        operands = npu(q_in), npu(kc.flatten(2)), npu(vc.flatten(2))
        out, lse = torch_npu.npu_fused_infer_attention_score(*operands, **arguments)
        assert lse.numel() == 0
        want = []
        for i in range(3):
            want += attention(q[i], keys[i], values[i], 0.2, lambda i, j: True)[0]
        close(out, want, terms=16 + 40, size=4)
        # The forms that graphs use: a workspace and results of the caller's own.
        workspace = call(
            "npu::_npu_fused_infer_attention_score_get_max_workspace", *operands, **arguments
        )
        mine = npu(torch.zeros_like(q_in)), npu(torch.zeros(1))
        result = call(
            "npu::npu_fused_infer_attention_score.out",
            *operands,
            workspace=workspace,
            out=list(mine),
            **arguments,
        )
        assert result[0].data_ptr() == mine[0].data_ptr()
        assert torch.equal(mine[0].cpu(), out.cpu())
        renamed = {
            {
                "actual_seq_lengths_kv": "actual_seq_kvlen",
                "num_heads": "num_query_heads",
                "scale": "softmax_scale",
            }.get(name, name): value
            for name, value in arguments.items()
        }
        workspace = call(
            "npu::_npu_fused_infer_attention_score_v2_get_max_workspace", *operands, **renamed
        )
        again = npu(torch.zeros_like(q_in)), npu(torch.zeros(3, 4, 1, 1))
        call(
            "npu::npu_fused_infer_attention_score_v2.out",
            *operands,
            workspace=workspace,
            out=list(again),
            return_softmax_lse=True,
            **renamed,
        )
        assert torch.equal(again[0].cpu(), out.cpu())
        sums = [attention(q[i], keys[i], values[i], 0.2, lambda i, j: True)[1] for i in range(3)]
        close(again[1], sums, terms=16, size=8)


def check_fusion_attention() -> None:
    for seed, dtype in itertools.product(range(15), FLOATS):
        rng = random.Random(seed * 13 + 2)
        layout = ("BSH", "SBH", "BSND", "BNSD", "TND")[seed % 5]
        mode = rng.choice([0, 0, 2, 3, 4])
        batch, kv_heads, size = rng.randint(1, 3), rng.randint(1, 2), 16
        heads = kv_heads * rng.randint(1, 2)
        q_len = rng.randint(1, 4)
        kv_len = rng.randint(q_len, 7)
        before, after = rng.randint(0, 6), rng.randint(0, 3)
        q = rand(rng, batch, q_len, heads, size, dtype=dtype)
        k, v = (rand(rng, batch, kv_len, kv_heads, size, dtype=dtype) for _ in range(2))
        queries, contexts = [q_len] * batch, [kv_len] * batch
        extra: dict[str, Any] = {}
        if layout == "TND":
            queries = [rng.randint(1, q_len) for _ in range(batch)]
            contexts = [rng.randint(n, kv_len) for n in queries]
            extra = {
                "actual_seq_qlen": list(itertools.accumulate(queries)),
                "actual_seq_kvlen": list(itertools.accumulate(contexts)),
            }
        mask, plain = None, None
        if mode == 0 and layout != "TND" and rng.random() < 0.7:
            plain = torch.rand(q_len, kv_len, generator=torch.Generator().manual_seed(seed)) < 0.3
            plain[:, 0] = False
            before = 2147483647
            mask = npu(plain)
        elif mode:
            mask = npu(TRIANGLE.bool())

        def lay(t: Tensor, n: Sequence[int], layout: str = layout) -> Tensor:
            if layout == "TND":
                return torch.cat([t[i, :m] for i, m in enumerate(n)])
            if layout in ("BSH", "SBH"):
                flat = t.flatten(2)
                return flat if layout == "BSH" else flat.transpose(0, 1).contiguous()
            return t if layout == "BSND" else t.transpose(1, 2).contiguous()

        out, peak, total, none, *numbers = call(
            "npu::npu_fusion_attention",
            npu(lay(q, queries)),
            npu(lay(k, contexts)),
            npu(lay(v, contexts)),
            heads,
            layout,
            atten_mask=mask,
            scale=0.2,
            pre_tockens=before,
            next_tockens=after,
            sparse_mode=mode,
            **extra,
        )
        assert none.numel() == 0
        assert numbers == [0, 0, 0]
        full = torch.zeros(batch, q_len, heads, size, dtype=torch.float64)
        sums = torch.zeros(batch, q_len, heads, dtype=torch.float64)
        for i in range(batch):
            n, m = queries[i], contexts[i]
            sees = _visible(mode, n, m, before, after, plain)
            a, b = attention(q[i, :n], k[i, :m], v[i, :m], 0.2, sees)
            full[i, :n] = torch.tensor(a, dtype=torch.float64)
            sums[i, :n] = torch.tensor(b, dtype=torch.float64)
        close(out, lay(full, queries).tolist(), terms=size + 8, size=4)
        # Greatest logit and sum of exponentials give the log-sum-exp, eight times over.
        wanted = sums if layout == "TND" else sums.transpose(1, 2)
        if layout == "TND":
            wanted = torch.cat([sums[i, :n] for i, n in enumerate(queries)])
        lse = torch.where(total > 0, peak + total.log(), torch.inf)
        for column in range(8):
            close(lse[..., column], wanted.tolist(), terms=size, size=8)


def check_attention_refusals() -> None:
    half = torch.float16
    q, k = npu(torch.ones(3, 2, 64, dtype=half)), npu(torch.ones(2, 16, 128, dtype=half))
    table = npu(torch.tensor([[0], [1]], dtype=torch.int32))
    mask = npu(TRIANGLE)
    good: dict[str, Any] = {
        "query": q,
        "key": k,
        "value": k,
        "atten_mask": mask,
        "actual_seq_lengths": [1, 3],
        "actual_seq_lengths_kv": [4, 9],
        "block_table": table,
        "block_size": 16,
        "num_heads": 2,
        "num_key_value_heads": 2,
        "scale": 0.1,
        "input_layout": "TND",
        "sparse_mode": 3,
    }
    torch_npu.npu_fused_infer_attention_score(**good)
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"actual_seq_lengths": [1, 2]}, ("'actual_seq_lengths'", "the 3 tokens")),
        ({"actual_seq_lengths": [3, 1]}, ("'actual_seq_lengths'", "cumulative")),
        ({"actual_seq_lengths": None}, ("'actual_seq_lengths'", "layout TND", "None")),
        ({"actual_seq_lengths_kv": None}, ("'actual_seq_lengths_kv'", "block_table")),
        ({"actual_seq_lengths_kv": [4, 17]}, ("'actual_seq_lengths_kv'", "at most 16")),
        ({"block_table": table.long()}, ("'block_table'", "dtype int32", "int64")),
        ({"block_table": table.cpu()}, ("'block_table'", "a tensor on the NPU", "cpu")),
        ({"block_table": table + 1}, ("'block_table'", "[0, 2)", "2")),
        ({"block_table": table[:1]}, ("'block_table'", "each of the 2 sequences")),
        ({"block_size": 24}, ("'block_size'", "multiple of 16", "24")),
        ({"block_size": 32}, ("'key'", "(blocks, 32, 2 * size)")),
        ({"atten_mask": None}, ("'atten_mask'", "2048 x 2048", "None")),
        ({"atten_mask": mask[:64, :64].contiguous()}, ("'atten_mask'", "2048", "(64, 64)")),
        ({"atten_mask": mask.float()}, ("'atten_mask'", "bool or int8 or uint8", "float32")),
        ({"atten_mask": mask.t().contiguous()}, ("'atten_mask'", "1 above the diagonal")),
        ({"atten_mask": mask * 0}, ("'atten_mask'", "1 above the diagonal")),
        ({"atten_mask": mask.cpu()}, ("'atten_mask'", "a tensor on the NPU")),
        ({"query": q.float()}, ("'query'", "float16 or bfloat16", "ASCEND_SIM_RELAX=float32")),
        ({"key": k.bfloat16()}, ("'key'", "dtype of query")),
        ({"query": q.transpose(0, 1)}, ("'query'", "contiguous")),
        ({"num_heads": 3}, ("'num_key_value_heads'", "divisor", "2")),
        ({"input_layout": "NSD"}, ("'input_layout'", "'NSD'")),
        ({"sparse_mode": 9}, ("'sparse_mode'", "9")),
        (
            {"sparse_mode": 4, "pre_tokens": -2, "next_tokens": 1},
            ("'pre_tokens'", "at least -next_tokens", "-2"),
        ),
        ({"sparse_mode": 0}, ("'atten_mask'", "packed layout")),
        ({"pse_shift": q}, ("'pse_shift'", "no reference for a position bias")),
        ({"antiquant_mode": 1}, ("'antiquant_mode'", "quantised", "1")),
        (
            {
                "query": q[..., :48].contiguous(),
                "key": k[..., :96].contiguous(),
                "value": k[..., :96].contiguous(),
            },
            ("'query'", "head sizes 64, 128 or 192", "ASCEND_SIM_RELAX=head_size"),
        ),
    ]
    for change, parts in cases:
        with refused("npu_fused_infer_attention_score", *parts):
            torch_npu.npu_fused_infer_attention_score(**{**good, **change})
    narrow = {
        name: good[name][..., : good[name].shape[-1] // 4].contiguous()
        for name in ("query", "key", "value")
    }
    with relaxed("head_size"):
        torch_npu.npu_fused_infer_attention_score(**{**good, **narrow})
    wide_q = npu(torch.ones(2, 4, 128, dtype=half))
    with refused("npu_fused_infer_attention_score", "'block_size'", "128, 256", "16"):
        torch_npu.npu_fused_infer_attention_score(
            **{**good, "query": wide_q, "input_layout": "BSH", "sparse_mode": 0, "atten_mask": None}
        )

    out, kv = npu(torch.zeros(3, 2, 16, dtype=half)), npu(torch.ones(3, 2, 16, dtype=half))
    lengths = torch.tensor([1, 2], dtype=torch.int32)
    above = npu(torch.ones(2, 2, dtype=half).triu(1) * -10000)

    def flash(**change: Any) -> None:
        arguments: dict[str, Any] = {
            "query": kv, "key": kv, "value": kv, "mask": above, "seq_len": lengths,
            "scale_value": 0.1, "num_heads": 2, "num_kv_heads": 2, "out": out,
        }  # fmt: skip
        torch_npu._npu_flash_attention(**{**arguments, **change})

    flash()
    name = "_npu_flash_attention"
    with refused(name, "'seq_len'", "a host tensor", "npu:0"):
        flash(seq_len=npu(lengths))
    with refused(name, "'seq_len'", "dtype int32", "int64"):
        flash(seq_len=lengths.long())
    with refused(name, "'seq_len'", "add up to the 3 tokens"):
        flash(seq_len=lengths[:1])
    with refused(name, "'mask'", "dtype of query", "int8"):
        flash(mask=above.to(torch.int8))
    with refused(name, "'mask'", "as wide as the longest sequence (2)"):
        flash(mask=above[:1, :1].contiguous())
    with refused(name, "'mask'", "a large negative number"):
        flash(mask=-above)
    with refused(name, "'mask'", "1 where it is hidden"):
        both = {n: kv.bfloat16() for n in ("query", "key", "value")}
        flash(**both, out=out.bfloat16(), mask=above.bfloat16())
    with refused(name, "'out'", "3 tokens"):
        flash(out=out[:2])
    with refused(name, "'query'", "float16 or bfloat16", "float32"):
        flash(query=kv.float())

    cache = npu(torch.ones(2, 16, 2, 16, dtype=half))

    def decode(**change: Any) -> None:
        arguments: dict[str, Any] = {
            "query": kv, "key_cache": cache, "value_cache": cache, "num_kv_heads": 2,
            "num_heads": 2, "scale_value": 0.1, "block_table": npu(torch.zeros(3, 1).int()),
            "context_lens": torch.tensor([1, 2, 16], dtype=torch.int32), "out": out,
        }  # fmt: skip
        torch_npu._npu_paged_attention(**{**arguments, **change})

    decode()
    name = "_npu_paged_attention"
    with refused(name, "'context_lens'", "a host tensor"):
        decode(context_lens=npu(torch.tensor([1, 2, 16], dtype=torch.int32)))
    with refused(name, "'context_lens'", "each of the 3 tokens", "2"):
        decode(context_lens=lengths)
    with refused(name, "'block_table'", "at least 2 columns, for 17 tokens"):
        decode(context_lens=torch.tensor([1, 2, 17], dtype=torch.int32))
    with refused(name, "'block_table'", "[0, 2)"):
        decode(block_table=npu(torch.full((3, 1), 2).int()))
    with refused(name, "'key_cache'", "multiple of 16", "8"):
        small = npu(torch.ones(2, 8, 2, 16, dtype=half))
        decode(key_cache=small, value_cache=small)
    with refused(name, "'key_cache'", "shape (*, *, 2, 16)"):
        decode(key_cache=cache.view(2, 16, 1, 32), value_cache=cache.view(2, 16, 1, 32))
    with refused("_npu_flash_attention_qlens", "'mask'", "(128, 128)"):
        torch_npu._npu_flash_attention_qlens(
            kv, cache, cache, npu(torch.zeros(2, 1).int()), above, lengths,
            torch.tensor([2, 2], dtype=torch.int32), 2, 2, 0.1, out,
        )  # fmt: skip
    with refused("npu_fusion_attention", "'keep_prob'", "drops nothing"):
        torch_npu.npu_fusion_attention(kv[None], kv[None], kv[None], 2, "BSND", keep_prob=0.5)
    with refused("npu_fusion_attention", "'actual_seq_qlen'", "layout TND"):
        torch_npu.npu_fusion_attention(kv, kv, kv, 2, "TND")


# ---- mixture of experts ------------------------------------------------------------------------


def _best(scores: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:count]


def _softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(v - top) for v in row]
    return [p / math.fsum(parts) for p in parts]


def check_gating_top_k_softmax() -> None:
    for rng, dtype in sweep(8):
        rows, experts = rng.randint(1, 5), rng.randint(2, 9)
        k = rng.randint(1, experts)
        x = rand(rng, rows, experts, dtype=dtype)
        done = torch.tensor([rng.random() < 0.3 for _ in range(rows)])
        given = npu(done) if rng.random() < 0.5 else None
        y, index, row = call("npu::npu_moe_gating_top_k_softmax", npu(x), given, k)
        weights = [_softmax(r) for r in wide(x)]
        # In 16 bits two experts may have equal logits: the lower one comes first.
        chosen = [_best(w, k) for w in weights]
        close(y, [[w[e] for e in c] for w, c in zip(weights, chosen, strict=True)], terms=experts)
        hidden = [
            [experts] * k if given is not None and done[i] else c for i, c in enumerate(chosen)
        ]
        assert index.tolist() == hidden
        assert index.dtype == row.dtype == torch.int32
        assert row.tolist() == [[c * rows + i for c in range(k)] for i in range(rows)]
        if not exists("npu::npu_moe_gating_top_k_softmax_v2"):
            continue
        y2, index2, whole = call(
            "npu::npu_moe_gating_top_k_softmax_v2", npu(x), k=k, finished=given, output_softmax=True
        )
        assert torch.equal(y2.cpu(), y.cpu())
        assert torch.equal(index2.cpu(), index.cpu())
        close(whole, weights, terms=experts)
        y3, _, none = call("npu::npu_moe_gating_top_k_softmax_v2", npu(x), k=k, renorm=1)
        logits = wide(x)
        close(y3, [_softmax([logits[i][e] for e in c]) for i, c in enumerate(chosen)], terms=k)
        assert none.numel() == 0


def check_gating_top_k() -> None:
    for rng, dtype in sweep(12):
        groups = rng.choice([1, 2, 4])
        rows, experts = rng.randint(1, 4), groups * rng.randint(3, 5)
        kept = rng.randint(1, groups)
        k = rng.randint(1, kept * experts // groups)
        kind, select = rng.choice([0, 1]), rng.choice([0, 1])
        x = rand(rng, rows, experts, dtype=dtype)
        bias = rand(rng, experts, dtype=dtype) if rng.random() < 0.7 else None
        y, index, norm = call(
            "npu::npu_moe_gating_top_k",
            npu(x),
            k,
            bias=None if bias is None else npu(bias),
            k_group=kept,
            group_count=groups,
            group_select_mode=select,
            norm_type=kind,
            out_flag=True,
            routed_scaling_factor=2.5,
        )
        scores = [_softmax(r) if kind == 0 else [sigmoid(v) for v in r] for r in wide(x)]
        close(norm, scores, terms=experts)
        extra = [0.0] * experts if bias is None else wide(bias)
        per = experts // groups
        values, picks = [], []
        for row in scores:
            total = [a + b for a, b in zip(row, extra, strict=True)]
            marks = []
            for g in range(groups):
                ranked = sorted(total[g * per : (g + 1) * per], reverse=True)
                marks.append(ranked[0] if select == 0 else ranked[0] + ranked[1])
            alive = set(_best(marks, kept)) if groups > 1 else {0}
            open_to = [t if e // per in alive else -math.inf for e, t in enumerate(total)]
            pick = _best(open_to, k)
            value = [row[e] for e in pick]
            share = math.fsum(value) + 1e-20 if kind == 1 else 1.0
            values.append([v / share * 2.5 for v in value])
            picks.append(pick)
        assert index.tolist() == picks
        close(y, values, terms=experts, size=3)
    _, _, hidden = torch_npu.npu_moe_gating_top_k(npu(torch.ones(2, 4)), 2)
    assert hidden.isnan().all()


def check_init_routing() -> None:
    for rng, dtype in sweep(6):
        rows, k, width = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 5)
        x = rand(rng, rows, width, dtype=dtype)
        experts = [[rng.randrange(4) for _ in range(k)] for _ in range(rows)]
        numbers = [[c * rows + i for c in range(k)] for i in range(rows)]
        active = rng.randint(1, rows + 1)
        out, place, order = call(
            "npu::npu_moe_init_routing",
            npu(x),
            npu(torch.tensor(numbers, dtype=torch.int32)),
            npu(torch.tensor(experts, dtype=torch.int32)),
            active,
        )
        flat = [(experts[i][c], i * k + c) for i in range(rows) for c in range(k)]
        flat.sort()
        assert order.tolist() == [e for e, _ in flat]
        source = [(entry // k, entry % k) for _, entry in flat]
        want = [wide(x)[i] for i, _ in source[: min(active, rows) * k]]
        close(out, want)
        for copy, (i, c) in enumerate(source):
            assert place[numbers[i][c]] == copy


def check_init_routing_v2() -> None:
    for rng, dtype in sweep(10):
        rows, k, width, total = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 5), 6
        x = rand(rng, rows, width, dtype=dtype)
        experts = torch.tensor([[rng.randrange(total) for _ in range(k)] for _ in range(rows)])
        first = rng.randrange(total)
        span = [first, rng.randint(first + 1, total)] if rng.random() < 0.7 else [0, total]
        kind, scatter = rng.choice([0, 1, 2]), rng.choice([0, 1])
        scale = rand(rng, rows)
        out, place, counts, scales = call(
            "npu::npu_moe_init_routing_v2",
            npu(x),
            npu(experts.int()),
            scale=npu(scale),
            active_num=rows * k,
            expert_num=total,
            expert_tokens_num_type=kind,
            expert_tokens_num_flag=True,
            quant_mode=-1,
            active_expert_range=span,
            row_idx_type=scatter,
        )
        entries = experts.flatten().tolist()
        order = sorted((e, n) for n, e in enumerate(entries) if span[0] <= e < span[1])
        source = [n for _, n in order]
        blank = rows * k - len(source)
        close(out, [wide(x)[n // k] for n in source] + [[math.nan] * width] * blank)
        close(scales, [wide(scale)[n // k] for n in source] + [math.nan] * blank)
        if scatter:
            assert place.tolist() == source + [-1] * blank
        else:
            assert place.tolist() == [
                source.index(n) if n in source else -1 for n in range(rows * k)
            ]
        tokens = [entries.count(e) for e in range(*span)]
        if kind == 0:
            assert counts.tolist() == list(itertools.accumulate(tokens))
        elif kind == 1:
            assert counts.tolist() == tokens
        else:
            pairs = [[span[0] + i, n] for i, n in enumerate(tokens) if n]
            assert counts.tolist() == pairs + [[0, 0]] * (total - len(pairs))
        assert counts.dtype == torch.int64


def check_compute_expert_tokens() -> None:
    for seed in range(6):
        rng = random.Random(seed)
        experts = rng.randint(1, 7)
        rows = sorted(rng.randrange(experts) for _ in range(rng.randint(0, 12)))
        got = call(
            "npu::npu_moe_compute_expert_tokens",
            npu(torch.tensor(rows, dtype=torch.int32)),
            experts,
        )
        assert got.tolist() == [sum(r <= e for r in rows) for e in range(experts)]
        assert got.dtype == torch.int32


def check_finalize_routing() -> None:
    for rng, dtype in sweep(10):
        rows, k, width, experts = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 5), 5
        mode = rng.choice([0, 2])
        source = rand(rng, rows * k, width, dtype=dtype)
        where = rng.sample(range(rows * k), rows * k)
        chosen = [[rng.randrange(experts) for _ in range(k)] for _ in range(rows)]
        scales = rand(rng, rows, k, dtype=dtype)
        bias = rand(rng, experts, width, dtype=dtype) if rng.random() < 0.5 else None
        skips = [rand(rng, rows, width, dtype=dtype) for _ in range(rng.randint(0, 2))]
        got = call(
            "npu::npu_moe_finalize_routing",
            npu(source),
            npu(skips[0]) if skips else None,
            npu(skips[1]) if len(skips) > 1 else None,
            None if bias is None else npu(bias),
            npu(scales),
            npu(torch.tensor(where, dtype=torch.int32)),
            npu(torch.tensor(chosen, dtype=torch.int32)),
            mode,
        )
        want = []
        for i, d in itertools.product(range(rows), range(width)):
            total = math.fsum(wide(s)[i][d] for s in skips)
            for c in range(k):
                entry = c * rows + i if mode == 0 else i * k + c
                value = wide(source)[where[entry]][d]
                if bias is not None:
                    value += wide(bias)[chosen[i][c]][d]
                total += wide(scales)[i][c] * value
            want.append(total)
        close(got, want, terms=k, size=16)


def check_permute_and_unpermute() -> None:
    for rng, dtype in sweep(8):
        rows, k, width = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 5)
        x = rand(rng, rows, width, dtype=dtype)
        experts = [[rng.randrange(4) for _ in range(k)] for _ in range(rows)]
        indices = npu(torch.tensor(experts))
        out, place = call("npu::npu_moe_token_permute", npu(x), indices)
        order = [n for _, n in sorted((e, n) for n, e in enumerate(itertools.chain(*experts)))]
        close(out, [wide(x)[n // k] for n in order])
        assert place.dtype == torch.int32
        assert place.tolist() == [order.index(n) for n in range(rows * k)]
        kept = rng.randint(1, rows * k)
        cut, _ = torch_npu.npu_moe_token_permute(npu(x), indices, kept)
        close(cut, [wide(x)[n // k] for n in order[:kept]])
        less, _ = torch_npu.npu_moe_token_permute(npu(x), indices, kept - rows * k)
        close(less, [wide(x)[n // k] for n in order[: kept or None]])
        probs = rand(rng, rows, k, dtype=dtype)
        for name in ("npu::npu_moe_token_unpermute", "npu::_npu_moe_token_unpermute"):
            if not exists(name):
                continue
            back = call(name, out, place, npu(probs))
            if name.startswith("npu::_"):
                assert back[1].data_ptr() == out.data_ptr()
                back = back[0]
            want = [
                [math.fsum(p * v for p in wide(probs)[i]) for v in wide(x)[i]] for i in range(rows)
            ]
            close(back, want, terms=k, size=16)
        # With autograd on, torch_npu takes the other operator from 2.13 on.
        with torch.inference_mode():
            one = torch_npu.npu_moe_token_unpermute(out, place)
        close(one, [wide(x)[n // k] for n in range(rows * k)])
        # Copies that permute dropped count as zero.
        some = torch_npu.npu_moe_token_unpermute(cut, place, npu(probs))
        left = [
            math.fsum(
                wide(probs)[i][c] * wide(x)[i][d] for c in range(k) if order.index(i * k + c) < kept
            )
            for i, d in itertools.product(range(rows), range(width))
        ]
        close(some, left, terms=k, size=16)


def _product(a: Tensor, w: Tensor, bias: list[float] | None) -> list[list[float]]:
    columns = list(zip(*wide(w), strict=True))
    return [
        [
            math.fsum(p * q for p, q in zip(row, column, strict=True)) + (bias[j] if bias else 0.0)
            for j, column in enumerate(columns)
        ]
        for row in wide(a)
    ]


def check_grouped_matmul() -> None:
    for rng, dtype in sweep(12):
        groups, k, n = rng.randint(2, 4), rng.randint(1, 6), rng.randint(2, 6)
        sizes = [rng.randint(0, 3) for _ in range(groups)]
        spare = rng.randint(0, 2)
        rows = sum(sizes) + spare
        x = rand(rng, rows, k, dtype=dtype)
        weight = rand(rng, groups, k, n, dtype=dtype)
        bias = rand(rng, groups, n, dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
        kind, single, with_bias = rng.choice([0, 1, 2]), rng.random() < 0.5, rng.random() < 0.5
        numbers: Any = list(itertools.accumulate(sizes)) if kind == 0 else sizes
        turn = list(range(groups))
        if kind == 2:
            rng.shuffle(turn)
            numbers = [[g, sizes[g]] for g in turn]
        given = [npu(weight)] if single else [npu(w.contiguous()) for w in weight]
        if single and rng.random() < 0.5:
            given = [npu(weight.transpose(1, 2).contiguous()).transpose(1, 2)]
        biases = None
        if with_bias:
            biases = [npu(bias)] if single else [npu(b.contiguous()) for b in bias]
        common: dict[str, Any] = {"bias": biases, "split_item": rng.choice([2, 3]), "group_type": 0}
        (out,) = call(
            "npu::npu_grouped_matmul",
            [npu(x)],
            given,
            group_list=npu(torch.tensor(numbers)),
            group_list_type=kind,
            **common,
        )
        want, at = [], 0
        for g in turn:
            part = x[at : at + sizes[g]]
            want += _product(part, weight[g], wide(bias[g]) if with_bias else None)
            at += sizes[g]
        close(out, want + [[math.nan] * n] * spare, terms=k, size=16)
        if kind == 0:
            (same,) = call(
                "npu::npu_grouped_matmul.List", [npu(x)], given, group_list=numbers, **common
            )
            assert torch.equal(same.cpu().nan_to_num(7), out.cpu().nan_to_num(7))
        several = [rand(rng, rng.randint(1, 3), k, dtype=dtype) for _ in range(groups)]
        results = torch_npu.npu_grouped_matmul(
            [npu(a) for a in several],
            [npu(w.contiguous()) for w in weight],
            split_item=0,
            group_type=-1,
        )
        for got, a, w in zip(results, several, weight, strict=True):
            close(got, _product(a, w, None), terms=k, size=16)


def check_linear() -> None:
    for rng, dtype in sweep(4):
        rows, k, n = rng.randint(1, 4), rng.randint(1, 6), rng.randint(1, 5)
        x, w = rand(rng, rows, k, dtype=dtype), rand(rng, n, k, dtype=dtype)
        b = rand(rng, n, dtype=dtype)
        got = call("npu::npu_linear", npu(x), npu(w), npu(b))
        close(got, _product(x, w.t(), wide(b)), terms=k, size=16)
        for target in (torch.float32, torch.float16, torch.bfloat16, torch.int32):
            cast = call("npu::_npu_dtype_cast", npu(x), target)
            assert cast.dtype == target
            assert torch.equal(cast.cpu(), x.to(target))
            number = torch_npu.npu_dtype_cast(npu(x), target)
            called.add("npu::npu_dtype_cast")
            assert torch.equal(number.cpu(), x.to(target))


def check_moe_refusals() -> None:
    x, e = npu(torch.ones(2, 4)), npu(torch.tensor([[0, 1], [1, 2]], dtype=torch.int32))
    with refused("npu_moe_gating_top_k_softmax", "'k'", "1 to 4", "5"):
        torch_npu.npu_moe_gating_top_k_softmax(x, None, 5)
    with refused("npu_moe_gating_top_k_softmax", "'finished'", "bool"):
        torch_npu.npu_moe_gating_top_k_softmax(x, npu(torch.ones(2)), 1)
    with refused("npu_moe_gating_top_k", "'bias'", "shape (4)"):
        torch_npu.npu_moe_gating_top_k(x, 1, bias=x[0, :2])
    with refused("npu_moe_gating_top_k", "'group_count'", "more than 2 experts"):
        torch_npu.npu_moe_gating_top_k(x, 1, group_count=2)
    with refused("npu_moe_gating_top_k", "'renorm'", "0"):
        torch_npu.npu_moe_gating_top_k(x, 1, renorm=1)
    route = torch_npu.npu_moe_init_routing_v2
    good: dict[str, Any] = {
        "expert_num": 3, "expert_tokens_num_type": 1, "expert_tokens_num_flag": True,
        "quant_mode": -1, "active_expert_range": [0, 3],
    }  # fmt: skip
    route(x, e, **good)
    for change, parts in (
        ({"quant_mode": 1}, ("'quant_mode'", "-1")),
        ({"drop_pad_mode": 1}, ("'drop_pad_mode'", "0")),
        ({"expert_tokens_num_flag": False}, ("'expert_tokens_num_flag'", "True")),
        ({"active_expert_range": [0, 4]}, ("'active_expert_range'", "3 experts", "[0, 4]")),
        ({"expert_num": 2, "active_expert_range": [0, 2]}, ("'expert_idx'", "[0, 2)")),
        ({"active_num": 1}, ("'active_num'", "at least rows * k = 4")),
        ({"offset": x}, ("'offset'", "no reference for quantised routing")),
    ):
        with refused("npu_moe_init_routing_v2", *parts):
            route(x, e, **{**good, **change})
    with refused("npu_moe_init_routing_v2", "'expert_idx'", "int32", "int64"):
        route(x, e.long(), **good)
    with refused("npu_moe_init_routing", "'row_idx'", "each of 0 to 3 once"):
        torch_npu.npu_moe_init_routing(x, e, e, 2)
    with refused("npu_moe_compute_expert_tokens", "sorted values"):
        torch_npu.npu_moe_compute_expert_tokens(e.flatten().flip(0), 4)
    with refused("npu_moe_finalize_routing", "'drop_pad_mode'", "0 or 2"):
        torch_npu.npu_moe_finalize_routing(x, None, None, None, None, e[0], None, 1)
    with refused("npu_moe_finalize_routing", "'expanded_src_to_dst_row'", "[0, 2)", "-1"):
        torch_npu.npu_moe_finalize_routing(
            x, None, None, None, npu(torch.ones(1, 2)), e[0] - 1, None
        )
    with refused("npu_moe_token_unpermute", "'sorted_indices'", "[0, 2)", "-1"):
        torch_npu.npu_moe_token_unpermute(x, e[0] - 1)
    with refused("npu_moe_token_permute", "'padded_mode'", "False"):
        torch_npu.npu_moe_token_permute(x, e, padded_mode=True)
    w, sizes = npu(torch.ones(2, 4, 3)), npu(torch.tensor([1, 2]))
    multiply = torch_npu.npu_grouped_matmul
    rows: dict[str, Any] = {"split_item": 2, "group_type": 0, "group_list": sizes}
    multiply([x], [w], **rows)
    for change, parts in (
        ({"group_list": sizes.int()}, ("'group_list'", "int64", "int32")),
        ({"group_list": sizes.cpu()}, ("'group_list'", "on the NPU")),
        ({"group_list": sizes[:1]}, ("'group_list'", "shape (2)")),
        ({"group_list": sizes.flip(0)}, ("'group_list'", "cumulative")),
        ({"group_list": sizes + 1}, ("'group_list'", "at most 2 rows", "3")),
        ({"group_list": None}, ("'group_list'", "None")),
        ({"group_type": 2}, ("'group_type'", "no reference for groups along k")),
        ({"split_item": 0}, ("'split_item'", "2 or 3")),
        ({"act_type": 1}, ("'act_type'", "fused activations")),
        ({"bias": [w[0, :1]]}, ("'bias'", "shape (2, 3)")),
        ({"scale": [x]}, ("'scale'", "quantised products")),
    ):
        with refused("npu_grouped_matmul", *parts):
            multiply([x], [w], **{**rows, **change})
    with refused("npu_grouped_matmul", "'weight'", "dtype of x"):
        multiply([x], [w.half()], **rows)
    with refused("npu_grouped_matmul", "'weight'", "shape (*, 4, *)"):
        multiply([x], [w.transpose(1, 2).contiguous()], **rows)
    with refused("npu_linear", "'weight'", "shape (*, 4)"):
        torch_npu.npu_linear(x, npu(torch.ones(4, 3)))


# ---- sampling ----------------------------------------------------------------------------------


def check_top_k_top_p() -> None:
    for rng, dtype in sweep(16):
        rows, columns = rng.randint(1, 4), rng.randint(2, 12)
        logits = rand(rng, rows, columns, dtype=dtype) * 2
        k = [rng.randint(1, columns) for _ in range(rows)]
        p = [rng.choice([0.0, 0.3, 0.8, 1.0]) for _ in range(rows)]
        which = rng.choice(["k", "p", "both"])
        top_p, top_k = torch.tensor(p).to(dtype), torch.tensor(k, dtype=torch.int32)
        got = call(
            "npu::npu_top_k_top_p",
            npu(logits),
            npu(top_p) if which != "k" else None,
            npu(top_k) if which != "p" else None,
        )
        assert got.dtype == dtype
        for i, row in enumerate(wide(logits)):
            kept = row
            if which != "p":
                least = sorted(row, reverse=True)[k[i] - 1]
                kept = [v if v >= least else -math.inf for v in row]
            want, border = kept, False
            if which != "k":
                order = sorted(range(columns), key=lambda j: (kept[j], j))
                weights = _softmax(kept)
                bound, mass = 1 - float(top_p[i]), 0.0
                want = list(kept)
                for j in order[:-1]:
                    mass += weights[j]
                    # float32 decides a sum that comes within its own error of the bound.
                    border |= abs(mass - bound) < 1e-6 and weights[j] > 0
                    if mass <= bound:
                        want[j] = -math.inf
            if not border:
                assert got[i].tolist() == want, (got[i].tolist(), want)


def check_sort_v2() -> None:
    for rng, dtype in sweep(3):
        x = rand(rng, 3, 5, dtype=dtype)
        got = call("npu::npu_sort_v2", npu(x), 1, True)
        assert got.tolist() == [sorted(row, reverse=True) for row in x.tolist()]


def check_sampling_refusals() -> None:
    logits = npu(torch.ones(2, 2048))
    k = npu(torch.tensor([1, 1025], dtype=torch.int32))
    with refused("npu_top_k_top_p", "'k'", "[1, 1025)", "1025"):
        torch_npu.npu_top_k_top_p(logits, None, k)
    with refused("npu_top_k_top_p", "'k'", "int32", "int64"):
        torch_npu.npu_top_k_top_p(logits, None, k.long())
    with refused("npu_top_k_top_p", "'p'", "[0, 1]"):
        torch_npu.npu_top_k_top_p(logits, npu(torch.tensor([0.5, 1.5])))
    with refused("npu_top_k_top_p", "'p'", "dtype of logits"):
        torch_npu.npu_top_k_top_p(logits, npu(torch.tensor([0.5, 0.5]).half()))
    with refused("npu_top_k_top_p", "'p'", "where k is None"):
        torch_npu.npu_top_k_top_p(logits)
    with refused("npu_top_k_top_p", "'logits'", "2 dimensions"):
        torch_npu.npu_top_k_top_p(logits[0], None, k)


# ---- formats -----------------------------------------------------------------------------------


def check_formats() -> None:
    nz, nd = 29, 2
    torch.npu.config.allow_internal_format = True
    try:
        for dtype in FLOATS:
            x = rand(random.Random(1), 20, 40, dtype=dtype)
            source = npu(x)
            cast = call("npu::npu_format_cast", source, nz)
            assert int(torch_npu.get_npu_format(cast)) == nz
            assert int(torch_npu.get_npu_format(source)) == nd
            assert torch.equal(cast.cpu(), x)
            # The storage is padded to whole tiles of 16 by 16, as torch_npu has it.
            tile = 16
            size = -(-20 // tile) * tile * -(-40 // tile) * tile * x.element_size()
            assert cast.untyped_storage().nbytes() >= size
            back = call("npu::_npu_format_cast", cast, nd)
            assert int(torch_npu.get_npu_format(back)) == nd
            assert torch.equal(back.cpu(), x)
            like = call("npu::npu_format_cast.Tensor", source, cast)
            assert int(torch_npu.get_npu_format(like)) == nz
            own = npu(x)
            assert call("npu::npu_format_cast_.acl_format", own, nz) is own
            assert int(torch_npu.get_npu_format(own)) == nz
            assert torch.equal(own.cpu(), x)
            call("npu::npu_format_cast_", own, npu(x * 2))
            assert int(torch_npu.get_npu_format(own)) == nz
            assert torch.equal(own.cpu(), x * 2)
            product = npu(x[:3].contiguous()) @ cast.t()
            plain = npu(x[:3].contiguous()) @ source.t()
            assert torch.equal(product.cpu(), plain.cpu())
            (grouped,) = torch_npu.npu_grouped_matmul(
                [source],
                [
                    torch_npu.npu_format_cast(
                        npu(rand(random.Random(2), 2, 40, 16, dtype=dtype)), nz
                    )
                ],
                split_item=2,
                group_type=0,
                group_list=npu(torch.tensor([8, 20])),
            )
            close(
                grouped[:8],
                _product(x[:8], rand(random.Random(2), 2, 40, 16, dtype=dtype)[0], None),
                terms=40,
                size=40,
            )
        with refused("npu_format_cast", "'input'", "two dimensions"):
            torch_npu.npu_format_cast(npu(torch.ones(4)), nz)
        with refused("npu_format_cast", "'acl_format'", "12"):
            torch_npu.npu_format_cast(npu(torch.ones(4, 4)), 12)
    finally:
        torch.npu.config.allow_internal_format = False


# ---- graphs ------------------------------------------------------------------------------------


def check_graphs() -> None:
    """Captured operators run again on the same memory, with the host operands of the capture."""
    rng = random.Random(9)
    half = torch.float16
    x, residual, gamma = npu(rand(rng, 4, 64)), npu(rand(rng, 4, 64)), npu(rand(rng, 64))
    total = npu(torch.zeros(4, 32))
    key = npu(rand(rng, 4, 2, 16, dtype=half))
    caches = [npu(torch.zeros(2, 16, 2, 16, dtype=half)) for _ in range(2)]
    slots = npu(torch.arange(4, dtype=torch.int32))
    contexts = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    table = npu(torch.zeros(4, 1, dtype=torch.int32))
    out = npu(torch.zeros(4, 2, 16, dtype=half))
    lengths = [1, 2, 3, 4]

    def body() -> tuple[Tensor, Tensor, Tensor]:
        y, _, added = torch_npu.npu_add_rms_norm(x, residual, gamma, 1e-5)
        total.add_(torch_npu.npu_swiglu(y))
        torch_npu._npu_reshape_and_cache(
            key=key, value=key, key_cache=caches[0], value_cache=caches[1], slot_indices=slots
        )
        torch_npu._npu_paged_attention(
            query=key, key_cache=caches[0], value_cache=caches[1], num_kv_heads=2, num_heads=2,
            scale_value=0.3, block_table=table, context_lens=contexts, out=out,
        )  # fmt: skip
        fused, _ = torch_npu.npu_fused_infer_attention_score(
            key.flatten(1).unsqueeze(1), caches[0].flatten(2), caches[1].flatten(2),
            block_table=table, block_size=16, actual_seq_lengths_kv=lengths, num_heads=2,
            num_key_value_heads=2, scale=0.3, input_layout="BSH",
        )  # fmt: skip
        return y, added, fused

    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y, added, fused = body()
    assert not caches[0].any(), "a capture computes nothing"
    assert not total.any()
    assert y.isnan().all(), "memory of a capture has no value before the first replay"
    x.copy_(rand(rng, 4, 64))
    key.copy_(rand(rng, 4, 2, 16, dtype=half))
    contexts.fill_(1)
    lengths[:] = [1, 1, 1, 1]
    for _ in range(2):
        graph.replay()
    torch.npu.synchronize()
    seen = [t.cpu() for t in (total, out, y, added, fused, caches[0])]
    contexts.copy_(torch.tensor([1, 2, 3, 4]))
    lengths[:] = [1, 2, 3, 4]
    total.zero_()
    eager = [body() for _ in range(2)][1]
    want = [t.cpu() for t in (total, out, *eager, caches[0])]
    for a, b in zip(seen, want, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(seen[1].flatten(), seen[4].flatten())

    # What goes wrong at a replay is an error of the replay.
    with torch.npu.graph(bad := torch.npu.NPUGraph()):
        torch_npu._npu_reshape_and_cache(
            key=key, value=key, key_cache=caches[0], value_cache=caches[1], slot_indices=slots
        )
    slots.fill_(99)
    with refused("slot_indices"):
        bad.replay()
        torch.npu.synchronize()


def check_task_groups() -> None:
    """A decode captured with one set of host lengths is updated to another before a replay."""
    rng = random.Random(4)
    kc, vc, table, keys, values = paged(rng, [5, 20], 16, 2, 64, torch.float16)
    q = rand(rng, 2, 4, 64, dtype=torch.float16)
    query, out, fused = npu(q), npu(torch.zeros_like(q)), npu(torch.zeros_like(q))
    unused = npu(torch.zeros(1))
    caches, blocks, triangle = (npu(kc), npu(vc)), npu(table[:, :2].contiguous()), npu(TRIANGLE)

    def decode(lengths: list[int]) -> None:
        torch_npu._npu_paged_attention(
            query=query, key_cache=caches[0], value_cache=caches[1], num_kv_heads=2, num_heads=4,
            scale_value=0.1, block_table=blocks, out=out,
            context_lens=torch.tensor(lengths, dtype=torch.int32),
        )  # fmt: skip

    def decode_fused(lengths: list[int]) -> None:
        torch_npu.npu_fused_infer_attention_score.out(
            query, caches[0].flatten(2), caches[1].flatten(2), atten_mask=triangle,
            actual_seq_lengths=[1, 2], actual_seq_lengths_kv=lengths, block_table=blocks,
            num_heads=4, num_key_value_heads=2, scale=0.1, input_layout="TND", sparse_mode=3,
            block_size=16, out=[fused, unused],
        )  # fmt: skip

    for body, result in ((decode, out), (decode_fused, fused)):
        stream, update, graph = torch.npu.Stream(), torch.npu.Stream(), torch.npu.NPUGraph()
        with torch.npu.graph(graph, stream=stream):
            torch.npu.graph_task_group_begin(stream)
            body([2, 3])
            handle = torch.npu.graph_task_group_end(stream)
        assert not result.any()
        for lengths in ([2, 3], [5, 20], [1, 17]):
            with torch.npu.stream(update):
                torch.npu.graph_task_update_begin(update, handle)
                body(lengths)
                torch.npu.graph_task_update_end(update)
            graph.replay()
            torch.npu.synchronize()
            want = []
            for i, n in enumerate(lengths):
                want += attention(q[i : i + 1], keys[i][:n], values[i][:n], 0.1, lambda i, j: True)[
                    0
                ]
            close(result, want, terms=64 + 20, size=4)


# ---- the registry ------------------------------------------------------------------------------


def check_schema_that_is_not_known() -> None:
    odd = _registry.Operator(
        name="npu::npu_mish",
        schemas={"0": "npu_mish(Tensor input, int flavour) -> Tensor"},
        function=lambda input: input,  # noqa: A006
        host=frozenset(),
        refused={},
        checks="",
        source="",
        meta="",
        meta_defects={},
        writes=frozenset(),
        on_device=False,
        parameters=("input",),
    )
    _registry.bind(odd)
    try:
        text = operators.problems()["npu::npu_mish"]
        assert "npu_mish(Tensor input) -> Tensor" in text
        assert "npu_mish(Tensor input, int flavour) -> Tensor" in text
        with refused("npu::npu_mish", "torch_npu: npu::npu_mish(Tensor input)", "int flavour"):
            torch_npu.npu_mish(npu(torch.ones(2)))
        torch_npu.npu_silu(npu(torch.ones(2)))
    finally:
        del _registry._problems["npu::npu_mish"]


def check_meta_kernel_that_disagrees() -> None:
    op = operators.REGISTRY["npu::npu_swiglu"]
    operand = {"input": torch.ones(2, 8), "dim": -1}
    _registry._compare_with_meta(op, op.overload, operand, torch.ones(2, 4))
    for wrong in (torch.ones(2, 8), torch.ones(2, 4).half()):
        with refused("npu::npu_swiglu", "the wheel's meta kernel infers", "(2, 4)"):
            _registry._compare_with_meta(op, op.overload, operand, wrong)


def check_devices_are_told_apart() -> None:
    if torch.npu.device_count() < 2:
        return
    a = torch.ones(2, 4, device="npu:0")
    with refused("npu_rms_norm", "'gamma'", "a tensor on npu:0", "npu:1"):
        torch_npu.npu_rms_norm(a, torch.ones(4, device="npu:1"))
    there = torch.ones(2, 4, device="npu:1")
    y, _ = torch_npu.npu_rms_norm(there, torch.ones(4, device="npu:1"))
    assert y.device == there.device


def check_zz_every_operator_was_tested() -> None:
    assert not operators.problems()
    absent = set()
    for name, op in operators.REGISTRY.items():
        try:
            overload = op.overload
        except AttributeError:
            absent.add(name)
            continue
        assert name in called, f"{name} was never called"
        has_meta = torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta")
        compared = any(key[0] == name for key in _registry._meta_seen)
        if has_meta and _registry.compares_meta(op):
            assert compared, f"{name} has a meta kernel that was never compared: {overload._schema}"
    assert len(absent) < 5, absent
