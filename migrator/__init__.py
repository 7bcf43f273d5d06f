# SPDX-License-Identifier: Apache-2.0
"""vllm-npu-migrate: emits an Ascend NPU adapted tree from a vLLM source tree."""

__version__ = "0.1.0"
