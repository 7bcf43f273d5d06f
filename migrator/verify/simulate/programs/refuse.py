# SPDX-License-Identifier: Apache-2.0
"""Starts engines that an NPU cannot serve, one after the other, and writes what stopped each.

    python refuse.py JOB.json

Each case of the job has a configuration, of which the weights are made up, and engine arguments.
An error is written with all that it came from; null if there was none.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any


def chain(error: BaseException | None) -> str:
    """What an error says, and what it came from."""
    said = []
    while error is not None:
        said.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def start(folder: Path, config: dict[str, Any], engine: dict[str, Any]) -> str | None:
    """What stops an engine of this configuration, None if nothing does."""
    from vllm import LLM  # type: ignore[import-not-found]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        LLM(model=str(folder), **engine)
    except Exception as error:  # whatever it is, it is what a user would see
        return chain(error)
    return None


def main(job: dict[str, Any]) -> None:
    """Write the errors to the file that the job names, after each case."""
    out = Path(job["out"])
    errors: dict[str, Any] = {}
    for case in job["cases"]:
        began = time.time()
        said = start(out.parent / case["name"], case["config"], {**job["engine"], **case["engine"]})
        errors[case["name"]] = {"error": said, "seconds": time.time() - began}
        out.write_text(json.dumps(errors), encoding="utf-8")
        gc.collect()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
