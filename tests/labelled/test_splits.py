"""New splits: shares and groups against counts, and images that stand in two of them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metlib import labelled
from metlib.labelled import Labelled, splits
from tests.labelled.samples import made, note


@st.composite
def collections(draw: st.DrawFn) -> Labelled:
    """Works of one to five images, in up to four classes and none; at least two classes have images."""
    works = draw(st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 5)), min_size=1, max_size=40))
    works += [(0, 1), (1, 1)]
    labels = [label for label, size in works for _ in range(size)]
    groups = [number for number, (_, size) in enumerate(works) for _ in range(size)]
    order = draw(st.permutations(range(len(labels))))
    return made([labels[i] for i in order], groups=[groups[i] for i in order])


@pytest.mark.slow
@given(collections(), st.sampled_from([{}, {"shares": {"test": 0.5, "train": 0.5}}]), st.integers(0, 9))
def test_stratified_splits_keep_groups_whole_and_shares_right(
    collection: Labelled, options: dict[str, Any], seed: int
) -> None:
    shares = options.get("shares", splits.SHARES)
    split = labelled.stratify(collection, "type", **options, seed=seed)
    assert split.paths.tolist() == collection.paths.tolist()
    home: dict[int, str] = {}
    for group, name in zip(split.groups.tolist(), split.splits.tolist(), strict=True):
        assert home.setdefault(group, name) == name
    sizes = Counter(split.groups.tolist())
    for label in set(split.labels["type"].tolist()):
        rows = np.flatnonzero(split.labels["type"] == label)
        groups = set(split.groups[rows].tolist())
        counts = Counter(split.splits[rows].tolist())
        if len(groups) == 1:
            assert counts == {"train": len(rows)}
            continue
        for name, share in shares.items():
            assert abs(counts[name] - share * len(rows)) < max(sizes[group] for group in groups) + 1e-5
    again = labelled.stratify(collection, "type", **options, seed=seed)
    assert again.splits.tolist() == split.splits.tolist()


def test_small_classes_even_each_other_out_across_splits() -> None:
    labels = np.repeat(np.arange(40), 3)  # shares of 1.8, 0.6, 0.6: none can be kept inside a class
    split = labelled.stratify(made(labels.tolist()), "type")
    assert Counter(split.splits.tolist()) == {"train": 80, "val": 20, "test": 20}
    other = labelled.stratify(made(labels.tolist()), "type", seed=1)
    assert other.splits.tolist() != split.splits.tolist()


def test_a_class_of_a_single_work_is_trained_on_and_noted() -> None:
    collection = made([0, 0, 0, 1, 1, 1, 2, -1], groups=[5, 5, 5, 1, 2, 3, 4, 7], splits=["test"] * 8)
    split = labelled.stratify(collection, "type")
    assert split.splits[:3].tolist() == ["train"] * 3 and split.splits[6:].tolist() == ["train"] * 2
    assert "2 classes of a single work are in train only: c0, c2" in split.notes[-1]


def test_holding_out_moves_a_share_of_one_split_only() -> None:
    splits = ["train"] * 40 + ["test"] * 10
    collection = made([i % 2 for i in range(50)], splits, [i // 4 for i in range(50)])
    held = labelled.hold_out(collection, "type", share=0.25)
    assert held.splits[40:].tolist() == ["test"] * 10
    assert len(held.rows("val")) in (8, 12)  # of 40 a quarter, in groups of four
    assert len(set(zip(held.groups[:40].tolist(), held.splits[:40].tolist(), strict=True))) == 10
    assert note(held, "0.25 of train held out as val, stratified by type (seed 0)")
    single = labelled.hold_out(made([0, 0, 0, 1], ["test"] * 4), "type", "train", "test", share=0.5)
    assert single.splits[3] == "test" and Counter(single.splits.tolist())["train"] in (1, 2)  # "<U4" holds "train"
    assert note(single, "single work are in test only: c1")


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"train": 1.1},
        {"train": 0.6, "val": 0.2},
        {"train": 1.5, "val": -0.5},
        {"train": 0.5, "dev": 0.5},
        {"train": math.nan, "val": 0.5},
    ],
)
def test_shares_must_be_positive_and_sum_to_one(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"shares .* expected positive ones of train, val, test that sum to 1"):
        labelled.stratify(made([0, 1]), "type", shares)


def test_splits_that_cannot_be_made_are_refused() -> None:
    collection = made([0, 1])
    with pytest.raises(ValueError, match="no attribute 'style'"):
        labelled.stratify(collection, "style")
    with pytest.raises(ValueError, match="has no images in train"):
        labelled.hold_out(collection, "type")
    for options in ({"share": 0.0}, {"share": 1.0}, {"of": "val"}, {"split": "dev"}):
        with pytest.raises(ValueError, match="expected two of"):
            labelled.hold_out(collection, "type", **options)  # type: ignore[arg-type]


def test_identical_images_in_different_splits_are_found_and_dropped(tmp_path: Path) -> None:
    contents = ["same", "same", "same", "twin", "twin", "diff", "size", "same", "other", "diff"]
    splits = ["train", "val", "test", "train", "train", "val", "test", "", "train", "test"]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.jpg").write_text(content, encoding="utf-8")
    collection = made([i % 2 for i in range(10)], splits, root=tmp_path)
    found = labelled.find_shared(collection)
    assert sorted(found.values.tolist()) == [
        ["1.jpg", "val", "0.jpg", "train"],
        ["2.jpg", "test", "0.jpg", "train"],
        ["2.jpg", "test", "1.jpg", "val"],
        ["9.jpg", "test", "5.jpg", "val"],
    ]
    kept = labelled.drop_shared(collection)
    assert kept.paths.tolist() == [f"{i}.jpg" for i in (2, 3, 4, 6, 7, 8, 9)]
    assert labelled.find_shared(kept).empty and labelled.drop_shared(kept) is kept
    assert "3 images left out because the same bytes are judged" in kept.notes[-1]
    (tmp_path / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        labelled.find_shared(collection)


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_text("x" * (i + 1), encoding="utf-8")
    monkeypatch.setattr(splits, "sha256", lambda path: pytest.fail(f"{path} was read"))
    assert labelled.find_shared(made([0, 1, 0, 1], ["train", "val", "train", "test"], root=tmp_path)).empty


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (None, {"train", "val", "test"}),
        (["train"] * 30 + ["test"] * 10, {"train", "val", "test"}),
        (["train"] * 30 + ["val"] * 10, {"train", "val", "test"}),
        (["train"] * 20 + ["val"] * 10 + ["test"] * 10, {"train", "val", "test"}),
    ],
)
def test_a_collection_is_made_ready_by_what_it_lacks(
    splits: list[str] | None, expected: set[str], tmp_path: Path
) -> None:
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(bytes([i]))
    before = made([i % 2 for i in range(40)], splits, root=tmp_path)
    ready = labelled.prepare_splits(before)
    assert {str(name) for name in ready.splits} == expected and len(ready) == 40
    judged = [i for i, name in enumerate(splits or []) if name == ("test" if "test" in splits else "val")]
    assert [str(ready.splits[i]) for i in judged] == ["test"] * len(judged)  # what is judged stays what is judged
    assert bool(ready.notes) == (splits is None or {*splits} != {"train", "val", "test"})
    assert (labelled.prepare_splits(before).splits == ready.splits).all()


def test_copies_of_judged_images_are_left_out_when_made_ready(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(bytes([i if i != 3 else 35]))
    ready = labelled.prepare_splits(made([i % 2 for i in range(40)], ["train"] * 30 + ["val"] * 10, root=tmp_path))
    assert "3.jpg" not in ready.paths and "35.jpg" in ready.paths
    assert any("3.jpg (train) is 35.jpg (test)" in note for note in ready.notes)


def test_judged_images_are_found_in_another_collection(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for i in range(6):
        (tmp_path / "here" / f"{i}.jpg").write_bytes(bytes([i]))
        (tmp_path / "there" / f"{i}.jpg").write_bytes(bytes([i + 4]))
    splits = ["train", "train", "train", "val", "train", "test"]
    here, there = (made([0, 1, 0, 1, 0, 1], splits, root=tmp_path / name) for name in ("here", "there"))
    found = labelled.find_learned(here, there)
    assert found.to_dict("records") == [{"path": "5.jpg", "split": "test", "other": "1.jpg"}]
    assert labelled.find_learned(there, here).empty  # there 0.jpg and 1.jpg are for training only
