# SPDX-License-Identifier: Apache-2.0
"""Whether verify notices that nothing leads to an added module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrator.verify.reached import check
from migrator.verify.tree import open_tree

TOUCHED, ADDED = "vllm/table.py", "vllm/layers/npu_new.py"


def unreached(
    root: Path, touched: str, more: dict[str, str] | None = None, *, log: bool = True
) -> list[str]:
    """Paths that are reported of a tree: a touched module, `npu_new`, and others beside it."""
    files = {TOUCHED: touched, ADDED: "X = 1\n"}
    files |= {f"vllm/layers/{name}.py": source for name, source in (more or {}).items()}
    for path, source in {**files, "vllm/__init__.py": "", "vllm/layers/__init__.py": ""}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(source, encoding="utf-8")
    entries = [
        {"path": path, "status": "modified" if path == TOUCHED else "added"} for path in files
    ]
    if log:
        content = json.dumps({"files": entries, "changes": []})
        (root / "migration-log.json").write_text(content, encoding="utf-8")
    return sorted(finding.path for finding in check(open_tree(root, everything=not log)))


@pytest.mark.parametrize(
    "touched",
    [
        "from vllm.layers.npu_new import X\n",
        "from vllm.layers import npu_new\n",
        "from .layers.npu_new import X\n",
        "import vllm.layers.npu_new\n",
        "def choose():\n    from vllm.layers.npu_new import X\n    return X\n",
        "NAME = 'vllm.layers.npu_new.X'\n",
        "PACKAGE = 'vllm.layers'\nNAME = f'{PACKAGE}.npu_new.X'\n",
    ],
)
def test_a_module_that_is_named_is_reached(tmp_path: Path, touched: str) -> None:
    assert unreached(tmp_path, touched) == []


@pytest.mark.parametrize(
    "touched", ["", "from vllm.layers import npu_newer\n", "NAME = 'npu_new'\n", "npu_new = 1\n"]
)
def test_a_module_that_nothing_names_is_told(tmp_path: Path, touched: str) -> None:
    assert unreached(tmp_path, touched) == [ADDED]


def test_added_modules_may_lead_to_others_and_not_to_themselves(tmp_path: Path) -> None:
    more = {
        "npu_a": "from vllm.layers.npu_new import X\nfrom vllm.layers import npu_b\n",
        "npu_b": "from vllm.layers import npu_a\n",
    }
    assert unreached(tmp_path, "from vllm.layers import npu_a\n", more) == []
    assert unreached(tmp_path, "", more) == [
        "vllm/layers/npu_a.py",
        "vllm/layers/npu_b.py",
        ADDED,
    ]


def test_without_a_log_nobody_knows_what_was_added(tmp_path: Path) -> None:
    assert unreached(tmp_path, "", log=False) == []
