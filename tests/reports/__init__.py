# SPDX-License-Identifier: Apache-2.0
"""Tests of plans as they are shown."""
