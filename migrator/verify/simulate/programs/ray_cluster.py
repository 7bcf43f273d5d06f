# SPDX-License-Identifier: Apache-2.0
"""Starts a Ray cluster of one node, runs a program that connects to it, and ends both.

    python ray_cluster.py PROGRAM ARGUMENT...

As on machines where `ray start` was called before anybody thought of vLLM, the cluster does not
have the variables that are set for vLLM and for the device: what of them a worker needs, vLLM has
to hand over. Ray counts the devices of the node by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

STARTUP = 300.0
"""Seconds that the cluster has to start in."""
LOOK = 1.0
"""Seconds between two looks at what processes have open."""
MARK = "NPU_MIGRATE_RUN"
"""Environment variable by which the processes of a run are known, as whoever starts it has it."""
FOR_VLLM = ("VLLM_", "HCCL_", "ASCEND_GLOBAL_")
"""How the variables begin that the cluster does not have."""
SETTINGS = {
    # Tokens of authentication would be written into the home of who runs this.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Two cores are shared by all of it; idle workers of other kinds help nobody.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Workers have the priority of everything else.
    "RAY_worker_niceness": "0",
    # A slow machine is no dead one.
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_gcs_rpc_server_connect_timeout_s": "300",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "100000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_raylet_client_connect_timeout_milliseconds": "60000",
    # Of the machine's memory others may have taken most: that is no reason to kill our workers.
    "RAY_memory_monitor_refresh_ms": "0",
}


def patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """`get_node` that waits for a node to be there, longer than the 30 s of Ray itself."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + STARTUP
        while True:
            try:
                return get_node(*args, **kwargs)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    return ask


class Queues:
    """The shared memory by which processes of a run talk, while they have it open.

    The actors of data-parallel engines are killed together with what would remove theirs.
    """

    def __init__(self, mark: str) -> None:
        """`mark`: a variable and its value, which all processes of the run have."""
        self._mark = mark.encode()
        self._seen: set[str] = set()

    def look(self) -> None:
        """Remember what is open now."""
        self._seen |= self._open(self._mark)

    def remove(self) -> list[str]:
        """Remove what was seen, is still there and is open nowhere; gives the paths."""
        removed = []
        for path in sorted(self._seen - self._open(b"")):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            removed.append(path)
        return removed

    @staticmethod
    def _open(mark: bytes) -> set[str]:
        found: set[str] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes():
                    maps = (entry / "maps").read_text("utf-8", "replace")
                    found.update(re.findall(r"/dev/shm/psm_\w+", maps))
            except OSError:
                continue
        return found


def main(program: list[str]) -> int:
    """Run `program` by this interpreter; gives its exit code, or that of a signal as a shell."""
    variables = {MARK: str(os.getpid()), **os.environ, **SETTINGS}
    os.environ.clear()
    os.environ.update({k: v for k, v in variables.items() if not k.startswith(FOR_VLLM)})
    import ray  # type: ignore[import-not-found]
    from ray._private import services  # type: ignore[import-not-found]

    services.get_node = patient(services.get_node)

    # Sockets are below it, and their paths may not be longer than 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    queues = Queues(f"{MARK}={variables[MARK]}")
    try:
        context = ray.init(
            include_dashboard=False,
            num_cpus=4,
            object_store_memory=128 << 20,
            log_to_driver=False,
            _temp_dir=folder,
        )
        print(f"ray_cluster: {ray.cluster_resources()}", flush=True)
        variables["RAY_ADDRESS"] = context.address_info["address"]
        child = subprocess.Popen([sys.executable, *program], env=variables)

        def forward(number: int, _frame: FrameType | None) -> None:
            child.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, forward)
        while child.poll() is None:
            queues.look()
            try:
                child.wait(LOOK)
            except subprocess.TimeoutExpired:
                continue
        code = child.returncode
    finally:
        ray.shutdown()
        for path in queues.remove():
            print(f"ray_cluster: {path} was left behind", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
