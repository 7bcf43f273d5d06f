# SPDX-License-Identifier: Apache-2.0
"""Shell blocks of the docs run, page by page, from a clean start.

A page's blocks run one after the other in a fresh clone of this repository, with `~/src/vllm` a
checkout of vLLM 0.11.0. What a block may need is said above it in a comment of the page:

<!-- run: slow -->            minutes, or a package index: with `-m slow`
<!-- run: lines -->           alternatives: each line from a clean ~/src/vllm
<!-- run: ENV -->             slow, and DOCS_ENV=DIR has to be an environment of docs/verify.md
<!-- before: COMMAND -->      what the reader is taken to have done, in the same shell
<!-- not run: why -->

It fails where a command of the tool ends with an error (exit code 2 or above), or another command
does not end with 0.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.trees import commit_all, git

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
TOOL = "vllm-npu-migrate"
BLOCK = re.compile(
    r"(?P<marks>(?:^[ ]*<!-- (?:run|before|not run): [^\n]* -->\n)*)"
    r"^(?P<indent>[ ]*)```(?:sh|bash|shell)\b[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.S | re.M,
)
KINDS = ("slow", "lines", "ENV")


@dataclass(frozen=True)
class Block:
    """A shell block of a page."""

    text: str
    line: int
    kinds: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    why_not: str | None = None

    @property
    def slow(self) -> bool:
        return "slow" in self.kinds or "ENV" in self.kinds


def blocks(text: str) -> Iterator[Block]:
    """The shell blocks of a page, with what is said of how they run."""
    for match in BLOCK.finditer(text):
        marks = re.findall(r"<!-- (run|before|not run): (.*) -->", match["marks"])
        kinds = [kind.strip() for what, said in marks if what == "run" for kind in said.split(",")]
        assert {*kinds} <= {*KINDS}, kinds
        why = [said for what, said in marks if what == "not run"]
        yield Block(
            re.sub(rf"(?m)^{match['indent']}", "", match["text"]),
            text[: match.start("text")].count("\n") + 1,
            tuple(kinds),
            tuple(said for what, said in marks if what == "before"),
            why[0] if why else None,
        )


FOUND = {
    str(page.relative_to(ROOT)): found
    for page in PAGES
    if (found := [*blocks(page.read_text(encoding="utf-8"))])
}


@dataclass
class Machine:
    """A user's machine: a home, the tool on PATH, and a folder to be in."""

    home: Path
    clone: Path
    codes: Path
    path: str

    def run(self, text: str, where: str) -> None:
        """Run shell text; every failing command has to be the tool that says 1."""
        self.codes.write_text("")
        trap = f"trap 'echo \"$? $BASH_COMMAND\" >> {shlex.quote(str(self.codes))}' ERR\n"
        done = subprocess.run(
            ["bash", "-c", trap + text],
            cwd=self.clone,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("VLLM_NPU_")},
                "HOME": str(self.home),
                "PATH": self.path,
                "CODES": str(self.codes),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        for code, _, command in (line.partition(" ") for line in _lines(self.codes)):
            said = f"{where}: {command}: exit code {code}\n{text}\n{done.stderr[-2000:]}"
            assert code in ("0", "1"), said
            assert code == "0" or TOOL in command, said

    def reset(self) -> None:
        """Have ~/src/vllm as it was."""
        checkout = self.home / "src" / "vllm"
        git(checkout, "checkout", "-q", "--force", "main")
        git(checkout, "reset", "-q", "--hard")
        git(checkout, "clean", "-fdxq")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line]


@pytest.fixture
def machine(tmp_path: Path, plans_of_this_run: Path) -> Machine:
    home, clone, programs = (tmp_path / name for name in ("home", "clone", "bin"))
    codes = tmp_path / "codes"
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(clone)], check=True)
    programs.mkdir()
    tool = programs / TOOL
    tool.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import migrator.planning.cache as cache\n"
        f"cache.cache_directory = lambda: pathlib.Path({str(plans_of_this_run)!r})\n"
        "from migrator.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    with open(os.environ['CODES'], 'a') as codes:\n"
        f"        print(end.code or 0, {TOOL!r}, *sys.argv[1:], file=codes)\n"
        "    raise\n"
    )
    tool.chmod(0o755)
    home.mkdir()
    # Who commits, for commands that do.
    (home / ".gitconfig").write_text("[user]\n\tname = You\n\temail = you@example.org\n")
    # What the tool has fetched is fetched.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    (home / ".cache").symlink_to(cache)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return Machine(home, clone, codes, path)


@pytest.fixture
def with_checkout(machine: Machine, release: Callable[[str], Path]) -> Machine:
    """The machine with ~/src/vllm."""
    checkout = machine.home / "src" / "vllm"
    shutil.copytree(release("0.11.0"), checkout, symlinks=True)
    git(checkout, "init", "-q", "-b", "main")
    commit_all(checkout)
    return machine


def run_page(machine: Machine, page: str, *, slow: bool) -> None:
    """Run the blocks of a page; without `slow`, those that take no longer than a moment."""
    for block in FOUND[page]:
        if block.why_not is not None or (block.slow and not slow):
            continue
        if "ENV" in block.kinds:
            env = os.environ.get("DOCS_ENV")
            if env is None:
                continue
            if not (machine.clone / "ENV").exists():
                (machine.clone / "ENV").symlink_to(env)
        where = f"{page}:{block.line}"
        before = "".join(f"{command}\n" for command in block.before)
        if "lines" in block.kinds:
            for line in block.text.splitlines():
                machine.reset()
                machine.run(before + line, where)
            machine.reset()
        else:
            machine.run(before + block.text, where)


def having(*, slow: bool) -> list[str]:
    """The pages that have blocks to run."""
    return [
        page
        for page, found in FOUND.items()
        if any(block.why_not is None and block.slow is slow for block in found)
    ]


@pytest.mark.releases
@pytest.mark.parametrize("page", having(slow=False))
def test_blocks_run(with_checkout: Machine, page: str) -> None:
    run_page(with_checkout, page, slow=False)


@pytest.mark.releases
@pytest.mark.slow
@pytest.mark.parametrize("page", having(slow=True))
def test_all_blocks_run(with_checkout: Machine, page: str) -> None:
    run_page(with_checkout, page, slow=True)


def test_every_block_runs_or_says_why_not() -> None:
    every = [block for found in FOUND.values() for block in found]
    fences = sum(
        len(re.findall(r"^[ ]*```(?:sh|bash|shell|console)\b", page.read_text("utf-8"), re.M))
        for page in PAGES
    )
    assert len(every) == fences > 30
    marks = sum(
        len(re.findall(r"<!-- (?:not run|run|before): ", page.read_text("utf-8"))) for page in PAGES
    )
    # None stands where no block follows.
    assert marks == sum(bool(b.kinds) + len(b.before) + (b.why_not is not None) for b in every)
    for block in every:
        if block.why_not is not None:
            assert not block.kinds
            assert not block.before
            assert len(block.why_not) > 10


@pytest.mark.parametrize(
    "text",
    [
        f"{TOOL} apply nowhere",
        f"{TOOL} rules; git -C nowhere status",
        f"{TOOL} check nowhere; true",
        "no-such-command | cat; false",
    ],
)
def test_a_block_that_fails_is_seen(machine: Machine, text: str) -> None:
    with pytest.raises(AssertionError, match="exit code"):
        machine.run(text, "here")
