"""What a reload does to a farm that goes on: document, secrets, a fresh try at what failed.

A document that is not valid leaves the last good one in force, as a fault of the document.
"""

from __future__ import annotations

from pathlib import Path

from reconciler import config, secrets
from reconciler.config import ConfigError
from reconciler.database import pushed
from reconciler.reconcile.farm import KEYLESS, Away, Farm


def take_up(farm: Farm, document: Path, *, now: float) -> None:
    """Read the document and make it what is desired."""
    try:
        desired = config.load(document)
    except ConfigError as error:
        farm.fault("document", str(document), "invalid", str(error))
        return
    farm.fault("document", str(document), "invalid", None)
    if desired.artifact_stores != farm.desired.artifact_stores:
        farm.unshared.clear()
    farm.adopt(desired, now=now)


def look_at_secrets(farm: Farm) -> None:
    """Note which objects lack a secret, and which no longer do."""
    for (kind, name), trouble in secrets.missing(farm.desired).items():
        farm.fault(kind, name, KEYLESS, trouble)


def try_again(farm: Farm) -> None:
    """Wait no longer for builders in quarantine, nor with pushes that failed or were put off."""
    for builder in [*farm.troubles]:
        farm.builder_works(builder)  # perhaps: it is to be found out
    pushed.wait_no_longer(farm.database)
    farm.left_alone.clear()
    farm.unshared.clear()
    farm.undiscarded = Away()
