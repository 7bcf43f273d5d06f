# SPDX-License-Identifier: Apache-2.0
"""The table of what can reach an NPU: nothing is without an answer, and no answer without proof."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import option_table as table  # noqa: E402 - found by the line above
from kernel_table import Row  # noqa: E402

LAYERS = "vllm/model_executor/layers"
TREE = {
    "vllm/engine/arg_utils.py": (
        "class EngineArgs:\n    seed: int = 0\n    later: int = 0\n    kept: ClassVar[int] = 1\n"
        "class AsyncEngineArgs(EngineArgs):\n    enable_log_requests: bool = False\n"
    ),
    "vllm/envs.py": (
        'environment_variables: dict = {"VLLM_FRONT": 1, "VLLM_DEEP": 2, "VLLM_UNREAD": 3}\n'
        'environment_variables |= {"VLLM_NPU_X": 4}\n'
    ),
    "vllm/entrypoints/serve.py": "envs.VLLM_FRONT\n",
    "vllm/worker.py": "import os\nos.environ['VLLM_DEEP']; envs.VLLM_FRONT_MORE\n",
    "vllm/model_executor/models/interfaces.py": "class SupportsX: ...\nclass _Hidden: ...\n",
    "vllm/model_executor/models/interfaces_base.py": "class VllmModel: ...\n",
    "vllm/attention/layer.py": (
        "class Attention:\n    def __init__(self, num_heads, sinks=None): ...\n"
    ),
    "vllm/v1/attention/backend.py": (
        'class AttentionType:\n    DECODER = "decoder"\n'
        "class AttentionBackend:\n    def supports_sink(cls): ...\n    def get_name(cls): ...\n"
    ),
    "vllm/v1/kv_cache_interface.py": "class FullAttentionSpec: ...\nclass KVCacheConfig: ...\n",
    "vllm/config/cache.py": 'CacheDType = Literal["auto", "fp8"]\n',
    "vllm/config/speculative.py": (
        'More = Literal["mtp"]\nSpeculativeMethod = Literal["ngram", More]\n'
    ),
    "vllm/config/parallel.py": 'DistributedExecutorBackend = Literal["mp"]\n',
    "vllm/config/compilation.py": "class CUDAGraphMode(Enum):\n    NONE = 0\n",
    f"{LAYERS}/fused_moe/layer.py": (
        "class FusedMoE:\n    def __init__(self, top_k, *, limit=None): ...\n"
    ),
    f"{LAYERS}/quantization/__init__.py": 'QuantizationMethods = Literal["awq"]\n',
    f"{LAYERS}/rotary_embedding/base.py": "class RotaryEmbedding: ...\n",
    "vllm/model_executor/model_loader/__init__.py": 'LoadFormats = Literal["auto"]\n',
    "vllm/distributed/kv_transfer/kv_connector/factory.py": (
        'Factory.register_connector("SomeConnector", "module", "name")\n'
    ),
    "vllm/platforms/npu_config.py": (
        '_WHY = "it is CUDA\'s"\n'
        'TAKEN: dict = {"cache_config.later": ((0,), _WHY)}\n'
        'TAKEN_VARIABLES = {"VLLM_DEEP": (("0",), "why not")}\n'
    ),
}
ITEMS = {
    "option": {"seed", "later", "enable_log_requests"},
    "variable": {"VLLM_FRONT", "VLLM_DEEP", "VLLM_UNREAD", "VLLM_NPU_X"},
    "interface": {"SupportsX", "VllmModel"},
    "attention": {"num_heads", "sinks"},
    "attention-type": {"DECODER"},
    "attention-question": {"supports_sink"},
    "cache-kind": {"FullAttentionSpec"},
    "cache-dtype": {"auto", "fp8"},
    "rope": {"RotaryEmbedding"},
    "experts": {"top_k", "limit"},
    "quantization": {"awq"},
    "load-format": {"auto"},
    "speculation": {"ngram", "mtp"},
    "connector": {"SomeConnector"},
    "executor": {"mp"},
    "graphs": {"NONE"},
}


@pytest.fixture
def source(tmp_path: Path) -> table.Source:
    for name, text in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return table.Source(tmp_path / "tree")


def test_a_tree_is_read_by_structure(source: table.Source) -> None:
    found: dict[str, set[str]] = {}
    for item in table.items(source):
        found.setdefault(item.kind, set()).add(item.name)
    assert found == ITEMS


def test_nothing_is_without_an_answer(source: table.Source, tmp_path: Path) -> None:
    answers = tmp_path / "answers.toml"
    answers.write_text(
        '[[host]]\nwhy = "the front end"\nplaces = ["vllm/entrypoints/*"]\n'
        '[[runs]]\nwhy = "a seed"\nby = ["run llama:eager"]\noption = "seed gone"\n'
        '[[refused]]\nwhy = "no"\nby = ["case float32"]\nspeculation = "*"\n',
        encoding="utf-8",
    )
    known = table.read_answers(answers)
    found = {f.item: [(a.says, a.why) for a in f.answers] for f in table.answer_all(source, known)}
    assert found[table.Item("option", "seed")] == [("runs", "a seed")]
    assert found[table.Item("option", "enable_log_requests")] == []
    # By the platform's own table, whatever a release calls it.
    assert found[table.Item("option", "later")] == [
        ("refused", "other values than (0,): it is CUDA's")
    ]
    assert found[table.Item("variable", "VLLM_DEEP")] == [
        ("refused", "other values than ('0',): why not")
    ]
    assert found[table.Item("variable", "VLLM_FRONT")] == [("host", "the front end")]
    assert found[table.Item("variable", "VLLM_UNREAD")] == [("host", table.NOBODY.why)]
    assert found[table.Item("speculation", "mtp")] == [("refused", "no")]
    everything = table.answer_all(source, known)
    assert list(table.unused(everything, known)) == [
        "option gone: no release that has a page has it"
    ]
    text = table.page("0.32.0", everything)
    reaching, _, apart = text.partition("## What does not reach the device")
    assert "| `VLLM_FRONT` | **no device side**: the front end |  |" in apart
    assert "VLLM_FRONT" not in reaching
    assert "| `seed` | **runs**: a seed | llama eager |" in text
    assert "| `enable_log_requests` | **none** |  |" in text


def test_a_proof_has_to_name_what_it_proves(source: table.Source) -> None:
    def runs(*names: str, by: str, **words: str) -> list[table.Found]:
        answer = table.Answer("runs", "why", (by,), words=words)
        return [table.Found(table.Item("option", name), (answer,)) for name in names]

    def said(founds: list[table.Found]) -> list[str]:
        return list(table.unshown(founds, source))

    eager = "run llama:eager"
    assert said(runs("max_num_seqs", "enforce_eager", by=eager)) == []
    assert said(runs("max_num", by=eager)) == [f"option max_num is in none of {eager}"]
    assert said(runs("max_num", by=eager, max_num="max_num_seqs")) == []
    assert said(runs("enable_lora", by=eager)) == [f"option enable_lora is in none of {eager}"]
    assert said(runs("enable_lora", "max_lora_rank", by="run llama:lora1-eager")) == []
    assert said(runs("hf_overrides", "num_gpu_blocks_override", by="run vllm:features")) == []
    assert (
        said(runs("data_parallel_size", "enable_expert_parallel", by="run mixtral:serve-dp2")) == []
    )
    assert said(runs("data_parallel_size", by="run llama:serve")) != []
    test = "test tests/scripts/test_option_table.py::test_a_proof_has_to_name_what_it_proves"
    assert said(runs("data_parallel_size", by=test)) == []
    # What is refused is not run, and the kinds that a run need not name are not looked for.
    answer = table.Answer("refused", "why", ("case float32",))
    assert said([table.Found(table.Item("option", "nowhere"), (answer,))]) == []
    assert (
        said([table.Found(table.Item("rope", "Nowhere"), (runs("x", by=eager)[0].answers))]) == []
    )


def test_an_operator_has_the_answer_of_all_its_places() -> None:
    def row(operator: str, answer: str, *, reached: bool = True) -> Row:
        return Row("p", "f", f"torch.ops.{operator}", answer, "because", reached)

    names = {table.KERNEL: ("_C.norm", "_C.both")}
    version = table.Answer("runs", "a version", ("run llama:eager",), names=names)
    found = {
        f.item.name: [a.says for a in f.answers]
        for f in table.kernels(
            [
                row("_C.norm", "version"),
                row("_C.norm", "never"),
                row("_C.unproven", "version"),
                row("_C.both", "version"),
                row("_C.both", ""),
                row("_C.far", "never", reached=False),
            ],
            [version],
        )
    }
    assert found == {"_C.norm": ["runs", "host"], "_C.unproven": [], "_C.both": []}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('[[maybe]]\nwhy = "x"\n', "is none of runs, refused, host"),
        ('[[runs]]\nwhy = "x"\noption = "seed"\n', "no reason or no proof"),
        ('[[host]]\nwhy = "x"\nopinion = "seed"\n', "no kind is called opinion"),
    ],
)
def test_answers_that_say_nothing_are_errors(entry: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.toml"
    path.write_text(entry, encoding="utf-8")
    with pytest.raises(table.TableError, match=says):
        table.read_answers(path)


@pytest.mark.parametrize(
    ("says", "reference"),
    [
        ("runs", "run llama:nowhere"),
        ("runs", "case float32"),
        ("refused", "run llama:eager"),
        ("refused", "case of nothing"),
        ("runs", "test tests/scripts/test_option_table.py::test_that_is_not_there"),
        ("runs", "upstream v1/test_that_is_not_there.py"),
        ("refused", "rule NPU999"),
        ("runs", "somebody said so"),
    ],
)
def test_proofs_that_lead_nowhere_are_told(says: str, reference: str) -> None:
    (problem,) = table.unproven([table.Answer(says, "why", (reference,))])
    assert reference in problem


def test_the_answers_have_proofs_and_not_ported_is_made_from_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert table.main(["--check"]) == 0, capsys.readouterr().out
