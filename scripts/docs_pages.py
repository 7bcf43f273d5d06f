# SPDX-License-Identifier: Apache-2.0
"""Pages of the docs site that are made from the code: rules, commands, the log, error messages.

Text in, Markdown out; nothing is written here. `scripts/docs_hooks.py` hands the pages to mkdocs.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import posixpath
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import click
import msgspec

from migrator import cli
from migrator.codemod import templates
from migrator.codemod.rule import Absence, Example, Rule
from migrator.files.tree import DiskTree
from migrator.planning.plan import make_plan
from migrator.reports import log
from migrator.rules import all_rules

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "vllm-npu-migrate"

FAMILIES = {
    "NPU00": "Imports",
    "NPU10": "Wrappers of CUDA operators",
    "NPU11": "Device guards",
    "NPU12": "Layers",
    "NPU13": "Process groups",
    "NPU20": "Device module",
    "NPU21": "Worker, platform and graphs",
    "NPU22": "Kernels on the worker's path",
    "NPU23": "Mixture of experts",
    "NPU24": "Speculative decoding",
    "NPU25": "Quantisation",
    "NPU26": "Model runner V2",
    "NPU30": "Files that are added",
    "NPU31": "Added files of quantisation",
    "NPU40": "Installation and configuration",
}
"""Beginning of a code → what the rules of that family are about."""

_CODE = re.compile(r"\bNPU\d{3}\b")
_LONG_EXAMPLE = 70


def rule_path(code: str) -> str:
    """Where a rule's page lies in the docs folder."""
    return f"rules/{code.lower()}.md"


def rule_paths() -> list[str]:
    """Where the rules' pages lie, in the order of their codes."""
    return [rule_path(rule.code) for rule in all_rules()]


def rule_pages() -> dict[str, str]:
    """Path in the docs folder → Markdown: one page for each rule, and the index by family."""
    sites = sites_by_release(ROOT / "docs" / "releases.md")
    pages = {rule_path(rule.code): _rule_page(rule, sites.get(rule.code)) for rule in all_rules()}
    return {"rules/index.md": _rule_index(), **pages}


def family_of(rule: Rule) -> str:
    """Title of the family that a rule's code puts it in.

    Raises:
        ValueError: the family has no title yet.
    """
    title = FAMILIES.get(rule.code[:5])
    if title is None:
        raise ValueError(
            f"{rule.code} is of a new family: give {rule.code[:5]} a title in FAMILIES"
        )
    return title


def _rule_index() -> str:
    rules = all_rules()
    counts = Counter(rule.safety.value for rule in rules)
    lines = [
        "# Rules",
        "",
        f"{len(rules)} rules: {counts['equivalent']} equivalent, {counts['guarded']} guarded and "
        f"{counts['behaviour']} with behaviour. Each page is made from the rule's own docstring, "
        "declarations and examples; the examples are tests.",
        "",
        "*Equivalent* code does the same on every device and is only written in another way. "
        "*Guarded* code runs for NPU tensors or on an NPU platform only. *Behaviour* may change "
        "what other platforms see; the rule says why that is right.",
    ]
    for start, title in FAMILIES.items():
        lines += ["", f"## {title}", "", "| Rule | Safety | What it does |", "| --- | --- | --- |"]
        lines += [
            f"| [{rule.code} {rule.name}]({rule.code.lower()}.md) | {rule.safety.value} "
            f"| {_cell(rule.summary)} |"
            for rule in rules
            if rule.code.startswith(start)
        ]
    return "\n".join(lines) + "\n"


def _rule_page(rule: Rule, found: Mapping[str, int | None] | None) -> str:
    summary, _, rest = rule.doc.partition("\n")
    parts = [
        f"---\ntitle: {rule.code} {rule.name}\n---\n",
        f"# {rule.code} {rule.name}\n",
        f"{summary}\n{{ .lead }}\n",
        f"{rule.safety.value.capitalize()} · [{family_of(rule)}](index.md#{_slug(family_of(rule))})"
        f"\n{{ .facts }}\n",
        rest.strip("\n") + "\n",
    ]
    if rule.examples:
        parts += ["## Before and after\n", *_examples(rule.examples)]
    parts += ["## Where it falls\n", _sites(rule)]
    if found:
        parts += ["### In the releases known\n", _found(found)]
    if rule.templates:
        parts += ["## Files that it adds\n", *(_template(path) for path in rule.templates)]
    source = Path(inspect.getfile(type(rule)))
    parts += [
        "## Source of the rule\n",
        _folded(f"migrator/rules/{source.name}", source.read_text("utf-8"), "python"),
    ]
    return "\n".join(parts)


def _examples(examples: Sequence[Example]) -> Iterator[str]:
    for example in examples:
        if example.after is None:
            yield f"This is left as it is:\n\n{_fence(example.before, 'python', example.path)}"
        else:
            yield _fence(_difference(example.before, example.after), "diff", example.path)
        for path, text in example.others:
            yield _folded(f"The example's {path}", text, "python")


def _difference(before: str, after: str) -> str:
    """Both texts in one, with `+` and `-` in front of what differs; no line numbers."""
    old, new = before.splitlines(), after.splitlines()
    context = len(old) if len(old) + len(new) < _LONG_EXAMPLE else 4
    lines = list(difflib.unified_diff(old, new, n=context, lineterm=""))[2:]
    return "\n".join(
        "…" if line.startswith("@@") and number else line
        for number, line in enumerate(lines)
        if number or not line.startswith("@@")
    )


def _sites(rule: Rule) -> str:
    if not rule.sites:
        paths = ", ".join(f"`{path}`" for path in rule.paths)
        return (
            "The files below are all that it does.\n"
            if rule.templates and type(rule).check is Rule.check
            else f"Wherever its pattern is found in {paths}; no release has to have a site.\n"
        )
    lines = ["| Site | In | Not in these releases |", "| --- | --- | --- |"]
    for site in rule.sites:
        where = ", or ".join(f"`{path}`" for path in site.paths)
        lines.append(f"| `{site.name}` | {where} | {_absences(site.absent)} |")
    lines += ["", "A site that is missing without such a reason stops the run with exit code 2."]
    return "\n".join(lines) + "\n"


def _absences(absent: Iterable[Absence]) -> str:
    return _cell("<br>".join(f"`{a.releases}`: {a.why}" for a in absent)) or "–"


def _found(found: Mapping[str, int | None]) -> str:
    """Sites by release, neighbours with the same number taken together."""
    runs: list[tuple[str, str, int | None]] = []
    for release, count in found.items():
        if runs and runs[-1][2] == count:
            runs[-1] = (runs[-1][0], release, count)
        else:
            runs.append((release, release, count))
    if len(runs) == 1 and runs[0][2]:
        return f"Sites: {runs[0][2]} in each from {runs[0][0]} to {runs[0][1]}.\n"
    spans = [first if first == last else f"{first} to {last}" for first, last, _ in runs]
    counts = ["–" if count is None else str(count) for _, _, count in runs]
    lines = ["| Releases | Sites |", "| --- | ---: |"]
    lines += [f"| {span} | {count} |" for span, count in zip(spans, counts, strict=True)]
    return "\n".join(lines) + "\n"


def sites_by_release(table: Path) -> dict[str, dict[str, int | None]]:
    """Rule → release → sites, as `scripts/release_table.py` measured; None where it has none."""
    releases: list[str] = []
    found: dict[str, dict[str, int | None]] = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "Rule":
            releases = cells[1:]
        elif _CODE.match(cells[0]) and len(cells) == len(releases) + 1:
            numbers = (int(cell) if cell.isdigit() else None for cell in cells[1:])
            found[cells[0].split()[0]] = dict(zip(releases, numbers, strict=True))
    return found


def _template(path: str) -> str:
    text = templates.load(path).decode()
    variants = len(re.findall(r"npu-migrate:\s*when\b", text))
    kind = "python" if path.endswith(".py") else "text"
    fitted = (
        f"`{path}`, in {variants} place{'s' if variants != 1 else ''} by what the tree has "
        "(lines `npu-migrate:` are left out of the tree)."
        if variants
        else f"`{path}`, the same in every release but for where it imports from."
    )
    return f"{fitted}\n\n{_folded(path, text, kind)}"


def _fence(code: str, language: str, title: str = "") -> str:
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", code)), 3)
    head = f'{language} title="{title}"' if title else language
    return f"{ticks}{head}\n{code.rstrip(chr(10))}\n{ticks}\n"


def _folded(title: str, code: str, language: str) -> str:
    return f'??? quote "{title}"\n\n{textwrap.indent(_fence(code, language), "    ")}'


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _slug(text: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def with_rule_links(markdown: str, path: str) -> str:
    """Link every rule that a page's prose names to the rule's page.

    Args:
        markdown: the page.
        path: where it lies in the docs folder; a rule's own page does not link to itself.
    """
    known = {rule.code for rule in all_rules()}
    here = posixpath.dirname(path)

    def link(match: re.Match[str]) -> str:
        code = match.group()
        target = rule_path(code)
        if code not in known or target == path:
            return code
        return f"[{code}]({posixpath.relpath(target, here)})"

    fence = ""
    lines = []
    for text in markdown.splitlines():
        line = text
        opening = re.match(r"\s*(`{3,}|~{3,})", line)
        if opening and (not fence or line.strip() == fence):
            fence = "" if fence else opening.group(1)
        elif not fence and not re.match(r"#|---|title:|\s*\?\?\?|    ", line):
            # Inline code, links and their targets stay as they are.
            pieces = re.split(r"(`[^`]*`|\[[^\]]*\]\([^)]*\)|<[^>]*>)", line)
            line = "".join(p if n % 2 else _CODE.sub(link, p) for n, p in enumerate(pieces))
        lines.append(line)
    return "\n".join(lines) + "\n"


# Commands


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with its full name and a context to ask it for help, in the order of --help."""
    yield from _below(
        cli.main, click.Context(cli.main, info_name=PROGRAM, **cli.main.context_settings)
    )


def _below(
    command: click.Command, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                below = click.Context(inner, info_name=name, parent=context)
                yield from _below(inner, below)


def command_page() -> str:
    """The reference of the command line."""
    parts = [
        "# Command line\n",
        "Made from the program itself. The same text comes from `--help` of each command; what the "
        "exit codes mean is on [a page of its own](exit-codes.md).\n",
    ]
    for path, command, context in commands():
        usage = " ".join(command.collect_usage_pieces(context))
        # The first word is the program's name, which would only make the contents wide.
        name = path.partition(" ")[2] or path
        parts.append(f"## {name} {{ #{_slug(name)} }}\n")
        parts.append(_fence(f"{path} {usage}", "text"))
        parts.append(_paragraphs(command.help or ""))
        if command.epilog:
            _, _, *lines = command.epilog.splitlines()
            parts.append(_fence(textwrap.dedent("\n".join(lines)), "sh"))
        parts.append(_options(command, context))
        if isinstance(command, click.Group):
            names = [f"{path} {n}".partition(" ")[2] for n in command.list_commands(context)]
            parts.append("Commands: " + ", ".join(f"[{n}](#{_slug(n)})" for n in names) + "\n")
    return "\n".join(parts)


def _paragraphs(text: str) -> str:
    """A command's help as Markdown; a paragraph after a line with `\\b` keeps its lines."""
    shown = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        head, _, lines = paragraph.partition("\n")
        if head.strip() == "\b":
            shown.append(_fence(textwrap.dedent(lines), "text"))
        else:
            shown.append(_plain(" ".join(paragraph.split())) + "\n")
    return "\n".join(shown)


def _options(command: click.Command, context: click.Context) -> str:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    # What an argument is stands in the text above.
    rows = [
        f"| {re.sub(', (?=-)', '`, `', f'`{names}`')} | {_cell(_plain(text))} |"
        for names, text in filter(None, records)
        if names.startswith("-")
    ]
    return "\n".join(["| Option | What it does |", "| --- | --- |", *rows]) + "\n"


def _plain(text: str) -> str:
    """Escape what Markdown would take for markup in the help's plain text."""
    return re.sub(r"(?<!`)([<>*_\[\]])(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", text)


# The log

_STRUCTS: tuple[type[msgspec.Struct], ...] = (
    log.Log,
    *(
        value
        for value in vars(log).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not log.Log
    ),
)
"""What the log is made of, the whole first."""


def log_page() -> str:
    """What `migration-log.json` holds, with entries of a real run over the fixture."""
    parts = [
        "# The migration log\n",
        "`apply` leaves `migration-log.json` in the tree that it writes: which rule changed what, "
        "where, and why. `--format json` prints the same document. Equal trees give equal bytes: "
        "there is no time and no absolute path in it. Its [JSON "
        f"Schema](../migration-log.schema.json) is checked in tests; `schema_version` is "
        f"{log.SCHEMA_VERSION}, and a program that reads it refuses a higher one.\n",
    ]
    for struct in _STRUCTS:
        parts.append(f"## {struct.__name__} {{ #{struct.__name__.lower()} }}\n")
        parts.append(f"{inspect.getdoc(struct)}\n")
        parts.append("| Field | Type | Meaning |\n| --- | --- | --- |")
        for name, annotation, meaning in _fields(struct):
            parts.append(f"| `{name}` | {annotation} | {_cell(meaning)} |")
        parts.append("")
    parts += ["## Example { #example }\n", "One entry of each list, from a small tree.\n"]
    parts.append(_fence(_example_log(), "json", "migration-log.json"))
    return "\n".join(parts)


def _fields(struct: type[msgspec.Struct]) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each field, read off the source of the class."""
    names = {one.__name__ for one in _STRUCTS}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(tree, ast.ClassDef)
    for number, node in enumerate(tree.body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        after = tree.body[number + 1] if number + 1 < len(tree.body) else None
        meaning = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            meaning = str(after.value.value)
        shown = _cell(_type(ast.unparse(node.annotation)))
        linked = re.sub(
            r"\w+", lambda m: f"[{m[0]}](#{m[0].lower()})" if m[0] in names else m[0], shown
        )
        if node.value is not None and struct.__struct_config__.omit_defaults:
            linked += " or absent"
        yield node.target.id, linked, meaning


def _type(annotation: str) -> str:
    """A Python annotation in the words of JSON."""
    text = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", annotation)
    text = re.sub(r"Literal\[(.*?)\]", lambda m: " or ".join(m[1].split(", ")), text)
    text = re.sub(r"\bstr\b", "string", re.sub(r"\bint\b", "integer", text))
    return text.replace(" | None", " or null").replace("'", "`")


def _example_log() -> str:
    # The fixture is too small for the files that rules add, which import from all over vLLM.
    rules = [rule for rule in all_rules() if not rule.templates]
    plan = make_plan(DiskTree(ROOT / "fixtures" / "mini_vllm"), rules)
    made = log.make_log(plan)
    changed = {change.rule for change in made.changes if change.before is not None}
    shown = msgspec.structs.replace(
        made,
        rules=tuple(rule for rule in made.rules if rule.code in changed)[:1],
        files=made.files[:1],
        changes=tuple(change for change in made.changes if change.before is not None)[:1],
        left_alone=made.left_alone[:1],
        absent=made.absent[:1],
    )
    return log.pretty_json(shown).decode()


# Error messages


@cache
def _user_errors() -> frozenset[str]:
    """Exceptions whose text a user sees as one line, with exit code 2."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in (ROOT / "migrator").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found = {"MigrateError", "ClickException"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return frozenset(found)


def messages() -> dict[str, list[str]]:
    """Module → the messages of errors that it raises for users, what is filled in between `<>`."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "migrator").rglob("*.py")):
        if "runtime" not in path.parts:
            texts = _Messages(path).texts()
            if texts:
                found[path.relative_to(ROOT).as_posix()] = texts
    return found


class _Messages:
    """The messages of one module, read off its source."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        # The command's modules import inside of functions.
        self.homes = {
            alias.name: node.module
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def texts(self) -> list[str]:
        calls = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Call) and _called(node) in _user_errors() and node.args
        ]
        texts = [self.text(call.args[0]) for call in sorted(calls, key=lambda call: call.lineno)]
        # One that is nothing but another error's text is there with that one.
        return [t for t in dict.fromkeys(texts) if re.search(r"\w", re.sub(r"<[^>]*>", "", t))]

    def text(self, node: ast.expr) -> str:
        """The text of an expression, with what is known only later as `<name>`."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(self.text(value) for value in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.filled(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.text(node.left) + self.text(node.right)
        if isinstance(node, ast.IfExp):
            return self.text(node.body)
        return self.filled(node)

    def filled(self, node: ast.expr) -> str:
        """What stands for a value in a message: itself if it is a constant of a module."""
        names = [n for n in re.findall(r"[A-Za-z_]\w*", ast.unparse(node)) if n != "strip"]
        if isinstance(node, ast.Name) and node.id.isupper():
            home = importlib.import_module(self.homes.get(node.id, self.module))
            return str(getattr(home, node.id))
        return f"<{names[-1].lower().strip('_') if names else '…'}>"


def _called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def message_page() -> str:
    """Every error message by the part of the program that it comes from."""
    parts = [
        "# Error messages\n",
        "Read off the code that raises them. What stands in *italics* is filled in. "
        "Each is one line on stderr, with exit code 2; most say the way out themselves. The "
        "[FAQ](../faq.md) tells more about those that are met most.\n",
    ]
    for module, texts in messages().items():
        parts.append(f"## {_area(module)} {{ #{_slug(module)} }}\n")
        parts.append(f"From `{module}`:\n")
        parts += [f"- {_shown(text)}" for text in texts]
        parts.append("")
    return "\n".join(parts)


def _area(module: str) -> str:
    name = module.removeprefix("migrator/").removesuffix(".py").removesuffix("/__init__")
    name = re.sub("^cli/", "command ", name)
    return name.replace("/", ": ").replace("_", " ").capitalize()


def _shown(text: str) -> str:
    pieces = re.split(r"<(.*?)>", " ".join(text.replace("`", "'").split()))
    return "".join(f"*{_plain(p)}*" if n % 2 else _plain(p) for n, p in enumerate(pieces))


# Documents of the repository that the site shows too


def repository_page(path: str, only: str = "", title: str = "") -> str:
    """A Markdown file of the repository's root as a page below `contribute/` or `port/`.

    Args:
        path: such as `CONTRIBUTING.md`.
        only: the heading of the section that is wanted; the whole file where it is empty.
        title: the page's title in place of the file's or the section's own.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    if only:
        found = re.search(rf"^## {re.escape(only)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
        if found is None:
            raise ValueError(f"{path} has no section {only!r}")
        text = f"# {only}\n{found[1]}"
        text = re.sub(r"^###(#*) ", r"##\1 ", text, flags=re.M)
    if title:
        text = re.sub(r"^# .*", f"# {title}", text, count=1, flags=re.M)
    return re.sub(r"\]\(docs/", "](../", text)


def generated_pages() -> dict[str, str]:
    """Path in the docs folder → Markdown, of every page that is made at build time."""
    return {
        **rule_pages(),
        "reference/cli.md": command_page(),
        "reference/log.md": log_page(),
        "reference/messages.md": message_page(),
        "contribute/index.md": repository_page("CONTRIBUTING.md"),
        "port/story.md": repository_page("MIGRATION.md", "The story of the port"),
    }
