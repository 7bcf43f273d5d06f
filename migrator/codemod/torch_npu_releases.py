# SPDX-License-Identifier: Apache-2.0
"""Which torch_npu goes with which torch, and which CANN with both.

One table for the requirement and for the image that a tree is emitted with: a torch_npu calls the
functions of the CANN it was made with, and an older one may not have them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from migrator.files.tree import Tree

SOURCES = {
    "compatibility": "https://gitcode.com/Ascend/pytorch/blob/master/COMPATIBILITY.en.md",
    "26.2.0": "release notes of TorchNPU 26.2.0 (October 2026), table of matching versions",
    "readme": "description of torch_npu 2.14.0 on PyPI, section on installing CANN",
    "images": "https://quay.io/repository/ascend/cann?tab=tags",
}
"""Where the table was read."""


@dataclass(frozen=True)
class Match:
    """A torch_npu and the CANN that it is published for.

    Attributes:
        torch: release of torch, X.Y; torch_npu is made for one patch release and pins it.
        torch_npu: release on PyPI, with its post release.
        cann: release of CANN whose image is taken, as its tag spells it.
        source: key of `SOURCES`.
    """

    torch: str
    torch_npu: str
    cann: str
    source: str


MATCHES = (
    # The newest that Ascend/pytorch publishes with a CANN of which there is an image.
    Match("2.7", "2.7.1.post8", "9.1.0", "compatibility"),
    Match("2.8", "2.8.0.post4", "9.0.0", "compatibility"),
    Match("2.9", "2.9.0.post6", "9.1.0", "compatibility"),
    Match("2.10", "2.10.0.post4", "9.1.0", "compatibility"),
    Match("2.11", "2.11.0", "9.1.0", "compatibility"),
    Match("2.12", "2.12.0", "9.1.0", "compatibility"),
    # Made beside CANN 9.2.0, of which only images of betas were to be found. The release notes
    # call all of 26.2 compatible with CANN 8.5 to 9.2.
    Match("2.13", "2.13.0", "9.1.0", "26.2.0"),
    Match("2.14", "2.14.0", "9.1.0", "readme"),
)

ON_PYPI = frozenset(
    {
        "2.7.1", "2.7.1.post2", "2.7.1.post4", "2.7.1.post6", "2.7.1.post8", "2.7.1.post10",
        "2.7.1.post11", "2.8.0", "2.8.0.post2", "2.8.0.post4", "2.8.0.post5", "2.9.0",
        "2.9.0.post2", "2.9.0.post4", "2.9.0.post6", "2.9.0.post8", "2.9.0.post9", "2.9.1",
        "2.10.0", "2.10.0.post2", "2.10.0.post4", "2.10.0.post6", "2.10.0.post7", "2.11.0",
        "2.11.0.post2", "2.11.0.post3", "2.12.0", "2.12.0.post2", "2.12.0.post3", "2.13.0",
        "2.14.0",
    }
)  # fmt: skip
"""Final releases of torch_npu on PyPI from 2.7 on, by `pip index versions torch_npu`."""

IMAGES = frozenset({"8.3.rc1", "8.5.0", "9.0.0", "9.1.0"})
"""CANN releases of whose image `image` public documents and Dockerfiles name the tag."""


def image(cann: str) -> str:
    """The image of a CANN release, for an Atlas A2 (910B) and Python 3.11."""
    return f"quay.io/ascend/cann:{cann}-910b-ubuntu22.04-py3.11"


def pinned_torch(tree: Tree) -> str | None:
    """The torch that the tree pins for CUDA, X.Y, or None."""
    for path in ("requirements/cuda.txt", "requirements/build.txt", "requirements/build/cuda.txt"):
        text = (tree.read(path) or b"").decode("utf-8", "replace")
        pin = re.search(r"^torch\s*==\s*(\d+)\.(\d+)", text, re.MULTILINE)
        if pin is not None:
            return f"{pin[1]}.{pin[2]}"
    return None


def match(torch: str | None) -> Match | None:
    """The row of a torch, None where the table has none."""
    return next((row for row in MATCHES if row.torch == torch), None)
