# SPDX-License-Identifier: Apache-2.0
"""The one exception that users see as a single line with a way out (exit code 2)."""

from __future__ import annotations


class MigrateError(Exception):
    """Something about the input or the machine stops the work; the message says what to do."""
