"""What is in a collection: classes counted, images verified, and the command that prints it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from metlib import labelled
from metlib.cli import main
from tests.labelled.samples import ARTGAN, artgan, made


def test_classes_are_counted_and_missing_ones_named() -> None:
    collection = made([0, 0, 1, 2, -1, 1], ["train", "train", "train", "test", "test", ""])
    table = labelled.count_classes(collection)
    assert table.columns.tolist() == ["attribute", "class", "train", "val", "test", "all"]
    assert table.values.tolist() == [
        ["type", "c0", 2, 0, 0, 2],
        ["type", "c1", 1, 0, 0, 2],
        ["type", "c2", 0, 0, 1, 1],
    ]
    missing = labelled.find_missing_classes(collection)
    assert missing.values.tolist() == [["type", "c0", "test"], ["type", "c1", "test"], ["type", "c2", "train"]]
    assert labelled.find_missing_classes(made([0, 1])).empty  # in no split yet


def test_a_summary_worked_by_hand() -> None:
    labels = [0] * 6 + [1] * 2 + [0, 1, 1, 1] + [-1]
    collection = made(labels, ["train"] * 8 + ["test"] * 5, classes={"type": ("a", "b", "never")})
    (row,) = labelled.summarise(collection).to_dict("records")
    assert (row["attribute"], row["classes"], row["images"]) == ("type", 3, 12)
    assert (row["majority"], row["majority_share"]) == ("a", 0.25)
    assert (row["smallest"], row["smallest_images"], row["imbalance"]) == ("b", 5, 7 / 5)
    entropy = -(7 / 12 * math.log(7 / 12) + 5 / 12 * math.log(5 / 12))
    assert row["effective_classes"] == pytest.approx(math.exp(entropy))
    assert labelled.majority(collection, "type") == 0.25 and labelled.majority(collection, "type", "train") == 0.75
    (row,) = labelled.summarise(made([0, 1, 1, 0])).to_dict("records")
    assert (row["majority"], row["majority_share"]) == ("c0", 0.5) and row["effective_classes"] == pytest.approx(2)
    with pytest.raises(ValueError, match="0 labelled images in train, 0 in test"):
        labelled.majority(made([0, 1]), "type")
    with pytest.raises(ValueError, match="0 in val"):
        labelled.majority(collection, "type", "val")


def test_the_smallest_class_is_one_that_has_images() -> None:
    row = labelled.summarise(made([1, 1, 2, 2])).iloc[0]
    assert row["smallest"] == "c1" and row["smallest_images"] == 2 and row["imbalance"] == 1


def test_unreadable_images_are_named_with_their_rows(tmp_path: Path) -> None:
    root = artgan(tmp_path)
    for path in (root / "images").rglob("*.jpg"):
        Image.effect_noise((20, 20), 60).save(path)
    collection = labelled.read(root)
    assert labelled.verify(collection) == []
    (root / "images/b.jpg").write_bytes(b"no image")
    (root / "images/d.jpg").write_bytes(b"")
    (root / "images/sub/c.jpg").unlink()
    assert [(problem.path, problem.reason) for problem in labelled.verify(collection, workers=2)] == [
        (root / "images/b.jpg", "undecodable (artist_train.csv:3)"),
        (root / "images/d.jpg", "empty (artist_val.csv:1)"),
        (root / "images/sub/c.jpg", "missing (style_train.csv:3)"),
    ]


def test_the_command_line_sums_up_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = artgan(tmp_path / "wiki", style_val="b.jpg,1\ne.jpg,1\n")
    (root / "images/e.jpg").write_text("a.jpg", encoding="utf-8")
    assert main(["labels", root, "--attributes", "style"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("wiki: 4 images, 2 in train, 2 in val\nnote: ")
    assert "note: 1 of 2 images of style-val are in style-train" in printed
    assert "note: 1 of 2 images of style-val are in artist-train" in printed  # not asked for, and judged all the same
    assert "d.jpg" in printed and "effective_classes" in printed  # d.jpg has no row
    assert "classes missing from a split: 1" in printed and "identical images in two splits: 1" in printed
    assert main(["labels", root, "--verify"]) == 1
    printed = capsys.readouterr().out
    assert f"undecodable (artist_val.csv:2)\t{root / 'images/e.jpg'}" in printed and "5 images, 5 unusable" in printed
    (root / "images/b.jpg").unlink()
    assert main(["labels", root, "--skip-missing"]) == 0
    assert "note: 1 of 5 rows" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["no folder", "no form", "no attribute", "missing image", "bad label"])
def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    root = artgan(tmp_path / "wiki", style_train="a.jpg,7\n" if broken == "bad label" else ARTGAN["style_train.csv"])
    if broken == "no folder":
        shutil.rmtree(root)
    elif broken == "no form":
        (root / "style_train.csv").unlink()
        (root / "artist_train.csv").unlink()
    elif broken == "missing image":
        (root / "images/a.jpg").unlink()
    options = ["--attributes", "genre"] if broken == "no attribute" else []
    assert main(["labels", root, *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ")
