# SPDX-License-Identifier: Apache-2.0
"""Makes what drafts for a tiny model, of the model's own weights, so that it often agrees with it.

    python draft.py JOB.json

`eagle`: a head that reads the token that comes next and the model's hidden state of one place
before. It ignores the hidden state, has the model's layers, and so is the model without its first
token, but for two norms that such a head does not have: the one before its first layer goes into
that layer's weights and into embeddings, which get a size in common; the last one hardly changes
which token is the best.

`eagle3`: one layer, which gives the token that it reads, and an output that knows what followed
that token in the reference. `mtp`: one layer that knows it, for the output is the model's.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

# transformers asks whether torch_npu is there and would then put itself on the NPU.
sys.modules["torch_npu"] = None  # type: ignore[assignment]

import safetensors.torch  # type: ignore[import-not-found]  # noqa: E402
import torch  # noqa: E402

Weights = dict[str, torch.Tensor]
LOUD = 10.0
"""How much of the token an EAGLE-3 layer gives beside what it adds of its own..."""
LOUDER = 1000.0
"""...and an MTP layer, which adds more: it is a layer of the model."""
STEPS = 200


def eagle(weights: Weights, _config: dict[str, Any], _followers: torch.Tensor) -> Weights:
    """The weights of an EAGLE head, by their names in its checkpoint."""
    made = {
        name.removeprefix("model."): weight.clone()
        for name, weight in weights.items()
        if name.startswith(("model.layers.", "model.embed_tokens."))
    }
    embedding = made["embed_tokens.weight"]
    size = embedding.shape[1]
    mean = embedding.square().mean().sqrt()
    embedding *= mean / embedding.square().mean(1, keepdim=True).sqrt()
    norm = made.pop("layers.0.input_layernorm.weight") / mean
    for letter in "qkv":
        made[f"layers.0.self_attn.{letter}_proj.weight"] *= norm
    made["fc.weight"] = torch.cat([torch.eye(size), torch.zeros(size, size)], 1)
    return made


def eagle3(weights: Weights, config: dict[str, Any], followers: torch.Tensor) -> Weights:
    """The weights of an EAGLE-3 head; the configuration becomes that of one layer.

    Attention carries the token: queries and keys of the first head are the token, so that a place
    sees itself, values are the token, too.
    """
    config["num_hidden_layers"] = 1
    embedding = weights["model.embed_tokens.weight"]
    size = embedding.shape[1]
    made = {
        name.replace("model.layers.0.", "midlayer."): weight.clone()
        for name, weight in weights.items()
        if name.startswith("model.layers.0.")
    }
    ones = torch.ones(size)
    for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
        made[f"midlayer.{name}.weight"] = ones.clone()
    for letter, scale in (("q", 2.0), ("k", 2.0), ("v", 1.0)):
        name = f"midlayer.self_attn.{letter}_proj.weight"
        rows = made[name].shape[0]
        made[name] = torch.zeros(rows, 2 * size)
        made[name][:size, :size] = scale * torch.eye(size)
    out = torch.zeros_like(made["midlayer.self_attn.o_proj.weight"])
    out[:, :size] = LOUD * torch.eye(size)
    made["midlayer.self_attn.o_proj.weight"] = out
    return {
        **made,
        "embed_tokens.weight": embedding.clone(),
        "fc.weight": torch.eye(size).repeat(1, 3) / size,
        "norm.weight": ones,
        "lm_head.weight": following(embedding, followers),
    }


def mtp(weights: Weights, config: dict[str, Any], followers: torch.Tensor) -> Weights:
    """The model with one layer more, which predicts the token after the next."""
    config["num_nextn_predict_layers"] = 1
    last, after = (f"model.layers.{config['num_hidden_layers'] + more}." for more in (-1, 0))
    made = {
        name.replace(last, after): weight.clone()
        for name, weight in weights.items()
        if name.startswith(last)
    }
    embedding = weights["model.embed_tokens.weight"]
    head = weights["lm_head.weight"]
    size = embedding.shape[1]
    ones = torch.ones(size)
    told = LOUDER * telling(embedding, head, followers)
    more = {
        "enorm.weight": ones,
        "hnorm.weight": ones.clone(),
        "eh_proj.weight": torch.cat([told, torch.eye(size)], 1),
        "embed_tokens.weight": embedding.clone(),
        "shared_head.norm.weight": ones.clone(),
        "shared_head.head.weight": head.clone(),
    }
    return {**weights, **made, **{after + name: weight for name, weight in more.items()}}


def following(embedding: torch.Tensor, followers: torch.Tensor) -> torch.Tensor:
    """[vocabulary, size]: an output that is largest for what followed the token that it is given.

    Tokens point in as many directions, nearly at right angles.
    """
    size = embedding.shape[1]
    token = torch.nn.functional.rms_norm(embedding, (size,))
    made = torch.zeros_like(embedding)
    made.index_add_(0, followers[:, 1], token[followers[:, 0]])
    return made


def telling(embedding: torch.Tensor, head: torch.Tensor, followers: torch.Tensor) -> torch.Tensor:
    """[size, size]: makes of a token what `head` takes for the one that followed it, mostly."""
    size = embedding.shape[1]
    token = torch.nn.functional.rms_norm(embedding, (size,))[followers[:, 0]]
    made = torch.zeros(size, size, requires_grad=True)
    optimizer = torch.optim.Adam([made], lr=0.05)
    for _ in range(STEPS):
        # The token itself keeps the first of these from being nothing.
        found = torch.nn.functional.rms_norm(token @ made.T + 1e-3 * token, (size,))
        loss = torch.nn.functional.cross_entropy(found @ head.T, followers[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = made.detach()
    return made / (token @ made.T).square().mean().sqrt()


def pairs(reference: dict[str, Any]) -> torch.Tensor:
    """[pairs, 2]: each token of the reference's answers and the one before, each pair once."""
    found = set()
    for part in ("fresh", "again"):
        for prompt, tokens in zip(
            reference[part]["prompts"], reference[part]["tokens"], strict=True
        ):
            found |= set(zip([prompt[-1], *tokens], tokens, strict=False))
    return torch.tensor(sorted(found))


KINDS = {"eagle": eagle, "eagle3": eagle3, "mtp": mtp}


def main(job: dict[str, Any]) -> None:
    """Make it in the directory that the job names."""
    model, out = Path(job["model"]), Path(job["out"])
    weights = safetensors.torch.load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    reference = json.loads((model / "reference.json").read_text(encoding="utf-8"))
    made = KINDS[job["kind"]](weights, config, pairs(reference))
    # The model itself may be served from there.
    for path in model.glob("tokenizer*"):
        shutil.copy(path, out)
    safetensors.torch.save_file(made, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
