"""Results tables as files in git."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metlib import metrics
from metlib.analysis import results
from metlib.analysis.results import COLUMNS, append, read
from metlib.dataset import Museum, Split
from metlib.descriptors import Described
from metlib.tune import Tuning

DAY = "2024-05-17"


@dataclasses.dataclass(frozen=True)
class Run:
    """What `results.rows_of` reads of an `evaluate.Evaluation`."""

    val: dict[str, float]
    test: dict[str, float]
    whitening: str = "pca"
    dim: int | None = 512
    shrinkage: float | None = 1.0
    dims: object | None = None
    seed: int = 0
    tuning: Tuning = dataclasses.field(default_factory=lambda: tuning((1, 10), (20, 50)))


def tuning(ks: tuple[int, ...], taus: tuple[float, ...]) -> Tuning:
    return Tuning(ks, taus, np.zeros((len(ks), len(taus))), ks[-1], taus[-1])


def run(right: int = 7, **changed: Any) -> Run:
    """10 test queries of which `right` are answered rightly, 2 of 4 on val, and a distractor in each."""
    rows = {}
    for split, q, correct in (("val", 5, 2), ("test", 11, right)):
        truth = np.append(np.zeros(q - 1, int), -1)
        rows[split] = metrics.summary((np.arange(q) >= correct).astype(int), -np.arange(q), truth, n_resamples=20)
    return Run(**rows, **changed)


def museum(name: str = "painted", exhibits: int = 3, kind: str = "full") -> Museum:
    split = Split(np.array([f"{i}.jpg" for i in range(exhibits)]), np.arange(exhibits))
    queries = Split(np.array(["q.jpg"]), np.array([0]))
    return Museum(split, queries, queries, name=name, kind=kind)


def described(of: Museum, **made_by: Any) -> Described:
    known = {"backbone": "R18IN", "weights": "0123456789ab", "scales": (1.0, 2**-0.5, 0.5)} | made_by
    rows = {name: np.eye(len(split), 4, dtype=np.float32) for split, name in of.splits()}
    return Described(of, **rows, made_by={key: value for key, value in known.items() if value is not None})


def rows(measured: Run | None = None, of: Museum | None = None, **options: Any) -> list[dict[str, Any]]:
    of = of or museum()
    made_by = options.pop("made_by", {})
    return results.rows_of(measured or run(), described(of, **made_by), **({"date": DAY} | options))


# ---- one row a run and split ----


def test_a_run_is_two_rows_in_percent() -> None:
    measured = run()
    val, test = rows(measured, note="untrained: a floor, not a result")
    assert tuple(val) == tuple(test) == COLUMNS
    assert (val["split"], val["queries"], val["positives"]) == ("val", 5, 4)
    assert (test["split"], test["queries"], test["positives"]) == ("test", 11, 10)
    assert test["acc"] == 70 and val["acc"] == 50
    for score in ("gap", "gap_low", "gap_high", "gap_minus", "gap_minus_low", "gap_minus_high", "acc_low", "acc_high"):
        assert test[score] == pytest.approx(100 * measured.test[score], abs=0.005)
    expected = {
        "date": DAY,
        "museum": "painted",
        "database": "full",
        "images": 3,
        "network": "R18IN",
        "weights": "01234567",
        "scales": "ms",
        "whitening": "pca 512",
        "tuned_on": "val",
        "k": 10,
        "tau": 50.0,
        "seed": 0,
        "note": "untrained: a floor, not a result",
    }
    assert expected.items() <= test.items() and expected.items() <= val.items()


@pytest.mark.parametrize(
    ("measured", "made_by", "column", "says"),
    [
        (run(whitening="none", dim=None, shrinkage=None), {}, "whitening", "none"),
        (run(shrinkage=0.0), {}, "whitening", "pca 512 (shrinkage 0)"),
        (run(whitening="learned", dim=128, shrinkage=0.1), {}, "whitening", "learned 128 (shrinkage 0.1)"),
        (run(), {"scales": (1,)}, "scales", "1"),
        (run(), {"scales": (1, 2**-0.5)}, "scales", "1+0.707"),
        (run(), {"scales": None}, "scales", ""),
        (run(), {"weights": "0123456789+abcdef0123"}, "weights", "01234567+abcdef01"),
        (run(), {"weights": None}, "weights", ""),
        (run(tuning=tuning((1,), (20, 50))), {}, "tuned_on", "val (tau)"),
        (run(tuning=tuning((1, 5), (20,))), {}, "tuned_on", "val (k)"),
        (run(tuning=tuning((5,), (20, 50)), dims="tried"), {}, "tuned_on", "val (tau and dimension)"),
        (run(tuning=tuning((5,), (20,)), dims="tried"), {}, "tuned_on", "val (dimension)"),
        (run(dims="tried"), {}, "tuned_on", "val"),
        (run(tuning=tuning((5,), (20,))), {}, "tuned_on", "given"),
    ],
)
def test_how_a_run_was_made_is_said_in_few_words(measured: Run, made_by: dict, column: str, says: str) -> None:
    assert [row[column] for row in rows(measured, made_by=made_by)] == [says, says]


def test_a_row_needs_a_networks_name_and_an_iso_date() -> None:
    assert rows(name="mine")[0]["network"] == rows(name="mine", made_by={"backbone": None})[0]["network"] == "mine"
    assert rows(date=None)[0]["date"] == datetime.date.today().isoformat()
    with pytest.raises(ValueError, match="don't name the network that made them"):
        rows(made_by={"backbone": None})
    with pytest.raises(ValueError, match=r"date '17\.5\.2024': expected an ISO date"):
        rows(date="17.5.2024")


def test_equal_names_with_other_data_differ() -> None:
    hashes = {of.sha256[:8] for of in (museum(), museum(exhibits=4), museum("other"))}
    assert len(hashes) == 2 and all(len(one) == 8 and int(one, 16) >= 0 for one in hashes)


# ---- the file ----


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = append(tmp_path / "figures" / "results.csv", rows(made_by={"weights": "12345678"}, note='a "note", told'))
    table = read(path)
    assert tuple(table.columns) == COLUMNS
    pd.testing.assert_frame_equal(
        table, pd.DataFrame(rows(made_by={"weights": "12345678"}, note='a "note", told')[::-1]), check_dtype=False
    )
    assert table.weights.tolist() == ["12345678"] * 2  # a text, though it looks like a number
    assert path.read_text(encoding="utf-8").count("\n") == 3


@pytest.mark.slow
def test_a_repeated_run_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = append(tmp_path / "results.csv", rows())
    first = path.read_bytes()
    assert append(path, rows(date="2025-01-01")).read_bytes() == first
    assert append(path, read(path).to_dict("records")).read_bytes() == first
    append(path, rows(run(right=8), date="2025-01-01"))
    table = read(path).set_index("split")
    assert table.date.to_dict() == {"test": "2025-01-01", "val": DAY}  # val's numbers are what they were
    assert table.acc["test"] == 80
    append(path, rows(run(right=8), date="2026-01-01", note="a word"))
    assert read(path).date.tolist() == ["2025-01-01", DAY] and set(read(path).note) == {"a word"}


@pytest.mark.slow
def test_k_and_tau_belong_to_a_run_where_they_were_given(tmp_path: Path) -> None:
    path = append(tmp_path / "results.csv", rows())
    append(path, rows(run(tuning=tuning((1, 5), (20, 100)))))
    assert len(read(path)) == 2 and set(read(path).k) == {5}  # the same run, tuned to another cell
    append(path, rows(run(tuning=tuning((1,), (20, 50)))))
    append(path, rows(run(tuning=tuning((1,), (20, 100)))))
    assert len(read(path)) == 4
    for k in (1, 7):
        append(path, rows(run(tuning=tuning((k,), (20,)))))
    assert len(read(path)) == 8
    assert sorted(set(read(path).tuned_on)) == ["given", "val", "val (tau)"]


@pytest.mark.parametrize(
    "other",
    [
        {"of": museum("other")},
        {"of": museum(exhibits=4)},
        {"of": museum(kind="mini")},
        {"name": "R50IN"},
        {"made_by": {"weights": "9876"}},
        {"made_by": {"scales": (1,)}},
        {"measured": run(dim=128)},
        {"measured": run(shrinkage=0.0)},
        {"measured": run(seed=1)},
    ],
)
def test_another_run_has_rows_of_its_own(tmp_path: Path, other: dict[str, Any]) -> None:
    path = append(tmp_path / "results.csv", rows())
    assert len(read(append(path, rows(**other)))) == 4


@pytest.mark.slow
def test_rows_stand_in_one_order_whoever_comes_first(tmp_path: Path) -> None:
    runs = [rows(name=name) for name in ("R101", "R18", "R50", "é 2")] + [rows(of=museum("a")), rows(run(dim=1024))]
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    for some in runs:
        append(one, some)
    for some in runs[::-1]:
        append(other, some[::-1])
    assert one.read_bytes() == other.read_bytes()
    table = read(one)
    assert table.museum.tolist() == ["a", "a"] + ["painted"] * 10
    assert table.network[2:7].tolist() == ["R18", "R18IN", "R50", "R101", "é 2"]
    assert table.split.tolist() == ["test", "val"] + ["test"] * 5 + ["val"] * 5


def test_a_row_is_one_line_whatever_a_museum_is_called(tmp_path: Path) -> None:
    path = append(tmp_path / "results.csv", rows(of=museum("two\nlines,\r and \t more"), note=" x "))
    assert len(path.read_bytes().splitlines()) == 3
    assert set(read(path).museum) == {"two lines, and more"} and set(read(path).note) == {"x"}
    assert append(path, rows(of=museum("two\nlines,\r and \t more"), note="x", date="2025-01-01")) == path
    assert set(read(path).date) == {DAY}


def damaged(path: Path, how: str) -> None:
    text = append(path, rows()).read_text(encoding="utf-8")
    header, line, *_ = text.splitlines()
    cells = next(csv.reader([line]))

    def with_(column: str, value: str) -> str:
        return "\n".join([header, ",".join(value if c == column else v for c, v in zip(COLUMNS, cells, strict=True))])

    path.write_bytes(
        {
            "empty": b"",
            "foreign": b"k,gap\n1,0.1\n",
            "conflict": f"{header}\n<<<<<<< HEAD\n{line}\n".encode(),
            "cut": text[: len(text) - 20].encode(),
            "score": with_("gap", "361.0").encode(),
            "nan": with_("acc", "nan").encode(),
            "word": with_("k", "ten").encode(),
            "more": f"{header}\n{line},\n".encode(),
            "less": f"{header}\n{line.rpartition(',')[0]}\n".encode(),
            "float": with_("k", "5.0").encode(),
            "date": with_("date", "yesterday").encode(),
            "twice": f"{header}\n{line}\n{line}\n".encode(),
            "latin": text.replace("painted", "é").encode("latin-1"),
            "quote": text.replace("painted", '"painted').encode(),
        }[how]
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("empty", "its first line names the columns nothing"),
        ("foreign", "its first line names the columns k, gap"),
        ("conflict", "line 2 has 1 values, expected 26"),
        ("more", "line 2 has 27 values, expected 26"),
        ("less", "line 2 has 25 values, expected 26"),
        ("float", r"line 2: k is '5\.0', expected a number of 0 or more"),
        ("cut", "line 3"),
        ("score", r"line 2: gap is '361\.0', expected a percentage"),
        ("nan", "line 2: acc is 'nan', expected a percentage"),
        ("word", "line 2: k is 'ten', expected a number of 0 or more"),
        ("date", "line 2: date 'yesterday'"),
        ("twice", "line 3 is of the same run as a line above"),
        ("latin", "utf-8"),
        ("quote", "line 2 has a quote that doesn't close on its line"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_left_alone(tmp_path: Path, how: str, said: str) -> None:
    path = tmp_path / "results.csv"
    damaged(path, how)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"no results table, or damaged: .*{said}.*bring the file back"):
        append(path, rows(name="new"))
    with pytest.raises(ValueError, match=said):
        read(path)
    assert path.read_bytes() == before


def test_a_row_that_is_none_is_refused(tmp_path: Path) -> None:
    path = append(tmp_path / "results.csv", rows())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="lacks, or has too much: acc, extra"):
        append(path, [{**{c: v for c, v in rows()[0].items() if c != "acc"}, "extra": 1}])
    with pytest.raises(ValueError, match="the row of R18IN on val: gap is 'nan'"):
        append(path, [rows()[1], rows()[0] | {"gap": float("nan")}])
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match=r"no results table .*none\.csv"):
        read(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("split", "tuned_on", "says"),
    [
        ("test", "val", "scored on test, tuned on val"),
        ("val", "val", "scored on val, tuned on the same queries"),
        ("test", "val (tau)", "scored on test, tau tuned on val"),
        ("val", "val (k and dimension)", "scored on val, k and dimension tuned on the same queries"),
        ("test", "given", "scored on test, k and tau given"),
    ],
)
def test_a_protocol_is_a_sentence(split: str, tuned_on: str, says: str) -> None:
    row = {"database": "mini", "split": split, "tuned_on": tuned_on}
    assert results.protocol(row) == f"mini database, {says}"


def test_a_table_for_readers() -> None:
    shown = results.format_rows(rows())
    row = rows()[1]
    assert shown["ACC"][1] == f"70.0 [{row['acc_low']:.1f}, {row['acc_high']:.1f}]"
    assert shown.protocol[0] == "full database, scored on val, tuned on the same queries"
    assert {"network", "whitening", "GAP", "GAP⁻"} <= set(shown)


def add_rows(path: Path, start: int) -> None:
    for number in range(start, start + 10):
        append(path, rows(name=f"network {number}"))


@pytest.mark.slow
def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_rows, args=(tmp_path / "results.csv", 10 * i)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(read(tmp_path / "results.csv")) == 2 * 20
