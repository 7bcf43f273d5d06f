# SPDX-License-Identifier: Apache-2.0
"""What a command writes to a file that the user names."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from migrator.messages.errors import MigrateError


def write(path: Path, data: bytes, option: str) -> None:
    """Write a file in one step: the old one is there until the new one is complete.

    Args:
        path: of the file; - for standard output.
        data: what is in it.
        option: by which the user named the file.

    Raises:
        MigrateError: it cannot be written.
    """
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as file:
            try:
                file.write(data)
                file.close()
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(file.name, 0o666 & ~mask)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise MigrateError(
            f"cannot write {path}: {error.strerror or error}; choose another {option}"
        ) from error
