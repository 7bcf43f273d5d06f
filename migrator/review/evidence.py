# SPDX-License-Identifier: Apache-2.0
"""What `verify` and `coverage` found, kept so that the page of the very same code shows it.

A result goes by the bytes of the code that it is of, and by the tool's own code that found it:
where either differs there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec

from migrator.files.locations import PACKAGE, private_cache
from migrator.files.tree import LOG_NAME, DiskTree, Tree
from migrator.messages.errors import MigrateError
from migrator.planning.plan import Plan
from migrator.reports.log import printable, read_log
from migrator.review.model import Coverage
from migrator.verify.report import Report as Verified
from migrator.verify.simulate.report import Report as Simulated

Result = TypeVar("Result", Verified, Simulated, Coverage)
_NAMES = {Verified: "verify", Simulated: "simulated", Coverage: "coverage"}
_SOURCES = (".py", ".cpp", ".h")
KEPT = 200
"""Results that are kept, the newest."""


def keep(key: str, result: Verified | Simulated | Coverage) -> None:
    """Keep a result; a cache that cannot be written is no reason to fail.

    Args:
        key: of the code that it is of.
        result: simulated runs of other models and modes that are kept already stay.
    """
    if isinstance(result, Simulated):
        earlier = kept(key, Simulated)
        if earlier is not None and earlier.versions == result.versions:
            done = {(run.model, run.mode) for run in result.runs}
            runs = [run for run in earlier.runs if (run.model, run.mode) not in done]
            result = msgspec.structs.replace(result, runs=[*runs, *result.runs])
        # Where it was run, and what its logs said of that, is nobody else's business.
        bare = [msgspec.structs.replace(run, log=[]) for run in result.runs]
        result = msgspec.structs.replace(result, tree="", runs=bare)
    try:
        path = _path(key, type(result))
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(result))
        temporary.replace(path)
        old = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in old[:-KEPT]:
            file.unlink(missing_ok=True)
    except (MigrateError, OSError):
        return


def kept(key: str, kind: type[Result]) -> Result | None:
    """The result of a kind that is kept of some code, or None."""
    try:
        return msgspec.json.decode(_path(key, kind).read_bytes(), type=kind)
    except (MigrateError, OSError, msgspec.MsgspecError):
        return None


def _path(key: str, kind: type) -> Path:
    return private_cache("evidence") / f"{key}-{_code()}-{_NAMES[kind]}.json"


@cache
def _code() -> str:
    """A digest of all of the tool's code that a result may come from, the simulator's too."""
    sources = (path for path in PACKAGE.rglob("*") if path.suffix in _SOURCES)
    return _key({str(path.relative_to(PACKAGE)): path.read_bytes() for path in sources})[:12]


def key_of_plan(plan: Plan) -> str:
    """Of what a plan emits."""
    return _key({printable(change.path): change.after for change in plan.files})


def key_of_adapted(tree: DiskTree) -> str | None:
    """Of an adapted tree as it is now; None where it has no log that can be read."""
    data = tree.read(LOG_NAME)
    if data is None:
        return None
    try:
        files = read_log(data).files
    except MigrateError:
        return None
    return _key({file.path: tree.read(file.path) or b"" for file in files})


def key_of_source(tree: Tree) -> str:
    """Of all Python code of a tree."""
    paths = [entry.path for entry in tree.entries() if entry.path.endswith(".py")]
    return _key({path: tree.read(path) or b"" for path in paths})


def _key(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(path.encode(errors="surrogateescape") + b"\0")
        found.update(hashlib.sha256(files[path]).digest())
    return found.hexdigest()[:32]
