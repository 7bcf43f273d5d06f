# SPDX-License-Identifier: Apache-2.0
"""Processes that take a share of the work. They are forked, so that trees need not be sent."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import signal
import warnings
from collections.abc import Iterator

FORK = multiprocessing.get_context("fork")


def settle() -> None:
    """What each process begins with."""
    # Where it collects cycles of its own, it leaves alone what it shares with the first process.
    gc.freeze()
    # An interrupt on a terminal goes to all processes; the first one says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where the first process is killed, its workers would wait for ever, and keep its locks.
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Fork in a process that may have threads, against which Python 3.12 and later warn.

    This one starts none before its workers, but a program that calls it may have some. Its workers
    take no lock that such a thread could hold: they neither write to streams nor log.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*is multi-threaded, use of fork", category=DeprecationWarning
        )
        yield
