# SPDX-License-Identifier: Apache-2.0
"""Port an adapted branch to the newest release of vLLM, for a pull request; what action.yml runs.

In a checkout of the adapted branch, it looks for a tag at --upstream that is newer than the release
of the migration log. Where there is one, it asks whether the rules still find their sites (`check
--against`), what is new and claimed by no rule (`coverage --since`), and carries the tree over
(`update`), in a work tree of its own: the checkout stays as it is. What comes out is one of

    none            nothing is newer
    pull-request    a branch npu/vllm-<release> was pushed to --remote, made anew where it was
                    there and differs; summary.md says what was found, review.html has every change
    issue           a rule finds its site no more, or the update is refused: issue.md names the
                    drift, and nothing was pushed

    python scripts/next_release.py --checkout FORK --output DIR
    python scripts/next_release.py --checkout FORK --output DIR --publish   # with gh, on a runner

With --publish, `gh` opens the pull request or the issue, or brings the one of the same title up to
date. Exit code 0, whichever it is; 2 where the work could not be done. Lines `name=value` for
GitHub go to the file that GITHUB_OUTPUT names.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = "https://github.com/vllm-project/vllm.git"
LOG_NAME = "migration-log.json"
SHOWN = 60
"""Lines of a command's output that go into a text; the files in --output have all."""
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "vllm-npu-migrate"), ("EMAIL", "vllm-npu-migrate@localhost"))
}


class PortError(Exception):
    """The work could not be done; the message says why, in one line."""


@dataclass(frozen=True)
class Step:
    """One command of the tool, and what it came to."""

    name: str
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it said, as far as a text for people has room for it."""
        lines = [line.rstrip() for line in (*self.out.splitlines(), *self.err.splitlines())]
        lines = [line for line in lines if line]
        left = len(lines) - SHOWN
        return "\n".join([*lines[:SHOWN], *([f"… {left} more lines"] if left > 0 else [])])


@dataclass
class Port:
    """What was done for one tag."""

    old: str
    new: str
    steps: dict[str, Step] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    findings: int | None = None

    @property
    def title(self) -> str:
        return f"Port to vLLM {self.new}"

    @property
    def drifted(self) -> bool:
        """Does a rule find its site no more, or is there nothing to go on with?"""
        return self.steps["check"].code == 2 or self.steps.get("update", _FINE).code in (2, 3)


_FINE = Step("", 0, "", "")


def git(root: Path, *arguments: str, check: bool = True) -> str:
    """What git prints; a name to commit under is there where the user has none."""
    environment = {**AUTHOR, **os.environ}
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, env=environment, check=False
    )
    if check and done.returncode:
        raise PortError(
            f"git {' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout.strip()


def tool(name: str, cwd: Path, *arguments: str | Path) -> Step:
    """Run a subcommand of this very tool in a process of its own, with the settings of `cwd`."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        # -P: a folder of the checkout is no module of this process.
        [sys.executable, "-P", "-m", "migrator", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "160"},
    )
    return Step(name, done.returncode, done.stdout, done.stderr)


def release_of(checkout: Path) -> str:
    """The release that an adapted checkout was made from, or last updated to."""
    try:
        log = json.loads((checkout / LOG_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise PortError(f"{checkout} has no {LOG_NAME} that can be read: {error}") from error
    release = log.get("release")
    if not isinstance(release, str):
        raise PortError(f"{LOG_NAME} names no release to go on from; give it with --from")
    return release


def newest(checkout: Path, upstream: str, old: str) -> str | None:
    """The newest release that upstream has a tag of, if that is newer than `old`."""
    found = []
    for line in git(checkout, "ls-remote", "--tags", "--refs", upstream, "v*").splitlines():
        text = line.rpartition("refs/tags/v")[2]
        try:
            version = Version(text)
        except InvalidVersion:
            continue
        if not version.is_prerelease and not version.is_devrelease and version > Version(old):
            found.append((version, text))
    return max(found)[1] if found else None


def fetch(checkout: Path, upstream: str, release: str) -> bool:
    """Have the tag of a release; False where upstream has none."""
    tag = f"refs/tags/v{release}"
    if not git(checkout, "ls-remote", upstream, tag):
        return False
    shallow = git(checkout, "rev-parse", "--is-shallow-repository") == "true"
    depth = ["--depth=1"] if shallow else []
    git(checkout, "fetch", "-q", "--no-tags", *depth, upstream, f"+{tag}:{tag}")
    return True


@contextmanager
def worktree(checkout: Path, place: Path, commit: str) -> Iterator[Path]:
    """A work tree of a commit, taken away when the block is left."""
    git(checkout, "worktree", "add", "-q", "--force", "--detach", str(place), commit)
    try:
        yield place
    finally:
        git(checkout, "worktree", "remove", "--force", str(place), check=False)


def port(checkout: Path, upstream: str, old: str, new: str, options: argparse.Namespace) -> Port:
    """Do the work for one tag; what is pushed is left as the branch of the port."""
    done = Port(old, new)
    if not fetch(checkout, upstream, new):
        raise PortError(f"{upstream} has no tag v{new}")
    named = fetch(checkout, upstream, old)
    with tempfile.TemporaryDirectory(prefix="next-release-") as scratch, ExitStack() as stack:

        def checked_out(name: str, commit: str) -> Path:
            return stack.enter_context(worktree(checkout, Path(scratch) / name, commit))

        tree, source = checked_out("tree", "HEAD"), checked_out(f"vllm-{new}", f"v{new}")
        before = str(checked_out(f"vllm-{old}", f"v{old}")) if named else f"vllm=={old}"
        _steps(done, tree, source, before, options)
        for name, step in done.steps.items():
            out, err = (text.replace(scratch + os.sep, "") for text in (step.out, step.err))
            done.steps[name] = replace(step, out=out, err=err)
            log = options.output / f"{name}.log"
            log.write_text(f"exit code {step.code}\n{out}{err}", encoding="utf-8")
        if not done.drifted:
            _push(checkout, tree, done, options.remote)
    return done


def _steps(done: Port, tree: Path, source: Path, before: str, options: argparse.Namespace) -> None:
    """The commands one after another; a drift ends it, for there is nothing to go on with."""

    def run(name: str, *arguments: str | Path) -> Step:
        done.steps[name] = tool(name, tree, *arguments)
        return done.steps[name]

    against = before if before.startswith("/") else done.old
    if run("check", "check", source, "--against", against).code == 2:
        return
    run("coverage", "coverage", source, "--since", before, "-q")
    base = ("--base", before)
    step = run("update", "update", ".", source, "--in-place", *base, "--format", "json", "-q")
    if step.code not in (0, 1):
        return
    files = json.loads(step.out)["files"]
    done.conflicts = tuple(file["path"] for file in files if file["fate"] == "conflict")
    extra = shlex.split(options.verify_options)
    step = run("verify", "verify", ".", "--base", source, "--format", "json", *extra)
    if step.code in (0, 1):
        found = json.loads(step.out)["findings"]
        lines = [f"{f['path']}:{f['line']}: {f['code']} {f['message']}" for f in found]
        done.steps["verify"] = replace(step, out="\n".join([*lines, ""]))
        done.findings = len(found)
    if options.env is not None:
        run("simulate", "verify", ".", "--simulate", "--env", options.env)
    page = options.output / "review.html"
    run("review", "review", ".", "--base", source, "-o", page)


def _push(checkout: Path, tree: Path, done: Port, remote: str) -> None:
    """Commit the port and push its branch, unless the remote has the very same already."""
    branch = f"npu/vllm-{done.new}"
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "--no-verify", "-m", done.title, "-m", f"From vLLM {done.old}.")
    there = git(checkout, "ls-remote", remote, f"refs/heads/{branch}").partition("\t")[0]
    if there:
        git(checkout, "fetch", "-q", remote, there)
        what = (
            ("rev-parse", "HEAD^{tree}", "HEAD^"),
            ("rev-parse", f"{there}^{{tree}}", f"{there}^"),
        )
        if git(tree, *what[0]) == git(tree, *what[1], check=False):
            return
    lease = f"--force-with-lease=refs/heads/{branch}:{there}"
    git(tree, "push", "-q", lease, remote, f"HEAD:refs/heads/{branch}")


def _block(step: Step) -> str:
    """What a step said, folded; no line of it ends the fence."""
    longest = max((len(word) for word in step.text.split() if set(word) == {"~"}), default=0)
    fence = "~" * max(3, longest + 1)
    return "\n\n".join(
        (
            f"<details><summary>{step.name}</summary>",
            f"{fence}text\n{step.text}\n{fence}",
            "</details>",
        )
    )


def summary(done: Port) -> str:
    """The text of the pull request."""
    said = {
        "check": {
            0: "every rule finds its sites as before",
            1: "sites are written otherwise: read them",
        },
        "coverage": {
            0: "nothing new is reachable",
            1: "new code for other accelerators is reachable",
        },
        "update": {
            0: "carried over",
            1: f"{len(done.conflicts)} in conflict, or sites for a person",
        },
        "verify": {0: "no finding", 1: f"{done.findings} findings"},
        "simulate": {0: "every run passed", 1: "runs failed"},
        "review": {0: "review.html has every change", 1: "review.html has every change; some wait"},
    }
    rows = [
        f"| `{name}` | {step.code} | {said[name].get(step.code, 'could not be done')} |"
        for name, step in done.steps.items()
    ]
    parts = [f"vLLM {done.old} → {done.new}, carried over by vllm-npu-migrate."]
    parts.append("\n".join(["| Step | Exit code | |", "| --- | --- | --- |", *rows]))
    if done.conflicts:
        parts.append("In conflict, with git's marks in them:")
        parts.append("\n".join(f"- `{path}`" for path in done.conflicts))
    parts += [
        _block(step)
        for name, step in done.steps.items()
        if step.code and name in ("check", "coverage", "verify", "simulate")
    ]
    return "\n\n".join(parts) + "\n"


def issue(done: Port) -> str:
    """The text of the issue: what drifted, as the tool names it."""
    last = list(done.steps.values())[-1]
    lines = [line.strip() for line in (*last.out.splitlines(), *last.err.splitlines())]
    named = [
        line for line in lines if line.startswith(("Error: ", "error: ")) or ": error: " in line
    ]
    parts = [
        f"vLLM {done.new} is there, and the rules do not hold for it: `{last.name}` ends with exit "
        f"code {last.code}. Nothing was pushed.",
        "\n".join(f"- {line.removeprefix('Error: ')}" for line in named),
        _block(last),
        "Change the rule, or state an absence with its reason: "
        "docs/new-release.md says how. The next run opens a pull request.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def publish(kind: str, title: str, body: Path, branch: str) -> None:
    """Open the pull request or the issue, or bring the one that is there up to date."""
    what = "pr" if kind == "pull-request" else "issue"

    def gh(*arguments: str) -> str:
        done = subprocess.run(["gh", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PortError(f"gh {' '.join(arguments[:2])}: {done.stderr.strip()}")
        return done.stdout.strip()

    chosen = ("--head", branch) if what == "pr" else ("--search", f"{title} in:title")
    found = json.loads(
        gh(what, "list", "--state", "open", *chosen, "--json", "number,title") or "[]"
    )
    number = next((str(one["number"]) for one in found if one["title"] == title), None)
    if number is not None:
        gh(what, "edit", number, "--body-file", str(body))
        return
    head = ("--head", branch) if what == "pr" else ()
    gh(what, "create", "--title", title, "--body-file", str(body), *head)


def _tell(**values: str) -> None:
    for name, value in values.items():
        print(f"{name.replace('_', '-')}={value}")
    if place := os.environ.get("GITHUB_OUTPUT"):
        with open(place, "a", encoding="utf-8") as file:
            file.writelines(f"{name.replace('_', '-')}={value}\n" for name, value in values.items())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkout", type=Path, default=Path(), help="the adapted branch")
    parser.add_argument("--output", type=Path, required=True, help="where texts and logs go")
    parser.add_argument("--upstream", default=UPSTREAM, help="the repository that has the tags")
    parser.add_argument("--remote", default="origin", help="where the branch is pushed to")
    parser.add_argument("--tag", help="a release, such as 0.33.0, in place of the newest")
    parser.add_argument("--from", dest="old", help="the release of the branch [default: its log's]")
    parser.add_argument("--env", type=Path, help="environment for simulated runs; without, none")
    parser.add_argument("--verify-options", default="", help="further options of `verify`")
    parser.add_argument("--publish", action="store_true", help="open the request or issue by gh")
    options = parser.parse_args(arguments)
    checkout = options.checkout.resolve()
    options.output = options.output.resolve()
    try:
        old = options.old or release_of(checkout)
        new = options.tag or newest(checkout, options.upstream, old)
        if new is None:
            _tell(outcome="none")
            return 0
        options.output.mkdir(parents=True, exist_ok=True)
        done = port(checkout, options.upstream, old, new, options)
        kind = "issue" if done.drifted else "pull-request"
        body = options.output / ("issue.md" if done.drifted else "summary.md")
        body.write_text(issue(done) if done.drifted else summary(done), encoding="utf-8")
        title = f"vLLM {new}: the rules have drifted" if done.drifted else done.title
        branch = "" if done.drifted else f"npu/vllm-{new}"
        if options.publish:
            publish(kind, title, body, branch)
        _tell(outcome=kind, release=new, title=title, branch=branch, body=str(body))
    except PortError as failure:
        print(f"Error: {failure}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
