# SPDX-License-Identifier: Apache-2.0
"""Counts accelerator-specific source by its tokens: a second opinion on `coverage`'s numbers.

Nothing is shared with `migrator.coverage`, and no syntax tree is built: a module is a list of
tokens in brackets, cut into logical lines. F-strings are taken apart by their braces.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

CUDA_ONLY = set(
    "aiter amdsmi apex bitsandbytes cuda cudf cupy cutlass deep_ep deep_gemm fbgemm_gpu flash_attn "
    "flash_attn_interface flash_mla flashinfer gluon_kernels mori nvidia nvtx pplx_kernels pynvml "
    "quack rmm sageattention tilelang triton_kernels xformers".split()
)
OWN = re.compile(
    r"vllm\.(_\w*C(_\w+)*|cumem_allocator|vllm_flash_attn|"
    r"third_party\.(pynvml|deep_gemm|flashmla|triton_kernels))(\.|$)"
)
INTERESTING = re.compile(
    rb"cuda|nccl|triton|torch\.ops|_C\b|grid|jit|" + "|".join(sorted(CUDA_ONLY)).encode()
)
"""Bytes without which a file has nothing to count."""
SKIP = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


@dataclass
class Token:
    """A token that is no white space, and the bracket that it stands in."""

    text: str
    string: bool
    opener: int | None = None
    """Position of the innermost open bracket."""
    closes: int | None = None
    """Position of the bracket that this one closes."""


@dataclass
class Count:
    """What was counted in some modules."""

    kinds: Counter[str] = field(default_factory=Counter)
    kernels: set[str] = field(default_factory=set)
    launches: list[tuple[str, str]] = field(default_factory=list)
    """(Last name before the bracket, text in it) of what may be launches."""
    jit_is_triton: bool = False
    """Does the module at hand import `jit` from Triton?"""

    def total(self) -> dict[str, int]:
        """Sites by kind, launches of the kernels that were seen included."""
        found = Counter(self.kinds)
        found["triton-launch"] = sum(
            name in self.kernels or "grid" in index for name, index in self.launches
        )
        return {kind: count for kind, count in found.items() if count}


def count(files: Iterable[tuple[str, bytes]]) -> dict[str, int]:
    """Sites of each kind in the modules (path, bytes)."""
    found = Count()
    for path, data in files:
        if INTERESTING.search(data):
            found.jit_is_triton = (
                re.search(rb"^from triton import .*\bjit\b", data, re.M) is not None
            )
            for line in logical_lines(data.decode("utf-8")):
                _count_line(line, path, found)
    return found.total()


def logical_lines(text: str) -> Iterator[list[Token]]:
    """The module's tokens, one list a logical line."""
    line: list[Token] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in SKIP:
            continue
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if line:
                yield _bracketed(line)
            line = []
        else:
            line.append(Token(token.string, token.type == tokenize.STRING))


def _bracketed(line: list[Token]) -> list[Token]:
    open_: list[int] = []
    for position, token in enumerate(line):
        if not token.string and token.text in (")", "]", "}"):
            token.closes = open_.pop()
        token.opener = open_[-1] if open_ else None
        if not token.string and token.text in ("(", "[", "{"):
            open_.append(position)
    return line


def _count_line(line: list[Token], path: str, found: Count) -> None:
    texts = [token.text for token in line]
    if texts[0] in ("import", "from"):
        _count_import(texts, path, found)
        return
    if len(line) == 1 and line[0].string:
        return  # a docstring
    decorator = "".join(texts[1:]).partition("(")[0] if texts[0] == "@" else ""
    if decorator in ("triton.jit", "gluon.jit", "tl.jit") or (
        decorator == "jit" and found.jit_is_triton
    ):
        found.kinds["triton-kernel"] += 1
        found.kernels.add("@next")
    if texts[0] in ("def", "async") and "@next" in found.kernels:
        found.kernels.discard("@next")
        found.kernels.add(texts[texts.index("def") + 1])
    for position, token in enumerate(line):
        if token.string:
            _count_string(line, position, found)
        else:
            _count_name(line, position, found)


def _count_import(texts: list[str], path: str, found: Count) -> None:
    if texts[0] == "import":
        names = ["".join(part).partition(" as ")[0] for part in _split(texts[1:])]
    else:
        at = texts.index("import")
        module = "".join(texts[1:at])
        level = len(module) - len(module.lstrip("."))
        if level:
            package = path.removesuffix(".py").split("/")
            package = package[: len(package) - level]
            module = ".".join([*package, module[level:]]).strip(".")
        rest = [t for t in texts[at + 1 :] if t not in ("(", ")")]
        names = [module, *(f"{module}.{''.join(p).partition(' as ')[0]}" for p in _split(rest))]
    if any(n.partition(".")[0] in CUDA_ONLY or OWN.match(n) for n in names):
        found.kinds["cuda-import"] += 1
    elif any(n == "torch.cuda" or n.startswith("torch.cuda.") for n in names):
        found.kinds["torch-cuda"] += 1
    elif any(re.search(r"(^|[._])(py)?nccl|NCCL|Nccl", n) for n in names):
        found.kinds["nccl"] += 1


def _split(texts: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for text in texts:
        if text == ",":
            yield part
            part = []
        else:
            part.append(f" {text} " if text == "as" else text)
    if part:
        yield part


def _count_name(line: list[Token], at: int, found: Count) -> None:
    def text(offset: int) -> str:
        place = at + offset
        inside = 0 <= place < len(line)
        return line[place].text if inside and not line[place].string else ""

    match text(0):
        case "torch" if text(-1) != "." and text(1) == ".":
            if text(2) == "cuda":
                found.kinds["torch-cuda"] += 1
            elif text(2) == "ops" and re.fullmatch(r"_\w*C(_\w+)*", text(4)):
                found.kinds["custom-op"] += 1
        case "is_cuda" | "is_cuda_alike" if text(-1) == ".":
            if text(1) == "(":
                found.kinds["platform-branch"] += 1
            elif text(0) == "is_cuda" and not text(-2).endswith("platform"):
                found.kinds["tensor-is-cuda"] += 1
        case "cuda" if text(-1) == "." and text(1) == "(" and text(-2) != "torch":
            found.kinds["cuda-call"] += 1
        case "import_module" | "resolve_obj_by_qualname" | "__import__" if text(1) == "(":
            inner = line[at + 2] if at + 2 < len(line) else None
            if inner is not None and inner.string:
                name = inner.text.strip("'\"")
                if name.partition(".")[0] in CUDA_ONLY or OWN.match(name):
                    found.kinds["cuda-import"] += 1
        case "(" if text(-1) == "]":
            opening = line[at - 1].closes
            if opening and re.fullmatch(r"\w+", line[opening - 1].text):
                index = "".join(t.text for t in line[opening + 1 : at - 1])
                if _rooted_in_name(line, opening - 1):
                    found.launches.append((line[opening - 1].text, index))


def _rooted_in_name(line: list[Token], at: int) -> bool:
    """Is the name the end of a chain `a.b.c` that begins with a name?"""
    while at >= 2 and line[at - 1].text == ".":
        at -= 2
        if line[at].string or not re.fullmatch(r"[A-Za-z_]\w*", line[at].text):
            return False
    return not line[at].string


def _count_string(line: list[Token], at: int, found: Count) -> None:
    text = line[at].text
    prefix, body = re.match(r"(?s)([A-Za-z]*)(.*)", text).groups()  # type: ignore[union-attr]
    quote = 3 if body[:3] in ('"""', "'''") else 1
    body = body[quote:-quote]
    formatted = "f" in prefix.lower()
    if formatted:
        for expression in _expressions(body):
            inner = Count()
            for part in logical_lines(f"_({expression})\n"):
                _count_line(part, "vllm/x.py", inner)
            found.kinds.update(inner.kinds)
            found.launches += inner.launches
    elif re.fullmatch(r"(.*:)?nccl(,.*)?", body):
        found.kinds["nccl"] += 1
    head = body.partition("{")[0] if formatted else body
    if re.fullmatch(r"cuda(:\d*)?", head):
        if _is_compared(line, at):
            found.kinds["device-type"] += 1
        elif _is_a_device(line, at):
            found.kinds["device-literal"] += 1


def _expressions(body: str) -> Iterator[str]:
    """What stands in the braces of an f-string, without conversions and formats."""
    body = body.replace("{{", "").replace("}}", "")
    for found in re.finditer(r"\{((?:[^{}]|\{[^{}]*\})*)\}", body):
        inner = re.sub(r"(![rsa])?(:[^\[\]()'\"]*)?=?$", "", found.group(1))
        yield inner.replace("\\n", " ")


def _is_a_device(line: list[Token], at: int) -> bool:
    """Is the literal an argument, a default or a value where a device belongs?"""
    after = line[at + 1].text if at + 1 < len(line) else ""
    opener = line[at].opener
    before = line[at - 1].text if at else ""
    if opener is None:
        target = [t.text for t in line[: at - 1]]
        if before != "=" or after or "(" in target or line[0].text in ("return", "yield"):
            return False
        name = target[: target.index(":")] if ":" in target else target
        return "device" in name[-1].lower()
    if line[opener].text != "(" or after not in (",", ")"):
        return False
    called = line[opener - 1].text if opener else ""
    if before in ("(", ","):
        return called in ("device", "to", "Generator", "autocast", "get_device_module")
    if before != "=":
        return False
    if line[0].text in ("def", "async") and line[opener - 2].text == "def":
        start = max(
            n for n in range(opener, at) if line[n].text in ("(", ",") and _level(line, n, opener)
        )
        return "device" in line[start + 1].text
    return line[at - 2].text in ("device", "device_type", "device_types", "map_location")


def _level(line: list[Token], n: int, opener: int) -> bool:
    return n == opener or line[n].opener == opener


def _is_compared(line: list[Token], at: int) -> bool:
    """Is the literal, or the collection that it stands in, compared with a device's type?"""
    opener = line[at].opener
    first, last = at, at
    if opener is not None and line[opener].text in ("(", "[", "{"):
        before = line[opener - 1].text if opener else ""
        if before == "in":
            first = opener
    before = line[first - 1].text if first else ""
    if before in ("==", "!=", "in"):
        left = first - 2
        if line[left].text == "not":
            left -= 1
        return _asks(line, left) and not _earlier_in_collection(line, first, at)
    after = line[last + 1].text if last + 1 < len(line) else ""
    return after in ("==", "!=") and _asks_right(line, last + 2)


def _earlier_in_collection(line: list[Token], first: int, at: int) -> bool:
    """Was another `cuda` of the same collection counted already?"""
    return any(
        token.string and re.fullmatch(r"['\"]cuda(:\d*)?['\"]", token.text)
        for token in line[first + 1 : at]
    )


def _asks(line: list[Token], at: int) -> bool:
    text = line[at].text
    if text == ")":
        opening = line[at].closes
        return opening is not None and opening > 0 and line[opening - 1].text == "str"
    if text == "type" and line[at - 1].text == ".":
        owner = line[at - 2].text
        return "device" in owner or owner == ")"
    return "device" in text


def _asks_right(line: list[Token], at: int) -> bool:
    end = at
    while end + 2 < len(line) and line[end + 1].text == ".":
        end += 2
    return _asks(line, end)
