# SPDX-License-Identifier: Apache-2.0
"""CPU time of `diff`, as ratios to another tool in the same run.

    python scripts/benchmark.py [ROUNDS]

Prints the CPU time (user and system, child processes included) of `vllm-npu-migrate diff` on the
fetched sources of vLLM 0.11.0 and 0.33.0 and of ast-grep rewriting one pattern over the same
`vllm/`, each the least of ROUNDS runs (default 3), taken in turns. Exit code 1: a bound is missed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from migrator.sources import fetch

AST_GREP = ["run", "-l", "py", "-p", "$X.is_cuda", "-r", '$X.device.type == "cuda"']
BOUND_TO_AST_GREP = 5.0
BOUND_TO_GROWTH = 4.0


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a command with its children, in seconds."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    after = os.times()
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit {done.returncode}: {done.stderr.decode()[-400:]}")
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


def main(arguments: list[str]) -> int:
    rounds = int(arguments[0]) if arguments else 3
    ast_grep = shutil.which("ast-grep", path=str(Path(sys.executable).parent)) or "ast-grep"
    trees = {version: fetch(version) for version in ("0.11.0", "0.33.0")}
    commands = {
        **{
            f"diff vllm=={version}": [sys.executable, "-m", "migrator", "diff", "-q", str(tree)]
            for version, tree in trees.items()
        },
        **{
            f"ast-grep on {version}": [ast_grep, *AST_GREP, str(tree / "vllm")]
            for version, tree in trees.items()
        },
    }
    least = dict.fromkeys(commands, float("inf"))
    for _ in range(rounds):
        for name, command in commands.items():
            least[name] = min(least[name], cpu_seconds(command))
    for name, seconds in least.items():
        print(f"{name:20} {seconds:6.2f} s CPU")
    to_ast_grep = least["diff vllm==0.11.0"] / least["ast-grep on 0.11.0"]
    growth = least["diff vllm==0.33.0"] / least["diff vllm==0.11.0"]
    print(f"diff 0.11.0 / ast-grep 0.11.0: {to_ast_grep:.2f} (at most {BOUND_TO_AST_GREP})")
    print(f"diff 0.33.0 / diff 0.11.0:     {growth:.2f} (at most {BOUND_TO_GROWTH})")
    return 0 if to_ast_grep <= BOUND_TO_AST_GREP and growth <= BOUND_TO_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
