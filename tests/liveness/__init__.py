# SPDX-License-Identifier: Apache-2.0
"""Tests of sites from release to release."""
