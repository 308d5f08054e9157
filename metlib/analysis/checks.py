"""Score checks: how scores differ for one network by the scored split, ties, database size and number of queries.

Each function measures one such difference; `gain` measures what another network adds. Scores and widths are fractions;
only `multiples` reads percentages, as they are printed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray

from metlib import metrics
from metlib.common.vectors import as_rows
from metlib.knn import Neighbours, Predictions, classify, log_confidences, search
from metlib.tune import KS, TAUS, Tuning, fitting, tune


def multiples(values: Iterable[float], n: int, *, decimals: int = 2) -> pd.DataFrame:
    """Check for every percentage whether it is m / n as printed with `decimals`, as a share of n queries must be.

    Columns: `value`; `m` and `multiple`, the nearest count and its percentage; `distance` in percentage points;
    `rounded` and `cut`, whether some m / n becomes the value by rounding (a half either way), or by leaving the further
    decimals off; `passes`, one of the two; `chance`, the share of all percentages of so many decimals that pass.
    For n = 129 and two decimals chance is 1.94 %; with one decimal and n = 1,003 every percentage passes, and the check
    decides nothing. Raises ValueError for values outside 0 to 100, or printed with more decimals.
    """
    if n < 1 or not 0 <= decimals <= 6:
        raise ValueError(f"n {n} and decimals {decimals}: expected n of at least 1, and 0 to 6 decimals")
    given = np.array(list(values), np.float64)
    whole = 100 * 10**decimals  # percentages as whole numbers of the last decimal: all that follows is exact
    printed = np.rint(given * 10**decimals)
    if not ((printed >= 0) & (printed <= whole)).all() or (np.abs(printed / 10**decimals - given) > 1e-9).any():
        raise ValueError(f"values must be percentages from 0 to 100 with {decimals} decimals, got {given.tolist()}")
    m, rounded, cut = _nearest_multiple(printed.astype(np.int64), n, whole)
    _, *either = _nearest_multiple(np.arange(whole + 1), n, whole)
    nearest = {"value": given, "m": m, "multiple": 100 * m / n, "distance": np.abs(100 * m / n - given)}
    passed = {"rounded": rounded, "cut": cut, "passes": rounded | cut, "chance": np.logical_or(*either).mean()}
    return pd.DataFrame(nearest | passed)


def _nearest_multiple(printed: NDArray[np.int64], n: int, whole: int) -> tuple[NDArray[Any], ...]:
    """The nearest m of each, whether m / n of `whole` rounds to it, and whether some m / n is cut to it."""
    m = (2 * printed * n + whole) // (2 * whole)
    above = -(-printed * n // whole)  # the first m / n that isn't below
    return m, 2 * np.abs(m * whole - printed * n) <= n, above * whole < (printed + 1) * n


def tuned_on_scored(
    neighbours_val: Neighbours,
    val_truth: ArrayLike,
    neighbours_test: Neighbours,
    test_truth: ArrayLike,
    database_labels: ArrayLike,
    ks: Sequence[int] = KS,
    taus: Sequence[float] = TAUS,
    *,
    draws: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure GAP with k and tau tuned on other queries against k and tau tuned on the scored ones themselves.

    Columns: `scored`, `tuned_on`, `draw`, `k`, `tau`, `gap`. Test is scored with val's k and tau, and with its own
    ("itself"). Val is halved at random `draws` times, positives and distractors apart, and each half is scored with
    the k and tau of "the other half", and with its own. Truth (Q,) with -1 for distractors. Raises ValueError for a
    val of less than two queries with an exhibit, and as `tune.tune` does.
    """
    ks = fitting(KS, min(neighbours_val.k, neighbours_test.k)) if ks is KS else ks
    truth = np.asarray(val_truth)
    if (truth != metrics.DISTRACTOR).sum() < 2:
        raise ValueError("val needs two queries that show an exhibit, or one of its halves has none")

    def tuned(near: Neighbours, truth: NDArray[Any], rows: Any = slice(None)) -> Tuning:
        return tune(Neighbours(near.similarities[rows], near.indices[rows]), database_labels, truth[rows], ks, taus)

    def row(scored: str, on: Tuning, tuned_on: str, by: Tuning, draw: int) -> dict[str, Any]:
        gap = on.gap_grid[by.ks.index(by.k), by.taus.index(by.tau)]
        return {"scored": scored, "tuned_on": tuned_on, "draw": draw, "k": by.k, "tau": by.tau, "gap": gap}

    val, test = tuned(neighbours_val, truth), tuned(neighbours_test, np.asarray(test_truth))
    rows = [row("test", test, "val", val, 0), row("test", test, "itself", test, 0)]
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        first = _half(truth, rng)
        halves = [tuned(neighbours_val, truth, half) for half in (first, ~first)]
        for half, other in (halves, halves[::-1]):
            rows.append(row("half of val", half, "the other half", other, draw))
            rows.append(row("half of val", half, "itself", half, draw))
    return pd.DataFrame(rows)


def _half(truth: NDArray[Any], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask (Q,) of half of the queries that show an exhibit, and half of the distractors."""
    mask = np.zeros(len(truth), bool)
    for kind in (truth != metrics.DISTRACTOR, truth == metrics.DISTRACTOR):
        rows = rng.permutation(np.flatnonzero(kind))
        mask[rows[: len(rows) // 2]] = True
    return mask


def ties(
    neighbours: Neighbours,
    labels: ArrayLike,
    truth: ArrayLike,
    k: int,
    taus: Sequence[float] = TAUS,
    *,
    dtype: DTypeLike = np.float64,
) -> pd.DataFrame:
    """Measure what ties at saturated confidence are worth: GAP from three rankings of the same answers, by tau.

    `saturated` is the share of queries whose probability, in `dtype` (float32 or float64), is exactly 1. `file_order`
    leaves ties of that probability in the order of the file, as the published evaluation does: a truth that lists
    exhibits first then gains by every tie. `blocks` counts ties as one block, `logs` ranks by the logarithm, which
    doesn't saturate. `labels` (N,) of the database, `truth` (Q,). Errors as of `knn.classify` and `metrics.gap`.
    """
    predicted = classify(neighbours, labels, k, taus[0]).labels  # the same for every tau
    rows = []
    for tau, logs in zip(taus, log_confidences(neighbours, labels, (k,), taus)[0], strict=True):
        plain = np.exp(logs).astype(dtype)
        place = np.argsort(np.argsort(-plain, kind="stable"))
        gaps = [metrics.gap(predicted, ranking, truth) for ranking in (-place, plain, logs)]
        rows.append([tau, (plain == 1).mean(), *gaps])
    return pd.DataFrame(rows, columns=["tau", "saturated", "file_order", "blocks", "logs"])


def database_size(
    database: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    truth: ArrayLike,
    *,
    exhibits: Sequence[int] | None = None,
    k: int,
    tau: float,
    draws: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the same queries against smaller databases: those exhibits that they show, and others drawn at random.

    `database` (N, D) and `queries` (Q, D) as they are searched (whitened, say): nothing is learned anew. `exhibits`
    are the numbers of exhibits to try, by default six from those that the queries show to all, by equal ratios. An
    exhibit comes with all its images; a database of fewer than k images is searched for as many as it has.
    Columns: `exhibits`, `images`, `draw`, `gap`, `gap_minus`, `acc`; the whole database is scored once.
    Raises ValueError for a size below the exhibits shown or above those there are, and as `knn.search` does.
    """
    rows, asked, labels = as_rows(database, "database descriptors"), np.asarray(truth), np.asarray(labels)
    if labels.shape != (len(rows),):
        raise ValueError(f"{len(rows)} database descriptors need as many labels, got shape {labels.shape}")
    all_exhibits = np.unique(labels)
    shown = np.intersect1d(all_exhibits, asked)
    others = np.setdiff1d(all_exhibits, shown)
    least, most = len(shown), len(all_exhibits)
    if exhibits is None:
        exhibits = sorted({round(size) for size in np.geomspace(max(least, 1), most, 6)})
    for size in exhibits:
        if not max(least, 1) <= size <= most:
            raise ValueError(f"{size} exhibits: the queries show {least} of {most}, ask for a number between them")
    rng = np.random.default_rng(seed)
    found = []
    for size in exhibits:
        for draw in range(draws if least < size < most else 1):
            kept = np.isin(labels, np.append(shown, rng.choice(others, size - least, replace=False)))
            nearest = min(k, int(kept.sum()))
            answers = classify(search(rows[kept], queries, nearest), labels[kept], nearest, tau)
            scores = metrics.evaluate(answers.labels, answers.log_confidence, asked)
            found.append({"exhibits": size, "images": int(kept.sum()), "draw": draw} | vars(scores))
    return pd.DataFrame(found)


def interval_widths(
    predicted: ArrayLike,
    confidence: ArrayLike,
    truth: ArrayLike,
    positives: Sequence[int] = (129, 1003),
    n_resamples: int = 1000,
    *,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how wide 95 % intervals are on query sets with so many positives (the Met's val and test by default).

    Each set is drawn with replacement from the answers at hand, positives and distractors in the proportion they have;
    its intervals are `metrics.bootstrap`'s, and the widths, fractions, the means over `draws` such sets.
    Columns: `positives`, `queries`, `gap`, `gap_minus`, `acc`. Widths shrink with the root of the number of queries.
    """
    predicted, confidence, truth = np.asarray(predicted), np.asarray(confidence), np.asarray(truth)
    shown, strange = np.flatnonzero(truth != metrics.DISTRACTOR), np.flatnonzero(truth == metrics.DISTRACTOR)
    if not len(shown) or min(positives, default=0) < 1 or draws < 1:
        raise ValueError(
            f"{len(shown)} queries show an exhibit, sets of {list(positives)}, {draws} draws: need one of each at least"
        )
    rng = np.random.default_rng(seed)
    found = []
    for m in positives:
        widths = []
        strangers = round(m * len(strange) / len(shown))
        for draw in range(draws):
            others = rng.choice(strange, strangers)
            rows = np.concatenate([rng.choice(shown, m), others])
            low, high = metrics.bootstrap(predicted[rows], confidence[rows], truth[rows], n_resamples, seed=draw)
            widths.append({name: vars(high)[name] - vars(low)[name] for name in vars(low)})
        found.append({"positives": m, "queries": m + strangers} | pd.DataFrame(widths).mean().to_dict())
    return pd.DataFrame(found)


def gain(
    before: Predictions, after: Predictions, truth: ArrayLike, n_resamples: int = 1000, *, seed: int = 0
) -> dict[str, float]:
    """Measure what one way to answer gains over another on the same queries, with paired 95 % intervals.

    Both are scored on the same resamples, so the interval is narrower than those of the two scores suggest. One that
    holds 0 says that these queries don't distinguish the two. It covers the draw of queries, not of training seeds.
    Keys, in fractions: `gap`, `gap_low`, `gap_high`, likewise `gap_minus`, `acc`. Errors as of `metrics.gap`.
    """
    runs = (before, after)
    first, second = (vars(metrics.evaluate(run.labels, run.log_confidence, truth)) for run in runs)
    old, new = (metrics.resample(run.labels, run.log_confidence, truth, n_resamples, seed) for run in runs)
    lows, highs = np.quantile(new - old, (0.025, 0.975), axis=0)
    row: dict[str, float] = {}
    for name, low, high in zip(first, lows, highs, strict=True):
        row |= {name: second[name] - first[name], f"{name}_low": float(low), f"{name}_high": float(high)}
    return row
