# SPDX-License-Identifier: Apache-2.0
"""Makes a tiny random model and its greedy tokens with transformers, on the CPU, in float32.

    python reference.py JOB.json

The job names the configuration, the shapes of the prompts and where to write. The random part of
every prompt is drawn again until its greedy tokens are robust: at each step the best logit leads
the second by at least `wanted_gap`, no special token comes up and the tokens vary. The smallest
lead is recorded, and beside it how far the logits are from those of a float64 run: that is what
another order of float32 additions can change.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# transformers asks whether torch_npu is there and would then put itself on the NPU.
sys.modules["torch_npu"] = None  # type: ignore[assignment]

import safetensors.torch  # type: ignore[import-not-found]  # noqa: E402
import tokenizers  # type: ignore[import-not-found]  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers import (  # noqa: E402
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)


def make_tokenizer(size: int) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE over ASCII with exactly `size` tokens, so that every id decodes to text."""
    number, words = 7, []
    for _ in range(6000):
        number = (number * 1103515245 + 12345) % (1 << 31)
        consonants, vowels = "bcdfghklmnprstvz", "aeiou"
        word, rest = "", number >> 8
        for _ in range(1 + rest % 3):
            rest //= 3
            word += consonants[rest % 16] + vowels[rest // 16 % 5]
            rest //= 80
        words.append(word)
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    lines = (" ".join(words[start : start + 20]) for start in range(0, len(words), 20))
    made.train_from_iterator(lines, trainer)
    if made.get_vocab_size() != size:
        raise SystemExit(f"the tokenizer has {made.get_vocab_size()} tokens, not {size}")
    pad, bos, eos, unk = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


class Rounding(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """While it is on, products of linear layers are rounded to bfloat16."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What the function gives."""
        out = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.linear:
            return out.to(torch.bfloat16).to(out.dtype)
        return out


class RoundedRouter:
    """Mixed into the class of a router: it rounds its logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the router gives."""
        with Rounding():
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def round_routers(model: Any) -> None:
    """Let the routers of a model round their logits, as some releases do."""
    for name, module in model.named_modules():
        if name.endswith(".gate"):
            module.__class__ = type("Rounded", (RoundedRouter, type(module)), {})


def make_model(job: dict[str, Any]) -> Any:
    """The model with weights that make its layers matter: biases and norms are not trivial."""
    torch.manual_seed(0)
    for name in (job["config_class"], job["model_class"]):
        if not hasattr(transformers, name):
            raise SystemExit(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, job["config_class"])(**job["config"], initializer_range=0.3)
    # The batched experts of transformers have no float64, which the measure of noise needs.
    config._experts_implementation = "eager"
    # The keyword for the dtype is `torch_dtype` up to transformers 4.55 and `dtype` since.
    model = getattr(transformers, job["model_class"])._from_config(
        config, attn_implementation="eager"
    )
    model.to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "post_feedforward" in name:
                # Else a tied embedding answers with the token that it was given, for ever.
                parameter.normal_(4, 0.1)
            elif "norm" in name or ".ln_" in name:
                parameter.normal_(1, 0.1)
        for name, buffer in model.named_buffers():
            # Of a router: with it other experts are chosen, whose weights are without it.
            if name.endswith("correction_bias"):
                buffer.normal_(0, 0.3)
    if job.get("router"):
        round_routers(model)
    return model


def penalize(
    logits: torch.Tensor, prompt: list[int], output: list[int], penalty: dict[str, float]
) -> torch.Tensor:
    """Logits [vocabulary] after the penalties, as vLLM documents them for `SamplingParams`.

    Repetition counts prompt and output and divides positive logits, multiplies negative ones;
    frequency is subtracted for each occurrence in the output, presence once.
    """
    logits = logits.clone()
    seen = torch.tensor(sorted({*prompt, *output}))
    factor = penalty["repetition_penalty"]
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / factor, logits[seen] * factor)
    for token in set(output):
        logits[token] -= penalty["frequency_penalty"] * output.count(token)
        logits[token] -= penalty["presence_penalty"]
    return logits


def greedy(
    model: Any,
    prompt: list[int],
    count: int,
    wanted_gap: float,
    penalty: dict[str, float] | None = None,
) -> tuple[list[int], float]:
    """Greedy tokens after a prompt, and the smallest lead of a best logit on the way.

    It stops, with fewer than `count` tokens, where the lead is below `wanted_gap`.
    """
    tokens: list[int] = []
    smallest = float("inf")
    ids, past = torch.tensor([prompt]), None
    with torch.no_grad():
        while len(tokens) < count:
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits = out.logits[0, -1]
            if penalty is not None:
                logits = penalize(logits, prompt, tokens, penalty)
            best = logits.topk(2)
            lead = float(best.values[0] - best.values[1])
            if lead < wanted_gap:
                break
            smallest = min(smallest, lead)
            tokens.append(int(best.indices[0]))
            ids = torch.tensor([[tokens[-1]]])
    return tokens, smallest


def prompt_logprobs(model: Any, prompt: list[int]) -> list[float]:
    """The log probability of each token of a prompt but the first."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, :-1]
    wanted = torch.tensor(prompt[1:]).unsqueeze(1)
    found: list[float] = logits.log_softmax(-1).gather(1, wanted).squeeze(1).tolist()
    return found


def save_adapter(model: Any, adapter: dict[str, Any], out: Path) -> None:
    """Write a random LoRA adapter in the format of PEFT, and merge it into the model's weights."""
    torch.manual_seed(adapter["rank"])
    rank, alpha = adapter["rank"], 2 * adapter["rank"]
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, layer in model.named_modules():
            if name.rpartition(".")[2] not in adapter["targets"]:
                continue
            rows, columns = layer.weight.shape
            embedding = isinstance(layer, torch.nn.Embedding)
            outputs, inputs = (columns, rows) if embedding else (rows, columns)
            down = torch.randn(rank, inputs) * 0.2
            up = torch.randn(outputs, rank) * 0.2
            change = alpha / rank * (up @ down)
            layer.weight += change.t() if embedding else change
            for letter, tensor in (("A", down), ("B", up)):
                kind = f"lora_embedding_{letter}" if embedding else f"lora_{letter}.weight"
                tensors[f"base_model.model.{name}.{kind}"] = tensor.contiguous()
    out.mkdir()
    safetensors.torch.save_file(tensors, out / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(adapter["targets"]),
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }
    (out / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


class Draw:
    """Random token ids from a generator of its own: no library promises its stream of numbers."""

    def __init__(self, size: int) -> None:
        self._number = 12345
        self._size = size

    def __call__(self, count: int) -> list[int]:
        """`count` token ids, none of them special."""
        made = []
        for _ in range(count):
            self._number = (self._number * 1103515245 + 12345) % (1 << 31)
            made.append(
                len(SPECIAL) + (self._number >> 12) * (self._size - len(SPECIAL)) // (1 << 19)
            )
        return made


class Search:
    """Looks for prompts with robust answers of one model."""

    def __init__(self, job: dict[str, Any], model: Any) -> None:
        self.job = job
        self.model = model
        self.gap = float("inf")
        self.answers: dict[tuple[int, ...], list[int]] = {}

    def robust(self, prompt: list[int]) -> list[int] | None:
        """The greedy tokens after a prompt, None if they are not robust."""
        if tuple(prompt) in self.answers:
            return self.answers[tuple(prompt)]
        count = self.job["new_tokens"]
        tokens, lead = greedy(self.model, prompt, count, self.job["wanted_gap"])
        plain = all(token >= len(SPECIAL) for token in tokens)
        if len(tokens) < count or not plain or len(set(tokens)) < count // 3:
            return None
        self.gap = min(self.gap, lead)
        self.answers[tuple(prompt)] = tokens
        return tokens

    def find(self, candidates: Iterable[list[int]]) -> list[int]:
        """The first robust prompt of `candidates`."""
        for number, prompt in enumerate(candidates):
            if self.robust(prompt) is not None:
                return prompt
            if number >= self.job["tries"]:
                break
        raise SystemExit(
            f"{self.job['model']}: no prompt of {self.job['tries']} has greedy tokens that lead by "
            f"{self.job['wanted_gap']}"
        )

    def noise(self) -> float:
        """The largest difference of a logit from that of the same model in float64."""
        exact = copy.deepcopy(self.model).double()
        worst = 0.0
        with torch.no_grad():
            for prompt, tokens in self.answers.items():
                ids = torch.tensor([[*prompt, *tokens[:-1]]])
                ours = self.model(input_ids=ids).logits[0, len(prompt) - 1 :]
                theirs = exact(input_ids=ids).logits[0, len(prompt) - 1 :]
                worst = max(worst, float((ours.double() - theirs).abs().max()))
                if theirs.argmax(-1).tolist() != tokens:
                    raise SystemExit(f"{self.job['model']}: float64 gives other greedy tokens")
        return worst


def conversations(
    tokenizer: transformers.PreTrainedTokenizerFast, messages: list[dict[str, str]]
) -> Iterator[list[int]]:
    """Token ids of a conversation, and of the same with one word more each time."""
    while True:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        yield list(tokenizer.encode(str(text), add_special_tokens=False))
        messages[-1]["content"] += " please"


def adapt_config(path: Path) -> None:
    """Write the rotary base the old way too, where transformers 5 wrote it in its own.

    vLLM releases from before read `rope_theta`.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    bases = config.get("rope_parameters", {})
    if "full_attention" in bases:
        # A base for each kind of layers.
        config["rope_theta"] = bases["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = bases["sliding_attention"]["rope_theta"]
    elif bases:
        config["rope_theta"] = bases["rope_theta"]
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def main(job: dict[str, Any]) -> None:
    """Make the model, the tokenizer and the reference in the directory that the job names."""
    start = time.time()
    transformers.utils.logging.set_verbosity_error()
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(job["config"]["vocab_size"])
    model = make_model(job)
    search, draw = Search(job, model), Draw(job["config"]["vocab_size"])
    fresh = [search.find(draw(shape["own"]) for _ in itertools.count()) for shape in job["fresh"]]
    again = []
    for shape in job["again"]:
        shared = fresh[shape["of"]][: shape["shared"]]
        again.append(search.find([*shared, *draw(shape["own"])] for _ in itertools.count()))
    chats = [search.find(conversations(tokenizer, messages)) for messages in job["chats"]]
    penalties: list[list[int]] = []
    penalized: list[list[int]] = []
    while len(penalties) < job["penalized"]:
        prompt = draw(20 + 7 * len(penalties))
        tokens, lead = greedy(model, prompt, job["new_tokens"], job["wanted_gap"], job["penalty"])
        # Without a difference the prompt would not show that there are penalties.
        if len(tokens) == job["new_tokens"] and tokens != search.robust(prompt):
            search.gap = min(search.gap, lead)
            penalties.append(prompt)
            penalized.append(tokens)
    adapters, merged_searches = [], []
    for adapter in job["adapters"]:
        merged = copy.deepcopy(model)
        save_adapter(merged, adapter, out / adapter["name"])
        tuned = Search(job, merged)
        prompts: list[list[int]] = []
        while len(prompts) < len(job["adapted"]):
            own = job["adapted"][len(prompts)]["own"]
            prompt = tuned.find(draw(own) for _ in itertools.count())
            tokens = tuned.answers[tuple(prompt)]
            # With the same answer, the prompt would not show that there is an adapter.
            if greedy(model, prompt, len(tokens), 0.0)[0] != tokens:
                prompts.append(prompt)
        adapters.append(
            {
                "name": adapter["name"],
                "prompts": prompts,
                "tokens": [tuned.answers[tuple(prompt)] for prompt in prompts],
                "prompt_logprobs": [prompt_logprobs(merged, prompt) for prompt in prompts],
            }
        )
        merged_searches.append(tuned)
    answers = {
        name: [search.answers[tuple(p)] for p in prompts]
        for name, prompts in (("fresh", fresh), ("again", again), ("chats", chats))
    }
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    adapt_config(out / "config.json")
    record = {
        "model": job["model"],
        "gap": min(one.gap for one in (search, *merged_searches)),
        "noise": max(one.noise() for one in (search, *merged_searches)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "new_tokens": job["new_tokens"],
        "fresh": {
            "prompts": fresh,
            "tokens": answers["fresh"],
            "prompt_logprobs": [prompt_logprobs(model, prompt) for prompt in fresh],
        },
        "again": {"prompts": again, "tokens": answers["again"]},
        "penalty": job["penalty"],
        "penalties": {"prompts": penalties, "tokens": penalized},
        "adapters": adapters,
        "chats": [
            {
                "messages": messages,
                "prompt": prompt,
                "tokens": tokens,
                "text": tokenizer.decode(tokens, skip_special_tokens=True),
            }
            for messages, prompt, tokens in zip(job["chats"], chats, answers["chats"], strict=True)
        ],
        "seconds": time.time() - start,
    }
    (out / "reference.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
