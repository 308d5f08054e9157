"""The regimes of transfer learning: equal budgets, test judged once, splits that share nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metlib import backbone, labelled
from metlib.analysis import results
from metlib.backbone import Embedder
from metlib.cli import main
from metlib.labelled import UNKNOWN, Labelled
from metlib.labelled.multitask import MultiTask
from metlib.labelled.transfer import (
    BUDGET,
    REGIMES,
    Outcome,
    fit_probe,
    from_scratch,
    result_rows,
    run_regime,
    score,
)
from metlib.train.loop import Settings


@pytest.fixture(scope="module")
def budget(settings: Settings) -> Settings:
    return replace(BUDGET, epochs=1, size=32, batch=12, device="cpu", lr=1e-3, head_lr=1e-2)


@pytest.mark.slow
def test_a_probe_is_scikit_learns_logistic_regression(paintings: Labelled) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(paintings), 6)).astype(np.float32)
    rows[:, 0] += 2 * paintings.labels["colour"]
    rows[:, 1] += 3 * (paintings.labels["edge"] == 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    named = fit_probe(paintings, rows).predict(rows)
    train, val = paintings.rows("train"), paintings.rows("val")
    for name, labels in paintings.labels.items():
        known, held = train[labels[train] != UNKNOWN], val[labels[val] != UNKNOWN]
        fits = [
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(rows[known], labels[known])
            for c in 10.0 ** np.arange(-4, 2.5, 0.5)
        ]
        losses = [log_loss(labels[held], fit.predict_proba(rows[held])) for fit in fits]
        best = fits[int(np.argmin(losses))]
        assert (named[name] == best.predict(rows)).mean() > 0.98  # float32 heads may turn a tie
    few = paintings.take(paintings.labels["colour"] != 2)
    assert set(fit_probe(few, rows[paintings.labels["colour"] != 2]).predict(rows)["colour"].tolist()) <= {0, 1}


@pytest.mark.slow
def test_every_regime_learns_something_and_starts_where_it_says(
    paintings: Labelled, embedder: Embedder, budget: Settings, tmp_path: Path
) -> None:
    colour = paintings.select("colour").take(np.arange(60))
    other = paintings.select("edge")
    other = other.take(~np.isin(other.paths, colour.paths))  # what is judged here is not learned there
    outcomes = {
        regime: run_regime(colour, embedder, tmp_path, regime, settings=budget, seeds=(0, 1), other=other)
        for regime in REGIMES
    }
    table = score(colour, outcomes.values()).set_index("regime")
    assert list(table.index) == list(REGIMES)
    assert (table["seeds"] == [1, 2, 2, 2, 2]).all() and (table["images"] == 12).all()
    assert table.loc["probe", "accuracy"] > 0.8
    assert ((table["accuracy_low"] <= table["accuracy"]) & (table["accuracy"] <= table["accuracy_high"])).all()
    assert table["majority"].nunique() == 1
    starts = {
        regime: [backbone.load(path).recipe.training["start"] for path in outcome.checkpoints]
        for regime, outcome in outcomes.items()
    }
    assert starts["frozen"] == starts["fine-tuned"] == ["tiny", "tiny"]
    assert starts["scratch"] == ["tiny-scratch"] * 2
    assert all("edge" in start for start in starts["art-to-art"])
    for outcome in list(outcomes.values())[1:]:
        assert set(outcome.curves["seed"]) == {0, 1} and outcome.curves["epoch"].max() == 1
    again = run_regime(colour, embedder, tmp_path, "frozen", settings=budget, seeds=(0, 1))
    np.testing.assert_array_equal(again.predicted["colour"], outcomes["frozen"].predicted["colour"])


def test_from_scratch_is_the_same_architecture_with_other_weights(embedder: Embedder) -> None:
    first, second = from_scratch(embedder, 0), from_scratch(embedder, 1)
    assert first.recipe.arch == embedder.recipe.arch and first.dim == embedder.dim
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    assert torch.equal(next(first.parameters()), next(from_scratch(embedder, 0).parameters()))


def test_a_collection_whose_splits_share_an_image_is_refused(
    paintings: Labelled, embedder: Embedder, tmp_path: Path
) -> None:
    for i in range(len(paintings)):
        (tmp_path / f"{i}.png").write_bytes(paintings.file(i if i != 4 else 0).read_bytes())
    twins = replace(paintings, root=tmp_path)
    with pytest.raises(ValueError, match=r"1 image\(s\) of paintings stand in two splits, the first 4.png in test"):
        run_regime(twins, embedder, tmp_path / "work", "probe")
    assert len(labelled.drop_shared(twins)) == len(twins) - 1
    with pytest.raises(ValueError, match=r"judged image\(s\) of paintings are also in paintings"):
        run_regime(paintings, embedder, tmp_path / "work", "art-to-art", other=paintings)


def test_scores_leave_out_images_without_a_label_and_average_seeds(paintings: Labelled) -> None:
    test = paintings.rows("test")
    truth = paintings.labels["edge"][test]
    wrong = np.where(truth == UNKNOWN, 0, 1 - truth)
    outcome = Outcome("frozen", {"edge": np.stack([np.maximum(truth, 0), wrong])}, curves=None)  # type: ignore[arg-type]
    row = score(paintings, [outcome]).iloc[0]
    assert row["images"] == (truth != UNKNOWN).sum() and row["accuracy"] == 0.5
    assert row["seed_std"] == pytest.approx(np.std([1, 0], ddof=1))
    assert row["majority"] == labelled.majority(paintings, "edge")


@pytest.mark.slow
def test_rows_of_a_results_table_are_read_back(
    paintings: Labelled, embedder: Embedder, budget: Settings, tmp_path: Path
) -> None:
    outcome = run_regime(paintings, embedder, tmp_path, "probe", settings=budget)
    rows = result_rows(paintings, score(paintings, [outcome]), embedder, budget, date="2026-11-21")
    path = results.append(tmp_path / "attributes.csv", rows, results.ATTRIBUTES)
    before = path.read_bytes()
    back = results.read(path, results.ATTRIBUTES)
    assert list(back["attribute"]) == ["colour", "edge"]
    assert (back["majority"] < back["accuracy"]).all()
    results.append(path, result_rows(paintings, score(paintings, [outcome]), embedder, budget), results.ATTRIBUTES)
    assert path.read_bytes() == before  # a repeated run changes nothing, its date neither
    with pytest.raises(ValueError, match=r"is no .*results"):
        results.read(path)
    table = score(paintings, [replace(outcome, regime="art-to-art")])
    for settings, other in (
        (budget, paintings),
        (budget, paintings.select("edge")),
        (replace(budget, lr=1), paintings),
    ):
        rows = result_rows(paintings, table, embedder, settings, other=other)
        results.append(path, rows, results.ATTRIBUTES)
    assert len(results.read(path, results.ATTRIBUTES)) == 2 + 3 * 2  # another source, or other settings, is another run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG19", "Inception-v3", "Xception", "R50IN"])
def test_the_architectures_of_the_study_learn_all_attributes(name: str, paintings: Labelled) -> None:
    network = backbone.build(replace(backbone.RECIPES[name], seed=0), name)  # their own weights aren't at hand
    method = MultiTask(network, paintings, frozen=False)
    with torch.no_grad():
        for head in method.heads:
            head.weight.normal_()
    method.eval()(torch.rand(2, 1, 3, 96, 96), torch.tensor([0, 1]))["loss"].backward()
    first = next(network.trunk.parameters())
    assert first.grad is not None and torch.isfinite(first.grad).all() and first.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regime": "warm"}, "regime must be one of probe, frozen"),
        ({"regime": "frozen", "seeds": ()}, "seeds must be different numbers"),
        ({"regime": "frozen", "seeds": (1, 1)}, "seeds must be different numbers"),
        ({"regime": "art-to-art"}, "needs another collection"),
    ],
)
def test_what_makes_no_sense_is_refused(
    paintings: Labelled, embedder: Embedder, tmp_path: Path, options: dict, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        run_regime(paintings, embedder, tmp_path, **options)


@pytest.mark.slow
def test_the_command_line_adds_a_collection_to_a_results_table(
    museum, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--regimes", "probe", "--attributes", "kind", "--size", "32", "--work", tmp_path, "--results"]
    assert main(["transfer", museum.root, checkpoint, *words, tmp_path / "attributes.csv"]) == 0
    assert "majority" in capsys.readouterr().out
    assert len(results.read(tmp_path / "attributes.csv", results.ATTRIBUTES)) == 1
    assert main(["transfer", tmp_path, checkpoint]) == 2
    assert "error: " in capsys.readouterr().err
    for wrong, message in (
        (["--size", "8"], "size must be"),
        (["--regimes", "art-to-art"], "name it with --other"),
        (["--regimes", "probe,warm"], "'probe,warm': expected some of probe, frozen"),
        (["--regimes", ""], "expected some of probe, frozen"),
    ):
        assert main(["transfer", museum.root, checkpoint, *wrong]) == 2
        assert message in capsys.readouterr().err
