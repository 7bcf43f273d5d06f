# SPDX-License-Identifier: Apache-2.0
"""Follow a line of commits one by one with an adapted branch that was edited by hand.

A clone is adapted at the first commit, gets the edits by hand of `update_table.py`, and is updated
in place to each commit after it, committed each time. A copy takes the last one in one jump. Every
edit has to be there or have been in a named conflict, no step may be in conflict over a file that
the jump to the same commit is not in conflict over too, and the two trees have to end up the same
but for files that were in conflict. The exit code is 1 if any of that fails.

    python scripts/follow_main.py --repo vllm.git --last COMMIT --count 200 --work DIR

Any repository that carries vLLM's history serves as --repo; it is cloned and not written to. The
line that is followed is made anew in the clone, without files whose contents the repository lacks,
as a partial copy may. An interrupted run begins again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from commit_table import lacking
from tool import command
from update_table import DELETED, Edit, edit_by_hand

from migrator.files.tree import LOG_NAME, SUMMARY_NAME

_SIDES = re.compile(r"(?ms)^<<<<<<< ours\n(.*?)^=======\n(.*?)^>>>>>>> theirs\n")


def git(root: Path, *arguments: str) -> str:
    """What git prints in a repository."""
    name = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *name, *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def line(root: Path, commits: list[str]) -> list[str]:
    """The same commits one after another, without merges and without what the repository lacks."""
    made: list[str] = []
    for one in commits:
        git(root, "read-tree", one)
        if absent := lacking(root, one):
            git(root, "rm", "-q", "--cached", "--", *absent)
        parent = ("-p", made[-1]) if made else ()
        made.append(git(root, "commit-tree", git(root, "write-tree"), *parent, "-m", one))
    return made


def commit(root: Path, message: str) -> None:
    """Commit all that was changed, if anything was."""
    if git(root, "status", "--porcelain"):
        git(root, "add", "-A")
        git(root, "commit", "-q", "--no-verify", "-m", message)


def update(root: Path, to: str) -> dict[str, bool]:
    """Update a tree in place; the files in conflict, and whether their places are marked."""
    done = command("update", root, to, "--in-place", "-q", "--format", "json", "-j", "1")
    if done.returncode not in (0, 1):
        raise SystemExit(f"update to {to} exits {done.returncode}: {done.stderr.strip()}")
    entries = json.loads(done.stdout)["files"]
    found = {e["path"]: bool(e["marked"]) for e in entries if e["fate"] == "conflict"}
    if (done.returncode == 1) != bool(found):
        raise SystemExit(f"update to {to} exits {done.returncode} with {len(found)} conflicts")
    return found


def resolve(root: Path, conflicts: dict[str, bool]) -> None:
    """Keep both sides of each marked place, and of other conflicts what is there."""
    for path, marked in conflicts.items():
        if marked:
            place = root / path
            text = place.read_text(encoding="utf-8")
            place.write_text(_SIDES.sub(r"\1\2", text), encoding="utf-8")


def contents(root: Path) -> dict[str, str]:
    """Path → hash of each file, but for the documents, which tell how the tree came about."""
    listing = git(root, "ls-tree", "-r", "HEAD").splitlines()
    files = {path: entry for entry, _, path in (line.partition("\t") for line in listing)}
    return {path: e for path, e in files.items() if path not in (LOG_NAME, SUMMARY_NAME)}


def lost(root: Path, edits: list[Edit]) -> list[str]:
    """Edits that are not in the tree."""
    found = []
    for edit in edits:
        if edit.kind == DELETED:
            gone = not (root / edit.path).exists()
        else:
            done = subprocess.run(
                ["git", "grep", "-q", edit.mark], cwd=root, capture_output=True, check=False
            )
            gone = done.returncode == 0
        if not gone:
            found.append(f"{edit.kind} {edit.path} {edit.mark}".rstrip())
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--repo", type=Path, required=True, metavar="GIT")
    parser.add_argument("--last", default="HEAD", help="the last commit [default: HEAD]")
    parser.add_argument("--count", type=int, default=200, help="commits to follow [default: 200]")
    parser.add_argument("--work", type=Path, required=True, help="an empty or missing directory")
    given = parser.parse_args(arguments)
    work = given.work.absolute()
    listing = git(
        given.repo, "log", "--first-parent", f"-{given.count + 1}", "--format=%H", given.last
    )
    commits = listing.split()[::-1]
    root, jump = work / "steps", work / "jump"
    work.mkdir(parents=True, exist_ok=True)
    git(work, "clone", "-q", "--shared", "--no-tags", "-n", str(given.repo.absolute()), str(root))
    upstream = len(git(root, "diff", "--name-only", commits[0], commits[-1]).splitlines())
    names = {new: old[:10] for new, old in zip(line(root, commits), commits, strict=True)}
    commits = list(names)
    git(root, "checkout", "-q", "-f", "-b", "work", commits[0])
    applied = command("apply", root, "--in-place", "-q")
    if applied.returncode not in (0, 1):
        raise SystemExit(f"apply exits {applied.returncode}: {applied.stderr.strip()}")
    commit(root, "adapt")
    edits = edit_by_hand(root)
    commit(root, "by hand")
    start = git(root, "rev-parse", "HEAD")
    shutil.copytree(root, jump, symlinks=True)

    problems: list[str] = []
    in_conflict: set[str] = set()
    began = time.process_time()
    for number, to in enumerate(commits[1:], 1):
        conflicts = update(root, to)
        if conflicts:
            git(jump, "checkout", "-q", "--force", start)
            also = update(jump, to)
            git(jump, "reset", "-q", "--hard")
            git(jump, "clean", "-fdq")
            more = sorted(conflicts.keys() - also.keys() - in_conflict)
            problems += [f"{names[to]}: {path} is in conflict, in one jump not" for path in more]
            in_conflict |= conflicts.keys()
            resolve(root, conflicts)
        commit(root, f"update to {names[to]}")
        said = f": in conflict: {', '.join(sorted(conflicts))}" if conflicts else ""
        print(f"{number}/{given.count} {names[to]}{said}", file=sys.stderr, flush=True)
    git(jump, "checkout", "-q", "--force", start)
    once = update(jump, commits[-1])
    resolve(jump, once)
    commit(jump, "jump")

    one, other = contents(root), contents(jump)
    differing = {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
    unlike = sorted(differing - in_conflict - once.keys())
    problems += [f"{path} is not as after one jump" for path in unlike]
    problems += [f"lost: {text}" for text in lost(root, edits)]
    print(
        f"{given.count} commits from {names[commits[0]]} to {names[commits[-1]]}, {upstream} files "
        f"changed upstream; {len(edits)} edits by hand; in conflict step by step: "
        f"{len(in_conflict)} files, in one jump: {len(once)}; problems: {len(problems)} "
        f"({time.process_time() - began:.0f} s of CPU in this process)"
    )
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
