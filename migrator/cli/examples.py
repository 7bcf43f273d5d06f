# SPDX-License-Identifier: Apache-2.0
"""What `--help` of each command shows as examples; a test parses every one."""

from __future__ import annotations

EXAMPLES = {
    "apply": (
        "apply vllm==0.33.0",
        "apply ~/src/vllm -o ~/src/vllm-npu",
        "apply . --in-place --commit",
        "apply vllm==0.33.0 --layout plugin",
    ),
    "demo": ("demo", "demo vllm==0.33.0 -o port"),
    "diff": ("diff vllm==0.33.0 --stat", "diff vllm==0.33.0 --by rule"),
    "review": (
        "review vllm==0.33.0",
        "review vllm-0.33.0-npu -o review.html",
        "review . --upstream 'https://git.example/vllm/blob/main/{path}#L{line}-L{end}'",
    ),
    "update": (
        "update vllm-0.32.0-npu vllm==0.33.0 --dry-run",
        "update . v0.33.0 --in-place --commit",
    ),
    "check": ("check .", "check vllm==0.33.0 --against 0.32.0", "check . --format github"),
    "coverage": ("coverage vllm==0.33.0 --since vllm==0.32.0",),
    "rules": ("rules",),
    "explain": ("explain NPU130", "explain hccl-backend"),
    "since": ("since get_forward_context",),
    "verify": (
        "verify vllm-0.33.0-npu",
        "verify vllm-0.33.0-npu --simulate",
        "verify vllm-0.33.0-npu --simulate --env ENV --models llama --modes eager,graph",
    ),
    "cache": ("cache info",),
    "env": ("env list", "env clean torch-2.8"),
    "simulator": ("simulator run --env ENV -- python script.py",),
}
"""Name of each command → what is typed after the program's name."""


def epilog(command: str) -> str:
    """The examples of a command as click takes them, each on a line of its own."""
    lines = [f"  vllm-npu-migrate {line}" for line in EXAMPLES[command]]
    return "\n".join(["\b", "Examples:", *lines])
