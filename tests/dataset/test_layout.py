"""The Met layout: the real ground truth, a small one written here, and what hostile ones get."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metlib import dataset
from metlib.cli import main
from metlib.dataset import BadGroundTruth, Museum, Split, layout

SHARED = Path(__file__).parents[3] / "shared"
real = pytest.mark.skipif(not (SHARED / "data" / "met_ground_truth").is_dir(), reason="no ../shared/data here")

DATABASE = [
    {"id": 52, "path": "MET/52/0.jpg"},
    {"id": 52, "path": "MET/52/1.jpg"},
    {"id": 7, "path": "MET/7/0.jpg"},
]
QUERIES = [
    {"MET_id": 52, "path": "test_met/a.jpg", "photographer": "someone"},
    {"path": "test_other/b.jpg", "category": "other"},
    {"path": "test_noart/c.jpg"},
]


def write(root: Path, *, beside: bool = False, images: bool = False, **files: Any) -> Path:
    """A museum of three database images and two times three queries; `files` replaces rows or raw bytes."""
    test = [row | {"path": str(row["path"]).replace(".", "-test.")} for row in QUERIES]
    content = {
        "MET_database": DATABASE,
        "mini_MET_database": DATABASE[:2],
        "valset": QUERIES,
        "testset": test,
    }
    truth = root if beside else root / "ground_truth"
    truth.mkdir(parents=True, exist_ok=True)
    for name, rows in (content | files).items():
        if rows is not None:
            raw = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
            (truth / f"{name}.json").write_bytes(raw)
    if images:
        for row in (*DATABASE, *QUERIES, *test):
            path = root / ("" if beside else "images") / str(row["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 30), 60).save(path)
    return root


# ---- the real thing ----


@real
def test_the_mini_met_is_counted_right() -> None:
    museum = dataset.load(SHARED / "data" / "met_ground_truth", "mini")
    for split, total, positive, other, noart, exhibits in (
        (museum.val, 2_165, 129, 1_168, 868, 111),
        (museum.test, 19_319, 1_003, 10_352, 7_964, 734),
    ):
        folders = Counter(str(path).split("/")[0] for path in split.paths)
        assert len(split) == total
        assert folders == {"test_met": positive, "test_other": other, "test_noart": noart}
        assert (split.labels != -1).sum() == positive
        assert len(np.unique(split.labels[split.labels != -1])) == exhibits
    images_of = np.unique(museum.database.labels, return_counts=True)[1]
    assert (len(museum.database), len(images_of), (images_of == 1).sum()) == (38_307, 33_501, 30_451)
    assert (museum.kind, museum.name) == ("mini", "met_ground_truth")
    assert museum.database.labels.dtype == np.int64
    assert museum.database.file(0) == SHARED / "data" / "met_ground_truth" / "MET" / "52" / "0.jpg"


@real
def test_the_full_database_is_missed_by_name_with_the_way_out() -> None:
    with pytest.raises(FileNotFoundError, match=r"has no MET_database\.json .*database='mini'"):
        dataset.load(SHARED / "data" / "met_ground_truth")


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "uab_museum").is_dir(), reason="no ../shared/data/uab_museum here")
def test_real_photographs_load_and_verify() -> None:
    museum = dataset.load(SHARED / "data" / "uab_museum")
    assert [len(split) for split, _ in museum.splits()] == [278, 228, 500]
    assert [(split.labels >= 0).sum() for split in (museum.val, museum.test)] == [93, 140]
    assert museum.root == SHARED / "data" / "uab_museum"
    assert dataset.verify(museum) == []


# ---- reading ----


@pytest.mark.parametrize("beside", [False, True], ids=["folders", "beside each other"])
def test_both_layouts_are_read(tmp_path: Path, beside: bool) -> None:
    museum = dataset.load(write(tmp_path / "small", beside=beside, images=True))
    assert museum.database.paths.tolist() == ["MET/52/0.jpg", "MET/52/1.jpg", "MET/7/0.jpg"]
    assert museum.database.labels.tolist() == [52, 52, 7]
    assert museum.val.labels.tolist() == museum.test.labels.tolist() == [52, -1, -1]
    assert museum.val.file(1).is_file()
    assert (museum.name, museum.kind) == ("small", "full")
    assert [label for _, label in museum.splits()] == ["database", "val", "test"]
    assert dataset.verify(museum) == []


def test_the_mini_database_is_asked_for(tmp_path: Path) -> None:
    museum = dataset.load(str(write(tmp_path)), database="mini")
    assert (len(museum.database), museum.kind) == (2, "mini")
    with pytest.raises(ValueError, match=r"'huge': expected one of full, mini"):
        dataset.load(tmp_path, "huge")


def test_utf8_names_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    raw = json.dumps([{"id": 1, "path": "MET/é/½.jpg"}], ensure_ascii=False).encode("utf-8-sig")
    assert dataset.load(write(tmp_path, MET_database=raw)).database.paths.tolist() == ["MET/é/½.jpg"]


def test_a_root_that_is_no_museum_is_refused_with_the_way_out(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=r"is no museum: .*valset.json.*Expected images/") as caught:
            dataset.load(root)
        assert str(root) in str(caught.value)
        assert "metlib paint" in str(caught.value)
        assert "metlib download" in str(caught.value)


def test_a_missing_file_is_named_beside_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no MET_database\.json .*found: mini_MET.*database='mini'"):
        dataset.load(write(tmp_path / "a", MET_database=None))
    with pytest.raises(FileNotFoundError, match=r"no mini_MET_database\.json .*database='full'"):
        dataset.load(write(tmp_path / "b", mini_MET_database=None), "mini")
    with pytest.raises(FileNotFoundError, match=r"no valset\.json") as caught:
        dataset.load(write(tmp_path / "c", valset=None), "mini")
    assert "database=" not in str(caught.value)  # another database would not help


# ---- hostile ground truth ----


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "damaged JSON"),
        (b'[{"id": 1, "path": "a', "damaged JSON"),
        (b"\xff\xfe\xfa", "damaged JSON"),
        (b"[" * 200_000, "damaged JSON"),
        (b'{"a":' * 100_000, "damaged JSON"),
        (b'[{"id": ' + b"9" * 5000 + b', "path": "a"}]', "damaged JSON"),
        (b'{"id": 1, "path": "a"}', "expected a list of objects, got dict"),
        (b'"text"', "expected a list of objects, got str"),
        (b"null", "expected a list of objects, got NoneType"),
        (b"[]", "is empty"),
        (b"[1]", "row 0: expected an object with a text 'path', got 1"),
        (b'[["id", 1]]', "row 0: expected an object"),
        (b'[{"id": 1}]', "row 0: expected an object with a text 'path'"),
        (b'[{"id": 1, "path": 5}]', "row 0: expected an object with a text 'path'"),
        (b'[{"id": 1, "path": null}]', "row 0: expected an object with a text 'path'"),
        (b'[{"MET_id": 1, "path": "a"}]', "row 0: expected the exhibit under 'id'"),
    ],
    ids=range(16),
)
def test_damaged_json_and_other_schemas_are_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(BadGroundTruth) as caught:
        dataset.load(write(tmp_path, MET_database=raw))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", ["52", "", True, False, 52.0, 1.5, -1, -52, 2**63, 10**30, None, [52], {"id": 52}])
@pytest.mark.parametrize("key", ["id", "MET_id"])
def test_an_exhibit_id_that_is_no_integer_is_refused(tmp_path: Path, value: object, key: str) -> None:
    name, rows = ("MET_database", DATABASE) if key == "id" else ("testset", QUERIES)
    with pytest.raises(BadGroundTruth, match=rf"{name}.json, row 3: {key} must be an integer of 0 or more") as caught:
        dataset.load(write(tmp_path, **{name: [*rows, {key: value, "path": "test_met/z.jpg"}]}))
    assert f"got {value!r}" in str(caught.value)


def test_the_largest_id_is_read(tmp_path: Path) -> None:
    museum = dataset.load(write(tmp_path, MET_database=[{"id": 2**63 - 1, "path": "a.jpg"}, {"id": 0, "path": "b"}]))
    assert museum.database.labels.tolist() == [2**63 - 1, 0]


BAD_PATHS = [
    "/etc/passwd", "//host/a", "../a.jpg", "MET/../../a.jpg", "MET/..", "..", ".", "./a.jpg", "MET/./a.jpg", "",
    "MET//a.jpg", "MET/", "MET\\..\\a.jpg", "C:/a.jpg", "C:a.jpg", "MET/\0.jpg", "a\nb.jpg", "a.jpg\n", "\n",
    "a\r.jpg", "a\x1b[2J.jpg", "a\x7f.jpg", "a\x85.jpg", "MET/\ud800.jpg",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
@pytest.mark.parametrize("name", ["MET_database", "valset"])
def test_a_path_that_leaves_the_image_root_is_refused(tmp_path: Path, path: str, name: str) -> None:
    rows = DATABASE if name == "MET_database" else QUERIES
    wrong = {"id": 1, "path": path} if name == "MET_database" else {"path": path}
    with pytest.raises(BadGroundTruth, match=rf"{name}.json, row 3: path .* leaves the image root") as caught:
        dataset.load(write(tmp_path, **{name: [*rows, wrong]}))
    assert repr(path) in str(caught.value)
    assert "such as MET/52/0.jpg" in str(caught.value)


@pytest.mark.parametrize(
    "path", ["a.jpg", "MET/..a/b..jpg", "MET/.hidden", "MET/a b, c (1).jpg", "MET/日本.jpg", "ab:c"]
)
def test_plain_paths_pass(tmp_path: Path, path: str) -> None:
    museum = dataset.load(write(tmp_path, MET_database=[{"id": 1, "path": path}]))
    assert museum.database.paths.tolist() == [path]


def test_a_very_long_path_does_not_fill_the_screen(tmp_path: Path) -> None:
    with pytest.raises(BadGroundTruth) as caught:
        dataset.load(write(tmp_path, MET_database=[{"id": 1, "path": "/" + "a" * 100_000}]))
    assert len(str(caught.value)) < 600


def test_duplicates_are_refused_by_name(tmp_path: Path) -> None:
    twins = [*DATABASE, {"id": 7, "path": "MET/52/1.jpg"}]
    with pytest.raises(BadGroundTruth, match=r"MET_database.json: duplicate path 'MET/52/1.jpg'"):
        dataset.load(write(tmp_path, MET_database=twins))


def test_what_is_well_is_checked_in_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("row by row")

    monkeypatch.setattr(layout, "_row_by_row", refuse)
    museum = dataset.load(write(tmp_path))
    assert museum.database.paths.tolist() == [row["path"] for row in DATABASE]
    assert museum.database.labels.tolist() == [52, 52, 7]
    assert museum.test.labels.tolist() == [52, -1, -1]


ODD_PATHS = [
    *BAD_PATHS,
    "a.jpg",
    "MET/1/0.jpg",
    "é.jpg",
    "ab:c",
    "MET/.hidden",
    "MET/-a",
    " a",
    "a/b/c",
    "a~",
    5,
    None,
    ["a"],
]
ODD_IDS = [0, 1, 52, 2**63 - 1, 2**63, -1, -2, -1.0, 1.0, True, "1", None, [1], {"path": "x", "id": 1}]
ODD_ROWS = [["MET/1.jpg", 5], [], {}, "ab", 7, None, {"id": 3}, {"MET_id": 3}, {"path": "z"}]
KINDS = ["odd path", "odd id", "odd row", "extra"]


@pytest.mark.parametrize("key", ["id", "MET_id"])
@pytest.mark.parametrize("seed", range(150))
def test_in_bulk_and_row_by_row_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, seed: int
) -> None:
    rng = random.Random(seed)
    rows: list[Any] = [{key: rng.randrange(9), "path": f"MET/{i}.jpg"} for i in range(rng.randrange(1, 6))]
    row = rng.choice(rows)
    match rng.choice(KINDS):
        case "odd path":
            row["path"] = rng.choice([*ODD_PATHS, "MET/0.jpg"])
        case "odd id":
            row[key] = rng.choice(ODD_IDS)
        case "odd row":
            rows.insert(rng.randrange(len(rows)), rng.choice(ODD_ROWS))
        case "extra":
            row["more"] = rng.choice([None, "[", "a\\b", {"path": "x", key: -1}, [1], {"x": 1}, 1.5])
    raw = json.dumps(rows, ensure_ascii=rng.random() < 0.5 or "\ud800" in str(row)).encode(errors="surrogatepass")
    file = tmp_path / "rows.json"
    file.write_bytes(raw)

    def outcome() -> object:
        try:
            split = layout._read_split(file, key, tmp_path, required=key == "id")
        except BadGroundTruth as error:
            return str(error)
        return split.paths.tolist(), split.labels.tolist()

    in_bulk = outcome()
    monkeypatch.setattr(layout, "_at_once", lambda *_, **__: None)
    assert in_bulk == outcome()


@pytest.mark.parametrize("name", ["valset", "testset"])
@pytest.mark.parametrize("rows", [[], QUERIES[1:]])
def test_queries_without_any_exhibit_are_refused(tmp_path: Path, name: str, rows: list[object]) -> None:
    with pytest.raises(BadGroundTruth, match=rf"the {name[:-3]} split .*no positive query among {len(rows)}"):
        dataset.load(write(tmp_path, **{name: rows}))


# ---- the values ----


def test_a_split_is_frozen_to_the_last_array() -> None:
    source = np.array([1, -1])
    split = Split(np.array(["a", "b"]), source, Path("root"))
    source[0] = 9
    assert split.labels.tolist() == [1, -1]
    for array in (split.labels, split.paths):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(AttributeError):
        split.root = Path()  # type: ignore[misc]
    assert split.file(1) == Path("root/b")
    assert len(split) == 2


def test_paths_that_nobody_else_can_change_are_not_copied() -> None:
    own = np.array(["a", "b"])
    own.flags.writeable = False
    assert Split(own, [1, 2]).paths is own  # type: ignore[arg-type]
    theirs = np.array(["a", "b", "c"])
    view = theirs[:2]
    view.flags.writeable = False
    split = Split(view, [1, 2])  # type: ignore[arg-type]
    theirs[0] = "z"
    assert split.paths.tolist() == ["a", "b"]


@pytest.mark.parametrize("width", [3, 4, 7])  # letters are read in pairs where the width is even
def test_a_twin_is_found_among_many(width: int) -> None:
    letters = "abcdefghij"
    names = [f"{letters[i // 100]}{letters[i // 10 % 10]}{letters[i % 10]}".ljust(width, "x") for i in range(1000)]
    names = np.random.default_rng(0).permutation(names).tolist()
    assert len(Split(names, range(1000))) == 1000  # type: ignore[arg-type]
    first, second = sorted(names[:2])
    with pytest.raises(ValueError, match=f"duplicate path '{first}'"):  # the first of both in their own order
        Split([*names, second, first], range(1002))  # type: ignore[arg-type]


def test_take_keeps_rows_in_the_order_asked_for() -> None:
    split = Split(np.array(["a", "b", "c"]), np.array([1, -1, 2]), Path("root"))
    assert split.take([2, 0]).paths.tolist() == ["c", "a"]
    assert split.take(split.labels >= 0).labels.tolist() == [1, 2]
    assert split.take([2]).file(0) == Path("root/c")
    assert len(split.take(np.zeros(3, bool))) == 0


@pytest.mark.parametrize(
    ("paths", "labels", "message"),
    [
        (["a", "b"], [1], "2 paths but 1 labels"),
        (["a", "a"], [1, 2], "duplicate path 'a'"),
        (["a"], [-2], "label -2"),
        (["a"], [0.5], "float64"),
        (["a"], ["1"], "integers"),
        (["a"], [True], "bool"),
        (["a"], [[1]], r"shape \(1, 1\)"),
        (["a"], np.array([2**63], np.uint64), "9223372036854775808 is too large"),
    ],
)
def test_a_split_is_checked_when_made(paths: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(paths, labels)


def test_a_museum_is_checked_when_made() -> None:
    works, queries = Split(["a"], [1]), Split(["q"], [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"empty: it needs at least one image"):
        Museum(works.take([False]), queries, queries)
    with pytest.raises(ValueError, match=r"holds distractors"):
        Museum(Split(["a", "b"], [1, -1]), queries, queries)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"test split .*no positive query among 1"):
        Museum(works, queries, Split(["q"], [-1]))  # type: ignore[arg-type]


# ---- finding ----


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine laid out as Colab's, with a mounted Drive and nothing where the notebook looks first."""
    content = tmp_path / "content"
    (content / "drive/MyDrive").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(layout, "_COLAB", content)
    monkeypatch.setattr(layout, "_COLAB_HOMES", (content, content / "drive/MyDrive", content / "drive/MyDrive/metlib"))
    return content


def test_a_folder_is_taken_as_given(tmp_path: Path) -> None:
    assert dataset.find(tmp_path) == tmp_path
    assert dataset.find(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "place",
    ["data/met", "met", "drive/MyDrive/data/met", "drive/MyDrive/met", "drive/MyDrive/metlib/data/met"],
)
def test_data_are_found_on_colabs_disk_or_drive(colab: Path, place: str) -> None:
    (colab / place).mkdir(parents=True)
    assert dataset.find("../data/met") == colab / place
    assert dataset.find(colab / "elsewhere" / "met") == colab / place


def test_what_is_here_comes_before_colabs_places(colab: Path, tmp_path: Path) -> None:
    for root in (colab / "data/met", tmp_path / "data/met"):
        root.mkdir(parents=True)
    assert dataset.find("../data/met").resolve() == (tmp_path / "data/met").resolve()


def test_a_folder_that_is_nowhere_names_the_places_and_the_ways_out(colab: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder \.\./data/met \(searched: ") as caught:
        dataset.find("../data/met")
    for message in (
        str(colab / "drive/MyDrive/data/met"),
        "metlib paint",
        "metlib download",
    ):
        assert message in str(caught.value)


def test_an_absolute_folder_is_not_replaced_by_another_of_its_name(colab: Path, tmp_path: Path) -> None:
    (colab / "data/met").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no folder"):
        dataset.find(tmp_path / "mine" / "met")


# ---- the command line ----


def test_the_command_line_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "small", images=True)
    assert main(["verify", str(root)]) == 0
    assert "9 images, 0 unusable" in capsys.readouterr().out
    (root / "images/MET/7/0.jpg").write_bytes(b"")
    assert main(["verify", str(root)]) == 1
    assert "empty\t" + str(root / "images/MET/7/0.jpg") in capsys.readouterr().out
    assert main(["verify", str(root), "--database", "mini"]) == 0


@pytest.mark.parametrize("broken", ["no folder", "no museum", "bad rows"])
def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    root = write(tmp_path / "small", valset=b"[" if broken == "bad rows" else QUERIES)
    if broken == "no folder":
        shutil.rmtree(root)
    elif broken == "no museum":
        shutil.rmtree(root / "ground_truth")
    assert main(["verify", str(root)]) == 2
    message = capsys.readouterr()
    assert message.out == ""
    assert message.err.startswith("error: ")
    assert str(root) in message.err


@pytest.mark.parametrize("arguments", [["verify"], ["verify", "a", "--database", "huge"]])
def test_the_command_line_refuses_what_it_does_not_know(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Usage: metlib verify" in capsys.readouterr().err
