"""Descriptor sets: folders and the authors' pickle read for a museum's own lists; pickles that want to do more."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metlib import dataset, descriptors, extract
from metlib.common.files import sha256
from metlib.dataset import Museum, Split
from metlib.descriptors import (
    OFFICIAL,
    Described,
    concatenate,
    from_official,
    load_descriptors,
    load_labels,
    load_recipe,
    read,
    read_official,
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


def test_what_we_write_names_numpy_as_every_version_does(tmp_path: Path) -> None:
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.ones((3, 2), np.float64))}
    data = write_official(tmp_path / "x.pkl", arrays).read_bytes()
    opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)]
    assert opcodes[0] == ("PROTO", 4) and opcodes[1][0] == "FRAME"
    assert [argument for name, argument in opcodes if name == "GLOBAL"] == ["numpy.core.multiarray _reconstruct"]
    texts = [argument for name, argument in opcodes if "UNICODE" in name]
    assert texts == ["a", "numpy", "ndarray", "dtype", "f4", "<", "b"]  # what comes again is from the memo
    assert b"_core" not in data
    assert read_official(tmp_path / "x.pkl")["b"].dtype == np.float32


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_official(tmp_path / "x.pkl", {"a": np.ones((2, 3))})
    before = path.read_bytes()
    bad: dict[str, Mapping[Any, Any]] = {
        "row 1 is NaN": {"a": np.array([[1.0], [np.nan]])},
        "row 0 is zero": {"a": np.zeros((2, 2))},
        "must be .N, D.": {"a": np.ones(3)},
        "expected arrays by name": {},
        r"got \[3\]": {3: np.ones((2, 2))},
    }
    for message, arrays in bad.items():
        with pytest.raises(ValueError, match=message):
            write_official(path, arrays)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


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
    half = from_official(write(tmp_path, {OFFICIAL[n]: a.astype("f2") for n, a in rows.items()}), museum)
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


# --- pickles that want to do more ------------------------------------------------------------------------------------


def official(dtype: str = "<f4") -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    sizes = {"train_descriptors": 5, "val_descriptors": 3, "test_descriptors": 4}
    return {name: generator.normal(size=(n, 6)).astype(dtype) for name, n in sizes.items()}


def write(tmp_path: Path, content: Any, protocol: int = 4) -> Path:
    path = tmp_path / "descriptors.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_the_authors_arrays_come_back(protocol: int, dtype: str, tmp_path: Path) -> None:
    content = official(dtype)
    content["val_descriptors"] = np.asfortranarray(content["val_descriptors"])
    content["test_descriptors"] = content["test_descriptors"][::2]
    read = read_official(write(tmp_path, content, protocol))
    assert list(read) == list(content)
    for name, array in read.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        np.testing.assert_array_equal(array, content[name].astype(np.float32))


@pytest.mark.parametrize("protocol", [0, 2])
def test_files_of_either_numpy_are_read(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps(official(), protocol)
    old, new = (data.replace(b"numpy._core", b"numpy.core"), data.replace(b"numpy.core", b"numpy._core"))
    assert old != new or np.__version__ < "2"
    for version in (old, new):
        np.testing.assert_array_equal(
            read_official(write(tmp_path, version))["val_descriptors"], official()["val_descriptors"]
        )


class Calls:
    """Pickles as a call of anything with anything, and then a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.how = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.how


RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
F4 = np.dtype("<f4")


def array_of(*state: Any) -> Calls:
    return Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


def wild() -> Calls:
    """Two made-up pointers as Python objects, which numpy's own __setstate__ accepts."""
    objects = Calls(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0))
    return array_of(1, (2,), objects, False, b"\x41" * 16)


def hostile(marker: str) -> dict[str, Any]:
    touch = f"open({marker!r}, 'w').close()"
    rows = b"\0" * 16
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, touch),
        "exec nested": {"train_descriptors": [({"x": Calls(exec, touch)},)]},
        "subprocess": Calls(subprocess.Popen, ["touch", marker]),
        "open": Calls(io.open, marker, "w"),
        "as a state": Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=Calls(eval, touch)),
        "as an argument": Calls(np.dtype, Calls(eval, touch), False, True),
        "numpy.load": f"cnumpy\nload\n(V{marker}\ntR.".encode(),
        "numpy.save": b"cnumpy\nsave\n(V" + marker.encode() + b"\nI1\ntR.",
        "numpy file": b"cnumpy\nndarray.tofile\n(V" + marker.encode() + b"\ntR.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len("touch " + marker)])
        + f"touch {marker}".encode() + b"\x85R.",
        "inst": f"(S'touch {marker}'\nios\nsystem\n.".encode(),
        "runpy": b"crunpy\nrun_path\n(Vx.py\ntR.",
        "objects": {"x": np.array([[1, "a"]], dtype=object)},
        "records": {"x": np.zeros((2, 2), dtype=[("a", "f4")])},
        "texts": {"x": np.array([["a"]])},
        "integers": {"x": np.zeros((2, 2), dtype=int)},
        "1-D": {"x": np.zeros(3, dtype=np.float32)},
        "3-D": {"x": np.zeros((3, 3, 3), dtype=np.float32)},
        "scalar": {"x": np.float32(3)},
        "list": [np.zeros((2, 2), dtype=np.float32)],
        "array": np.zeros((2, 2), dtype=np.float32),
        "number": {"x": 3},
        "dtype": {"x": F4},
        "bytes": {"x": b"abc"},
        "key": {3: np.zeros((2, 2), dtype=np.float32)},
        "nothing": {},
        "huge shape": {"x": array_of(1, (2**40, 2**20), F4, False, rows)},
        "overflowing shape": {"x": array_of(1, (2**62, 4), F4, False, rows)},
        "negative shape": {"x": array_of(1, (-1, 2), F4, False, rows)},
        "no values": {"x": Calls(RECONSTRUCT, np.ndarray, (0,), b"b")},
        "huge ndarray": {"x": Calls(np.ndarray, (2**20, 2**20))},
        "ndarray": {"x": Calls(np.ndarray, (2, 2))},
        "huge buffer": {"x": Calls(FROMBUFFER, rows, F4, (2**40, 4), "C")},
        "text buffer": {"x": Calls(FROMBUFFER, "0000", F4, (1, 1), "C")},
        "order": {"x": Calls(FROMBUFFER, rows, F4, (2, 2), "X")},
        "pointers": {"x": wild()},
        "pointers followed": {"x": Calls(FROMBUFFER, b"1234", np.dtype("u1"), wild(), "C")},
        "dtype state": {"x": array_of(1, (2, 2), Calls(np.dtype, "f4", False, True, state=(3, 5, 5, 5)), False, rows)},
        "codec": {"x": b"c_codecs\nencode\n(Vabc\nVzip\ntR."},
        "raw codec": b"c_codecs\nencode\n(Vabc\nVzip\ntR.",
        "codec of a kind": b"c_codecs\nencode\n(I3\nVlatin1\ntR.",
        "state of a function": b"c_codecs\nencode\n}S'__globals__'\nI1\nsb.",
        "slots of a function": b"c_codecs\nencode\n(N}S'__defaults__'\n)stb.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pabc\n.",
        "deep": b"(" * 200_000 + b"t" * 200_000 + b".",
        "empty": b"",
        "garbage": b"\x00\xff garbage",
        "torch": b"\x80\x02ctorch._utils\n_rebuild_tensor\n(tR.",
        "truncated": pickle.dumps(official(), 4)[:-50],
        "cut short": pickle.dumps(official(), 2)[:40],
        "long": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.",
    }  # fmt: skip


@pytest.mark.parametrize("case", hostile("/marker"))
def test_a_hostile_or_damaged_pickle_runs_nothing(case: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = hostile(str(marker))[case]
    for protocol in (2, 4, 5):
        with pytest.raises(ValueError, match=r"descriptors\.pkl"):
            read_official(write(tmp_path, content, protocol))
    time.sleep(0.05 if case == "subprocess" else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["descriptors.pkl"]
    read_official(write(tmp_path, official()))  # and it left nothing changed behind


def test_a_missing_pickle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        read_official(tmp_path / "none.pkl")
