# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of one file inside a simulated process and prints what came of each.

Run as `driver.py FILE [NAME ...]`; the last line of stdout is a JSON object: the name of each
check → null, or the traceback of its failure. The file's own directory is importable, and `tests`.
`driver.py --each FILE ...` does so for several files, each in a fork of a process that has imported
torch, and prints a line for each.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    if sys.argv[1] != "--each":
        run(Path(sys.argv[1]), set(sys.argv[2:]))
        return
    import torch  # noqa: F401

    for file in sys.argv[2:]:
        pid = os.fork()
        if pid == 0:
            run(Path(file), set())
            return
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(f"{file} ended with {os.waitstatus_to_exitcode(status)}")


def run(path: Path, wanted: set[str]) -> None:
    sys.path[:0] = [str(path.parent), str(Path(__file__).parents[3])]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outcome: dict[str, str | None] = {}
    for name, check in list(vars(module).items()):
        if not name.startswith("check_") or (wanted and name not in wanted):
            continue
        try:
            check()
        except Exception:
            outcome[name] = traceback.format_exc()
        else:
            outcome[name] = None
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
