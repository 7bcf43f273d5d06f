# SPDX-License-Identifier: Apache-2.0
"""Runs engines that hand the KV cache to each other, or to the host and back.

    python connectors.py JOB.json

starts the engines of the job, each in a process of its own, gives them the job's steps one after
the other and writes what came out of all. A process of its own is

    python connectors.py JOB.json ENGINE

which reads steps from its standard input, a line each, until that ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine import Record, loads_tokenizer, outputs, release  # type: ignore[import-not-found]
from refuse import inspect_here  # type: ignore[import-not-found]

COUNTED = {
    "vllm:external_prefix_cache_hits": "external",
    "vllm:prefix_cache_hits": "local",
}
"""Metric of vLLM → what it counts the hits of, in tokens."""


def record_of(job: dict[str, Any], engine: str) -> Path:
    """The file into which an engine writes."""
    return Path(job["out"]).with_name(f"{engine}.json")


def hits(llm: Any) -> dict[str, int]:
    """Tokens of prompts that were not computed until now, by vLLM's count where it has one."""
    return {
        COUNTED[metric.name]: int(metric.value)
        for metric in llm.get_metrics()
        if metric.name in COUNTED
    }


def serve(job: dict[str, Any], name: str) -> None:
    """Be an engine: run the steps that come in."""
    record = Record(record_of(job, name))
    import vllm  # type: ignore[import-not-found]

    inspect_here()
    engine = job["engines"][name]["engine"]
    tokenizer = loads_tokenizer(job["model"])
    llm: Any = vllm.LLM(model=job["model"], skip_tokenizer_init=not tokenizer, **engine)
    record.save(ready=True, release=getattr(vllm, "__version__", ""))
    for line in sys.stdin:
        step = json.loads(line)
        parameters = vllm.SamplingParams(
            max_tokens=step["new_tokens"], temperature=0, ignore_eos=True, detokenize=False
        )
        before, start = hits(llm), time.time()
        found = outputs(llm, step["prompts"], parameters)
        counted = {kind: count - before.get(kind, 0) for kind, count in hits(llm).items()}
        record.phase(step["phase"], start, hits=counted, **found)
    release(llm)
    record.save(finished=True)


class Engine:
    """An engine in a process of its own."""

    def __init__(self, job: dict[str, Any], path: str, name: str) -> None:
        self.name = name
        self._record = record_of(job, name)
        device = str(job["engines"][name]["device"])
        self._process = subprocess.Popen(
            [sys.executable, __file__, path, name],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "ASCEND_RT_VISIBLE_DEVICES": device},
        )

    def written(self) -> dict[str, Any]:
        """What it has written until now."""
        if not self._record.is_file():
            return {"phases": {}}
        content: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
        return content

    def _wait(self, done: Any) -> None:
        while not done(self.written()):
            if self._process.poll() is not None and not done(self.written()):
                sys.exit(f"engine {self.name} ended: exit code {self._process.returncode}")
            time.sleep(0.1)

    def start(self) -> None:
        """Wait until it takes requests."""
        self._wait(lambda written: written.get("ready"))

    def run(self, step: dict[str, Any]) -> None:
        """Have it run a step, to its end."""
        stream = self._process.stdin
        assert stream is not None
        stream.write(json.dumps(step) + "\n")
        stream.flush()
        self._wait(lambda written: step["phase"] in written["phases"])

    def close(self) -> None:
        """Let it end; exit if it does not end well."""
        stream = self._process.stdin
        assert stream is not None
        stream.close()
        if self._process.wait() != 0 or not self.written().get("finished"):
            sys.exit(f"engine {self.name} ended: exit code {self._process.returncode}")

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def direct(job: dict[str, Any], path: str) -> None:
    """Start engines and give them the steps."""
    record = Record(Path(job["out"]))
    running: dict[str, Engine] = {}
    try:
        for group in job["groups"]:
            for name in group["engines"]:
                running[name] = Engine(job, path, name)
            for name in group["engines"]:
                running[name].start()
            for step in group["steps"]:
                running[step["engine"]].run(step)
            for name in group["engines"]:
                running[name].close()
    finally:
        for engine in running.values():
            engine.kill()
            record.content["phases"].update(engine.written()["phases"])
        record.save()
    record.save(finished=True)


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) > 2:
        serve(content, sys.argv[2])
    else:
        direct(content, sys.argv[1])
