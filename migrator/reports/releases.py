# SPDX-License-Identifier: Apache-2.0
"""The vLLM releases that the rules were tried on, and how another tree stands to them.

What a tree is called is told in words only. Whether the rules can be tried on it is told by what it
holds.
"""

from __future__ import annotations

import ast

from packaging.version import Version

from migrator.files.tree import Label, Tree

KNOWN = (
    *("0.9.2", "0.10.0", "0.10.1.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.13.0"),
    *("0.14.0", "0.14.1", "0.16.0", "0.17.1", "0.18.0", "0.19.1", "0.20.2", "0.21.0", "0.22.1"),
    *("0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0"),
    *("0.32.0", "0.33.0"),
)
"""Oldest first; `scripts/release_table.py` migrates each of them."""


_BUILDERS = "vllm/v1/attention/backends/flash_attn.py"
_COMMON = "vllm/v1/attention/backends/utils.py"
_FIRST_ENGINE = "vllm/worker/model_runner.py"
"""The model runner of vLLM's first engine, which the oldest release known has beside V1's."""
_EXPERTS = "vllm/model_executor/layers/fused_moe/layer.py"


def is_too_old(release: str) -> bool:
    """Is a release that somebody names older than all that the rules know?"""
    return Version(release) < Version(KNOWN[0])


def older_shape(tree: Tree) -> str | None:
    """What a tree holds that only trees older than the oldest release known do; None: nothing.

    Since that release attention's builders of metadata have a base in common, from which an NPU's
    builder derives. Older trees have builders of their own, or none and the first engine alone.
    The last of them have the base, and experts whose configuration is not that of all kernels.
    """
    module = tree.parse(_BUILDERS)
    builders = [
        node
        for node in (module.body if module is not None else [])
        if isinstance(node, ast.ClassDef) and node.name.endswith("MetadataBuilder")
    ]
    if builders:
        if not any(node.bases for node in builders):
            return f"{builders[0].name} derives from no common builder"
        if tree.definition(_EXPERTS, "MoEConfig") is not None:
            return "experts have a MoEConfig of their layer's, not of all kernels'"
        return None
    if tree.exists(_FIRST_ENGINE) and not tree.exists(_COMMON):
        return "V1's attention has no builder of metadata"
    return None


def standing(label: Label) -> str:
    """What a tree is called, and how that stands to the releases known, in words."""
    if label.release is None:
        return f"{label}: judged by what it holds"
    version = Version(label.release)
    if version < Version(KNOWN[0]):
        return (
            f"{label} is older than {KNOWN[0]}, the oldest release known, by its own word: judged "
            "by what it holds"
        )
    if version > Version(KNOWN[-1]):
        return f"{label} is newer than {KNOWN[-1]}, the newest release known: nobody has tried it"
    if any(version == Version(one) for one in KNOWN):
        return f"{label}, a known release"
    below = max((one for one in KNOWN if Version(one) < version), key=Version)
    above = min((one for one in KNOWN if Version(one) > version), key=Version)
    return f"{label} was not tried itself; it lies between the known releases {below} and {above}"
