# SPDX-License-Identifier: Apache-2.0
"""Renders a plan: tables, headings and colours for people, annotations for GitHub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from migrator.codemod.engine import Record, Span
from migrator.codemod.rule import Rule, Safety, Status
from migrator.messages.escaping import page, terminal
from migrator.messages.github import Annotation
from migrator.messages.wording import Tense, counted
from migrator.planning.plan import Plan
from migrator.reports.changed_lines import cut_plan, place_of
from migrator.reports.log import make_log, pretty_json
from migrator.reports.releases import standing


def render(plan: Plan, output_format: str, tense: Tense, within: str = "") -> str | None:
    """The plan in a format for programs: `json` or `sarif`; None for another.

    Args:
        plan: what is told.
        output_format: the name of the format.
        tense: what its changes are called.
        within: what paths begin with in the repository around the tree; SARIF alone has them so,
            whose readers know no tree.
    """
    if output_format == "json":
        return pretty_json(make_log(plan)).decode()
    if output_format == "sarif":
        from migrator.reports.sarif import sarif

        return sarif(plan, word=tense.value, emitted=tense is Tense.PAST, within=within)
    return None


def print_report(
    console: Console,
    plan: Plan,
    tense: Tense,
    *,
    verbose: bool = False,
    said: Sequence[str] = (),
    following: str | None = None,
) -> None:
    """What a plan comes to: totals, what waits for a person, what to do next, then the rules.

    Args:
        console: where it is printed; a narrow one gets narrower tables.
        plan: the plan.
        tense: what its changes are called.
        verbose: print every rule, every site and what the release is known not to have.
        said: lines on what was written.
        following: the command to run next.
    """

    def tell(text: str, style: str = "") -> None:
        console.print(Text(terminal(text), style=style), soft_wrap=True)

    tell(standing(plan.label), "bold")
    tell(totals(plan, tense))
    for record in plan.records:
        if record.status is Status.MANUAL:
            tell(_line(record, tense), "yellow")
    for line in _unchecked(plan, verbose=verbose):
        tell(line, "yellow")
    for failure in plan.failures:
        tell(f"{failure.path}: left as it is: {failure.reason}", "yellow")
    for line in said:
        tell(line)
    if following is not None:
        tell(f"Next: {following}", "bold")
    rules = [rule for rule in plan.rules if verbose or any(plan.tally(rule.code).values())]
    if rules:
        console.print()
        _print_rules(console, plan, tense, rules, verbose=verbose)
    if verbose:
        for record in plan.records:
            if record.status is not Status.MANUAL:
                tell(_line(record, tense))
        for absent in plan.absent:
            text = (
                f"{absent.rule}: no {absent.site}, as in releases {absent.releases}: {absent.why}"
            )
            tell(text, "dim")
    for path in plan.links_out:
        tell(f"{path}: a link out of the tree; copied as a link, not followed", "dim")


NAMED = 12
"""Sites nobody has checked that are named without `--verbose`."""


def _unchecked(plan: Plan, *, verbose: bool) -> Iterator[str]:
    """What nobody has checked: changed sites that no known release has in this form."""
    every = plan.unchecked
    if every:
        count = counted(len(every), "site")
        yield f"Written as in no known release, so nobody has checked: {count}"
    for one in every if verbose else every[:NAMED]:
        yield f"  {one.path}:{one.line}: {one.rule} {one.site}"
    if len(every) > NAMED and not verbose:
        yield f"  … {len(every) - NAMED} more; --verbose names them"


def totals(plan: Plan, tense: Tense) -> str:
    """What a plan comes to in one line."""
    count = Counter(record.status for record in plan.records)
    person = count[Status.MANUAL] + len(plan.failures)
    done = f"nothing {tense.value}"
    if plan.files:
        added = sum(change.before is None for change in plan.files)
        done = (
            f"{counted(count[Status.CHANGED], 'site')} {tense.value} in "
            f"{counted(len(plan.files), 'file')}, {added or 'none'} of them new"
        )
    migrated = f"{count[Status.MIGRATED]} migrated already"
    return f"{done}; {migrated}; {person or 'nothing'} left for a person"


_COLUMNS = (
    (Status.CHANGED, "green"),
    (Status.MIGRATED, ""),
    (Status.SKIPPED, ""),
    (Status.MANUAL, "yellow"),
)
"""What the table of rules counts, with the colours of counts."""

NOTES_FROM = 100
"""Columns from which on a table has room for notes; below that they stand under it."""


def _print_rules(
    console: Console, plan: Plan, tense: Tense, rules: Sequence[Rule], *, verbose: bool
) -> None:
    """The table of rules: all columns, or those that have anything."""
    heads = {
        Status.CHANGED: tense.value,
        Status.MIGRATED: "migrated already",
        Status.SKIPPED: "skipped",
        Status.MANUAL: "for a person",
    }
    beside = verbose and console.width >= NOTES_FROM
    tallies = {rule.code: plan.tally(rule.code) for rule in rules}
    columns = [
        (status, style)
        for status, style in _COLUMNS
        if beside or any(tally[status] for tally in tallies.values())
    ]
    notes = {rule.code: _note(plan, rule) for rule in rules} if verbose else {}
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("name", overflow="fold")
    for status, _ in columns:
        table.add_column(heads[status], justify="right")
    if beside:
        table.add_column("note")
    for rule in rules:
        tally = tallies[rule.code]
        cells = [
            Text(str(tally[status]), style=style if tally[status] else "dim")
            for status, style in columns
        ]
        if beside:
            cells.append(Text(notes[rule.code], style="dim"))
        table.add_row(rule.code, rule.name, *cells)
    console.print(table)
    if verbose and not beside:
        for code, note in notes.items():
            if note:
                console.print(Text(f"{code}: skipped: {note}", style="dim"), soft_wrap=True)


def _note(plan: Plan, rule: Rule) -> str:
    """Why a rule skips what it skips, the reasons counted."""
    reasons: dict[str, int] = {}
    for record in plan.records_of(rule.code, Status.SKIPPED):
        head = record.reason.partition(":")[0]
        reasons[head] = reasons.get(head, 0) + 1
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _line(record: Record, tense: Tense) -> str:
    where = f"{record.path}:{record.before.line}" if record.before else record.path
    word = _word(record, tense)
    return terminal(f"{where}: {record.rule} {word}: {record.site}: {record.reason}")


def _word(record: Record, tense: Tense) -> str:
    """What became of a site, or would."""
    return tense.value if record.status is Status.CHANGED else record.status.value


def annotated(plan: Plan, tense: Tense) -> list[Annotation]:
    """What GitHub is told of a plan, at the lines that the pull request has.

    Of what changes, that comes first which changes most: behaviour, then what is guarded.
    """
    levels = {Status.CHANGED: "notice", Status.MANUAL: "warning"}
    rules = {rule.code: rule for rule in plan.rules}
    cuts = {cut.change.path: cut for cut in cut_plan(plan)} if tense is Tense.PAST else {}
    found = [
        Annotation("error", missing.describe(), title=missing.rule) for missing in plan.missing
    ]
    found += [Annotation("error", f.reason, path=f.path) for f in plan.failures]
    for record in sorted(plan.records, key=lambda r: _WEIGHT[rules[r.rule].safety]):
        level = levels.get(record.status)
        place = place_of(record, cuts.get(record.path), emitted=tense is Tense.PAST)
        if level is None or place is None:
            continue
        rule = rules[record.rule]
        title = f"{rule.code} {rule.name} ({rule.safety.value})"
        text = f"{record.site}: {record.reason}"
        found.append(annotation(level, text, path=record.path, span=place, title=title))
    return found


_WEIGHT = {Safety.BEHAVIOUR: 0, Safety.GUARDED: 1, Safety.EQUIVALENT: 2}


def annotation(
    level: str, text: str, *, path: str, span: Span | None, title: str | None = None
) -> Annotation:
    """An annotation of some lines of a file, or of the file."""
    if span is None:
        return Annotation(level, text, path=path, title=title)
    return Annotation(level, text, path, span.line, span.end_line, title=title)


def rule_heading(plan: Plan, code: str) -> list[str]:
    """What stands above the patch of one rule: what it does, how safe it is, each site's reason."""
    (rule,) = (rule for rule in plan.rules if rule.code == code)
    lines = [f"{rule.code} {rule.name} ({rule.safety.value})", rule.summary, ""]
    for record in plan.records_of(code, Status.CHANGED):
        place = f":{record.before.line}" if record.before is not None else " (new)"
        site = f" {record.site}" if record.site != record.path else ""
        lines.append(f"{record.path}{place}{site}: {record.reason}")
    return [terminal(line) for line in lines]


def coloured_patch(patch: bytes) -> Iterator[Text]:
    """The lines of a patch for a terminal, in git's colours, without control characters."""
    text = patch.decode("utf-8", "surrogateescape")
    in_hunk = False
    for line in text.split("\n")[:-1]:
        if line.startswith(("# ", "#\n")) or line == "#":
            in_hunk, style = False, "bold cyan" if line.startswith("# NPU") else "cyan"
        elif line.startswith("diff --git "):
            in_hunk, style = False, "bold"
        elif line.startswith("@@ "):
            in_hunk, style = True, "magenta"
        elif not in_hunk:
            style = "bold"
        else:
            style = {"+": "green", "-": "red", "\\": "dim"}.get(line[:1], "")
        yield Text(page(line.removesuffix("\r")), style=style)


def print_stat(console: Console, plan: Plan, *, files: bool, rules: bool) -> None:
    """Lines that are added and removed, for each file and for each rule, with bars."""
    added: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    codes: dict[str, list[str]] = {}
    touched: dict[str, set[str]] = {}
    for cut in cut_plan(plan):
        path = cut.change.path
        found = {cut.rule(block) for block in cut.blocks} | {r.rule for r in cut.records}
        codes[path] = sorted(found)
        for block in cut.blocks:
            code, (new, old) = cut.rule(block), cut.lines(block)
            for key in (path, code):
                added[key] += new
                removed[key] += old
        for code in found:
            touched.setdefault(code, set()).add(path)
    if files:
        table = _stat_table("file", "rules")
        most = max((added[path] + removed[path] for path in codes), default=1)
        for change in plan.files:
            path = change.path
            name = Text(terminal(path), style="" if change.before else "green")
            _stat_row(table, (name,), path, most, added, removed, " ".join(codes[path]))
        console.print(table)
    if rules:
        if files:
            console.print()
        table = _stat_table("rule", "what it does", "name", "safety", "sites", "files")
        most = max((added[code] + removed[code] for code in touched), default=1)
        for rule in plan.rules:
            sites = len(plan.records_of(rule.code, Status.CHANGED))
            if not sites:
                continue
            cells = (
                Text(rule.code),
                Text(rule.name),
                Text(rule.safety.value, style=SAFETY_STYLES[rule.safety]),
                Text(str(sites)),
                Text(str(len(touched.get(rule.code, ())))),
            )
            _stat_row(table, cells, rule.code, most, added, removed, rule.summary)
        console.print(table)
    new, old = sum(added[path] for path in codes), sum(removed[path] for path in codes)
    sites = sum(record.status is Status.CHANGED for record in plan.records)
    person = sum(record.status is Status.MANUAL for record in plan.records) + len(plan.failures)
    console.print(
        f"\n{counted(len(codes), 'file')}, {counted(sites, 'site')} of "
        f"{counted(len(touched), 'rule')}, {counted(new, 'line')} added, {old} removed; "
        f"{person or 'nothing'} left for a person"
    )


SAFETY_STYLES = {Safety.EQUIVALENT: "dim", Safety.GUARDED: "green", Safety.BEHAVIOUR: "yellow"}
BAR = 24
"""Columns of the longest bar."""


def _stat_table(first: str, last: str, *between: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in between:
        numeric = heading in ("sites", "files")
        table.add_column(heading, no_wrap=True, justify="right" if numeric else "left")
    for heading in ("+", "-"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True, width=BAR)
    table.add_column(last)
    return table


def _stat_row(
    table: Table,
    cells: Sequence[Text],
    key: str,
    most: int,
    added: Mapping[str, int],
    removed: Mapping[str, int],
    last: str,
) -> None:
    new, old = added[key], removed[key]
    bar = Text("+" * _part(new, most), style="green") + Text("-" * _part(old, most), style="red")
    table.add_row(
        *cells, Text(str(new), style="green"), Text(str(old), style="red"), bar, Text(last)
    )


def _part(count: int, most: int) -> int:
    """Columns for a count of lines; one at least where there are any."""
    return max(round(count * BAR / most), 1) if count else 0
