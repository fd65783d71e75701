"""How Python's collector of garbage in cycles is used: seldom, for what is held has no cycles.

Its own thresholds would have it look through hundreds of thousands of objects again and again
while they are being read, and through all modules while they are being loaded.
"""

from __future__ import annotations

import gc


def calm() -> None:
    """Look less often. To be called before most is loaded."""
    gc.set_threshold(200_000, 50, 100)
