"""Rows of the table: a network measured as its parts would be by hand, and one pass that reads it in every way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metlib import VISITS, backbone, cli, dataset, evaluate, extract, knn
from metlib.analysis import compare, published, results
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Museum
from metlib.whiten import PCAWhitening

TINY = Recipe("test_resnet", seed=1)


def embedder(**changes: object) -> Embedder:
    recipe = replace(TINY, **changes)  # type: ignore[arg-type]
    return backbone.build(recipe, "-".join(["tiny", *(f"{key}{value}" for key, value in changes.items())]))


@pytest.fixture(scope="module")
def museum(small_museum: Path) -> Museum:
    return dataset.load(small_museum)


@pytest.mark.slow
def test_a_run_is_the_protocol_and_two_rows(museum: Museum, tmp_path: Path) -> None:
    run = compare.measure(museum, embedder(), tmp_path / "work", results=tmp_path / "results.csv", seed=3)
    described = extract.describe(museum, embedder(), tmp_path / "work", visits=VISITS)
    by_hand = evaluate.measure(described, whitening="learned", seed=3)
    assert run.whitening == "learned"
    assert (run.test, run.val, run.tuning.k, run.tuning.tau) == (
        by_hand.test, by_hand.val, by_hand.tuning.k, by_hand.tuning.tau,
    )  # fmt: skip
    rows = results.read(tmp_path / "results.csv")
    assert sorted(rows["split"]) == ["test", "val"] and set(rows["network"]) == {"tiny"}
    assert rows.set_index("split").loc["test", "gap"] == round(100 * run.test["gap"], 2)
    assert set(rows["note"]) == {"untrained: a floor, not a result"}
    assert set(rows["weights"]) == {embedder().weights_sha256()[:8]} and set(rows["scales"]) == {"ms"}


@pytest.mark.slow
def test_networks_are_joined_before_whitening(museum: Museum, tmp_path: Path) -> None:
    one, two = embedder(), embedder(seed=2)
    run = compare.measure(museum, [one, two], tmp_path / "work", whitening="pca", dim=12, scales=(1,))
    parts = [extract.describe(museum, each, tmp_path / "work", scales=(1,)) for each in (one, two)]
    database, test = (np.hstack([getattr(part, name) for part in parts]) / 2**0.5 for name in ("database", "test"))
    assert run.raw_dim == one.dim + two.dim and run.dim == 12
    white = PCAWhitening(12).fit(database)
    expected = knn.search(white.transform(database), white.transform(test), run.neighbours["test"].k)
    np.testing.assert_allclose(run.neighbours["test"].similarities, expected.similarities, atol=2e-6)


@pytest.mark.slow
def test_the_command_line_writes_rows(small_museum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = backbone.save(embedder(), tmp_path / "a,b+c.safetensors")  # a file's name isn't a list of networks
    where = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results.csv"), "--single-scale"]
    assert cli.main(["compare", str(small_museum), str(file), *where]) == 0
    said = capsys.readouterr().out
    assert "GAP" in said and "tuned on these" in said and "results.csv" in said
    assert set(results.read(tmp_path / "results.csv")["network"]) == {"a,b+c"}
    assert cli.main(["compare", str(small_museum), "R18-IN", *where]) == 2
    assert "R18IN" in capsys.readouterr().err
    assert cli.main(["compare", str(tmp_path / "none"), "random", *where]) == 2
    assert "error:" in capsys.readouterr().err


def test_what_would_stop_a_later_network_stops_the_first(
    small_museum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results.csv"), "--single-scale"]
    file = backbone.save(embedder(), tmp_path / "tiny.safetensors")
    (tmp_path / "other.csv").write_text("a,b\n")
    for wrong, message in (
        ([str(file), "R18-IN"], "R18IN"),
        ([str(file), "R18IN", "--weights", str(file)], "one file, for 2 networks"),
        ([str(file), "--results", str(tmp_path / "other.csv")], "is no results table"),
    ):
        assert cli.main(["compare", str(small_museum), *where, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists() and not (tmp_path / "results.csv").exists()


@pytest.mark.slow
def test_rows_of_one_network_say_in_what_they_differ(museum: Museum, tmp_path: Path) -> None:
    for options in ({}, {"whitening": "none"}):
        compare.measure(museum, embedder(), tmp_path / "work", results=tmp_path / "r.csv", scales=(1,), **options)  # type: ignore[arg-type]
    rows = results.read(tmp_path / "r.csv").query("split == 'test'")
    labels = published.beside(rows, published.comparable(museum, split="test"))["label"]
    assert sorted(labels) == [f"tiny, whitening {way}" for way in sorted(rows["whitening"])]
