# SPDX-License-Identifier: Apache-2.0
"""Reference operators and their binding to the schemas of the torch_npu wheel.

A reference operator is a plain function on CPU tensors. :func:`operator` puts the
schema strings of the wheels it was written for beside it; :func:`register` binds
it to the wheel that is installed:

* the wheel's schema must be one of the known ones, word for word after parsing.
  Otherwise the operator raises :class:`SchemaMismatchError`, which names the operator,
  the wheel's schema and ours, when it is called: one odd operator does not take
  the others down. :func:`problems` lists them all;
* each call's tensors must lie where the device wants them: on one NPU, except the
  arguments declared ``host``;
* the wheel's own meta kernel, where there is one, gets meta tensors of the same
  operands and must agree in shape and dtype (``ASCEND_SIM_CHECK_META=0`` turns
  this off).

The computation itself runs on host views of device memory, so an argument that the
schema marks as written, ``Tensor(a!)``, is changed in place.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ascend_sim import observer

from . import _capture, _rules
from . import _checks as check
from ._checks import OperandError, arguments, tensors
from ._table import TABLE, Takes

META_VARIABLE = "ASCEND_SIM_CHECK_META"


class SchemaMismatchError(RuntimeError):
    """The wheel declares an operator otherwise than the reference knows it."""


class MetaMismatchError(RuntimeError):
    """A result differs in shape or dtype from what the wheel's meta kernel infers."""


@dataclass(frozen=True, eq=False)
class Operator:
    """One reference operator.

    Calling it runs the reference on the tensors given, wherever they are, with the
    operand checks and without the dispatcher: that is what tests do on CPU tensors.
    """

    name: str
    """Namespace and name with overload, ``npu::npu_rms_norm``."""
    schemas: Mapping[str, str]
    """Known schemas (without the namespace), each with the first torch_npu that has it."""
    function: Callable[..., Any]
    host: frozenset[str]
    """Arguments which are host tensors; every other tensor must lie on the device."""
    refused: Mapping[str, str]
    """Arguments without a reference, and what they would ask for: only defaults pass."""
    checks: str
    source: str
    meta: str
    """Why the wheel's meta kernel is not compared; empty where it is."""
    meta_defects: Mapping[str, str]
    """Releases of torch_npu ("2.8") whose meta kernel is known to be wrong, and how."""
    writes: frozenset[str]
    """Arguments that it writes though the schema does not say so."""
    on_device: bool
    """Whether the function takes the device tensors themselves, not host views of them."""
    parameters: tuple[str, ...] = field(default=())
    takes: Takes | None = None
    """What the table says of the arguments; None where the function checks all by itself."""
    open_ended: bool = False
    """Whether the function takes further arguments by keyword."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the reference; RuntimeError names the operator and the argument."""
        try:
            if _rules.here(self.name):
                self._on_this_chip([*args, *kwargs.values()])
            if self.takes:
                arguments(self.takes, {**dict(zip(self.parameters, args, strict=False)), **kwargs})
                kwargs = {n: v for n, v in kwargs.items() if self.reads(n)}
            return self.function(*args, **kwargs)
        except OperandError as error:
            raise check.told(self.name, error) from None

    def _on_this_chip(self, values: Sequence[Any]) -> None:
        facts = {
            "chip": _rules.chip(os.environ.get(_rules.SOC_VARIABLE) or _rules.DEFAULT_SOC),
            "bfloat16": any(t.dtype == torch.bfloat16 for value in values for t in tensors(value)),
        }
        check.rules(self.name, facts)

    def reads(self, name: str) -> bool:
        """Whether the function gets an argument, and not the table alone."""
        return name in self.parameters or self.open_ended

    def judges(self, name: str) -> bool:
        """Whether the function or the table looks at an argument."""
        known = self.takes is not None and name in self.takes.arguments
        return name not in self.refused and (known or self.reads(name))

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The wheel's operator; AttributeError if it has none of that name."""
        namespace, _, rest = self.name.partition("::")
        packet, _, overload = rest.partition(".")
        found = getattr(getattr(torch.ops, namespace), packet)
        result = getattr(found, overload or "default")
        assert isinstance(result, torch._ops.OpOverload)
        return result

    @property
    def written(self) -> list[str]:
        """The arguments that it writes; AttributeError if the wheel has none of that name."""
        return [
            a.name
            for a in self.overload._schema.arguments
            if a.name in self.writes or (a.alias_info is not None and a.alias_info.is_write)
        ]


REGISTRY: dict[str, Operator] = {}
_problems: dict[str, str] = {}
_libraries: dict[str, Any] = {}  # torch.library.Library, whose methods are not typed
_meta_seen: set[Any] = set()
_META_CACHE_SIZE = 8192


def operator(
    name: str,
    schemas: Mapping[str, str],
    *,
    checks: str = "",
    source: str = "",
    host: Sequence[str] = (),
    refused: Mapping[str, str] | None = None,
    meta: str = "",
    meta_defects: Mapping[str, str] | None = None,
    writes: Sequence[str] = (),
    on_device: bool = False,
) -> Callable[[Callable[..., Any]], Operator]:
    """Declare a reference operator; see :class:`Operator` for the parameters.

    ``checks`` and ``source`` are for operators that the table has nothing of: what their function
    checks, and which documentation says so.
    """
    takes = TABLE.get(name)
    if not (takes or (checks and source)):
        raise ValueError(f"{name} is not in the table of operators, nor says what it takes")

    def declare(function: Callable[..., Any]) -> Operator:
        if name in REGISTRY:
            raise ValueError(f"{name} is declared twice")
        signature = inspect.signature(function).parameters
        made = Operator(
            name=name,
            schemas=dict(schemas),
            function=function,
            host=frozenset(host),
            refused=dict(refused or {}),
            checks=takes.also if takes else checks,
            source=takes.source if takes else source,
            takes=takes,
            meta=meta,
            meta_defects=dict(meta_defects or {}),
            writes=frozenset(writes),
            on_device=on_device,
            parameters=tuple(signature),
            open_ended=any(p.kind is p.VAR_KEYWORD for p in signature.values()),
        )
        REGISTRY[name] = made
        return made

    return declare


def problems() -> dict[str, str]:
    """Operators whose schema in this wheel is not a known one, with the full message."""
    return dict(_problems)


def known_schema(op: Operator, schema: object) -> bool:
    """Whether ``schema`` (a FunctionSchema of the wheel) is one that ``op`` knows."""
    namespace = op.name.partition("::")[0]
    wanted = str(schema)
    return any(
        str(torch._C.parse_schema(f"{namespace}::{known}")) == wanted
        for known in op.schemas.values()
    )


def register() -> None:
    """Bind every reference operator to the installed torch_npu. Call it once.

    An operator which the wheel does not have is passed over: no program can call it.
    """
    for op in REGISTRY.values():
        bind(op)


def bind(op: Operator) -> None:
    """Put one reference operator behind the device key of the wheel's operator."""
    namespace, _, rest = op.name.partition("::")
    try:
        overload = op.overload
    except AttributeError:
        return
    schema = overload._schema
    library = _libraries.get(namespace)
    if library is None:
        make: Any = torch.library.Library
        library = _libraries[namespace] = make(namespace, "IMPL")
    if known_schema(op, schema):
        kernel = _kernel(op, overload)
    else:
        ours = "\n  ".join(op.schemas.values())
        message = (
            f"{op.name}: the schema of this torch_npu is not one that the simulator's "
            f"reference was written for.\n  torch_npu: {schema}\n  simulator:\n  {ours}"
        )
        _problems[op.name] = message
        kernel = _refusal(message)
    with warnings.catch_warnings():
        # torch warns that torch_npu's own kernel, which would call CANN, is replaced.
        warnings.simplefilter("ignore")
        library.impl(rest, kernel, "PrivateUse1")


def compares_meta(op: Operator) -> bool:
    """Whether results are compared with the meta kernel of this wheel, if it has one."""
    import torch_npu

    defective = any(torch_npu.__version__.startswith(f"{r}.") for r in op.meta_defects)
    return not op.meta and not op.on_device and not defective


def _refusal(message: str) -> Callable[..., Any]:
    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise SchemaMismatchError(message)

    return refuse


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return [_map(item, change) for item in value]
    return value


def _place(op: Operator, call: Mapping[str, Any]) -> torch.device:
    """Check where each tensor of the call lies; the device of the call."""
    device: torch.device | None = None
    for name, value in call.items():
        for tensor in tensors(value):
            on_host = tensor.device.type == "cpu"
            if on_host != (name in op.host):
                wanted = "a host tensor (CPU)" if name in op.host else "a tensor on the NPU"
                raise OperandError(name, wanted, f"one on {tensor.device}")
            if on_host:
                continue
            if device is None:
                device = tensor.device
            elif tensor.device != device:
                raise OperandError(name, f"a tensor on {device}", f"one on {tensor.device}")
    if device is None:
        raise OperandError("(all)", "at least one tensor on the NPU", "none")
    return device


def _kernel(op: Operator, overload: torch._ops.OpOverload) -> Callable[..., Any]:
    import ascend_sim

    arguments = overload._schema.arguments
    names = [argument.name for argument in arguments]
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    positional = [a.name for a in arguments if not a.kwarg_only]
    check_meta = compares_meta(op) and torch._C._dispatch_has_kernel_for_dispatch_key(
        overload._schema.name
        + (f".{overload._schema.overload_name}" if overload._schema.overload_name else ""),
        "Meta",
    )
    accepted = [name for name in names if op.judges(name)]
    left = [name for name in names if name not in accepted]

    written = op.written

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with observer.launch(op.name):
            return run(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        call = dict(defaults)
        call.update(zip(positional, args, strict=False))
        call.update(kwargs)
        try:
            device = _place(op, call)
            for name in left:
                if name in op.refused and call[name] != defaults.get(name):
                    raise OperandError(
                        name,
                        "its default, because the simulator has no reference for "
                        f"{op.refused[name]}",
                        _brief(call[name]),
                    )
        except OperandError as error:
            raise check.told(op.name, error) from None

        if op.on_device:
            # It is made of operators, which record themselves in a graph.
            return op(**{name: call[name] for name in accepted})
        origin: dict[int, torch.Tensor] = {}

        def view(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device.type == "cpu":
                return tensor
            seen = ascend_sim.host_view(tensor)
            origin[id(seen)] = tensor
            return seen

        def bring(tensor: torch.Tensor) -> torch.Tensor:
            """The device tensor of a result: the operand itself, or new memory."""
            if id(tensor) in origin:
                return origin[id(tensor)]
            out = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
            )
            if out.numel():
                ascend_sim.host_view(out).copy_(tensor)
            created.append(out)
            return out

        created: list[torch.Tensor] = []
        views = {name: _map(call[name], view) for name in accepted}
        stream = _capture.stream_of(device, op.name)
        late = _capture.begin_late(device) if stream is None else None
        again: Callable[[], None] | None = None
        try:
            if stream is not None:
                _capture.will_write(stream, tensors([call[name] for name in written]))
            result = op(**views)
            if check_meta and os.environ.get(META_VARIABLE, "1") != "0":
                _compare_with_meta(op, overload, call, result)
            placed = _map(result, bring)
            if stream is not None or late is not None:
                again = _again(op, views, origin, created, own=late is None)
            if stream is not None and again is not None:
                _capture.record(stream, again, created)
        finally:
            if late is not None:
                _capture.end_late(late, again)
        return tuple(placed) if isinstance(result, tuple) else placed

    return kernel


def _again(
    op: Operator,
    views: Mapping[str, Any],
    operands: Mapping[int, torch.Tensor],
    created: Sequence[torch.Tensor],
    *,
    own: bool,
) -> Callable[[], None]:
    """The call again, with the same addresses and host values; see :mod:`._capture`.

    It keeps its operands' memory if it is to `own` it.
    """
    import ascend_sim

    def freeze(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in operands:
            return tensor.clone()
        return tensor if own else ascend_sim.host_view(operands[id(tensor)], own=False)

    frozen = {name: _map(value, freeze) for name, value in views.items()}
    known = {id(tensor) for value in frozen.values() for tensor in tensors(value)}
    targets = [ascend_sim.host_view(tensor, own=own) for tensor in created]

    def again() -> None:
        new = [tensor for tensor in tensors(op(**frozen)) if id(tensor) not in known]
        for target, tensor in zip(targets, new, strict=True):
            if target.shape != tensor.shape:
                raise RuntimeError(
                    f"{op.name} gave shape {tuple(target.shape)} at capture and "
                    f"{tuple(tensor.shape)} at a replay (simulated Ascend)"
                )
            target.copy_(tensor)

    return again


def _brief(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return repr(value)


def _signature(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(_signature(item) for item in value)
    return value


def _compare_with_meta(
    op: Operator, overload: torch._ops.OpOverload, call: Mapping[str, Any], result: Any
) -> None:
    key = (op.name, tuple(_signature(value) for value in call.values()), _signature(result))
    if key in _meta_seen:
        return

    def meta(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    arguments = overload._schema.arguments
    positional = [_map(call[a.name], meta) for a in arguments if not a.kwarg_only]
    keywords = {a.name: _map(call[a.name], meta) for a in arguments if a.kwarg_only}
    try:
        inferred = overload(*positional, **keywords)
    except TypeError:
        # The wheel's meta function does not take what its own schema lets callers leave
        # out (npu_top_k_top_p without k): it says nothing about this call.
        return
    except RuntimeError as error:
        raise MetaMismatchError(
            f"{op.name}: the wheel's meta kernel refuses the operands: {error} (simulated Ascend)"
        ) from error
    ours, theirs = list(tensors(result)), list(tensors(inferred))
    if [_shape(t) for t in ours] != [_shape(t) for t in theirs]:
        raise MetaMismatchError(
            f"{op.name}: the reference gives {[_shape(t) for t in ours]}, the wheel's meta kernel "
            f"infers {[_shape(t) for t in theirs]} (simulated Ascend)"
        )
    if len(_meta_seen) >= _META_CACHE_SIZE:
        _meta_seen.clear()
    _meta_seen.add(key)


def _shape(tensor: torch.Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
