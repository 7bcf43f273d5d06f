# SPDX-License-Identifier: Apache-2.0
"""Two releases of the small tree, and what an engineer does to the first one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.trees import copy_mini

UTILS = """\
# SPDX-License-Identifier: Apache-2.0
\"\"\"Helpers.\"\"\"

import os


def cdiv(a: int, b: int) -> int:
    return -(a // -b)


def round_up(x: int, y: int) -> int:
    return ((x + y - 1) // y) * y


def home() -> str:
    return os.path.expanduser("~")
"""
MOVING = """\
# SPDX-License-Identifier: Apache-2.0
import torch


def moved(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    return y


def stays(x: torch.Tensor) -> torch.Tensor:
    return x


def on_gpu(x: torch.Tensor) -> bool:
    return x.is_cuda
"""
DROPPED = "# SPDX-License-Identifier: Apache-2.0\ndef dropped():\n    return 1\n" + "# more\n" * 9

OLD: Mapping[str, bytes] = {
    "vllm/utils.py": UTILS.encode(),
    "vllm/moving.py": MOVING.encode(),
    "vllm/dropped.py": DROPPED.encode(),
    "vllm/also_dropped.py": DROPPED.replace("dropped", "also_dropped").encode(),
    "vllm/quiet.py": DROPPED.replace("dropped", "quiet").encode(),
    "docs/notes.md": b"# Notes\n\none\n\ntwo\n\nthree\n",
    "data.bin": b"\0\1\2",
}
NEW: Mapping[str, bytes | None] = {
    "PKG-INFO": b"Metadata-Version: 2.4\nName: vllm\nVersion: 0.11.1\n",
    "vllm/utils.py": UTILS.replace("return -(a // -b)", "return (a + b - 1) // b").encode(),
    "vllm/moving.py": None,
    "vllm/there/moving.py": MOVING.replace("return x\n", "return +x\n").encode(),
    "vllm/dropped.py": None,
    "vllm/also_dropped.py": None,
    "vllm/quiet.py": DROPPED.replace("dropped", "quiet").replace("return 1", "return 2").encode(),
    "vllm/fresh.py": b"# SPDX-License-Identifier: Apache-2.0\nFRESH = 1\n",
    "docs/notes.md": b"# Notes\n\none\n\ntwo\n\nthree, upstream\n",
    "data.bin": b"\0\1\3",
}


def write(root: Path, files: Mapping[str, bytes | None]) -> None:
    """Write files into a tree; None removes one."""
    for path, data in files.items():
        place = root / path
        if data is None:
            place.unlink()
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def old_release(root: Path) -> Path:
    """The first release, pristine."""
    return copy_mini(root, OLD)


def new_release(root: Path) -> Path:
    """The next release, pristine: files edited, moved, deleted and added; a migrated one edited."""
    write(old_release(root), NEW)
    edit(
        root / "vllm/_custom_ops.py",
        ("from typing import TYPE_CHECKING, Optional\n", "from typing import Any, Optional\n"),
        ("if TYPE_CHECKING:\n    import torch_npu\n\n\n", "\n"),
        ("    # Rows have to be contiguous.\n", "    # Rows have to be contiguous, always.\n"),
    )
    return root


def edit(place: Path, *pairs: tuple[str, str]) -> None:
    """Replace texts that are in a file once."""
    text = place.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, (place, old)
        text = text.replace(old, new)
    place.write_text(text, encoding="utf-8")


HAND: tuple[str, ...] = (
    "MINE_IN_A_MIGRATED_FUNCTION = 1",
    "MINE_IN_A_TEMPLATE = 2",
    "MINE_IN_A_FUNCTION = 3",
    "MINE_IN_A_NEW_FILE = 4",
    "MINE_IN_A_RENAMED_FILE = 5",
    "MINE_IN_A_MOVED_FILE = 6",
)
"""Lines that the engineer adds; each has to be in every later tree."""


def edit_by_hand(root: Path) -> None:
    """Edit an adapted tree in every way there is, none of them in the way of the next release."""
    edit(
        root / "vllm/_custom_ops.py",
        (
            "    torch.ops._C.rms_norm(out, input.contiguous(), weight, epsilon)\n",
            f"    torch.ops._C.rms_norm(out, input.contiguous(), weight, epsilon)\n    {HAND[0]}\n",
        ),
    )
    place = root / "vllm/accelerator.py"
    place.write_text(place.read_text(encoding="utf-8") + f"\n\n{HAND[1]}\n", encoding="utf-8")
    edit(root / "vllm/utils.py", ("    return ((x", f"    {HAND[2]}\n    return ((x"))
    edit(root / "vllm/moving.py", ("    y = x * 2\n", f"    y = x * 2\n    {HAND[5]}\n"))
    write(root, {"vllm/mine.py": f"{HAND[3]}\n".encode(), "vllm/also_dropped.py": None})
    guards = (root / "vllm/v1/guards.py").read_text(encoding="utf-8")
    write(
        root,
        {
            "vllm/v1/guards.py": None,
            "vllm/v1/my_guards.py": f"{guards}\n\n{HAND[4]}\n".encode(),
        },
    )
