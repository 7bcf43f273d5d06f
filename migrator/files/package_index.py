# SPDX-License-Identifier: Apache-2.0
"""Fetches a package by name from the index that pip is set up for. Nothing of it is run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from migrator.messages.errors import MigrateError

if TYPE_CHECKING:
    from unearth import Link, Package, PackageFinder

    from migrator.files.index_client import PatientClient


LISTS = ("index-url", "extra-index-url", "find-links", "trusted-host")
"""Settings of pip that may have several values."""
SINGLE = ("no-index", "cert", "client-cert", "proxy", "timeout")
HASHES = frozenset({"md5", "sha1", "sha224", "sha256", "sha384", "sha512"})
"""Kinds of hashes in a link that are checked."""


def pip_settings() -> dict[str, list[str]]:
    """What pip would ask and how: its configuration, in the order that it has, then the variables.

    Where the interpreter has no pip, as environments that uv makes have none, its files are read.
    """
    found: dict[str, list[str]] = {}
    for name, value in _pip_says() or _pip_files():
        _take(found, name, shlex.split(value.replace("\\n", " ")))
    for name in (*LISTS, *SINGLE):
        text = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", "")
        _take(found, name, text.split() if name in LISTS else [text.strip()])
    return found


def _take(found: dict[str, list[str]], name: str, values: list[str]) -> None:
    values = " ".join(values).split() if name in LISTS else values
    if name in (*LISTS, *SINGLE) and any(values):
        found[name] = values


def _pip_says() -> list[tuple[str, str]]:
    """Settings as pip tells them; none where there is no pip."""
    command = [sys.executable, "-m", "pip", "config", "list", "--no-input"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return [(key.strip().rpartition(".")[2], value) for key, _, value in pairs]


def _pip_files() -> list[tuple[str, str]]:
    """Settings from the files that pip reads: the system's, the user's, the environment's."""
    import configparser

    home = Path(os.path.expanduser("~"))
    user = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    shared = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    system = [Path(folder) / "pip/pip.conf" for folder in shared.split(":")]
    named = os.environ.get("PIP_CONFIG_FILE", "")
    files = [*system, Path("/etc/pip.conf"), home / ".pip/pip.conf", user / "pip/pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    if named == os.devnull:
        return []
    files += [Path(named)] if named else []
    pairs = []
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, configparser.Error):
            continue
        for section in ("global", "download", "install"):
            if parser.has_section(section):
                pairs += [(n.replace("_", "-"), v) for n, v in parser.items(section)]
    return pairs


def make_finder(
    project: str, *, source_only: bool = False, wheels_for_any_platform: bool = False
) -> Finder:
    """A finder of `project` where pip would look: of its source archives, or of all its wheels.

    Raises:
        MigrateError: a certificate that pip is set up with cannot be read.
    """
    from unearth import PackageFinder

    settings = pip_settings()
    client = _client(settings)
    finder = PackageFinder(
        session=client,  # type: ignore[arg-type] # as unearth's own, which is none to mypy
        trusted_hosts=settings.get("trusted-host", []),
        no_binary=[project] if source_only else [],
        only_binary=[project] if wheels_for_any_platform else [],
        ignore_compatibility=wheels_for_any_platform,
    )
    no_index = settings.get("no-index", ["0"])[-1].lower() in ("1", "true", "yes", "on")
    if "index-url" in settings or no_index:
        finder.sources.clear()
    if not no_index:
        for url in (*settings.get("index-url", []), *settings.get("extra-index-url", [])):
            finder.add_index_url(url)
    for place in settings.get("find-links", []):
        if "://" in place or Path(place).exists():
            finder.add_find_links(place)
    return Finder(finder, client)


@dataclass(frozen=True)
class Finder:
    """Finds packages over all places, of which some may be down."""

    finder: PackageFinder
    client: PatientClient

    def find_all_packages(self, name: str) -> list[Package]:
        """All packages of a name; empty where no place has any."""
        return list(self.finder.find_all_packages(name))

    def best(self, requirement: str) -> Package | None:
        """The best match for a requirement."""
        return self.finder.find_best_match(requirement, allow_prereleases=True).best

    def why_nothing(self) -> str:
        """What went wrong at places that did not answer, for a message; empty if nothing did."""
        said = "; ".join(f"{url}: {reason}" for url, reason in self.client.failures.items())
        return f" ({said})" if said else ""

    def close(self) -> None:
        """Give connections back."""
        self.client.close()

    def download(self, link: Link, directory: Path) -> Path:
        """Download a file, and check the hash that its link has.

        Raises:
            MigrateError: its hash is of a kind that cannot be checked.
        """
        kind, equals, _ = (link.parsed.fragment or "").partition("=")
        looks_like_one = equals and re.fullmatch(r"(sha|md|blake)[\w-]*", kind)
        if looks_like_one and kind not in HASHES:
            raise MigrateError(
                f"the index gives a hash of {link.filename} by {kind}, which cannot be checked; "
                "name another index"
            )
        return self.finder.download(link, directory)


def _client(settings: dict[str, list[str]]) -> PatientClient:
    import ssl

    from unearth.auth import MultiDomainBasicAuth

    from migrator.files.index_client import PatientClient

    options: dict[str, Any] = {}
    certificates = [settings[name][-1] for name in ("cert", "client-cert") if name in settings]
    for file in certificates:
        if not os.access(file, os.R_OK):
            raise MigrateError(
                f"pip is set up with the certificate {file}, which cannot be read; mend "
                "pip's configuration"
            )
    if "cert" in settings:
        try:
            options["verify"] = ssl.create_default_context(cafile=settings["cert"][-1])
        except (ssl.SSLError, OSError) as error:
            raise MigrateError(
                f"pip's certificate {settings['cert'][-1]} is none ({error}); mend pip's "
                "configuration"
            ) from error
    if "client-cert" in settings:
        options["cert"] = settings["client-cert"][-1]
    if "proxy" in settings:
        proxy = settings["proxy"][-1]
        options["proxy"] = proxy if "://" in proxy else f"http://{proxy}"
    if "timeout" in settings:
        with contextlib.suppress(ValueError):
            options["timeout"] = float(settings["timeout"][-1])
    client = PatientClient(trusted_hosts=settings.get("trusted-host", []), **options)
    urls = [*settings.get("index-url", []), *settings.get("extra-index-url", [])]
    client.auth = MultiDomainBasicAuth(index_urls=urls)
    return client


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
        with contextlib.closing(make_finder(name, source_only=source_only)) as finder:
            best = finder.best(requirement)
            if best is None:
                near = _near(finder, name, requirement.rpartition("=")[2])
                raise MigrateError(
                    f"the package index has no {kind} of {requirement}{finder.why_nothing()}"
                    + (f"; take another, such as {', '.join(near)}" if near else "")
                )
            return finder.download(best.link, directory)
    except MigrateError:
        raise
    except Exception as error:
        # unearth lets the exceptions of whichever HTTP client it uses through.
        raise MigrateError(
            f"cannot fetch {requirement} from the package index ({' '.join(str(error).split())}); "
            "fetch it by hand"
        ) from error


def _near(finder: Finder, name: str, version: str) -> list[str]:
    """The newest releases of the same X.Y, or the newest of all where there is none of these."""
    wanted = Version(version).release[:2]
    versions = sorted({Version(p.version) for p in finder.find_all_packages(name) if p.version})
    near = [version for version in versions if version.release[:2] == wanted]
    return [str(version) for version in (near or versions)[-4:]]
