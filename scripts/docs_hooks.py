# SPDX-License-Identifier: Apache-2.0
"""mkdocs hooks: add the pages that are made from the code, and link the rules that prose names.

The checkout that the site is built in is what it describes, even where another version of the
package is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Both have to come before whatever is installed, and mkdocs takes them off again after this import.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import docs_pages  # noqa: E402 - found by the line above

RULES = "Rules"
"""The section of the navigation that gets a page for each rule."""

WIDE = frozenset({"releases.md", "simulated-runs.md", "npu-operators.md"})
"""Pages whose tables need the room of the contents beside them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the rules' pages into the navigation, by their codes."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and RULES in entry:
            entry[RULES] = ["rules/index.md", *docs_pages.rule_paths()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    for path, text in docs_pages.generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Link rules, and give wide tables room."""
    if page.file.src_uri in WIDE:
        page.meta.setdefault("hide", ["toc"])
    return docs_pages.with_rule_links(markdown, page.file.src_uri)
