# SPDX-License-Identifier: Apache-2.0
"""Templates: variants by probes, imports by what a tree defines, real releases."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from migrator.codemod import templates
from migrator.codemod.probes import PROBES
from migrator.codemod.templates import TemplateError, render
from migrator.files.tree import DiskTree, Tree
from migrator.verify import compiles
from tests.trees import NEWEST

TEMPLATES = {
    path.relative_to(templates.template_root()).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(templates.template_root().rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
}
"""Every template: where it lands, and what it says in the newest release, with directives."""
NEW = Tree(
    {
        "vllm/config/compilation.py": b"class CompilationMode:\n    pass\n",
        "vllm/v1/attention/backend.py": b"class AttentionImpl:\n    pass\n\n\n"
        b"class AttentionType:\n    pass\n",
    }
)
OLD = Tree(
    {
        "vllm/config/compilation.py": b"class CompilationLevel:\n    pass\n",
        "vllm/attention/backends/abstract.py": b"class AttentionImpl:\n    pass\n\n\n"
        b"if True:\n    class AttentionType:\n        pass\n",
    },
    "old",
)

VARIANT = b"""\
def policy(config):
    # npu-migrate: when config_has_compilation_mode
    mode = config.mode

    # npu-migrate: otherwise
    mode = config.level
    # npu-migrate: end
    return mode
"""


def test_probe_chooses_the_variant() -> None:
    assert render(VARIANT, NEW) == (
        b"def policy(config):\n    mode = config.mode\n\n    return mode\n"
    )
    assert (
        render(VARIANT, OLD) == b"def policy(config):\n    mode = config.level\n    return mode\n"
    )


def test_dropped_variant_leaves_no_gap() -> None:
    text = b"""\
import os


def first():
    return os


# npu-migrate: when config_has_compilation_mode
def second():
    return 2


# npu-migrate: end
def third():
    return 3
"""
    assert render(text, OLD) == (
        b"import os\n\n\ndef first():\n    return os\n\n\ndef third():\n    return 3\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# npu-migrate: when moon_is_full\n# npu-migrate: end\n", "no probe called 'moon_is"),
        (b"# npu-migrate: when config_has_compilation_mode\n", "not closed"),
        (b"x = 1\n# npu-migrate: otherwise\n", "line 2: 'otherwise' is out of place"),
        (b"# npu-migrate: end\n", "line 1: 'end' is out of place"),
        (
            b"# npu-migrate: when config_has_compilation_mode\n"
            b"# npu-migrate: when config_has_cudagraph_mode\n",
            "line 2: 'when' is out of place",
        ),
    ],
)
def test_malformed_directive_is_named(text: bytes, message: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(message)):
        render(text, NEW)


def test_import_follows_the_definition() -> None:
    text = (
        b"from vllm.v1.attention.backend import AttentionImpl, AttentionType\n\nX = AttentionImpl\n"
    )
    assert render(text, NEW) == text
    assert render(text, OLD) == text.replace(
        b"vllm.v1.attention.backend", b"vllm.attention.backends.abstract"
    )


def test_import_splits_where_names_part() -> None:
    parted = Tree(
        {
            "vllm/v1/attention/backend.py": b"class AttentionImpl:\n    pass\n",
            "vllm/attention/backends/abstract.py": b"class AttentionType:\n    pass\n",
        }
    )
    text = b"from vllm.v1.attention.backend import AttentionImpl, AttentionType\n"
    assert render(text, parted) == (
        b"from vllm.attention.backends.abstract import AttentionType\n"
        b"from vllm.v1.attention.backend import AttentionImpl\n"
    )


def test_name_without_a_home_is_an_error() -> None:
    with pytest.raises(TemplateError, match="old has no bind_kv_cache: neither"):
        render(b"from vllm.v1.worker.utils import bind_kv_cache\n", OLD)


def test_import_of_another_template_stands() -> None:
    text = b"from vllm.accelerator import device_module\n"
    assert render(text, OLD) == text


def test_every_probe_says_what_it_looks_at() -> None:
    for name, probe in PROBES.items():
        assert probe.__name__ == name
        assert probe.__doc__


def test_every_probe_is_used_by_a_template() -> None:
    used = set(re.findall(r"# npu-migrate: when (\w+)", "".join(TEMPLATES.values())))
    assert used <= set(PROBES)
    assert set(PROBES) <= used


@pytest.mark.parametrize("path", TEMPLATES)
def test_template_is_a_file_of_vllm(path: str) -> None:
    text = TEMPLATES[path]
    if path.endswith(".py"):
        lines = text.splitlines()
        if lines[0].startswith("# npu-migrate: when "):
            # The whole file is for some releases alone.
            assert lines[-1] == "# npu-migrate: end"
            del lines[0]
        assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
        assert lines[1].startswith("# SPDX-FileCopyrightText: Copyright contributors")
        # Before 0.17 vLLM runs on Python 3.9.
        assert [
            what for _, needed, what in compiles._newer_syntax(ast.parse(text)) if needed > (3, 9)
        ] == []
        assert max(map(len, text.splitlines())) <= 88


@pytest.mark.releases
@pytest.mark.parametrize(
    "version",
    [
        "0.11.0",
        "0.33.0",
        *(
            pytest.param(version, marks=pytest.mark.slow)
            for version in ("0.9.2", "0.10.0", "0.10.2", "0.13.0", "0.18.0", "0.23.0", "0.29.0")
        ),
    ],
)
def test_templates_fit_a_release(version: str, release: Callable[[str], Path]) -> None:
    tree, again = DiskTree(release(version)), DiskTree(release(version))
    for path, text in TEMPLATES.items():
        rendered = render(text.encode(), tree)
        assert b"npu-migrate" not in rendered
        assert rendered == render(text.encode(), again)
        if path.endswith(".py"):
            module = ast.parse(rendered)
            unresolved = [
                f"{node.module}.{alias.name}"
                for node in ast.walk(module)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm")
                for alias in node.names
                if node.level == 0 and not templates._defines(node.module or "", alias.name, tree)
            ]
            assert unresolved == []


# ---- shapes between releases ----------------------------------------------------------------

COMMON = """\
class CommonAttentionMetadata:
    block_table_tensor: object
    seq_lens_cpu: object
"""
BUILDER = """\
class AttentionMetadataBuilder:
    def __init__(self, kv_cache_spec, {}vllm_config, device):
        ...
"""
SUPPORT = """\
class AttentionCGSupport:
    NEVER = 0
    {} = 1
"""


@pytest.mark.parametrize(
    ("shape", "parameters", "graphs"),
    [
        ((), "runner", False),
        ((COMMON, BUILDER.format("")), "config", False),
        # 555e7225bc of July 2025: names of layers, and no support of graphs yet.
        ((COMMON, BUILDER.format("layer_names, ")), "layers", False),
        # 23322431c8 to 74f441f4b5: a support without single tokens.
        (
            (COMMON, BUILDER.format("layer_names, "), SUPPORT.format("PURE_DECODE_ONLY")),
            "layers",
            False,
        ),
        (
            (
                COMMON,
                BUILDER.format("layer_names, "),
                SUPPORT.format("UNIFORM_SINGLE_TOKEN_DECODE"),
            ),
            "layers",
            True,
        ),
    ],
)
def test_builders_of_every_shape(shape: tuple[str, ...], parameters: str, graphs: bool) -> None:
    home = "vllm/v1/attention/backends/utils.py"
    tree = Tree({home: "\n\n".join(shape).encode()})
    text = templates._choose(TEMPLATES["vllm/v1/attention/backends/ascend_attn.py"], tree)
    module = ast.parse(text)
    (builder,) = (
        node
        for node in module.body
        if isinstance(node, ast.ClassDef) and node.name == "AscendMetadataBuilder"
    )
    (made,) = (
        node
        for node in builder.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    taken = {
        "runner": ["self", "runner", "kv_cache_spec", "block_table"],
        "config": ["self", "kv_cache_spec", "vllm_config", "device"],
        "layers": ["self", "kv_cache_spec", "layer_names", "vllm_config", "device"],
    }
    assert [parameter.arg for parameter in made.args.args] == taken[parameters]
    assert ast.unparse(made.body[-1]).startswith("self._prepare(")
    assert ("AttentionCGSupport" in text) == graphs
    assert ("self.cudagraph_support = self.get_cudagraph_support(" in ast.unparse(made)) == graphs


RUNNER = """\
class GPUModelRunner:
    def initialize_attn_backend(self, kv_cache_spec):
        return get_attn_backend(kv_cache_spec.head_size, self.dtype, {})
"""


@pytest.mark.parametrize(
    ("asks", "given", "taken"),
    [
        ("self.cache_dtype", "auto", True),
        ("self.cache_dtype", "bfloat16", True),
        ("self.cache_dtype", "fp8", False),
        # Up to August 2025: the dtype that the option came to.
        ("kv_cache_spec.dtype", "auto", True),
        ("kv_cache_spec.dtype", "torch.bfloat16", True),
        ("kv_cache_spec.dtype", "torch.uint8", False),
    ],
)
def test_a_cache_of_the_models_dtype_is_taken(asks: str, given: str, taken: bool) -> None:
    """Whether it is asked for by its name, or by the dtype itself, which reads `torch.…`."""
    tree = Tree({"vllm/v1/worker/gpu_model_runner.py": RUNNER.format(asks).encode()})
    text = templates._choose(TEMPLATES["vllm/v1/attention/backends/ascend_attn.py"], tree)
    (function,) = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == "validate_configuration"
    )
    function.decorator_list = []
    space = {
        "torch": SimpleNamespace(bfloat16="torch.bfloat16"),
        "Any": object,
        "KERNEL_BLOCK_SIZE": 128,
        "refusal": lambda *_, **__: None,
    }
    exec(compile(ast.Module([function], []), "ascend_attn.py", "exec"), space)

    class Backend:
        supports_dtype = supports_block_size = supports_attn_type = staticmethod(lambda _: True)

    reasons = space["validate_configuration"](  # type: ignore[operator]
        Backend, dtype="torch.bfloat16", kv_cache_dtype=given
    )
    assert reasons == ([] if taken else [f"a KV cache of {given.removeprefix('torch.')}"])


PREFILLS = "vllm/v1/attention/backends/mla/prefill/registry.py"


@pytest.mark.parametrize(
    ("registry", "served"),
    [
        (None, True),
        # 0.21 and 0.22: the list is an enumeration.
        (b"class MLAPrefillBackendEnum: ...\n", False),
        (b"class MLAPrefillBackendEnum: ...\n\n\ndef register_mla_prefill_backend(): ...\n", True),
    ],
)
def test_latent_attention_where_a_backend_of_prefills_can_be_added(
    registry: bytes | None, served: bool
) -> None:
    files = {**NEWEST, **({} if registry is None else {PREFILLS: registry})}
    assert PROBES["mla_can_be_added"](Tree(files)) == served
    text = templates._choose(TEMPLATES["vllm/platforms/npu_config.py"], Tree(files))
    assert ("latent attention has no backend in this release" in text) == (not served)
