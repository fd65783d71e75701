"""README's statements about the code, compared with the code."""

from __future__ import annotations

import re

from reconciler import config
from reconciler.cli import VERBS
from reconciler.model import JobsetName, PushScope
from tests.test_architecture import LEVEL, PROJECT, modules

README = (PROJECT / "README.md").read_text()


def _rows(title: str) -> list[str]:
    """The first cells of a section's table."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert section, f'README.md has no section "## {title}"'
    return re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE)


def test_the_architecture_names_every_module_and_no_other() -> None:
    assert sorted(_rows("Architecture")) == sorted(modules())


def test_the_command_line_names_every_verb_and_no_other() -> None:
    assert sorted(_rows("The command line")) == sorted(VERBS)


def test_the_examples_are_valid_documents() -> None:
    farm, branches, incremental, builders, pushed, caches = (
        config.parse(document.encode(), name="README.md")
        for document in re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    )
    assert set(farm.jobsets) == {"website", "tools"}
    assert set(branches.patterns) == {"website"}
    assert incremental.jobsets[JobsetName("website")].incremental.enable
    assert set(builders.builders) == {"local", "big", "arm"}
    scopes = {each.scope for each in pushed.jobsets[JobsetName("website")].caches.values()}
    assert scopes == {PushScope.JOBS, PushScope.REQUISITES}
    assert set(caches.caches) == {"office"}


def test_the_layers_name_no_module_that_is_gone() -> None:
    assert set(LEVEL) == modules()
