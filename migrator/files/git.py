# SPDX-License-Identifier: Apache-2.0
"""Git, run as a program in which nothing that a tree names is executed.

A source tree comes from anywhere, and its `.git/config` and `.gitattributes` with it. Git would run
what they name: hooks, a file system monitor, filters, an ssh command for objects that a partial
clone lacks. None of that happens here. What the user has configured outside of the tree holds: line
endings, an identity, filters such as git-lfs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from migrator.messages.errors import MigrateError

_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    # A directory of the tree that looks like a repository, with a configuration of its own.
    "safe.bareRepository": "explicit",
    "submodule.recurse": "false",
    # Output that programs read.
    "log.showSignature": "false",
    "color.ui": "false",
}
"""Settings that hold whatever the tree or the user says."""
_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
"""Nothing is fetched, not even objects that are missing; complaints come as git wrote them."""
_ELSEWHERE = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)
"""Variables by which a hook that runs this tool would name another repository than the tree's."""
_OF_THE_TREE = frozenset({b"local", b"worktree"})
MAJOR = 0
"""The major version of all of vLLM's releases: a tag with another one is a fork's own product's."""


_TAGS = "v[0-9]*"


class GitError(MigrateError):
    """Git ended with an error; `said` is all of its complaint."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def run(
    *arguments: str,
    at: Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run git in a directory and return what it prints.

    Args:
        arguments: the subcommand and its arguments.
        at: a directory of the tree.
        stdin: what it reads.
        env: variables beside the user's.

    Raises:
        GitError: it ended with an error; the first line of its complaint is the message.
        MigrateError: there is no git.
    """
    settings = {**_SETTINGS, **dict(_without_filters(at.absolute()))}
    return _run([*_options(settings), *arguments], at=at, stdin=stdin, env=env or {})


def _options(settings: Mapping[str, str]) -> Iterator[str]:
    yield "--no-pager"
    for name, value in settings.items():
        yield "-c"
        yield f"{name}={value}"


def _run(arguments: list[str], *, at: Path, stdin: bytes, env: Mapping[str, str]) -> bytes:
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", "-C", str(at), *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            env={**kept, **_ENVIRONMENT, **env},
        )
    except OSError as error:
        raise MigrateError(
            f"git cannot be run ({error.strerror or error}); install it, or put it on PATH"
        ) from error
    if done.returncode != 0:
        text = os.fsdecode(done.stderr).strip()
        said = [line for line in text.splitlines() if line] or ["it said nothing"]
        telling = next((s for s in said if s.startswith(("fatal:", "error:"))), said[0])
        raise GitError(f"git {_subcommand(arguments)}: {telling}", text)
    return done.stdout


def _subcommand(arguments: list[str]) -> str:
    rest = iter(arguments)
    for argument in rest:
        if argument == "-c":
            next(rest, None)
        elif not argument.startswith(("-", "/")):
            return argument
    return arguments[0]


@lru_cache(maxsize=64)
def _without_filters(root: Path) -> tuple[tuple[str, str], ...]:
    """Settings that leave a tree's own filter programs out; the user's of that name hold again."""
    try:
        listing = _run(
            [*_options(_SETTINGS), "config", "--list", "--show-scope", "-z"],
            at=root,
            stdin=b"",
            env={},
        )
    except MigrateError:
        return ()  # no repository, or one that git refuses: it runs nothing of it then
    parts = listing.split(b"\0")
    users: dict[str, str] = {}
    of_the_tree: set[str] = set()
    for scope, entry in zip(parts[::2], parts[1::2], strict=False):
        name, _, value = os.fsdecode(entry).partition("\n")
        section, _, variable = name.rpartition(".")
        if not section.startswith("filter."):
            continue
        if scope in _OF_THE_TREE:
            # Only those that are there: an empty `process` would take the place of `smudge`.
            of_the_tree |= {name, f"{section}.required"}
        else:
            users[f"{section}.{variable}"] = value
    off = {name: "false" if name.endswith(".required") else "" for name in sorted(of_the_tree)}
    return tuple((name, users.get(name, value)) for name, value in off.items())


def names_of(root: Path, commit: str = "HEAD") -> tuple[str | None, str | None]:
    """The vLLM release that a commit is, by a tag at just that commit, and else what it is near.

    A fork's own tags are none of vLLM's releases: `v0.11.0-acme.3` is no version, `v2.3.0` and
    `proto-v0.3.0` are other products'.

    Returns:
        The tag of the release, if it is one; else where it is, such as `0.10.0-12124-g017e9f4448`,
        if git knows any tag before it. A fork's own tag that is nearer is named too.

    Raises:
        MigrateError: git refuses, as it does a tree of another owner.
    """
    found = _releases(root, "--points-at", commit)
    if found:
        return found[-1], None
    near = _described(root, commit, [_TAGS])
    behind = _releases(root, "--merged", commit)
    if near is None or not behind:
        return None, near
    nearest = _described(root, commit, behind, "--abbrev=0")
    # Of several at one commit the newest, as above.
    tag = _releases(root, "--points-at", f"{nearest}^{{}}")[-1]
    place = _described(root, commit, [tag])
    assert place is not None, "a tag behind it is"
    told = place.removeprefix("v")
    ours = _described(root, commit, [_TAGS], "--abbrev=0") in behind
    return None, told if ours else f"{told} ({near})"


def _releases(root: Path, *which: str) -> list[str]:
    """Tags that a release of vLLM may have, oldest version first."""
    from packaging.version import InvalidVersion, Version

    found = []
    for tag in os.fsdecode(run("tag", "--list", _TAGS, *which, at=root)).split():
        try:
            version = Version(tag)
        except InvalidVersion:
            continue
        if version.major == MAJOR and version.local is None and not version.is_devrelease:
            found.append((version, tag))
    return [tag for _, tag in sorted(found)]


def _described(
    root: Path, commit: str, patterns: Sequence[str], length: str = "--abbrev=10"
) -> str | None:
    """How far a commit is from the nearest tag behind it that matches; None without one."""
    matching = [f"--match={pattern}" for pattern in patterns]
    try:
        said = run("describe", "--tags", length, *matching, commit, at=root)
    except GitError:
        return None
    return os.fsdecode(said).strip()


def submodules(root: Path) -> list[str]:
    """Paths below a directory where its checkout has another repository's commit."""
    try:
        listing = run("ls-files", "-s", "-z", "--", ".", at=root)
    except MigrateError:
        return []
    links = (line for line in listing.split(b"\0") if line.startswith(b"160000 "))
    return [os.fsdecode(line.partition(b"\t")[2]) for line in links]


# ---- what git stores, and what is on disk


def converted(root: Path, paths: Sequence[str] | None = None) -> list[str]:
    """Files below a directory that git stores otherwise than they are on disk.

    Line endings, `$Id$`, encodings and the user's own filters make that difference.

    Args:
        root: a directory of a checkout.
        paths: files, which need not be there; those that git tracks where left out.
    """
    if paths is None:
        names = run("ls-files", "-z", "--", ".", at=root)
    else:
        names = b"".join(os.fsencode(path) + b"\0" for path in paths)
    if not names:
        return []
    ends = _setting("core.autocrlf", root) == "true" or _setting("core.eol", root) == "crlf"
    asked = ("text", "crlf", "eol", "ident", "filter", "working-tree-encoding")
    said = run("check-attr", "-z", "--stdin", *asked, at=root, stdin=names).split(b"\0")
    found: dict[str, None] = {}
    is_text: dict[bytes, bool] = {}
    for path, attribute, value in zip(said[::3], said[1::3], said[2::3], strict=False):
        if attribute in (b"text", b"crlf"):
            is_text[path] = is_text.get(path, True) and value != b"unset"
        differs = {
            b"text": False,
            b"crlf": False,
            b"eol": value == b"crlf" or (ends and value == b"unspecified" and is_text[path]),
            b"ident": value == b"set",
        }.get(attribute, value not in (b"unspecified", b"unset", b"set"))
        if differs:
            found[os.fsdecode(path)] = None
    return list(found)


def _setting(name: str, root: Path) -> str | None:
    try:
        return os.fsdecode(run("config", "--get", name, at=root)).strip().lower()
    except GitError:
        return None


def stored_forms(root: Path) -> dict[str, bytes]:
    """Files that are on disk otherwise than git stores them: path → what git stores of them."""
    try:
        paths = [p for p in converted(root) if (root / p).is_file() and not (root / p).is_symlink()]
    except MigrateError:
        return {}  # what git refuses is taken as it is on disk
    if not paths:
        return {}
    changed = set(run("diff-files", "--name-only", "--relative", "-z", at=root).split(b"\0"))
    listing = run("ls-files", "-s", "-z", "--", ".", at=root).split(b"\0")
    staged = {line.partition(b"\t")[2]: line.split()[1].decode() for line in listing if line}
    names = [os.fsencode(path) for path in paths if "\n" not in path]
    known = [name for name in names if name not in changed]
    found = dict(zip(known, contents(root, [staged[name] for name in known]), strict=True))
    edited = [name for name in names if name in changed]
    if edited:
        found.update(zip(edited, _as_stored(root, edited), strict=True))
    return {os.fsdecode(name): data for name, data in found.items()}


def _as_stored(root: Path, names: Sequence[bytes]) -> list[bytes]:
    """What git would store of some files on disk."""
    prefix = run("rev-parse", "--show-prefix", at=root).rstrip(b"\n")
    top = Path(os.fsdecode(run("rev-parse", "--show-toplevel", at=root).rstrip(b"\n")))
    with _own_objects(root) as env:
        # This one takes paths from the top of the repository, wherever it is run.
        listing = b"".join(prefix + name + b"\n" for name in names)
        stored = run("hash-object", "-w", "--stdin-paths", at=top, stdin=listing, env=env)
        return contents(root, stored.decode().split(), env)


def contents(root: Path, blobs: Sequence[str], env: Mapping[str, str] | None = None) -> list[bytes]:
    """Contents by their names.

    Raises:
        MigrateError: git does not have one.
    """
    if not blobs:
        return []
    data = run("cat-file", "--batch", at=root, stdin="\n".join(blobs).encode() + b"\n", env=env)
    found, at = [], 0
    for name in blobs:
        end = data.index(b"\n", at)
        header = data[at:end].split()
        if len(header) != 3:
            raise MigrateError(
                f"git has no object {name}, as in a partial clone; `git fetch --refetch` "
                "gets all of them"
            )
        size = int(header[2])
        found.append(data[end + 1 : end + 1 + size])
        at = end + 1 + size + 1
    return found


def disk_forms(root: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of some files that git has otherwise on disk than it stores them: path → on disk."""
    with _own_objects(root) as env:
        forms = {}
        for path in converted(root, list(files)):
            store = ("hash-object", "-w", "--no-filters", "--stdin")
            blob = run(*store, at=root, stdin=files[path], env=env).decode().strip()
            # Named from the tree's directory, or git would take it from the repository's.
            place = f"--path=./{path}"
            forms[path] = run("cat-file", "--filters", place, blob, at=root, env=env)
    return forms


@contextlib.contextmanager
def _own_objects(root: Path) -> Iterator[dict[str, str]]:
    """A store of objects that is thrown away, so that looking leaves nothing in the tree's."""
    there = os.fsdecode(run("rev-parse", "--git-path", "objects", at=root).rstrip(b"\n"))
    with tempfile.TemporaryDirectory() as scratch:
        yield {
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((root / there).resolve()),
        }
