# SPDX-License-Identifier: Apache-2.0
"""The git checkout around a tree: what it has at a commit, and commits that are made without
touching the files on disk.

Git decides what the tree is: what its index has is there, whether or not it is on disk (a sparse
checkout), a submodule is a commit and no files, and contents are those that git would store,
whatever line endings or keywords they have on disk. Nothing is ever fetched or pushed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.files import git, sources
from migrator.files.tree import DiskTree, Entry, Tree
from migrator.messages.errors import MigrateError, after_writing
from migrator.updating.trees import Item

FILE, EXECUTABLE, LINK, SUBMODULE = "100644", "100755", "120000", "160000"
"""Modes of git's index."""
LIMIT = 2000
"""Commits of a branch that are looked through for the one that a tree was made from."""


class NoCheckoutError(MigrateError):
    """A directory is in no git checkout."""


class GitTree(Tree):
    """The files of a commit, below the directory that the tree has in its repository.

    Args:
        items: path → what is there.
        name: what messages call it.
        commit: the commit's full name.
    """

    def __init__(self, items: Mapping[str, Item], name: str, commit: str) -> None:
        super().__init__({p: i.data for p, i in items.items() if not i.link}, name)
        self.commit = commit
        self._items = dict(items)

    def entries(self) -> Iterator[Entry]:
        """Every file and link, sorted by path; submodules are left out."""
        for path in sorted(self._items):
            item = self._items[path]
            link = os.fsdecode(item.data) if item.link else None
            yield Entry(path, item.mode, link)


@dataclass(frozen=True, slots=True)
class Node:
    """A file of a commit: its mode and the name of its content."""

    mode: str
    blob: str


class Repository:
    """A git checkout, seen from one directory in it.

    Args:
        root: the tree: the checkout itself or a directory in it.

    Raises:
        NoCheckoutError: it is in no checkout.
        MigrateError: git refuses it, as it does what another user owns, or there is no git.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            inside = self._run("rev-parse", "--is-inside-work-tree")
        except git.GitError as error:
            if "not a git repository" not in error.said:
                raise MigrateError(_complaint(error.said)) from error
            inside = b""
        if inside.strip() != b"true":
            raise NoCheckoutError(f"{root} is in no git checkout; name a directory of one")
        self.prefix = os.fsdecode(self._run("rev-parse", "--show-prefix").rstrip(b"\n"))
        """Path of the tree in its repository; empty, or ending in `/`."""
        self._nothing = b"0" * (64 if b"sha256" in self._object_format() else 40)

    def _object_format(self) -> bytes:
        return self._try("rev-parse", "--show-object-format") or b"sha1"

    @classmethod
    def around(cls, root: Path) -> Repository | None:
        """The checkout that has a directory's files; None where there is none.

        A tree that merely lies in a checkout, which does not track it, is none of git's.
        """
        try:
            found = cls(root)
        except NoCheckoutError:
            return None
        return found if found.tracks() else None

    # ---- running git -----------------------------------------------------------------------

    def _run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        at: Path | None = None,
    ) -> bytes:
        """Run git; its first line of complaint becomes the error."""
        return git.run(*arguments, at=at or self.root, stdin=stdin, env=env)

    def _try(self, *arguments: str) -> bytes | None:
        try:
            return self._run(*arguments)
        except MigrateError:
            return None

    def _text(self, *arguments: str, stdin: bytes = b"") -> str:
        return os.fsdecode(self._run(*arguments, stdin=stdin)).strip()

    # ---- looking ---------------------------------------------------------------------------

    def commit(self, name: str) -> str | None:
        """The full name of the commit that `name` stands for; None where there is none."""
        if name.startswith("-"):
            return None
        found = self._try("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return None if found is None else os.fsdecode(found).strip()

    def short(self, commit: str) -> str:
        """The short name of a commit."""
        return self._text("rev-parse", "--short", commit)

    def branch(self) -> str | None:
        """The branch that is checked out; None where HEAD is detached."""
        found = self._try("symbolic-ref", "--quiet", "--short", "HEAD")
        return None if found is None else os.fsdecode(found).strip()

    def tracks(self) -> bool:
        """Does the checkout have any file of the tree?"""
        return bool(self._run("ls-files", "-z", "--", "."))

    def changed(self) -> bool:
        """Is anything below the tree not committed?"""
        # Git would look into a submodule under that one's own configuration.
        looking = ("status", "--porcelain", "--ignore-submodules=dirty", "--", ".")
        return bool(self._run(*looking, env={"GIT_OPTIONAL_LOCKS": "0"}).strip())

    def staged(self) -> bool:
        """Does the index differ from HEAD, anywhere in the repository?"""
        looking = ("diff", "--cached", "--name-only", "--no-ext-diff", "-z")
        return bool(self._run(*looking))

    def unmerged(self) -> list[str]:
        """Paths below the tree that are in conflict in the index."""
        listing = self._run("ls-files", "-u", "-z", "--", ".")
        return sorted({_path(line) for line in listing.split(b"\0") if line})

    def ignored(self) -> set[str]:
        """Files below the tree that git is told to ignore and does not track."""
        listing = self._run("ls-files", "-o", "-i", "-z", "--exclude-standard", "--", ".")
        return {os.fsdecode(path) for path in listing.split(b"\0") if path}

    def nodes(self, commit: str, paths: Sequence[str] = ()) -> dict[str, Node]:
        """Files and links of a commit below the tree: path → what is there."""
        listing = self._run("ls-tree", "-r", "-z", commit, "--", *(paths or ["."]))
        found = {}
        for line in listing.split(b"\0"):
            if not line:
                continue
            mode, kind, blob = line.partition(b"\t")[0].decode().split()
            if kind == "blob":
                found[_path(line)] = Node(mode, blob)
        return found

    def submodules(self, commit: str) -> dict[str, str]:
        """Submodules of a commit below the tree: path → the commit that each is at."""
        listing = self._run("ls-tree", "-r", "-z", commit, "--", ".")
        found = {}
        for line in listing.split(b"\0"):
            mode, _, name = line.partition(b"\t")[0].decode().partition(" ")
            if mode == SUBMODULE:
                found[_path(line)] = name.removeprefix("commit ").strip()
        return found

    def sparse(self) -> dict[str, Item]:
        """Files below the tree that a sparse checkout leaves out of the disk: path → in the index.

        A path that is on disk all the same counts as it is there.
        """
        listing = self._run("ls-files", "-t", "-s", "-z", "--", ".")
        nodes = {}
        for line in listing.split(b"\0"):
            if not line.startswith(b"S "):
                continue
            _, mode, blob, _ = line.partition(b"\t")[0].decode().split()
            path = _path(line)
            if mode in (FILE, EXECUTABLE, LINK) and not os.path.lexists(self.root / path):
                nodes[path] = Node(mode, blob)
        data = self.blobs(node.blob for node in nodes.values())
        return {path: _item(node, data[node.blob]) for path, node in nodes.items()}

    def outside(self, paths: Iterable[str]) -> set[str]:
        """Those of some paths that a sparse checkout would leave out of the disk."""
        names = b"".join(os.fsencode(self.prefix + path) + b"\0" for path in paths)
        try:
            kept = self._run("sparse-checkout", "check-rules", "-z", stdin=names)
        except MigrateError:
            return set()  # an older git cannot tell
        known = {os.fsdecode(name).removeprefix(self.prefix) for name in kept.split(b"\0")}
        return set(paths) - known

    def blobs(self, names: Iterable[str]) -> dict[str, bytes]:
        """Contents by their names."""
        wanted = sorted(set(names))
        return dict(zip(wanted, git.contents(self.root, wanted), strict=True))

    def tree(self, commit: str, name: str) -> GitTree:
        """The files of a commit, below the tree's directory."""
        nodes = self.nodes(commit)
        data = self.blobs(node.blob for node in nodes.values())
        items = {path: _item(node, data[node.blob]) for path, node in nodes.items()}
        tree = GitTree(items, name, commit)
        if tree.label.release is None:
            tree.label = sources.committed_label(tree, self.root, commit)
        return tree

    def ancestors(self, commit: str, limit: int = LIMIT) -> list[str]:
        """A commit and its first parents, newest first."""
        listing = self._text("rev-list", "--first-parent", f"--max-count={limit}", commit)
        return listing.split()

    def added(self, path: str) -> str | None:
        """The newest commit behind HEAD that added a file."""
        wanted = ("--diff-filter=A", "--format=%H", "--max-count=1", "HEAD", "--", path)
        return os.fsdecode(self._try("log", *wanted) or b"").strip() or None

    def history(self, path: str, limit: int = 200) -> list[str]:
        """Names of the contents that a file had in the commits behind HEAD, newest first."""
        listing = self._run(
            "log",
            "-z",
            "--raw",
            "--no-abbrev",
            "--no-renames",
            "--format=",
            f"--max-count={limit}",
            "HEAD",
            "--",
            path,
        )
        blobs: dict[str, None] = {}
        for part in listing.split(b"\0"):
            if part.startswith(b":"):
                _, new_mode, _, new, _ = part.decode().split(" ", 4)
                if new_mode in (FILE, EXECUTABLE):
                    blobs[new] = None
        return list(blobs)

    def subjects(self, old: str, new: str) -> list[str]:
        """The commits of `new` that are not in `old`, oldest first, one line each."""
        listing = self._text("log", "--reverse", "--format=%h %an: %s", f"{old}..{new}", "--", ".")
        return listing.splitlines()

    # ---- committing ------------------------------------------------------------------------

    def branch_exists(self, name: str) -> bool:
        """Is there a branch of this name?"""
        return self._try("rev-parse", "--verify", "--quiet", f"refs/heads/{name}") is not None

    def check_identity(self) -> None:
        """See that git knows whom to name as author and committer.

        Raises:
            MigrateError: it does not.
        """
        for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
            if self._try("var", who) is None:
                raise MigrateError(
                    "git does not know whom to name as author; set user.name and user.email"
                )

    def store(self, path: str, item: Item) -> Node:
        """Put a content into the repository, as `git add` would take it from the file."""
        if item.link:
            return Node(LINK, self._text("hash-object", "-w", "--stdin", stdin=item.data))
        place = f"--path={path}"
        blob = self._text("hash-object", "-w", place, "--stdin", stdin=item.data)
        return Node(EXECUTABLE if item.executable else FILE, blob)

    def write_tree(self, start: str, changes: Mapping[str, Node | None]) -> str:
        """The tree of a commit with some files changed or, with None, taken away.

        Args:
            start: the commit or tree to start from.
            changes: path → what is to be there.
        """
        with self._index() as env:
            self._run("read-tree", start, env=env)
            self._run("update-index", "-z", "--index-info", stdin=self._info(changes), env=env)
            return os.fsdecode(self._run("write-tree", env=env)).strip()

    def import_tree(self, source: Tree) -> str:
        """The tree of a source, put into the repository; a directory is read by git itself."""
        if isinstance(source, GitTree):
            return self._text("rev-parse", f"{source.commit}:{self.prefix}")
        assert isinstance(source, DiskTree)
        directory = self._text("rev-parse", "--absolute-git-dir")
        with self._index() as env:
            there = ("--git-dir", directory, "--work-tree", str(source.root.resolve()))
            self._run(*there, "add", "--all", "--force", ".", env=env, at=source.root)
            return os.fsdecode(self._run("write-tree", env=env)).strip()

    def replace_tree(self, start: str, tree: str) -> str:
        """The tree of a commit with everything below the tree's directory replaced."""
        if not self.prefix:
            return tree
        with self._index() as env:
            self._run("read-tree", start, env=env)
            # Not by `git rm`, which leaves what a sparse checkout leaves out.
            there = self._run("ls-files", "-z", "--", ".", env=env).split(b"\0")
            gone = self._info({os.fsdecode(name): None for name in there if name})
            self._run("update-index", "-z", "--index-info", stdin=gone, env=env)
            self._run("read-tree", f"--prefix={self.prefix}", tree, env=env)
            return os.fsdecode(self._run("write-tree", env=env)).strip()

    @contextlib.contextmanager
    def _index(self) -> Iterator[Mapping[str, str]]:
        """An index of its own, so that the checkout's stays as it is."""
        with tempfile.TemporaryDirectory() as scratch:
            yield {"GIT_INDEX_FILE": str(Path(scratch) / "index")}

    def _info(self, changes: Mapping[str, Node | None]) -> bytes:
        lines = []
        for path, node in sorted(changes.items(), key=lambda change: change[1] is not None):
            name = os.fsencode(self.prefix + path)
            if node is None:
                lines.append(b"0 " + self._nothing + b"\t" + name)
            else:
                lines.append(f"{node.mode} {node.blob}\t".encode() + name)
        return b"".join(line + b"\0" for line in lines)

    def commit_tree(self, tree: str, parents: Sequence[str], message: str) -> str:
        """Make a commit; no branch is moved."""
        options = [option for parent in parents for option in ("-p", parent)]
        return self._text("commit-tree", tree, *options, "-F", "-", stdin=os.fsencode(message))

    @contextlib.contextmanager
    def new_branch(self, name: str, commit: str) -> Iterator[None]:
        """Let a new branch be what is checked out, and the index as its commit.

        The block changes the files on disk. Whatever can refuse the branch does so before it; where
        the block fails, there is no branch.

        Raises:
            MigrateError: there can be no branch of this name, or another git is at work.
        """
        for lock in ("index.lock", "HEAD.lock"):
            place = os.fsdecode(self._run("rev-parse", "--git-path", lock).rstrip(b"\n"))
            if os.path.lexists(self.root / place):
                raise MigrateError(
                    f"another git is at work: {place} is there; wait for it, or remove the file"
                )
        sparse = self.sparse()
        reference = f"refs/heads/{name}"
        self._run("update-ref", reference, commit, "")
        try:
            yield
        except BaseException:
            self._try("update-ref", "-d", reference, commit)
            raise
        with after_writing(f"the files are written, and the branch {name} is made"):
            self._run("symbolic-ref", "HEAD", reference)
            self._run("read-tree", commit)
            self._leave_out(sparse)
        self._try("update-index", "-q", "--refresh")

    def _leave_out(self, sparse: Iterable[str]) -> None:
        """Say again, after the index was replaced, which files are not to be on disk."""
        if not sparse:
            return
        there = self._run("ls-files", "-z", "--full-name", "--", ".").split(b"\0")
        paths = [os.fsdecode(name).removeprefix(self.prefix) for name in there if name]
        absent = {path for path in paths if not os.path.lexists(self.root / path)}
        named = b"".join(
            os.fsencode(path) + b"\0" for path in absent & {*sparse, *self.outside(absent)}
        )
        self._run("update-index", "--skip-worktree", "-z", "--stdin", stdin=named)

    def stage(self, changes: Mapping[str, Node | None]) -> None:
        """Put contents into the index; None takes a path out of it."""
        self._run("update-index", "-z", "--index-info", stdin=self._info(changes))
        self._try("update-index", "-q", "--refresh")

    def stage_conflicts(self, conflicts: Mapping[str, Sequence[Node | None]]) -> None:
        """Put conflicts into the index: path → base, ours and theirs.

        `git status` shows the paths as unmerged then, and `git mergetool` works on them.
        """
        lines = []
        for path, stages in conflicts.items():
            name = os.fsencode(self.prefix + path)
            lines.append(b"0 " + self._nothing + b"\t" + name)
            lines += [
                f"{node.mode} {node.blob} {number}\t".encode() + name
                for number, node in enumerate(stages, start=1)
                if node is not None
            ]
        self._run(
            "update-index", "-z", "--index-info", stdin=b"".join(line + b"\0" for line in lines)
        )

    def prepare_message(self, text: str) -> None:
        """Leave a message that the next `git commit` proposes."""
        place = os.fsdecode(self._run("rev-parse", "--git-path", "MERGE_MSG").rstrip(b"\n"))
        (self.root / place).write_bytes(os.fsencode(text))


def _item(node: Node, data: bytes) -> Item:
    mode = 0o777 if node.mode == LINK else 0o755 if node.mode == EXECUTABLE else 0o644
    return Item(data, mode, node.mode == LINK)


def _complaint(said: str) -> str:
    """What git complains of in one line, with the command that it proposes."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = lines[0].removeprefix("fatal: ") if lines else "git refuses it"
    how = next((line for line in lines if line.startswith("git config")), None)
    return f"git: {first}" + (f"; `{how}` tells git that it may be trusted" if how else "")


def _path(line: bytes) -> str:
    return os.fsdecode(line.partition(b"\t")[2])
