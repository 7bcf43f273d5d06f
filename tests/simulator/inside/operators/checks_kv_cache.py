# SPDX-License-Identifier: Apache-2.0
"""Writes to paged caches, token by token."""

from __future__ import annotations

import itertools
import random

import torch
import torch_npu
from torch import Tensor

from tests.simulator.inside.operators.calling import (
    FLOATS,
    HALVES,
    call,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    sweep,
    takes,
)


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


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
