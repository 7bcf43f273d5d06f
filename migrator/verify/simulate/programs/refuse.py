# SPDX-License-Identifier: Apache-2.0
"""Starts engines that an NPU cannot serve, one after the other, and writes what stopped each.

    python refuse.py JOB.json

Each case of the job has a configuration, of which the weights are made up, engine arguments,
environment variables and files that lie beside the configuration.
An error is written with all that it came from; null if there was none.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FRONT_END = "front end"


def chain(error: BaseException | None) -> str:
    """What an error says, and what it came from."""
    said = []
    while error is not None:
        said.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def inspect_here() -> None:
    """Let vLLM look at a model's class in this process, not in one of its own for each model."""
    from vllm.model_executor.models import registry  # type: ignore[import-not-found]

    lazy, info = registry._LazyRegisteredModel, registry._ModelInfo
    lazy.inspect_model_cls = lambda self: info.from_model_cls(self.load_model_cls())


def start(folder: Path, case: dict[str, Any], engine: dict[str, Any]) -> str | None:
    """What stops an engine of this configuration, None if nothing does."""
    from vllm import LLM  # type: ignore[import-not-found]

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"config.json": json.dumps(case["config"]), **case["files"]}.items():
        (folder / name).write_text(text, encoding="utf-8")
    kept = dict(os.environ)
    os.environ.update(case["variables"])
    try:
        LLM(model=str(folder), **{**engine, **case["engine"]})
    except Exception as error:  # whatever it is, it is what a user would see
        return chain(error)
    finally:
        os.environ.clear()
        os.environ.update(kept)
        forget_groups()
    return None


def forget_groups() -> None:
    """Let the next engine make its own process groups: a mixture has more of them."""
    from vllm.distributed import parallel_state  # type: ignore[import-not-found]

    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


def front_end(folder: Path, job: dict[str, Any]) -> str | None:
    """What is wrong with a process that makes a configuration and runs no engine."""
    import torch

    from vllm.engine.arg_utils import EngineArgs  # type: ignore[import-not-found]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(job["model"]), encoding="utf-8")
    EngineArgs(model=str(folder), **job["engine"]).create_engine_config()
    return "it opens a device" if torch.npu.is_initialized() else None


def main(job: dict[str, Any]) -> None:
    """Write the errors to the file that the job names, after each case."""
    out = Path(job["out"])
    inspect_here()
    began = time.time()
    said = front_end(out.parent / "front-end", job)
    errors: dict[str, Any] = {FRONT_END: {"error": said, "seconds": time.time() - began}}
    for number, case in enumerate(job["cases"]):
        began = time.time()
        said = start(out.parent / f"case-{number}", case, job["engine"])
        errors[case["name"]] = {"error": said, "seconds": time.time() - began}
        out.write_text(json.dumps(errors), encoding="utf-8")
        gc.collect()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
