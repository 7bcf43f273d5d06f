# SPDX-License-Identifier: Apache-2.0
"""A source in, a plan out: by the rules that are chosen, and from the cache where that has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from migrator.messages.errors import MigrateError

if TYPE_CHECKING:
    from migrator.codemod.rule import Rule
    from migrator.files.sources import Source
    from migrator.files.tree import Tree
    from migrator.planning.cache import Cache
    from migrator.planning.plan import Plan


def plan(
    source: Source | Tree | str | os.PathLike[str],
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    jobs: int | None = None,
    cache: Cache | bool = True,
    release: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Make the plan of a source: everything that a migration would do to it. Nothing is written.

    Args:
        source: what `open` gave, or what it takes.
        select: only these rules, by code, by the beginning of one, or by name; none: all.
        ignore: not these rules.
        jobs: processes to use; None: one for each processor.
        cache: take the plan of an earlier run if it holds, and keep this one.
        release: what to call a tree that does not say itself which release it is. A label only.
        progress: called with (files done, files in all) as it goes on.

    Raises:
        MigrateError: the source cannot be opened or is too old, or there is no such rule.
    """
    from migrator.api import sources
    from migrator.files.sources import Source
    from migrator.files.tree import DiskTree, Tree
    from migrator.planning.plan import make_plan

    if isinstance(source, Tree):
        tree = source
    else:
        if not isinstance(source, Source):
            source = sources.open(source, release=release, too_old=bool(select))
        tree, release = source.tree, source.release or release
    rules = choose_rules(select, ignore)
    if not select:
        sources.refuse_too_old(tree)
    kept = opened_cache(cache)

    def make(tree: Tree) -> Plan:
        return make_plan(tree, rules, jobs=jobs or processors(), progress=progress, results=kept)

    if kept is None or not isinstance(tree, DiskTree):
        return make(tree)
    return kept.planned(tree, selection(select, ignore, release), make)


def opened_cache(cache: Cache | bool) -> Cache | None:
    """The user's cache of plans, the one that is given, or none."""
    if isinstance(cache, bool):
        from migrator.planning.cache import Cache, cache_directory

        return Cache(cache_directory()) if cache else None
    return cache


def selection(select: Sequence[str], ignore: Sequence[str], release: str | None) -> list[str]:
    """What was said about the rules and the release, the same for what says the same."""
    chosen = {code.upper() for code in select}
    left = {code.upper() for code in ignore}
    return [*sorted(chosen), "-", *sorted(left), *([release] if release else [])]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_missing(plan: Plan) -> None:
    """Stop where a rule does not find what it should.

    Raises:
        MigrateError: naming each rule, where it looked and the nearest candidates.
    """
    if plan.missing:
        lines = [m.describe() for m in plan.missing]
        codes = ",".join(sorted({m.rule for m in plan.missing}))
        lines.append(f"nothing was written; to go on without: --ignore {codes}")
        raise MigrateError(*lines)


def choose_rules(select: Sequence[str], ignore: Sequence[str]) -> list[Rule]:
    """The rules that `--select` and `--ignore` leave, by code, by the beginning of one, or by name.

    Import rules come along with whatever is selected, unless they are ignored themselves.

    Raises:
        MigrateError: a code or name matches no rule.
    """
    from migrator.rules import all_rules

    rules = all_rules()
    codes = {rule.name: rule.code for rule in rules}

    def prefixes(texts: Sequence[str]) -> tuple[str, ...]:
        found = tuple(codes.get(text.lower(), text.upper()) for text in texts)
        for text, prefix in zip(texts, found, strict=True):
            if not any(rule.code.startswith(prefix) for rule in rules):
                raise no_rule(text)
        return found

    wanted, unwanted = prefixes(select) or ("",), prefixes(ignore)
    return [
        rule
        for rule in rules
        if (rule.code.startswith(wanted) or rule.provides is not None)
        and not (unwanted and rule.code.startswith(unwanted))
    ]


def no_rule(text: str) -> MigrateError:
    """The error of a code or name that no rule has."""
    from migrator.messages.wording import did_you_mean
    from migrator.rules import all_rules

    if text.upper().startswith("NPU"):
        # Of codes, the first digits tell which are related; NPU itself tells nothing.
        starts = (text.upper()[:length] for length in range(len(text), len("NPU"), -1))
        related = ([r.code for r in all_rules() if r.code.startswith(start)] for start in starts)
        found = next(filter(None, related), [])
        near = f"; did you mean {' or '.join(found[:3])}?" if found else ""
    else:
        near = did_you_mean(text, [rule.name for rule in all_rules()])
    return MigrateError(f"there is no rule {text}; `vllm-npu-migrate rules` lists them{near}")
