"""Readers: the real collections, small ones of every format written here, and damaged ones."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metlib import dataset, labelled
from metlib.labelled import BadLabels
from tests.labelled.samples import ALL, ARTGAN, METADATA, OBJECTS, PUBLISHED, artgan, metadata, names, nga, note, write

# ---- the real ones ----


@pytest.mark.slow
def test_the_impressionists_are_counted_right(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "impressionists64"
    if not root.is_dir():
        pytest.skip("no impressionists64 in ../shared")
    collection = labelled.read(root)
    assert (collection.name, len(collection), collection.notes) == ("impressionists64", 3_491, ())
    assert {name: len(classes) for name, classes in collection.classes.items()} == {
        "artist": 21,
        "genre": 8,
        "style": 2,
    }
    assert [len(collection.split(name)) for name in labelled.SPLITS] == [2_446, 1_045, 0]
    assert str(collection.sources[0]) == "artist_train.csv:1" and collection.file(0).name == "4660.jpg"
    table = pd.read_csv(root / "genre_val.csv", header=None, names=["path", "label"])  # pandas' own reading
    split = collection.split("val")
    assert split.paths.tolist() == table.path.tolist()
    assert collection.labels["genre"][split.labels].tolist() == table.label.tolist()
    assert labelled.find_missing_classes(collection).empty
    shared_images = labelled.find_shared(collection)
    assert shared_images.values.tolist() == [["39519.jpg", "val", "88034.jpg", "train"]]
    assert len(labelled.drop_shared(collection)) == 3_490
    contents = Counter(collection.file(i).read_bytes() for i in range(len(collection)))
    assert len(contents) == 3_491 - 6  # the other five lie inside one split


def test_the_chinese_paintings_are_counted_right(shared: Path) -> None:
    root = shared / "data" / "chinese_paintings"
    if not root.is_dir():
        pytest.skip("no chinese_paintings in ../shared")
    collection = labelled.read(root)
    assert (len(collection), collection.notes) == (720, ())
    assert collection.classes == {"dc_type": ("flowerBird", "human", "landscape")}
    assert [len(collection.rows(name)) for name in labelled.SPLITS] == [540, 0, 180]
    assert str(collection.paths[0]) == "CP-00413.jpg" and collection.sources[0] == "metadata.csv:2"
    assert names(collection, "dc_type")[:3] == ["landscape", "flowerBird", "flowerBird"]
    assert labelled.majority(collection, "dc_type") == pytest.approx(1 / 3)
    assert len(labelled.drop_shared(collection)) == 720
    held = labelled.hold_out(collection, "dc_type", share=1 / 6)
    assert labelled.count_classes(held)[["train", "val", "test"]].values.tolist() == [[150, 30, 60]] * 3


# ---- ArtGAN ----


@pytest.mark.parametrize("beside", [False, True], ids=["images", "beside the CSVs"])
def test_artgan_is_read(tmp_path: Path, beside: bool) -> None:
    root = artgan(tmp_path / "wiki")
    if beside:
        shutil.copytree(root / "images", root, dirs_exist_ok=True)
        shutil.rmtree(root / "images")
    collection = labelled.read(root)
    assert collection.attributes == ("artist", "style")
    assert collection.paths.tolist() == ["a.jpg", "b.jpg", "d.jpg", "e.jpg", "sub/c.jpg"]
    assert collection.splits.tolist() == ["train", "train", "val", "val", "train"]
    assert collection.labels["style"].tolist() == [0, 1, 0, 1, 1]
    assert names(collection, "artist") == ["Bram van Brandt", "Ada_Alder", "Ada_Alder", "Bram van Brandt", "-"]
    assert collection.sources.tolist() == [
        *("artist_train.csv:2", "artist_train.csv:3", "artist_val.csv:1", "artist_val.csv:2", "style_train.csv:3"),
    ]
    assert collection.file(4).is_file() and collection.groups.tolist() == [0, 1, 2, 3, 4]
    assert collection.notes == ("artist: 1 of 5 images are of no known class",)
    only = labelled.read(root, attributes=["style"])
    assert only.attributes == ("style",) and only.sources[0] == "style_train.csv:1"


def test_an_image_that_is_judged_for_one_attribute_is_judged_for_all(tmp_path: Path) -> None:
    root = artgan(
        tmp_path,
        artist_train="a.jpg,1\nd.jpg,0\nsub/c.jpg,0\n",  # style: d val, c train
        artist_val="b.jpg,0\ne.jpg,1\n",  # style: b train
        artist_test="e.jpg,1\n",
    )
    collection = labelled.read(root)
    assert dict(zip(collection.paths.tolist(), collection.splits.tolist(), strict=True)) == {
        "a.jpg": "train",
        "b.jpg": "val",
        "sub/c.jpg": "train",
        "d.jpg": "val",
        "e.jpg": "test",
    }
    assert len(collection.notes) == 4
    first = "1 of 2 images of artist-val are in style-train (first b.jpg, artist_val.csv:1 and style_train.csv:2): "
    assert first + "they count as val for every attribute" in collection.notes
    assert "d.jpg, style_val.csv:1 and artist_train.csv:2" in note(collection, "1 of 2", "style-val", "artist-train")
    assert "count as test" in note(collection, "1 of 1", "artist-test are in artist-val", "artist_test.csv:1")
    assert "e.jpg" in note(collection, "artist-test are in style-val")
    rows = {str(path): str(source) for path, source in zip(collection.paths, collection.sources, strict=True)}
    assert rows["b.jpg"] == "artist_val.csv:1" and rows["d.jpg"] == "style_val.csv:1"


def test_a_leak_is_counted_as_sets_count_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [f"{i}.jpg" for i in range(200)]
    texts: dict[str, Any] = {"style_class": "0 a\n1 b\n", "artist_class": "0 c\n1 d\n"}
    parts: dict[str, set[str]] = {}
    for attribute in ("style", "artist"):
        order = rng.permutation(images)
        for split, chosen in (("train", order[:120]), ("val", order[120:170])):
            parts[f"{attribute}-{split}"] = set(chosen.tolist())
            texts[f"{attribute}_{split}"] = "".join(f"{name},{int(name[:-4]) % 2}\n" for name in chosen)
    collection = labelled.read(artgan(tmp_path, " ".join(images), **texts))
    for judged, trained in (("artist-val", "style-train"), ("style-val", "artist-train")):
        both = len(parts[judged] & parts[trained])
        assert note(collection, judged + " are in", trained).startswith(f"{both} of 50 images")
    assert set(collection.split("val").paths.tolist()) == parts["style-val"] | parts["artist-val"]
    trained_on = set(collection.split("train").paths.tolist())
    assert trained_on == (parts["style-train"] | parts["artist-train"]) - parts["style-val"] - parts["artist-val"]


def test_an_image_twice_with_its_class_is_noted_and_with_two_classes_refused(tmp_path: Path) -> None:
    twice = labelled.read(artgan(tmp_path / "a", style_train="a.jpg,0\nb.jpg,1\na.jpg,0\nsub/c.jpg,1\n"))
    assert len(twice) == 5
    assert "a.jpg (style_train.csv:1 and style_train.csv:3)" in note(twice, "1 lines of style_train.csv repeat")
    both = labelled.read(artgan(tmp_path / "b", style_val="a.jpg,0\nd.jpg,0\ne.jpg,1\n"))
    assert "count as val" in note(both, "1 of 3 images of style-val are in style-train")
    for name, where in (("style_train", "style_train.csv:4"), ("style_val", "style_val.csv:4")):
        lines = ARTGAN[f"{name}.csv"] + ("" if name == "style_train" else "sub/c.jpg,1\n") + "a.jpg,1\n"
        with pytest.raises(BadLabels, match=rf"a.jpg is 'Cubism' in style_train.csv:1 but 'Pop_Art' in {where}"):
            labelled.read(artgan(tmp_path / name, **{name: lines}))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "style_train",
            "a.jpg,0\nb.jpg,2\n",
            r"style_train.csv:2: class index 2, but style_class.txt has 2 classes, 0 to 1",
        ),
        ("style_train", "a.jpg,0\nb.jpg,-1\n", r"style_train.csv:2: the class index must be an integer .* got '-1'"),
        ("style_train", "a.jpg,0\nb.jpg,1.0\n", r"style_train.csv:2: .*'1.0'"),
        ("style_train", "a.jpg,x\n", r"style_train.csv:1: .*'x'"),  # no header: it names an image
        ("style_train", "a.jpg,0\n\nb.jpg,\n", r"style_train.csv:3: .*got ''"),
        ("style_train", "a.jpg,0\nb.jpg," + "9" * 5000, r"style_train.csv:2: the class index must be"),
        ("style_train", "a.jpg,0\nb.jpg,١\n", r"style_train.csv:2: the class index must be"),
        ("style_train", "a.jpg,0\nb.jpg\n", r"style_train.csv:2: expected path,class_index, got 'b.jpg'"),
        ("style_train", "a.jpg,0\nb.jpg,x,1\n", r"style_train.csv:2: expected path,class_index"),
        ("style_train", "a.jpg,0\n../b.jpg,1\n", r"style_train.csv:2: path '../b.jpg' leaves the image root"),
        ("style_train", "/etc/b.jpg,0\n", r"style_train.csv:1: path '/etc/b.jpg' leaves the image root"),
        ("style_train", 'a.jpg,0\n"b\nc.jpg",1\n', r"style_train.csv:2: path 'b\\nc.jpg' leaves"),
        ("style_train", 'a.jpg,0\n"b.jpg,1\n', r"style_train.csv:2: damaged CSV"),
        ("style_train", b"a.jpg,0\n\xff.jpg,1\n", r"style_train.csv:2: no UTF-8 \(invalid start byte\)"),
        ("style_class", b"0 \xff\n", r"style_class.txt:1: no UTF-8"),
        ("style_class", "0 Cubism\nPop Art\n", r"style_class.txt:2: expected a class as '0 name', got 'Pop Art'"),
        ("style_class", "0 Cubism\n1\n", r"style_class.txt:2: expected a class as '0 name'"),
        ("style_class", "0 Cubism\n0 Pop_Art\n", r"style_class.txt:2: class 0 'Pop_Art' repeats"),
        ("style_class", "0 Cubism\n1 Cubism\n", r"style_class.txt:2: class 1 'Cubism' repeats"),
        ("style_class", "0 Cubism\n2 Pop_Art\n", r"style_class.txt: classes must be numbered from 0 without gaps"),
        ("style_class", "\n", r"style_class.txt: classes must be numbered"),
    ],
)
def test_damaged_artgan_files_are_refused_by_file_and_line(
    tmp_path: Path, file: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(BadLabels, match=message):
        labelled.read(artgan(tmp_path, images=ALL, **{file: text}))


def test_rows_without_images_and_images_without_rows(tmp_path: Path) -> None:
    root = artgan(tmp_path, "a.jpg d.jpg e.jpg sub/c.jpg other.png ._a.jpg notes.txt")
    with pytest.raises(FileNotFoundError, match=r"1 of 5 rows .* b.jpg \(artist_train.csv:3\)\. .*on_missing='skip'"):
        labelled.read(root)
    collection = labelled.read(root, on_missing="skip", attributes=["style"])
    assert len(collection) == 4 and "b.jpg" not in collection.paths
    assert note(collection, "style_train.csv:2").endswith("left out")
    assert note(collection, "have no row").endswith("have no row: other.png")
    shutil.rmtree(root / "images")
    with pytest.raises(FileNotFoundError, match="5 of 5 rows"):
        labelled.read(root, on_missing="skip")
    with pytest.raises(ValueError, match="on_missing 'ignore'"):
        labelled.read(root, on_missing="ignore")


def test_small_classes_are_left_out_where_asked(tmp_path: Path) -> None:
    root = artgan(
        tmp_path,
        style_class="0 Fauvism\n1 Cubism\n2 Pop_Art\n3 Op_Art\n",
        style_train="a.jpg,1\nb.jpg,1\nsub/c.jpg,2\n",
        style_val="d.jpg,2\ne.jpg,3\n",
    )
    plain = labelled.read(root, attributes=("style",))
    assert plain.classes["style"] == ("Cubism", "Pop_Art", "Op_Art") and plain.labels["style"].tolist() == [
        0,
        0,
        1,
        1,
        2,
    ]
    assert note(plain, "fewer than 1 images").endswith("left out: Fauvism (0)")
    assert note(plain, "single image").endswith("Op_Art (style_val.csv:2)")
    everything = labelled.read(root, attributes=("style",), least=0)
    assert everything.labels["style"].tolist() == [1, 1, 2, 2, 3] and len(everything.classes["style"]) == 4
    fewer = labelled.read(root, attributes=("style",), least=2)
    assert fewer.classes["style"] == ("Cubism", "Pop_Art") and len(fewer) == 4
    assert "Fauvism (0), Op_Art (1)" in note(fewer, "fewer than 2")
    assert "style_val.csv:2" in note(fewer, "without any label")
    with pytest.raises(BadLabels, match="no image has a label"):
        labelled.read(root, attributes=("style",), least=3)


def test_attributes_that_tell_nothing_apart_are_refused_with_the_way_out(tmp_path: Path) -> None:
    root = artgan(tmp_path, style_train="a.jpg,1\nb.jpg,1\nsub/c.jpg,1\n", style_val="d.jpg,1\n")
    with pytest.raises(BadLabels, match=r"style: one class only \('Pop_Art', first style_train.csv:1.*attributes="):
        labelled.read(root, attributes=["style"])
    assert labelled.read(root, attributes=["artist"]).attributes == ("artist",)
    artgan(root, style_train="a.jpg,1\n", style_val=None)
    (root / "style_val.csv").unlink()
    with pytest.raises(BadLabels, match=r"style: a single labelled image \(style_train.csv:1\)"):
        labelled.read(root, attributes=["style"])


def test_attributes_are_chosen_by_name(tmp_path: Path) -> None:
    root = artgan(tmp_path, genre_train="a.jpg,0\n", type_class="0 a\n1 b\n")
    collection = labelled.read(root, attributes=["style", "artist", "style"])
    assert collection.attributes == ("style", "artist")
    assert note(collection, "genre: left out") and note(collection, "type: left out")
    with pytest.raises(ValueError, match="no attribute genre; choose from artist, style"):
        labelled.read(root, attributes=["genre"])
    with pytest.raises(ValueError, match="no attribute of no name"):
        labelled.read(root, attributes=[])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no attribute"):
        labelled.read_artgan(tmp_path / "empty")


# ---- metadata.csv ----


def test_metadata_is_joined_by_id_and_never_by_position(tmp_path: Path) -> None:
    collection = labelled.read(metadata(tmp_path))
    assert collection.paths.tolist() == ["SK-2.JPEG", "SK-1.jpg", "deep/SK-3.png", "SK-4.tif"]
    assert collection.splits.tolist() == ["train", "train", "val", "test"]
    assert collection.classes == {"dc_creator": ("Ada Alder", "Brandt, Bram"), "dc_type": ("painting", "print")}
    assert names(collection, "dc_creator") == ["Ada Alder", "-", "Brandt, Bram", "Ada Alder"]
    assert names(collection, "dc_type") == ["print", "print", "painting", "painting"]
    assert collection.sources[2] == "metadata.csv:4"
    assert note(collection, "dc_creator", "1 of 4 images are of no known class")


def test_other_columns_names_and_rows_without_splits_are_read(tmp_path: Path) -> None:
    text = "id,part,kind\nSK-1,train,a\nSK-4,,b\n\nSK-2,val,a\nSK-3,test,b\n"
    root = write(tmp_path, {"list.csv": text}, ["SK-1.jpg", "SK-2.jpg", "SK-3.jpg", "SK-4.jpg"])
    collection = labelled.read_metadata(root, "list.csv", "id", "part")
    assert collection.splits.tolist() == ["train", "", "val", "test"] and collection.attributes == ("kind",)
    assert collection.sources.tolist() == ["list.csv:2", "list.csv:3", "list.csv:5", "list.csv:6"]
    whole = labelled.read_metadata(root, "list.csv", "id", attributes=["kind"])
    assert set(whole.splits.tolist()) == {""} and note(whole, "no column 'split'", "stratify()")


@pytest.mark.parametrize("value", ["anonymous", "Anoniem", " ANONYMOUS maker", "unknown", "Onbekend", "", "nan", "NaN"])
def test_unknown_makers_have_no_label_and_rows_without_any_are_dropped(tmp_path: Path, value: str) -> None:
    text = f"ImageId,dc_creator\nSK-1,Ada\nSK-2,Bram\nSK-3,{value}\nSK-4,Ada\n"
    collection = labelled.read(metadata(tmp_path, text))
    assert names(collection, "dc_creator") == ["Ada", "Bram", "Ada"]
    assert note(collection, "1 of 4 images are of no known class")
    assert note(collection, "1 images without any label left out: metadata.csv:4")


def test_a_class_file_beside_the_table_allows_its_classes_only(tmp_path: Path) -> None:
    root = metadata(tmp_path)
    write(root, {"dc_type_class.txt": "0 print\n1 painting\n2 drawing\n"}, [])
    collection = labelled.read(root, least=0)
    assert collection.classes["dc_type"] == ("print", "painting", "drawing")
    write(root, {"dc_type_class.txt": "0 prints\n1 painting\n"}, [])
    with pytest.raises(BadLabels, match=r"metadata.csv:2: dc_type 'print' isn't in dc_type_class.txt; .* 'prints'"):
        labelled.read(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"metadata.csv:1: no column 'ImageId', but nothing"),
        ("id,dc_type\nSK-1,a\n", r"metadata.csv:1: no column 'ImageId', but id, dc_type"),
        ("ImageId,a,a\nSK-1,x,y\n", r"metadata.csv:1: 2 columns called 'a'"),
        ("ImageId,a\nSK-1,x,y\n", r"metadata.csv:2: 3 cells below a header of 2"),
        ("ImageId,a\nSK-1,x\n,y\n", r"metadata.csv:3: no id"),
        ("ImageId,a\nSK-1,x\nSK-2,y\nSK-1,x\n", r"metadata.csv:4: image 'SK-1.jpg' stands in metadata.csv:2 already"),
        ("ImageId,a\nSK-1,x\nSK-1.jpg,x\n", r"metadata.csv:3: image 'SK-1.jpg' stands in metadata.csv:2 already"),
        ("ImageId,a,split\nSK-1,x,training\n", r"metadata.csv:2: split 'training', expected train, val, test"),
        ('ImageId,a\nSK-1,"x\n', r"metadata.csv:2: damaged CSV"),
        ("ImageId,a\nSK-1," + "x" * 200_000, r"metadata.csv:2: damaged CSV"),
        (b"ImageId,a\nSK-1,\xff\n", r"metadata.csv:2: no UTF-8"),
    ],
)
def test_damaged_tables_are_refused_by_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(BadLabels, match=message):
        labelled.read(metadata(tmp_path, text))


def test_ids_find_one_file_or_are_named(tmp_path: Path) -> None:
    root = metadata(tmp_path, images="SK-1.jpg SK-2.jpg SK-3.png SK-4.tif other/SK-4.JPG")
    with pytest.raises(BadLabels, match=r"metadata.csv:5: 2 files for the id 'SK-4' \(SK-4.tif, other/SK-4.JPG\)"):
        labelled.read(root)
    (root / "images" / "SK-4.tif").unlink()
    collection = labelled.read(root)
    assert collection.paths.tolist()[-1] == "other/SK-4.JPG"
    by_path = labelled.read(metadata(root, METADATA.replace("SK-4", "other/SK-4.JPG"), ""))
    assert by_path.paths.tolist() == collection.paths.tolist()
    for hostile in ("../SK-1", "nowhere/SK-2.jpg", "sk-1", "SK-1.gif"):
        text = METADATA.replace("SK-2", hostile)
        with pytest.raises(FileNotFoundError, match=rf"1 of 4 rows .*{hostile} \(metadata.csv:2\)"):
            labelled.read(metadata(root, text, ""))


def test_control_characters_reach_neither_classes_nor_messages(tmp_path: Path) -> None:
    text = 'ImageId,a\nSK-1,"red\x1b[31m\nline"\nSK-2,y\nSK-\x1b3,y\n'
    collection = labelled.read(metadata(tmp_path, text), on_missing="skip")
    assert collection.classes["a"] == ("red [31m line", "y")
    assert all(text.isprintable() for text in collection.notes)


# ---- the National Gallery of Art ----


def test_nga_joins_images_to_objects_and_views_share_a_group(tmp_path: Path) -> None:
    collection = labelled.read(nga(tmp_path))
    assert collection.paths.tolist() == ["u-7a.jpg", "u-7b.jpg", "u-8.jpg", "u-9.jpg"]
    assert collection.groups.tolist() == [0, 0, 1, 2]
    assert names(collection, "classification") == ["Painting", "Painting", "Print", "Print"]
    assert names(collection, "attribution") == ["Ada Alder", "Ada Alder", "Bram Brandt", "-"]
    assert collection.sources[3] == "published_images.csv:5" and set(collection.splits.tolist()) == {""}
    assert "u-gone (published_images.csv:7)" in note(collection, "1 of 6 rows", "left out")
    assert note(collection, "1 images show no object of objects.csv: u-none (published_images.csv:6)")
    with pytest.raises(FileNotFoundError, match="1 of 6 rows"):
        labelled.read(tmp_path, on_missing="raise")
    every = labelled.read(tmp_path, attributes=None)
    assert every.attributes == ("title", "attribution", "classification")
    assert every.classes["title"][0] == "A title, with a line break"


@pytest.mark.parametrize(
    ("objects", "published", "message"),
    [
        (OBJECTS + "8,Vase,Ada,Print\n", PUBLISHED, r"objects.csv:6: object '8' stands in objects.csv:4 already"),
        (OBJECTS, PUBLISHED + "u-8,x,primary,9\n", r"published_images.csv:8: image 'u-8.jpg' stands in .*csv:4"),
        (OBJECTS, "uuid,depicts\nu-8,8\n", r"published_images.csv:1: no column 'depictstmsobjectid'"),
        (OBJECTS.replace("objectid", "id"), PUBLISHED, r"objects.csv:1: no column 'objectid'"),
    ],
)
def test_damaged_nga_tables_are_refused(tmp_path: Path, objects: str, published: str, message: str) -> None:
    with pytest.raises(BadLabels, match=message):
        labelled.read(nga(tmp_path, objects, published))


# ---- a painted museum ----


def test_a_painted_museum_is_a_labelled_collection(small_museum: Path) -> None:
    collection = labelled.read(small_museum)
    database = dataset.load(small_museum).database
    lines = {row["id"]: row for row in json.loads((small_museum / "ground_truth/attributes.json").read_text("utf-8"))}
    assert collection.paths.tolist() == database.paths.tolist() and collection.root == database.root
    for name in ("kind", "school", "palette"):
        assert names(collection, name) == [lines[label][name] for label in database.labels.tolist()]
    for exhibit in np.unique(database.labels):
        of_one = database.labels == exhibit
        assert len(set(collection.groups[of_one])) == len(set(collection.splits[of_one])) == 1
    assert len(set(collection.groups.tolist())) == 40
    assert note(collection, "stratified by school (train 0.6, val 0.2, test 0.2; seed 0)")
    assert not any("have no row" in note for note in collection.notes)  # queries are none of its images
    assert labelled.verify(collection) == [] and labelled.find_shared(collection).empty
    by_kind = labelled.read(small_museum, attributes=["kind"])
    assert note(by_kind, "stratified by kind") and labelled.find_missing_classes(by_kind).empty
    with pytest.raises(ValueError, match="choose from kind, school, palette, maker, title"):
        labelled.read(small_museum, attributes=["series"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: "{", "damaged JSON"),
        (lambda rows: {}, "expected a list of objects"),
        (lambda rows: [], "expected a list of objects"),
        (lambda rows: [1], "expected a list of objects"),
        (lambda rows: rows[1:], r"MET_database.json, row 0: exhibit \d+ isn't in attributes.json"),
        (lambda rows: [*rows, rows[0]], "attributes.json, row 40: expected an integer id of its own"),
        (lambda rows: [rows[0], rows[1] | {"id": True}], "attributes.json, row 1: expected an integer id"),
        (lambda rows: [rows[0], rows[1] | {"school": 3}], "attributes.json, row 1: expected texts for kind, school"),
    ],
)
def test_damaged_attributes_of_a_museum_are_refused(
    small_museum: Path, tmp_path: Path, change: Any, message: str
) -> None:
    shutil.copytree(small_museum / "ground_truth", tmp_path / "ground_truth")
    file = tmp_path / "ground_truth" / "attributes.json"
    rows = change(json.loads(file.read_text("utf-8")))
    file.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    with pytest.raises(BadLabels, match=message):
        labelled.read(tmp_path)


def test_a_folder_of_no_form_is_told_the_four(tmp_path: Path) -> None:
    write(tmp_path, {"labels.csv": "a,b\n"}, [])
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            FileNotFoundError, match=r"_class.txt .*published_images.csv .*metadata.csv .*attributes.json"
        ):
            labelled.read(root)


def test_choosing_an_attribute_leaves_nobody_trained_on_who_is_judged_for_another(tmp_path: Path) -> None:
    """As in ArtGAN's CSVs, where artist-val images are in style-train."""
    (tmp_path / "images").mkdir()
    for i in range(8):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(bytes([i]))
    for attribute, judged in (("style", {6, 7}), ("artist", {0, 1})):
        for split in ("train", "val"):
            lines = [f"{i}.jpg,{i % 2}" for i in range(8) if (i in judged) == (split == "val")]
            (tmp_path / f"{attribute}_{split}.csv").write_text("\n".join(lines))
        (tmp_path / f"{attribute}_class.txt").write_text("0 a\n1 b\n")
    both, style = labelled.read(tmp_path), labelled.read(tmp_path, attributes=["style"])
    assert dict(zip(both.paths, both.splits, strict=True)) == dict(zip(style.paths, style.splits, strict=True))
    assert {str(path) for path in style.paths[style.rows("val")]} == {"0.jpg", "1.jpg", "6.jpg", "7.jpg"}
    assert any("artist_val" in note or "artist-val" in note for note in style.notes)


def test_a_column_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(",ImageId,../secret\n0,a,x\n")
    with pytest.raises(BadLabels, match=r"metadata.csv:1: column '../secret' is no plain name"):
        labelled.read_metadata(tmp_path)
