# SPDX-License-Identifier: Apache-2.0
"""Programs that run in the environment under test: they import torch and vLLM, never `migrator`."""
