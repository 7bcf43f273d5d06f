# SPDX-License-Identifier: Apache-2.0
"""Sites that a tree cannot have: what stands in their place explains them, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from migrator.codemod.rule import Absence, Rule, Site
from migrator.files.tree import DiskTree, Tree, WatchedTree
from migrator.planning.plan import make_plan
from migrator.reports.releases import KNOWN
from migrator.rules import all_rules

ABSENCES = [
    pytest.param(rule, site, absence, id=f"{rule.code}-{site.name}-{absence.releases}")
    for rule in all_rules()
    for site in rule.sites
    for absence in site.absent
]

WITNESSES: Mapping[tuple[str, str, str], tuple[str, ...]] = {
    ("NPU101", "batched_rotary_embedding", ">=0.11.0"): ("forward_cuda",),
    ("NPU110", "apply_repetition_penalties", "<0.10.1"): ("is_cuda",),
    ("NPU210", "CUDAGraphWrapper.__call__", "<0.10.1"): ("CUDAGraph", "CUDAPiecewiseBackend"),
    ("NPU210", "CudaGraphManager.capture", "<0.18"): ("GPUModelRunner", "CudaGraphManager"),
    ("NPU218", "VllmConfig.use_v2_model_runner", "<0.22"): (
        "VLLM_USE_V2_MODEL_RUNNER",
        "GPUModelRunner",
    ),
    ("NPU219", "BlockTable.compute_slot_mapping", "<0.10"): ("slot_mapping_np",),
    ("NPU220", "kernel_warmup", "<0.10.1"): ("compile_or_warm_up_model",),
    ("NPU223", "batched_count_greater_than", "<0.10"): ("gather_logprobs", "sum"),
    ("NPU225", "CoreEngineProcManager.__init__", "<0.11.1"): (
        "set_device_control_env_var",
        "device_control_env_var",
    ),
    ("NPU227", "get_env_vars_to_copy", "<0.10.0"): ("environment_variables",),
    ("NPU227", "DEFAULT_ENV_VAR_PREFIXES", "<0.17.0"): ("environment_variables",),
    ("NPU227", "CoreEngineActorManager.__init__", ">=0.10.0"): (
        "get_env_vars_to_copy",
        "runtime_env",
    ),
    ("NPU227", "DPEngineCoreActor.__init__", ">=0.10.0"): (
        "_set_visible_devices",
        "_set_cuda_visible_devices",
    ),
    ("NPU229", "Worker.determine_available_memory", "<0.21"): ("memory_profiling",),
    ("NPU230", "grouped_topk", "<0.10.2"): ("topk_softmax",),
    ("NPU230", "topk_sigmoid", "<0.16"): ("topk_softmax",),
    ("NPU230", "topk_hash_softplus_sqrt", "<0.20"): ("topk_softmax",),
    ("NPU231", "UnquantizedFusedMoEMethod.forward_cuda", ">=0.15"): ("topk_ids",),
    ("NPU231", "UnquantizedFusedMoEMethod.forward_native", "<0.15"): ("forward_native",),
    ("NPU231", "zero_experts_compute_triton", "<0.11"): ("fused_experts",),
    ("NPU234", "grouped_topk", "<0.10.2"): ("topk_softmax",),
    ("NPU232", "FusedMoEMethodBase.is_monolithic", "<0.17"): ("select_gemm_impl",),
    ("NPU233", "FusedMoEWithLoRA.__init__", "<0.11.1"): ("RowParallelLinearWithLoRA",),
    ("NPU236", "apply_all_penalties", "<0.11.1"): ("_convert_to_tensors",),
    ("NPU241", "eagle_step_slot_mapping_metadata_kernel", "<0.18"): ("clamped_positions",),
    ("NPU241", "copy_and_expand_eagle_inputs_kernel", "<0.16"): ("last_token_indices",),
    ("NPU241", "eagle_prepare_inputs_padded_kernel", "<0.12"): (
        "token_offests",
        "prepare_eagle_input_kernel",
    ),
    ("NPU241", "eagle_prepare_next_token_padded_kernel", "<0.12"): (
        "token_offests",
        "prepare_eagle_input_kernel",
    ),
    **{
        (rule.code, site.name, absence.releases): ("load_general_plugins",)
        for rule in all_rules()
        if rule.code in ("NPU243", "NPU244")
        for site in rule.sites
        for absence in site.absent
    },
    ("NPU245", "_check_if_gpu_supports_dtype", ">=0.10.2"): ("check_if_supports_dtype",),
    ("NPU250", "_POSSIBLE_INT8_KERNELS", "<0.16"): ("_POSSIBLE_KERNELS",),
    ("NPU250", "_POSSIBLE_KERNELS", ">=0.16"): ("_POSSIBLE_INT8_KERNELS",),
    ("NPU260", "NonUvaBuffer.uva", "<0.30"): (
        "GPUModelRunner",
        "UvaBuffer",
        "CpuGpuBuffer",
    ),
    ("NPU261", "allocate_kv_cache", "<0.29"): ("get_kv_cache_shape",),
    ("NPU263", "OffloadingConnectorWorker.register_kv_caches", "<0.11"): ("KVConnectorFactory",),
    ("NPU263", "CPUOffloadingSpec.get_worker", "<0.11"): ("KVConnectorFactory",),
    ("NPU263", "OffloadingConnectorWorker.register_kv_caches", ">=0.11,<0.25"): (
        "OffloadingHandler",
    ),
    ("NPU263", "CPUOffloadingSpec.get_worker", ">=0.11,<0.25"): ("OffloadingHandler",),
    ("NPU262", "GPUModelRunner.execute_model", "<0.17"): ("GPUModelRunner", "cudagraph_manager"),
}
"""Names that a tree has in the place of a site; with another name for each it has no witness."""


def part(site: Site, source: DiskTree) -> dict[str, bytes]:
    """The files that a site may be in, and those that its absences ask about."""
    watched = WatchedTree(source)
    site.why_absent(watched)
    paths = {*site.paths, *(path for _, path in watched.asked)}
    return {path: data for path in sorted(paths) if (data := source.read(path)) is not None}


def renamed(files: Mapping[str, bytes], *names: str) -> Tree:
    """The files with other names for these."""
    pattern = re.compile(rb"\b(?:%s)\b" % b"|".join(name.encode() for name in names))
    return Tree({path: pattern.sub(rb"renamed_thing", data) for path, data in files.items()})


def missing(rule: Rule, tree: Tree) -> set[str]:
    return {site.site for site in make_plan(tree, [rule], jobs=1).missing}


def absent_in(rule: Rule, tree: Tree) -> set[str]:
    return {site.site for site in make_plan(tree, [rule], jobs=1).absent}


def of(version: str, release: Callable[[str], Path]) -> Iterator[tuple[Rule, Site, Tree]]:
    source = DiskTree(release(version))
    for rule in all_rules():
        for site in rule.sites:
            if site.absent:
                yield rule, site, Tree(part(site, source))


def test_every_absence_names_its_witness() -> None:
    named = {
        (rule.code, site.name, absence.releases)
        for rule in all_rules()
        for site in rule.sites
        for absence in site.absent
    }
    assert named == WITNESSES.keys()


@pytest.mark.parametrize(("rule", "site", "absence"), ABSENCES)
def test_nothing_explains_nothing(rule: Rule, site: Site, absence: Absence) -> None:
    """That a site, its file or all of vLLM is not there is no explanation."""
    assert not absence.witness(Tree({}))
    assert not absence.witness(Tree(dict.fromkeys(site.paths, b"")))


@pytest.mark.releases
@pytest.mark.parametrize(
    "version",
    ["0.33.0", *(pytest.param(v, marks=pytest.mark.slow) for v in ("0.11.0", "0.18.0", "0.24.0"))],
)
def test_what_was_renamed_is_missing(version: str, release: Callable[[str], Path]) -> None:
    """A site that was renamed is missing, and an absent one whose witness was."""
    count = 0
    for rule, site, tree in of(version, release):
        files = {e.path: tree.read(e.path) or b"" for e in tree.entries()}
        label = f"{rule.code} {site.name}"
        assert site.name not in missing(rule, tree), label
        known = site.why_absent(tree)
        if known is not None:
            others = renamed(files, *WITNESSES[rule.code, site.name, known.releases])
            # The rule may find the site then; what it may not is to be content without one.
            assert not site.why_absent(others), f"{label} without a witness"
            assert site.name not in absent_in(rule, others), f"{label} without a witness"
        else:
            last = site.name.rpartition(".")[2]
            name = last if not last.startswith("__") else site.name.rpartition(".")[0]
            path = next(path for path in site.paths if path in files)
            moved = renamed({path: files[path]}, name).read(path) or b""
            assert site.name in missing(rule, Tree({**files, path: moved})), label
            assert site.name in missing(rule, renamed(files, name)), f"{label}, everywhere"
        count += 1
    assert count == sum(1 for rule in all_rules() for site in rule.sites if site.absent)


@pytest.mark.slow
@pytest.mark.releases
@pytest.mark.parametrize(("rule", "site", "absence"), ABSENCES)
def test_ranges_say_what_witnesses_say(
    rule: Rule, site: Site, absence: Absence, release: Callable[[str], Path]
) -> None:
    """The range of releases, which is for readers, is that of the trees with the witness."""
    seen = {version for version in KNOWN if absence.witness(DiskTree(release(version)))}
    assert seen == set(SpecifierSet(absence.releases).filter(KNOWN, prereleases=True))


@pytest.mark.parametrize(
    ("test", "explained"),
    [
        ("not self.model_config.enforce_eager", True),
        ("not self.model_config.enforce_eager and not current_platform.is_rocm()", True),
        ("self.compilation_config.cudagraph_mode != CUDAGraphMode.NONE", True),
        ("current_platform.is_cuda() and not self.model_config.enforce_eager", False),
        ("current_platform.is_acme() and not self.model_config.enforce_eager", False),
        ("self.captures", False),
    ],
)
def test_graphs_on_trial_that_ask_for_no_platform(test: str, explained: bool) -> None:
    """As between January and April 2026, and by whatever name a condition asks."""
    path = "vllm/v1/worker/gpu_worker.py"
    source = f"""\
class Worker:
    def determine_available_memory(self):
        with memory_profiling(self.snapshot) as result:
            self.model_runner.profile_run()
            if {test}:
                self.model_runner.profile_cudagraph_memory()
"""
    (rule,) = (rule for rule in all_rules() if rule.code == "NPU229")
    ((absence,),) = (site.absent for site in rule.sites)
    assert absence.witness(Tree({path: source.encode()})) is explained


@pytest.mark.parametrize(
    ("buffer", "explained"), [("CpuGpuBuffer", True), ("HostAndDeviceBuffer", False)]
)
def test_the_first_v2_had_the_buffers_of_v1(buffer: str, explained: bool) -> None:
    """As in November 2025, before any of its own were read by address."""
    runner = "class Worker:\n    def init_device(self):\n        GPUModelRunnerV2(GPUModelRunner)\n"
    blocks = f"class BlockTables:\n    def make(self, size):\n        return {buffer}(size)\n"
    (rule,) = (rule for rule in all_rules() if rule.code == "NPU260")
    absences = [absence for site in rule.sites for absence in site.absent]
    tree = Tree(
        {
            "vllm/v1/worker/gpu_worker.py": runner.encode(),
            "vllm/v1/worker/gpu/block_table.py": blocks.encode(),
        }
    )
    assert [absence.witness(tree) for absence in absences] == [explained]


def test_the_second_runner_does_not_stand_for_the_first() -> None:
    """Both have a class of one name; a V1 that is gone is missed all the same."""
    runner = b"import torch\n\n\nclass GPUModelRunner:\n    def __init__(self, device):\n"
    runner += b"        self.stream = torch.cuda.Stream(device)\n"
    (rule,) = (rule for rule in all_rules() if rule.code == "NPU210")
    first, second = "vllm/v1/worker/gpu_model_runner.py", "vllm/v1/worker/gpu/model_runner.py"
    assert "GPUModelRunner" in missing(rule, Tree({second: runner}))
    assert "GPUModelRunner" not in missing(rule, Tree({first: runner, second: runner}))


EXPERTS = "vllm/model_executor/layers/fused_moe"
ROUTES = b"def topk_softmax(gating_output):\n    torch.ops._moe_C.topk_softmax(gating_output)\n"


@pytest.mark.parametrize(
    ("code", "name", "caller"),
    [
        ("NPU230", "grouped_topk", b"def route(x):\n    return ops.grouped_topk(x)\n"),
        ("NPU234", "grouped_topk", b"def route(x):\n    return ops.grouped_topk(x)\n"),
        ("NPU230", "topk_sigmoid", b"def route(x):\n    return ops.topk_sigmoid(x)\n"),
        (
            "NPU231",
            "zero_experts_compute_triton",
            b"from .fused_moe import zero_experts_compute_triton\n",
        ),
    ],
)
def test_what_the_experts_still_call_is_missing_not_absent(
    code: str, name: str, caller: bytes
) -> None:
    files = {
        "vllm/_custom_ops.py": ROUTES,
        f"{EXPERTS}/fused_moe.py": b"def fused_experts(): ...\n",
    }
    site = next(s for r in all_rules() if r.code == code for s in r.sites if s.name == name)
    assert site.why_absent(Tree(files)) is not None
    assert site.why_absent(Tree({**files, f"{EXPERTS}/router.py": caller})) is None
