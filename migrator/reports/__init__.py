# SPDX-License-Identifier: Apache-2.0
"""A plan as people and programs read it: log, patch, tables and SARIF."""
