"""Descriptor sets: folders and the authors' pickle read for a museum's own lists, and sets joined."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib import dataset, descriptors, extract
from metlib.common.files import sha256
from metlib.common.vectors import unit
from metlib.dataset import Museum, Split
from metlib.descriptors import (
    OFFICIAL,
    Described,
    Visits,
    concatenate,
    from_official,
    read,
    read_official,
    visited,
    write_official,
)

SIZES = {"database": 8, "val": 5, "test": 6}


def museum_of(root: Path = Path("no/such/folder"), kind: str = "full", n: int = 8) -> Museum:
    """A museum of n exhibits without images; mini is the beginning of full."""
    database = Split(np.array([f"MET/{i}/0.jpg" for i in range(n)]), np.arange(n), root)
    val = Split(np.array([f"val/{i}.jpg" for i in range(5)]), np.array([0, 1, -1, 2, -1]), root)
    test = Split(np.array([f"test/{i}.jpg" for i in range(6)]), np.array([4, -1, 3, 2, -1, 1]), root)
    return Museum(database, val, test, root, "ours", kind)


@pytest.fixture
def museum() -> Museum:
    return museum_of()


def rows_of(museum: Museum, dim: int = 6, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random unit rows for each split."""
    generator = np.random.default_rng(seed)
    arrays = {name: generator.normal(size=(len(split), dim)) for split, name in museum.splits()}
    return {name: (a / np.linalg.norm(a, axis=1, keepdims=True)).astype(np.float32) for name, a in arrays.items()}


def described_of(museum: Museum, **options: Any) -> Described:
    made_by = options.pop("made_by", {})
    return Described(museum, **rows_of(museum, **options), made_by=made_by)


def leave(folder: Path, museum: Museum, without: tuple[str, ...] = (), **recipe: Any) -> Described:
    """Write a folder as `extract.describe` leaves it, and give the descriptors in it."""
    kept = {}
    for split, name in museum.splits():
        kept[name] = split.take(np.array([str(path) not in without for path in split.paths]))
    left = Museum(**kept, root=museum.root, name=museum.name, kind=museum.kind)
    described = described_of(left)
    for split, name in museum.splits():
        path = folder / f"{name}-{split.sha256[:8]}"
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / "descriptors.npy", getattr(described, name))
        np.save(path / "labels.npy", kept[name].labels)
        content = {
            "backbone": "tiny",
            "weights_sha256": "ab" * 32,
            "scales": [1.0, 0.5],
            "network": {"arch": "test_resnet"},
            "images_sha256": split.sha256,
            "skipped": [str(path) for path in split.paths if str(path) in without],
        }
        (path / "recipe.json").write_text(json.dumps(content | recipe), encoding="utf-8")
    return described


def same(a: Described, b: Described) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in SIZES)


def write_truth(museum: Museum) -> None:
    """Write a museum's ground truth, as `dataset.load` reads it."""
    truth = museum.root / "ground_truth"
    truth.mkdir(parents=True, exist_ok=True)
    for split, name in museum.splits():
        database = name == "database"
        key = "id" if database else "MET_id"
        rows = [
            {"path": str(path)} | ({key: int(label)} if label >= 0 else {})
            for path, label in zip(split.paths, split.labels, strict=True)
        ]
        file = dataset.DATABASES[museum.kind] if database else dataset.QUERIES[name]
        (truth / file).write_text(json.dumps(rows), encoding="utf-8")


# --- the value ------------------------------------------------------------------------------------------------------


def test_described_checks_lengths(museum: Museum) -> None:
    rows = {name: np.ones((n, 3), np.float32) for name, n in SIZES.items()}
    assert Described(museum, **rows).made_by == {}
    for name in rows:
        with pytest.raises(ValueError, match=rf"{name}: \d descriptors but \d labels"):
            Described(museum, **(rows | {name: np.ones((7, 3), np.float32)}))
    with pytest.raises(ValueError, match="test has descriptors of 4 dimensions, the database of 3"):
        Described(museum, **(rows | {"test": np.ones((6, 4), np.float32)}))


def test_described_is_itself_only(museum: Museum) -> None:
    one, two = described_of(museum), described_of(museum)
    assert one == one and one != two and len({one, two}) == 2  # arrays have no truth value to compare by


def test_the_names_that_extract_promised_are_there() -> None:
    for name in ("Described", "load_descriptors", "load_labels", "load_recipe", "read_official"):
        assert getattr(extract, name) is getattr(descriptors, name)


def test_a_list_is_named_by_its_images_labels_and_order() -> None:
    split = Split(np.array(["a", "b"]), np.array([0, 1]))
    assert split.sha256 == hashlib.sha256(b"a\t0\nb\t1").hexdigest()
    others = [split.take([1, 0]), split.take([0]), Split(split.paths, [0, 2]), Split(np.array(["a", "c"]), [0, 1])]
    assert len({other.sha256 for other in (split, *others)}) == 5


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_for_the_museums_own_lists(museum: Museum, tmp_path: Path) -> None:
    mini = museum_of(kind="mini", n=4)
    full_left = leave(tmp_path, museum)
    mini_left = leave(tmp_path, mini)
    assert len(list(tmp_path.iterdir())) == 4  # val and test are the same lists for both
    assert np.array_equal(read(tmp_path, mini).database, mini_left.database)
    full = read(str(tmp_path), museum)
    assert np.array_equal(full.database, full_left.database) and full.museum.database is museum.database
    assert full.made_by == {
        "backbone": "tiny",
        "weights": "ab" * 32,
        "scales": (1.0, 0.5),
        "network": {"arch": "test_resnet"},
    }


def test_skipped_images_leave_the_museum(museum: Museum, tmp_path: Path) -> None:
    left = leave(tmp_path, museum, without=("MET/3/0.jpg", "test/0.jpg"))
    described = read(tmp_path, museum)
    assert same(described, left)
    assert list(described.museum.database.labels) == [0, 1, 2, 4, 5, 6, 7]
    assert list(described.museum.test.paths) == [f"test/{i}.jpg" for i in range(1, 6)]
    assert described.museum.val is museum.val and described.museum.name == "ours"


def test_a_folder_of_other_lists_says_which(museum: Museum, tmp_path: Path) -> None:
    leave(tmp_path / "x", museum)
    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path / "x", museum_of(kind="mini", n=4))
    message = str(caught.value)
    for word in (
        "has no database-",
        "4 database images of ours (mini database)",
        *(path.name for path in (tmp_path / "x").iterdir()),
    ):
        assert word in message
    with pytest.raises(FileNotFoundError, match=r"holds x\. Expected the folder"):
        read(tmp_path, museum)
    with pytest.raises(FileNotFoundError, match=r"no .*none: expected the authors' descriptors\.pkl, or a folder"):
        read(tmp_path / "none", museum)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"images_sha256": "0" * 64}, "made of other images than the database images of ours"),
        ({"scales": None}, r"recipe\.json is damaged"),
        ({"skipped": [[]]}, r"recipe\.json is damaged"),
        ({"skipped": ["val/0.jpg"]}, r"test_a_recipe.*: val: 5 descriptors but 4 labels"),
        ({"network": 3}, r"recipe\.json is damaged"),
    ],
)
def test_a_recipe_that_does_not_fit(recipe: dict[str, Any], message: str, museum: Museum, tmp_path: Path) -> None:
    leave(tmp_path, museum, **recipe)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, museum)


@pytest.mark.parametrize("key", ["weights_sha256", "scales", "network"])
def test_splits_described_differently_are_no_set(key: str, museum: Museum, tmp_path: Path) -> None:
    leave(tmp_path, museum)
    file = tmp_path / f"test-{museum.test.sha256[:8]}" / "recipe.json"
    other = {"weights_sha256": "cd", "scales": [1.0], "network": {}}
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: other[key]}))
    with pytest.raises(ValueError, match="another network, weights or scales than the database beside it"):
        read(tmp_path, museum)


def test_an_unfinished_split_is_named(museum: Museum, tmp_path: Path) -> None:
    leave(tmp_path, museum)
    (tmp_path / f"val-{museum.val.sha256[:8]}" / "descriptors.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"val-.*isn't finished"):
        read(tmp_path, museum)


# --- the authors' pickle for a museum -------------------------------------------------------------------------------


def test_what_was_described_goes_out_and_comes_in(museum: Museum, tmp_path: Path) -> None:
    described = described_of(museum, made_by={"backbone": "tiny"})
    path = write_official(tmp_path / "new" / "descriptors.pkl", described)
    assert path == tmp_path / "new" / "descriptors.pkl" and [p.name for p in path.parent.iterdir()] == [path.name]
    assert list(read_official(path)) == list(OFFICIAL.values())
    for back in (from_official(path, museum), read(path, museum)):
        assert same(back, described) and back.museum is museum
        assert back.made_by == {"weights": sha256(path)}  # who made it isn't said; another file is another row


def test_plain_pickle_reads_what_we_write(museum: Museum, tmp_path: Path) -> None:
    described = described_of(museum)
    with write_official(tmp_path / "descriptors.pkl", described).open("rb") as file:
        content = pickle.load(file)
    assert list(content) == ["train_descriptors", "val_descriptors", "test_descriptors"]
    for name, key in OFFICIAL.items():
        assert content[key].dtype == np.float32 and content[key].flags.writeable
        np.testing.assert_array_equal(content[key], getattr(described, name))


def test_missing_descriptors_are_named(museum: Museum, tmp_path: Path) -> None:
    queries = {OFFICIAL[name]: rows for name, rows in rows_of(museum).items() if name != "database"}
    path = write_official(tmp_path / "queries.pkl", queries)
    with pytest.raises(ValueError, match=r"queries\.pkl has no train_descriptors \(found: val_d.*queries alone"):
        from_official(path, museum)


def official_of(museum: Museum, path: Path, **other: NDArray[Any]) -> Path:
    return write_official(path, {OFFICIAL[name]: rows for name, rows in (rows_of(museum) | other).items()})


def test_other_row_counts_are_named_with_the_database_that_fits(tmp_path: Path) -> None:
    museum, mini = museum_of(tmp_path), museum_of(tmp_path, "mini", 4)
    path = official_of(mini, tmp_path / "x.pkl")
    with pytest.raises(ValueError, match=r"train_descriptors has 4 rows, but .* of ours lists 8 database .*name the"):
        from_official(path, museum)
    write_truth(museum)
    write_truth(mini)
    with pytest.raises(ValueError, match=r"has 4 rows.* lists 8 .*the mini database has 4: ask for 'mini'"):
        from_official(path, dataset.load(tmp_path))
    with pytest.raises(ValueError, match=r"has 8 rows.* lists 4 .*the full database has 8: ask for 'full'"):
        from_official(official_of(museum, tmp_path / "y.pkl"), dataset.load(tmp_path, "mini"))
    for name, key in (("val", "val_descriptors"), ("test", "test_descriptors")):
        other = official_of(museum, tmp_path / "z.pkl", **{name: np.ones((3, 6))})
        with pytest.raises(ValueError, match=rf"{key} has 3 rows, but the ground truth .* lists \d {name} images"):
            from_official(other, museum)


def test_the_mets_own_counts_are_known(museum: Museum, tmp_path: Path) -> None:
    path = official_of(museum, tmp_path / "x.pkl", database=np.ones((38_307, 1)))
    with pytest.raises(ValueError, match=r"has 38307 rows.*the mini database has 38307"):
        from_official(path, museum)


def test_other_faults_of_descriptors_name_the_file(museum: Museum, tmp_path: Path) -> None:
    path = official_of(museum, tmp_path / "x.pkl", val=np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"x\.pkl: val has descriptors of 3 dimensions, the database of 6"):
        from_official(path, museum)
    bad = {OFFICIAL[name]: rows.copy() for name, rows in rows_of(museum).items()}
    bad["test_descriptors"][2] = np.nan
    (tmp_path / "nan.pkl").write_bytes(pickle.dumps(bad))
    with pytest.raises(ValueError, match=r"nan\.pkl: test_descriptors: row 2 is NaN"):
        from_official(tmp_path / "nan.pkl", museum)


def test_rows_of_another_length_are_made_unit(museum: Museum, tmp_path: Path) -> None:
    rows = rows_of(museum)
    long = {name: array * 7 for name, array in rows.items()}
    described = from_official(official_of(museum, tmp_path / "x.pkl", **long), museum)
    (tmp_path / "half.pkl").write_bytes(pickle.dumps({OFFICIAL[n]: a.astype("f2") for n, a in rows.items()}))
    half = from_official(tmp_path / "half.pkl", museum)
    for name, array in rows.items():
        np.testing.assert_allclose(getattr(described, name), array, atol=1e-6)
        np.testing.assert_array_equal(getattr(half, name), array.astype("f2").astype("f4"))  # unit enough


# --- several sets ---------------------------------------------------------------------------------------------------


def test_sets_are_joined_with_equal_weight(museum: Museum) -> None:
    one, two = rows_of(museum, 4, seed=1), rows_of(museum, 6, seed=2)
    long = {name: array * 100 for name, array in two.items()}
    joined = concatenate([Described(museum, **one), Described(museum, **long)])
    assert joined.museum is museum
    for split, name in museum.splits():
        rows = getattr(joined, name)
        assert rows.shape == (len(split), 10) and rows.dtype == np.float32
        for i, row in enumerate(rows):  # by hand: two unit vectors side by side have the length of sqrt(2)
            np.testing.assert_allclose(row, np.concatenate([one[name][i], two[name][i]]) / np.sqrt(2), atol=1e-6)
    alone = concatenate([Described(museum, **one)])
    np.testing.assert_allclose(alone.database, one["database"], atol=1e-6)


def test_a_concatenation_says_what_made_it(museum: Museum) -> None:
    a = {"backbone": "A", "weights": "aa", "scales": (1.0, 0.5), "network": {"arch": "x"}}
    b = a | {"backbone": "B", "weights": "bb", "network": {"arch": "y"}}

    def joined(*made_by: dict[str, Any]) -> Mapping[str, Any]:
        return concatenate([described_of(museum, made_by=one) for one in made_by]).made_by

    assert joined(a, b) == {"backbone": "A + B", "weights": "aa+bb", "scales": (1.0, 0.5)}
    assert joined(a, b | {"scales": (1.0,)}) == {"backbone": "A + B", "weights": "aa+bb"}
    assert joined(a) == a and joined(a, {}) == {}


def test_sets_of_other_images_are_refused(museum: Museum) -> None:
    first = described_of(museum)

    def against(**splits: Split) -> str:
        other = Museum(**({name: split for split, name in museum.splits()} | splits))
        with pytest.raises(ValueError, match="1 and 3 list different images") as caught:
            concatenate([first, first, described_of(other)])
        return str(caught.value)

    assert "test row 2 is 'test/2.jpg' (label 3) in the first, 'test/3.jpg' (label 2) in the other" in against(
        test=museum.test.take([0, 1, 3, 2, 4, 5])
    )
    assert "val row 1 is 'val/1.jpg' (label 1) in the first, 'val/1.jpg' (label 7) in the other" in against(
        val=Split(museum.val.paths, np.array([0, 7, -1, 2, -1]))
    )
    message = against(database=museum.database.take(range(6)))
    assert "database row 6 is 'MET/6/0.jpg' (label 6) in the first, no row 6 in the other (8 and 6 images)" in message
    with pytest.raises(ValueError, match="no descriptor sets"):
        concatenate([])


# --- simulated visits -------------------------------------------------------------------------------------------------


def test_visits_are_of_a_drawn_number_of_works_always_the_same() -> None:
    paths = np.array([f"MET/{i // 2}/{i % 2}.jpg" for i in range(40)])
    database = Split(paths, np.arange(40) // 2)
    assert visited(database) is database and visited(database, 20) is database
    few = visited(database, 7)
    assert len(np.unique(few.labels)) == 7 and len(few) == 14  # every image of those works
    assert few.sha256 == visited(database, 7).sha256


def test_visits_are_joined_with_their_sets(museum: Museum) -> None:
    rows, seen = np.arange(8), unit(np.random.default_rng(4).normal(size=(8, 6)).astype(np.float32))
    one, other = (replace(described_of(museum, seed=seed), visits=Visits(rows, seen)) for seed in (0, 1))
    joined = concatenate([one, other]).visits
    assert joined is not None and np.array_equal(joined.rows, rows)
    np.testing.assert_allclose(joined.descriptors, np.hstack([seen, seen]) / 2**0.5, atol=1e-6)
    assert concatenate([one, described_of(museum)]).visits is None
    assert concatenate([one, replace(other, visits=Visits(rows[::-1].copy(), seen))]).visits is None


def test_visits_that_do_not_fit_are_refused(museum: Museum) -> None:
    seen = np.eye(8, 6, dtype=np.float32)
    with pytest.raises(ValueError, match=r"rows \(7,\) don't name the image of each visit \(8, 6\)"):
        Visits(np.arange(7), seen)
    for visits in (Visits(np.arange(8), seen[:, :5]), Visits(np.arange(0), seen[:0])):
        with pytest.raises(ValueError, match="don't fit the database"):
            replace(described_of(museum), visits=visits)
