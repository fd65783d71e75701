"""What a jobset says of the caches that it pushes to: they are declared, each is named once, and
can take what is said.

Pure, as `rules`, whose part this is; what has the wrong shape is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reconciler.config.tree import Json
from reconciler.problems import quote, render_path, undeclared

Refusal = tuple[list[str | int], str, str]
"""Document path, message and mend."""

NEVER_ALONE = ("a Nix store keeps nothing without what that refers to", "write requisites")
"""Why the outputs of jobs alone do not go to one, and the mend."""


def pushed_to(
    at: list[str | int], items: Json, caches: Mapping[str, dict[str, Json]]
) -> Iterator[Refusal]:
    """Refuse a jobset's caches; `at` is their place."""
    first: dict[str, int] = {}
    for index, item in enumerate(items if isinstance(items, list) else ()):
        place = [*at, index]
        name = item.get("name") if isinstance(item, dict) else item
        if not isinstance(name, str):
            continue
        where = [*place, "name"] if isinstance(item, dict) else place
        if name not in caches:
            mend = undeclared(name, list(caches), how=f"caches: {{{name}: {{uri: …}}}}")
            yield where, f"there is no cache {quote(name)}", mend
        before = first.setdefault(name, index)
        both_names = isinstance(item, str) and isinstance(_item(items, before), str)
        if before != index and not both_names:  # the schema refuses those
            other = render_path([*at, before])
            yield where, f"{other} is the same cache", "say all of it at one place"
        if isinstance(item, dict):
            yield from _alone([*place, "push"], item.get("push"), caches.get(name, {}))


def _item(items: Json, index: int) -> Json:
    return items[index] if isinstance(items, list) else None


def _alone(at: list[str | int], push: Json, cache: Mapping[str, Json]) -> Iterator[Refusal]:
    uri = cache.get("uri")
    if push == "jobs" and isinstance(uri, str) and uri.startswith("ssh-ng:"):
        yield at, *NEVER_ALONE
