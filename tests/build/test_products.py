"""`nix-support` of outputs: what is read, and what is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.build import products as build_products
from reconciler.model import BuildProduct, Metric, StorePath


@pytest.fixture
def output(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    (made / "nix-support").mkdir(parents=True)
    return made


def read(*outputs: Path) -> build_products.Support:
    return build_products.read([StorePath(str(each)) for each in outputs])


def test_an_output_without_support_says_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("x")
    assert read(tmp_path, plain) == build_products.Support(failed=False, products=(), metrics=())


def test_products_with_and_without_quotes(output: Path) -> None:
    (output / "nix-support/hydra-build-products").write_text(
        'doc manual /a/b\nfile iso "/with blank/x"\ndoc manual /c index.html\n'
        "too few\n\nunbalanced 'quote /x\n"
    )
    assert read(output).products == (
        BuildProduct(kind="doc", subtype="manual", path="/a/b"),
        BuildProduct(kind="file", subtype="iso", path="/with blank/x"),
        BuildProduct(kind="doc", subtype="manual", path="/c"),
    )


def test_metrics_that_are_numbers(output: Path) -> None:
    (output / "nix-support/hydra-metrics").write_text(
        "size 12 bytes\nratio 0.5\nnone\nword abc\nlarge inf\nodd nan\nfour 1 two three\n"
    )
    assert read(output).metrics == (
        Metric(name="size", value=12.0, unit="bytes"),
        Metric(name="ratio", value=0.5, unit=None),
    )


def test_bytes_that_are_no_text_do_no_harm(output: Path) -> None:
    (output / "nix-support/hydra-build-products").write_bytes(b"doc \xff /x\n")
    assert [each.path for each in read(output).products] == ["/x"]


def test_any_output_can_say_that_it_failed(output: Path, tmp_path: Path) -> None:
    (output / "nix-support/failed").touch()
    assert read(tmp_path, output).failed
    assert build_products.says_failed(StorePath(str(output)))
    assert not build_products.says_failed(StorePath(str(tmp_path)))


def test_links_out_of_the_output_are_not_followed(output: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("doc manual /etc/passwd\n")
    (output / "nix-support/hydra-build-products").symlink_to(secret)
    assert read(output).products == ()
    other = tmp_path / "other"
    other.mkdir()
    (output / "nix-support/failed").touch()
    (other / "nix-support").symlink_to(output / "nix-support")
    assert not read(other).failed


def test_no_more_is_read_than_bears_reading(output: Path) -> None:
    line = "doc manual /x\n"
    (output / "nix-support/hydra-build-products").write_text(line * 200_000)
    assert 0 < len(read(output).products) < 200_000
