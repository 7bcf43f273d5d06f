# SPDX-License-Identifier: Apache-2.0
"""Tests of the scripts and what they write."""
