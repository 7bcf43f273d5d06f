# SPDX-License-Identifier: Apache-2.0
"""Choosing, reading and asking a torch_npu wheel; real ones are marked `releases`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from migrator.verify import wheel as wheels
from migrator.verify.api import Absent, Exists, Function, NpuApi, Operator, Untold
from migrator.verify.wheel import Choice, WheelError, choose, read_contents, torch_pin
from tests.verify.conftest import make_wheel


def pin(files: dict[str, str]) -> tuple[str, str] | None:
    return torch_pin(
        lambda path: files[path].encode() if path in files else None,
        [p for p in files if p.startswith("requirements/")],
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"requirements/cuda.txt": "numba\ntorch==2.8.0\n"}, ("2.8.0", "requirements/cuda.txt")),
        ({"requirements/cuda.txt": "torch == 2.8.0 # why"}, ("2.8.0", "requirements/cuda.txt")),
        (
            {"requirements/cuda.txt": "torch==2.8.0", "requirements/npu.txt": "torch==2.7.1"},
            ("2.7.1", "requirements/npu.txt"),
        ),
        (
            {
                "requirements/xpu.txt": "torch==2.9.0+xpu",
                "requirements/build/cuda.txt": "torch==2.8.0",
            },
            ("2.8.0", "requirements/build/cuda.txt"),
        ),
        ({"requirements/cpu.txt": "torch==2.6.0+cpu; x == 'y'"}, None),
        ({"requirements/cpu.txt": "torch==2.6.0+cpu"}, ("2.6.0", "requirements/cpu.txt")),
        ({"requirements/cuda.txt": "torchaudio==2.8.0\n-r common.txt\n--x\n"}, None),
        (
            {"pyproject.toml": "[build-system]\nrequires = ['torch == 2.8.0']"},
            ("2.8.0", "pyproject.toml"),
        ),
        ({"pyproject.toml": "["}, None),
        ({}, None),
    ],
)
def test_the_torch_pin_of_a_tree(files: dict[str, str], found: tuple[str, str] | None) -> None:
    assert pin(files) == found


def test_the_choice_is_explained() -> None:
    def read(path: str) -> bytes | None:
        return b"torch==2.8.0" if path == "requirements/cuda.txt" else None

    assert choose(read, [], None) == Choice(
        "torch_npu==2.8.0.*", "the newest for torch 2.8.0 (requirements/cuda.txt)"
    )
    assert choose(read, [], "2.8.0.post2") == Choice("torch_npu==2.8.0.post2", "asked for")
    with pytest.raises(WheelError, match="pins no torch release; name a torch_npu"):
        choose(lambda _: None, [], None)


def name(version: str, platform: str = "manylinux_2_28_aarch64", python: str = "cp311") -> str:
    return f"torch_npu-{version}-{python}-{python}-{platform}.whl"


def test_the_newest_aarch64_wheel_is_taken() -> None:
    files = [
        name("2.8.0"),
        name("2.8.0.post2", "manylinux_2_28_x86_64"),
        name("2.8.0.post2", python="cp39"),
        name("2.8.0.post2", python="cp311"),
        name("2.8.1"),
        name("2.8.0.post3.dev1"),
        "torch_npu-bad.whl",
    ]
    links = [(f, f) for f in files]
    best = wheels._best(links, Requirement("torch_npu==2.8.0.*"))
    assert best == name("2.8.0.post2", python="cp311")
    assert wheels._best(links, Requirement("torch_npu==2.9.0")) is None
    # No build for the exact torch: the newest of the same minor release.
    minor = wheels._same_minor(Requirement("torch_npu==2.8.7.*"))
    assert wheels._best(links, minor) == name("2.8.1")
    assert wheels._same_minor(Requirement("torch_npu==2.8.0")) == Requirement("torch_npu==2.8.0")


def test_a_cached_wheel_needs_no_index(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    assert wheels.fetch(Choice("torch_npu==9.1.0", "asked for"), tmp_path) == path


def test_contents_and_their_cache(wheel: Path, tmp_path: Path) -> None:
    contents = read_contents(wheel, tmp_path)
    assert contents.version == "9.1.0"
    assert {k: len(v) for k, v in contents.operators.items()} == {"npu": 7, "atb": 2}
    assert contents.exposed_atb == ["npu_ring"]
    assert contents.lazy == {"erase": "torch_npu.npu.memory.erase_memory"}
    assert contents.dtypes == ["float16", "int4"]
    (stored,) = tmp_path.iterdir()
    assert contents.sha256 in stored.name
    assert read_contents(wheel, tmp_path) == contents
    stored.write_bytes(b"{")
    assert read_contents(wheel, tmp_path) == contents
    assert read_contents(wheel, None) == contents


def test_what_is_no_wheel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="No such file"):
        read_contents(tmp_path / "none.whl", None)
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(WheelError, match="not a torch_npu wheel"):
        read_contents(path, None)


@pytest.fixture(scope="module")
def api(wheel: Path) -> NpuApi:
    return NpuApi.open(wheel, read_contents(wheel, None))


@pytest.mark.parametrize(
    ("path", "kind", "detail"),
    [
        ("torch_npu", Exists, None),
        ("torch_npu.npu", Exists, None),
        ("torch_npu.npu_swiglu", Operator, "npu_swiglu(Tensor input, int dim=-1) -> Tensor"),
        ("torch_npu.npu_sort", Operator, None),
        ("torch_npu.npu_sort.default", Operator, "npu_sort(Tensor input, *, int dim=-1) -> Tensor"),
        ("torch_npu.npu_sort.out", Operator, None),
        ("torch_npu.npu_sort.in", Absent, ("default", "out")),
        ("torch_npu.npu_sort.overloads", Exists, None),
        ("torch_npu.npu_swigly", Absent, ("npu_swiglu",)),
        ("torch.ops.npu.npu_swigly", Absent, ("npu_swiglu",)),
        ("torch.ops.npu.npu_swiglu", Operator, None),
        ("torch.ops.npu.npu_ring", Absent, ()),
        ("torch.ops.atb.npu_ring", Operator, None),
        ("torch.ops.atb._npu_only_named", Exists, None),
        ("torch_npu._npu_only_named", Exists, None),
        ("torch_npu.atb", Exists, None),
        ("torch_npu.atb.npu_ring", Operator, None),
        ("torch_npu.atb.npu_rings", Absent, ("npu_ring",)),
        ("torch_npu._npu_write_cache", Operator, None),
        ("torch_npu.print_tensor", Operator, None),
        ("torch_npu.erase", Function, "erase_memory(tensor, *, keep=False)"),
        ("torch_npu.int4", Exists, None),
        ("torch_npu.int5", Absent, ("int4",)),
        ("torch_npu.Format", Exists, None),
        ("torch_npu._C", Exists, None),
        ("torch_npu._C.anything", Untold, None),
        ("torch_npu._C._weak_ref", Exists, None),
        ("torch_npu._C._weak_refs", Absent, ("_weak_ref",)),
        ("torch_npu._C._weak_ref.attribute", Untold, None),
        ("torch.npu.mem_get_info", Function, "mem_get_info(device=None)"),
        ("torch_npu.npu.mem_get_info", Function, "mem_get_info(device=None)"),
        ("torch.npu.erase_memory", Absent, ()),
        ("torch.npu.memory.erase_memory", Function, None),
        ("torch.npu.synchronise", Absent, ("synchronize",)),
        ("torch.npu.Event", Exists, None),
        ("torch.npu.Graph", Exists, None),
        ("torch.npu.streams.Graph", Function, "Graph(pool=None)"),
        ("torch.npu.FloatStorage", Exists, None),
        ("torch.npu.lazy_part", Exists, None),
        ("torch.npu.lazy_parts", Absent, ()),
    ],
)
def test_what_a_path_means(api: NpuApi, path: str, kind: type, detail: object) -> None:
    answer = api.answer(path)
    assert isinstance(answer, kind), answer
    if isinstance(answer, Operator | Function) and detail is not None:
        assert answer.expected == detail
    if isinstance(answer, Absent):
        assert answer.near == detail


# -- real wheels

REAL = ["2.8.0.post2", "2.9.0.post2", "2.13.0", "2.14.0"]


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> NpuApi:
    import platformdirs

    cache = platformdirs.user_cache_path("vllm-npu-migrate") / "wheels"
    path = wheels.fetch(Choice(f"torch_npu=={request.param}", "asked for"), cache)
    return NpuApi.open(path, read_contents(path, cache))


@pytest.mark.releases
def test_a_real_wheel_gives_the_schemas_that_a_port_calls(real: NpuApi) -> None:
    assert len(real.operators["npu"]) > 300
    assert len(real.operators["atb"]) > 25
    for path in (
        "torch_npu.npu_rms_norm",
        "torch_npu.npu_add_rms_norm",
        "torch_npu.npu_swiglu",
        "torch_npu.npu_fast_gelu",
        "torch_npu._npu_rotary_embedding",
        "torch_npu._npu_reshape_and_cache",
        "torch_npu._npu_paged_attention",
        "torch_npu._npu_flash_attention",
        "torch_npu.npu_fused_infer_attention_score",
        "torch_npu.npu_moe_gating_top_k_softmax",
        "torch_npu.npu_moe_init_routing_v2",
        "torch_npu.npu_grouped_matmul",
        "torch_npu.npu_moe_token_unpermute",
        "torch_npu.npu_top_k_top_p",
        "torch_npu.npu_scatter_pa_kv_cache",
        "torch_npu.npu_format_cast",
        "torch.ops.atb._npu_paged_attention",
    ):
        assert isinstance(real.answer(path), Operator), path
    norm = real.answer("torch_npu.npu_rms_norm")
    assert isinstance(norm, Operator)
    assert norm.expected == (
        "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)"
    )


@pytest.mark.releases
def test_a_real_wheel_gives_the_functions_of_torch_npu(real: NpuApi) -> None:
    for name in (
        "is_available device_count set_device current_device synchronize mem_get_info empty_cache "
        "memory_stats memory_reserved memory_allocated max_memory_allocated manual_seed "
        "manual_seed_all reset_peak_memory_stats get_device_properties get_device_name "
        "current_stream default_stream stream set_stream graph graph_pool_handle"
    ).split():
        assert isinstance(real.answer(f"torch.npu.{name}"), Function), name
    for name in ("NPUGraph", "Event", "Stream", "FloatStorage", "amp", "streams"):
        assert isinstance(real.answer(f"torch.npu.{name}"), Exists), name
    for name in ("_weak_ref_tensor", "_npu_synchronize", "_distributed_c10d"):
        assert isinstance(real.answer(f"torch_npu._C.{name}"), Exists), name
    for path in (
        "torch.npu.no_such",
        "torch_npu.npu_no_such",
        "torch.ops.npu.npu_no_such",
        "torch_npu._C._no_such",
    ):
        assert isinstance(real.answer(path), Absent), path


@pytest.mark.releases
def test_a_release_that_the_index_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(
        WheelError, match=r"has no torch_npu 2\.8\.0\.post99; there are .*2\.8\.0\.post2"
    ):
        wheels.fetch(Choice("torch_npu==2.8.0.post99", "asked for"), tmp_path)
