"""Which bundles a tier serves: one, several, directories of them, versions, and pairs that cannot be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import bundles
from services.errors import BundleError
from tests.networks import write_bundle


def names(*paths: Path) -> list[tuple[str, str]]:
    return [(each.manifest.name, each.manifest.version) for each in bundles.load(paths)]


def test_bundles_are_served_in_the_order_given(tmp_path: Path) -> None:
    b, a = write_bundle(tmp_path / "b", 1, name="b"), write_bundle(tmp_path / "a", 2, name="a")
    assert names(b, a) == [("b", "1"), ("a", "1")]


def test_a_directory_may_hold_bundles_and_bundles_by_version(tmp_path: Path) -> None:
    write_bundle(tmp_path / "plain", 1, name="plain")
    write_bundle(tmp_path / "net" / "1", 2, name="net")
    write_bundle(tmp_path / "net" / "10", 3, name="net", version="10")
    (tmp_path / "README").write_text("not a bundle")
    (tmp_path / "empty").mkdir()
    assert sorted(names(tmp_path)) == [("net", "1"), ("net", "10"), ("plain", "1")]


def test_what_is_hidden_is_not_served(tmp_path: Path) -> None:
    write_bundle(tmp_path / "seen", 1)
    write_bundle(tmp_path / ".draft", 2, name="draft")
    assert names(tmp_path) == [("tiny", "1")]


def test_a_bundle_given_twice_is_served_once(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "models" / "tiny")
    assert names(path, path.parent, path) == [("tiny", "1")]


def test_a_directory_without_any_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundles.load([tmp_path])
    with pytest.raises(BundleError, match="no such bundle directory"):
        bundles.load([tmp_path / "nowhere"])


def test_two_of_one_name_and_version_are_refused_with_both_hashes(tmp_path: Path) -> None:
    one, other = write_bundle(tmp_path / "one", 1), write_bundle(tmp_path / "other", 2)
    with pytest.raises(BundleError, match="both 'tiny' version 1") as refused:
        bundles.load([one, other])
    assert all(each.manifest.model_hash in str(refused.value) for p in (one, other) for each in bundles.load([p]))


def test_two_of_one_graph_are_refused_since_tiers_know_models_by_it(tmp_path: Path) -> None:
    one, other = write_bundle(tmp_path / "one", name="a"), write_bundle(tmp_path / "other", name="b")
    with pytest.raises(BundleError, match="same graph"):
        bundles.load([one, other])


def test_versions_sort_as_numbers() -> None:
    assert bundles.newest_last(["10", "9", "1"]) == ["1", "9", "10"]
