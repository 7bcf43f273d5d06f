# SPDX-License-Identifier: Apache-2.0
"""What a vLLM tree offers, read off its own definitions.

Templates choose between two ways of doing a thing by these. A probe looks at a signature, a class
attribute or a file of the tree, never at its version: backports and forks answer for themselves.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from migrator.codemod.torch_npu_releases import SOURCES, image, match, pinned_torch
from migrator.files.tree import Tree

Probe = Callable[[Tree], bool]

_TABLE = SOURCES["compatibility"]

BACKEND_HOMES = ("vllm/v1/attention/backend.py", "vllm/attention/backends/abstract.py")
COMMON_METADATA_HOMES = ("vllm/v1/attention/backend.py", "vllm/v1/attention/backends/utils.py")
COMPILATION_HOMES = ("vllm/config/compilation.py", "vllm/config.py")
CACHE_CONFIG_HOMES = ("vllm/config/cache.py", "vllm/config/__init__.py", "vllm/config.py")


def _defined(tree: Tree, homes: tuple[str, ...], qualified_name: str) -> bool:
    return any(tree.definition(home, qualified_name) is not None for home in homes)


def _class_fields(tree: Tree, homes: tuple[str, ...], name: str) -> set[str]:
    """Names that the class body of `name` assigns or annotates, and its methods and properties."""
    for home in homes:
        found = tree.definition(home, name)
        if isinstance(found, ast.ClassDef):
            fields: set[str] = set()
            for statement in found.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    fields.add(statement.target.id)
                elif isinstance(statement, ast.Assign):
                    fields |= {t.id for t in statement.targets if isinstance(t, ast.Name)}
                elif isinstance(statement, ast.FunctionDef):
                    fields.add(statement.name)
            return fields
    return set()


def has_kv_cache_layouts(tree: Tree) -> bool:
    """Backends declare layouts (`supported_kv_cache_layouts`) instead of a KV cache shape."""
    return _defined(tree, BACKEND_HOMES, "AttentionBackend.supported_kv_cache_layouts")


_CONNECTORS = "vllm/distributed/kv_transfer/kv_connector/v1"


def connectors_count_blocks_first(tree: Tree) -> bool:
    """The connector that saves blocks takes them along the first dimension of any plain cache."""
    homes = (f"{_CONNECTORS}/example_connector.py", f"{_CONNECTORS}/shared_storage_connector.py")
    found = [module for home in homes if (module := tree.parse(home)) is not None]
    # Where keys come first, it flattens the blocks behind them.
    return bool(found) and not any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "reshape"
        and bool(node.args)
        and ast.unparse(node.args[0]) == "2"
        for module in found
        for node in ast.walk(module)
    )


def offloading_has_workers(tree: Tree) -> bool:
    """A spec of KV offloading makes a worker that moves blocks both ways, not handlers."""
    return _defined(tree, ("vllm/v1/kv_offload/base.py",), "OffloadingWorker.submit_store")


def common_metadata_has_exact_host_lengths(tree: Tree) -> bool:
    """`CommonAttentionMetadata.seq_lens_cpu` holds the exact context lengths on the host."""
    return "seq_lens_cpu" in _class_fields(tree, COMMON_METADATA_HOMES, "CommonAttentionMetadata")


def common_metadata_only_bounds_host_lengths(tree: Tree) -> bool:
    """The host knows context lengths by `seq_lens_cpu_upper_bound` alone."""
    fields = _class_fields(tree, COMMON_METADATA_HOMES, "CommonAttentionMetadata")
    return "seq_lens_cpu_upper_bound" in fields and "seq_lens_cpu" not in fields


def builders_take_the_runner(tree: Tree) -> bool:
    """Metadata builders get the model runner: the common metadata has no block table yet."""
    fields = _class_fields(tree, COMMON_METADATA_HOMES, "CommonAttentionMetadata")
    return "block_table_tensor" not in fields


def builders_take_layer_names(tree: Tree) -> bool:
    """Metadata builders get the names of their layers beside the configuration."""
    return any(
        "layer_names" in (tree.parameters(home, "AttentionMetadataBuilder.__init__") or ())
        for home in COMMON_METADATA_HOMES
    )


def builders_take_the_config_only(tree: Tree) -> bool:
    """Metadata builders get the configuration, without the names of their layers."""
    return not builders_take_the_runner(tree) and not builders_take_layer_names(tree)


def graphs_hold_single_token_decodes(tree: Tree) -> bool:
    """Builders that know their layers can say that graphs hold decode steps of a token each.

    Between releases there was an `AttentionCGSupport` without such a member, and none.
    """
    members = _class_fields(tree, COMMON_METADATA_HOMES, "AttentionCGSupport")
    return "UNIFORM_SINGLE_TOKEN_DECODE" in members and builders_take_layer_names(tree)


def attention_takes_blocksparse_params(tree: Tree) -> bool:
    """Attention implementations get `blocksparse_params`, in the midst of what is positional."""
    return any(
        "blocksparse_params" in (tree.parameters(home, "AttentionImpl.__init__") or ())
        for home in BACKEND_HOMES
    )


MLA_LAYER = "vllm/model_executor/layers/attention/mla_attention.py"


def mla_layers_part_the_batch(tree: Tree) -> bool:
    """Layers of latent attention part decodes from prefills; else the backend does all of it."""
    return tree.definition(MLA_LAYER, "MLAAttention.forward_impl") is not None


_PREFILLS = "vllm/v1/attention/backends/mla/prefill/registry.py"


def mla_can_be_added(tree: Tree) -> bool:
    """Latent attention can have a backend that writes the cache, which may be two tensors.

    In some releases the layer writes it itself, by a CUDA kernel; earlier ones do not tell such a
    cache from others (`MLAAttentionSpec`). In others a layer makes a backend for prefills, too, and
    takes it from a list to which nothing can be added.
    """
    spec = tree.definition("vllm/v1/kv_cache_interface.py", "MLAAttentionSpec")
    writes = _defined(tree, BACKEND_HOMES, "MLAAttentionImpl.do_kv_cache_update")
    closed = tree.parse(_PREFILLS) is not None and not has_mla_prefill_backends(tree)
    return spec is not None and not closed and (writes or not mla_layers_part_the_batch(tree))


def has_mla_prefill_backends(tree: Tree) -> bool:
    """Layers of latent attention hold a backend for prefills, to which others can be added."""
    return _defined(tree, (_PREFILLS,), "register_mla_prefill_backend")


def backends_set_block_size(tree: Tree) -> bool:
    """`CacheConfig` tells a user's block size from the default, which backends may replace."""
    return "user_specified_block_size" in _class_fields(tree, CACHE_CONFIG_HOMES, "CacheConfig")


def config_has_compilation_mode(tree: Tree) -> bool:
    """Compilation is chosen by `CompilationMode` and `CompilationConfig.mode`, not by a level."""
    return _defined(tree, COMPILATION_HOMES, "CompilationMode")


def config_has_cudagraph_mode(tree: Tree) -> bool:
    """Graph capture is chosen by `CUDAGraphMode`, not by the flag `use_cudagraph`."""
    return _defined(tree, COMPILATION_HOMES, "CUDAGraphMode")


def config_recomputes_capture_sizes(tree: Tree) -> bool:
    """`CompilationConfig.post_init_cudagraph_sizes` derives the padding table from the sizes."""
    return _defined(tree, COMPILATION_HOMES, "CompilationConfig.post_init_cudagraph_sizes")


def all2all_has_allgather_reducescatter(tree: Tree) -> bool:
    """Expert parallelism has the all-gather and reduce-scatter manager (`AgRsAll2AllManager`)."""
    home = ("vllm/distributed/device_communicators/all2all.py",)
    return _defined(tree, home, "AgRsAll2AllManager")


def stages_share_sampled_tokens(tree: Tree) -> bool:
    """The last pipeline stage broadcasts what it sampled to the others, on the device."""
    home = ("vllm/v1/worker/gpu_model_runner.py",)
    return _defined(tree, home, "GPUModelRunner._pp_broadcast_prev_sampled_token_ids")


def has_model_runner_v2(tree: Tree) -> bool:
    """A property of the configuration chooses the model runner V2, whose buffers can be copies."""
    return _defined(tree, ("vllm/config/vllm.py",), "VllmConfig.use_v2_model_runner") and _defined(
        tree, ("vllm/v1/worker/gpu/buffer_utils.py",), "NonUvaBuffer"
    )


def models_bring_their_state(tree: Tree) -> bool:
    """Model runner V2 asks a model for the class of its requests' state (`get_model_state_cls`)."""
    chooses = tree.definition(
        "vllm/v1/worker/gpu/model_states/__init__.py", "resolve_model_state_cls"
    ) or tree.definition("vllm/v1/worker/gpu/model_states/__init__.py", "init_model_state")
    return chooses is not None and any(
        isinstance(node, ast.Attribute) and node.attr == "get_model_state_cls"
        for node in ast.walk(chooses)
    )


def runner_marks_padding(tree: Tree) -> bool:
    """The model runner tells routers which tokens are padding (`_prepare_padding_mask`)."""
    home = ("vllm/v1/worker/gpu_model_runner.py",)
    return _defined(tree, home, "GPUModelRunner._prepare_padding_mask")


def runner_keeps_prompt_logprobs(tree: Tree) -> bool:
    """The model runner knows who asked for log probabilities of a prompt, not its input batch."""
    made = tree.definition("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.__init__")
    return made is not None and any(
        isinstance(node, ast.Attribute)
        and node.attr == "num_prompt_logprobs"
        and isinstance(node.ctx, ast.Store)
        for node in ast.walk(made)
    )


def runner_asks_by_cache_dtype(tree: Tree) -> bool:
    """The model runner asks for backends with the dtype that the KV cache has, not its option."""
    module = tree.parse("vllm/v1/worker/gpu_model_runner.py")
    return module is not None and any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "get_attn_backend"
        and any(ast.unparse(argument) == "kv_cache_spec.dtype" for argument in node.args)
        for node in ast.walk(module)
    )


def platform_registers_kernels(tree: Tree) -> bool:
    """Workers have the platform register what runs in the place of Triton kernels."""
    home = ("vllm/platforms/interface.py",)
    return _defined(tree, home, "Platform.register_triton_kernel_overrides")


def speculation_has_all_kernels(tree: Tree) -> bool:
    """Drafts go through the kernels of the newest releases, a step's slot mapping as the last."""
    home = ("vllm/v1/spec_decode/utils.py",)
    return _defined(tree, home, "eagle_step_slot_mapping_metadata_kernel")


_PUNICA_BASE = "vllm/lora/punica_wrapper/punica_base.py"


def draft_inputs_have_kernels(tree: Tree) -> bool:
    """Kernels beside the proposers prepare the input of a draft model, not the proposers alone."""
    home = "vllm/v1/spec_decode/utils.py"
    return _defined(tree, (home,), "eagle_prepare_inputs_padded_kernel")


def draws_know_their_step(tree: Tree) -> bool:
    """A platform registers kernels, and V2's draws of drafts mix the step into the seed."""
    home = ("vllm/v1/worker/gpu/sample/gumbel.py",)
    return platform_registers_kernels(tree) and _defined(tree, home, "spec_step_seed")


def _punica_takes(tree: Tree, method: str, parameter: str) -> bool:
    return parameter in (tree.parameters(_PUNICA_BASE, f"PunicaWrapperBase.{method}") or ())


def punica_takes_bias(tree: Tree) -> bool:
    """LoRA adapters may have a bias, which products get behind the stacked B."""
    return _punica_takes(tree, "add_lora_linear", "lora_bias_stacked")


def punica_takes_extra_vocab(tree: Tree) -> bool:
    """LoRA adapters may add tokens to the vocabulary."""
    return _punica_takes(tree, "update_metadata", "extra_vocab_size")


def punica_takes_long_context(tree: Tree) -> bool:
    """LoRA adapters may scale the rotary embedding (`long_lora_context`)."""
    return _punica_takes(tree, "update_metadata", "long_lora_context")


def punica_has_full_linear(tree: Tree) -> bool:
    """A LoRA adapter may bring a whole layer, a classification head."""
    return _defined(tree, (_PUNICA_BASE,), "PunicaWrapperABC.apply_lora_full_linear")


_LINEAR_KERNELS = "vllm/model_executor/kernels/linear/__init__.py"
_SCALED_MM = "vllm/model_executor/layers/quantization/kernels/scaled_mm/ScaledMMLinearKernel.py"


def int8_kernels_have_a_table(tree: Tree) -> bool:
    """Kernels of int8 linear layers are told from those of other types, in a table of their own."""
    return "_POSSIBLE_INT8_KERNELS" in tree.names(_LINEAR_KERNELS)


def int8_kernels_have_a_class(tree: Tree) -> bool:
    """Kernels of int8 linear layers have a base class of their own, where all kernels were."""
    return _defined(tree, (_SCALED_MM,), "Int8ScaledMMLinearKernel")


def scaled_products_are_int8(tree: Tree) -> bool:
    """Every kernel of a scaled product is for int8: there is one table, and one base class."""
    home = _SCALED_MM.replace("ScaledMMLinearKernel", "__init__")
    return "_POSSIBLE_KERNELS" in tree.names(home)


def modes_capture_scaled_products(tree: Tree) -> bool:
    """Every kernel of a scaled product is for int8, and a mode says which graphs hold them."""
    return scaled_products_are_int8(tree) and config_has_cudagraph_mode(tree)


def int8_kernels_have_a_capability(tree: Tree) -> bool:
    """Kernels of int8 linear layers have to say which CUDA device they need."""
    return _defined(tree, (_SCALED_MM,), "ScaledMMLinearKernel.get_min_capability")


PROBES: dict[str, Probe] = {
    probe.__name__: probe
    for probe in (
        has_kv_cache_layouts,
        connectors_count_blocks_first,
        offloading_has_workers,
        common_metadata_has_exact_host_lengths,
        common_metadata_only_bounds_host_lengths,
        builders_take_the_runner,
        builders_take_layer_names,
        builders_take_the_config_only,
        graphs_hold_single_token_decodes,
        attention_takes_blocksparse_params,
        mla_layers_part_the_batch,
        mla_can_be_added,
        has_mla_prefill_backends,
        backends_set_block_size,
        config_has_compilation_mode,
        config_has_cudagraph_mode,
        config_recomputes_capture_sizes,
        all2all_has_allgather_reducescatter,
        stages_share_sampled_tokens,
        has_model_runner_v2,
        models_bring_their_state,
        runner_marks_padding,
        runner_keeps_prompt_logprobs,
        runner_asks_by_cache_dtype,
        platform_registers_kernels,
        draft_inputs_have_kernels,
        draws_know_their_step,
        speculation_has_all_kernels,
        punica_takes_bias,
        punica_takes_extra_vocab,
        punica_takes_long_context,
        punica_has_full_linear,
        int8_kernels_have_a_table,
        int8_kernels_have_a_class,
        scaled_products_are_int8,
        modes_capture_scaled_products,
        int8_kernels_have_a_capability,
    )
}
"""Every probe by the name that templates call it."""


def torch_npu_requirement(tree: Tree) -> str:
    """The torch_npu that fits the torch which the tree pins for CUDA.

    torch_npu pins its torch itself, and is made for a CANN: `cann_image` is of the same row. For a
    torch that no table names, a torch_npu of the same X.Y is all that can be told.
    """
    torch = pinned_torch(tree)
    row = match(torch)
    if row is not None:
        return f"torch_npu == {row.torch_npu}"
    if torch is None:
        return f"# The tree pins no torch: which torch_npu fits is told by\n# {_TABLE}\ntorch_npu"
    return (
        f"# No torch_npu for torch {torch} was known when this was made, nor its CANN. See\n"
        f"# {_TABLE}\n"
        f"torch_npu ~= {torch}.0"
    )


def cann_image(tree: Tree) -> str:
    """The image with the CANN that `torch_npu_requirement` was made for; none where none is known.

    Docker refuses to build without one: which, has to be said by --build-arg.
    """
    row = match(pinned_torch(tree))
    if row is not None:
        return f"ARG CANN_IMAGE={image(row.cann)}"
    return (
        "# Which CANN goes with the torch_npu of requirements/npu.txt was not known when this\n"
        f"# was made. See {_TABLE}\n"
        "# and build with --build-arg CANN_IMAGE=quay.io/ascend/cann:TAG\n"
        "ARG CANN_IMAGE"
    )


VALUES: dict[str, Callable[[Tree], str]] = {
    value.__name__: value for value in (torch_npu_requirement, cann_image)
}
"""What is read off a tree and written into a template, by the name that templates call it."""
