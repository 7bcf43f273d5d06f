# SPDX-License-Identifier: Apache-2.0
"""The exceptions that users see as a few words with a way out: exit code 2, or 3 where files were
written before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class MigrateError(Exception):
    """Something about the input or the machine stops the work; the message says what to do.

    Each argument is a line of the message; nothing was written.
    """

    def __str__(self) -> str:
        return "\n".join(str(line) for line in self.args)


class UnfinishedError(MigrateError):
    """It stopped after something was written: a part of the files, or all but what comes after."""


@contextlib.contextmanager
def after_writing(what: str) -> Iterator[None]:
    """Have what fails in the block say that `what` is there.

    Raises:
        UnfinishedError: for any error of the system or of the input.
    """
    try:
        yield
    except (UnfinishedError, BrokenPipeError):
        raise
    except MigrateError as error:
        raise UnfinishedError(f"{what}, but then: {error.args[0]}", *error.args[1:]) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UnfinishedError(f"{what}, but then: {where}{error.strerror or error}") from error
