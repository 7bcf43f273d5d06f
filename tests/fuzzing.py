# SPDX-License-Identifier: Apache-2.0
"""Inputs for the fuzzer, and what has to hold for every one of them.

A case is one module at a path of some tree, with the rules that look at it. Everything is drawn
from one `random.Random`, so that a seed gives the same cases again.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import random
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import pathspec

from migrator.codemod.engine import FileResult, migrate_file
from migrator.codemod.rule import Example, Rule, Status
from migrator.files.tree import Entry, Tree
from migrator.rules import all_rules
from tests.rules.cuda_path import on_cuda


@dataclass(frozen=True)
class Case:
    """One input."""

    kind: str
    path: str
    data: bytes
    rules: tuple[str, ...]
    tree: Tree
    """The tree around it, for rules that look at other files; what it has at `path` is ignored."""
    cuda: bool = False
    """Is the module close enough to a real one for the comparison of its CUDA side to say much?"""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What was done to get here."""


class Overlay(Tree):
    """Another tree with one file exchanged; both are only read."""

    def __init__(self, below: Tree, path: str, data: bytes) -> None:
        super().__init__({}, below.name)
        self.below = below
        self.path = path
        self.data = data

    def entries(self) -> Iterator[Entry]:
        """As below, the file with it."""
        rest = {entry.path: entry for entry in self.below.entries()}
        yield from (rest | {self.path: Entry(self.path, 0o644)}).values()

    def exists(self, path: str) -> bool:
        """As below, the file with it."""
        return path == self.path or self.below.exists(path)

    def occupied(self, path: str) -> bool:
        """As below."""
        return self.below.occupied(path)

    def read(self, path: str) -> bytes | None:
        """The file, or what is below."""
        return self.data if path == self.path else self.below.read(path)


@cache
def rules_by_code() -> Mapping[str, Rule]:
    return {rule.code: rule for rule in all_rules()}


@cache
def looks_at(code: str, path: str) -> bool:
    """Would the planner ever show a file at `path` to the rule?"""
    rule = rules_by_code()[code]
    if path in rule.paths or any(path in site.paths for site in rule.sites):
        return True
    if not rule.triggers and rule.provides is None:
        return False  # it only adds files
    return pathspec.GitIgnoreSpec.from_lines(rule.paths).match_file(path)


def rules_for(path: str) -> tuple[str, ...]:
    """Codes of the rules that may look at a file at `path`."""
    return tuple(code for code in rules_by_code() if looks_at(code, path))


# ---- what has to hold ------------------------------------------------------------------------


def run(case: Case, data: bytes) -> FileResult:
    rules = [rules_by_code()[code] for code in case.rules]
    return migrate_file(case.path, data, rules, Overlay(case.tree, case.path, data))


def broken(case: Case) -> str | None:
    """The first property that does not hold; None where all do. Exceptions are let through."""
    result = run(case, case.data)
    changed = [r for r in result.records if r.status is Status.CHANGED]
    if result.path != case.path or any(r.path != case.path for r in result.records):
        return "a result for another path"
    if result.failure is not None:
        if result.after is not None or result.records:
            return "a failure with a result"
        if "a bug" in result.failure:
            return f"crash: {result.failure}"
        if re.search(r"tabs and spaces|unindent does not", result.failure) and _odd_indents(
            case.data
        ):
            return None  # no indentation fits in there; the file is named and left
        if not _compiles(case.data):
            return (
                None  # it parses, and is no Python all the same, which an edit may bring to light
            )
        if re.search(r"does not parse|two rules replace|lies inside a node", result.failure):
            return f"its own edits are refused: {result.failure}"
        return None
    if result.after is None:
        return "records of changes, and no change" if changed else None
    if result.after != case.data and not changed:
        return "bytes changed where no rule matched"
    return (
        _unparsable(case.data, result.after)
        or _lost_lines(case.data, result)
        or _not_idempotent(case, result.after)
        or (_changed_on_cuda(case.data, result.after) if case.cuda else None)
    )


def _compiles(data: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, "x", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _odd_indents(data: bytes) -> bool:
    return re.search(rb"(?m)^[ \t\f]*[\t\f]", data) is not None


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def unparsable(after: bytes) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(after)
    except (SyntaxError, ValueError) as error:
        return f"unparsable output: {error}"
    return None


def _unparsable(before: bytes, after: bytes) -> str | None:
    problem = unparsable(after)
    if problem is not None:
        return problem
    if _compiles(before) and not _compiles(after):
        return "the output does not compile, the input does"
    return None


def _lost_lines(before: bytes, result: FileResult) -> str | None:
    """Lines outside of every changed site, and of the function that it is in, stay in their order.

    A function's decorators belong to it; blank lines move with the imports that they set apart.
    """
    assert result.after is not None
    old, new = before.split(b"\n"), result.after.split(b"\n")
    if before.startswith(b"\xef\xbb\xbf") != result.after.startswith(b"\xef\xbb\xbf"):
        return "the byte order mark came or went"
    touched: set[int] = set()
    for record in result.records:
        if record.status is Status.CHANGED and record.before is not None:
            touched.update(range(record.before.line - 1, record.before.end_line))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for node in ast.walk(ast.parse(before)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                last = node.lineno if isinstance(node, ast.ClassDef) else node.end_lineno or 0
                if touched.intersection(range(first - 1, last)):
                    touched.update(range(first - 1, last))
    if b"\r" in before.replace(b"\r\n", b""):
        return None  # a lone carriage return ends a line for Python and not for git
    place = iter(new)
    for number, line in enumerate(old):
        if number not in touched and line.strip() and not any(line == there for there in place):
            return f"line {number + 1} went, and no record says so: {line[:80]!r}"
    return None


def _not_idempotent(case: Case, after: bytes) -> str | None:
    again = run(case, after)
    if again.failure is not None:
        return f"a second run fails: {again.failure}"
    if again.after is not None and again.after != after:
        return "a second run changes something"
    if any(r.status is Status.CHANGED for r in again.records):
        return "a second run records changes"
    return None


def _changed_on_cuda(before: bytes, after: bytes) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            old, new = on_cuda(before, after)
    except RecursionError:
        return None
    if old == new:
        return None
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    shown = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    return "CUDA's side changed: " + " / ".join(shown[:6])[:400]


# ---- generated modules -----------------------------------------------------------------------

WORDS = (
    *"torch cuda npu is_cuda device device_type current_platform x self None True backend".split(),
    *"torch_npu forward_cuda forward_oot forward_native forward CustomOp rms_norm nccl".split(),
    *"rotary_embedding fused_add_rms_norm SiluAndMul RMSNorm Worker init_device".split(),
    *"GPUModelRunner GPUWorker init_distributed_environment init_process_group Event".split(),
    *"synchronize empty_cache Stream graph CUDAGraph current_stream weak_ref_tensor envs".split(),
    *"environment_variables platform vllm import_ _ __all__ list_ match case type async_".split(),
    # Python takes full-width letters in names for plain ones.
    *("\uff43\uff55\uff44\uff41", "\uff2e\uff30\uff35", "torch\u0663", "\u00e9"),
)
"""Names that rules look for, and odd ones."""


@cache
def examples() -> tuple[tuple[str, Example], ...]:
    return tuple((rule.code, example) for rule in all_rules() for example in rule.examples)


def alone(path: str, source: bytes, tree: Tree, kind: str) -> Iterator[Case]:
    """The module with every rule that may look at it: each alone, then all together."""
    codes = rules_for(path)
    for code in codes:
        yield Case(kind, path, source, (code,), tree)
    yield Case(kind, path, source, codes, tree)


def paths() -> tuple[str, ...]:
    """The paths that any rule names, and one that none does."""
    found = {path for rule in all_rules() for site in rule.sites for path in site.paths}
    found |= {example.path for _, example in examples()}
    return (*sorted(found), "vllm/any.py")


def with_words(rng: random.Random, source: str) -> str:
    """Give most names of a generated module names that rules look for."""
    names = sorted(set(re.findall(r"[^\W\d]\w*", source)))
    for name in names:
        if not keyword.iskeyword(name) and rng.random() < 0.7:
            word = rng.choice(WORDS)
            source = re.sub(rf"(?<![\w.]){re.escape(name)}\b", lambda _: word, source)  # noqa: B023
    return source


def grafted(rng: random.Random, piece: str) -> tuple[str, bytes, Tree]:
    """A generated piece of code put into an example of a rule, at some line."""
    _, example = rng.choice(examples())
    lines = example.before.splitlines(keepends=True)
    at = rng.randrange(len(lines) + 1)
    below = lines[at] if at < len(lines) else ""
    indent = below[: len(below) - len(below.lstrip())]
    piece = textwrap.indent(piece if piece.endswith("\n") else piece + "\n", indent)
    source = "".join([*lines[:at], piece, *lines[at:]])
    data = source.encode("utf-8", "surrogatepass")
    return example.path, data, Tree({p: t.encode() for p, t in example.others})


# ---- mutations -------------------------------------------------------------------------------

Mutation = Callable[[random.Random, str, int], str]
"""Text and a line near which to change it, from 0 on → text."""


def _block(lines: Sequence[str], start: int) -> int:
    """Where the statement that begins at a line ends, by indentation."""
    first = lines[start]
    depth = len(first) - len(first.lstrip())
    stop = start + 1
    while stop < len(lines):
        line = lines[stop]
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        stop += 1
    return stop


def _at(rng: random.Random, lines: Sequence[str], near: int) -> int:
    """A line with code on it, mostly near the wanted one."""
    if not lines:
        return 0
    where = near + rng.randint(-6, 6) if rng.random() < 0.7 else rng.randrange(len(lines))
    where = min(max(where, 0), len(lines) - 1)
    while where and not lines[where].strip():
        where -= 1
    return where


def _indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _lines(change: Callable[[random.Random, list[str], int], None]) -> Mutation:
    """A mutation from one that changes a list of lines at a line."""

    def mutate(rng: random.Random, text: str, near: int) -> str:
        lines = text.split("\n")
        change(rng, lines, _at(rng, lines, near))
        return "\n".join(lines)

    mutate.__name__ = change.__name__.strip("_")
    return mutate


@_lines
def delete_statement(_: random.Random, lines: list[str], at: int) -> None:
    del lines[at : _block(lines, at)]


@_lines
def duplicate_statement(_: random.Random, lines: list[str], at: int) -> None:
    stop = _block(lines, at)
    lines[stop:stop] = lines[at:stop]


@_lines
def swap_statements(_: random.Random, lines: list[str], at: int) -> None:
    middle = _block(lines, at)
    if middle < len(lines):
        stop = _block(lines, middle)
        lines[at:stop] = [*lines[middle:stop], *lines[at:middle]]


@_lines
def move_statement(rng: random.Random, lines: list[str], at: int) -> None:
    stop = _block(lines, at)
    block = lines[at:stop]
    del lines[at:stop]
    to = rng.randrange(len(lines) + 1)
    lines[to:to] = block


@_lines
def comment_between(_: random.Random, lines: list[str], at: int) -> None:
    lines.insert(at, f"{_indent_of(lines[at])}# between: é 😀 ${{}} type: ignore")


@_lines
def odd_comment(rng: random.Random, lines: list[str], at: int) -> None:
    signs = rng.choice(["\u2028", "\u0085", "\x1c", "\u200b", "\ufeff", "\x0c", "\x0b", "π\u202e"])
    lines[at] += f"  # {signs} remark"


@_lines
def decorate(rng: random.Random, lines: list[str], at: int) -> None:
    while at and not re.match(r"\s*(async def|def|class)\b", lines[at]):
        at -= 1
    indent = _indent_of(lines[at])
    what = rng.choice(["@functools.wraps(f)", "@(lambda f: f)", "@a.b[0](x := 1)", "@staticmethod"])
    lines[at:at] = [f"{indent}{what}", f"{indent}# between decorator and function", ""]


@_lines
def wrap(rng: random.Random, lines: list[str], at: int) -> None:
    """Put a statement below another one, which may be deep."""
    stop = _block(lines, at)
    indent = _indent_of(lines[at])
    depth = rng.choice([1, 1, 2, 5, 30, 95])
    header = rng.choice(
        [
            "if True:",
            "for _ in x:",
            "while x:",
            "with a as b, c:",
            "class A:",
            "async def f(x):",
            "def f(self, x, *, device):",
            "try:",
            "if x.is_cuda:",
            'if x.device.type == "npu":',
        ]
    )
    block = [f"{'    ' * depth}{line}" if line.strip() else line for line in lines[at:stop]]
    heads = [f"{indent}{'    ' * n}{header}" for n in range(depth)]
    tails = []
    if header == "try:":
        tails = [
            f"{indent}{'    ' * n}{rest}"
            for n in reversed(range(depth))
            for rest in ("except* E:", "    pass")
        ]
    lines[at:stop] = [*heads, *block, *tails]


@_lines
def wrap_in_match(_: random.Random, lines: list[str], at: int) -> None:
    stop = _block(lines, at)
    indent = _indent_of(lines[at])
    block = [f"        {line}" if line.strip() else line for line in lines[at:stop]]
    head = [f"{indent}match x, *y:", f"{indent}    case {{'a': [1, *_], **r}} | A(b=None) if z:"]
    lines[at:stop] = [*head, *block, f"{indent}    case _: pass"]


@_lines
def insert_statement(rng: random.Random, lines: list[str], at: int) -> None:
    statement = rng.choice(
        [
            *(
                "import torch",
                "import torch_npu",
                "from torch import cuda",
                "import torch.cuda as c",
            ),
            *("from vllm.platforms import current_platform", "from . import *", "global torch"),
            *("torch = None", "del x", "x = y = torch.cuda", "pass;", "x: torch.Tensor = f(x)"),
            *(
                "return x.is_cuda",
                "assert x.is_cuda, (x.is_cuda,)",
                "print(f'{x.is_cuda=!r:>{w}}')",
            ),
            *(
                "f'{torch.cuda.Event()}' f\"{x!r}\" 'y'",
                "lambda x: x.is_cuda",
                "[x for x in y if x]",
            ),
            *("torch.cuda.synchronize()", "with torch.cuda.stream(s): pass", "x if y else (yield)"),
            *(
                "x = [torch.cuda.Event() for _ in y if (z := x.is_cuda)]",
                '"""text"""',
                "nonlocal x",
            ),
            *("try: import torch_npu\nexcept ImportError: torch_npu = None", "type X = int"),
            *("def f[T: int](x: T) -> T: return x.is_cuda", "async with a: await x", "x @= y; z"),
            *(
                "torch.cuda.set_device(self.device); torch.cuda.empty_cache()",
                "if x: pass\nelse: y",
            ),
        ]
    )
    indent = _indent_of(lines[at])
    lines.insert(at, textwrap.indent(statement, indent))


@_lines
def semicolons(_: random.Random, lines: list[str], at: int) -> None:
    if at + 1 < len(lines) and _indent_of(lines[at]) == _indent_of(lines[at + 1]):
        lines[at : at + 2] = [f"{lines[at]}; {lines[at + 1].strip()};"]


@_lines
def one_line_body(_: random.Random, lines: list[str], at: int) -> None:
    while at and not lines[at].rstrip().endswith(":"):
        at -= 1
    if at + 1 < len(lines):
        lines[at : at + 2] = [f"{lines[at]} {lines[at + 1].strip()}"]


@_lines
def continue_line(rng: random.Random, lines: list[str], at: int) -> None:
    spaces = [m.start() for m in re.finditer(r"(?<=\S) (?=\S)", lines[at])]
    if spaces:
        where = rng.choice(spaces)
        lines[at] = f"{lines[at][:where]} \\\n   {lines[at][where:]}"


@_lines
def break_in_brackets(rng: random.Random, lines: list[str], at: int) -> None:
    where = lines[at].find("(")
    if where >= 0:
        new = rng.choice(["\n", "  # remark\n\n", "\n\x0c\n", "\\\n"])
        lines[at] = f"{lines[at][: where + 1]}{new}{lines[at][where + 1 :]}"


@_lines
def parenthesise(rng: random.Random, lines: list[str], at: int) -> None:
    found = list(re.finditer(r"[A-Za-z_][\w.]*(?:\(\w*\))?", lines[at]))
    if found:
        m = rng.choice(found)
        count = rng.choice([1, 1, 2, 40, 150])
        lines[at] = (
            f"{lines[at][: m.start()]}{'(' * count}{m[0]}{')' * count}{lines[at][m.end() :]}"
        )


@_lines
def long_line(rng: random.Random, lines: list[str], at: int) -> None:
    what = rng.choice(['"' + "x" * 100_000 + '"', "[" + "0, " * 5_000 + "]", "a" + " + a" * 300])
    lines.insert(at, f"{_indent_of(lines[at])}_ = {what}")


@_lines
def feed(rng: random.Random, lines: list[str], at: int) -> None:
    lines[at:at] = [rng.choice(["\x0c", "  \x0c", "\t", "    \t  "])]
    if rng.random() < 0.3:
        lines[at + 1] = "\x0c" + lines[at + 1]


@_lines
def trailing_space(rng: random.Random, lines: list[str], at: int) -> None:
    lines[at] += rng.choice([" ", "\t", "  \x0c", ";", " #"])


@_lines
def reindent(rng: random.Random, lines: list[str], at: int) -> None:
    more = rng.choice([" ", "    ", "\t"])
    stop = _block(lines, at)
    for n in range(at, stop):
        lines[n] = more + lines[n] if rng.random() < 0.9 else lines[n].removeprefix(more)


def tabs(_: random.Random, text: str, __: int) -> str:
    return re.sub(r"(?m)^(?: {4})+", lambda m: "\t" * (len(m[0]) // 4), text)


def narrow(_: random.Random, text: str, __: int) -> str:
    return re.sub(r"(?m)^(?: {4})+", lambda m: " " * (len(m[0]) // 4), text)


def rename(rng: random.Random, text: str, near: int) -> str:
    """Give a name another one: at one place, or everywhere."""
    lines = text.split("\n")
    at = _at(rng, lines, near)
    names = re.findall(r"[^\W\d]\w*", lines[at])
    if not names:
        return text
    name, new = rng.choice(names), rng.choice([*WORDS, rng.choice(names)])
    pattern = rf"\b{re.escape(name)}\b"
    if rng.random() < 0.5:
        return re.sub(pattern, lambda _: new, text)
    lines[at] = re.sub(pattern, lambda _: new, lines[at], count=1)
    return "\n".join(lines)


def shuffle_parameters(rng: random.Random, text: str, near: int) -> str:
    found = list(re.finditer(r"def \w+\(([^()]*)\)", text))
    if not found:
        return text
    found.sort(key=lambda m: abs(text.count("\n", 0, m.start()) - near))
    m = rng.choice(found[:3])
    parts = m[1].split(",")
    how = rng.choice(["shuffle", "star", "slash", "drop", "defaults", "rest"])
    if how == "shuffle":
        rng.shuffle(parts)
    elif how == "drop":
        parts.pop(rng.randrange(len(parts)))
    elif how == "defaults":
        parts = [p if "=" in p or not p.strip() or "*" in p else f"{p}=None" for p in parts]
    elif how == "rest":
        parts = [" *args", " **kwargs"]
    else:
        parts.insert(rng.randrange(len(parts) + 1), " *" if how == "star" else " /")
    return text[: m.start(1)] + ",".join(parts) + text[m.end(1) :]


def change_token(rng: random.Random, text: str, near: int) -> str:
    """Delete, duplicate or exchange one token."""
    lines = text.split("\n")
    at = _at(rng, lines, near)
    found = list(re.finditer(r"\w+|[^\w\s]|'[^']*'|\"[^\"]*\"", lines[at]))
    if not found:
        return text
    m = rng.choice(found)
    others = ["not", "is", "in", "==", "!=", "and", "or", "await", "*", "**", ",", ":=", "lambda: "]
    new = rng.choice(["", m[0] * 2, f"{m[0]} {m[0]}", rng.choice(others), rng.choice(found)[0]])
    lines[at] = lines[at][: m.start()] + new + lines[at][m.end() :]
    return "\n".join(lines)


def format_string(rng: random.Random, text: str, near: int) -> str:
    """Make an f-string of a string near the line, or put an expression into one."""
    found = list(re.finditer(r"(?<![\w\"'])([\"'])([^\"'\n\\{}]*)\1", text))
    if not found:
        return text
    found.sort(key=lambda m: abs(text.count("\n", 0, m.start()) - near))
    m = rng.choice(found[:4])
    inner = rng.choice(["{x.is_cuda}", "{torch.cuda.Event()!r}", "{x:{y}}", "{{}}", "{x=}", ""])
    return f"{text[: m.start()]}f{m[1]}{m[2]}{inner}{m[1]}{text[m.end() :]}"


MUTATIONS: tuple[Mutation, ...] = (
    *(delete_statement, duplicate_statement, swap_statements, move_statement, comment_between),
    *(odd_comment, decorate, wrap, wrap_in_match, insert_statement, semicolons, one_line_body),
    *(continue_line, break_in_brackets, parenthesise, long_line, feed, trailing_space, reindent),
    *(tabs, narrow, rename, rename, rename, shuffle_parameters, shuffle_parameters),
    *(change_token, change_token, format_string, insert_statement, insert_statement),
)


def crlf(_: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def some_crlf(rng: random.Random, data: bytes) -> bytes:
    return b"\n".join(line + b"\r" * (rng.random() < 0.2) for line in data.split(b"\n"))


def lone_cr(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + b"\r" + data[at:]


def bom(_: random.Random, data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data


def no_end(_: random.Random, data: bytes) -> bytes:
    return data.rstrip(b"\n")


def nul(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + b"\0" + data[at:]


def encoding(rng: random.Random, data: bytes) -> bytes:
    """Say an encoding in the first or second line, and mostly keep to it."""
    name = rng.choice(
        [
            "latin-1",
            "utf-8",
            "cp1252",
            "utf-16",
            "ascii",
            "koi8-r",
            "rot13",
            "utf-7",
            "utf-8-sig",
            "big5",
            "shift_jis",
            "no-such",
            "iso-2022-jp",
            "utf-32",
            "euc-kr",
            "idna",
            "hz",
            "cp037",
        ]
    )
    text = data.decode("utf-8", "replace").replace("\ufffd", "?")
    lead = rng.choice(["", "#!/usr/bin/python\n", "\x0c\n", "# -*- coding: utf-8 -*-\n"])
    text = f"{lead}# -*- coding: {name} -*-\n{text}"
    try:
        return text.encode(name if rng.random() < 0.8 else "latin-1")
    except (LookupError, UnicodeError):
        return text.encode("utf-8", "surrogatepass")


def flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(3) :]


BYTE_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(crlf, crlf, some_crlf, lone_cr, bom, bom, no_end, nul, encoding, encoding, encoding, flip),
)


def mutated(rng: random.Random, data: bytes, near: Sequence[int]) -> tuple[bytes, tuple[str, ...]]:
    """Some mutations of a file, mostly near the given lines (from 1 on), and their names.

    Most that make it no Python any more are taken back, since the rules do not see such a file.
    """
    text = data.decode("utf-8", "surrogateescape")
    done: list[str] = []
    wanted = rng.choice([1, 1, 2, 2, 3, 4, 6])
    for _ in range(wanted * 3):
        if len(done) == wanted:
            break
        mutation = rng.choice(MUTATIONS)
        lines = text.count("\n") + 1
        line = rng.choice(near) - 1 if near else rng.randrange(lines)
        changed = mutation(rng, text, min(line, lines - 1))
        if rng.random() < 0.05 or _parses(changed):
            text = changed
            done.append(mutation.__name__)
    data = text.encode("utf-8", "surrogateescape")
    if rng.random() < 0.35:
        change = rng.choice(BYTE_MUTATIONS)
        data = change(rng, data)
        done.append(change.__name__)
    return data, tuple(done)


# ---- smaller ones ----------------------------------------------------------------------------


def smaller(data: bytes, fails: Callable[[bytes], bool], budget: int = 1500) -> bytes:
    """Leave out lines, then words, as long as it still fails; at most `budget` tries."""
    for cut in (b"\n", b" "):
        parts = data.split(cut)
        size = max(len(parts) // 2, 1)
        while size and budget > 0:
            at = 0
            while at < len(parts) and budget > 0:
                budget -= 1
                fewer = [*parts[:at], *parts[at + size :]]
                if len(parts) > 1 and fails(cut.join(fewer)):
                    parts = fewer
                else:
                    at += size
            size //= 2
        data = cut.join(parts)
    return data
