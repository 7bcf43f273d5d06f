# SPDX-License-Identifier: Apache-2.0
"""The table of operators: what a place comes to, and what the page says of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import kernel_table as table  # noqa: E402 - found by the line above
from kernel_table import Place, Row  # noqa: E402

OPS = "vllm/_custom_ops.py"


def place(
    function: str, operator: str, *, rules: tuple[str, ...] = (), reached: bool = True
) -> Place:
    return Place(OPS, function, f"torch.ops.{operator}", rules, reached, "because")


def answers(*places: Place) -> dict[str, str]:
    return {row.operator.removeprefix("torch.ops."): row.answer for row in table.rows(places)}


def test_each_place_has_one_of_three_answers_or_is_open() -> None:
    assert answers(
        place("rms_norm", "_C.rms_norm", rules=("NPU102",)),
        place("selective_scan_fwd", "_C.selective_scan_fwd"),
        place("scaled_fp8_quant", "_C.scaled_fp8_quant"),
        place("awq_gemm", "_C.awq_gemm", reached=False),
        place("brand_new", "_C.brand_new"),
    ) == {
        "_C.rms_norm": "version",
        "_C.selective_scan_fwd": "refused",
        "_C.scaled_fp8_quant": "never",
        "_C.awq_gemm": "never",
        "_C.brand_new": "",
    }


@pytest.mark.parametrize("order", [1, -1])
def test_what_one_place_leaves_open_is_open_for_the_function(order: int) -> None:
    both = [
        place("f", "_C.g", rules=("NPU1",)),
        place("f", "_C.g"),
        place("f", "_C.g", reached=False),
    ][::order]
    assert answers(*both) == {"_C.g": ""}
    (row,) = table.rows([place("f", "_C.h", reached=False), place("f", "_C.h", rules=("NPU1",))])
    assert (row.answer, row.reached) == ("version", True)


def test_no_answer_of_the_tables_takes_any_place() -> None:
    for pattern, why in (*table.REFUSED, *table.NEVER):
        assert why.strip()
        assert not re.search(pattern, f"{OPS} some_function torch.ops._C.some_operator")


def test_the_page_has_each_release_and_each_operator_that_is_reached() -> None:
    norm = Row(OPS, "rms_norm", "torch.ops._C.rms_norm", "version", "NPU102", True)
    far = Row(OPS, "awq", "torch.ops._C.awq", "never", "quantised", False)
    text = table.page({"0.1": [norm, far], "0.2": [norm], "0.3": [], "0.4": [norm]})
    assert "| 0.1 | 1 | 0 | 0 | 0 | 1 |" in text
    assert "| 0.3 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "| `_C.rms_norm` | version | NPU102 | 0.1, 0.2, 0.4 |" in text
    assert "awq" not in text


def test_what_was_found_is_kept_for_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [place("rms_norm", "_C.rms_norm", rules=("NPU102",))]
    monkeypatch.setattr(table, "fetch", lambda release: tmp_path / f"vllm-{release}")
    monkeypatch.setattr(table, "DiskTree", lambda source: source)
    monkeypatch.setattr(table, "survey", lambda tree, jobs: tree)
    monkeypatch.setattr(table, "places", lambda _: found)
    state = tmp_path / "state"
    assert table.survey_release("0.1", state) == found

    def never(_: object) -> list[Place]:
        raise AssertionError("surveyed again")

    monkeypatch.setattr(table, "places", never)
    assert table.survey_release("0.1", state) == found
    monkeypatch.setattr(table, "digest", lambda _: "other code")
    with pytest.raises(AssertionError, match="surveyed again"):
        table.survey_release("0.1", state)
