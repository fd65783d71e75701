"""What stands in the way of queued builds: the short cut past the scheduler's rules."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.database import Database, open_memory
from reconciler.database.blocked import plainly_fits, slots_of
from reconciler.graph import Platform
from reconciler.model import BuilderName
from reconciler.scheduler import BUILTIN, Fleet
from reconciler.status import BuilderFacts

SYSTEMS = ("x86_64-linux", "aarch64-linux")
FEATURES = ("kvm", "big-parallel")

some_features = st.lists(st.sampled_from(FEATURES), unique=True).map(tuple)
builders = st.builds(
    BuilderFacts,
    name=st.just(BuilderName("one")),
    uri=st.sampled_from([None, "ssh://host"]),
    systems=st.none() | st.lists(st.sampled_from(SYSTEMS), unique=True).map(tuple),
    features=some_features,
    mandatory_features=some_features,
    max_jobs=st.integers(0, 2),
    speed_factor=st.just(1.0),
    running=st.just(0),
    drain=st.booleans(),
)


@pytest.fixture(scope="module")
def database() -> Database:
    return open_memory(now=0.0)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(builders, st.sampled_from([*SYSTEMS, BUILTIN]), some_features)
def test_what_plainly_fits_is_what_the_scheduler_says_of_all_but_builtins(
    database: Database, builder: BuilderFacts, system: str, features: tuple[str, ...]
) -> None:
    here = SYSTEMS[:1]
    fleet = Fleet(slots_of(database, [builder], here, {}), {})
    fitting = bool(fleet.fitting(Platform(system, frozenset(features))))
    plainly = plainly_fits(builder, system, " ".join(features), here)
    assert plainly == (fitting and system != BUILTIN)
