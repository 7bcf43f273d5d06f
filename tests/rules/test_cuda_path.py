# SPDX-License-Identifier: Apache-2.0
"""On CUDA every rewritten module is the module that it was: the same calls in every function."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrator.planning.plan import Plan
from tests.rules.cuda_path import on_cuda

QUICK = ("0.11.0", "0.33.0")
OTHERS = (
    "0.9.2 0.10.2 0.11.2 0.13.0 0.16.0 0.18.0 0.21.0 0.23.0 0.26.0 0.29.0 0.31.0 0.32.0"
).split()


@pytest.mark.releases
@pytest.mark.parametrize(
    "version", [*QUICK, *(pytest.param(v, marks=pytest.mark.slow) for v in OTHERS)]
)
def test_modules_are_as_before_on_cuda(release_plan: Callable[[str], Plan], version: str) -> None:
    rewritten = [
        f for f in release_plan(version).files if f.before is not None and f.path.endswith(".py")
    ]
    assert len(rewritten) > 15
    for change in rewritten:
        assert change.before is not None
        before, after = on_cuda(change.before, change.after)
        assert before == after, change.path


BEFORE = b"""\
import torch


def f(x: torch.Tensor, backend: str = "nccl"):
    event = torch.cuda.Event()
    if not x.is_cuda:
        return None
    return torch.ops._C.f(x, event)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"torch.cuda.Event()", b"device_module().Event()"),
        (b"not x.is_cuda", b'x.device.type != "cuda"'),
        (b"    event", b'    if x.device.type == "npu":\n        return 1\n    event'),
        (
            b'backend: str = "nccl"):\n',
            b"backend: str | None = None):\n    if backend is None:\n"
            b"        backend = current_platform.dist_backend\n",
        ),
    ],
)
def test_edits_of_the_rules_are_the_same_on_cuda(old: bytes, new: bytes) -> None:
    before, after = on_cuda(BEFORE, BEFORE.replace(old, new))
    assert before == after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"torch.cuda.Event()", b"device_module().Event(blocking=True)"),
        (b"torch.cuda.Event()", b"torch.npu.Event()"),
        (b"not x.is_cuda", b'x.device.type == "cuda"'),
        (b"    event", b'    if x.device.type != "npu":\n        return 1\n    event'),
        (b"    event", b'    if x.device.type == "cuda":\n        return 1\n    event'),
        (b"f(x, event)", b"f(x)"),
        (b'"nccl"', b'"gloo"'),
    ],
)
def test_a_changed_cuda_path_is_noticed(old: bytes, new: bytes) -> None:
    before, after = on_cuda(BEFORE, BEFORE.replace(old, new))
    assert before != after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"one()\ntwo()\nthree()\n", b"two()\none()\nthree()\n"),
        (b"class A:\n    a = 1\n    b = 2\n", b"class A:\n    b = 2\n    a = 1\n"),
        (b"class A:\n    a = 1\n\n\nx = 1\n", b"class A:\n    pass\n\n\nx = 1\n"),
        (b"a = 1\rb = 2\rc = 3\n", b"a = 1\rb = 4\rc = 3\n"),
        (b"@one\ndef f(): ...\n", b"@two\ndef f(): ...\n"),
    ],
)
def test_what_is_left_out_is_the_same(old: bytes, new: bytes) -> None:
    before, after = on_cuda(old, new)
    assert before != after
    before, after = on_cuda(old, old)
    assert before == after == "pass"


SETS = b"""\
import os

PREFIXES = {"VLLM_", "NCCL_"}


def names(exclude=None, more=None):
    return (more or set()) - (exclude or set())
"""
CANN = b'"HCCL_", "TASK_QUEUE_ENABLE"'
COPIED = b"    more = {*(more or ()), *(n for n in os.environ if n.startswith((%s)))}\n"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (b'"NCCL_"', b'"NCCL_", "HCCL_", "ASCEND_"', True),
        (b'"NCCL_"', b'"NCCL_", "TASK_QUEUE_"', False),
        (b'"NCCL_"', b'"HCCL_"', False),
        (b"    return", COPIED % CANN + b"    return", True),
        (b"    return", COPIED % b'"HCCL_", "UCX_"' + b"    return", False),
        (b"    return", b'    exclude = {*(exclude or ()), "LCCL_"}\n    return', True),
        (b"    return", b'    exclude = {*(exclude or ()), "PATH"}\n    return', False),
        (b"    return", b"    exclude = {*(more or ())}\n    return", False),
    ],
)
def test_variables_of_cann_are_none_on_cuda(old: bytes, new: bytes, same: bool) -> None:
    before, after = on_cuda(SETS, SETS.replace(old, new))
    assert (before == after) is same
