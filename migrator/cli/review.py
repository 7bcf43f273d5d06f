# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate review`: the page for the reviewer."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common
from migrator.cli.output import write
from migrator.messages.errors import MigrateError, after_writing
from migrator.messages.escaping import terminal

if TYPE_CHECKING:
    from migrator.coverage import Survey
    from migrator.files.tree import DiskTree
    from migrator.review import Review
    from migrator.review.model import Coverage
    from migrator.verify.simulate.report import Report


@click.command("review")
@click.argument("src")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=Path("review.html"),
    show_default=True,
    help="The file to write; - for stdout.",
)
@click.option(
    "--base",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The source of an adapted tree [default: its release, fetched by name].",
)
@click.option(
    "--simulated",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `verify TREE --simulate --format json` printed, to be shown as well.",
)
@click.option(
    "--upstream",
    metavar="URL",
    help="Where the source is to be read, with {release}, {path}, {line} and {end}; '' for no "
    "links [default: the release's tag at vLLM's GitHub].",
)
@click.option(
    "--evidence/--no-evidence",
    "with_evidence",
    default=True,
    help="Show what verify and coverage found of this very code when they were run [default: on].",
)
@click.option(
    "--coverage",
    "with_coverage",
    is_flag=True,
    help="Show the code for other accelerators that no rule claims; it takes several times longer.",
)
@common.planning_options
@common.command
def command(
    src: str,
    output: Path,
    base: Path | None,
    simulated: Path | None,
    upstream: str | None,
    with_evidence: bool,
    with_coverage: bool,
    planning: common.Planning,
) -> None:
    """Write one page of HTML about the migration of SRC, for the person who has to trust it.

    SRC is an untouched tree or a release such as vllm==0.11.0: the page shows what would be done.
    Or it is an adapted tree: the page shows what was done, and what was edited by hand since.
    The page needs no network: it can be attached to a pull request. Exit code 0: done; 1: sites are
    left for a person; 2: error, and no page was written; 3: the page is, and a rule finds no site
    where it should.
    """
    from migrator.files.tree import LOG_NAME
    from migrator.review import evidence, render_page
    from migrator.review.model import UPSTREAM
    from migrator.verify.report import Report as Verified
    from migrator.verify.simulate.report import Report as Simulated

    runs = _runs(simulated)
    pattern = UPSTREAM if upstream is None else _checked_upstream(upstream)
    tree = _adapted(src)
    key: str | None
    if tree is None:
        if base is not None:
            raise MigrateError(
                f"--base goes with an adapted tree, and {src} has no {LOG_NAME}; leave --base out"
            )
        review, source, key = _planned(src, planning)
    else:
        if planning.select or planning.ignore:
            raise MigrateError(
                f"{src} is adapted, so its rules were chosen; leave --select and --ignore out"
            )
        review, source = _done(tree, base, planning)
        key = evidence.key_of_adapted(tree)
    release = review.label.release
    if runs is not None and release is not None and runs.release != release:
        raise MigrateError(
            f"{simulated} is of vLLM {runs.release}, not {release}; leave --simulated out"
        )
    review = replace(review, simulated=runs, upstream=pattern)
    if with_evidence and key is not None:
        review = replace(
            review,
            verified=evidence.kept(key, Verified),
            simulated=runs or evidence.kept(key, Simulated),
        )
    if with_coverage or with_evidence:
        review = replace(review, coverage=_coverage(source, planning, wanted=with_coverage))
    write(output, render_page(review).encode(), "-o")
    with after_writing("the page is written"):
        if not planning.quiet and str(output) != "-":
            click.echo(terminal(f"Review: {output}"), err=True)
        for missing in review.missing:
            click.echo(terminal(f"Error: {missing.describe()}"), err=True)
    if review.missing:
        sys.exit(common.UNFINISHED)
    sys.exit(common.PENDING if review.waiting or review.conflicts else common.DONE)


def _adapted(src: str) -> DiskTree | None:
    """The tree that `src` names, if it has a log."""
    from migrator.files.tree import LOG_NAME, DiskTree

    tree = DiskTree(Path(src))
    return tree if Path(src).is_dir() and tree.exists(LOG_NAME) else None


def _planned(src: str, planning: common.Planning) -> tuple[Review, DiskTree, str]:
    from migrator.messages.wording import Tense
    from migrator.review import evidence, review_plan

    known = common.settings(Path.cwd())
    source = common.opened(src, known, planning)
    plan = common.plan_for(source.tree, known, Tense.WOULD, planning)
    return review_plan(plan, source.tree), source.tree, evidence.key_of_plan(plan)


def _done(tree: DiskTree, base: Path | None, planning: common.Planning) -> tuple[Review, DiskTree]:
    from migrator.files.sources import fetch
    from migrator.files.tree import LOG_NAME, DiskTree
    from migrator.reports.log import read_log
    from migrator.review import review_tree

    if base is None:
        log = read_log(tree.read(LOG_NAME) or b"")
        release = planning.release or log.release
        if release is None:
            raise MigrateError(
                f"{tree.root} was made from {log.label}, so there is nothing to fetch by name; "
                "name its source by --base, or its release by --release"
            )
        base = fetch(release)
    source = DiskTree(base)
    return review_tree(tree, source), source


def coverage_of(found: Survey) -> Coverage:
    """What the page shows of the code for other accelerators that no rule claims."""
    from migrator.coverage import Grade
    from migrator.review.model import Coverage, Unclaimed

    kinds = tuple(
        (kind.value, (*(counts[grade] for grade in Grade), found.claimed.get(kind, 0)))
        for kind, counts in found.counts().items()
    )
    items = [item for item in found.items if item.grade is Grade.REACHABLE]
    reachable = tuple(
        Unclaimed(
            path=item.path,
            line=item.line,
            function=item.function,
            kind=item.kind.value,
            source=item.source,
            effort=item.effort.value,
            why=f"{item.reason}; {item.effort_why}",
        )
        for item in items
    )
    return Coverage(kinds, reachable)


def _coverage(source: DiskTree, planning: common.Planning, *, wanted: bool) -> Coverage | None:
    """What no rule claims in a source: found now where it is wanted, else what is kept."""
    from migrator.review import evidence
    from migrator.review.model import Coverage

    key = evidence.key_of_source(source)
    known = evidence.kept(key, Coverage)
    if known is not None or not wanted:
        return known
    from migrator.coverage import survey

    jobs = common.processes(planning, common.settings(Path.cwd()))
    found = coverage_of(survey(source, jobs=jobs))
    evidence.keep(key, found)
    return found


def _checked_upstream(pattern: str) -> str | None:
    """A pattern of addresses that links can be made of."""
    if not pattern:
        return None
    unknown = set(re.findall(r"\{(\w*)\}", pattern)) - {"release", "path", "line", "end"}
    if unknown or "{path}" not in pattern:
        raise MigrateError(
            f"--upstream takes {{release}}, {{path}}, {{line}} and {{end}}, and {{path}} has to be "
            f"there; {pattern} has not"
        )
    if not pattern.startswith(("https://", "http://")):
        raise MigrateError(f"--upstream has to begin with https:// or http://; {pattern} does not")
    return pattern


def _runs(path: Path | None) -> Report | None:
    """The outcome of simulated runs that a file holds."""
    if path is None:
        return None
    import msgspec

    from migrator.verify.simulate.report import SCHEMA_VERSION, Report

    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (msgspec.MsgspecError, OSError) as error:
        raise MigrateError(
            f"{path} is not what `verify TREE --simulate --format json` prints: {error}"
        ) from error
    if report.schema_version != SCHEMA_VERSION:
        raise MigrateError(
            f"{path} has schema {report.schema_version}, not {SCHEMA_VERSION}; let `verify TREE "
            "--simulate --format json` write it anew"
        )
    return report
