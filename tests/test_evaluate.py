"""The protocol against a naive twin of it, and the command line from files to scores."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib import dataset, descriptors, evaluate, metrics, tune
from metlib.analysis import results
from metlib.cli import main
from metlib.common.files import sha256
from metlib.dataset import Museum, Split
from metlib.descriptors import Described, Visits, write_official
from metlib.evaluate import RELEASED_TOOL, Evaluation, choose, format_evaluation, measure, score
from metlib.knn import search
from metlib.whiten import LearnedWhitening, PCAWhitening, decompose

N, D, EXHIBITS = 90, 12, 45


def described_of(root: Path = Path("no/such/folder"), kind: str = "full", noise: float = 0.9, n: int = N) -> Described:
    """Two database images an exhibit, queries near them, and distractors anywhere; mini is the beginning of full."""
    generator = np.random.default_rng(5)
    spread = np.linspace(3, 0.3, D)  # so that whitening changes something
    centres = generator.normal(size=(EXHIBITS, D)) * spread
    labels = np.repeat(np.arange(EXHIBITS), N // EXHIBITS)[:n]
    truth = {"val": np.resize([0, 3, -1, 7, 11, -1], 30), "test": np.resize([2, -1, 5, -1, 21, 9, 30], 42)}

    def near(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.where(ids[:, None] < 0, generator.normal(size=(len(ids), D)) * spread, centres[ids])
        rows = rows + noise * generator.normal(size=rows.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    splits = {"database": labels, **truth}
    museum = Museum(
        **{
            name: Split(np.array([f"{name}/{i}.jpg" for i in range(len(ids))]), ids, root)
            for name, ids in splits.items()
        },
        root=root,
        name=root.name,
        kind=kind,
    )
    return Described(museum, *(near(ids) for ids in splits.values()))


@pytest.fixture
def described() -> Described:
    return described_of()


def unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive(described: Described, dim: int | None) -> dict[str, Any]:
    """The protocol as the paper tells it, one query and one cell at a time, in float64."""
    rows = {name: getattr(described, name).astype(np.float64) for _, name in described.museum.splits()}
    if dim is not None:
        mean = rows["database"].mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(rows["database"].T, bias=True))
        projection = vectors[:, ::-1][:, :dim] / np.sqrt(values[::-1][:dim])
        rows = {name: unit((raw - mean) @ projection) for name, raw in rows.items()}
    labels = described.museum.database.labels

    def answer(split: str, k: int, tau: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        found = []
        for query in rows[split]:
            similarities = rows["database"] @ query
            best: dict[int, float] = {}
            for i in np.argsort(-similarities)[:k]:
                best[labels[i]] = max(best.get(labels[i], 0.0), similarities[i])
            winner = max(best, key=lambda label: best[label])
            top = best.pop(winner)
            rest = [*best.values(), *[0.0] * (len(np.unique(labels)) - 1 - len(best))]  # all other classes
            found.append((winner, -np.log1p(sum(np.exp(tau * (s - top)) for s in rest))))
        return np.array([label for label, _ in found]), np.array([log for _, log in found])

    cells = {}
    for k in (k for k in tune.KS if k <= len(labels)):
        for tau in tune.TAUS:
            cells[k, tau] = metrics.gap(*answer("val", k, tau), described.museum.val.labels)
    k, tau = min(cells, key=lambda cell: (-round(cells[cell], 9), cell))
    scores = {
        split: metrics.evaluate(*answer(split, k, tau), truth.labels)
        for truth, split in described.museum.splits()
        if split != "database"
    }
    return {"k": k, "tau": tau, "cells": cells} | scores


@pytest.mark.slow
@pytest.mark.parametrize("dim", [None, 6, D])
def test_the_protocol_is_the_naive_one(dim: int | None, described: Described) -> None:
    run = measure(described, whitening="none" if dim is None else "pca", dim=dim)
    twin = naive(described, dim)
    grid = np.array(list(twin["cells"].values())).reshape(run.tuning.gap_grid.shape)
    np.testing.assert_allclose(run.tuning.gap_grid, grid, atol=1e-9)
    assert (run.tuning.k, run.tuning.tau) == (twin["k"], twin["tau"])
    assert (run.dim, run.raw_dim, run.dims) == (dim, D, None)
    for split, row in (("val", run.val), ("test", run.test)):
        assert [row[name] for name in ("gap", "gap_minus", "acc")] == pytest.approx(
            [twin[split].gap, twin[split].gap_minus, twin[split].acc], abs=1e-9
        )
        assert row["gap_low"] <= row["gap"] <= row["gap_high"]
        assert len(run.answers[split]) == len(run.neighbours[split].indices) == row["queries"]
    assert run.val["gap"] == pytest.approx(run.tuning.gap) and run.tuned_on_val
    assert run.neighbours["test"].k == 50 and list(run.seconds) == ["choose", "score"]
    assert 0.2 < run.test["gap"] < 0.99  # neither broken nor trivial


@pytest.mark.slow
def test_auto_is_the_published_dimension_or_the_best_on_val(described: Described) -> None:
    museum = described.museum
    run = measure(described)  # 90 images of 12 dimensions are fewer than ten each
    assert (
        run.dims is not None and run.dims.dims == tune.candidate_dims(N, D) == (1, 3, 6, 9) and run.dim == run.dims.dim
    )
    for dim, gap in zip(run.dims.dims, run.dims.gaps, strict=True):  # every candidate is a whitening of its own
        whitening = PCAWhitening(dim).fit(described.database)
        near = search(whitening.transform(described.database), whitening.transform(described.val), 50)
        assert gap == tune.tune(near, museum.database.labels, museum.val.labels).gap
    assert run.dim == run.dims.dims[int(np.argmax(run.dims.gaps))] and len(set(run.dims.gaps)) > 1
    assert run.val == measure(described, dim=run.dims.dim).val
    few = Described(museum, *(unit(getattr(described, name)[:, :9]).astype(np.float32) for _, name in museum.splits()))
    assert (measure(few).dim, measure(few).dims) == (9, None)  # 90 images are ten each
    dead = {name: np.pad(getattr(few, name)[:, :6], ((0, 0), (0, 3))) for _, name in museum.splits()}
    assert measure(Described(museum, **dead)).dim == 6  # three channels never fire
    assert measure(few, shrinkage=0).shrinkage == 0


def test_the_smallest_of_equal_dimensions_is_chosen(described: Described) -> None:
    sure = described_of(noise=0.001)
    choice = choose(sure)
    assert choice.dims is not None and choice.dims.gaps[1:] == (1.0,) * 3 and choice.dim == choice.dims.dims[1]


@pytest.mark.parametrize("given", [False, True])
def test_nothing_is_decomposed_or_searched_twice(
    given: bool, described: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    spectrum = decompose(described.database) if given else None
    calls, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda *given, **named: calls.append("eigh") or eigh(*given, **named))
    monkeypatch.setattr(evaluate, "search", lambda *given, **named: calls.append("search") or search(*given, **named))
    choice = choose(described, spectrum=spectrum)
    assert sorted(calls) == ["eigh"] * (not given) + ["search"] * 4  # a search of val for each dimension
    score(choice, described, "val")
    assert calls.count("search") == 4
    score(choice, described)
    assert calls.count("search") == 5


@pytest.mark.slow
def test_a_choice_and_a_score_are_the_parts_of_a_measurement(described: Described) -> None:
    run, choice = measure(described, seed=3), choose(described)
    assert (choice.dim, choice.tuning.k, choice.tuning.tau) == (run.dim, run.tuning.k, run.tuning.tau)
    for split, row in (("val", run.val), ("test", run.test)):
        scored = score(choice, described, split)
        assert scored.summary(3) == row and scored.scores.gap == row["gap"]
        assert np.array_equal(scored.answers.labels, run.answers[split].labels)
    raw = choose(described, whitening="none")
    assert (
        raw.whitening is None and raw.database is described.database and raw.transform(described.test) is described.test
    )
    with pytest.raises(ValueError, match="split 'database': expected 'val' or 'test'"):
        score(choice, described, "database")


@pytest.mark.slow
def test_val_chooses_only_what_is_not_given(described: Described) -> None:
    alone = measure(described, dim=6, k=1)
    assert alone.tuning.ks == (1,) and alone.tuning.taus == tune.TAUS and alone.neighbours["test"].k == 1
    given = measure(described, dim=6, k=5, tau=20)
    assert given.tuning.gap_grid.shape == (1, 1) and (given.tuning.k, given.tuning.tau) == (5, 20)
    assert not given.tuned_on_val and "val (tuned on these)" not in format_evaluation(given, described.museum)
    assert measure(described, k=5, tau=20).tuned_on_val  # val chose the dimension
    assert measure(described, dim=6, tau=20).tuning.taus == (20,)
    assert measure(described, dim=6, ks=(1, 7), taus=(3.0,)).tuning.ks == (1, 7)
    assert measure(described_of(n=30), whitening="none").tuning.ks[-1] == 20  # 50 exceeds the database


@pytest.mark.slow
def test_test_queries_choose_nothing(described: Described) -> None:
    changed = Described(described.museum, described.database, described.val, described.test[::-1].copy())
    one, other = measure(described), measure(changed)
    assert np.array_equal(one.tuning.gap_grid, other.tuning.gap_grid) and one.dim == other.dim
    assert one.val == other.val and one.test != other.test


@pytest.mark.slow
def test_intervals_are_drawn_by_the_seed(described: Described) -> None:
    assert measure(described).test == measure(described).test
    one, other = measure(described), measure(described, seed=1)
    assert one.test["gap"] == other.test["gap"] and one.test["gap_low"] != other.test["gap_low"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whitening": "raw"}, "whitening must be one of auto, learned, pca, none, got 'raw'"),
        ({"whitening": "none", "dim": 6}, "whitening 'none' has no dimension and no shrinkage"),
        ({"whitening": "learned"}, r"needs simulated visits, .* have none.*visits=3.*take whitening 'pca'"),
        ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
        ({"dim": 13}, "dim 13 is above the rank 12"),
        ({"dim": 6, "shrinkage": 2}, r"shrinkage must lie in \[0, 1\], got 2"),
        ({"k": 91}, "k must be an integer from 1 to the 90 images"),
        ({"k": 0}, "k must be"),
        ({"tau": 0.0}, "tau must be a positive number"),
        ({"tau": float("nan")}, "tau must be a positive number"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str, described: Described) -> None:
    with pytest.raises(ValueError, match=message):
        measure(described, **options)


@pytest.mark.slow
def test_an_evaluation_is_checked_and_written_as_json(described: Described) -> None:
    run = measure(described)
    with pytest.raises(ValueError, match="test: 30 answers, but scores of 42 queries"):
        replace(run, answers={name: run.answers["val"] for name in ("val", "test")})
    read = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert read["val"] == run.val | {"tuned_on": "the same queries"} and read["test"] == run.test | {"tuned_on": "val"}
    assert (read["k"], read["tau"], read["dim"]) == (run.tuning.k, run.tuning.tau, run.dim)
    assert read["tuning"]["gap_grid"] == run.tuning.gap_grid.tolist() and read["seconds"] == run.seconds
    assert run.dims is not None and read["dims"]["tried"] == list(run.dims.dims)
    given = measure(described, whitening="none", k=1, tau=1).to_json()
    assert given["dims"] is None and given["val"]["tuned_on"] == given["test"]["tuned_on"] == "nothing"


# --- the command line -----------------------------------------------------------------------------------------------


def write_truth(museum: Museum) -> None:
    """Write ground truth alone: the museum has no images."""
    truth = museum.root / "ground_truth"
    truth.mkdir(parents=True, exist_ok=True)
    for split, name in museum.splits():
        key, file = ("id", dataset.DATABASES[museum.kind]) if name == "database" else ("MET_id", dataset.QUERIES[name])
        rows = zip(split.paths, split.labels, strict=True)
        read = [{"path": str(path)} | ({key: int(label)} if label >= 0 else {}) for path, label in rows]
        (truth / file).write_text(json.dumps(read), encoding="utf-8")


@pytest.fixture
def ours(tmp_path: Path) -> Described:
    """Descriptors of a museum whose full and mini ground truth lie on disk."""
    mini = described_of(tmp_path / "ours", "mini", n=60)
    write_truth(mini.museum)
    full = described_of(tmp_path / "ours")
    write_truth(full.museum)
    return full


def leave(folder: Path, described: Described) -> Path:
    """Write a folder as `extract.describe` leaves it."""
    for split, name in described.museum.splits():
        path = folder / f"{name}-{split.sha256[:8]}"
        path.mkdir(parents=True)
        np.save(path / "descriptors.npy", getattr(described, name))
        recipe = {"backbone": "tiny", "weights_sha256": "ab" * 32, "scales": [1.0], "network": {}, "skipped": []}
        (path / "recipe.json").write_text(json.dumps(recipe | {"images_sha256": split.sha256}))
    return folder


def call(*words: str | Path) -> int:
    return main(["evaluate", *map(str, words)])


def scores_in(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_pickle_is_scored_as_what_went_into_it(
    ours: Described, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_official(tmp_path / "descriptors.pkl", ours)
    assert call(path, "--ground-truth", ours.museum.root) == 0
    out, err = capsys.readouterr()
    run = measure(ours)
    assert run.dims is not None and not err
    read = scores_in(tmp_path / "descriptors.scores.json")
    wanted = json.loads(json.dumps(run.to_json()))
    assert {key: read[key] for key in wanted if key != "seconds"} == {k: v for k, v in wanted.items() if k != "seconds"}
    assert list(read["seconds"]) == ["read", "choose", "score"]
    assert (read["museum"], read["database"], read["images"]) == ("ours", "full", N)
    assert read["made_by"] == {"weights": sha256(path)}
    lines = out.splitlines()
    assert lines[0] == "ours, full database: 90 images of 45 exhibits; 30 val and 42 test queries"
    assert lines[1].startswith(
        f"descriptors of 12 dimensions, whitened to {run.dim} (PCA of the database, shrinkage 1), best"
    )
    assert lines[2] == f"k = {run.tuning.k}, tau = {run.tuning.tau:g}, best on val of 108 cells"
    assert lines[4].split() == ["GAP", "GAP⁻", "ACC"]
    for line, title, row in ((lines[5], "val (tuned on these)", run.val), (lines[6], "test", run.test)):
        assert line.startswith(title) and all(text in line for text in metrics.as_text(row).values())
    assert "seconds: read " in out and RELEASED_TOOL in out
    assert lines[-1] == f"scores are in {tmp_path / 'descriptors.scores.json'}"


def test_the_difference_to_the_released_tool_is_where_a_reader_meets_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    help_text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for text in (help_text, " ".join((evaluate.__doc__ or "").split())):
        assert RELEASED_TOOL in text and "--k 1 --whitening pca --dim 512 does as their tool" in text.replace("`", "")


@pytest.mark.slow
def test_k_1_tunes_tau_alone(ours: Described, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_official(tmp_path / "x.pkl", ours)
    given = ("--ground-truth", ours.museum.root, "--dim", "6", "--k", "1", "--json", tmp_path / "new" / "s.json")
    assert call(path, *given) == 0
    read = scores_in(tmp_path / "new" / "s.json")
    assert read["tuning"]["ks"] == [1] and len(read["tuning"]["taus"]) == 12 and read["k"] == 1
    assert (read["dim"], read["dims"]) == (6, None)
    assert "best on val of 12 cells" in capsys.readouterr().out
    given = tuple(word for word in given if word not in ("--dim", "6"))
    assert call(path, *given, "--tau", "20", "--whitening", "none", "--seed", "3") == 0
    read = scores_in(tmp_path / "new" / "s.json")
    assert (read["k"], read["tau"], read["dim"], read["seed"]) == (1, 20, None, 3)
    assert "12 dimensions, not whitened\nk = 1, tau = 20, given" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_and_several_sets(ours: Described, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = leave(tmp_path / "work" / "scales-1-0.5", ours)
    other = replace(ours, **{name: getattr(ours, name)[:, ::2].copy() for _, name in ours.museum.splits()})
    pickled = write_official(tmp_path / "other.pkl", other)
    assert call(folder, "--ground-truth", ours.museum.root) == 0
    read = scores_in(tmp_path / "work" / "scales-1-0.5.scores.json")
    assert read["made_by"] == {"backbone": "tiny", "weights": "ab" * 32, "scales": [1.0], "network": {}}
    assert read["test"]["gap"] == measure(ours).test["gap"]
    assert call(folder, pickled, "--ground-truth", ours.museum.root, "--dim", "12") == 0
    read = scores_in(tmp_path / "work" / "scales-1-0.5+other.scores.json")
    joined = descriptors.concatenate([ours, descriptors.from_official(pickled, ours.museum)])
    assert (read["raw_dim"], read["made_by"]) == (18, {"weights": f"{'ab' * 32}+{sha256(pickled)}"})
    assert read["test"]["gap"] == measure(joined, dim=12).test["gap"]


@pytest.mark.slow
def test_rows_go_to_the_results_table(ours: Described, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_official(tmp_path / "x.pkl", ours)
    csv = tmp_path / "results.csv"
    options = (path, "--ground-truth", ours.museum.root, "--results", csv)
    assert call(*options) == 2 and "needs its --name" in capsys.readouterr().err and not csv.exists()
    assert call(*options, "--name", "theirs") == 0
    table = results.read(csv)
    run = measure(ours)
    assert sorted(table["split"]) == ["test", "val"] and set(table["network"]) == {"theirs"}
    row = table[table["split"] == "test"].iloc[0]
    assert row["gap"] == pytest.approx(100 * run.test["gap"], abs=0.005) and row["k"] == run.tuning.k
    assert call(leave(tmp_path / "f", ours), *options[1:]) == 0
    assert set(results.read(csv)["network"]) == {"theirs", "tiny"}


def bad_inputs(ours: Described, tmp_path: Path) -> dict[str, tuple[list[str | Path], str]]:
    """Each with what the one line on stderr says."""
    museum = ours.museum
    good = write_official(tmp_path / "good.pkl", ours)
    arrays = descriptors.read_official(good)
    rows = {key: array.copy() for key, array in arrays.items()}
    rows["val_descriptors"][3, 2] = np.nan
    files: dict[str, Any] = {
        "nan": rows,
        "queries": {key: array for key, array in arrays.items() if key != "train_descriptors"},
        "short": arrays | {"test_descriptors": arrays["test_descriptors"][1:]},
        "objects": {"train_descriptors": Runs(f"touch {tmp_path / 'ran'}")},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
    (tmp_path / "empty").mkdir()
    part = museum.database.take(range(80))
    fewer = Described(replace(museum, database=part), ours.database[:80], ours.val, ours.test)
    skipping = leave(tmp_path / "fewer", ours)
    for file in skipping.glob("database-*/recipe.json"):
        skipped = json.loads(file.read_text()) | {"skipped": [str(path) for path in museum.database.paths[80:]]}
        file.write_text(json.dumps(skipped))
        np.save(file.parent / "descriptors.npy", fewer.database)
    truth: list[str | Path] = ["--ground-truth", museum.root]
    return {
        "NaN rows": ([tmp_path / "nan.pkl", *truth], "val_descriptors: row 3 is NaN"),
        "missing keys": ([tmp_path / "queries.pkl", *truth], "has no train_descriptors"),
        "row counts": ([tmp_path / "short.pkl", *truth], "test_descriptors has 41 rows, but the ground truth of ours"),
        "the other database": ([good, *truth, "--database", "mini"], "has 90 rows, but the ground truth of ours lists "
                               "60 database images (mini database); the full database has 90: ask for 'full'"),
        "a malicious pickle": ([tmp_path / "objects.pkl", *truth], "only numpy arrays are admitted"),
        "no file": ([tmp_path / "none.pkl", *truth], "none.pkl: expected the authors' descriptors.pkl, or a folder"),
        "an unknown folder": ([tmp_path / "empty", *truth], "it holds no folder"),
        "other images": ([good, skipping, *truth], "1 and 2 list different images: database row 80"),
        "no museum": ([good, "--ground-truth", tmp_path / "nowhere"], "no folder"),
        "above the rank": ([good, *truth, "--dim", "13"], "dim 13 is above the rank 12"),
        "k": ([good, *truth, "--k", "1000"], "k must be an integer from 1 to the 90 images"),
        "tau": ([good, *truth, "--tau", "-1"], "tau must be a positive number"),
        "a folder for JSON": ([good, *truth, "--json", tmp_path], "directory"),
    }  # fmt: skip


class Runs:
    """Pickles as a call of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.slow
def test_bad_input_is_one_line_and_status_2(
    ours: Described, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, (words, message) in bad_inputs(ours, tmp_path).items():
        assert call(*words) == 2, case
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and message in err, (case, err)
    assert not (tmp_path / "ran").exists() and not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.scores.json"))


@pytest.mark.parametrize("options", [["--dim", "six"], ["--whitening", "all"], ["--k", "x"], ["--database", "big"]])
def test_words_that_mean_nothing(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "x.pkl", "--ground-truth", "here", *options]) == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_holds_what_pictures_need(described: Described) -> None:
    run = measure(described)
    assert isinstance(run, Evaluation) and set(run.answers) == set(run.neighbours) == {"val", "test"}
    labels = described.museum.database.labels
    nearest = labels[run.neighbours["test"].indices[:, 0]]
    assert np.array_equal(run.answers["test"].labels, nearest)


# --- whitening learned from visits ----------------------------------------------------------------------------------


def visited_by(described: Described, count: int = 3) -> Described:
    """The same museum with visits of its images: what a visit changes lies in the last four dimensions."""
    rng = np.random.default_rng(9)
    rows = np.tile(np.arange(len(described.database)), count)
    disturbed = described.database[rows] + rng.normal(size=(len(rows), D)) * np.repeat([0.02, 0.5], (8, 4))
    return replace(described, visits=Visits(rows, unit(disturbed.astype(np.float32))))


def test_auto_learns_where_there_are_visits_and_val_chooses_dimension_and_shrinkage(described: Described) -> None:
    shown = visited_by(described)
    choice, museum = choose(shown), described.museum
    assert choice.kind == "learned" and choice.dims is not None and choice.tuned_on_val
    assert choice.dims.dims == (12,) and choice.dims.shrinkages == tune.SHRINKAGES  # 64 and more exceed D
    gaps, visits = {}, shown.visits
    assert visits is not None
    for shrinkage in tune.SHRINKAGES:
        fitted = LearnedWhitening(12, shrinkage).fit(shown.database, shown.database[visits.rows], visits.descriptors)
        near = search(fitted.transform(shown.database), fitted.transform(shown.val), 50)
        gaps[shrinkage] = tune.tune(near, museum.database.labels, museum.val.labels).gap
    best = max(gaps.values())
    assert choice.tuning.gap == pytest.approx(best, abs=1e-9)
    assert choice.whitening is not None
    assert choice.whitening.shrinkage == max(s for s, gap in gaps.items() if gap == pytest.approx(best, abs=1e-12))
    assert choose(shown, whitening="pca").kind == choose(described).kind == "pca"
    assert choose(shown, whitening="none").kind == "none"


def test_a_given_dimension_and_shrinkage_are_taken(described: Described) -> None:
    run = measure(visited_by(described), dim=5, shrinkage=0.2, k=3, tau=10)
    assert (run.whitening, run.dim, run.shrinkage, run.dims, run.tuned_on_val) == ("learned", 5, 0.2, None, False)
    text = format_evaluation(run, described.museum)
    assert "whitened to 5 (learned from simulated visits, shrinkage 0.2)" in text
    tuned = measure(visited_by(described), dim=5)
    assert "best on val of 5 with shrinkage 0.01, 0.03, 0.1, 0.3" in format_evaluation(tuned, described.museum)
    assert json.loads(json.dumps(tuned.to_json()))["dims"]["shrinkages"] == [0.01, 0.03, 0.1, 0.3]


def test_smaller_dimensions_of_one_fit_are_fits_of_their_own(described: Described) -> None:
    wide = described_of(n=N)
    shown = visited_by(wide)
    for whitening in ("pca", "learned"):
        one = choose(shown, whitening=whitening, dim=4, shrinkage=0.3)
        ways = list(evaluate._whiten(shown, whitening, None, 0.3, None))
        assert [int(fitted.dim) for fitted, _, _ in ways] == sorted({int(fitted.dim) for fitted, _, _ in ways})
        _, white, _ = next(evaluate._whiten(shown, whitening, 4, 0.3, None))
        np.testing.assert_array_equal(white, one.database)
        for kept, rows, queries in ways:
            own = type(kept)(int(kept.dim), 0.3)
            own = (
                own.fit_spectrum(decompose(shown.database))
                if whitening == "pca"
                else own.fit(shown.database, shown.database[shown.visits.rows], shown.visits.descriptors)
            )
            np.testing.assert_allclose(rows, own.transform(shown.database), atol=1e-5)
            np.testing.assert_allclose(queries, own.transform(shown.val), atol=1e-5)


def test_learned_whitening_helps_where_visits_disturb_as_visitors_do() -> None:
    plain = described_of(noise=0.2)
    rng = np.random.default_rng(3)

    def disturbed(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit((rows + rng.normal(size=rows.shape) * np.repeat([0.02, 0.5], (8, 4))).astype(np.float32))

    shown = visited_by(Described(plain.museum, plain.database, disturbed(plain.val), disturbed(plain.test)))
    learned, pca = measure(shown, whitening="learned"), measure(shown, whitening="pca")
    assert learned.test["gap"] > pca.test["gap"] + 0.01
