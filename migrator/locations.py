# SPDX-License-Identifier: Apache-2.0
"""Where this tool has its own files, and where it keeps what it fetches and makes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def cache_directory() -> Path:
    """The user's cache directory for this tool, where platformdirs says that it is."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if sys.platform == "linux" and home.startswith("/"):
        # To load platformdirs takes as long as to find the plan of a whole tree.
        return Path(home) / "vllm-npu-migrate"
    import platformdirs

    return platformdirs.user_cache_path("vllm-npu-migrate")


@cache
def template_root() -> Path | None:
    """The folder of templates: inside of an installed package, or beside it in a checkout."""
    places = (PACKAGE / "_templates", PACKAGE.parent / "templates")
    return next((place for place in places if place.is_dir()), None)


def sources_of_plans() -> Iterator[str]:
    """The files of this tool that a plan and its patch depend on, in no order."""
    for folder in (PACKAGE, PACKAGE / "rules"):
        for name in os.listdir(folder):
            if name.endswith((".py", ".j2")):
                yield f"{folder}/{name}"
    for place, _, names in os.walk(template_root() or PACKAGE / "_templates"):
        for name in names:
            if not name.endswith(".pyc"):
                yield f"{place}/{name}"
