# SPDX-License-Identifier: Apache-2.0
"""mkdocs hooks: add the pages that are made from the code, and link the rules that prose names.

The checkout that the site is built in is what it describes, even where another version of the
package is installed.
"""

from __future__ import annotations

import re
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

MEASURED = "Proof"
"""The section that gets whatever else a script has written to the docs folder."""

WIDE = frozenset({"releases.md", "simulated-runs.md", "npu-operators.md", "cuda-path.md"})
"""Pages whose tables need the room of the contents beside them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the rules' pages into the navigation, and the reports that have no place in it yet."""
    listed = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    found = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    for section in config.nav or []:
        if RULES in section:
            section[RULES] = ["rules/index.md", *docs_pages.rule_paths()]
        elif MEASURED in section:
            section[MEASURED] += [name for name in found if name not in listed]
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
