"""Labelled collections: the real ones, small ones of every form written here, and what hostile ones get."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metlib import dataset, labelled
from metlib.labelled import UNKNOWN, BadLabels, Labelled

ARTGAN = {
    "style_class.txt": "0 Cubism\n1 Pop_Art\n",
    "style_train.csv": "a.jpg,0\nb.jpg,1\nsub/c.jpg,1\n",
    "style_val.csv": "d.jpg,0\ne.jpg,1\n",
    "artist_class.txt": "0 Ada_Alder\n1 Bram van Brandt\n",
    "artist_train.csv": "path,,class\na.jpg,,1\nb.jpg,,0\n",
    "artist_val.csv": "d.jpg,,0\ne.jpg,,1\n",
}
ALL = "a.jpg b.jpg sub/c.jpg d.jpg e.jpg"
METADATA = (
    ",ImageId,dc_creator,dc_type,split\n"
    "0,SK-2, Ada Alder, print,train\n"
    "1,SK-1,anonymous, print,train\n"
    '2,SK-3.PNG,"Brandt, Bram",painting ,val\n'
    "3,SK-4,Ada Alder, painting,test\n"
)
OBJECTS = (
    "\ufeffobjectid,title,attribution,classification\n"
    '7,"A title, with\na line break",Ada Alder,Painting\n'
    "8,Vase,Bram Brandt,Print\n"
    "9,Vase,Anonymous Artist,Print\n"
)
PUBLISHED = (
    "uuid,iiifurl,viewtype,depictstmsobjectid\n"
    "u-7a,x,primary,7\nu-7b,x,alternate,7\nu-8,x,primary,8\nu-9,x,primary,9\nu-none,x,primary,10\nu-gone,x,primary,8\n"
)


def write(root: Path, texts: dict[str, str | bytes | None], images: list[str]) -> Path:
    """A folder with these texts, and with files under images/ that differ in their bytes (but are no images)."""
    for name, text in texts.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for image in images:
        (root / "images" / image).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / image).write_text(image, encoding="utf-8")
    return root


def artgan(root: Path, images: str = ALL, **texts: str | bytes | None) -> Path:
    """Two attributes in ArtGAN's form; `style_train="..."` replaces a CSV, `style_class` a class file."""
    named = {f"{name}.{'txt' if name.endswith('_class') else 'csv'}": text for name, text in texts.items()}
    return write(root, {**ARTGAN, **named}, images.split())


def metadata(
    root: Path, text: str | bytes = METADATA, images: str = "SK-1.jpg SK-2.JPEG deep/SK-3.png SK-4.tif"
) -> Path:
    return write(root, {"metadata.csv": text}, images.split())


def nga(root: Path, objects: str = OBJECTS, published: str = PUBLISHED) -> Path:
    texts: dict[str, Any] = {"objects.csv": objects, "published_images.csv": published}
    return write(root, texts, [f"{name}.jpg" for name in ("u-7a", "u-7b", "u-8", "u-9", "u-none")])


def made(
    labels: list[int], /, splits: list[str] | None = None, groups: list[int] | None = None, **fields: Any
) -> Labelled:
    """A collection of one attribute, "type", that lies nowhere."""
    n, count = len(labels), max(labels, default=0) + 1
    standard: dict[str, Any] = {
        "name": "made",
        "root": Path(),
        "paths": [f"{i}.jpg" for i in range(n)],
        "splits": splits or [""] * n,
        "labels": {"type": labels},
        "classes": {"type": tuple(f"c{i}" for i in range(count))},
        "groups": groups or list(range(n)),
        "sources": [f"made.csv:{i + 1}" for i in range(n)],
    }
    return Labelled(**(standard | fields))


def names(collection: Labelled, attribute: str) -> list[str]:
    """The class name of every image, "-" for none."""
    return [(*collection.classes[attribute], "-")[label] for label in collection.labels[attribute]]


def note(collection: Labelled, *words: str) -> str:
    """The one note that holds all these words."""
    (found,) = [note for note in collection.notes if all(word in note for word in words)]
    return found


# ---- the real ones ----


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


# ---- the collection itself ----


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


# ---- new splits ----


@st.composite
def collections(draw: st.DrawFn) -> Labelled:
    """Works of one to five images, in up to four classes and none; at least two classes have images."""
    works = draw(st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 5)), min_size=1, max_size=40))
    works += [(0, 1), (1, 1)]
    labels = [label for label, size in works for _ in range(size)]
    groups = [number for number, (_, size) in enumerate(works) for _ in range(size)]
    order = draw(st.permutations(range(len(labels))))
    return made([labels[i] for i in order], groups=[groups[i] for i in order])


@given(collections(), st.sampled_from([{}, {"shares": {"test": 0.5, "train": 0.5}}]), st.integers(0, 9))
def test_stratified_splits_keep_groups_whole_and_shares_right(
    collection: Labelled, options: dict[str, Any], seed: int
) -> None:
    shares = options.get("shares", labelled.SHARES)
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


# ---- what is in there ----


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
    monkeypatch.setattr(labelled, "sha256", lambda path: pytest.fail(f"{path} was read"))
    assert labelled.find_shared(made([0, 1, 0, 1], ["train", "val", "train", "test"], root=tmp_path)).empty


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


# ---- the command line ----


def test_the_command_line_sums_up_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = artgan(tmp_path / "wiki", style_val="b.jpg,1\ne.jpg,1\n")
    (root / "images/e.jpg").write_text("a.jpg", encoding="utf-8")
    assert labelled.main([str(root), "--attributes", "style"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("wiki: 4 images, 2 in train, 2 in val\nnote: ")
    assert "note: 1 of 2 images of style-val are in style-train" in said
    assert "note: 1 of 2 images of style-val are in artist-train" in said  # not asked for, and judged all the same
    assert "d.jpg" in said and "effective_classes" in said  # d.jpg has no row
    assert "classes missing from a split: 1" in said and "identical images in two splits: 1" in said
    assert labelled.main([str(root), "--verify"]) == 1
    said = capsys.readouterr().out
    assert f"undecodable (artist_val.csv:2)\t{root / 'images/e.jpg'}" in said and "5 images, 5 unusable" in said
    (root / "images/b.jpg").unlink()
    assert labelled.main([str(root), "--skip-missing"]) == 0
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
    wish = ["--attributes", "genre"] if broken == "no attribute" else []
    assert labelled.main([str(root), *wish]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ")


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


def test_the_smallest_class_is_one_that_has_images() -> None:
    row = labelled.summarise(made([1, 1, 2, 2])).iloc[0]
    assert row["smallest"] == "c1" and row["smallest_images"] == 2 and row["imbalance"] == 1
