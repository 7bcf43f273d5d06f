# SPDX-License-Identifier: Apache-2.0
"""The HTTP client for package indexes: it follows redirects and passes by what is down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
from unearth.fetchers import PyPIClient


class PatientClient(PyPIClient):
    """unearth's client, for which a place that does not answer is one that has nothing, as for pip.

    Args:
        trusted_hosts: hosts whose certificates are not looked at.
        proxy: asked for everything, those hosts too.
        options: others of unearth's client.
    """

    def __init__(
        self, *, trusted_hosts: Sequence[str] = (), proxy: str | None = None, **options: Any
    ) -> None:
        mounts = {}
        if proxy is not None:
            mounts = {
                f"all://{host}": httpx2.HTTPTransport(verify=False, proxy=proxy)
                for host in trusted_hosts
            }
        super().__init__(
            trusted_hosts=trusted_hosts,
            proxy=proxy,
            mounts=mounts,
            follow_redirects=True,
            **options,
        )
        self.failures: dict[str, str] = {}
        """What went wrong, by the place that was asked."""

    def get(self, url: Any, **more: Any) -> httpx2.Response:
        """Ask for a page; what does not answer counts as a server's error."""
        try:
            response = super().get(url, **more)
        except (httpx2.TransportError, httpx2.TooManyRedirects) as error:
            self._note(url, str(error) or type(error).__name__)
            return httpx2.Response(503, request=httpx2.Request("GET", url))
        if response.status_code >= 400 and response.status_code != 404:
            self._note(url, f"HTTP {response.status_code}")
        return response

    def _note(self, url: Any, reason: str) -> None:
        parts = urlsplit(str(url))
        # Without a name and a password before the host.
        host = parts.netloc.rpartition("@")[2]
        self.failures[f"{parts.scheme}://{host}{parts.path}"] = reason
