"""The builders during one round of assignments: who fits what, and who takes what next. Pure.

A builder takes a build if it has a slot free and enough of the resources that the build takes. One
that goes before all others and only lacks resources has them reserved. One that a faster builder
is expected to finish sooner, although all its slots are taken, waits for a slot there; what goes
after it may take the slower one. Which build is next is not decided here (`scheduler`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct, field

from reconciler.graph import Node, Platform
from reconciler.model import Builder, BuilderName
from reconciler.occupancy import Occupancy
from reconciler.resources import PREFIX, Amount, Needs

COPYING = 0.5
"""Seconds that a build elsewhere takes longer, at least: its inputs there, its outputs back."""

MOST_AWAITING = 64
"""So many builds at most are left waiting for faster builders in one round: all are looked at in
each, and what comes after so many is little urgent and may as well be built slowly."""
LOOK_AGAIN = 5.0
"""Seconds, at least, until it is asked again whether waiting for a faster builder is worth it."""

BUILTIN = "builtin"
"""The system of builders inside Nix itself (`builtin:fetchurl`): no particular machine."""


class Slots(Struct, frozen=True, kw_only=True):
    """A declared builder as it is now."""

    builder: Builder
    systems: frozenset[str]
    """What it builds for, resolved: never empty because nothing is declared."""
    free: int
    """How many more builds it takes now."""
    unavailable: str | None = None
    """Why it takes nothing now (quarantined, unreachable); None: it does. Draining is declared,
    and needs no reason here."""
    until: float | None = None
    """When an unavailable one is looked at again."""
    on_trial: bool = False
    """It kept failing, and takes one build to show whether it still does."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """How much of its resources those take that are being built there."""

    def left(self, resource: str) -> int:
        """How much of a resource it still has."""
        declared = self.builder.resources.get(resource)
        return 0 if declared is None else declared.count - self.taken.get(resource, 0)


class Obstacle(StrEnum):
    """Why a builder does not build a derivation. The first group lasts while both stay what
    they are declared to be; the second passes.
    """

    SYSTEM = "system"
    FEATURE = "feature"
    MANDATORY = "mandatory-feature"
    NO_SLOTS = "no-slots"
    RESOURCE = "resource"

    DRAINED = "drained"
    UNAVAILABLE = "unavailable"
    AVOIDED = "avoided"
    FULL = "full"
    SLOWER = "slower"
    SHORT = "short-of-resources"


class Refusal(Struct, frozen=True):
    """One obstacle, and in words for a person."""

    obstacle: Obstacle
    message: str


class Fleet:
    """The builders during one round of assignments: who fits what, and how loaded each is."""

    def __init__(
        self,
        slots: Sequence[Slots],
        turns: Mapping[BuilderName, int],
        occupancy: Occupancy | None = None,
        *,
        now: float = 0.0,
    ) -> None:
        """Without an occupancy nothing is known of what runs, and no builder is waited for."""
        self._slots = slots
        self._occupancy = occupancy or Occupancy()
        self._now = now
        self._given: dict[BuilderName, list[float]] = {}  # in this round: seconds that each takes
        self._remaining: dict[BuilderName, list[float]] = {}
        self._awaiting = 0
        self.look_again_in: float | None = None
        """Seconds after which waiting for a faster builder may no longer be worth it."""
        self._native = any(s.builder.uri is None and s.builder.max_jobs > 0 for s in slots)
        self._free = {s.builder.name: s.free for s in slots if not _closed(s)}
        self._turns = dict(turns)
        self._fitting: dict[Platform, list[Slots]] = {}
        self._left = {
            s.builder.name: {resource: s.left(resource) for resource in s.builder.resources}
            for s in slots
        }
        self._reserved: set[Platform] = set()

    def mismatches(self, slots: Slots, platform: Platform) -> list[Refusal]:
        """Say why the builder can never build for the platform; nothing: it can."""
        found = []
        builder = slots.builder
        if platform.system == BUILTIN:
            # Nix lets any machine run these. They are downloads, which are best made where the
            # result is wanted and the credentials are: on the machine itself, if it builds.
            if self._native and builder.uri is not None:
                found.append(
                    Refusal(Obstacle.SYSTEM, "builtin derivations are built on the local builder")
                )
        elif platform.system not in slots.systems:
            known = ", ".join(sorted(slots.systems)) or "no system"
            found.append(Refusal(Obstacle.SYSTEM, f"builds for {known}, not for {platform.system}"))
        offered = {*builder.supported_features, *builder.mandatory_features}
        if builder.uri is None:
            # The Nix that made such a derivation has the feature switched on.
            offered.add("ca-derivations")
        found += [
            Refusal(Obstacle.FEATURE, f"lacks the system feature {feature}{_hint(feature)}")
            for feature in sorted(platform.features - offered)
        ]
        found += [
            Refusal(Obstacle.MANDATORY, f"takes only what requires the system feature {feature}")
            for feature in sorted(set(builder.mandatory_features) - platform.features)
        ]
        if builder.max_jobs < 1:
            found.append(Refusal(Obstacle.NO_SLOTS, "has no slots: maxJobs is 0"))
        found += [
            Refusal(Obstacle.RESOURCE, said)
            for name, wanted in _sorted(platform.needs)
            if (said := _never_enough(builder.resources.get(name), name, wanted)) is not None
        ]
        return found

    def fitting(self, platform: Platform) -> list[Slots]:
        """Give the declared builders that can build for the platform, whatever they do now."""
        known = self._fitting.get(platform)
        if known is None:
            known = [s for s in self._slots if not self.mismatches(s, platform)]
            self._fitting[platform] = known
        return known

    def hopeless(self, platforms: Iterable[Platform]) -> set[Platform]:
        """Give those of the platforms that no declared builder can build for."""
        return {platform for platform in platforms if not self.fitting(platform)}

    def has_room(self, platform: Platform) -> bool:
        """Whether a builder that fits takes a build now."""
        return any(self._takes(s, platform.needs) for s in self.fitting(platform))

    def is_short(self, platform: Platform) -> bool:
        """Whether a builder that fits has a slot, but not enough of its resources; told until they
        are reserved.
        """
        if not platform.needs or platform in self._reserved:
            return False
        return any(
            self._free.get(s.builder.name, 0) > 0 and not self._has(s, platform.needs)
            for s in self.fitting(platform)
        )

    def reserve(self, platform: Platform) -> BuilderName:
        """Set aside what a build of a platform takes, where least of it is missing: there."""
        self._reserved.add(platform)
        waiting = [s for s in self.fitting(platform) if self._free.get(s.builder.name, 0) > 0]
        chosen = min(waiting, key=lambda s: (self._missing(s, platform.needs), s.builder.name))
        self._take(chosen.builder.name, platform.needs)
        return chosen.builder.name

    def _takes(self, slots: Slots, needs: Needs) -> bool:
        return self._free.get(slots.builder.name, 0) > 0 and self._has(slots, needs)

    def _has(self, slots: Slots, needs: Needs) -> bool:
        return not needs or not self._missing(slots, needs)

    def _missing(self, slots: Slots, needs: Needs) -> float:
        """What part of the needs is not there: 0 where there is enough."""
        left = self._left[slots.builder.name]
        return sum(
            (wanted.count - left[name]) / wanted.count
            for name, wanted in needs
            if left[name] < wanted.count
        )

    def _take(self, builder: BuilderName, needs: Needs) -> None:
        for name, wanted in needs:
            self._left[builder][name] -= wanted.count

    def avoids(self, slots: Slots, node: Node) -> bool:
        """Whether the node, which failed for reasons of a builder, waits for another than this:
        than that one, and than those on trial while there is one that is not. Else what goes from
        one broken builder to the next would never come to a good one that is slower.
        """
        name = slots.builder.name
        if node.avoid is None or not (name == node.avoid or slots.on_trial):
            return False
        others = [
            s
            for s in self.fitting(node.platform)
            if s.builder.name != name and s.builder.name in self._free
        ]
        if name == node.avoid:
            return bool(others)
        return any(not s.on_trial and s.builder.name != node.avoid for s in others)

    def choose(self, node: Node) -> BuilderName | None:
        """Take a slot on the builder expected to finish the node first; None if it must wait."""
        able = [
            s
            for s in self.fitting(node.platform)
            if self._takes(s, node.platform.needs) and not self.avoids(s, node)
        ]
        local = [s for s in able if s.builder.uri is None] if node.prefer_local else []
        if not able:
            return None
        chosen = min(local or able, key=lambda s: self._finish(s, node))
        if not local and self._awaits(chosen, node):
            return None
        name = chosen.builder.name
        self._given.setdefault(name, []).append(self._finish(chosen, node)[0])
        self._free[name] -= 1
        self._take(name, node.platform.needs)
        self._turns[name] = max(self._turns.values(), default=0) + 1
        return name

    def _finish(self, slots: Slots, node: Node) -> tuple[float, int, BuilderName]:
        """In how many seconds it is expected to be done there; equal ones take turns."""
        builder = slots.builder
        load = 1 - self._free[builder.name] / builder.max_jobs
        return _seconds(builder, node, load=load), self._turns.get(builder.name, 0), builder.name

    def _awaits(self, chosen: Slots, node: Node) -> bool:
        """Whether a faster builder that is full is expected to be done sooner than the chosen one,
        which is free. If so, the first slot to be free there is the node's: others wait longer.
        """
        faster = self._faster(chosen, node)
        if not faster or self._awaiting >= MOST_AWAITING:
            return False
        seconds, _, _ = self._finish(chosen, node)
        sooner, remaining = min(
            (remaining[0] + _seconds(builder, node, load=1), remaining)
            for builder, remaining in faster
        )
        if sooner >= seconds:
            return False
        again = max(min(seconds - sooner, remaining[0]), LOOK_AGAIN)
        if self.look_again_in is None or again < self.look_again_in:
            self.look_again_in = again
        heapq.heapreplace(remaining, sooner)
        self._awaiting += 1
        return True

    def _faster(self, chosen: Slots, node: Node) -> list[tuple[Builder, list[float]]]:
        """Those that have all a node takes but a slot, and what runs there: when it is done."""
        found = []
        for each in self.fitting(node.platform):
            builder = each.builder
            if (
                builder.speed_factor > chosen.builder.speed_factor
                and self._free.get(builder.name, 1) < 1
                and self._has(each, node.platform.needs)
                and not self.avoids(each, node)
            ):
                if builder.name not in self._remaining:
                    self._remaining[builder.name] = sorted(
                        self._occupancy.remaining(builder, now=self._now)
                        + self._given.get(builder.name, [])
                    )
                found.append((builder, self._remaining[builder.name]))
        return [(builder, remaining) for builder, remaining in found if remaining]

    def refusals(self, slots: Slots, node: Node) -> tuple[Refusal, ...]:
        """Say why a builder does not take a node now; nothing: it would."""
        found = self.mismatches(slots, node.platform)
        found += [] if found else _short_now(slots, node.platform.needs)
        if slots.builder.drain:
            found.append(Refusal(Obstacle.DRAINED, "is drained: it takes nothing new"))
        if slots.unavailable is not None:
            found.append(Refusal(Obstacle.UNAVAILABLE, slots.unavailable))
        if self.avoids(slots, node):
            here = node.avoid == slots.builder.name
            failed = "there" if here else "elsewhere, and this is on trial"
            message = f"the last attempt failed {failed}: another builder is awaited"
            found.append(Refusal(Obstacle.AVOIDED, message))
        if slots.free < 1:
            number = slots.builder.max_jobs
            taken = f"all {number} slots are taken" if number > 1 else "its one slot is taken"
            found.append(Refusal(Obstacle.FULL, taken))
        found += [] if found else self._slower(slots, node)
        return tuple(found)

    def _slower(self, slots: Slots, node: Node) -> list[Refusal]:
        """Of the builders that a node may wait for although this one takes it."""
        return [
            Refusal(
                Obstacle.SLOWER,
                f"is slower than {s.builder.name}: takes it unless that is done with it sooner",
            )
            for s in self.fitting(node.platform)
            if s.builder.speed_factor > slots.builder.speed_factor
            and self._free.get(s.builder.name, 1) < 1
        ]


def _seconds(builder: Builder, node: Node, *, load: float) -> float:
    """How long a builder is expected to take; `load` is the part of its slots that are taken."""
    copying = 0.0 if builder.uri is None else COPYING
    return node.weight * (1 + load) / builder.speed_factor + copying


def _closed(slots: Slots) -> bool:
    return slots.builder.drain or slots.unavailable is not None


def _sorted(needs: Needs) -> list[tuple[str, Amount]]:
    return sorted(needs, key=lambda need: (need[0], need[1].count))


def _never_enough(declared: Amount | None, name: str, wanted: Amount) -> str | None:
    """Why a builder that has so much of a resource can never give what is wanted of it."""
    if declared is None:
        return f"declares no {name}, of which {wanted} is needed"
    if declared.is_size != wanted.is_size:
        return f"has {declared} of {name}, of which {wanted} cannot be taken"
    if declared.count < wanted.count:
        return f"has {declared} of {name} in all, less than the {wanted} that is needed"
    return None


def _short_now(slots: Slots, needs: Needs) -> list[Refusal]:
    """Of what there is not enough just now."""
    found = []
    for name, wanted in _sorted(needs):
        left = slots.left(name)
        if left < wanted.count:
            free = Amount(max(0, left), is_size=wanted.is_size)
            whole = slots.builder.resources[name]
            message = f"needs {wanted} of {name}: {free} of {whole} are free"
            found.append(Refusal(Obstacle.SHORT, message))
    return found


def _hint(feature: str) -> str:
    if not feature.startswith(PREFIX):
        return ""
    return f" (to ask for a resource write it like {PREFIX}memory=8GiB or {PREFIX}licences=1)"
