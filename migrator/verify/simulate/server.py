# SPDX-License-Identifier: Apache-2.0
"""Runs `vllm serve` of a tree on the simulated Ascend and asks it through the OpenAI client."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from migrator.verify.simulate import environment, judge, process
from migrator.verify.simulate.environment import EmittedTree
from migrator.verify.simulate.models import BATCHED_TOKENS, MAX_MODEL_LENGTH, ROLES, Model
from migrator.verify.simulate.modes import DEVICE_MEMORY, MODES, SET_FOR_WORKERS, Mode
from migrator.verify.simulate.report import Report, Run
from migrator.verify.simulate.run import (
    Options,
    ending,
    opened,
    reference,
    report,
    variant_of,
)

SERVED = "tiny"
"""Name under which the model is served."""
SHUTDOWN = 60.0
"""Seconds that the server has to end in after SIGTERM."""
_ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)
_ABORTED = (-signal.SIGABRT, 128 + signal.SIGABRT)
"""How a server that was told to end may end over Ray: Ray's handler of SIGTERM aborts a process
that is not done three seconds later, and a slow machine is no fault."""
_SPREAD_EXPERTS = (("all_gather_into_tensor", "broadcast"), ("reduce_scatter_tensor", "all_reduce"))
"""Of each, one brings tokens to the experts of all ranks, and what these made of them back."""


def serve(options: Options, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Serve every model, eagerly, and compare the answers to conversations; modes are not used.

    Raises:
        SimulateError: the tree or the environment cannot be run at all.
    """
    runs = []
    with opened(options) as (tree, work):
        python = options.launcher.python
        versions = environment.check(python, tree, serve=True, ray=options.ray)
        for model in options.models:
            progress(f"{model.name}: reference")
            variant = variant_of(tree.root, model, MODES["eager"])
            folder = reference(model, options, versions, process.run, variant)
            progress(f"{model.name} serve")
            runs.append(_serve(tree, model, folder, work, options))
        return report(tree, options, versions, runs)


def _serve(
    tree: EmittedTree,
    model: Model,
    model_folder: Path,
    work: Path,
    options: Options,
) -> Run:
    wanted = json.loads((model_folder / "reference.json").read_text(encoding="utf-8"))
    engines, tensor, ray = options.data_parallel, options.tensor_parallel, options.ray
    mode = way_to_serve(model, engines, tensor=tensor, ray=ray)
    folder = work / f"{model.name}-{mode.name}"
    shutil.rmtree(folder, ignore_errors=True)
    record, log = folder / "record", folder / "log"
    record.mkdir(parents=True)
    port = free_port()
    settings = {
        **environment.variables(tree, work),
        "NPU_MIGRATE_RECORD": str(record),
        **mode.variables,
    }
    program = arguments(model, model_folder, port, engines, tensor=tensor, ray=ray)
    if mode.ray:
        program = environment.over_ray(program)
    command = options.launcher.simulated(mode.devices, DEVICE_MEMORY, program)
    started = time.monotonic()
    problems: list[str] = []
    log_lines: list[str] = []
    answers: dict[str, Any] | None = None
    with process.Program(command, settings, folder, log) as server:
        if wait_until_ready(server, port, options.timeout):
            answers, problems = _ask(wanted, folder, port, options)
        elif server.poll() is None:
            problems = [f"not ready to answer after {options.timeout:.0f} s"]
        if server.poll() is None:
            server.send(signal.SIGTERM)
        else:
            problems.append("the server ended by itself")
        finished = server.wait(SHUTDOWN)
    if finished.code is None:
        problems.append(f"the server did not end within {SHUTDOWN:.0f} s of SIGTERM")
    elif finished.code not in (0, *_ENDED, *(_ABORTED if mode.ray else ())):
        problems.append(f"the server ended with {ending(finished)}")
    problems += [f"left a process behind: {line[:200]}" for line in finished.left]
    if accepts(port):
        problems.append(f"something still listens on port {port}")
    calls = judge.read_calls(record)
    if answers is not None:
        for role in model.roles:
            if not any(calls.operators[name] for name in ROLES[role]):
                problems.append(f"no NPU operator for {role} was called")
        problems += judge.distribution(mode, calls)
    if problems:
        log_lines = process.tail(log)
    return Run(
        model=model.name,
        mode=mode.name,
        equal=answers is not None and not list(differences(wanted, answers)),
        problems=problems,
        seconds=round(time.monotonic() - started, 1),
        operators=dict(sorted(calls.operators.items())),
        gap=wanted["gap"],
        noise=wanted["noise"],
        log=log_lines,
    )


_SPREAD = {
    "VLLM_DISABLE_NCCL_FOR_DP_SYNCHRONIZATION": "1",
    "VLLM_RANDOMIZE_DP_DUMMY_INPUTS": "1",
}
"""What has another value than its own where several engines serve without Ray."""


def way_to_serve(model: Model, engines: int, *, tensor: int = 1, ray: bool = False) -> Mode:
    """What a server of so many engines is called, and what has to be seen of it.

    Each engine has `tensor` workers.
    """
    if engines == 1:
        return Mode("serve", "`vllm serve`, asked through the OpenAI client")
    return Mode(
        f"serve-{'ray-' if ray else ''}dp{engines}{f'-tp{tensor}' if tensor > 1 else ''}",
        "`vllm serve` with several engines, over which experts are spread",
        variables=SET_FOR_WORKERS if ray else _SPREAD,
        devices=engines * tensor,
        ray=ray,
        collectives=_SPREAD_EXPERTS if "experts" in model.roles else (),
    )


def arguments(
    model: Model,
    model_folder: Path,
    port: int,
    engines: int,
    *,
    tensor: int = 1,
    ray: bool = False,
) -> list[str]:
    """The Python program and arguments that `vllm serve` stands for."""
    several = ["--data-parallel-size", str(engines)] if engines > 1 else []
    if several and "experts" in model.roles:
        several.append("--enable-expert-parallel")
    if tensor > 1:
        several += ["--tensor-parallel-size", str(tensor)]
    if ray:
        several += ["--data-parallel-backend", "ray"]
    return [
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(model_folder),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", SERVED),
        *("--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", str(MAX_MODEL_LENGTH)),
        *("--max-num-batched-tokens", str(BATCHED_TOKENS)),
        *("--max-num-seqs", "8"),
        *("--gpu-memory-utilization", "0.6"),
        *several,
    ]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something listens on a port of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until_ready(server: process.Program, port: int, timeout: float) -> bool:
    """Wait until the server says that it is well; False if it ends or takes too long."""
    # Never through a proxy that the caller has set.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    return False


def _ask(
    wanted: dict[str, Any], folder: Path, port: int, options: Options
) -> tuple[dict[str, Any] | None, list[str]]:
    """The answers that the client got, and what is wrong with them."""
    job, out, log = folder / "client.json", folder / "answers.json", folder / "client.log"
    content = {
        "url": f"http://127.0.0.1:{port}/v1",
        "served": SERVED,
        "out": str(out),
        "new_tokens": wanted["new_tokens"],
        "chats": [chat["messages"] for chat in wanted["chats"]],
        "timeout": options.timeout,
    }
    job.write_text(json.dumps(content), encoding="utf-8")
    settings = environment.client_variables()
    command = [str(options.launcher.python), str(environment.PROGRAMS / "client.py"), str(job)]
    finished = process.run(command, settings, folder, log, options.timeout)
    if finished.code != 0 or not out.is_file():
        last = process.tail(log, 1)
        return None, [f"the client failed: {last[0] if last else ending(finished)}"]
    answers: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return answers, list(differences(wanted, answers))


def differences(wanted: dict[str, Any], answers: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the answers to the conversations of the reference."""
    if answers["models"] != [SERVED]:
        yield f"the server lists the models {answers['models']}, not [{SERVED}]"
    if answers["refused"] != 404:
        yield f"a model that is not served is answered with {answers['refused']}, not 404"
    chats = wanted["chats"]
    for kind, expected in (
        ("answers", chats),
        ("streams", chats),
        ("together", [*chats, *chats]),
    ):
        got = answers[kind]
        if len(got) != len(expected):
            yield f"{kind}: {len(got)} for {len(expected)} conversations"
        for number, (answer, chat) in enumerate(zip(got, expected, strict=False)):
            name = f"{kind}, conversation {number}"
            if answer["text"] != chat["text"]:
                yield f"{name}: {answer['text']!r}, the reference has {chat['text']!r}"
            if answer["reason"] != "length":
                yield f"{name}: ended by {answer['reason']}, not by its length"
            for key, tokens in (("prompt_tokens", "prompt"), ("new_tokens", "tokens")):
                if answer[key] != len(chat[tokens]):
                    yield f"{name}: {key} {answer[key]}, not {len(chat[tokens])}"
            if answer.get("pieces", 2) < 2:
                yield f"{name}: came in one piece"
