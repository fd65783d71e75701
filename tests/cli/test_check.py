from __future__ import annotations

from copy import deepcopy

from tests.cli.farm import DOCUMENT, Farm


def test_what_is_declared_in_vain_is_told_and_valid(farm: Farm) -> None:
    document = deepcopy(DOCUMENT)
    document["caches"]["spare"] = {"uri": "file:///srv/spare"}
    document["jobsets"]["web"]["incremental"] = {"strategy": "hidden"}
    farm.declare(document)
    told = farm.run("check")
    assert told.exit_code == 0
    assert told.stdout == f"✓ {farm.config} is valid: 2 jobsets, 1 builder, 2 caches\n"
    spare, strategy = told.stderr.splitlines()
    assert spare.startswith(f"warning: {farm.config}:")
    assert spare.endswith(
        ": caches.spare: it is declared, but no jobset pushes to it; name it in a jobset's caches,"
        " or remove it"
    )
    assert ": jobsets.web.incremental: strategy has no effect without enable; " in strategy
    found = farm.json("check", schema="check")
    assert found["valid"]
    assert [each["path"] for each in found["warnings"]] == [
        "caches.spare",
        "jobsets.web.incremental",
    ]


def test_branches_are_of_a_jobset_too(farm: Farm) -> None:
    source = {"git": {"url": "https://git.example.org/w", "branches": ["main"]}}
    farm.declare({**DOCUMENT, "jobsets": {"web": {"source": source, "caches": ["main"]}}})
    told = farm.run("check")
    assert told.stderr == ""
    assert "is valid: 1 jobset, 1 builder, 1 cache\n" in told.stdout
