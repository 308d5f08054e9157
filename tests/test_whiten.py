"""Whitening against an independent one by singular values, and against scikit-learn's PCA."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from metlib import whiten
from metlib.common.vectors import unit
from metlib.whiten import LearnedWhitening, PCAWhitening, decompose, disturbance


def descriptors(n: int, D: int, seed: int = 0, rank: int | None = None) -> NDArray[np.float32]:
    """Unit rows off the origin with a falling spectrum, as networks give them."""
    rng = np.random.default_rng(seed)
    r = rank or D
    rows = rng.normal(size=(n, r)) * 0.9 ** np.arange(r) @ rng.normal(size=(r, D)) + 2
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(
    database: NDArray[np.float32], queries: NDArray[np.float32], dim: int, shrinkage: float
) -> NDArray[np.float64]:
    """The definition by singular value decomposition, all in float64; signs of the columns are arbitrary."""
    base = database.astype(np.float64)
    mean = base.mean(axis=0)
    _, s, Vt = np.linalg.svd(base - mean, full_matrices=False)
    eigenvalues = s**2 / len(base)
    out = (queries - mean) @ Vt[:dim].T * eigenvalues[:dim] ** (-shrinkage / 2)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("n", "D", "dim"), [(200, 16, 16), (200, 16, 5), (20, 64, 10), (9000, 8, 4)])
def test_it_is_the_definition(n: int, D: int, dim: int, shrinkage: float) -> None:
    database, queries = descriptors(n, D), descriptors(30, D, seed=1)
    white = PCAWhitening(dim, shrinkage).fit(database).transform(queries)
    twin = naive(database, queries, dim, shrinkage)
    signs = np.sign((white * twin).sum(axis=0))
    np.testing.assert_allclose(white, twin * signs, atol=2e-4)
    np.testing.assert_allclose(white @ white.T, twin @ twin.T, atol=2e-4)  # what a search sees has no signs
    assert white.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_a_large_common_offset_costs_no_accuracy(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken about zero, second moments of rows at 100 would lose what float32 tells of a spread of 0.01."""
    monkeypatch.setattr(whiten, "_NUMBERS", 640)  # 40 rows at a time, the last block short
    rng = np.random.default_rng(0)
    database = (offset + 0.01 * rng.normal(size=(1030, 16)) * 0.7 ** np.arange(16)).astype(np.float32)
    database = database[np.argsort(database[:, 0])]  # the first block is far from the mean
    base = database.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(base.T, bias=True))
    spectrum = decompose(database)
    np.testing.assert_allclose(spectrum.mean, base.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(spectrum.values, values[::-1], rtol=1e-10)
    np.testing.assert_allclose(np.abs(vectors[:, ::-1].T @ spectrum.vectors), np.eye(16), atol=1e-8)


def test_several_whitenings_of_one_database_share_a_spectrum() -> None:
    database, queries = descriptors(200, 16), descriptors(30, 16, seed=1)
    spectrum = decompose(database)
    for dim, shrinkage in ((3, 1.0), (16, 0.5)):
        alone = PCAWhitening(dim, shrinkage).fit(database)
        shared = PCAWhitening(dim, shrinkage).fit_spectrum(spectrum)
        np.testing.assert_array_equal(shared.transform(queries), alone.transform(queries))
        assert shared.rank_ == spectrum.rank == 16
    with pytest.raises(ValueError, match=r"dim 17 .*rank 16 of these 200 x 16"):
        PCAWhitening(17).fit_spectrum(spectrum)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 2"):
        PCAWhitening(3, 2).fit_spectrum(spectrum)
    with pytest.raises(ValueError, match=r"16 dimensions has 16 values.*got \(15,\)"):
        replace(spectrum, values=spectrum.values[1:])
    with pytest.raises(ValueError, match=r"rank of 1 to 16, got .* 0"):
        replace(spectrum, rank=0)


def test_a_memory_map_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "rows.npy", descriptors(3000, 64))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    whole = PCAWhitening(8).fit(np.array(mapped)).transform(mapped)
    monkeypatch.setattr(whiten, "_NUMBERS", 6400)  # 100 rows at a time
    tracemalloc.start()
    white = PCAWhitening(8).fit(mapped).transform(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(white, whole, atol=1e-5)
    assert peak < 3000 * 64 * 4 / 1.5  # the output is an eighth of the input; a copy of the input is never made


def test_it_is_scikit_learns_pca_with_unit_rows() -> None:
    database, queries = descriptors(300, 24), descriptors(40, 24, seed=1)
    ours = PCAWhitening(10).fit(database).transform(queries)
    theirs = PCA(10, whiten=True, svd_solver="full").fit(database.astype(np.float64)).transform(queries)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=2e-4)


def test_before_the_last_normalisation_the_database_is_white() -> None:
    database = descriptors(500, 12)
    weight, bias = PCAWhitening(6).fit(database).as_linear()
    white = database.astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(6), atol=1e-3)


def test_as_linear_then_unit_is_transform() -> None:
    database, queries = descriptors(500, 12), descriptors(20, 12, seed=1)
    whitening = PCAWhitening(6, 0.5).fit(database)
    weight, bias = whitening.as_linear()
    assert (weight.shape, bias.shape, weight.dtype, bias.dtype) == ((6, 12), (6,), np.float32, np.float32)
    linear = queries @ weight.T + bias
    linear /= np.linalg.norm(linear, axis=1, keepdims=True)
    np.testing.assert_allclose(linear, whitening.transform(queries), atol=1e-4)


def test_the_spectrum_is_kept_whole_and_descending() -> None:
    database = descriptors(300, 16, rank=5)
    whitening = PCAWhitening(3).fit(database)
    expected = np.linalg.eigvalsh(np.cov(database.astype(np.float64).T, bias=True))[::-1]
    assert whitening.eigenvalues_.shape == (16,)
    np.testing.assert_allclose(whitening.eigenvalues_, expected, atol=1e-12)
    assert (np.diff(whitening.eigenvalues_) <= 0).all()
    assert (whitening.mean_.shape, whitening.components_.shape) == ((16,), (3, 16))


@pytest.mark.parametrize(("n", "D", "rank", "expected"), [(200, 32, 10, 11), (12, 32, 32, 11), (100, 8, 8, 8)])
def test_a_dimension_above_the_rank_is_refused_with_the_rank(n: int, D: int, rank: int, expected: int) -> None:
    database = descriptors(n, D, rank=rank)  # an offset and unit rows: one direction more than the factors
    assert PCAWhitening(expected).fit(database).rank_ == expected
    with pytest.raises(ValueError, match=rf"dim {expected + 1} .*rank {expected} .*at most {expected // 2}"):
        PCAWhitening(expected + 1).fit(database)


def test_channels_that_never_fire_lower_the_rank() -> None:
    database = descriptors(100, 8)
    database[:, 5] = 0
    assert PCAWhitening(2).fit(database).rank_ == 7


@pytest.mark.parametrize("database", [np.ones((1, 4)), np.ones((5, 4))])
def test_rows_that_are_all_alike_are_refused(database: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"rank 0: whitening needs at least two different rows"):
        PCAWhitening(1).fit(database)


@pytest.mark.parametrize("dim", [0, -1, 2.0, "8", None])
def test_a_dimension_that_is_no_positive_integer_is_refused(dim: object) -> None:
    with pytest.raises(ValueError, match=r"integer of at least 1, got"):
        PCAWhitening(dim).fit(descriptors(20, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, float("nan")])
def test_shrinkage_outside_its_range_is_refused(shrinkage: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got"):
        PCAWhitening(2, shrinkage).fit(descriptors(20, 4))


def test_bad_rows_are_refused_by_number() -> None:
    database = descriptors(20, 4)
    whitening = PCAWhitening(2).fit(database)
    bad = database.copy()
    bad[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"database descriptors: row 7 is NaN"):
        PCAWhitening(2).fit(bad)
    with pytest.raises(ValueError, match=r"row 7 is NaN"):
        whitening.transform(bad)
    with pytest.raises(ValueError, match=r"have 3 dimensions.*fitted on 4"):
        whitening.transform(database[:, :3])


def test_a_row_at_the_mean_has_no_direction_and_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whiten, "_NUMBERS", 6)  # two rows at a time
    database = np.array([[1, 0, 1], [1, 0, -1], [1, 1, 0], [1, -1, 0]], np.float32)
    whitening = PCAWhitening(2).fit(database)
    with pytest.raises(ValueError, match=r"row 3 is zero: it has no direction"):
        whitening.transform([[1, 2, 3], [2, 1, 0], [1, 1, 1], [1, 0, 0]])


def test_only_the_database_decides() -> None:
    database, queries = descriptors(100, 8), descriptors(10, 8, seed=1)
    whitening = PCAWhitening(4).fit(database)
    together = whitening.transform(queries)
    alone = np.vstack([whitening.transform(row[None]) for row in queries])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_database_decides_nothing(seed: int) -> None:
    database, queries = descriptors(60, 6), descriptors(10, 6, seed=1)
    shuffled = np.random.default_rng(seed).permutation(database)
    np.testing.assert_allclose(
        PCAWhitening(4).fit(shuffled).transform(queries),
        PCAWhitening(4).fit(database).transform(queries),  # signs are fixed, so columns agree too
        atol=1e-5,
    )


def test_a_transformer_of_scikit_learn() -> None:
    database = descriptors(50, 6)
    whitening = clone(PCAWhitening(dim=3, shrinkage=0.25))
    assert whitening.get_params() == {"dim": 3, "shrinkage": 0.25}
    np.testing.assert_array_equal(
        make_pipeline(whitening).fit_transform(database),
        PCAWhitening(3, 0.25).fit(database).transform(database),
    )
    assert PCAWhitening().get_params() == {"dim": 512, "shrinkage": 1.0}


def test_full_rank_is_a_trap_on_a_small_database() -> None:
    """Exhibits in few directions, photographed with noise in all: the last eigenvalues are that noise."""
    rng = np.random.default_rng(0)
    exhibits = rng.normal(size=(100, 8)) @ rng.normal(size=(8, 64)) + 3
    studio, visit = (exhibits + 0.3 * rng.normal(size=exhibits.shape) for _ in range(2))

    def accuracy(dim: int) -> float:
        whitening = PCAWhitening(dim).fit(studio)
        nearest = (whitening.transform(visit) @ whitening.transform(studio).T).argmax(axis=1)
        return float((nearest == np.arange(100)).mean())

    assert accuracy(8) > 0.95
    assert accuracy(64) < accuracy(8) - 0.2


def test_rounding_to_float32_is_no_rank() -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 32))
    assert PCAWhitening(5).fit(low).rank_ == 5
    assert PCAWhitening(5).fit(low * 1e-3 + 1.0).rank_ == 5  # concentrated, as raw descriptors are


# --- learned from pairs -----------------------------------------------------------------------------------------------


def naive_learned(X: NDArray[Any], a: NDArray[Any], b: NDArray[Any], dim: int, s: float) -> NDArray[np.float64]:
    """The definition, step by step: UᵀP(x - mean), L2-normalised, for the rows of X."""
    X, a, b = (np.asarray(rows, np.float64) for rows in (X, a, b))
    D = X.shape[1]
    W = sum(np.outer(one - two, one - two) for one, two in zip(a, b, strict=True)) / len(a)
    W = (1 - s) * W + s * np.trace(W) / D * np.eye(D)
    P = np.linalg.inv(sqrtm(W)).real
    mean = X.mean(axis=0)
    spread = np.stack([P @ (x - mean) for x in X])
    values, vectors = np.linalg.eigh(np.cov(spread.T, bias=True))
    white = spread @ vectors[:, np.argsort(-values)[:dim]]
    return white / np.linalg.norm(white, axis=1, keepdims=True)


def pairs_of(n: int = 400, D: int = 10, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    X = unit((rng.normal(size=(n, D)) * np.linspace(3, 0.5, D) + 0.4).astype(np.float32))
    return X, X, unit(X + (0.2 * rng.normal(size=X.shape) * np.linspace(0.2, 2, D)).astype(np.float32))


@pytest.mark.parametrize(("dim", "shrinkage"), [(10, 0.1), (4, 0.1), (4, 0.0), (3, 1.0)])
def test_learned_whitening_is_the_definition(dim: int, shrinkage: float) -> None:
    X, a, b = pairs_of()
    fitted = LearnedWhitening(dim, shrinkage).fit(X, a, b)
    white, twin = fitted.transform(X), naive_learned(X, a, b, dim, shrinkage)
    signs = np.sign((white * twin).sum(axis=0))
    np.testing.assert_allclose(white, twin * signs, atol=2e-5)
    assert fitted.components_.shape == (dim, 10) and (np.diff(fitted.eigenvalues_) <= 1e-12).all()
    largest = np.abs(fitted.components_).argmax(axis=1)
    assert (fitted.components_[np.arange(dim), largest] > 0).all()


def test_isotropic_disturbance_gives_pca() -> None:
    X, a, _ = pairs_of()
    eye = np.eye(10, dtype=np.float32)
    b = a[:10] + 0.1 * eye  # one step along every axis: W is a multiple of the identity
    learned = LearnedWhitening(6, 0.0).fit(X, a[:10], b).transform(X)
    np.testing.assert_allclose(learned, PCAWhitening(6, 0.0).fit(X).transform(X), atol=2e-5)


def test_a_direction_that_only_visits_disturb_is_damped() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(500, 4)).astype(np.float32)
    b = X + 0.1 * rng.normal(size=X.shape).astype(np.float32)
    b[:, 2] += 5 * rng.normal(size=500)
    fitted = LearnedWhitening(4, 0.01).fit(X, X, b)
    assert np.linalg.norm(fitted.components_[:, 2]) < 0.2 * np.linalg.norm(fitted.components_[:, 0])


def test_leading_dimensions_are_the_smaller_whitening() -> None:
    X, a, b = pairs_of()
    for make in (lambda dim: PCAWhitening(dim).fit(X), lambda dim: LearnedWhitening(dim).fit(X, a, b)):
        wide, small = make(8), make(3)
        kept = wide.leading(3)
        np.testing.assert_allclose(kept.components_, small.components_)
        assert kept.dim == 3 and wide.dim == 8 and wide.components_.shape == (8, 10)
        np.testing.assert_allclose(kept.transform(X), unit(wide.transform(X)[:, :3]), atol=1e-6)


def test_pairs_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, a, b = pairs_of(301)
    whole = disturbance(a, b)
    monkeypatch.setattr("metlib.whiten._NUMBERS", 90)
    np.testing.assert_allclose(disturbance(a, b), whole, rtol=1e-10)
    np.testing.assert_allclose(whole, (a - b).astype(np.float64).T @ (a - b) / 301, rtol=1e-4, atol=1e-8)
    assert np.array_equal(whole, whole.T)


def test_few_pairs_do_with_shrinkage() -> None:
    X, a, b = pairs_of()
    white = LearnedWhitening(5, 0.1).fit(X, a[:3], b[:3]).transform(X)
    assert np.isfinite(white).all()


def test_what_cannot_be_learned_is_refused_by_name() -> None:
    X, a, b = pairs_of()
    spoilt = b.copy()
    spoilt[7, 0] = np.nan
    cases: list[tuple[Any, tuple[Any, Any, Any], str]] = [
        (LearnedWhitening(5, 0.0), (X, a[:9], b[:9]), r"9 pairs leave directions of 10 .*W is singular; raise"),
        (LearnedWhitening(5), (X, a, a), "all 400 pairs are of equal descriptors"),
        (LearnedWhitening(5), (X, a, b[:-1]), r"a has shape \(400, 10\), b \(399, 10\)"),
        (LearnedWhitening(5), (X, a, spoilt), "descriptors b.*row 7"),
        (LearnedWhitening(5), (X, a[:, :9], b[:, :9]), "the pairs have 9 dimensions, the database 10"),
        (LearnedWhitening(5), (X[:1], a[:1], b[:1]), "rank 0: whitening needs at least two different rows"),
        (LearnedWhitening(11), (X, a, b), "dim 11 is above the rank 10"),
        (LearnedWhitening(0), (X, a, b), "dim must be an integer of at least 1"),
        (LearnedWhitening(5, -0.1), (X, a, b), "shrinkage must lie in"),
    ]
    for whitening, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            whitening.fit(*arguments)


def test_it_is_a_scikit_learn_transformer() -> None:
    assert clone(LearnedWhitening(7, 0.3)).get_params() == {"dim": 7, "shrinkage": 0.3}
    with pytest.raises(NotFittedError):
        LearnedWhitening(7).transform(np.eye(7))
