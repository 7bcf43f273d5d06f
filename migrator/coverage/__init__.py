# SPDX-License-Identifier: Apache-2.0
"""The accelerator-specific surface of a tree that no rule claims.

Every place is listed with its file, line and function, with whether an NPU comes to it, and with
how much work it is. What a rule changes, knows to be changed, or leaves alone for a reason is
claimed: it is counted and not listed.
"""

from __future__ import annotations

import enum
import gc
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from operator import itemgetter

from migrator.codemod.engine import Record
from migrator.codemod.rule import Rule, Status
from migrator.coverage.effort import Effort, judge
from migrator.coverage.reach import REGISTRY, Reach, reach
from migrator.coverage.surface import NAMESPACE, Facts, Kind, Site, read
from migrator.files.tree import VLLM, Tree
from migrator.planning import workers
from migrator.planning.plan import Plan, make_plan
from migrator.reports.log import with_earlier

LONG = 30
"""A record of more lines is one of a whole definition or table, and claims not all in it."""


class Grade(enum.Enum):
    """Whether an NPU comes to a site, as far as the source tells."""

    REACHABLE = "reachable"
    GUARDED = "guarded"
    """The function is called, but the site lies behind a condition that is false on an NPU."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Item:
    """A site that no rule claims."""

    kind: Kind
    path: str
    line: int
    end_line: int
    function: str
    source: str
    grade: Grade
    reason: str
    """Why it has its grade."""
    effort: Effort
    effort_why: str
    via: tuple[str, ...] = ()
    """How an NPU comes there: callers as `path function`, the nearest first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A site that rules claim."""

    kind: Kind
    path: str
    line: int
    function: str
    source: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The surface of one tree."""

    name: str
    release: str | None
    items: tuple[Item, ...]
    """By path and line."""
    claimed: Mapping[Kind, int]
    by_rule: Mapping[str, int]
    """Rule → sites that it claims."""
    failures: tuple[tuple[str, str], ...]
    """Files that do not parse, and why."""
    modules: int
    imported: int
    """How many of the modules an NPU imports."""
    since: str | None = None
    """The older tree, if only what is new since it is listed."""
    known: int = 0
    """Sites that are not listed because the older tree had them."""
    claims: tuple[Claim, ...] = ()
    """What is counted in `claimed`, by path and line."""

    def counts(self) -> dict[Kind, Counter[Grade]]:
        """How many listed sites of each kind have each grade."""
        found = {kind: Counter[Grade]() for kind in Kind}
        for item in self.items:
            found[item.kind][item.grade] += 1
        return found


def survey(
    tree: Tree,
    rules: Sequence[Rule] | None = None,
    *,
    older: Tree | None = None,
    jobs: int = 1,
) -> Survey:
    """Survey a tree.

    Args:
        tree: only read.
        rules: whose claims count; all rules when left out.
        older: an earlier release; only what it did not have is listed then. Moved code is not new.
        jobs: processes to use at most.
    """
    trees = [tree, *([older] if older is not None else [])]
    made = _plans(trees, rules, jobs)
    plans = [with_earlier(plan, one) for plan, one in zip(made, trees, strict=True)]
    facts = _facts(trees, jobs)
    new = _Surface(plans[0], facts[0])
    emitted = {**facts[0], **new.emitted}
    found = reach(emitted, new.added, tree.read(REGISTRY))
    items = list(new.items(found))
    known = 0
    if older is not None:
        items, known = _unknown(items, _Surface(plans[1], facts[1]).unclaimed)
    return Survey(
        name=tree.name,
        release=tree.label.release,
        items=tuple(sorted(items, key=lambda i: (i.path, i.line, i.kind.value, i.source))),
        claimed=new.claimed,
        by_rule=dict(sorted(new.by_rule.items())),
        failures=tuple((f.path, f.failure) for f in facts[0].values() if f.failure is not None),
        modules=len(emitted),
        imported=len(found.modules),
        since=older.name if older is not None else None,
        known=known,
        claims=tuple(sorted(new.claims, key=lambda c: (c.path, c.line, c.kind.value, c.source))),
    )


# ---- work for several processes -------------------------------------------------------------


def _plans(trees: Sequence[Tree], rules: Sequence[Rule] | None, jobs: int) -> list[Plan]:
    """The plans of the trees; two are made beside each other."""
    if jobs == 1 or len(trees) == 1:
        return [make_plan(tree, rules, jobs=jobs) for tree in trees]
    with _pool(len(trees)) as pool:
        with workers.forking():
            waiting: list[Future[Plan]] = [pool.submit(make_plan, t, rules) for t in trees]
        return [future.result() for future in waiting]


def _facts(trees: Sequence[Tree], jobs: int) -> list[dict[str, Facts]]:
    """The facts of every module of the trees; what two trees have alike is read once."""
    first: dict[str, bytes] = {}
    todo: list[tuple[int, str, bytes]] = []
    alike: list[str] = []
    for number, tree in enumerate(trees):
        for entry in tree.entries():
            path = entry.path
            if entry.link is not None or not path.startswith(VLLM) or not path.endswith(".py"):
                continue
            data = tree.read(path) or b""
            if number == 0:
                first[path] = data
            elif first.get(path) == data:
                alike.append(path)
                continue
            todo.append((number, path, data))
    # Longest first, so that no process is left with a long file at the end.
    todo.sort(key=lambda item: (-len(item[2]), item[1]))
    results: list[dict[str, Facts]] = [{} for _ in trees]
    if jobs == 1 or len(todo) < 50:
        read_all: Iterator[Facts] = map(_read, todo)
        for (number, path, _), facts in zip(todo, read_all, strict=True):
            results[number][path] = facts
    else:
        with _pool(jobs) as pool:
            with workers.forking():
                read_all = pool.map(_read, todo, chunksize=16)
            for (number, path, _), facts in zip(todo, read_all, strict=True):
                results[number][path] = facts
    for path in alike:
        results[1][path] = results[0][path]
    return results


def _read(item: tuple[int, str, bytes]) -> Facts:
    return read(item[1], item[2])


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=workers.FORK, initializer=_start_worker)


def _start_worker() -> None:
    # Syntax trees are large and free of cycles: the collector would only walk over them.
    gc.disable()
    workers.settle()


# ---- what rules claim -----------------------------------------------------------------------


class _Surface:
    """The sites of one tree, claimed and not."""

    def __init__(self, plan: Plan, facts: Mapping[str, Facts]) -> None:
        self.plan = plan
        self.facts = facts
        self.emitted = {
            change.path: read(change.path, change.after)
            for change in plan.files
            if change.path.startswith(VLLM) and change.path.endswith(".py")
        }
        self.added = sorted(
            {
                path
                for rule in plan.rules
                for path in rule.templates
                if path.endswith(".py") and (path in self.emitted or path in facts)
            }
        )
        self.kernels = {name for one in facts.values() for name in one.kernels}
        self.sizes = {
            site.source.removeprefix("def "): site.size
            for one in facts.values()
            for site in one.sites
            if site.kind is Kind.TRITON_KERNEL
        }
        self.claimed: Counter[Kind] = Counter()
        self.by_rule: Counter[str] = Counter()
        self.claims: list[Claim] = []
        self.ported: set[str] = set()
        self.unclaimed: list[tuple[str, Site]] = []
        records: dict[str, list[Record]] = defaultdict(list)
        for record in plan.records:
            if record.before is not None:
                records[record.path].append(record)
        for path, one in facts.items():
            # What the migration adds is the NPU's own.
            if path not in self.added:
                self._judge(path, one, records.get(path, []))

    def _judge(self, path: str, one: Facts, records: Sequence[Record]) -> None:
        sites = [site for site in one.sites if self._is_site(site)]
        emitted = self.emitted.get(path)
        after = {} if emitted is None else _emitted_guards(emitted, sites)
        for site in sites:
            gone = emitted is not None and id(site) not in after
            guard = after.get(id(site), site.guard)
            if guard is not None:
                # The condition is named with its line in the source, where it is there already.
                guard = site.guard or f"{guard} of the emitted file"
            rules = {r.rule for r in records if _claims(r, site, gone or guard is not None)}
            if rules:
                self.claimed[site.kind] += 1
                self.by_rule.update(rules)
                self.claims.append(
                    Claim(
                        site.kind, path, site.line, site.function, site.source, tuple(sorted(rules))
                    )
                )
                match = NAMESPACE.match(site.source)
                if site.kind is Kind.CUSTOM_OP and match is not None:
                    self.ported.add(site.source[match.end() :].partition(".")[0])
            else:
                self.unclaimed.append((path, replace(site, guard=guard)))

    def _is_site(self, site: Site) -> bool:
        """Is a launch one of a Triton kernel, and no call of what a collection holds?"""
        if site.kind is not Kind.TRITON_LAUNCH:
            return True
        name, _, index = site.source.partition("[")
        return name.rpartition(".")[2] in self.kernels or "grid" in index

    def items(self, found: Reach) -> Iterator[Item]:
        """The unclaimed sites with their grades."""
        for path, site in self.unclaimed:
            why = found.why_not(path, site.unit)
            via: tuple[str, ...] = ()
            if why is not None:
                grade = Grade.UNREACHABLE
            elif site.guard is not None:
                grade, why = Grade.GUARDED, site.guard
            else:
                grade, via = Grade.REACHABLE, found.via(path, site.unit)
                why = f"called from {via[0]}" if via else "vLLM starts there"
            judged = judge(site, self.ported, self.sizes)
            yield Item(
                site.kind,
                path,
                site.line,
                site.end_line,
                site.function,
                site.source,
                grade,
                why,
                judged.effort,
                judged.why,
                via,
            )


def _claims(record: Record, site: Site, done: bool) -> bool:
    """Does a record stand for a site?

    Args:
        record: of a rule, in the site's file.
        site: what was found.
        done: an NPU does not come to the site in the emitted file.
    """
    span = record.before
    assert span is not None
    if not span.line <= site.line <= span.end_line:
        return False
    whole = record.source.startswith(("def ", "class ")) or span.end_line - span.line > LONG
    # In a function that is rewritten, what an NPU still comes to is nobody's.
    return done or not whole or record.status is Status.SKIPPED


def _emitted_guards(after: Facts, sites: Iterable[Site]) -> dict[int, str | None]:
    """What keeps an NPU from each site in the emitted file, by the site's identity.

    A site is found again by its function, its kind and its source; one that was rewritten is not
    there. Functions that the migration does not touch give every site the guard that it had.
    """
    there: dict[tuple[str, Kind, str], list[Site]] = defaultdict(list)
    for site in after.sites:
        there[site.function, site.kind, site.source].append(site)
    before: dict[tuple[str, Kind, str], list[Site]] = defaultdict(list)
    for site in sites:
        before[site.function, site.kind, site.source].append(site)
    guards: dict[int, str | None] = {}
    for key, olds in before.items():
        news = there.get(key, [])
        # Where some are gone, it is not known which: all that are left count.
        for old, new in zip(olds, news, strict=False):
            guards[id(old)] = new.guard
    return guards


# ---- what is new ----------------------------------------------------------------------------


def _unknown(items: Sequence[Item], older: Iterable[tuple[str, Site]]) -> tuple[list[Item], int]:
    """The items that an older tree did not have, and how many it had.

    First what is where it was; of the rest, what has the same function and source in another file,
    or the same file and source in another function, was moved.
    """
    left = [(path, site.function, site.kind, site.source) for path, site in older]
    rest = list(items)
    for parts in ((0, 1, 2, 3), (1, 2, 3), (0, 2, 3)):
        have = Counter(itemgetter(*parts)(old) for old in left)
        taken: Counter[object] = Counter()
        remaining = []
        for item in rest:
            mine = itemgetter(*parts)((item.path, item.function, item.kind, item.source))
            if taken[mine] < have[mine]:
                taken[mine] += 1
            else:
                remaining.append(item)
        rest = remaining
        kept = []
        for old in left:
            mine = itemgetter(*parts)(old)
            if taken[mine]:
                taken[mine] -= 1
            else:
                kept.append(old)
        left = kept
    return rest, len(items) - len(rest)
