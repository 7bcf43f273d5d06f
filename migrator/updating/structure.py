# SPDX-License-Identifier: Apache-2.0
"""Three-way merge of Python modules by their definitions.

A module is cut into blocks of whole lines: imports, functions, classes, assignments and other
statements, each with the comments and blank lines above it; put together they are the file, byte
for byte. Blocks are matched by what they define, so that definitions that moved, or that were
added next to each other, do not get into each other's way. The contents of a block that both sides
changed are merged by blocks again (classes, and bodies of a plain `if`), by names
(`from x import …`), or by lines.

Where blocks cannot be told apart or both sides moved them, there is no structural merge (`None`),
and the caller falls back to lines.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from migrator.updating.lines import (
    Clean,
    Conflict,
    Hunk,
    Lines,
    conflicts,
    join,
    merge_lines,
)
from migrator.updating.statements import first_line, merge_statement

RENAMED = 0.6
"""Share of a definition's lines that has to be the same for it to count as renamed."""
WIDTH = 88
"""Columns that a line of imports may have before it is broken; vLLM's own."""

_WithBody = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If

Key = tuple[str, ...]
"""What a block defines, such as `("def", "forward")`; equal in all versions of a module."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a module that belong to one statement."""

    key: Key
    lines: Lines
    statement: ast.stmt | None = None
    """None where several statements share the lines, and for the lines after the last one."""
    first: int = 0
    """Number of the first line in the file, from 0 on."""


@dataclass
class Merged:
    """A structural merge."""

    hunks: list[Hunk]
    rewritten: Counter[bytes] = field(default_factory=Counter)
    """Lines of imports, without the white space around them, that were written anew from the names
    that both sides want."""


class _NoStructureError(Exception):
    """The blocks of the three versions cannot be matched."""


def parse(data: bytes) -> ast.Module | None:
    """The module's syntax tree; None where it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Unlike ast.parse, this refuses `return` outside of functions and the like.
            compile(data, "merged", "exec", dont_inherit=True)
            return ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def merge(base: Lines, ours: Lines, theirs: Lines) -> Merged | None:
    """Merge three versions of a module by its definitions; None where that cannot be done."""
    merged = Merged([])
    try:
        b, o, t = (_split(version) for version in (base, ours, theirs))
        merged.hunks = join(_merge_bodies(b, o, t, merged.rewritten))
    except (_NoStructureError, RecursionError):
        return None
    return merged


def defined_twice(lines: Lines) -> Counter[Key]:
    """Names that a module or one of its classes defines more than once, and how often."""
    module = parse(b"".join(lines))
    if module is None:
        return Counter()
    found: Counter[Key] = Counter()
    todo: list[tuple[Key, list[ast.stmt]]] = [((), module.body)]
    while todo:
        above, body = todo.pop()
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = (*above, statement.name)
                found[name] += 1
                if isinstance(statement, ast.ClassDef):
                    todo.append((name, statement.body))
    return Counter({name: count for name, count in found.items() if count > 1})


# ---- blocks --------------------------------------------------------------------------------


def _split(lines: Lines) -> list[Block]:
    data = b"".join(lines)
    module = parse(data)
    # Python ends lines at a lone carriage return too; numbers of lines would not fit then.
    if module is None or data.count(b"\r") != data.count(b"\r\n"):
        raise _NoStructureError
    return _named(_blocks(module.body, lines, 0, len(lines)))


def _blocks(body: Sequence[ast.stmt], lines: Lines, start: int, stop: int) -> list[Block]:
    """Cut lines `start` to `stop` into the blocks of the statements in `body`."""
    blocks: list[Block] = []
    groups: list[tuple[int, int, list[ast.stmt]]] = []
    for statement in body:
        first, last = first_line(statement), statement.end_lineno or statement.lineno
        if groups and first < groups[-1][1]:
            old_first, old_last, those = groups[-1]
            groups[-1] = (old_first, max(old_last, last), [*those, statement])
        else:
            groups.append((first, last, [statement]))
    at = start
    for first, last, those in groups:
        if first < at:
            raise _NoStructureError
        indent = those[0].col_offset
        end = last
        while end < stop and _is_deeper_comment(lines[end], indent):
            end += 1
        single = those[0] if len(those) == 1 else None
        key = _key(single) if single is not None else ("many", *map(ast.unparse, those))
        blocks.append(Block(key, lines[at:end], single, at))
        at = end
    if at < stop:
        blocks.append(Block(("end",), lines[at:stop], None, at))
    return blocks


def _is_deeper_comment(line: bytes, indent: int) -> bool:
    text = line.lstrip(b" \t")
    return text.startswith(b"#") and len(line) - len(text) > indent


def _key(statement: ast.stmt) -> Key:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return ("def", statement.name)
        case ast.ImportFrom():
            return ("from", "." * statement.level + (statement.module or ""))
        case ast.Import():
            return ("import", *sorted(ast.unparse(name) for name in statement.names))
        case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
            return ("=", ast.unparse(target))
        case ast.If():
            return ("if", ast.unparse(statement.test))
        case ast.Try():
            return ("try", ast.unparse(statement.body[0])[:200])
        case ast.Expr(value=ast.Constant(value=str())):
            return ("text",)
        case ast.Expr(value=ast.Call()):
            return ("call", ast.unparse(statement))
    return ("other", ast.unparse(statement))


def _named(blocks: Sequence[Block]) -> list[Block]:
    """The same blocks with keys that differ: equal neighbours become one, others get a number."""
    together: list[Block] = []
    for block in blocks:
        last = together[-1] if together else None
        if last is not None and last.key == block.key and block.key[0] in ("def", "from"):
            together[-1] = Block(last.key, last.lines + block.lines, None, last.first)
        else:
            together.append(block)
    seen: Counter[Key] = Counter()
    named = []
    for block in together:
        count = seen[block.key]
        seen[block.key] += 1
        named.append(replace(block, key=(*block.key, f"#{count}")) if count else block)
    return named


# ---- merging -------------------------------------------------------------------------------


def _merge_bodies(
    base: Sequence[Block], ours: Sequence[Block], theirs: Sequence[Block], rewritten: Counter[bytes]
) -> list[Hunk]:
    _refuse_unequal_repeats(base, ours, theirs)
    theirs = _follow_renames(base, ours, theirs)
    ours = _follow_renames(base, theirs, ours)
    b, o, t = ({block.key: block for block in blocks} for blocks in (base, ours, theirs))
    contents: dict[Key, list[Hunk]] = {}
    for key in (b | o | t).keys() - {("end",)}:
        contents[key] = _merge_block(b.get(key), o.get(key), t.get(key), rewritten)
    hunks: list[Hunk] = []
    for key in _order(b, o, t, contents):
        _append(hunks, contents[key])
    ends = [blocks[("end",)].lines if ("end",) in blocks else () for blocks in (b, o, t)]
    _append(hunks, merge_lines(*ends))
    return hunks


def _append(hunks: list[Hunk], more: Sequence[Hunk]) -> None:
    """Put hunks after others; a block that was the last of its file may lack its line's end."""
    if more and hunks and isinstance(hunks[-1], Clean) and hunks[-1].lines:
        *lines, last = hunks[-1].lines
        if not last.endswith(b"\n"):
            hunks[-1] = Clean((*lines, last + b"\n"))
    hunks.extend(more)


def _refuse_unequal_repeats(*versions: Sequence[Block]) -> None:
    """Blocks with the same name are matched by their numbers, where all versions have as many."""
    repeats = [Counter(block.key for block in v if block.key[-1][:1] == "#") for v in versions]
    names = [{key[:-1] for key in counts} for counts in repeats]
    present = [{block.key for block in version} for version in versions]
    for name in set().union(*names):
        counts = {
            sum(key[: len(name)] == name and len(key) == len(name) + 1 for key in keys)
            for keys, have in zip(repeats, present, strict=True)
            if name in have
        }
        if len(counts) > 1:
            raise _NoStructureError


def _follow_renames(
    base: Sequence[Block], other: Sequence[Block], renaming: Sequence[Block]
) -> list[Block]:
    """Give definitions that one side renamed the key that they had, where the other edited them."""
    known = {block.key for block in base}
    there = {block.key: block for block in other}
    now = {block.key for block in renaming}
    new = [b for b in renaming if b.key[0] == "def" and b.key not in known and b.key not in there]
    renamed: dict[Key, Key] = {}
    for block in base:
        edited = there.get(block.key)
        gone = block.key[0] == "def" and block.key not in now
        if not gone or edited is None or edited.lines == block.lines:
            continue
        scored = [(_likeness(block.lines, b.lines), b.key) for b in new if b.key not in renamed]
        if scored and max(scored)[0] >= RENAMED:
            renamed[max(scored)[1]] = block.key
    return [replace(b, key=renamed.get(b.key, b.key)) for b in renaming]


def _likeness(one: Lines, other: Lines) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _order(
    b: dict[Key, Block], o: dict[Key, Block], t: dict[Key, Block], contents: dict[Key, list[Hunk]]
) -> list[Key]:
    """The order of the blocks: that of the side which moved some, with the other's put in."""
    common = b.keys() & o.keys() & t.keys()
    orders = [[key for key in side if key in common] for side in (b, o, t)]
    if orders[1] in (orders[2], orders[0]):
        main, other = t, o
    elif orders[2] == orders[0]:
        main, other = o, t
    else:
        raise _NoStructureError
    result = [key for key in main if contents.get(key)]
    placed = set(result)
    behind: dict[Key | None, list[str]] = {}
    for number, key in enumerate(main):
        if key not in b and key not in other:
            behind.setdefault(_before(list(main), number, b.keys() | {key}), []).append(key[0])
    keys = list(other)
    for number, key in enumerate(keys):
        if key in placed or not contents.get(key):
            continue
        anchor = _before(keys, number, b.keys())
        kinds = [key[0], *behind.get(anchor, [])]
        if len(kinds) > 1 and not set(kinds) <= {"def", "from", "import", "="}:
            # Statements that do something, put at the same place by both sides: their order may
            # matter, and nothing tells which one is right.
            raise _NoStructureError
        before = _before(keys, number, placed)
        result.insert(result.index(before) + 1 if before is not None else 0, key)
        placed.add(key)
    return result


def _before(keys: Sequence[Key], number: int, among: Collection[Key]) -> Key | None:
    """The nearest key above the one at `number` that is among the given ones."""
    return next((key for key in reversed(keys[:number]) if key in among), None)


def _merge_block(
    base: Block | None, ours: Block | None, theirs: Block | None, rewritten: Counter[bytes]
) -> list[Hunk]:
    """The merged lines of one block; none where it is to go."""
    b, o, t = ((() if block is None else block.lines) for block in (base, ours, theirs))
    if t in (o, b):
        return [Clean(o)] if o else []
    if o == b:
        return [Clean(t)] if t else []
    if base is None or ours is None or theirs is None:
        if _alone(o) == _alone(t):
            return [Clean(o)]
        # Added by both, or changed by one side and deleted by the other.
        return [Conflict(b, o, t)] if not o or not t else merge_lines(b, o, t)
    found = _merge_inside(base, ours, theirs, rewritten)
    return _merge_whole(base, ours, theirs) if found is None else found


def _merge_whole(base: Block, ours: Block, theirs: Block) -> list[Hunk]:
    """Merge a block by its statements, or by lines where it has none."""
    versions = [
        (block.lines, block.first, block.statement)
        for block in (base, ours, theirs)
        if block.statement is not None
    ]
    if len(versions) < 3:
        return merge_lines(base.lines, ours.lines, theirs.lines)
    return merge_statement(versions)


def _alone(lines: Lines) -> bytes:
    """A block without the blank lines around it."""
    return b"".join(lines).strip(b"\r\n")


def _merge_inside(
    base: Block, ours: Block, theirs: Block, rewritten: Counter[bytes]
) -> list[Hunk] | None:
    """Merge a block that both sides changed by what is in it; None where it is to go by lines."""
    statements = (base.statement, ours.statement, theirs.statement)
    if all(isinstance(s, ast.ImportFrom) for s in statements):
        return _merge_names((base, ours, theirs), rewritten)
    if all(isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef)) for s in statements):
        whole = _merge_whole(base, ours, theirs)
        parts = [_function_parts(block) for block in (base, ours, theirs)]
        cut = [hunk for b, o, t in zip(*parts, strict=True) for hunk in merge_lines(b, o, t)]
        return cut if conflicts(cut) < conflicts(whole) else whole
    if not all(_has_plain_body(s) for s in statements):
        return None
    (b_head, b), (o_head, o), (t_head, t) = (_open(block) for block in (base, ours, theirs))
    if not b or not o or not t:
        return None
    hunks = merge_lines(b_head, o_head, t_head)
    try:
        inner = _merge_bodies(b, o, t, rewritten)
    except _NoStructureError:
        return None
    # What is left of a body has to be something.
    if not any(isinstance(h, Conflict) or b"".join(h.lines).strip() for h in inner):
        return None
    return [*hunks, *inner]


def _has_plain_body(statement: ast.stmt | None) -> bool:
    return isinstance(statement, ast.ClassDef) or (
        isinstance(statement, ast.If) and not statement.orelse
    )


def _function_parts(block: Block) -> tuple[Lines, Lines, Lines]:
    """A function's header, its docstring and the rest, which are merged apart.

    So a changed signature is no conflict with a first statement that is new.
    """
    statement = block.statement
    assert isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
    first = _body_start(block, statement)
    if first is None:
        return block.lines, (), ()
    last = first
    if ast.get_docstring(statement, clean=False) is not None:
        last = (statement.body[0].end_lineno or 0) - block.first
        if len(statement.body) > 1 and first_line(statement.body[1]) - block.first < last:
            last = first
    return block.lines[:first], block.lines[first:last], block.lines[last:]


def _body_start(block: Block, statement: _WithBody) -> int | None:
    """Where in a block the body begins; None where that is on the header's line."""
    first = first_line(statement.body[0]) - block.first
    while first > 0 and _is_blank_or_comment(block.lines[first - 1]):
        first -= 1
    return first if first > first_line(statement) - block.first else None


def _open(block: Block) -> tuple[Lines, list[Block]]:
    """The header of a class or an `if`, and the blocks of its body."""
    statement = block.statement
    assert isinstance(statement, (ast.ClassDef, ast.If))
    first = _body_start(block, statement)
    if first is None:
        return block.lines, []
    padding = (b"",) * block.first
    body = _blocks(
        statement.body,
        padding + block.lines,
        block.first + first,
        block.first + len(block.lines),
    )
    return block.lines[:first], _named(body)


def _is_blank_or_comment(line: bytes) -> bool:
    text = line.strip()
    return not text or text.startswith(b"#")


# ---- imports -------------------------------------------------------------------------------


def _merge_names(
    blocks: tuple[Block, Block, Block], rewritten: Counter[bytes]
) -> list[Hunk] | None:
    """Merge `from x import …` as sets of names; None where comments or stars are in the way."""
    names: list[list[str]] = []
    heads: list[Lines] = []
    statements: list[Lines] = []
    for block in blocks:
        statement = block.statement
        assert isinstance(statement, ast.ImportFrom)
        first = first_line(statement) - block.first
        lines = block.lines[first:]
        if any(b"#" in line or b"\\" in line or b";" in line for line in lines):
            return None
        names.append([ast.unparse(name) for name in statement.names])
        heads.append(block.lines[:first])
        statements.append(lines)
    if any("*" in those for those in names):
        return None
    base, ours, theirs = names
    wanted = [n for n in theirs if n in ours or n not in base]
    wanted += [n for n in ours if n not in base and n not in theirs]
    for order in (str, str.casefold):
        if theirs == sorted(theirs, key=order):
            wanted.sort(key=order)
            break
    hunks = merge_lines(*heads)
    if not wanted:
        return hunks
    if wanted == theirs:
        lines = statements[2]
    elif wanted == ours:
        lines = statements[1]
    else:
        broken = any(len(those) > 1 for those in statements[1:])
        lines = _import_lines(blocks[2], statements[2], wanted, broken=broken)
    for those in statements[1:]:
        if those != lines:
            rewritten.update(line.strip() for line in those)
    return [*hunks, Clean(lines)]


def _import_lines(block: Block, lines: Lines, names: Sequence[str], *, broken: bool) -> Lines:
    statement = block.statement
    assert isinstance(statement, ast.ImportFrom)
    end = "\r\n" if lines[0].endswith(b"\r\n") else "\n"
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())].decode()
    head = f"{indent}from {'.' * statement.level}{statement.module or ''} import "
    one = head + ", ".join(names)
    if not broken and len(one) <= WIDTH:
        return ((one + end).encode(),)
    inner = [f"{indent}    {name},{end}".encode() for name in names]
    return (f"{head}({end}".encode(), *inner, f"{indent}){end}".encode())
