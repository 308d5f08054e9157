"""Folders of descriptors: their names, and files that are missing or damaged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from metlib.dataset import Museum, Split
from metlib.descriptors import load_descriptors, load_labels, load_recipe, name_folder


def test_a_folder_states_the_scales_and_the_precision() -> None:
    split = Split(np.array(["a.jpg"]), np.array([0]))
    museum = Museum(split, split, split, name="ours")
    network = SimpleNamespace(name="tiny", weights_sha256=lambda: "0123456789")
    published = (1, 2**-0.5, 0.5)
    for scales, options, last in (
        (published, [], "scales-1-0.707-0.5"),
        (published, ["float32"], "scales-1-0.707-0.5"),
        ((1, 0.5), ["bfloat16"], "scales-1-0.5-bfloat16"),
    ):
        folder = name_folder(museum, network, "work", scales, *options)
        assert folder == Path("work") / "ours" / "tiny-01234567" / last


def test_readers_refuse_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path / "none" / "descriptors.npy"):
        with pytest.raises(FileNotFoundError, match=r"descriptors.*isn't finished|none.*isn't finished"):
            load_descriptors(missing)
    path = tmp_path / "descriptors.npy"
    np.save(path, np.ones((10, 96), np.float32))
    np.save(tmp_path / "labels.npy", np.arange(10))
    assert np.array_equal(load_descriptors(tmp_path), np.ones((10, 96))) and len(load_labels(path)) == 10
    good = path.read_bytes()
    huge = good.replace(b"(10, 96)", b"(9999999999, 96)".ljust(8))
    damaged = {"cut": good[:-5], "empty": b"", "text": b"hello", "zip": b"PK\x03\x04" + good, "huge": huge}
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"descriptors\.npy is damaged"):
            load_descriptors(path)
    for array in (np.ones((3, 4)), np.ones(4, np.float32)):
        np.save(path, array)
        with pytest.raises(ValueError, match="expected float32 with 2 axes"):
            load_descriptors(path)
    for bad, word in ((np.nan, "NaN"), (0, "zero")):
        np.save(path, np.full((2, 3), bad, np.float32))
        with pytest.raises(ValueError, match=word):
            load_descriptors(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        load_descriptors(path)
    for text in ("{", "[1]"):
        (path.parent / "recipe.json").write_text(text)
        with pytest.raises(ValueError, match=r"recipe.json"):
            load_recipe(path)
