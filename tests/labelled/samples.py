"""Labelled collections for tests: small ones of every format that is read, and one that lies nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metlib.labelled import Labelled

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
