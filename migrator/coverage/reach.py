# SPDX-License-Identifier: Apache-2.0
"""What of a tree an NPU may come to: a static graph of imports and calls, from the NPU's own code.

It is approximate, and leans to the side of saying "reachable":

- A function counts as called where its name is referred to in code that counts as run.
- A method counts as called where its name is asked of any object and its class, or one that
  inherits it without a method of its own, counts as used. `self.name` stays within the class.
- A function behind an operator `torch.ops.vllm.name` counts where the operator is named.
- `forward_cuda` and the like are what `CustomOp` calls on other platforms; they count only where
  their own module asks for them.
- Of conditions only those are decided that ask for the platform, the device or a CUDA library.
- What is reached through strings is seen where the string is passed to an import by name, stands in
  a file that the migration adds, or in vLLM's table of models.

What it can not see: `__getattr__`, plugins, and what other packages call.
"""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from migrator.codemod.matchers import Imports, cuda_only
from migrator.coverage.surface import MODULE, OPERATORS, Facts, Unit
from migrator.files.tree import module_name

REGISTRY = "vllm/model_executor/models/registry.py"
MODELS = "vllm.model_executor.models"
ENTRY_POINTS = (
    "vllm/__init__.py",
    "vllm/engine/arg_utils.py",
    "vllm/entrypoints/cli/main.py",
    "vllm/entrypoints/cli/serve.py",
    "vllm/entrypoints/llm.py",
    "vllm/entrypoints/openai/api_server.py",
    "vllm/v1/engine/async_llm.py",
    "vllm/v1/engine/core.py",
    "vllm/v1/engine/llm_engine.py",
    "vllm/v1/executor/abstract.py",
    "vllm/v1/executor/multiproc_executor.py",
    "vllm/v1/executor/uniproc_executor.py",
)
"""Modules that users and vLLM's own processes start from; all that they define counts as called."""
_AREAS = (
    (r"vllm/platforms/(?!(?:__init__|interface|npu)\.py)", "another platform"),
    (r"vllm/v1/worker/(?:cpu|xpu|tpu|hpu)_\w+\.py", "another platform's worker"),
    (
        r"vllm/model_executor/layers/quantization/(?!(?:__init__|base_config|schema)\.py)",
        "a quantisation method; none is ported",
    ),
    (
        r"vllm/model_executor/kernels/(?:linear|mxfp\w*|nvfp\w*)/",
        "kernels of quantised layers; no quantisation method is ported",
    ),
    (
        r"vllm/compilation/(?:passes/|\w*(?:fusion|functionalization|pass|matcher)\w*\.py)",
        "a pass over Inductor's graphs; the NPU platform turns them off",
    ),
    (
        r"vllm/(?:v1/)?attention/(?:backends|ops)/(?:mla|flashmla)\b|"
        r"vllm/model_executor/layers/(?:mla|attention/mla_attention)\.py",
        "latent attention as other backends have it",
    ),
    (
        r"vllm/(?:v1/)?attention/backends/(?:flash_attn\w*|flashinfer\w*|triton_attn|tree_attn|"
        r"flex_attention|xformers|cpu_attn|pallas|rocm\w*|hpc_attn|b12x\w*|turboquant\w*)\.py",
        "another attention backend",
    ),
    (r"vllm/third_party/|vllm/vllm_flash_attn/", "a CUDA package that vLLM brings along"),
    (r"vllm/device_allocator/", "sleep mode; the NPU platform has none"),
    (r"vllm/_(?:aiter|xpu|ipex)_ops\.py|vllm/kernels/\w*(?:aiter|xpu)\w*\.py", "another platform"),
    (r"vllm/kernels/(?:vllm_c|aiter_ops|oink_ops|xpu_ops|triton)\b", "another provider's kernels"),
)
"""(Regular expression over paths, why an NPU never comes there.)"""
_COMPILED = tuple((re.compile(pattern), why) for pattern, why in _AREAS)
_NO_IMPORTS = Imports()

_DISPATCHED = frozenset(
    f"forward_{device}" for device in ("cuda", "hip", "rocm", "xpu", "tpu", "hpu", "cpu", "neuron")
)
"""Methods of `CustomOp` for other platforms; an NPU's is `forward_oot`."""

Key = tuple[str, str]
"""(Path, qualified name) of a unit or a class."""


def elsewhere(path: str) -> str | None:
    """Why an NPU never comes to a module, told by its path; None where the graph decides."""
    for pattern, why in _COMPILED:
        if pattern.match(path):
            return why
    return cuda_only(path, _NO_IMPORTS)


@dataclass(frozen=True, slots=True)
class Reach:
    """What counts as imported and as called on an NPU."""

    modules: frozenset[str]
    """Paths."""
    units: frozenset[Key]
    sources: Mapping[Key, Key]
    """Unit → the unit in which it was first seen to be called or imported."""

    def via(self, path: str, unit: str) -> tuple[str, ...]:
        """How an NPU comes to a function: up to three callers, the nearest first."""
        found: list[str] = []
        key = self.sources.get((path, unit))
        while key is not None and len(found) < 3:
            found.append(f"{key[0]} {key[1]}")
            key = self.sources.get(key)
        return tuple(found)

    def why_not(self, path: str, unit: str) -> str | None:
        """Why an NPU does not come to a function; None where it does."""
        area = elsewhere(path)
        if area is not None:
            return area
        if path not in self.modules:
            return "nothing on the NPU's path imports the module"
        if (path, unit) not in self.units:
            return "nothing on the NPU's path calls the function"
        return None


def reach(facts: Mapping[str, Facts], added: Iterable[str], registry: bytes | None) -> Reach:
    """Follow imports and calls from the NPU's own code and from vLLM's entry points.

    Args:
        facts: of every module of the emitted tree, by path.
        added: the modules that the migration adds.
        registry: vLLM's table of models.
    """
    graph = _Graph(facts)
    for path in (*added, *ENTRY_POINTS):
        graph.start(path, strings=True)
    for module, class_ in models(registry or b""):
        home = graph.paths.get(module)
        if home is not None:
            graph.module(home)
            graph.refer(home, class_, set())
    graph.run()
    return Reach(frozenset(graph.modules), frozenset(graph.units), graph.sources)


def models(registry: bytes) -> Iterator[tuple[str, str]]:
    """(Module, class) of every model in vLLM's table: pairs of strings in a literal tuple."""
    try:
        tree = ast.parse(registry)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) >= 2:
            words = [part.value for part in node.elts if isinstance(part, ast.Constant)]
            if len(words) >= 2 and all(isinstance(word, str) for word in words[:2]):
                module, class_ = str(words[0]), str(words[1])
                if module and re.fullmatch(r"[\w.]+", module):
                    yield (module if "." in module else f"{MODELS}.{module}"), class_


class _Graph:
    """The work list."""

    def __init__(self, facts: Mapping[str, Facts]) -> None:
        self.facts = facts
        self.paths = {module_name(path): path for path in facts}
        self.operators: dict[str, list[tuple[str, str]]] = {}
        """Operator of `torch.ops.vllm` → (path, function) of those that register it."""
        for path, one in facts.items():
            for operator, function in one.operators.items():
                self.operators.setdefault(operator, []).append((path, function))
        self.modules: set[str] = set()
        self.units: set[Key] = set()
        self.classes: set[Key] = set()
        self.asked: set[str] = {"forward", "__init__"}
        """Attributes that run code asks any object for."""
        self.dispatched: dict[str, set[str]] = {}
        """Path → methods for other platforms that the module asks for."""
        self.waiting: dict[str, set[Key]] = {}
        """Method name → methods of used classes that nobody has asked for yet."""
        self.methods: dict[Key, dict[str, Key]] = {}
        """Class → its own methods."""
        self.lines: dict[Key, list[Key]] = {}
        """Class → it and its bases, in the order in which methods are looked for."""
        self.own_asked: dict[Key, set[str]] = {}
        """Class → attributes that its methods ask `self` for."""
        self.heirs: dict[Key, set[Key]] = {}
        """Class → used classes that inherit from it, itself included."""
        self.sources: dict[Key, Key] = {}
        self.current: Key | None = None
        """The unit that is followed."""
        self.todo: deque[Key] = deque()
        for path, one in facts.items():
            for unit in one.units:
                class_, _, name = unit.rpartition(".")
                if class_ in one.classes:
                    self.methods.setdefault((path, class_), {})[name] = (path, unit)

    # -- roots ---------------------------------------------------------------------------------

    def start(self, path: str, *, strings: bool) -> None:
        """All that a module defines counts as called."""
        one = self.facts.get(path)
        if one is None:
            return
        self.module(path)
        for class_ in one.classes:
            self.use((path, class_))
        for name, unit in one.units.items():
            self.call((path, name))
            if strings:
                for text in unit.strings:
                    self.by_name(text)

    def by_name(self, text: str) -> None:
        """A qualified name that stands in a string."""
        found = self.find(text)
        if found is not None:
            self.reached(*found)

    def run(self) -> None:
        """Until nothing new is found."""
        while self.todo:
            path, name = self.current = self.todo.popleft()
            self.unit(path, name, self.facts[path].units[name])

    # -- what is run ---------------------------------------------------------------------------

    def module(self, path: str) -> None:
        """A module is imported, with the packages around it."""
        if path in self.modules or path not in self.facts or elsewhere(path) is not None:
            return
        self.modules.add(path)
        parts = module_name(path).split(".")
        for n in range(1, len(parts)):
            package = self.paths.get(".".join(parts[:n]))
            if package is not None:
                self.module(package)
        self.call((path, MODULE))

    def call(self, key: Key) -> None:
        """A function is called."""
        path, name = key
        unit = self.facts[path].units.get(name)
        if unit is None or key in self.units or unit.guard is not None:
            return
        if elsewhere(path) is not None:
            return
        self.module(path)
        self.units.add(key)
        self.todo.append(key)
        if self.current is not None:
            self.sources[key] = self.current

    def unit(self, path: str, name: str, unit: Unit) -> None:
        """Follow what a unit imports and refers to."""
        for target in unit.imports:
            module = self.paths.get(target)
            if module is not None:
                self.module(module)
        for text in unit.refs:
            self.refer(path, text, set(), unit)
        for attribute in unit.attrs:
            self.ask(attribute, path)
        class_ = name.rpartition(".")[0]
        if class_ in self.facts[path].classes:
            key = (path, class_)
            for attribute in unit.own:
                self.ask_own(key, attribute)
            for attribute in unit.supers:
                for base in self.line(key)[1:]:
                    if attribute in self.methods.get(base, ()):
                        self.call(self.methods[base][attribute])
                        break
        else:
            for attribute in unit.own | unit.supers:
                self.ask(attribute, path)
        for text in unit.strings:
            if text in unit.imports:
                self.by_name(text)

    def ask(self, attribute: str, path: str) -> None:
        """Some object is asked for an attribute by code in a module."""
        if attribute in _DISPATCHED:
            self.dispatched.setdefault(path, set()).add(attribute)
            for class_ in self.facts[path].classes:
                if (path, class_) in self.classes:
                    self.call_method((path, class_), attribute)
        elif attribute not in self.asked:
            self.asked.add(attribute)
            for key in self.waiting.pop(attribute, ()):
                self.call(key)

    def ask_own(self, class_: Key, attribute: str) -> None:
        """A class's method asks `self` for an attribute; it, or an heir's, is called."""
        asked = self.own_asked.setdefault(class_, set())
        if attribute in asked:
            return
        asked.add(attribute)
        for heir in tuple(self.heirs.get(class_, ())) or (class_,):
            self.call_method(heir, attribute)

    def call_method(self, class_: Key, name: str) -> None:
        """A method of an object of a class is called: its own, or the nearest that it inherits."""
        for base in self.line(class_):
            if name in self.methods.get(base, ()):
                self.call(self.methods[base][name])
                return

    def use(self, class_: Key) -> None:
        """Objects of a class are made."""
        if class_ in self.classes or elsewhere(class_[0]) is not None:
            return
        self.classes.add(class_)
        self.module(class_[0])
        seen: set[str] = set()
        for base in self.line(class_):
            self.heirs.setdefault(base, set()).add(class_)
            for name, key in self.methods.get(base, {}).items():
                if name in seen:
                    continue
                seen.add(name)
                if name in self.asked or (name.startswith("__") and name.endswith("__")):
                    self.call(key)
                else:
                    self.waiting.setdefault(name, set()).add(key)
        for base in self.line(class_):
            for name in self.own_asked.get(base, ()):
                self.call_method(class_, name)
        for name in self.dispatched.get(class_[0], ()):
            self.call_method(class_, name)

    def line(self, class_: Key) -> list[Key]:
        """A class and its bases in the tree, nearest first."""
        if class_ not in self.lines:
            self.lines[class_] = [class_]
            path, name = class_
            found = [class_]
            for base in self.facts[path].classes.get(name, ()):
                target = self.resolve(path, base, set(), None)
                if target is not None and target[1] in self.facts[target[0]].classes:
                    found += [key for key in self.line(target) if key not in found]
            self.lines[class_] = found
        return self.lines[class_]

    # -- names ---------------------------------------------------------------------------------

    def refer(
        self, path: str, text: str, seen: set[tuple[str, str]], unit: Unit | None = None
    ) -> None:
        """Code in a module refers to a name, or to a chain of names."""
        if text.startswith(OPERATORS):
            operator = text.removeprefix(OPERATORS).partition(".")[0]
            for home, function in self.operators.get(operator, ()):
                self.refer(home, function, set())
            return
        found = self.resolve(path, text, seen, unit)
        if found is not None:
            self.reached(*found)

    def reached(self, path: str, name: str) -> None:
        """A module's function, class or method is referred to."""
        one = self.facts[path]
        self.module(path)
        if name in one.classes:
            self.use((path, name))
        elif name in one.units and name != MODULE:
            class_ = name.rpartition(".")[0]
            if class_ in one.classes:
                self.use((path, class_))
            self.call((path, name))

    def resolve(
        self, path: str, text: str, seen: set[tuple[str, str]], unit: Unit | None
    ) -> Key | None:
        """(Path, name in it) of what a chain of names stands for in a module; None if unknown."""
        if (path, text) in seen:
            return None
        seen.add((path, text))
        one = self.facts[path]
        head, _, rest = text.partition(".")
        target: str | None = unit.binds.get(head) if unit is not None else None
        if target is None:
            if head in one.classes or head in one.units:
                return self.within(path, text)
            top = one.units[MODULE]
            target = top.binds.get(head)
            if target is None:
                return self.starred(top, text, seen)
        full = f"{target}.{rest}" if rest else target
        return self.find(full, seen)

    def starred(self, top: Unit, text: str, seen: set[tuple[str, str]]) -> Key | None:
        """What a name stands for that `from module import *` may have brought."""
        for bound in top.binds:
            module = self.paths.get(bound[1:]) if bound.startswith("*") else None
            if module is not None:
                found = self.resolve(module, text, seen, None)
                if found is not None:
                    return found
        return None

    def find(self, full: str, seen: set[tuple[str, str]] | None = None) -> Key | None:
        """What a qualified name stands for: the longest part of it that is a module decides."""
        parts = full.split(".")
        for n in range(len(parts), 0, -1):
            path = self.paths.get(".".join(parts[:n]))
            if path is not None:
                rest = ".".join(parts[n:])
                return self.resolve(path, rest, seen or set(), None) if rest else (path, MODULE)
        return None

    def within(self, path: str, text: str) -> Key:
        """The longest part of a chain that a module defines, a method through its class's bases."""
        one = self.facts[path]
        parts = text.split(".")
        for n in range(len(parts), 0, -1):
            name = ".".join(parts[:n])
            if name in one.classes or name in one.units:
                if name in one.classes and n < len(parts):
                    for base in self.line((path, name)):
                        if parts[n] in self.methods.get(base, ()):
                            self.call(self.methods[base][parts[n]])
                            break
                return path, name
        return path, parts[0]
