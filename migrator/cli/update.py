# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate update`: the next release, with what people changed by hand."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common, targets
from migrator.messages.errors import MigrateError, after_writing
from migrator.messages.escaping import terminal
from migrator.messages.wording import counted

if TYPE_CHECKING:
    from migrator.files.tree import DiskTree
    from migrator.reports.log import Log
    from migrator.update.base import Pristine
    from migrator.update.git import Repository
    from migrator.update.run import Update


@click.command("update")
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new_src")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory for the updated tree [default: NEW_SRC's name with -npu].",
)
@click.option("--in-place", is_flag=True, help="Change TREE itself; it wants a clean git checkout.")
@click.option(
    "--commit",
    is_flag=True,
    help="In place, on a branch of its own: one commit a rule, and one for what is by hand.",
)
@click.option(
    "--base",
    metavar="OLD_SRC",
    help="What TREE was made from [default: by git's history, or the recorded release].",
)
@click.option("--dry-run", is_flag=True, help="Say what would become of each file; write nothing.")
@click.option("--diff3", is_flag=True, help="Show the old release's lines in conflicts too.")
@click.option("--force", is_flag=True, help="Replace an edited output, or an unclean checkout.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What is printed on stdout beside the table on stderr.",
)
@common.planning_options
@common.command
def command(
    tree: Path,
    new_src: str,
    output: Path | None,
    in_place: bool,
    commit: bool,
    base: str | None,
    dry_run: bool,
    diff3: bool,
    force: bool,
    output_format: str,
    planning: common.Planning,
) -> None:
    """Bring the adapted tree TREE to the release NEW_SRC, and keep what was changed by hand.

    NEW_SRC is a checkout, an unpacked source archive, a release such as vllm==0.12.0, or a commit
    of the git repository that TREE is in, such as v0.12.0. Files that both sides changed are
    merged; what cannot be merged is left in the file between git's markers. Exit code 0: done; 1:
    there are conflicts, or sites for a person; 2: error, and nothing was written; 3: an error after
    something was: the message says what to do.
    """
    from migrator.files import writer
    from migrator.files.sources import open_source, requested_release
    from migrator.update import run
    from migrator.update.base import open_tree
    from migrator.update.git import Repository
    from migrator.update.report import print_report, render

    in_place = in_place or commit
    if output is not None and in_place:
        raise MigrateError("-o and --in-place exclude each other; give one of them")
    ours = open_source(str(tree)).tree
    repository = Repository.around(ours.root)
    if commit and repository is None:
        raise MigrateError(
            f"no git checkout has the files of {tree}, so there is nothing to commit to; "
            "commit them first, or leave --commit out"
        )
    if in_place and not dry_run:
        click.get_current_context().with_resource(writer.locked(ours.root))
        if writer.recover(ours.root):
            click.echo("Finished what an interrupted run had begun.", err=True)
    old = run.read_adapted(ours, repository)
    if in_place and not dry_run and (commit or not force):
        targets.refuse_unclean(ours.root, forcible=not commit)
    new = open_tree(new_src, repository)
    common.name_release(new.tree, planning, requested_release(new_src))
    target = ours.root if in_place else output or _default_output(new, new_src)
    update = _merge(ours, old, repository, new, base, planning, diff3=diff3)
    if not planning.quiet:
        print_report(common.stderr_console(), update, verbose=planning.verbose)
    if dry_run:
        said = ["Nothing was written."]
    elif in_place:
        said = _write_in_place(update, repository, target, commit=commit)
    else:
        said = _write(update, ours, target, force=force)
    if update.merge.conflicts and not dry_run:
        said.append(_what_next(update, in_git=repository is not None and in_place))
    telling = contextlib.nullcontext() if dry_run else after_writing("the tree is written")
    with telling:
        if output_format == "json":
            click.echo(render(update), nl=False)
        if not planning.quiet:
            for line in said:
                click.echo(terminal(line), err=True)
    left = update.merge.conflicts or update.plan.left_for_a_person
    sys.exit(common.PENDING if left else common.DONE)


def _merge(
    ours: DiskTree,
    old: Log,
    repository: Repository | None,
    new: Pristine,
    base: str | None,
    planning: common.Planning,
    *,
    diff3: bool,
) -> Update:
    from migrator.messages.wording import Tense
    from migrator.update import run
    from migrator.update.base import find_pristine, make_base
    from migrator.update.trees import Version

    known = common.settings(Path.cwd())
    pristine = find_pristine(ours.root, old, repository, base, new)
    made = make_base(
        pristine,
        old,
        Version(ours),
        repository,
        jobs=common.processes(planning, known),
        results=common.plan_cache(known),
    )
    plan = common.plan_for(new.tree, known, Tense.PAST, planning)
    common.refuse_missing(plan)
    sources = made.version.entries.keys() | {e.path for e in new.tree.entries()}
    disk = run.Disk(repository)
    hidden: set[str] = set()
    if repository is not None:
        hidden = repository.ignored() - sources
        hidden |= {entry.path for entry in ours.entries() if entry.foreign}
    mine = Version(ours, leave_out=hidden)
    for path, item in disk.sparse.items():
        mine.add(path, item)
    return run.plan_update(ours, mine, old, made, new, plan, disk, with_base=diff3)


def _default_output(new: Pristine, new_src: str) -> Path:
    from migrator.files.sources import open_source

    if Path(new_src).is_dir() or new.commit is None:
        return open_source(new_src).default_output
    return Path.cwd() / f"vllm-{new.tree.label.release or new.commit[:12]}-npu"


def _write(update: Update, ours: DiskTree, target: Path, *, force: bool) -> list[str]:
    from migrator.files import writer
    from migrator.files.tree import LOG_NAME

    there = targets.is_taken(target, ours.root, what="tree")
    if there and not force:
        raise MigrateError(f"{target} is there; choose another -o, or --force to replace it")
    if there and not (target / LOG_NAME).is_file():
        raise MigrateError(
            f"{target} is there and was not made by this tool; choose another -o or remove it"
        )
    writer.write_tree(ours, update.changes(), target, replace=target.exists())
    return [f"Updated tree: {target}", f"Log: {target / LOG_NAME}"]


def _write_in_place(
    update: Update, repository: Repository | None, root: Path, *, commit: bool
) -> list[str]:
    from migrator.files import writer
    from migrator.files.tree import LOG_NAME
    from migrator.update.run import commit_update, stage_conflicts

    if update.nothing_to_do:
        return [f"Nothing to do: {root} is made from {update.new.origin} already."]
    if commit:
        assert repository is not None
        return [f"Updated tree: {root}", f"Branch: {commit_update(update, repository, root)}"]
    changes = update.changes_in_place(committed=False)
    with writer.deferred_signals():
        writer.change_in_place(root, changes)
        if update.merge.conflicts and repository is not None:
            with after_writing("the files are written"):
                stage_conflicts(update, repository)
    return [f"Updated tree: {root}", f"Log: {root / LOG_NAME}"]


def _what_next(update: Update, *, in_git: bool) -> str:
    count = len(update.merge.conflicts)
    files = f"{counted(count, 'file')} {'is' if count == 1 else 'are'}"
    how = (
        "`git status` lists them, `git mergetool` helps; `git add` what is resolved"
        if in_git
        else "they are listed above, and in MIGRATION.md"
    )
    return f"{files} in conflict: {how}."
