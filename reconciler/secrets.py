"""Which declared secrets are not there: files of keys and passwords, by the object that needs them.

Shows nothing of what is in a file. Whether that is a key, and the right one, is found out where it
is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reconciler.model import Desired

PLACEHOLDER = b"missing"
"""What nix/service.nix has systemd give as a credential whose file does not exist: without it the
whole service would not start."""
_LONGEST = 4096


def missing(desired: Desired) -> dict[tuple[str, str], str | None]:
    """What is wrong with the secrets of each object (kind and name) that has any; None: nothing."""
    found: dict[tuple[str, str], str | None] = {}
    for kind, name, files in _declared(desired):
        troubles = [
            f"{key}: {trouble}"
            for key, file in files.items()
            if file is not None and (trouble := _trouble(Path(file))) is not None
        ]
        found[kind, name] = "; ".join(troubles) or None
    return found


def _declared(desired: Desired) -> Iterator[tuple[str, str, dict[str, str | None]]]:
    """Kind and name of each object, and its secrets' files by the document's keys."""
    for builder in desired.builders.values():
        yield "builder", builder.name, {"sshKeyFile": builder.ssh_key_file}
    for cache in desired.caches.values():
        files = {
            "signingKeyFile": cache.signing_key_file,
            "credentialsFile": cache.credentials_file,
            "sshKeyFile": cache.ssh_key_file,
            **{f"signingKeyFiles[{n}]": file for n, file in enumerate(cache.signing_key_files)},
        }
        yield "cache", cache.name, files
    for store in desired.artifact_stores.values():
        yield "artifact-store", store.name, {"credentialsFile": store.credentials_file}


def _trouble(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            text = stream.read(_LONGEST).strip()
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    if text == PLACEHOLDER:
        return (
            f"its file did not exist when systemd was to bring it as {file}: put it where the"
            " configuration says, and restart the service if it is not noticed"
        )
    return None if text else f"{file} is empty"
