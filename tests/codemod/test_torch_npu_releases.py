# SPDX-License-Identifier: Apache-2.0
"""torch_npu and CANN: one row of one table for each torch, in every file that a tree gets."""

from __future__ import annotations

import re

import pytest
from packaging.version import Version

from migrator.codemod import templates, torch_npu_releases
from migrator.codemod.probes import cann_image, torch_npu_requirement
from migrator.codemod.torch_npu_releases import IMAGES, MATCHES, ON_PYPI, SOURCES
from migrator.files.tree import Tree

PINS = {
    "0.9.2": "2.7.0",
    "0.10.0": "2.7.1",
    "0.10.1.1": "2.7.1",
    "0.10.2": "2.8.0",
    "0.11.0": "2.8.0",
    "0.11.1": "2.9.0",
    "0.11.2": "2.9.0",
    "0.12.0": "2.9.0",
    "0.13.0": "2.9.0",
    "0.14.0": "2.9.1",
    "0.14.1": "2.9.1",
    "0.16.0": "2.9.1",
    "0.17.1": "2.10.0",
    "0.18.0": "2.10.0",
    "0.19.1": "2.10.0",
    "0.20.2": "2.11.0",
    "0.21.0": "2.11.0",
    "0.22.1": "2.11.0",
    "0.23.0": "2.11.0",
    "0.24.0": "2.11.0",
    "0.25.1": "2.11.0",
    "0.26.0": "2.11.0",
    "0.27.1": "2.13.0",
    "0.28.0": "2.13.0",
    "0.29.0": "2.13.0",
    "0.30.0": "2.13.0",
    "0.31.0": "2.13.0",
    "0.32.0": "2.13.0",
    "0.33.0": "2.14.0",
}
"""Release → the torch that it pins for CUDA."""

PUBLISHED = {
    "8.3.rc1": {"2.7.1", "2.8.0"},
    "8.5.0": {"2.7.1.post2", "2.8.0.post2", "2.9.0"},
    "9.0.0": {"2.7.1.post4", "2.8.0.post4", "2.9.0.post2", "2.10.0"},
    "9.1.0": {"2.7.1.post8", "2.9.0.post6", "2.10.0.post4", "2.11.0", "2.12.0"},
    "9.2.0": {
        "2.7.1.post11",
        "2.9.0.post9",
        "2.10.0.post7",
        "2.11.0.post3",
        "2.12.0.post3",
        "2.13.0",
        "2.14.0",
    },
}
"""CANN → the releases of torch_npu that Ascend/pytorch publishes beside it."""

COMPATIBLE = {("9.2.0", "9.1.0")}
"""Made beside the first and, by the release notes, at home on the second as well."""


def tree(torch: str | None) -> Tree:
    text = "" if torch is None else f"torch=={torch}\ntorchaudio=={torch}\n"
    return Tree({"requirements/cuda.txt": text.encode()})


def rendered(torch: str | None) -> tuple[str, str]:
    """The requirements and the Dockerfile of a tree that pins such a torch."""
    names = ("requirements/npu.txt", "docker/Dockerfile.npu")
    one, other = (templates.render(templates.load(name), tree(torch)).decode() for name in names)
    return one, other


@pytest.mark.parametrize("torch", sorted(set(PINS.values())))
def test_pair_of_every_release(torch: str) -> None:
    requirements, dockerfile = rendered(torch)
    pinned = re.search(r"^torch_npu == (\S+)$", requirements, re.M)
    image = re.search(r"^ARG CANN_IMAGE=quay\.io/ascend/cann:([^-]+)-(\S+)$", dockerfile, re.M)
    assert pinned is not None
    assert image is not None
    assert image[2] == "910b-ubuntu22.04-py3.11"
    assert Version(pinned[1]).release[:2] == Version(torch).release[:2]
    (made,) = (cann for cann, releases in PUBLISHED.items() if pinned[1] in releases)
    assert image[1] == made or (made, image[1]) in COMPATIBLE
    # The image comes before the stage that is made of it.
    assert dockerfile.index(image[0]) < dockerfile.index("FROM ${CANN_IMAGE}")


def test_every_row_is_published_and_has_an_image() -> None:
    assert len({row.torch for row in MATCHES}) == len(MATCHES)
    for row in MATCHES:
        assert row.torch_npu in ON_PYPI
        assert row.cann in IMAGES
        assert row.source in SOURCES
        assert Version(row.torch_npu).release[:2] == Version(row.torch).release
        # float16 in packed attention is refused before.
        assert Version(row.cann) >= Version("8.5.0")


def test_torch_that_no_table_knows() -> None:
    requirements, dockerfile = rendered("2.99.1")
    assert "torch_npu ~= 2.99.0\n" in requirements
    assert "No torch_npu for torch 2.99 was known" in requirements
    assert "\nARG CANN_IMAGE\nFROM ${CANN_IMAGE} AS vllm-base\n" in dockerfile
    assert "--build-arg CANN_IMAGE=" in dockerfile


def test_tree_without_a_torch() -> None:
    requirements, dockerfile = rendered(None)
    assert "\ntorch_npu\n" in requirements
    assert "ARG CANN_IMAGE\n" in dockerfile


def test_both_files_read_the_same_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch_npu_releases.Match("2.8", "2.8.0.post2", "8.5.0", "compatibility")
    monkeypatch.setattr(torch_npu_releases, "MATCHES", (row,))
    assert torch_npu_requirement(tree("2.8.0")) == "torch_npu == 2.8.0.post2"
    assert "cann:8.5.0-" in cann_image(tree("2.8.0"))


def test_run_line_mounts_what_hccl_reads() -> None:
    _, dockerfile = rendered("2.13.0")
    for path in ("/etc/hccn.conf", "/etc/ascend_install.info", "hccn_tool"):
        assert re.search(rf"^# +-v \S*{re.escape(path)}:", dockerfile, re.M), path
