# SPDX-License-Identifier: Apache-2.0
"""Git as a program: nothing of a tree is run, and its tags and its files on disk are understood."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrator.files import git as program
from migrator.files.sources import open_source
from migrator.files.tree import Label
from migrator.messages.errors import MigrateError
from tests.conftest import RunCli
from tests.trees import SELECT, commit_all, copy_mini, git, git_environment, snapshot

READING = (("check",), ("diff",), ("coverage",), ("review", "-o", "page.html"))
WRITING = (("apply", "--in-place"), ("apply", "--commit"))


def checkout(root: Path) -> Path:
    """The small tree in a checkout of its own that only a tag gives a release."""
    copy_mini(root)
    (root / "PKG-INFO").unlink()
    commit_all(root)
    git(root, "tag", "v0.11.0")
    return root


def trap(root: Path, marker: Path) -> str:
    """A program in the tree's own `.git` that leaves a trace."""
    place = root / ".git/trap"
    place.write_text(f"#!/bin/sh\necho run >> '{marker}'\ncat\n", encoding="utf-8")
    place.chmod(0o755)
    return str(place)


def _monitor(root: Path, program: str) -> None:
    git(root, "config", "core.fsmonitor", program)


def _hooks(root: Path, program: str) -> None:
    for name in ("post-index-change", "reference-transaction", "post-checkout", "pre-commit"):
        place = root / ".git/hooks" / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(Path(program).read_bytes())
        place.chmod(0o755)


def _filters(root: Path, program: str) -> None:
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("*.py filter=evil\n", encoding="utf-8")
    for key in ("clean", "smudge"):
        git(root, "config", f"filter.evil.{key}", program)
    git(root, "config", "filter.evil.required", "true")
    # Git asks the filter about a file that looks changed.
    os.utime(root / "vllm/_custom_ops.py", (1, 1))


def _included(root: Path, program: str) -> None:
    more = root / ".git/more"
    more.write_text(f'[filter "evil"]\n\tclean = {program}\n\tprocess = {program}\n', "utf-8")
    git(root, "config", "include.path", str(more))
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("*.py filter=evil\n", encoding="utf-8")
    os.utime(root / "vllm/_custom_ops.py", (1, 1))


def _signatures(root: Path, program: str) -> None:
    git(root, "config", "log.showSignature", "true")
    git(root, "config", "gpg.program", program)
    git(root, "config", "commit.gpgSign", "true")


def _others(root: Path, program: str) -> None:
    git(root, "config", "core.pager", program)
    git(root, "config", "pager.log", program)
    git(root, "config", "diff.external", program)
    git(root, "config", "core.editor", program)
    git(root, "config", "alias.status", f"!{program}")


def _lazy_fetch(root: Path, program: str) -> None:
    (root / ".git/info").mkdir(exist_ok=True)
    git(root, "commit", "-q", "--allow-empty", "-m", "next")
    head = git(root, "rev-parse", "HEAD").strip()
    git(root, "config", "core.repositoryformatversion", "1")
    git(root, "config", "extensions.partialClone", "origin")
    git(root, "config", "remote.origin.promisor", "true")
    git(root, "config", "remote.origin.url", "ssh://x/y")
    git(root, "config", "core.sshCommand", program)
    (root / ".git/objects" / head[:2] / head[2:]).unlink()


TRAPS = (_monitor, _hooks, _filters, _included, _signatures, _others, _lazy_fetch)


@pytest.mark.usefixtures("kept_results")
@pytest.mark.parametrize("set_up", TRAPS, ids=lambda function: function.__name__.strip("_"))
def test_no_command_runs_a_program_that_the_tree_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli, set_up: object
) -> None:
    assert callable(set_up)
    monkeypatch.chdir(tmp_path)
    root, marker = checkout(tmp_path / "mini"), tmp_path / "trace"
    set_up(root, trap(root, marker))
    marker.unlink(missing_ok=True)
    for command, *options in (*READING, *WRITING):
        run_cli(command, root, *options, "--select", SELECT, "-q", env=git_environment())
        assert not marker.exists(), command


def test_the_trap_would_catch(tmp_path: Path) -> None:
    """What the test above relies on: git itself runs these programs."""
    root, marker = checkout(tmp_path / "mini"), tmp_path / "trace"
    for set_up in (_monitor, _filters):
        set_up(root, trap(root, marker))
        git(root, "status", "--porcelain")
        assert marker.exists()
        marker.unlink()


def test_a_filter_of_the_user_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As git-lfs is set up; a tree that gives the name another program gets the user's."""
    root, marker = checkout(tmp_path / "mini"), tmp_path / "trace"
    (root / ".gitattributes").write_text("*.txt filter=upper\n", encoding="utf-8")
    (root / "a.txt").write_bytes(b"Abc\n")
    users = tmp_path / "gitconfig"
    users.write_text(
        '[filter "upper"]\n\tclean = tr A-Z a-z\n\tsmudge = tr a-z A-Z\n', encoding="utf-8"
    )
    for name, value in {**git_environment(), "GIT_CONFIG_GLOBAL": str(users)}.items():
        monkeypatch.setenv(name, value)
    git(root, "config", "filter.upper.clean", trap(root, marker))
    assert program.disk_forms(root, {"b.txt": b"xyz\n"}) == {"b.txt": b"XYZ\n"}
    git(root, "add", "-A")
    marker.unlink()
    (root / "a.txt").write_bytes(b"ABC\nD\n")
    assert program.stored_forms(root)["a.txt"] == b"abc\nd\n"
    assert not marker.exists()


def test_another_repository_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook of another repository that runs this tool."""
    root, other = checkout(tmp_path / "mini"), checkout(tmp_path / "other")
    git(other, "tag", "v0.12.0")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert program.names_of(root) == ("v0.11.0", None)


# ---- releases ------------------------------------------------------------------------------


def tagged(root: Path, *tags: str) -> Path:
    """A checkout with tags at just its commit."""
    root.mkdir()
    (root / "a").write_bytes(b"")
    commit_all(root)
    for tag in tags:
        git(root, "tag", tag)
    return root


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        ((), (None, None)),
        (("v0.11.0",), ("v0.11.0", None)),
        (("v0.11.0", "v0.11.0-acme.3"), ("v0.11.0", None)),
        (("v0.11.0", "v2.3.0"), ("v0.11.0", None)),
        (("v0.11.0", "v0.11.0+acme.1", "v0.11.1.dev3"), ("v0.11.0", None)),
        (("v0.9.0", "v0.10.2"), ("v0.10.2", None)),
        (("v0.11.0rc2",), ("v0.11.0rc2", None)),
        (("v0.11.0rc2", "v0.11.0"), ("v0.11.0", None)),
        (("v0.11.0.post1", "v0.11.0"), ("v0.11.0.post1", None)),
        (("v0.11.0-acme.3",), (None, "v0.11.0-acme.3")),
        (("v2.3.0",), (None, "v2.3.0")),
        (("v0.11.0+acme.1",), (None, "v0.11.0+acme.1")),
        (("acme-1", "proto-v0.3.0", "nightly", "v-next", "vllm"), (None, None)),
    ],
)
def test_release_of_a_commit(
    tmp_path: Path, tags: tuple[str, ...], names: tuple[str | None, str | None]
) -> None:
    """Only a tag of vLLM's at just that commit is a release."""
    root = tagged(tmp_path / "mini", *tags)
    assert program.names_of(root) == names
    if tags:
        git(root, "commit", "-q", "--allow-empty", "-m", "more")
        release, near = program.names_of(root)
        assert release is None, "rounded"
        if names[0] is not None:
            assert near is not None
            assert near.partition("-1-g")[0] == names[0].removeprefix("v")
        elif names[1] is not None:
            assert near is not None
            assert near.partition("-1-g")[0] == names[1]
        else:
            assert near is None


@pytest.mark.parametrize("releases", [("v0.11.0",), ("v0.10.0", "v0.11.0")])
@pytest.mark.parametrize(
    ("more", "own"), [(0, "v2.3.0"), (0, "v0.11.0-acme.3"), (2, "v0.11.0-acme.3")]
)
def test_a_forks_own_tag_hides_no_release_behind_it(
    tmp_path: Path, more: int, own: str, releases: tuple[str, ...]
) -> None:
    """It is no release, and where the fork left vLLM's is said beside it."""
    root = tagged(tmp_path / "mini", *releases)
    git(root, "commit", "-q", "--allow-empty", "-m", "ours")
    git(root, "tag", own)
    for _ in range(more):
        git(root, "commit", "-q", "--allow-empty", "-m", "more")
    commit = git(root, "rev-parse", "--short=10", "HEAD").strip()
    near = f"{own}-{more}-g{commit}" if more else own
    assert program.names_of(root) == (None, f"0.11.0-{more + 1}-g{commit} ({near})")


def test_a_tag_at_a_distance_is_kept_as_text(tmp_path: Path) -> None:
    root = checkout(tmp_path / "mini")
    assert open_source(str(root)).tree.label == Label("0.11.0")
    for _ in range(3):
        git(root, "commit", "-q", "--allow-empty", "-m", "more")
    claim = f"0.11.0-3-g{git(root, 'rev-parse', '--short=10', 'HEAD').strip()}"
    assert open_source(str(root)).tree.label == Label(claim=claim)
    # A build of an earlier day says less than git does.
    (root / "vllm/_version.py").write_text("__version__ = '0.11.0'\n", "utf-8")
    assert open_source(str(root)).tree.label == Label(claim=claim)


@pytest.mark.parametrize("version", ["0.1.dev7557+g977180c", "0.3.1.dev35+gfe284ea17"])
def test_a_development_version_is_no_release(tmp_path: Path, version: str) -> None:
    root = checkout(tmp_path / "mini")
    (root / "vllm/_version.py").write_text(f"__version__ = version = '{version}'\n", "utf-8")
    assert open_source(str(root)).tree.label == Label("0.11.0"), "by the tag"
    git(root, "tag", "-d", "v0.11.0")
    assert open_source(str(root)).tree.label == Label(claim=version)


def test_git_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MigrateError, match="install it, or put it on PATH"):
        program.run("status", at=tmp_path)


# ---- what is on disk -----------------------------------------------------------------------


def windows(root: Path) -> Path:
    """A checkout as git makes it with `core.autocrlf`, and keywords in one file."""
    checkout(root)
    (root / ".gitattributes").write_text("vllm/v1/guards.py ident\n", encoding="utf-8")
    guards = root / "vllm/v1/guards.py"
    guards.write_bytes(b"# $Id$\n" + guards.read_bytes())
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "keywords")
    git(root, "config", "core.autocrlf", "true")
    for path in snapshot(root):
        (root / path).unlink()
    git(root, "checkout", "-q", "--", ".")
    assert b"$Id: " in guards.read_bytes()
    assert b"\r\n" in guards.read_bytes()
    return root


def test_a_tree_is_read_as_git_has_it(tmp_path: Path) -> None:
    root = windows(tmp_path / "mini")
    tree = open_source(str(root)).tree
    for path in ("vllm/v1/guards.py", "vllm/_custom_ops.py"):
        assert tree.read(path) == git(root, "show", f"HEAD:{path}").encode()
    edited = root / "vllm/_custom_ops.py"
    edited.write_bytes(edited.read_bytes() + b"MINE = 1\r\n")
    there = open_source(str(root)).tree.read("vllm/_custom_ops.py")
    assert there is not None
    assert there.endswith(b"\nMINE = 1\n")
    assert b"\r" not in there
    below = open_source(str(root)).tree
    assert below.read("missing.py") is None


def test_a_tree_in_git_form_is_changed_in_the_form_of_the_disk(
    tmp_path: Path, run_cli: RunCli
) -> None:
    plain, root = checkout(tmp_path / "plain"), windows(tmp_path / "mini")
    for tree in (plain, root):
        done = run_cli("apply", tree, "--in-place", "--select", SELECT, env=git_environment())
        assert done.code == 0, done.err
    changed = git(root, "diff", "--name-only").split()
    assert len(changed) > 3
    for path in changed:
        data = (root / path).read_bytes()
        assert data.count(b"\r\n") == data.count(b"\n")
        if path != "vllm/v1/guards.py":
            assert data.replace(b"\r\n", b"\n") == (plain / path).read_bytes()
    again = run_cli("check", root, "--select", SELECT, env=git_environment())
    assert again.code == 0, again.err


def test_where_a_linked_work_tree_belongs_is_no_part_of_it(tmp_path: Path, run_cli: RunCli) -> None:
    """Its `.git` is a file: neither copied to a new tree nor merged with that of another."""
    root = checkout(tmp_path / "root")
    linked = tmp_path / "linked"
    git(root, "worktree", "add", "-q", "--detach", str(linked))
    assert run_cli("apply", linked, "-q", "-o", tmp_path / "out", "--select", SELECT).code == 0
    assert not (tmp_path / "out/.git").exists()
    where = (linked / ".git").read_bytes()
    assert run_cli("apply", linked, "-q", "--in-place", "--select", SELECT).code == 0
    git(linked, "add", "-A")
    git(linked, "commit", "-q", "-m", "adapted")
    newer = tmp_path / "newer"
    git(root, "worktree", "add", "-q", "--detach", str(newer))
    update = ("update", linked, newer, "--base", root, "-q", "--in-place", "--select", SELECT)
    assert run_cli(*update).code == 0
    assert (linked / ".git").read_bytes() == where
    assert git(linked, "status", "--porcelain") == ""
