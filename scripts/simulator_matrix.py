# SPDX-License-Identifier: Apache-2.0
"""Runs the simulator's first line with several releases of torch_npu, each in a fresh environment.

    python scripts/simulator_matrix.py [--work DIR] [--keep] [VERSION ...]

Without versions: torch_npu 2.8.0.post2, the newest 2.9 release, 2.13.0 and the newest on the index.
Each environment gets torch and torch_npu by pip from the configured index (some gigabytes a
release, since torch is a CUDA build on most indexes) and is removed again unless --keep is given.
Prints a table; exits 1 where a release fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

LINE = (
    "import torch, torch_npu; "
    "print(torch.npu.get_device_name(0), (torch.ones(2, device='npu')+1).cpu())"
)
EXPECTED = "Ascend910B1 tensor([2., 2.])"
# More than the line: a graph, an operator's gradient and a fused operator with its meta kernel.
MORE = """
import torch, torch_npu
x = torch.randn(4, 8, device="npu", requires_grad=True)
torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]).sum().backward()
assert x.grad is not None and x.grad.device.type == "npu"
y, _ = torch_npu.npu_rms_norm(x.detach(), torch.ones(8, device="npu"), 1e-6)
want = x.detach() / (x.detach().pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
assert torch.allclose(y, want, atol=1e-5)
graph = torch.npu.NPUGraph()
a = torch.zeros(3, device="npu")
with torch.npu.graph(graph):
    b = a + 1
a.fill_(4)
graph.replay()
assert b.tolist() == [5.0] * 3
print("more: ok")
"""


@dataclass
class Row:
    torch_npu: str
    torch: str = "-"
    line: str = "-"
    more: str = "-"
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.line == EXPECTED and self.more == "ok"


def run(*command: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and stdout; stderr's last lines where the command fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=env
    )
    text = done.stdout if done.returncode == 0 else done.stdout + done.stderr[-2000:]
    return done.returncode, text.strip()


def default_versions() -> list[str]:
    code, out = run(sys.executable, "-m", "pip", "index", "versions", "torch_npu")
    found = re.search(r"Available versions: (.*)", out)
    if code or not found:
        sys.exit(f"the index gives no versions of torch_npu: {out}")
    versions = sorted((Version(v) for v in found[1].split(", ")), reverse=True)
    newest_29 = next(v for v in versions if v.release[:2] == (2, 9))
    return list(
        dict.fromkeys(map(str, (Version("2.8.0.post2"), newest_29, Version("2.13.0"), versions[0])))
    )


def check(version: str, work: Path, keep: bool) -> Row:
    row = Row(version)
    started = time.monotonic()
    env = work / f"torch_npu-{version}"
    print(f"== torch_npu {version}: {env}", file=sys.stderr)
    try:
        venv.create(env, with_pip=True)
        python = env / "bin" / "python"
        torch = ".".join(map(str, Version(version).release))
        pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--no-cache-dir"]
        code, out = run(*pip, f"torch=={torch}", "numpy", "pyyaml", "setuptools", "packaging")
        if code == 0:
            # Some wheels ask for torch's CPU build by its local version, which few indexes have.
            code, out = run(*pip, "--no-deps", f"torch_npu=={version}")
        if code:
            row.line = f"not installed: {out.splitlines()[-1][:80]}"
            return row
        row.torch = run(python, "-c", "import importlib.metadata as m; print(m.version('torch'))")[
            1
        ]
        tool = [sys.executable, "-c", "from migrator.cli import main; main()", "simulator", "run"]
        here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        code, out = run(*tool, "--env", env, "--", "python", "-c", LINE, env=here)
        row.line = out if code == 0 else f"exit {code}: {(out.splitlines() or ['?'])[-1][:120]}"
        code, out = run(*tool, "--env", env, "--", "python", "-c", MORE, env=here)
        row.more = "ok" if code == 0 else f"exit {code}: {(out.splitlines() or ['?'])[-1][:120]}"
        if code:
            print(out, file=sys.stderr)
    finally:
        row.seconds = time.monotonic() - started
        if not keep:
            shutil.rmtree(env, ignore_errors=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="torch_npu releases")
    parser.add_argument(
        "--work", type=Path, help="where environments go [default: a new directory]"
    )
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work: Path = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        rows = [check(v, work, options.keep) for v in options.versions or default_versions()]
    print("| torch_npu | torch | first line prints | graph, gradient, fused operator | seconds |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.torch_npu} | {row.torch} | {row.line} | {row.more} | {row.seconds:.0f} |")
    sys.exit(0 if all(row.good for row in rows) else 1)


if __name__ == "__main__":
    main()
