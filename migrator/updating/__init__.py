# SPDX-License-Identifier: Apache-2.0
"""Re-applies a migration on the next release and keeps what people changed by hand.

`lines`, `statements`, `structure` and `merge` merge one file and know of bytes only; `trees` merges
whole trees; `base` finds what a tree was made from; `git` and `commits` speak to git; `run` does an
update from its beginning to its end, and `report` says what became of every file.
"""

from __future__ import annotations
