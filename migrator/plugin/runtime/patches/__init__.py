# SPDX-License-Identifier: Apache-2.0
"""The patches of this package, by the module that each belongs to. A plugin has its own list."""

from __future__ import annotations

MADE_FROM = "no vLLM"

PATCHES: dict[str, tuple[str, str]] = {}
"""Module → (patch file below this folder, SHA-256 of the whole file that it was made from)."""
