# SPDX-License-Identifier: Apache-2.0
"""Imports modules one after another and writes down how each went; runs in any environment.

Run as `python -c <this file's text> <job.json>`, so that nothing beside this file is on the import
path. It uses the standard library only, for the environment need not have this project.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any


class Hider:
    """A finder that does not see `hidden`; otherwise the finder that it stands in for.

    Wrapped around every finder, so that `importlib.util.find_spec` says None as it does for a
    package that is not installed, and an import fails the usual way.
    """

    def __init__(self, finder: Any, hidden: str) -> None:
        self.finder = finder
        self.hidden = hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The wrapped finder's answer; None for the hidden package and what is in it."""
        if name == self.hidden or name.startswith(self.hidden + "."):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def failure(error: BaseException) -> dict[str, Any]:
    """What a report needs of an exception, from the innermost of a chain of causes."""
    frames = [[f.filename, f.lineno or 0] for f in traceback.extract_tb(error.__traceback__)]
    return {
        "type": type(error).__name__,
        "message": str(error).strip().partition("\n")[0],
        "name": getattr(error, "name", None),
        "frames": frames,
    }


def main(job_file: str) -> None:
    """Import each module of the job, one JSON line a module, flushed before the next begins."""
    with Path(job_file).open(encoding="utf-8") as stream:
        job = json.load(stream)
    if job["hide"]:
        sys.meta_path[:] = [Hider(finder, job["hide"]) for finder in sys.meta_path]
    with Path(job["output"]).open("a", encoding="utf-8") as output:
        for name in job["modules"]:
            output.write(json.dumps({"module": name, "state": "begun"}) + "\n")
            output.flush()
            result: dict[str, Any] = {"module": name, "state": "imported"}
            try:
                importlib.import_module(name)
            except BaseException as error:
                result.update(failure(error), state="failed")
                if isinstance(error, KeyboardInterrupt):
                    raise
            output.write(json.dumps(result) + "\n")
            output.flush()


if __name__ == "__main__":
    main(sys.argv[1])
