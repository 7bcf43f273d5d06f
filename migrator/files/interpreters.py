# SPDX-License-Identifier: Apache-2.0
"""Which Python a user means by `--env`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from migrator.messages.errors import MigrateError


def interpreter(env: Path | None) -> Path:
    """The interpreter of a virtual environment, or `env` itself where it is one.

    Returns:
        An absolute path that is not resolved: the link's own place makes it the environment's.
        The running interpreter where `env` is None.

    Raises:
        MigrateError: there is none.
    """
    if env is None:
        return Path(sys.executable)
    for place in (env, env / "bin" / "python", env / "bin" / "python3"):
        if place.is_file():
            return Path(os.path.abspath(place))
    raise MigrateError(
        f"{env} is not a Python environment: there is no bin/python in it; name a virtual "
        "environment"
    )
