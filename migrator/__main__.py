# SPDX-License-Identifier: Apache-2.0
"""`python -m migrator` is `vllm-npu-migrate`."""

from __future__ import annotations

from migrator.cli import main

main(prog_name="vllm-npu-migrate")
