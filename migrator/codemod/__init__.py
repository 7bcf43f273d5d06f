# SPDX-License-Identifier: Apache-2.0
"""What source is changed with: matchers, recipes and the rule API, templates, the engine."""
