# SPDX-License-Identifier: Apache-2.0
"""Features that no model has: what the program has to have tried."""

from __future__ import annotations

from typing import Any

import pytest

from migrator.verify.simulate import trying


def good() -> dict[str, Any]:
    return {
        name: {"tried": ["more", *wanted], "error": None, "seconds": 1.0}
        for name, wanted in trying.CHECKS.items()
    }


def test_checks_that_came_to_an_end_pass() -> None:
    assert list(trying.faults(good())) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pooling": None}, "pooling: not tried"),
        (
            {"pooling": {"tried": [], "error": "AssertionError: embedding: differs by 0.5"}},
            "pooling: AssertionError: embedding: differs by 0.5",
        ),
        (
            {"options": {"tried": ["logprobs_mode", "scheduling_policy"], "error": None}},
            "options: enable_prompt_embeds not tried",
        ),
    ],
)
def test_what_is_missing_is_said(change: dict[str, Any], says: str) -> None:
    found = {name: entry for name, entry in {**good(), **change}.items() if entry is not None}
    assert list(trying.faults(found)) == [says]
