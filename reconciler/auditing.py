"""Holds what a build from a base came to against its clean twin.

Yields an outcome; which builds are audited, and what follows, is decided elsewhere.
"""

from __future__ import annotations

import asyncio

from reconciler.database.audits import Twins
from reconciler.incremental.comparison import difference
from reconciler.outcomes import Audited


async def audit(twins: Twins) -> Audited:
    """Compare the outputs; it may take long."""
    try:
        found = await asyncio.to_thread(difference, twins.built, twins.clean, twins.renamed)
    except OSError as error:
        return Audited(audit=twins.audit, error=f"the outputs cannot be compared: {error}")
    return Audited(audit=twins.audit, difference=found)
