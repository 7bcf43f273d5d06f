# SPDX-License-Identifier: Apache-2.0
"""vLLM's own tests on an emitted tree: what scripts/upstream_tests.py is made of."""
