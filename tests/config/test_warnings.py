from __future__ import annotations

from pathlib import Path

import pytest

from reconciler import config

J = "jobsets: {a: {source: {flake: 'path:/x'}"
PULLS = "jobsets: {a: {source: {git: {url: 'https://x', branches: [main]}}"

WARNED = [
    (J + ", ^^incremental: {strategy: hidden}}}", "jobsets.a.incremental",
     "strategy has no effect without enable; add enable: true, or remove it"),
    (J + ", ^^incremental: {strategy: hidden, retryClean: false}}}", "jobsets.a.incremental",
     "strategy, retryClean have no effect without enable"),
    (J + "}}\ncaches: {^^spare: {uri: 'file:/x'}}", "caches.spare",
     "it is declared, but no jobset pushes to it; name it in a jobset's caches, or remove it"),
    (J + "}}\nartifactStores: {^^s: {url: 'file:/x'}}", "artifactStores.s",
     "it is declared, but no jobset builds incrementally; set incremental.enable of one"),
    (J + ", systems: [x86_64-linux]}}\nbuilders: {^^arm: {systems: [aarch64-linux]}}",
     "builders.arm", "no jobset wants any of its systems; add one to a jobset's systems"),
]  # fmt: skip

FINE = [
    J + "}}",
    J + ", incremental: {}}}",
    J + ", incremental: {enable: true, strategy: hidden}}}",
    # What is turned off is said, not forgotten.
    J + ", incremental: {enable: false, strategy: hidden}}}",
    J + ", caches: [c]}}\ncaches: {c: {uri: 'file:/x'}}",
    PULLS + ", caches: [c]}}\ncaches: {c: {uri: 'file:/x'}}",
    PULLS + ", incremental: {enable: true}}}\nartifactStores: {s: {url: 'file:/x'}}",
    J + "}}\nbuilders: {arm: {systems: [aarch64-linux]}}",
    J + ", systems: [x86_64-linux]}}\nbuilders: {local: {}}",
    J + ", systems: [x86_64-linux]}}\nbuilders: {two: {systems: [aarch64-linux, x86_64-linux]}}",
]


def checked(text: str, folder: Path) -> config.Checked:
    path = folder / "farm.yaml"
    path.write_text(text)
    found = config.check(path)
    assert found.desired == config.load(path)
    return found


@pytest.mark.parametrize(("marked", "path", "words"), WARNED)
def test_what_is_in_vain_is_told_at_its_place(
    tmp_path: Path, marked: str, path: str, words: str
) -> None:
    before, after = marked.split("^^")
    (warning,) = checked(before + after, tmp_path).warnings
    assert warning.path == path
    assert words in f"{warning.message}; {warning.mend}"
    lines = before.split("\n")
    assert (warning.line, warning.column) == (len(lines), len(lines[-1]) + 1)


@pytest.mark.parametrize("text", FINE)
def test_what_is_of_use_is_not(tmp_path: Path, text: str) -> None:
    assert checked(text, tmp_path).warnings == ()


def test_they_come_in_the_order_of_the_document(tmp_path: Path) -> None:
    text = (
        "caches: {c: {uri: 'file:/c'}, b: {uri: 'file:/b'}}\n"
        + J
        + ", incremental: {strategy: pure}}}"
    )
    assert [each.path for each in checked(text, tmp_path).warnings] == [
        "caches.c", "caches.b", "jobsets.a.incremental",
    ]  # fmt: skip
