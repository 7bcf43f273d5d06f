# SPDX-License-Identifier: Apache-2.0
"""What programs ask of CANN's Python interface, pyACL, without a device of their own in use.

Ray counts the NPUs of a node by it. On a machine with CANN it comes with the toolkit, on the
PYTHONPATH that `set_env.sh` makes; nothing of it is in torch_npu. Anything else that is asked of
it is an `AttributeError`.
"""

from __future__ import annotations

from acl import rt
from acl._library import library

__all__ = ["get_soc_name", "rt"]


def get_soc_name() -> str:
    """Name of the chip, such as "Ascend910B1"."""
    return bytes(library().aclrtGetSocName()).decode()
