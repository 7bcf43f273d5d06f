# SPDX-License-Identifier: Apache-2.0
"""Fetches a package by name from the index that pip is set up for. Nothing of it is run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name
from packaging.version import Version

from migrator.errors import MigrateError

if TYPE_CHECKING:
    from unearth import PackageFinder


def pip_settings() -> dict[str, list[str]]:
    """Indexes and package folders that pip would ask: its configuration and its environment."""
    found: dict[str, list[str]] = {}
    command = [sys.executable, "-m", "pip", "config", "list", "--no-input"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        lines = done.stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    for line in lines:
        key, _, value = line.partition("=")
        name = key.strip().rpartition(".")[2]
        if name in ("index-url", "extra-index-url", "find-links", "trusted-host"):
            text = " ".join(shlex.split(value.replace("\\n", " ")))
            found[name] = text.split()
    for name in ("index-url", "extra-index-url", "find-links", "trusted-host"):
        text = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", "")
        if text:
            found[name] = text.split()
    return found


def make_finder(
    project: str, *, source_only: bool = False, wheels_for_any_platform: bool = False
) -> PackageFinder:
    """A finder of `project` over pip's index: of its source archives, or of all its wheels."""
    from unearth import PackageFinder

    settings = pip_settings()
    finder = PackageFinder(
        trusted_hosts=settings.get("trusted-host", []),
        no_binary=[project] if source_only else [],
        only_binary=[project] if wheels_for_any_platform else [],
        ignore_compatibility=wheels_for_any_platform,
    )
    if "index-url" in settings:
        finder.sources.clear()
    for url in (*settings.get("index-url", []), *settings.get("extra-index-url", [])):
        finder.add_index_url(url)
    for place in settings.get("find-links", []):
        if "://" in place or Path(place).exists():
            finder.add_find_links(place)
    return finder


def fetch(requirement: str, directory: Path, *, source_only: bool = False) -> Path:
    """Download the best match for a requirement such as `vllm==0.11.0` into `directory`.

    Returns:
        The archive or wheel.

    Raises:
        MigrateError: the index has no such thing, or cannot be reached.
    """
    name = canonicalize_name(requirement.partition("=")[0].strip())
    kind = "source archive" if source_only else "file"
    try:
        finder = make_finder(name, source_only=source_only)
        best = finder.find_best_match(requirement, allow_prereleases=True).best
        if best is None:
            near = _near(finder, name, requirement.rpartition("=")[2])
            raise MigrateError(
                f"the package index has no {kind} of {requirement}"
                + (f"; take another, such as {', '.join(near)}" if near else "")
            )
        return finder.download(best.link, directory)
    except MigrateError:
        raise
    except Exception as error:
        # unearth lets the exceptions of whichever HTTP client it uses through.
        raise MigrateError(
            f"cannot fetch {requirement} from the package index ({error}); fetch it by hand"
        ) from error


def _near(finder: PackageFinder, name: str, version: str) -> list[str]:
    """The newest releases of the same X.Y, or the newest of all where there is none of these."""
    wanted = Version(version).release[:2]
    versions = sorted({Version(p.version) for p in finder.find_all_packages(name) if p.version})
    near = [version for version in versions if version.release[:2] == wanted]
    return [str(version) for version in (near or versions)[-4:]]
