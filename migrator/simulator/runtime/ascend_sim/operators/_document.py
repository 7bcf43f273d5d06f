# SPDX-License-Identifier: Apache-2.0
"""docs/npu-operators.md, from the registry."""

from __future__ import annotations

from ascend_sim.ai_core import KERNELS, Kernel

from ._checks import RELAX_VARIABLE, RELAXATIONS
from ._registry import META_VARIABLE, REGISTRY, Operator
from ._rules import CANN_VARIABLE, RULES, SOC_VARIABLE, Rule
from ._table import OneOf

_HEAD = f"""\
# Reference NPU operators

<!-- Made by `vllm-npu-migrate simulator run -- python -m ascend_sim.operators`. -->

These operators of torch_npu compute on the simulated Ascend. Each is written in plain PyTorch with
float32 accumulation and one rounding at the end, bound to the schema of the installed wheel, and
checks its operands as the device's documentation has them. A violation is a `RuntimeError` that
names operator, argument, what the device takes and what it got.

- An operator whose schema in the wheel is none of the known ones raises an error that shows both,
  when it is called; `ascend_sim.operators.problems()` lists all of them.
- The wheel's own meta kernel, where there is one, is called on the same operands and must agree in
  shape and dtype. `{META_VARIABLE}=0` turns this off.
- A tensor on the wrong side (host or device) is refused. Host operands are named in the table.
- In a captured graph an operator runs again at every replay, on the same memory. Host operands
  (lists and host tensors) keep the values that they had at capture.
- Rows that the device leaves undefined are NaN, so that code which reads them shows.
- What one argument may be stands in its operator's table; what holds between arguments is below it.
- An argument that asks for something without a reference (quantisation, for one) is refused.

What agreement here does not show: the device's rounding, speed, alignment or asynchrony.

`{RELAX_VARIABLE}` lets calls pass that the device refuses, for comparisons with a float32
reference on tiny models. It is a comma-separated list of:

"""


_RULES = f"""
## Rules by CANN and chip

What joins several facts of a call, or holds for some CANN or chips alone. A call that breaks a
rule is refused with the words of CANN's own check, its error code, the rule, where it holds, its
source, and the line of the program that called. `{CANN_VARIABLE}` and `{SOC_VARIABLE}` say what a
run is on.

| rule | operators | where | asks | CANN, chips | error, source | reports |
| --- | --- | --- | --- | --- | --- | --- |
"""


_AI_CORES = """
## What AI cores compute

Operators of torch itself become kernels of CANN's AI cores for some dtypes; a tensor of another is
left to the AI CPU, which is slower by far and says nothing. `ascend_sim.ai_core` has CANN's lists
for the 910B and the 910C; `verify --simulate --cost` counts what a step gives to the AI CPU.
An operator that is not in the table is not judged. *By* is whose dtype CANN asks for: what aclnn
casts to what is written, or what is read.

| kernel | operators of torch | dtypes | by | source |
| --- | --- | --- | --- | --- |
"""


def document() -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    lines += [f"- `{name}`: {text};\n" for name, text in RELAXATIONS.items()]
    text = "".join(lines).rstrip(";\n") + ".\n"
    text += _RULES + "".join(map(_row, RULES))
    text += _AI_CORES + "".join(map(_kernel, KERNELS))
    families: dict[str, list[Operator]] = {}
    for op in REGISTRY.values():
        # A family is a module of this package, or a package of several.
        family = op.function.__module__.removeprefix(f"{__package__}.").partition(".")[0]
        families.setdefault(family, []).append(op)
    for family, operators in sorted(families.items()):
        text += f"\n## {family}\n"
        for op in sorted(operators, key=lambda op: op.name):
            text += _entry(op)
    return text


def _kernel(kernel: Kernel) -> str:
    operators = ", ".join(f"`{name}`" for name in kernel.operators)
    taken = [", ".join(sorted(kernel.dtypes)) or "none"]
    taken += [
        f"{', '.join(sorted(more))} from CANN {major}.{minor} on"
        for (major, minor), more in kernel.later
    ]
    return f"| {kernel.name} | {operators} | {'; '.join(taken)} | {kernel.by} | {kernel.source} |\n"


def _entry(op: Operator) -> str:
    lines = [f"\n### `{op.name}`\n"]
    lines.append(f"Source: {op.source}.\n")
    lines.append("| torch_npu from | schema |\n| --- | --- |")
    for version, schema in op.schemas.items():
        lines.append(f"| {version} | `{schema}` |")
    if op.takes and op.takes.arguments:
        lines.append("\n| argument | takes |\n| --- | --- |")
        for name, constraint in op.takes.arguments.items():
            limit = isinstance(constraint, OneOf) and constraint.simulated
            lines.append(f"| `{name}` | {constraint}{' (a limit of the reference)' * limit} |")
    facts = [f"- Operands: {op.checks or 'each as in the table'}."]
    if op.host:
        facts.append("- Host tensors: " + ", ".join(f"`{name}`" for name in sorted(op.host)) + ".")
    if op.refused:
        facts.append("- Only at their defaults: " + _grouped(op.refused) + ".")
    if op.meta:
        facts.append(f"- Not compared with the meta kernel: {op.meta}.")
    for release, defect in op.meta_defects.items():
        facts.append(f"- Not compared with the meta kernel of torch_npu {release}: it {defect}.")
    return "\n".join(lines) + "\n\n" + "\n".join(facts) + "\n"


def _row(rule: Rule) -> str:
    def listed(facts: object) -> str:
        assert isinstance(facts, dict)
        return "; ".join(f"{name.replace('_', ' ')}: {wanted}" for name, wanted in facts.items())

    cells = (
        f"`{rule.name}`",
        f"`{rule.operators}`",
        listed(rule.when),
        listed(rule.asks),
        rule.holds.removeprefix("CANN "),
        f"{rule.code}; {rule.source}",
        rule.reports,
    )
    return "| " + " | ".join(cells) + " |\n"


def _grouped(refused: object) -> str:
    assert isinstance(refused, dict)
    reasons: dict[str, list[str]] = {}
    for name, reason in refused.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
