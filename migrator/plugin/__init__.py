# SPDX-License-Identifier: Apache-2.0
"""The plugin form of a migration: an installable package beside an untouched vLLM.

`make_plugin` renders the plan that `apply` writes as a tree: rewritten functions become patches,
added files become modules of the package. docs/plugin.md tells how and why.
"""

from __future__ import annotations

from migrator.plugin.emit import DISTRIBUTION, PACKAGE, PluginError, make_plugin
from migrator.plugin.fit import check, entries

__all__ = ["DISTRIBUTION", "PACKAGE", "PluginError", "check", "entries", "make_plugin"]
