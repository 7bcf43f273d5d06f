# SPDX-License-Identifier: Apache-2.0
"""Print docs/npu-operators.md."""

from __future__ import annotations

import sys

import torch_npu  # noqa: F401 - its import declares the operators

from ._document import document

sys.stdout.write(document())
