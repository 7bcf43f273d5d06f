# SPDX-License-Identifier: Apache-2.0
"""Hostile trees: what is done to the small tree to make one, and what has to hold all the same.

What git can hold lies in fixtures/hostile, a directory for each, copied over the small tree. What
it cannot hold (sockets, loops, names that are no UTF-8) is built here by a function with the name
of the tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result

from migrator.cli import main
from migrator.files import writer
from tests import fuzzing
from tests.trees import FIXTURES, GUARD, MINI, SELECT, copy_mini, executables, git, snapshot

CORPUS = FIXTURES / "hostile"
SOURCE = GUARD.format(remark="").encode()
CACHE = "cache"
"""Name of the directory beside the tree that the runs use as their cache."""
TRAP = "open({!r}, 'w').write('vLLM code was run')\n"
"""Code that shows that it was run."""

Build = Callable[[Path], None]
_built: dict[str, Build] = {}


def _build(function: Build) -> Build:
    _built[function.__name__.strip("_").replace("_", "-")] = function
    return function


@_build
def _symlink_loops(tree: Path) -> None:
    (tree / "vllm/self.py").symlink_to("self.py")
    (tree / "vllm/ping").symlink_to("pong")
    (tree / "vllm/pong").symlink_to("ping")
    (tree / "vllm/up").symlink_to("..")
    (tree / "vllm/v1/root").symlink_to(tree)


@_build
def _links_out(tree: Path) -> None:
    outside = tree.parent / "outside"
    (tree / "vllm/abs.py").symlink_to(outside / "precious.py")
    (tree / "vllm/rel.py").symlink_to("../../outside/precious.py")
    (tree / "vllm/dir").symlink_to(outside)
    (tree / "vllm/proc").symlink_to("/proc/self/root")
    (tree / "vllm/tty.py").symlink_to("/dev/stdin")


@_build
def _link_for_an_added_file(tree: Path) -> None:
    (tree / "vllm/accelerator.py").symlink_to(tree.parent / "outside/precious.py")


@_build
def _link_for_the_log(tree: Path) -> None:
    (tree / "migration-log.json").symlink_to(tree.parent / "outside/precious.py")
    (tree / "MIGRATION.md").symlink_to(tree.parent / "outside/precious.py")


@_build
def _odd_names(tree: Path) -> None:
    names = [b"new\nline.py", b"caf\xe9.py", b"-rf.py", b"--help", b"a b\t.py", b'quo"te\\.py']
    names += [b"\x1b[31mred.py", "\u202egnp.py".encode(), "é.py".encode(), b"e\xcc\x81.py"]
    names += [b"x" * 252 + b".py", b"*.py", b"$(touch x).py", b".py", b"..py", b"con.py", b"%s.py"]
    for name in names:
        path = os.fsdecode(os.path.join(os.fsencode(tree / "vllm"), name))
        Path(path).write_bytes(SOURCE)


@_build
def _directories_called_like_files(tree: Path) -> None:
    for name in ("x.py", "MIGRATION.md", "migration-log.json.py", "y.py/z.py", "PKG-INFO"):
        (tree / "vllm" / name).mkdir(parents=True)
    (tree / "vllm/x.py/inner.py").write_bytes(SOURCE)


@_build
def _directory_for_an_added_file(tree: Path) -> None:
    (tree / "vllm/accelerator.py").mkdir()


@_build
def _directory_for_the_log(tree: Path) -> None:
    (tree / "migration-log.json").mkdir()


@_build
def _directory_for_a_site(tree: Path) -> None:
    (tree / "vllm/_custom_ops.py").unlink()
    (tree / "vllm/_custom_ops.py").mkdir()


@_build
def _case_collisions(tree: Path) -> None:
    (tree / "vllm/V1").mkdir()
    (tree / "vllm/V1/GUARDS.py").write_bytes(SOURCE)
    (tree / "vllm/_CUSTOM_OPS.PY").write_bytes(SOURCE)
    (tree / "VLLM").mkdir()
    (tree / "VLLM/_custom_ops.py").write_bytes(SOURCE)
    (tree / "vllm/ACCELERATOR.py").write_bytes(SOURCE)


@_build
def _odd_modes(tree: Path) -> None:
    (tree / "vllm/v1/guards.py").chmod(0o400)
    (tree / "tools/run.sh").chmod(0o4711)
    (tree / "vllm/set.py").write_bytes(SOURCE)
    (tree / "vllm/set.py").chmod(0o2777)
    (tree / "vllm/empty").mkdir(mode=0o500)
    (tree / "vllm/closed").mkdir()
    (tree / "vllm/closed/x.py").write_bytes(SOURCE)
    (tree / "vllm/closed").chmod(0o500)


@_build
def _huge_files(tree: Path) -> None:
    line = b"    x = torch.ones(1).is_cuda and 'a long line' or 1\n"
    (tree / "vllm/huge.py").write_bytes(b"import torch\ndef f(x):\n" + line * 1500)
    (tree / "vllm/data.py").write_bytes(b"x = '" + b"is_cuda " * 400_000 + b"'\n")
    (tree / "vllm/blob.bin").write_bytes(os.urandom(1 << 22))


@_build
def _pipes_and_sockets(tree: Path) -> None:
    os.mkfifo(tree / "vllm/pipe.py")
    os.mkfifo(tree / "PKG-INFO.pipe")
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tree)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("vllm/socket.py")
    finally:
        os.fchdir(here)
        os.close(here)


@_build
def _pipe_for_an_added_file(tree: Path) -> None:
    os.mkfifo(tree / "vllm/accelerator.py")


@_build
def _deep_directories(tree: Path) -> None:
    place = tree / "vllm" / "/".join(["d"] * 150)
    place.mkdir(parents=True)
    (place / "x.py").write_bytes(SOURCE)


@_build
def _bottomless_directories(tree: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tree / "vllm")
        for _ in range(2100):  # beyond the longest path that the system takes in one piece
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(here)
        os.close(here)


@_build
def _nested_git(tree: Path) -> None:
    (tree / "vllm/sub/.git/hooks").mkdir(parents=True)
    (tree / "vllm/sub/.git/config").write_bytes(b"[core]\n\tfsmonitor = touch /tmp/x\n")
    (tree / "vllm/sub/x.py").write_bytes(SOURCE)
    (tree / "vllm/module").mkdir()
    (tree / "vllm/module/.git").write_bytes(b"gitdir: /etc\n")
    (tree / "vllm/module/x.py").write_bytes(SOURCE)


@_build
def _empty_files(tree: Path) -> None:
    for name in ("__init__.py", "v1/guards.py", "distributed/__init__.py", "x.py"):
        (tree / "vllm" / name).write_bytes(b"")


@_build
def _odd_bytes(tree: Path) -> None:
    files = {
        "nul.py": SOURCE + b"\0",
        "nuls.py": b"\0" * 4096,
        "cr.py": SOURCE.replace(b"\n", b"\r"),
        "utf16.py": SOURCE.decode().encode("utf-16"),
        "cookie.py": b"# coding: no-such\n" + SOURCE,
        "rot13.py": b"# coding: rot13\n" + SOURCE,
        "lie.py": b"# coding: ascii\n" + SOURCE + "# é\n".encode(),
        "bom_lie.py": b"\xef\xbb\xbf# coding: latin-1\n" + SOURCE,
        "surrogate.py": SOURCE + b"x = '\xed\xa0\x80'\n",
        "feed.py": SOURCE.replace(b"\n\n", b"\n\x0c\n"),
        "elf.py": b"\x7fELF" + bytes(range(256)),
        "deep.py": SOURCE + b"x = " + b"(" * 90 + b"x.is_cuda" + b")" * 90 + b"\n",
        "deeper.py": SOURCE + b"x = " + b"-" * 100_000 + b"1\n",
        "deepest.py": SOURCE
        + b"".join(b" " * n + b"if x:\n" for n in range(99))
        + b" " * 99
        + b"x",
    }
    for name, data in files.items():
        (tree / "vllm" / name).write_bytes(data)


@_build
def _traps(tree: Path) -> None:
    """Whatever would run the tree's code leaves a file behind."""
    trap = TRAP.format(str(tree.parent / "outside/run"))
    for name in ("setup.py", "conftest.py", "sitecustomize.py", "migrator.py", "torch.py"):
        (tree / name).write_text(trap, encoding="utf-8")
    with (tree / "vllm/__init__.py").open("a", encoding="utf-8") as file:
        file.write(trap)
    (tree / "vllm/_version.py").write_text(f"__version__ = '0.11.0'\n{trap}", encoding="utf-8")


@_build
def _odd_metadata(tree: Path) -> None:
    (tree / "PKG-INFO").write_bytes(
        b"Name: vllm\nVersion: \xff../../etc\nVersion: 1!9" + b"9" * 9999
    )
    (tree / "pyproject.toml").write_bytes(b"[tool.vllm-npu-migrate\njobs = 'x'\n")


@_build
def _metadata_pipe(tree: Path) -> None:
    (tree / "PKG-INFO").unlink()
    os.mkfifo(tree / "PKG-INFO")


@_build
def _staging_is_a_file(tree: Path) -> None:
    (tree / writer.JOURNAL).write_bytes(b"mine\n")


@_build
def _staging_is_a_link(tree: Path) -> None:
    (tree / writer.JOURNAL).symlink_to(tree.parent / "outside")


def _journal(tree: Path, data: bytes) -> None:
    (tree / writer.JOURNAL).mkdir()
    (tree / writer.JOURNAL / "0.new").write_bytes(b"evil\n")
    (tree / writer.JOURNAL / "journal.json").write_bytes(data)


@_build
def _lying_journal(tree: Path) -> None:
    steps = [{"path": "vllm/../../outside/precious.py", "staged": "0.new"}]
    _journal(tree, json.dumps({"steps": steps}).encode())


@_build
def _journal_that_takes_from_outside(tree: Path) -> None:
    steps = [{"path": "vllm/stolen.py", "staged": "../../outside/precious.py"}]
    _journal(tree, json.dumps({"steps": steps}).encode())


@_build
def _damaged_journal(tree: Path) -> None:
    _journal(tree, b"[" * 100_000)


@_build
def _no_directory(tree: Path) -> None:
    shutil.rmtree(tree / "vllm")
    (tree / "vllm").write_bytes(b"a file\n")


@_build
def _empty_tree(tree: Path) -> None:
    for entry in tree.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


TREES: tuple[str, ...] = (*sorted(p.name for p in CORPUS.iterdir()), *_built)
"""Names of the hostile trees."""


def make(tree: Path, names: Sequence[str]) -> None:
    """A small tree at `tree` with all that the named ones have; who comes first keeps its place."""
    copy_mini(tree)
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "precious.py").write_bytes(SOURCE)
    for name in names:
        if name in _built:
            with contextlib.suppress(OSError):
                _built[name](tree)
        else:
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(CORPUS / name, tree, dirs_exist_ok=True)


def draw(rng: random.Random) -> list[str]:
    """Some hostile trees to be made into one; `mutated` stands for mutated files."""
    cheap = [n for n in TREES if n not in ("huge-files", "bottomless-directories", "empty-tree")]
    names = rng.sample(cheap, rng.choice([1, 2, 2, 3, 4, 6]))
    return [*names, "mutated"] if rng.random() < 0.7 else names


# ---- what has to hold ------------------------------------------------------------------------

Listing = dict[str, tuple[int, int, bytes | str]]


def listing(root: Path) -> Listing:
    """Everything below a directory, of whatever kind, down to where paths end."""
    found: Listing = {}
    stack = [root]
    while stack:
        place = stack.pop()
        about = place.lstat()
        kind = stat.S_IFMT(about.st_mode)
        said: bytes | str = ""
        if stat.S_ISLNK(about.st_mode):
            said = os.readlink(place)
        elif stat.S_ISREG(about.st_mode):
            said = place.read_bytes()
        elif stat.S_ISDIR(about.st_mode):
            with contextlib.suppress(OSError):
                stack += [place / name for name in os.listdir(place) if len(stack) < 5000]
        found[str(place)] = (kind, stat.S_IMODE(about.st_mode), said)
        if len(str(place)) > 3000:
            stack = [p for p in stack if len(str(p)) <= 3000]
    return found


@dataclass
class Judge:
    """Runs commands on one hostile tree and looks at what they did."""

    here: Path
    tree: Path
    runs: int = 0
    wrong: str | None = None

    def run(self, *arguments: str, allowed: Sequence[str] = ()) -> Result:
        """Run the command line; only the `allowed` names beside the tree may change."""
        before = self._beside(allowed)
        self.runs += 1
        environment = {
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "GIT_CEILING_DIRECTORIES": str(self.here),
            "XDG_CACHE_HOME": str(self.here / CACHE),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(main, list(arguments), env=environment)
        what = " ".join(arguments[:1] + tuple(a for a in arguments if a.startswith("-")))
        unexpected = done.exception is not None and not isinstance(done.exception, SystemExit)
        if unexpected or "is a bug" in done.stderr or "Traceback" in done.stderr:
            last = done.stderr.strip().splitlines()[-2:]
            self._blame(f"{what} crashes: {done.exception!r} {' '.join(last)[-300:]}")
        if done.exit_code not in (0, 1, 2):
            self._blame(f"{what} exits {done.exit_code}")
        if done.exit_code == 2 and "Error: " not in done.stderr:
            self._blame(f"{what} exits 2 and does not say why: {done.stderr[-200:]!r}")
        if self._beside(allowed) != before:
            self._blame(f"{what} changed something that it should not")
        return done

    def _beside(self, allowed: Sequence[str]) -> Listing:
        found: Listing = {}
        for entry in sorted(self.here.iterdir()):
            if entry.name not in allowed and entry.name != CACHE:
                found |= listing(entry)
        return found

    def _blame(self, wrong: str) -> None:
        self.wrong = self.wrong or wrong

    def all(self) -> dict[str, int]:
        """Every command; their exit codes."""
        tree, out = str(self.tree), str(self.here / "out")
        chosen = ("--select", SELECT, "--jobs", "1")
        codes = {}
        codes["check"] = self.run("check", tree, "--format", "sarif", *chosen).exit_code
        diff = self.run("diff", tree, "-q", *chosen)
        codes["diff"] = diff.exit_code
        json_diff = self.run("apply", tree, "--dry-run", "--format", "json", *chosen)
        with contextlib.suppress(ValueError):
            json.loads(json_diff.stdout or "{}")
        applied = self.run("apply", tree, "-q", "-o", out, *chosen, allowed=["out"])
        codes["apply"] = applied.exit_code
        wanted = _emitted(self.here / "out")
        if applied.exit_code == 2:
            if os.path.lexists(out):
                self._blame("apply fails and leaves an output")
        else:
            self._look_at_output(snapshot(self.here / "out"), diff.stdout_bytes, chosen)
        in_place = self.run(
            "apply", tree, "-q", "--in-place", "--force", *chosen, allowed=[self.tree.name]
        )
        codes["in place"] = in_place.exit_code
        if in_place.exit_code != 2:
            self.run("apply", tree, "-q", "--in-place", "--force", *chosen)
            if applied.exit_code != 2 and _emitted(self.tree) != wanted:
                self._blame("in place gives another tree than apply -o")
            if (self.tree / writer.JOURNAL).is_dir():
                self._blame("in place leaves its staging directory")
        return codes

    def _look_at_output(
        self, target: dict[str, tuple[int, bytes | str]], patch: bytes, chosen: Sequence[str]
    ) -> None:
        source = snapshot(self.tree)
        for path, (_, data) in target.items():
            if source.get(path, (0, None))[1] == data or not path.endswith(".py"):
                continue
            assert isinstance(data, bytes), "only files are changed"
            problem = fuzzing.unparsable(data)
            if problem is not None:
                self._blame(f"{path}: {problem}")
        gone = [p for p in source if p not in target and not p.startswith(writer.JOURNAL)]
        if gone:
            self._blame(f"the output lacks {gone[0]}")
        if patch:
            copied = self.here / "patched"
            subprocess.run(["cp", "-a", str(self.tree), str(copied)], check=True)
            try:
                git(copied, "apply", "-", stdin=patch)
                if executables(_emitted(copied)) != executables(_emitted(self.here / "out")):
                    self._blame("the patch gives another tree than apply")
            except AssertionError as error:
                self._blame(f"the patch does not apply: {str(error)[-200:]}")
            finally:
                shutil.rmtree(copied)
        out = str(self.here / "out")
        # What is neither file nor link is no part of a tree, so in the output its place is free.
        taken = self.tree / "vllm/accelerator.py"
        freed = os.path.lexists(taken) and not taken.is_symlink() and not taken.is_file()
        allowed = ["out"] if freed else []
        again = self.run("apply", out, "-q", "--in-place", "--force", *chosen, allowed=allowed)
        if again.exit_code == 2 and not os.path.lexists(self.here / "out" / writer.JOURNAL):
            self._blame(f"apply on its own output fails: {again.stderr[-200:]}")
        self.run("apply", str(self.tree), "-q", "-o", out, *chosen, allowed=allowed)


def _emitted(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """What is in a tree, but for our own directory and what stands in its place."""
    return {p: v for p, v in snapshot(root).items() if p.partition("/")[0] != writer.JOURNAL}


def judge(here: Path, names: Sequence[str], rng: random.Random) -> tuple[int, str | None]:
    """Make a hostile tree in a directory and run every command on it.

    Returns:
        How many commands were run, and what was wrong.
    """
    tree = here / "mini"
    here = here.resolve()
    make(tree, names)
    if "mutated" in names:
        for path in sorted(MINI.rglob("*.py")):
            place = tree / path.relative_to(MINI)
            if rng.random() < 0.5 and place.is_file() and not place.is_symlink():
                data, _ = fuzzing.mutated(rng, path.read_bytes(), ())
                place.write_bytes(data)
    judge = Judge(here, tree)
    try:
        judge.all()
    finally:
        remove(here)
    return judge.runs, judge.wrong


def remove(here: Path) -> None:
    """Remove a directory, however deep it is."""
    subprocess.run(["chmod", "-R", "u+rwx", str(here)], capture_output=True)
    subprocess.run(["rm", "-rf", "--", str(here)], check=True)
    here.mkdir()
