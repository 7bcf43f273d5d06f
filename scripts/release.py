# SPDX-License-Identifier: Apache-2.0
"""The checklist of a release: whatever a machine can check of it, one line a point.

    python scripts/release.py                # this checkout; exit 1 where a point does not hold
    python scripts/release.py --offline DIR  # take packages from a directory of wheels

It builds sdist and wheel, has twine look at both, and installs each into an empty environment of
its own, in which the command has to adapt the small tree of the fixtures as this checkout does.
What is left for a person, it says at the end. Nothing is uploaded and no tag is made.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tool import ROOT, digest

from migrator import __version__

MINI = ROOT / "fixtures" / "mini_vllm"
SELECT = "NPU0,NPU1,NPU302"
HAND = (
    f"git tag -s v{__version__} -m 'vllm-npu-migrate {__version__}' && git push --tags",
    "twine upload dist/*",
    "a new heading Unreleased in CHANGELOG.md",
)


class CheckError(Exception):
    """A point of the list that does not hold, and why."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints; it is a point that does not hold where the command fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise CheckError(f"{Path(command[0]).name} {command[1]}: {' / '.join(last)}")
    return done.stdout


def versions() -> None:
    """The version is the same wherever it stands, and the changes of it are told."""
    citation = re.search(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"))
    if citation is None or citation[1] != __version__:
        raise CheckError(f"CITATION.cff is not of {__version__}")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"(?ms)^## {re.escape(__version__)}\b[^\n]*\n(.*?)(?=^## |\Z)", changes)
    if section is None or not section[1].strip():
        raise CheckError(f"CHANGELOG.md has nothing under {__version__}")


def clean() -> None:
    """Everything is committed: what is built is what is tagged."""
    if run("git", "status", "--porcelain"):
        raise CheckError("there are uncommitted changes")


def contents(dist: Path) -> None:
    """The archives have what a user needs, and none of what only this machine has."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in ("migrator/py.typed", "migrator/review/page.js", "migrator/_templates/vllm/"):
        if not any(found.startswith(name) for found in names):
            raise CheckError(f"the wheel has no {name}")
    with tarfile.open(sdist) as packed:
        unpacked = [name.partition("/")[2] for name in packed.getnames()]
    for name in ("LICENSE", "CHANGELOG.md", "tests/conftest.py", "fixtures/mini_vllm/PKG-INFO"):
        if name not in unpacked:
            raise CheckError(f"the sdist has no {name}")
    tracked = set(run("git", "ls-files").splitlines()) | {"PKG-INFO", ""}
    if strange := sorted(name for name in unpacked if name not in tracked and not _folder(name)):
        raise CheckError(f"the sdist has files that git does not: {', '.join(strange[:3])}")


def _folder(name: str) -> bool:
    return (ROOT / name).is_dir()


def environment(place: Path, index: Sequence[str], *packages: str | Path) -> Path:
    """A new environment with some packages; the folder of its commands."""
    venv.create(place, with_pip=True)
    run(place / "bin/pip", "install", "-q", *index, *packages)
    return place / "bin"


def works(archive: Path, scratch: Path, index: Sequence[str], expected: str) -> None:
    """An archive alone, in an empty environment, does what this checkout does."""
    bin_ = environment(scratch / f"env-{archive.suffix[1:]}", index, archive)
    run(bin_ / "pip", "check")
    out = scratch / f"out-{archive.suffix[1:]}"
    command = bin_ / "vllm-npu-migrate"
    if __version__ not in run(command, "--version", cwd=scratch):
        raise CheckError(f"{archive.name} is not of {__version__}")
    run(command, "apply", MINI, "-q", "-o", out, "--select", SELECT, "--no-cache", cwd=scratch)
    if digest(out) != expected:
        raise CheckError(f"{archive.name} writes another tree than this checkout")


def points(scratch: Path, index: Sequence[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is checked, in order."""
    dist, tools = scratch / "dist", scratch / "tools"
    here = scratch / "here"

    def build() -> None:
        environment(tools, index, "build", "twine")
        run(tools / "bin/python", "-m", "build", "-o", dist)

    def installed(pattern: str) -> None:
        if not here.exists():
            words = ("apply", MINI, "-q", "-o", here, "--select", SELECT, "--no-cache")
            run(sys.executable, "-m", "migrator", *words)
        (archive,) = dist.glob(pattern)
        works(archive, scratch, index, digest(here))

    yield "everything is committed", clean
    yield f"{__version__} in CITATION.cff and CHANGELOG.md", versions
    yield "sdist and wheel are built", build
    yield (
        "twine finds nothing",
        lambda: run(
            tools / "bin/python", "-m", "twine", "check", "--strict", *sorted(dist.iterdir())
        ),
    )
    yield "the archives are complete, and only that", lambda: contents(dist)
    yield "the wheel works in an empty environment", lambda: installed("*.whl")
    yield "the sdist works in an empty environment", lambda: installed("*.tar.gz")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--offline", metavar="DIR", type=Path, help="a directory of wheels")
    options = parser.parse_args()
    index = ["--no-index", f"--find-links={options.offline}"] if options.offline else []
    failed = 0
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        for name, check in points(Path(scratch), index):
            try:
                check()
                print(f"ok    {name}", flush=True)
            except CheckError as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
            except (OSError, ValueError) as error:
                failed += 1
                print(f"FAIL  {name}: could not be tried: {error}", flush=True)
    for line in HAND:
        print(f"hand  {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
