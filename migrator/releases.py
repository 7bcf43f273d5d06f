# SPDX-License-Identifier: Apache-2.0
"""The vLLM releases that the rules were tried on, and how another one stands to them."""

from __future__ import annotations

import re

KNOWN = (
    *("0.9.2", "0.10.0", "0.10.1.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.13.0"),
    *("0.14.0", "0.14.1", "0.16.0", "0.17.1", "0.18.0", "0.19.1", "0.20.2", "0.21.0", "0.22.1"),
    *("0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0"),
    *("0.32.0", "0.33.0"),
)
"""Oldest first; `scripts/release_table.py` migrates each of them."""


def _numbers(release: str) -> tuple[int, ...]:
    """What releases are put in order by; a build between two releases counts as the later one."""
    found = re.match(r"\d+(\.\d+)*", release)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def is_too_old(release: str | None) -> bool:
    """Is a release older than all that the rules know? One that is unknown is not."""
    return bool(release and _numbers(release)) and _numbers(release or "") < _numbers(KNOWN[0])


def standing(release: str | None) -> str:
    """A release and how it stands to those that are known, in words."""
    if release is None or not _numbers(release):
        return "vLLM (release unknown): judged by what it holds"
    name, number = f"vLLM {release}", _numbers(release)
    if number < _numbers(KNOWN[0]):
        return f"{name} is older than {KNOWN[0]}, the oldest release known"
    if number > _numbers(KNOWN[-1]):
        return f"{name} is newer than {KNOWN[-1]}, the newest release known: nobody has tried it"
    if any(number == _numbers(one) for one in KNOWN):
        return f"{name}, a known release"
    below = max((one for one in KNOWN if _numbers(one) < number), key=_numbers)
    above = min((one for one in KNOWN if _numbers(one) > number), key=_numbers)
    return f"{name} was not tried itself; it lies between the known releases {below} and {above}"
