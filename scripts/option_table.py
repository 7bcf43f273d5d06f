# SPDX-License-Identifier: Apache-2.0
"""List what of a release can reach an NPU and what becomes of each; write docs/options/*.md.

Options, environment variables, features of models and kernels are read off the emitted tree. Each
needs an answer: it runs (by which simulated run or test) or it is refused (by which case of
`verify --refusals`); what has no device side is listed apart, with the reason. So are the operators
of vLLM's extensions that scripts/kernel_table.py finds on the NPU's path.

The answers are those of scripts/option_answers.toml. What names a run, a case or a test there has
to exist, and the run or test has to name the option, variable or argument that it is the proof of.
An item without an answer ends the script with exit code 1, so what a new release brings shows up.
The refused parts are also the table of docs/port/not-ported.md.

    python scripts/option_table.py                  # the three releases that have a page
    python scripts/option_table.py 0.34.0           # what another one has, nothing is written
    python scripts/option_table.py --check          # answers and not-ported.md only, no release
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import re
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import platformdirs
from kernel_table import WRITTEN, Row, survey_release
from kernel_table import rows as rows_of_kernels
from simulated_runs import RELEASES, Job, plan
from tool import ROOT, command
from upstream_tests import RELEASE as UPSTREAM
from upstream_tests import SUITES

from migrator.files.sources import fetch
from migrator.rules import all_rules
from migrator.verify.simulate import MODES, server
from migrator.verify.simulate.models import MODELS
from migrator.verify.simulate.modes import ENGINE
from migrator.verify.simulate.refusal_cases import CASES

ANSWERS = ROOT / "scripts" / "option_answers.toml"
PAGES = ROOT / "docs" / "options"
NOT_PORTED = ROOT / "docs" / "port" / "not-ported.md"
BEGIN, END = "<!-- refused: begin -->", "<!-- refused: end -->"


class Item(NamedTuple):
    """What a user or a model can ask for: its kind and its name."""

    kind: str
    name: str


class TableError(Exception):
    """A tree or the answers are not as they are expected."""


# -- what there is, read off a tree


class Source:
    """The modules of a tree, parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._parsed: dict[str, ast.Module] = {}

    def module(self, *paths: str) -> ast.Module:
        """The first of these modules that the tree has."""
        for path in paths:
            if path in self._parsed:
                return self._parsed[path]
            file = self.root / path
            if file.is_file():
                return self._parsed.setdefault(path, ast.parse(file.read_bytes()))
        raise TableError(f"{self.root}: none of {', '.join(paths)}")

    def has(self, path: str) -> bool:
        return (self.root / path).exists()

    def class_of(self, name: str, *paths: str) -> ast.ClassDef:
        """A class at the top of the first of these modules."""
        for node in self.module(*paths).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
        raise TableError(f"{self.root}: no class {name} in {', '.join(paths)}")


def fields(node: ast.ClassDef) -> list[str]:
    """Annotated attributes of a class."""
    return [
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not ast.unparse(statement.annotation).startswith("ClassVar")
    ]


def assigned(module: ast.Module, name: str) -> ast.expr:
    """What a name at the top of a module is set to."""
    for node in module.body:
        target: ast.expr | None = None
        if isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        if isinstance(target, ast.Name) and target.id == name and value is not None:
            return value
    raise TableError(f"nothing called {name} at the top of the module")


def literals(module: ast.Module, name: str) -> list[str]:
    """The texts of a `Literal[...]`, those of others that it names included."""
    found: list[str] = []
    for node in ast.walk(assigned(module, name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.Name) and node.id not in {"Literal", "Union"}:
            found += literals(module, node.id)
    return list(dict.fromkeys(found))


def members(node: ast.ClassDef) -> list[str]:
    """Members of an enumeration, or attributes of a class that stands for one."""
    targets = [s.targets[0] for s in node.body if isinstance(s, ast.Assign)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


CONFIG = ("vllm/config/{}.py", "vllm/config.py")


def _options(source: Source) -> Iterator[str]:
    module = "vllm/engine/arg_utils.py"
    for name in ("EngineArgs", "AsyncEngineArgs"):
        yield from fields(source.class_of(name, module))


def _variables(source: Source) -> Iterator[str]:
    module = source.module("vllm/envs.py")
    tables = [assigned(module, "environment_variables")]
    # What the port adds.
    tables += [node.value for node in module.body if isinstance(node, ast.AugAssign)]
    for table in tables:
        if isinstance(table, ast.Dict):
            yield from (str(key.value) for key in table.keys if isinstance(key, ast.Constant))


def _interfaces(source: Source) -> Iterator[str]:
    for path in ("interfaces", "interfaces_base"):
        for node in source.module(f"vllm/model_executor/models/{path}.py").body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name


def _attention_arguments(source: Source) -> Iterator[str]:
    attention = source.class_of(
        "Attention",
        "vllm/model_executor/layers/attention/attention.py",
        "vllm/attention/layer.py",
    )
    for node in attention.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            yield from (argument.arg for argument in node.args.args[1:])


def _attention_types(source: Source) -> Iterator[str]:
    paths = ("vllm/v1/attention/backend.py", "vllm/attention/backends/abstract.py")
    yield from members(source.class_of("AttentionType", *paths))


def _attention_questions(source: Source) -> Iterator[str]:
    paths = ("vllm/v1/attention/backend.py", "vllm/attention/backends/abstract.py")
    for node in source.class_of("AttentionBackend", *paths).body:
        if isinstance(node, ast.FunctionDef) and re.match(r"(supports|is)_", node.name):
            yield node.name


def _cache_kinds(source: Source) -> Iterator[str]:
    for node in source.module("vllm/v1/kv_cache_interface.py").body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Spec"):
            yield node.name


def _routers(source: Source) -> Iterator[str]:
    folder = "vllm/model_executor/layers/fused_moe/router"
    if source.has(folder):
        names = sorted(path.stem for path in (source.root / folder).glob("*.py"))
        yield from (name for name in names if name != "__init__")


def _activations(source: Source) -> Iterator[str]:
    path = "vllm/model_executor/layers/fused_moe/activation.py"
    if source.has(path):
        yield from members(source.class_of("MoEActivation", path))


def _expert_arguments(source: Source) -> Iterator[str]:
    folder = "vllm/model_executor/layers/fused_moe"
    layer = source.module(f"{folder}/layer.py")
    for node in layer.body:
        function: ast.AST | None = None
        if isinstance(node, ast.FunctionDef) and node.name in {"FusedMoEFactory", "FusedMoE"}:
            function = node
        elif isinstance(node, ast.ClassDef) and node.name == "FusedMoE":
            function = next(
                (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"),
                None,
            )
        if isinstance(function, ast.FunctionDef):
            arguments = [*function.args.args, *function.args.kwonlyargs]
            yield from (a.arg for a in arguments if a.arg != "self")


def _choices(kind: str, name: str) -> Callable[[Source], Iterator[str]]:
    def read(source: Source) -> Iterator[str]:
        paths = [path.format(kind) for path in CONFIG]
        if any(source.has(path) for path in paths):
            module = source.module(*paths)
            if any(name in ast.unparse(node) for node in module.body):
                try:
                    yield from literals(module, name)
                except TableError:
                    return

    return read


def _quantizations(source: Source) -> Iterator[str]:
    module = source.module("vllm/model_executor/layers/quantization/__init__.py")
    yield from literals(module, "QuantizationMethods")


def _load_formats(source: Source) -> Iterator[str]:
    module = source.module("vllm/model_executor/model_loader/__init__.py")
    yield from literals(module, "LoadFormats")


def _connectors(source: Source) -> Iterator[str]:
    folder = "vllm/distributed/kv_transfer/kv_connector"
    for node in ast.walk(source.module(f"{folder}/factory.py")):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "register_connector"
        ):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def _graph_modes(source: Source) -> Iterator[str]:
    paths = [path.format("compilation") for path in CONFIG]
    yield from members(source.class_of("CUDAGraphMode", *paths))


def _ropes(source: Source) -> Iterator[str]:
    folder = source.root / "vllm/model_executor/layers/rotary_embedding"
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if (isinstance(node, ast.ClassDef) and "Rotary" in node.name) or (
                isinstance(node, ast.ClassDef) and "RoPE" in node.name
            ):
                yield node.name


KINDS: dict[str, tuple[str, Callable[[Source], Iterator[str]]]] = {
    "option": ("Options of the engine", _options),
    "variable": ("Environment variables", _variables),
    "interface": ("What models declare", _interfaces),
    "attention": ("Arguments of an attention layer", _attention_arguments),
    "attention-type": ("Types of attention", _attention_types),
    "attention-question": ("Questions to an attention backend", _attention_questions),
    "cache-kind": ("Kinds of KV cache", _cache_kinds),
    "cache-dtype": ("Dtypes of a KV cache", _choices("cache", "CacheDType")),
    "rope": ("Rotary embeddings", _ropes),
    "experts": ("Arguments of experts", _expert_arguments),
    "router": ("Modules of routers", _routers),
    "activation": ("Activations of experts", _activations),
    "quantization": ("Quantization methods", _quantizations),
    "load-format": ("Formats of weights", _load_formats),
    "speculation": ("Methods of speculation", _choices("speculative", "SpeculativeMethod")),
    "connector": ("KV connectors", _connectors),
    "executor": ("Executors", _choices("parallel", "DistributedExecutorBackend")),
    "all2all": ("Exchange of experts", _choices("parallel", "All2AllBackend")),
    "graphs": ("Kinds of graphs", _graph_modes),
}


KERNEL = "kernel"
TITLES = {kind: title for kind, (title, _) in KINDS.items()} | {
    KERNEL: "Operators of vLLM's extensions"
}


def items(source: Source) -> list[Item]:
    """All that the tree has, by kind, as it is defined there."""
    return [
        Item(kind, name)
        for kind, (_, read) in KINDS.items()
        for name in dict.fromkeys(read(source))
    ]


def readers(source: Source, names: Iterable[str]) -> dict[str, list[str]]:
    """Name of a variable → the modules, beside the one that defines it, in which it is written."""
    wanted = set(names)
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for path in sorted((source.root / "vllm").rglob("*.py")):
        relative = path.relative_to(source.root).as_posix()
        if relative == "vllm/envs.py":
            continue
        for word in sorted(wanted & set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text()))):
            found[word].append(relative)
    return found


# -- the answers


@dataclass(frozen=True, eq=False)
class Answer:
    """What becomes of items. `says` is runs, refused or host; `by` names runs, tests and cases."""

    says: str
    why: str
    by: tuple[str, ...] = ()
    part: str = ""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    def holds(self, item: Item) -> bool:
        """Whether it names this item; `*` stands for any text."""
        return any(fnmatch.fnmatchcase(item.name, name) for name in self.names.get(item.kind, ()))


SAID = {"runs": "runs", "refused": "refused", "host": "no device side"}


def read_answers(path: Path = ANSWERS) -> list[Answer]:
    """The answers; raises `TableError` for one that names nothing or nothing known."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    found = []
    for says, entries in data.items():
        if says == "note":
            continue
        if says not in SAID:
            raise TableError(f"{path.name}: [[{says}]] is none of {', '.join(SAID)}")
        for entry in entries:
            known = {"why", "by", "part", "places", "stands_for", *TITLES}
            if unknown := entry.keys() - known:
                raise TableError(f"{path.name}: no kind is called {', '.join(sorted(unknown))}")
            names = {kind: tuple(entry[kind].split()) for kind in TITLES if kind in entry}
            answer = Answer(
                says,
                entry["why"],
                tuple(entry.get("by", ())),
                entry.get("part", ""),
                names,
                tuple(entry.get("places", ())),
                dict(pair.split("=") for pair in entry.get("stands_for", "").split()),
            )
            if not answer.why or (says != "host" and not answer.by):
                raise TableError(f"{path.name}: no reason or no proof for {entry}")
            found.append(answer)
    return found


def read_notes(path: Path = ANSWERS) -> list[tuple[str, str]]:
    """Rows of not-ported.md that are no refusals: a part, and what happens."""
    notes = tomllib.loads(path.read_text(encoding="utf-8")).get("note", [])
    return [(note["part"], note["why"]) for note in notes]


def unproven(answers: Iterable[Answer]) -> Iterator[str]:
    """References that lead nowhere: runs that are not planned, cases and tests that are not."""
    runs = {(job.model, job.mode) for job in plan(RELEASES)}
    cases = {case.name for case in CASES}
    rules = {rule.code for rule in all_rules()}
    for answer in answers:
        for reference in answer.by:
            kind, _, name = reference.partition(" ")
            if kind == "run":
                good = tuple(name.split(":")) in runs
            elif kind == "rule":
                good = name in rules
            elif kind == "upstream":
                good = any(name == suite.file for suite in SUITES)
            elif kind == "case":
                good = name in cases
            elif kind == "test":
                path, _, function = name.partition("::")
                file = ROOT / path
                good = file.is_file() and f"def {function}(" in file.read_text(encoding="utf-8")
            else:
                good = False
            if not good:
                yield f"{reference!r}, the proof of {answer.why[:60]!r}: there is no such thing"
            elif kind in {"run", "case"} and (answer.says == "refused") is not (kind == "case"):
                yield f"{reference!r} is no proof that something {SAID[answer.says]}"


# -- whether a proof is one

NAMED = frozenset({"option", "variable", "attention", "experts"})
"""Kinds of items that their proof has to name."""
_SIMULATE = ROOT / "migrator" / "verify" / "simulate"


def words(reference: str, source: Source) -> str:
    """What a run is told, or the text of a test: where the item that it proves has to stand."""
    kind, _, name = reference.partition(" ")
    if kind == "test":
        return (ROOT / name.partition("::")[0]).read_text(encoding="utf-8")
    if kind == "upstream":
        return (fetch(UPSTREAM) / "tests" / name).read_text(encoding="utf-8")
    if kind != "run":
        return ""
    model, _, mode = name.partition(":")
    told = [(_SIMULATE / "environment.py").read_text(encoding="utf-8")]
    if mode == "features":
        told += [(_SIMULATE / "programs" / "features.py").read_text(encoding="utf-8")]
        told += [*ENGINE, (_SIMULATE / "trying.py").read_text(encoding="utf-8")]
    elif mode == "install":
        told += [(_SIMULATE / "installation.py").read_text(encoding="utf-8")]
    elif mode.startswith("serve"):
        engines, ray = (2 if "dp2" in mode else 1), "ray" in mode
        tensor = 2 if mode.endswith("tp2") else 1
        arguments = server.arguments(
            MODELS[model], Path("model"), 0, engines, tensor=tensor, ray=ray
        )
        told += [a.removeprefix("--").replace("-", "_") for a in arguments]
        told += server.way_to_serve(MODELS[model], engines, ray=ray).variables
    else:
        way = MODES[mode]
        options = {**ENGINE, **way.engine}
        told += ["model", *options, *map(str, options.values()), *way.variables]
    if model in MODELS:
        # What layers are made with, the model's own code says.
        path = f"vllm/model_executor/models/{model.replace('-', '_')}.py"
        told += [(source.root / path).read_text(encoding="utf-8")] if source.has(path) else []
        told += MODELS[model].settings
    return "\n".join(told)


def unshown(founds: Iterable[Found], source: Source) -> Iterator[str]:
    """Items that are said to run and that none of the runs and tests named for it names."""
    texts: dict[str, set[str]] = {}
    for item, answers in founds:
        running = [answer for answer in answers if answer.says == "runs"]
        if item.kind not in NAMED or not running:
            continue
        for by in (by for answer in running for by in answer.by):
            if by not in texts:
                texts[by] = set(re.findall(r"\w+", words(by, source)))
        if not any(a.words.get(item.name, item.name) in texts[by] for a in running for by in a.by):
            proofs = dict.fromkeys(by for answer in running for by in answer.by)
            yield f"{item.kind} {item.name} is in none of {', '.join(proofs)}"


# -- operators


def kernels(rows: Iterable[Row], answers: list[Answer]) -> Iterator[Found]:
    """The operators that an NPU's path names, by `kernel_table.rows`, with what becomes of each.

    Of those with a version and the refused ones the answers have the proof; what an NPU never calls
    has its reason from there.
    """
    places: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.reached:
            places[row.operator.removeprefix("torch.ops.")].append(row)
    for name, found in sorted(places.items()):
        item = Item(KERNEL, name)
        known: list[Answer] = []
        for row in found:
            if row.answer == "never":
                known.append(Answer("host", row.why))
                continue
            says = {"version": "runs", "refused": "refused"}.get(row.answer)
            proven = [a for a in answers if a.says == says and a.holds(item)]
            # One place without an answer leaves the operator without one.
            if not proven:
                known = []
                break
            known += proven
        yield Found(item, tuple(dict.fromkeys(known)))


def taken(root: Path) -> dict[str, tuple[str, str]]:
    """Options and variables of which the platform refuses values: name → those taken, and why."""
    path = root / "vllm" / "platforms" / "npu_config.py"
    module = ast.parse(path.read_bytes())
    # The reasons that several options have are constants.
    names = {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found = {}
    for table in ("TAKEN", "TAKEN_VARIABLES"):
        value = assigned(module, table)
        assert isinstance(value, ast.Dict)
        for key, entry in zip(value.keys, value.values, strict=True):
            assert isinstance(key, ast.Constant)
            assert isinstance(entry, ast.Tuple)
            values, why = entry.elts
            if isinstance(why, ast.Name):
                why = names[why.id]
            name = str(key.value).rpartition(".")[2]
            found[name] = (ast.unparse(values), str(ast.literal_eval(why)))
    return found


class Found(NamedTuple):
    """An item, its answers, and what else is known: modules that read a variable."""

    item: Item
    answers: tuple[Answer, ...]


def answer_all(source: Source, answers: list[Answer]) -> list[Found]:
    """Each item of a tree with its answers; none where there are none."""
    everything = items(source)
    read = readers(source, (item.name for item in everything if item.kind == "variable"))
    table = taken(source.root)
    found = []
    for item in everything:
        known = [answer for answer in answers if answer.holds(item)]
        if not known and item.kind == "variable":
            known = by_place(read[item.name], answers)
        if item.name in table and item.kind in {"option", "variable"}:
            known += by_table(item, *table[item.name], answers=known)
        found.append(Found(item, tuple(dict.fromkeys(known))))
    return found


NOBODY = Answer("host", "no module of the release reads it")


def by_place(modules: list[str], answers: Iterable[Answer]) -> list[Answer]:
    """The answers for a variable that is only read where nothing reaches the device."""
    if not modules:
        return [NOBODY]
    given = [
        next((a for a in answers if any(fnmatch.fnmatchcase(m, p) for p in a.places)), None)
        for m in modules
    ]
    return list(dict.fromkeys(a for a in given if a)) if all(given) else []


def by_table(item: Item, values: str, why: str, answers: Iterable[Answer]) -> list[Answer]:
    """What the platform's own table says, with the case that shows it."""
    if any(answer.says == "refused" for answer in answers):
        return []
    case = f"{item.kind}: {item.name}"
    cases = {case.name for case in CASES}
    by = f"case {case}" if case in cases else TABLE_TEST
    return [Answer("refused", f"other values than {values}: {why}", (by,))]


TABLE_TEST = (
    "test tests/emitted/test_npu_config_values.py::test_platform_refuses_what_it_does_not_take"
)


def unused(founds: Iterable[Found], answers: Iterable[Answer]) -> Iterator[str]:
    """Names in the answers that no release has any more."""
    present = defaultdict(set)
    for found in founds:
        present[found.item.kind].add(found.item.name)
    for answer in answers:
        for kind, names in answer.names.items():
            for name in names:
                if not fnmatch.filter(present[kind], name):
                    yield f"{kind} {name}: no release that has a page has it"


# -- the pages


def reference(text: str, release: str) -> str:
    """How a page names a proof."""
    kind, _, name = text.partition(" ")
    if kind == "run":
        model, _, mode = name.partition(":")
        if Job(release, model, mode) in plan((release,)):
            return f"{model} {mode}"
        others = [job.release for job in plan(RELEASES) if (job.model, job.mode) == (model, mode)]
        return f"{model} {mode} on {others[-1]}"
    if kind == "upstream":
        return f"vLLM's own `{name}`"
    return f"“{name}”" if kind == "case" else f"`{name.rpartition('::')[2]}`"


def said(answer: Answer) -> str:
    """An answer and its words, which may begin with it."""
    word = SAID[answer.says]
    if answer.why.startswith(word):
        return f"**{word}**{answer.why.removeprefix(word)}"
    return f"**{word}**: {answer.why}"


def page(release: str, found: list[Found]) -> str:
    """The page of a release in Markdown."""
    apart = [f for f in found if f.answers and all(a.says == "host" for a in f.answers)]
    reaching = [f for f in found if f not in apart]
    counts = {
        says: sum(any(a.says == says for a in f.answers) for f in reaching)
        for says in ("runs", "refused")
    }
    lines = [
        f"# What reaches an NPU in vLLM {release}",
        "",
        "Made by `python scripts/option_table.py` from the emitted tree. *Runs* names a simulated "
        "run ([simulated-runs.md](../simulated-runs.md)) or a test that sets it; *refused* names a "
        "case of `verify --refusals` that wants a clear error at start-up, or a test. What has "
        "both runs with some values and is refused with others. There is no third answer: an item "
        "without one, and a run that does not name what it is said to run, end the script with an "
        "error.",
        "",
        f"{len(reaching)} items reach the device: {counts['runs']} run, {counts['refused']} are "
        f"refused. {len(apart)} others [do not](#what-does-not-reach-the-device).",
        *tables(release, reaching, "##"),
        "",
        "## What does not reach the device",
        *tables(release, apart, "###"),
    ]
    return "\n".join(lines) + "\n"


def tables(release: str, found: list[Found], mark: str) -> Iterator[str]:
    """A table for each kind, with a row for each answer."""
    for kind, title in TITLES.items():
        rows: defaultdict[tuple[Answer, ...], list[str]] = defaultdict(list)
        for item, answers in found:
            if item.kind == kind:
                rows[answers].append(item.name)
        if rows:
            yield from ("", f"{mark} {title}", "", "| | answer | by |", "| --- | --- | --- |")
        for answers, names in rows.items():
            says = "; ".join(said(a) for a in answers)
            # Answers are written for docs/port/, where not-ported.md has them too.
            says = re.sub(r"\]\(([\w-]+\.md)", r"](../port/\1", says)
            by = list(dict.fromkeys(reference(b, release) for a in answers for b in a.by))
            shown = ", ".join(f"`{name}`" for name in names)
            yield f"| {shown} | {says or '**none**'} | {', '.join(by)} |"


def not_ported(text: str, answers: Iterable[Answer]) -> str:
    """The text of not-ported.md with its table made anew."""
    rows = [*((a.part, a.why) for a in answers if a.part), *read_notes()]
    lines = ["| Part | What happens |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]
    block = "\n".join([BEGIN, *lines, END])
    pattern = re.escape(BEGIN) + r".*?" + re.escape(END)
    if not re.search(pattern, text, flags=re.DOTALL):
        raise TableError(f"{NOT_PORTED.name} has no place for the table: {BEGIN}")
    return re.sub(pattern, lambda _: block, text, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("releases", nargs="*", metavar="RELEASE", default=list(WRITTEN))
    parser.add_argument("--check", action="store_true", help="read no release, write nothing")
    parser.add_argument("--tree", type=Path, help="an emitted tree, in place of one made now")
    cache = platformdirs.user_cache_path("vllm-npu-migrate") / "kernel-table"
    parser.add_argument("--kernels", type=Path, default=cache, help="--state of kernel_table.py")
    given = parser.parse_args(arguments)
    answers = read_answers()
    problems = list(unproven(answers))
    text = NOT_PORTED.read_text(encoding="utf-8")
    made = not_ported(text, answers)
    if given.check:
        problems += ["docs/port/not-ported.md is out of date"] if made != text else []
        print("\n".join(problems), end="\n" if problems else "")
        return 1 if problems else 0
    everything: list[Found] = []
    pages: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for release in given.releases:
            tree = given.tree or emitted(release, Path(scratch) / release)
            source = Source(tree)
            found = answer_all(source, answers)
            problems += (f"{release}: {said}" for said in unshown(found, source))
            found += kernels(rows_of_kernels(survey_release(release, given.kernels)), answers)
            everything += found
            problems += [
                f"{release}: {f.item.kind} {f.item.name} has no answer"
                for f in found
                if not f.answers
            ]
            pages[release] = page(release, found)
    if set(given.releases) >= set(WRITTEN):
        problems += unused(everything, answers)
    for problem in problems:
        print(problem)
    if not problems:
        NOT_PORTED.write_text(made, encoding="utf-8")
        for release in set(pages) & set(WRITTEN):
            PAGES.mkdir(exist_ok=True)
            (PAGES / f"{release}.md").write_text(pages[release], encoding="utf-8")
    return 1 if problems else 0


def emitted(release: str, folder: Path) -> Path:
    """The emitted tree of a release."""
    done = command("apply", "-q", fetch(release), "-o", folder)
    if done.returncode != 0:
        raise TableError(f"apply exits {done.returncode} for {release}: {done.stderr.strip()}")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
