# SPDX-License-Identifier: Apache-2.0
"""Tests of plans and what is kept of them."""
