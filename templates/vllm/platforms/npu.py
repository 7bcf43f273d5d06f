# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import torch

import vllm.envs as envs
from vllm.logger import init_logger

from .interface import DeviceCapability, Platform, PlatformEnum
from .npu_config import (
    chunk_reason,
    count_groups,
    cpu_offload_gb,
    max_capture_sizes,
    refuse_unsupported,
    thin_out,
)
from .npu_nnal import check_nnal
from .npu_quantization import (
    METHODS,
    is_modelslim,
    method_refusal,
    quantization_reasons,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger(__name__)

# CANN reads it once, when it is first asked for devices. That was a moment ago, to
# choose this platform: what is set from now on does not change what is seen here.
_VISIBLE = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")

# The paged attention and cache kernels work on blocks of 128 tokens.
BLOCK_SIZE = 128

# How the variables begin that CANN, its collectives and torch_npu read.
ENV_VAR_PREFIXES = ("ASCEND_", "HCCL_", "LCCL_", "PYTORCH_NPU_", "TASK_QUEUE_ENABLE")


def _complete_operators() -> None:
    """Say what an operator gives where torch_npu does not.

    torch.compile asks it of each operator that a layer calls. Some releases of
    torch_npu do not know it of the norm of Gemma.
    """
    name = "npu::npu_gemma_rms_norm"
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if not hasattr(torch.ops.npu, "npu_gemma_rms_norm") or has_kernel(name, "Meta"):
        return

    @torch.library.register_fake(name)
    def _(
        x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rstd = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        return torch.empty_like(x), rstd


_complete_operators()


class NPUPlatform(Platform):
    """Huawei Ascend NPU, through torch_npu.

    It stands outside of `PlatformEnum` on purpose. All of vLLM's branches on
    `is_out_of_tree()` do the right thing for an NPU: layers go to
    `forward_oot`, process groups take their device from `device_name`, and the
    fused MoE and collective code stays away from CUDA kernels.

    Sleep mode is not available: it needs an allocator which can unmap physical
    memory behind a live tensor. vLLM has one for CUDA and for XPU as a native
    extension, CANN's would be `aclrtMallocPhysical`; there is none in this tree.
    """

    _enum = PlatformEnum.OOT
    device_name: str = "npu"
    device_type: str = "npu"
    dispatch_key: str = "PrivateUse1"
    ray_device_key: str = "NPU"
    dist_backend: str = "hccl"
    device_control_env_var: str = "ASCEND_RT_VISIBLE_DEVICES"
    ray_noset_device_env_vars: list[str] = [
        "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES"
    ]
    simple_compile_backend: str = "eager"

    @classmethod
    def device_index(cls, local_rank: int) -> int:
        """The index of a worker's NPU among those that this process sees.

        Ray and vLLM set ASCEND_RT_VISIBLE_DEVICES in actors that run already, for
        which it is too late: vLLM itself and what it imports have asked CANN.

        Args:
            local_rank: place of the worker's NPU in that variable as it is now.

        Raises:
            ValueError: The process does not see that NPU.

        """
        now = os.environ.get(cls.device_control_env_var)
        if now == _VISIBLE:
            return local_rank
        wanted = local_rank if now is None else int(now.split(",")[local_rank])
        if _VISIBLE is None:
            seen = list(range(torch.npu.device_count()))
        else:
            seen = [int(device) for device in _VISIBLE.split(",")]
        if wanted not in seen:
            raise ValueError(
                f"NPU: {wanted} was chosen for this worker, which sees {seen}: "
                f"{cls.device_control_env_var} was changed too late."
            )
        return seen.index(wanted)

    @property
    def additional_env_vars(self) -> list[str]:  # type: ignore[override]
        # What CANN, HCCL and torch_npu read in every process: Ray's workers get
        # it from the driver. Which NPUs a worker sees is decided on its own node.
        return [
            name
            for name in os.environ
            if name.startswith(ENV_VAR_PREFIXES) and name != self.device_control_env_var
        ]

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        # The first one replaces a checkpoint's dtype that is not listed.
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def import_kernels(cls) -> None:
        # vllm._C holds CUDA kernels; the operators of an NPU come with
        # torch_npu, which platform detection has imported.
        return

    @classmethod
    def import_ir_kernels(cls) -> None:
        # Only the native implementations, which need no import.
        return

    # npu-migrate: when platform_registers_kernels
    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        # vllm.triton_utils asks for the platform while it is imported.
        from vllm.triton_utils.npu_overrides import register

        register()

    # npu-migrate: end
    @classmethod
    def get_attn_backend_cls(
        cls, selected_backend, *selector_args, **selector_kwargs
    ) -> str:
        """The backend of the layer's kind of attention, whichever is selected.

        Raises:
            ValueError: it does not do what the selector asks for.

        """
        # Releases ask by position, by name, or with one tuple of everything.
        interface = inspect.signature(super().get_attn_backend_cls)
        bound = interface.bind(selected_backend, *selector_args, **selector_kwargs)
        asked = dict(bound.arguments)
        asked.pop("selected_backend")
        asked.pop("num_heads", None)
        config = asked.pop("attn_selector_config", None)
        if config is not None:
            asked.update(config._asdict())
        if asked.get("use_mla"):
            # They import torch_npu's operators and most of vLLM, which asks for the
            # platform.
            from vllm.v1.attention.backends.mla.ascend_mla import AscendMLABackend

            backend: Any = AscendMLABackend
        else:
            from vllm.v1.attention.backends.ascend_attn import AscendAttentionBackend

            backend = AscendAttentionBackend
        reasons = backend.validate_configuration(**asked)
        if reasons:
            raise ValueError(f"NPU attention does not support {', '.join(reasons)}.")
        return f"{backend.__module__}.{backend.__qualname__}"

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability | None:
        # CUDA's major.minor: nothing that an NPU could answer.
        return None

    # A front end makes the engine's configuration and asks what the device is like.
    # It must not open one: that takes 100 MB of it and makes forks impossible.
    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        if not torch.npu.is_initialized():
            return "NPU"
        return torch.npu.get_device_name(device_id)

    @classmethod
    def get_device_uuid(cls, device_id: int = 0) -> str:
        if not torch.npu.is_initialized():
            return f"npu-{device_id}"
        properties = torch.npu.get_device_properties(device_id)
        return str(getattr(properties, "uuid", f"npu-{device_id}"))

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        if not torch.npu.is_initialized():
            # Whoever asks takes the defaults for devices of less than 70 GiB.
            raise NotImplementedError("NPU: only a process with a device can tell.")
        return torch.npu.get_device_properties(device_id).total_memory

    @classmethod
    def get_current_memory_usage(
        cls, device: torch.types.Device | None = None
    ) -> float:
        torch.npu.reset_peak_memory_stats(device)
        return torch.npu.max_memory_allocated(device)

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return torch.npu.get_device_properties(device_id).cube_core_num

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        torch.npu.set_device(device)

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        torch.npu.manual_seed_all(seed)

    @classmethod
    def inference_mode(cls):
        return torch.inference_mode(mode=True)

    @classmethod
    def is_async_output_supported(cls, enforce_eager: bool | None) -> bool:
        return True

    @classmethod
    def supports_v1(cls, model_config) -> bool:
        return True

    @classmethod
    def default_v1(cls, model_config) -> bool:
        return True

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return True

    @classmethod
    def is_kv_cache_dtype_supported(cls, kv_cache_dtype: str, *args) -> bool:
        return kv_cache_dtype == "auto"

    @classmethod
    def check_if_supports_dtype(cls, dtype: torch.dtype):
        if dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise ValueError(f"NPU: dtype {dtype} is not supported.")

    @classmethod
    def verify_quantization(cls, quant: str) -> None:
        # Not by `supported_quantization`: empty, it is read as "all of them". What
        # a plugin has registered brings its own kernels. Layers ask for the platform
        # while they are imported.
        from vllm.model_executor.layers.quantization import (
            _CUSTOMIZED_METHOD_TO_QUANT_CONFIG,
        )

        if quant not in (*METHODS, *_CUSTOMIZED_METHOD_TO_QUANT_CONFIG):
            raise ValueError(method_refusal(quant))

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        return True

    @classmethod
    def check_runner_kv_caches_multi_layer(cls) -> None:
        # NPUModelRunner keeps a flat list: one key and one value buffer a layer.
        return

    @classmethod
    def opaque_attention_op(cls) -> bool:
        return True

    @classmethod
    def use_custom_op_collectives(cls) -> bool:
        return True

    @classmethod
    def support_static_graph_mode(cls) -> bool:
        return True

    # npu-migrate: when config_has_cudagraph_mode
    @classmethod
    def get_static_graph_wrapper_cls(cls) -> str:
        return "vllm.compilation.cuda_graph.CUDAGraphWrapper"

    # npu-migrate: end
    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "vllm.lora.punica_wrapper.punica_npu.PunicaWrapperNPU"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        package = "vllm.distributed.device_communicators"
        return f"{package}.npu_communicator.NPUCommunicator"

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: VllmConfig) -> None:
        _set_compilation_policy(vllm_config)

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        check_nnal()
        model_config = vllm_config.model_config
        if (
            model_config is not None
            and model_config.dtype is torch.float32
            and not envs.VLLM_NPU_ALLOW_FLOAT32
        ):
            raise ValueError(
                "NPU: attention takes float16 and bfloat16, not float32. Use "
                "--dtype bfloat16."
            )
        found = _find_quantization(vllm_config)
        refuse_unsupported(vllm_config, quantization_reasons(vllm_config))
        if found:
            vllm_config.quant_config = vllm_config._get_quantization_config(
                model_config, vllm_config.load_config
            )
        if vllm_config.cache_config is not None:
            _set_block_size(vllm_config.cache_config)
            if model_config is not None:
                _check_chunks(model_config, vllm_config.cache_config)
        if cpu_offload_gb(vllm_config) > 0:
            # An NPU does not read host memory by address: weights are copied in
            # each forward pass.
            os.environ["VLLM_WEIGHT_OFFLOADING_DISABLE_UVA"] = "1"
        _set_compilation_policy(vllm_config)
        _disable_inductor_passes(vllm_config.compilation_config)
        _limit_capture_sizes(vllm_config)

        parallel_config = vllm_config.parallel_config
        if parallel_config.worker_cls == "auto":
            parallel_config.worker_cls = "vllm.v1.worker.npu_worker.NPUWorker"
        # A forked child cannot use the device its parent has opened.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"


def _find_quantization(vllm_config: VllmConfig) -> bool:
    """Name the method of a checkpoint of ModelSlim, which config.json does not."""
    model_config = vllm_config.model_config
    if (
        model_config is None
        or model_config.quantization is not None
        or vllm_config.load_config.load_format == "dummy"
        or not is_modelslim(model_config)
    ):
        return False
    model_config.quantization = "ascend"
    return True


def _set_block_size(cache_config) -> None:
    block_size = cache_config.block_size
    if block_size is None:
        cache_config.block_size = BLOCK_SIZE
        return
    # npu-migrate: when backends_set_block_size
    # The attention backend's own preference is applied after the model is known.
    if not cache_config.user_specified_block_size:
        return
    # npu-migrate: end
    if block_size % BLOCK_SIZE:
        raise ValueError(
            f"NPU: --block-size must be a multiple of {BLOCK_SIZE}, not {block_size}."
        )


def _check_chunks(model_config, cache_config) -> None:
    # Not yet a multiple where the attention backend is asked for its size later.
    block_size = cache_config.block_size
    if block_size % BLOCK_SIZE:
        block_size = BLOCK_SIZE
    if reason := chunk_reason(model_config, block_size):
        raise ValueError(f"NPU: no {reason}.")


def _set_compilation_policy(vllm_config: VllmConfig) -> None:
    """Eager on request, else graphs captured piece by piece, without Inductor.

    FULL_DECODE_ONLY is honoured, because it is nobody's default: whoever has it
    has asked for it. The other modes with full graphs become PIECEWISE.
    """
    # vllm.config asks for the platform while it is imported.
    # npu-migrate: when config_has_cudagraph_mode
    from vllm.config import CUDAGraphMode

    # npu-migrate: end
    # npu-migrate: when config_has_compilation_mode
    from vllm.config import CompilationMode

    # npu-migrate: otherwise
    from vllm.config import CompilationLevel

    # npu-migrate: end
    config = vllm_config.compilation_config
    model_config = vllm_config.model_config
    eager = model_config is not None and model_config.enforce_eager
    # Weights that are fetched in a forward pass are no part of a captured graph.
    eager = eager or cpu_offload_gb(vllm_config) > 0
    # npu-migrate: when config_has_compilation_mode
    compiled = CompilationMode.VLLM_COMPILE
    if eager or config.mode != CompilationMode.NONE:
        config.mode = CompilationMode.NONE if eager else compiled
    piecewise = config.mode == compiled
    config.backend = "eager"
    # npu-migrate: otherwise
    compiled = CompilationLevel.PIECEWISE
    if eager:
        config.level = CompilationLevel.NO_COMPILATION
    elif config.level != CompilationLevel.NO_COMPILATION:
        config.level = compiled
    piecewise = config.level == compiled
    config.use_inductor = False
    # npu-migrate: end
    if config.compile_sizes is None:
        config.compile_sizes = []

    # The operators of torch_npu are what custom ops dispatch to.
    if "all" not in config.custom_ops:
        config.custom_ops = [op for op in config.custom_ops if op != "none"] + ["all"]

    # npu-migrate: when config_has_cudagraph_mode
    mode = config.cudagraph_mode
    if not piecewise:
        config.cudagraph_mode = CUDAGraphMode.NONE
    elif mode not in (CUDAGraphMode.NONE, CUDAGraphMode.FULL_DECODE_ONLY):
        config.cudagraph_mode = CUDAGraphMode.PIECEWISE
    # npu-migrate: otherwise
    # Pieces are captured by a backend for CUDA alone in this release.
    if piecewise:
        config.level = CompilationLevel.NO_COMPILATION
    config.use_cudagraph = False
    # npu-migrate: end


def _disable_inductor_passes(config) -> None:
    # They rewrite Inductor's graphs to kernels of vLLM's CUDA extension, and
    # vLLM sets them up whatever the backend is.
    for name, value in list(vars(config.pass_config).items()):
        if value is True:
            setattr(config.pass_config, name, False)


def _limit_capture_sizes(vllm_config: VllmConfig) -> None:
    """Thin out the capture sizes until all graphs fit into the device's streams."""
    config = vllm_config.compilation_config
    parallel_config = vllm_config.parallel_config
    sizes = config.cudagraph_capture_sizes
    model_config = vllm_config.model_config
    if not sizes or model_config is None:
        return
    # One piece before each layer's attention and one after the last.
    graphs = model_config.get_num_layers(parallel_config) + 1
    # npu-migrate: when config_has_cudagraph_mode
    # vllm.config asks for the platform while it is imported.
    from vllm.config import CUDAGraphMode

    if config.cudagraph_mode == CUDAGraphMode.NONE:
        return
    if config.cudagraph_mode == CUDAGraphMode.FULL_DECODE_ONLY:
        graphs = 1
    # npu-migrate: end
    groups = count_groups(parallel_config)
    expansion_mode = os.environ.get("HCCL_OP_EXPANSION_MODE", "")
    limit = max_capture_sizes(graphs, groups, expansion_mode)
    if len(sizes) <= limit:
        return
    kept = thin_out(sizes, limit)
    hint = ""
    if groups and expansion_mode != "AIV":
        hint = " HCCL_OP_EXPANSION_MODE=AIV leaves room for more."
    logger.warning(
        "NPU: of %d capture sizes %d are kept (%s): with %d graphs a size and %d "
        "communicators a device has no streams for more.%s",
        len(sizes),
        len(kept),
        ", ".join(map(str, kept)),
        graphs,
        groups,
        hint,
    )
    _set_capture_sizes(config, kept)


def _set_capture_sizes(config, sizes: list[int]) -> None:
    # npu-migrate: when config_recomputes_capture_sizes
    config.cudagraph_capture_sizes = sizes
    config.max_cudagraph_capture_size = sizes[-1]
    config.post_init_cudagraph_sizes()
    # npu-migrate: otherwise
    config.cudagraph_capture_sizes = None
    config.init_with_cudagraph_sizes(sizes)
    # npu-migrate: end
