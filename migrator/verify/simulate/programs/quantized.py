# SPDX-License-Identifier: Apache-2.0
"""Makes a tiny quantized checkpoint, and the tokens of a model that rounds as the checkpoint says.

    python quantized.py JOB.json

As reference.py, whose job it takes with one part more, `quantization`. The linear layers of the
model are quantized and computed by integers, whose sums are exact: what an engine may differ in is
the order of float32 operations between them, which `noise` measures with the rest.

A layer that is split along its inputs quantizes each device's part by itself where the scale of a
token is found while it runs: `shards` is the number of devices. Experts that are `spread` over the
devices are whole.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reference  # type: ignore[import-not-found]  # beside this program
import safetensors.torch  # type: ignore[import-not-found]
import torch
import transformers

GREATEST = 127
CALIBRATION = 64
"""Tokens of the sequence that finds the scales of activations."""
LOUDNESS = 1024
"""How much larger embeddings are than in other models. A value between two integers goes to either
by the order of float32 additions, and then others follow; where layers add to what is larger, that
is too little to choose another token, and a wrong product is not."""
DESCRIPTION = "quant_model_description.json"
FLOAT, STATIC, DYNAMIC = "FLOAT", "W8A8", "W8A8_DYNAMIC"
MODELSLIM = {"gate_proj": DYNAMIC, "up_proj": DYNAMIC, "down_proj": FLOAT}
"""How ModelSlim quantizes layers, by the last part of their names; all others STATIC."""
SPLIT_INPUTS = ("o_proj", "down_proj")
"""Layers that tensor parallelism splits along their inputs, by the last part of their names."""


def to_int8(values: torch.Tensor) -> torch.Tensor:
    """Rounded, halves to even, and cut off at the ends; what is not a number becomes 0."""
    return values.nan_to_num(nan=0.0).round().clamp(-GREATEST - 1, GREATEST)


class Int8Linear(torch.nn.Module):
    """A linear layer in int8.

    `weight` [outputs, inputs] int8 and `weight_scale` [outputs, 1]; `input_scale` and
    `input_zero_point` [1] where the scale of activations is known before. Of ModelSlim
    `input_offset` [1], `quant_bias` [outputs], which the bias is part of, and `deq_scale`.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], parts: int) -> None:
        super().__init__()
        self.parts = parts
        for name in (
            "weight",
            "weight_scale",
            "bias",
            "input_scale",
            "input_zero_point",
            "input_offset",
            "quant_bias",
            "deq_scale",
        ):
            tensor = tensors.get(name)
            if name == "deq_scale" and tensor is not None and tensor.dtype == torch.int64:
                tensor = tensor.to(torch.int32).view(torch.float32)
            self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's outputs, of the dtype of x."""
        # A float64 model computes in float64, any other as the operators do.
        wide = x if x.dtype == torch.float64 else x.float()
        scale = self.weight_scale.to(wide.dtype).flatten()
        if self.quant_bias is not None:
            whole = to_int8(wide / self.input_scale.to(wide.dtype) + self.input_offset)
            total = self._product(whole, self.weight) + self.quant_bias
            return (total.to(wide.dtype) * self.deq_scale.to(wide.dtype)).to(x.dtype)
        if self.input_scale is not None:
            step = self.input_scale.to(wide.dtype)
            zero = 0 if self.input_zero_point is None else self.input_zero_point
            whole = to_int8(wide / step + zero) - zero
            out = self._product(whole, self.weight).to(wide.dtype) * (scale * step)
        else:
            weights = self.weight.chunk(self.parts, dim=-1)
            out = 0
            for piece, weight in zip(wide.chunk(self.parts, dim=-1), weights, strict=True):
                step = piece.abs().amax(-1, keepdim=True) / GREATEST
                whole = to_int8(piece / step)
                out = out + self._product(whole, weight).to(wide.dtype) * scale * step
        if self.bias is not None:
            out = out + self.bias.to(wide.dtype)
        return out.to(x.dtype)

    @staticmethod
    def _product(whole: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The exact product of integers: float64 holds all of them."""
        return whole.double() @ weight.double().t()


class Expert(torch.nn.Module):
    """One expert of a mixture, of linear layers."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor, activation: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (linear(half) for half in gate_up.chunk(2))
        self.down_proj = linear(down)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the expert makes of its tokens."""
        hidden: torch.Tensor = self.activation(self.gate_proj(x)) * self.up_proj(x)
        down: torch.Tensor = self.down_proj(hidden)
        return down


class Experts(torch.nn.ModuleList):
    """A mixture's experts, in the place of a module with the weights of all in one tensor."""

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The sum of what the chosen experts make of each token, weighted."""
        out = torch.zeros_like(x)
        for number, expert in enumerate(self):
            token, place = torch.where(chosen == number)
            if len(token):
                out.index_add_(0, token, expert(x[token]) * weights[token, place, None])
        return out


def linear(weight: torch.Tensor) -> torch.nn.Linear:
    """A linear layer of a weight."""
    layer = torch.nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight = torch.nn.Parameter(weight.detach().clone())
    return layer


def take_apart(model: Any) -> None:
    """Give each expert layers of its own, named as in a checkpoint."""
    for name, module in list(model.named_modules()):
        if not hasattr(module, "gate_up_proj"):
            continue
        pairs = zip(module.gate_up_proj, module.down_proj, strict=True)
        experts = Experts([Expert(*pair, module.act_fn) for pair in pairs])
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, experts)


def linear_names(model: Any) -> Iterator[str]:
    """Names of the layers that are quantized: all linear ones but the last, and no router."""
    for name, layer in model.named_modules():
        router = name.endswith(".gate")
        if isinstance(layer, torch.nn.Linear) and name != "lm_head" and not router:
            yield name


def calibrate(model: Any, vocabulary: int) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of the input of each layer, over one sequence."""
    found: dict[str, tuple[float, float]] = {}
    hooks = []

    def look(name: str, _layer: Any, args: tuple[torch.Tensor, ...]) -> None:
        low, high = (float(value) for value in args[0].aminmax())
        found[name] = (low, high)

    for name in linear_names(model):
        layer = model.get_submodule(name)
        hooks.append(layer.register_forward_pre_hook(functools.partial(look, name)))
    draw = reference.Draw(vocabulary)
    with torch.no_grad():
        model(input_ids=torch.tensor([draw(CALIBRATION)]))
    for hook in hooks:
        hook.remove()
    return found


def kind_of(name: str, how: dict[str, Any]) -> str:
    """How a layer is quantized, in ModelSlim's words."""
    if name.rpartition(".")[2] in how["floats"]:
        return FLOAT
    if how["method"] == "modelslim":
        if ".experts." in name:
            return DYNAMIC
        return MODELSLIM.get(name.rpartition(".")[2], STATIC)
    return DYNAMIC if how["dynamic"] else STATIC


def modelslim(
    tensors: dict[str, torch.Tensor], name: str, bias: torch.Tensor | None, *, packed: bool
) -> None:
    """Add to the tensors of a layer what only ModelSlim's checkpoints have.

    `packed`: as for float16, where `deq_scale` has its bits in an int64.
    """
    scale = tensors[f"{name}.weight_scale"]
    tensors[f"{name}.weight_offset"] = torch.zeros_like(scale)
    if f"{name}.input_scale" not in tensors:
        return
    deq_scale = scale.flatten() * tensors[f"{name}.input_scale"]
    offset = tensors.pop(f"{name}.input_zero_point")
    sums = tensors[f"{name}.weight"].sum(1, dtype=torch.int32)
    whole = torch.zeros_like(deq_scale) if bias is None else (bias / deq_scale).round()
    tensors[f"{name}.input_offset"] = offset
    tensors[f"{name}.deq_scale"] = (
        deq_scale.view(torch.int32).to(torch.int64) if packed else deq_scale
    )
    tensors[f"{name}.quant_bias"] = whole.to(torch.int32) - sums * offset.to(torch.int32)


def quantize(model: Any, how: dict[str, Any], vocabulary: int) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint's quantized layers, by their names in it."""
    kinds = {name: kind_of(name, how) for name in linear_names(model)}
    ranges = calibrate(model, vocabulary) if STATIC in kinds.values() else {}
    tensors: dict[str, torch.Tensor] = {}
    for name, kind in kinds.items():
        if kind == FLOAT:
            continue
        weight = model.get_submodule(name).weight.detach()
        peak = weight.abs().amax(1, keepdim=True)
        if how["weights"] == "tensor":
            peak = peak.amax().reshape(1)
        scale = peak / GREATEST
        tensors[f"{name}.weight"] = to_int8(weight / scale).to(torch.int8)
        tensors[f"{name}.weight_scale"] = scale
        if kind == STATIC:
            low, high = ranges[name]
            tensors.update(static_scales(name, low, high, how["symmetric"]))
        if how["method"] == "modelslim":
            bias = model.get_submodule(name).bias
            modelslim(tensors, name, bias, packed=how["packed"])
    return tensors


def static_scales(name: str, low: float, high: float, symmetric: bool) -> dict[str, torch.Tensor]:
    """The scale of a layer's input between two values, and its zero point."""
    found = {}
    if symmetric:
        step = max(-low, high) / GREATEST
    else:
        step = (high - low) / (2 * GREATEST + 1)
        zero = torch.tensor([-GREATEST - 1 - low / step]).round().clamp(-128, 127)
        found[f"{name}.input_zero_point"] = zero.to(torch.int8)
    found[f"{name}.input_scale"] = torch.tensor([step])
    return found


def dress(model: Any, tensors: dict[str, torch.Tensor], shards: int, *, spread: bool) -> None:
    """Let the layers of a model compute as their quantized tensors say."""
    for name in list(linear_names(model)):
        if f"{name}.weight_scale" not in tensors:
            continue
        own = {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{name}.")
        }
        bias = model.get_submodule(name).bias
        if bias is not None and "quant_bias" not in own:
            own["bias"] = bias.detach()
        parent, _, last = name.rpartition(".")
        whole = last not in SPLIT_INPUTS or (spread and ".experts." in name)
        parts = 1 if whole else shards
        setattr(model.get_submodule(parent), last, Int8Linear(own, parts))


def compressed_tensors(how: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the quantization."""
    rounding = {"num_bits": 8, "type": "int"}
    activations = {
        **rounding,
        "symmetric": how["symmetric"],
        "strategy": "token" if how["dynamic"] else "tensor",
        "dynamic": how["dynamic"],
    }
    weights = {**rounding, "symmetric": True, "strategy": how["weights"], "dynamic": False}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        # Some models would have a router of int8 otherwise.
        "ignore": ["lm_head", r"re:.*\.gate$", *(f"re:.*{name}" for name in how["floats"])],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": activations,
            }
        },
    }


def save(model: Any, tensors: dict[str, torch.Tensor], how: dict[str, Any], folder: Path) -> None:
    """Write the checkpoint: the quantized tensors, the others as they are, the configuration."""
    layers = {name.rpartition(".")[0] for name in tensors}
    others = {
        name: tensor
        for name, tensor in [*model.state_dict().items(), *model.biases.items()]
        if name.rpartition(".")[0] not in layers or name.endswith(".bias")
    }
    everything = {name: tensor.contiguous() for name, tensor in {**others, **tensors}.items()}
    safetensors.torch.save_file(everything, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [type(model).__name__]
    if how["method"] == "modelslim":
        description = {
            name: kind_of(name.rpartition(".")[0], how) if name in tensors else FLOAT
            for name in everything
        }
        description = {"model_quant_type": STATIC, "version": "1.0.0", **description}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2), encoding="utf-8")
    else:
        config["quantization_config"] = compressed_tensors(how)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def make_model(job: dict[str, Any]) -> Any:
    """The model as reference.py makes it, quantized; what it saves is the checkpoint."""
    model = plain_model(job)
    take_apart(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(LOUDNESS)
    how = job["quantization"]
    tensors = quantize(model, how, job["config"]["vocab_size"])
    # What a layer has no use for once its bias is among its integers.
    model.biases = {name: p.detach() for name, p in model.named_parameters() if "bias" in name}
    dress(model, tensors, how["shards"], spread=how["spread"])
    model.save_pretrained = functools.partial(save, model, tensors, how)
    return model


def load(folder: Path, dtype: torch.dtype, shards: int, *, spread: bool) -> Any:
    """The model of a checkpoint that this program wrote."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    take_apart(model)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    floats = {name: t for name, t in tensors.items() if t.is_floating_point()}
    model.load_state_dict(floats, strict=False)
    model.to(dtype).eval()
    dress(model, tensors, shards, spread=spread)
    return model


plain_model = reference.make_model

if __name__ == "__main__":
    # The rest of that program is the same for a model of any kind.
    reference.make_model = make_model
    reference.main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
