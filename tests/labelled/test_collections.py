"""The collection itself: checked when it is made, read-only, cut into parts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from metlib.labelled import UNKNOWN, BadLabels
from tests.labelled.samples import made


def test_a_collection_is_checked_when_made() -> None:
    good = made([0, 1, 1, UNKNOWN])
    assert len(good) == 4 and good.labels["type"].dtype == np.int64 and good.attributes == ("type",)
    for fields, message in (
        ({"splits": ["train"] * 3}, "splits must be one for each of 4 paths"),
        ({"groups": [0, 1, 2]}, "groups must be one for each"),
        ({"groups": [0, 1, 2, 0.5]}, "groups must be integers, got float64"),
        ({"sources": ["a"]}, "sources must be one for each"),
        ({"paths": ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]}, "duplicate path 'a.jpg'"),
        ({"splits": ["train", "dev", "", ""]}, "unknown split 'dev'"),
        ({"labels": {"type": [0, 1]}}, "type must be one for each"),
        ({"labels": {"type": [0, 1, 0.5, 1]}}, "type must be integers"),
        ({"labels": {"type": [0, 1, 2, 1]}}, r"type: label 2 \(made.csv:3\), expected 0 to 1"),
        ({"labels": {"type": [0, 1, -2, 1]}}, r"type: label -2 \(made.csv:3\)"),
        ({"labels": {"style": [0, 1, 0, 1]}}, "labels for style but classes for type"),
        ({"labels": {}, "classes": {}}, "labels for no attribute"),
        ({"classes": {"type": ("a", "a")}}, "class 'a' stands there twice"),
        ({"labels": {"type": [0, 0, 0, -1]}}, r"one class only \('c0', first made.csv:1\), nothing to tell apart"),
        ({"labels": {"type": [-1, -1, 1, -1]}}, r"a single labelled image \(made.csv:3\)"),
        ({"labels": {"type": [-1] * 4}}, "no image has a label"),
    ):
        with pytest.raises(BadLabels, match=message):
            made([0, 1, 1, UNKNOWN], **fields)


def test_a_collection_keeps_its_own_copies_read_only() -> None:
    labels = np.array([0, 1, 1])
    collection = made([0, 1, 1], labels={"type": labels})
    labels[0] = 1
    assert collection.labels["type"].tolist() == [0, 1, 1]
    for array in (
        collection.paths,
        collection.splits,
        collection.groups,
        collection.sources,
        collection.labels["type"],
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    copy = pickle.loads(pickle.dumps(collection))
    assert copy.paths.tolist() == collection.paths.tolist() and copy.classes == collection.classes


def test_rows_splits_parts_and_selections() -> None:
    splits = ["val", "test", "val", "", "test"]
    two = {"type": [0, 1, 0, 1, -1], "style": [-1, 0, -1, 1, 0]}
    collection = made([0] * 5, splits, labels=two, classes={"type": ("a", "b"), "style": ("c", "d")}, root=Path("r"))
    assert collection.rows("val").tolist() == [0, 2] and collection.rows("").tolist() == [3]
    split = collection.split("test")
    assert split.labels.tolist() == [1, 4] and split.file(1) == Path("r/4.jpg") == collection.file(4)
    assert len(collection.split("train")) == 0
    with pytest.raises(ValueError, match="split 'dev': expected one of train, val, test"):
        collection.rows("dev")
    for rows in ([0, 1, 3], np.array([True, True, False, True, False])):
        part = collection.take(rows)
        assert part.sources.tolist() == ["made.csv:1", "made.csv:2", "made.csv:4"]
        assert part.labels["style"].tolist() == [-1, 0, 1] and part.groups.tolist() == [0, 1, 3]
    style = collection.select("style")
    assert style.attributes == ("style",) and style.paths.tolist() == ["1.jpg", "3.jpg", "4.jpg"]
    assert collection.select("style", "type").attributes == ("style", "type")
    with pytest.raises(ValueError, match="made has no attribute 'genre', but type, style"):
        collection.select("genre")
    with pytest.raises(BadLabels, match="no attribute"):
        collection.select()
    with pytest.raises(BadLabels, match="one class only"):
        collection.take([0, 2, 3, 4]).take([0, 1])
