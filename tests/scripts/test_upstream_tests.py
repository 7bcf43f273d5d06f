# SPDX-License-Identifier: Apache-2.0
"""vLLM's own tests: how a copy is rewritten, and how outcomes are sorted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

sys.path.append(str(ROOT / "scripts"))

import upstream_tests  # noqa: E402 - found by the line above
from simulated_runs import State  # noqa: E402
from upstream.reasons import REASONS, Reason  # noqa: E402
from upstream.rewrite import (  # noqa: E402
    OPENED,
    RewriteError,
    closure,
    rewrite,
    rewrite_copy,
)

OPEN = next(iter(sorted(OPENED)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('x = torch.zeros(3, device="cuda")\n', 'x = torch.zeros(3, device="npu")\n'),
        ("d = ['cuda:0', f'cuda:{i}']\n", "d = ['npu:0', f'npu:{i}']\n"),
        ("torch.cuda.synchronize()\n", "torch.npu.synchronize()\n"),
        ("g = torch.cuda.CUDAGraph()\n", "g = torch.npu.NPUGraph()\n"),
        ("x = x.cuda()\n", "x = x.npu()\n"),
        ('init(backend="nccl")\n', 'init(backend="hccl")\n'),
        ("opcheck(torch.ops._C.rms_norm, (x,))\n", "pass\n"),
        ('assert op._forward_method.__name__ == "forward_cuda"\n', "pass\n"),
        (
            "c.get_num_layers = types.MethodType(lambda self: 1, c)\n",
            "c.get_num_layers = types.MethodType(lambda self, *_: 1, c)\n",
        ),
        # What torch.npu has not, what is a part of a word, and what only looks alike, stays.
        ("torch.cuda.nccl.version()\n", None),
        ('s = "cuda_graph"\n', None),
        ("torch.cuda\n", None),
    ],
)
def test_the_device_is_rewritten(before: str, after: str | None) -> None:
    result, sites = rewrite(before.encode(), "v1/test_x.py")
    assert result.decode() == (before if after is None else after)
    assert bool(sites) is (after is not None)


SKIPPED = """\
@pytest.mark.skipif(not current_platform.is_cuda(), reason="CUDA")
def test():
    assert current_platform.is_cuda()
DEVICES = ["cuda:0"] if current_platform.is_cuda_alike() else ["cpu"]
"""


def test_skip_conditions_are_lifted_where_it_is_allowed() -> None:
    opened = rewrite(SKIPPED.encode(), OPEN)[0].decode()
    assert "skipif(not True," in opened
    assert 'DEVICES = ["npu:0"] if True else' in opened
    assert "assert current_platform.is_cuda()" in opened
    assert "skipif(not current_platform.is_cuda()" in rewrite(SKIPPED.encode(), "a.py")[0].decode()


def test_only_what_is_reached_is_rewritten(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    files = {
        "v1/test_a.py": "from tests.v1.utils import x\nfrom .near import y\nd = 'cuda'\n",
        "v1/utils.py": "import tests.deep.down\nx = 'cuda:1'\n",
        "v1/near.py": "y = 1\n",
        "deep/down.py": "z = torch.cuda.Event()\n",
        "conftest.py": "def f(): import tests.late\n",
        "late.py": "w = 'cuda'\n",
        "other.py": "w = 'cuda'\n",
    }
    for name, text in files.items():
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).write_text(text, encoding="utf-8")
    assert {p.relative_to(tests).as_posix() for p in closure(tests, ["v1/test_a.py"])} == {
        *files
    } - {"other.py"}
    assert rewrite_copy(tests, ["v1/test_a.py"]) == (4, 4)
    assert (tests / "other.py").read_text(encoding="utf-8") == files["other.py"]
    with pytest.raises(RewriteError, match=r"v1/test_gone\.py: not among the tests"):
        closure(tests, ["v1/test_gone.py"])


def test_every_reason_says_why_and_when() -> None:
    names = [reason.name for reason in REASONS]
    assert len(names) == len(set(names))
    for reason in REASONS:
        assert reason.why.strip()
        # One that takes any message of any test would hide a failure.
        assert not reason.fits("v1/a/test_b.py::test_c[d]", "AssertionError: 3 != 4")


def test_outcomes_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Reason("gpu", r"a\.py::.*", "needs a GPU", "there is none")
    later = Reason("later", r"later\.py::.*", "no kernel", "it is refused", newer=True)
    monkeypatch.setattr(upstream_tests, "REASONS", (gpu, later))
    kinds = [
        upstream_tests.sort(test, outcome, says).kind
        for test, outcome, says in (
            ("a.py::t", "passed", ""),
            ("a.py::t", "skipped", "needs a GPU here"),
            ("b.py::t", "skipped", "needs a GPU here"),
            ("a.py::t", "failed", "wrong"),
        )
    ]
    assert kinds == ["passed", "not applicable", "failed", "failed"]
    results = [upstream_tests.Result("a.py", "", "2.13.0", 4, [])]
    assert upstream_tests.unused(results) == [gpu]
    results[0].outcomes.append(upstream_tests.sort("a.py::t", "failed", "needs a GPU"))
    assert upstream_tests.unused(results) == []
    assert "| a.py | 4 | 1 | 0 | 1 | 0 |" in upstream_tests.page(results, "0.1.0")


def test_a_case_without_an_outcome_failed(tmp_path: Path) -> None:
    from migrator.verify.simulate import process

    out, log = tmp_path / "out", tmp_path / "log"
    out.write_text(
        '{"collected": ["tests/a.py::t[1]", "tests/a.py::t[2]"], "chosen": ["tests/a.py::t[1]"]}\n',
        encoding="utf-8",
    )
    log.write_text("dead\n", encoding="utf-8")
    suite = upstream_tests.Suite("a.py", 1)
    result = upstream_tests.judge(suite, out, process.Finished(-11, 1.0), log)
    (outcome,) = result.outcomes
    assert (outcome.id, outcome.kind) == ("a.py::t[1]", "failed")
    assert result.collected == 2


def test_what_a_run_came_from_tells_it(tmp_path: Path) -> None:
    plain, other = upstream_tests.Suite("a/b.py", 2), upstream_tests.Suite("a/b.py", 2, "bare")
    versions = {"torch": "2.13.0"}
    key = upstream_tests.made_of(plain, "tree", versions)
    assert key == upstream_tests.made_of(plain, "tree", versions)
    assert key not in {
        upstream_tests.made_of(other, "tree", versions),
        upstream_tests.made_of(upstream_tests.Suite("a/b.py", 3), "tree", versions),
        upstream_tests.made_of(plain, "another", versions),
        upstream_tests.made_of(plain, "tree", {"torch": "2.8.0"}),
    }
    state = State(tmp_path)
    assert upstream_tests.read(state, plain) is None
    path = upstream_tests.kept(state, other, "result.json")
    assert path.name == "a.b.py-bare.result.json"
    assert path != upstream_tests.kept(state, plain, "result.json")
