# SPDX-License-Identifier: Apache-2.0
"""Tests of files that are read and written."""
