"""The grid from one search against a search a cell; the dimension chosen on val."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib import metrics
from metlib.common.vectors import unit
from metlib.knn import Neighbours, classify, search
from metlib.tune import KS, TAUS, candidate_dims, fitting, tune

Collection = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


def collection(n: int = 80, D: int = 8, q: int = 60, noise: float = 0.25, seed: int = 0) -> Collection:
    """Exhibits with one to three photos, and noisy visits of half of them among distractors."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, n // 2, size=n))
    centres = rng.normal(size=(n // 2, D)) + 0.5
    database = centres[labels] + 0.3 * noise * rng.normal(size=(n, D))
    truth = np.where(np.arange(q) < q // 2, rng.choice(labels, q), -1)
    queries = np.where(truth[:, None] >= 0, centres[truth], rng.normal(size=(q, D)) + 0.5)
    queries = queries + noise * rng.normal(size=(q, D))
    return unit(database.astype(np.float32)), labels, unit(queries.astype(np.float32)), truth


def test_the_grid_is_the_published_one() -> None:
    assert KS == (1, 2, 3, 5, 7, 10, 15, 20, 50)
    assert TAUS == (0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 50, 100, 500)


def test_every_cell_is_a_search_of_its_own() -> None:
    database, labels, queries, truth = collection(noise=0.6)
    tuning = tune(search(database, queries, max(KS)), labels, truth)
    assert tuning.gap_grid.shape == (len(KS), len(TAUS))
    assert (tuning.ks, tuning.taus) == (KS, TAUS)
    for i, k in enumerate(KS):
        neighbours = search(database, queries, k)
        for j, tau in enumerate(TAUS):
            predictions = classify(neighbours, labels, k, tau)
            alone = metrics.gap(predictions.labels, predictions.log_confidence, truth)
            assert tuning.gap_grid[i, j] == pytest.approx(alone, rel=1e-12)
    assert len(np.unique(tuning.gap_grid)) > 10  # a grid in which k and tau matter
    assert tuning.gap == tuning.gap_grid.max()
    assert tuning.gap_grid[KS.index(tuning.k), TAUS.index(tuning.tau)] == tuning.gap


@pytest.mark.parametrize("seed", range(5))
def test_the_row_of_k_1_is_constant_in_tau(seed: int) -> None:
    database, labels, queries, truth = collection(noise=0.8, seed=seed)
    tuning = tune(search(database, queries, 10), labels, truth, ks=(1, 10))
    assert len(set(tuning.gap_grid[0].tolist())) == 1
    assert len(set(tuning.gap_grid[1].tolist())) > 1


def test_accuracy_is_flat_over_the_grid() -> None:
    database, labels, queries, truth = collection(noise=0.8)
    neighbours = search(database, queries, max(KS))
    everywhere = {metrics.accuracy(classify(neighbours, labels, k, t).labels, truth) for k in KS for t in TAUS}
    assert len(everywhere) == 1
    assert 0.2 < everywhere.pop() < 1


def test_of_equal_cells_the_smallest_k_then_the_smallest_tau_wins() -> None:
    neighbours = Neighbours(np.array([[0.9, 0.1]], np.float32), np.array([[0, 1]]))
    tuning = tune(neighbours, [3, 4], [3], ks=(2, 1), taus=(50, 5.0, 20))
    assert (tuning.gap_grid == 1).all()
    assert (tuning.k, tuning.tau) == (1, 5.0)
    assert tuning.gap_grid.shape == (2, 3)


def test_the_order_of_the_file_does_not_choose_tau() -> None:
    """Exhibits first, distractors last, as in the ground truth: the largest tau must gain nothing from it."""
    database, labels, queries, truth = collection(noise=0.8)
    assert (truth[:30] >= 0).all()
    assert (truth[30:] == -1).all()
    shuffled = np.random.default_rng(0).permutation(len(truth))
    straight = tune(search(database, queries, 50), labels, truth)
    mixed = tune(search(database, queries[shuffled], 50), labels, truth[shuffled])
    np.testing.assert_array_equal(straight.gap_grid, mixed.gap_grid)
    assert straight.gap_grid.max() < 1


def test_fitting_leaves_out_what_a_small_database_cannot_answer() -> None:
    assert fitting(KS, 12) == (1, 2, 3, 5, 7, 10)
    assert fitting(KS, 50) == KS
    assert fitting(KS, 1) == (1,)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ks": (1, 5)}, r"from 1 to 4, the neighbours searched, got 5"),
        ({"ks": (0,)}, r"got 0"),
        ({"taus": (0.0,)}, r"tau must be a positive number, got 0.0"),
        ({"taus": (1.0, -3)}, r"got -3"),
        ({"ks": ()}, r"at least one k"),
        ({"taus": ()}, r"one tau"),
        ({"truth": [-1] * 60}, r"none of 60 queries has an exhibit"),
        ({"truth": [0] * 59}, r"\(59,\)"),
        ({"database_labels": [0] * 3}, r"3 database labels, but a neighbour has index"),
    ],
)
def test_what_cannot_be_tuned_is_refused(wrong: dict[str, object], said: str) -> None:
    database, labels, queries, truth = collection()
    arguments = {"database_labels": labels, "truth": truth, "ks": (1, 4), "taus": (1.0,)} | wrong
    with pytest.raises(ValueError, match=said):
        tune(search(database, queries, 4), **arguments)  # type: ignore[arg-type]


# ---- the whitened dimension ----


@pytest.mark.parametrize(
    ("n", "D", "expected"),
    [
        (397_121, 2048, (512,)),  # the published one
        (38_307, 512, (512,)),
        (397_121, 256, (256,)),
        (278, 256, (32, 64, 128, 192)),  # ends at three quarters of min(N, D)
        (278, 1280, (34, 69, 139, 208)),
        (4000, 2048, (256, 512)),
        (3, 8, (1, 2)),
        (2, 8, (1,)),
    ],
)
def test_candidates_end_at_three_quarters_of_a_small_database(n: int, D: int, expected: tuple[int, ...]) -> None:
    assert candidate_dims(n, D) == expected


def test_the_published_ks_are_cut_to_what_was_searched_and_no_others() -> None:
    rng = np.random.default_rng(5)
    database, labels = unit(rng.normal(size=(12, 6)).astype(np.float32)), np.arange(12) // 2
    neighbours = search(database, database, 12)
    tuned = tune(neighbours, labels, labels)
    assert tuned.ks == (1, 2, 3, 5, 7, 10) and tuned.gap_grid.shape == (6, len(TAUS))
    with pytest.raises(ValueError, match="from 1 to 12"):
        tune(neighbours, labels, labels, ks=(1, 15))
