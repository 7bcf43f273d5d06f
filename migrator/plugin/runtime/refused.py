# SPDX-License-Identifier: Apache-2.0
"""The platform that vLLM is told of where the patches do not fit: it cannot be imported.

vLLM drops the exceptions of a platform plugin and would go on without a platform. What raises here
reaches whoever imports vLLM.
"""

from __future__ import annotations

from . import RefusedError, _State

raise RefusedError(_State.refusal or "nothing was refused")
