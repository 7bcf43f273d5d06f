# SPDX-License-Identifier: Apache-2.0
"""NPU222: linear weights in the format of the NPU's matrix unit."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.matchers import first_statement, parameter_names
from migrator.codemod.recipes import has_npu_branch
from migrator.codemod.rule import (
    TORCH_NPU,
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)

_LINEAR = "vllm/model_executor/layers/linear.py"
_SITE = "UnquantizedLinearMethod.process_weights_after_loading"

BRANCH = """\
if layer.weight.device.type == "npu":
    from vllm import envs as vllm_envs

    if vllm_envs.VLLM_NPU_WEIGHT_NZ and layer.weight.dtype in (
        torch.float16,
        torch.bfloat16,
    ):
        # ACL_FORMAT_FRACTAL_NZ: what the matrix unit reads without rearranging.
        layer.weight.data = torch_npu.npu_format_cast(layer.weight.data, 29)
"""


class LinearWeightFormat(Rule):
    """Keep the weights of linear layers in FRACTAL_NZ, when asked to.

    ## What it does
    Casts an unquantised linear layer's float16 or bfloat16 weight to the format FRACTAL_NZ after
    loading, if it is on an NPU and `VLLM_NPU_WEIGHT_NZ` is 1.

    ## Why
    Matrix products read their weight in tiles. In this format the tiles are there already, which
    saves decode steps, bound by reading weights, from rearranging them. It is a switch, because a
    weight in it cannot be viewed or updated in place like a plain one.

    ## Example
    ```python
    layer.weight.data = torch_npu.npu_format_cast(layer.weight.data, 29)
    ```

    ## Safety
    Guarded by the weight's device and by the switch, which is off by default.
    """

    code = "NPU222"
    safety = Safety.GUARDED
    paths = (_LINEAR,)
    triggers = (r"class UnquantizedLinearMethod\b",)
    sites = (Site(_SITE, (_LINEAR,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the method where it has no branch for NPU weights."""
        function = file.function(_SITE)
        if function is None:
            return
        if has_npu_branch(function):
            yield migrated(_SITE, function, [TORCH_NPU])
        elif parameter_names(function)[:2] != ["self", "layer"]:
            yield manual(_SITE, function, f"it takes {parameter_names(function)}")
        else:
            yield changed(
                _SITE,
                function,
                "weights stay in the plain format, which the matrix unit has to rearrange",
                Insert(first_statement(function), BRANCH),
                needs=[TORCH_NPU],
            )
