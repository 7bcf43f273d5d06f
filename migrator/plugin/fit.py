# SPDX-License-Identifier: Apache-2.0
"""Whether an emitted plugin fits a vLLM: what it asks itself at start-up, without running it."""

from __future__ import annotations

import ast
from pathlib import Path

from migrator.plugin.emit import PACKAGE, PluginError
from migrator.plugin.runtime.importing import Entry, misfits


def entries(plugin: Path) -> list[Entry]:
    """The patches that an emitted plugin lists; nothing of it is imported.

    Raises:
        PluginError: there is no plugin at `plugin`.
    """
    folder = plugin / PACKAGE / "patches"
    try:
        index = ast.parse((folder / "__init__.py").read_text("utf-8"))
        (table,) = (n.value for n in index.body if isinstance(n, ast.AnnAssign) and n.value)
        listed: dict[str, tuple[str, str]] = ast.literal_eval(table)
        return [Entry(module, folder / file, sha256) for module, (file, sha256) in listed.items()]
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise PluginError(
            f"{plugin}: no plugin of this tool; emit one with `vllm-npu-migrate apply --layout "
            "plugin`"
        ) from error


def check(plugin: Path, source: Path) -> tuple[int, list[str]]:
    """How many patches a plugin has, and what in a vLLM they were not made from, a line each.

    Args:
        plugin: directory of the plugin.
        source: directory that holds the package `vllm`: a source tree, or site-packages.

    Raises:
        PluginError: one of them is none.
    """
    found = entries(plugin)
    if not (source / "vllm" / "__init__.py").is_file():
        raise PluginError(f"{source}: no vllm package in it; name the source of an untouched vLLM")
    return len(found), misfits(found, source / "vllm")
