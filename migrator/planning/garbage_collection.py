# SPDX-License-Identifier: Apache-2.0
"""Doing without Python's collector of cycles, for a while."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep the collector off.

    Syntax trees are many objects and free of cycles, so they go when nothing refers to them; the
    collector would walk over all that are there, again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
