"""A museum painted by code: a Met in miniature, in exactly the Met's layout, the same for the same seed.

It has what makes the Met hard. Exhibits come in series (one maker, one motif, one palette, small variations), so
classes are confusable; most have one studio photograph; visitors photograph them askew, in bad light, from behind
other visitors; and a good part of the queries shows things that the museum doesn't own.

The pictures are made in `atelier`; here stand the catalogue (who exists, how often, in which split) and the writer.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng

from metlib import dataset
from metlib.common.files import explained, replacing
from metlib.common.progress import track
from metlib.synthetic.not_art import NOT_ART
from metlib.synthetic.palettes import PALETTES, Array, to_image
from metlib.synthetic.photographs import FORMATS, KINDS, SCHOOLS, SHARES, Exhibit, query, studio, visit

PAINTER = 1  # raise it when the same seed gives other pictures: a museum of an older painter is not this museum

# ------------------------------------------------------------------------------------------------ the catalogue

SINGLE = 0.6  # share of exhibits with one photograph, as in the Met
MOST = 10  # photographs of one exhibit
VAL_MOST, TEST_MOST = 129, 1003  # the Met's own numbers of queries that have an exhibit

FIRST = (
    "Ada",
    "Bram",
    "Cilla",
    "Dorre",
    "Edda",
    "Fenn",
    "Gisl",
    "Hanno",
    "Ilse",
    "Joos",
    "Kaia",
    "Lorne",
    "Mira",
    "Oda",
)
LAST = ("Alder", "Brandt", "Corvane", "Dunmore", "Elswick", "Farrow", "Greel", "Hollin", "Imber", "Jessamy", "Kestle")
SUBJECTS = {
    "river school": "Evening at the Ford|Poplars, No Wind|The Long Meadow|First Warm Day",
    "luminists": "Calm off the Headland|Sails Coming Home|The Tide Waits|Light on the Sound",
    "ink mountains": "Peaks after Rain|A Path into Cloud|Listening to Pines|Autumn in the Gorge",
    "tenebrists": "Supper Laid for One|Fruit and a Jar|The Dark Table|Lemons by Candlelight",
    "constructors": "Balance|Counterweight|Score for Three Discs|Plan of a Festival",
    "little towns": "Town with Red Roofs|Noon over the Market|Houses on a Hill|The Sun Visits",
    "long faces": "The Goldsmith's Sister|A Reader|Lady at the Window|The Young Notary",
    "floating world": "The Mountain from the Bay|Fine Wind|Waves in the Ninth Month|Fishermen at Dawn",
    "colour field": "Untitled|Breath|Threshold|Two Silences",
    "jade kilns": "Vase with carved petals|Crackled jar",
    "cobalt kilns": "Jar with scrolling vine|Vase with blossoms",
    "banded ware": "Storage jar with frieze|Jar with birds",
    "running glaze": "Jar with hare's fur glaze|Vase with running glaze",
    "royal mint": "Stater with crowned head|Portrait of a ruler",
    "harbour mint": "Tetradrachm with galley|Harbour dues",
    "field mint": "Drachm of the granaries|Harvest issue",
    "kilims": "Kilim with stepped diamonds|Prayer kilim",
    "brocades": "Brocade panel|Silk with mirrored figure",
    "plaids": "Shawl|Travelling rug",
}


def conceive(museum: Sequence[int], number: int, series: int, place: int, kinds: Sequence[float]) -> Exhibit:
    """Decide what one exhibit is, from its museum's key, its number, its series and its place there."""
    key = (*museum, 1, series)
    rng = default_rng([*key, 9])
    kind = str(rng.choice(KINDS, p=kinds))
    school = str(rng.choice(SCHOOLS[kind]))
    palette = str(rng.choice(list(PALETTES)))
    maker = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    maker = {"painting": maker, "vessel": f"Workshop of {maker}", "coin": school.capitalize()}.get(
        kind, f"Loom of {maker}"
    )
    title = f"{rng.choice(SUBJECTS[school].split('|'))}, No. {place + 1}"
    return Exhibit(number, kind, school, palette, maker, title, series, key, (*museum, 2, number))


@dataclass(frozen=True)
class Catalogue:
    """All that a museum will hold, decided before anything is painted.

    ids, photos, series, places: (n,) int64: the exhibit's id, its number of studio photographs, its series and its
    place there. `queries` maps "val" and "test" to rows (exhibit row or -1, kind of query, number).
    """

    seed: int
    ids: Array
    photos: Array
    series: Array
    places: Array
    queries: dict[str, list[tuple[int, str, int]]]

    def exhibit(self, row: int) -> Exhibit:
        return conceive((self.seed,), int(self.ids[row]), int(self.series[row]), int(self.places[row]), SHARES)

    def file(self, split: str, folder: str, number: int) -> str:
        """Name a query's file as the Met does: twelve hexadecimal digits that tell nothing."""
        text = f"{self.seed} {split} {folder} {number}"
        return f"{folder}/{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.jpg"

    def database(self, rows: Iterator[int] | range) -> list[dict[str, Any]]:
        return [
            {"id": int(self.ids[r]), "path": f"MET/{self.ids[r]}/{k}.jpg"} for r in rows for k in range(self.photos[r])
        ]

    def mini(self) -> list[dict[str, Any]]:
        """Keep every exhibit that is asked for and a third of the others."""
        asked = {row for rows in self.queries.values() for row, _, _ in rows}
        lucky = default_rng([self.seed, 5]).random(len(self.ids)) < 1 / 3
        return self.database(r for r in range(len(self.ids)) if lucky[r] or r in asked)

    def split(self, name: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for row, folder, number in self.queries[name]:
            path = self.file(name, folder, number)
            if row >= 0:
                lines.append({"MET_id": int(self.ids[row]), "path": path, "photographer": "synthetic", "url": "None"})
            else:
                category = (
                    stranger(self.seed, name, number).school.capitalize() if folder == "test_other" else subject(number)
                )
                lines.append({"path": path, "url": "None", "category": category})
        return lines


def stranger(seed: int, split: str, number: int) -> Exhibit:
    """Conceive an exhibit of another museum: the same schools, mostly paintings, nothing that this one owns."""
    return conceive((seed, 77, len(split)), number, number, 0, (0.7, 0.12, 0.06, 0.12))


def subject(number: int) -> str:
    """Say what a photograph without art shows."""
    return tuple(NOT_ART)[number % len(NOT_ART)]


def plan(n_exhibits: int, seed: int, n_val: int, n_test: int, distractors: float) -> Catalogue:
    """Decide a museum; the first exhibits are the same however many follow."""
    ids = 25 * np.arange(n_exhibits) + default_rng([seed, 10]).integers(1, 25, n_exhibits)
    chance = default_rng([seed, 11]).random((n_exhibits, 2))
    tail = 2 + np.floor(np.log1p(-chance[:, 1]) / np.log(0.6)).astype(np.int64)
    photos = np.where(chance[:, 0] < SINGLE, 1, np.minimum(tail, MOST))
    lengths = default_rng([seed, 12]).choice([1, 2, 3, 4, 5, 6], n_exhibits, p=[0.4, 0.25, 0.16, 0.1, 0.06, 0.03])
    series = np.repeat(np.arange(n_exhibits), lengths)[:n_exhibits]
    places = np.arange(n_exhibits) - np.searchsorted(series, series)
    rng = default_rng([seed, 13])
    asked = np.repeat(rng.permutation(n_exhibits), rng.choice([1, 2], n_exhibits, p=[0.88, 0.12]))
    queries: dict[str, list[tuple[int, str, int]]] = {}
    start = 0
    for name, n in (("val", n_val), ("test", n_test)):
        rows = asked[(start + np.arange(n)) % len(asked)]
        start += n + int(start + n < len(asked) and asked[start + n] == asked[start + n - 1])
        other, plain = (max(int(distractors > 0), round(n * distractors * share)) for share in (4 / 7, 3 / 7))
        queries[name] = [(int(row), "test_met", k) for k, row in enumerate(rows)]
        queries[name] += [(-1, "test_other", k) for k in range(other)] + [(-1, "test_noart", k) for k in range(plain)]
    return Catalogue(seed, ids, photos, series, places, queries)


# --------------------------------------------------------------------------------------------------- the writer


def write_museum(
    root: str | Path,
    n_exhibits: int = 300,
    seed: int = 0,
    *,
    size: int = 320,
    n_val: int | None = None,
    n_test: int | None = None,
    distractors: float = 7 / 6,
    workers: int = 1,
) -> Path:
    """Paint a museum under `root`, in the Met's layout, with `ground_truth/attributes.json`; returns `root`.

    `size` is the longer side of every image in pixels. `n_val` and `n_test` count the queries that have an exhibit
    (by default a fifth and two fifths of the exhibits, at most as many as the Met has); `distractors` is how many
    queries without one come on each of them, four artworks of other museums on three photographs without art.
    `workers` > 1 paints in as many processes; the pictures are the same.

    A museum that is already there, made with the same arguments, is left as it is. What is there appears whole or
    not at all: painting happens in a temporary folder beside `root`.
    Raises ValueError for an impossible argument, FileExistsError where something else lies at `root`.
    """
    root = Path(root)
    n_val = min(max(1, n_exhibits // 5), VAL_MOST) if n_val is None else n_val
    n_test = min(max(1, 2 * n_exhibits // 5), TEST_MOST) if n_test is None else n_test
    for name, value, least in (
        ("n_exhibits", n_exhibits, 2),
        ("seed", seed, 0),
        ("size", size, 64),
        ("n_val", n_val, 1),
        ("n_test", n_test, 1),
        ("workers", workers, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} = {value!r}: expected an integer of at least {least}")
    if not 0 <= distractors <= 100:
        raise ValueError(f"distractors = {distractors!r}: expected a number of queries per positive one, from 0 to 100")
    order = {
        "painter": PAINTER,
        "n_exhibits": int(n_exhibits),
        "seed": int(seed),
        "size": int(size),
        "n_val": int(n_val),
        "n_test": int(n_test),
        "distractors": float(distractors),
    }
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        if recorded(root) == order:
            return root
        raise FileExistsError(
            f"{root} holds {recorded(root) or 'something that is no synthetic museum'}, and {order} was asked for: "
            "choose another folder, or remove this one yourself"
        )
    catalogue = plan(n_exhibits, seed, n_val, n_test, distractors)
    root.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".tmp", dir=root.parent))
    try:
        workshop.chmod(0o755)
        fill(workshop, catalogue, size, workers)
        with replacing(workshop / "museum.json", "w") as file:
            json.dump(order, file, indent=1)
        if root.is_dir():
            root.rmdir()  # empty, as asked above; Windows doesn't rename onto a folder
        workshop.replace(root)
    except OSError as error:
        raise explained(error, root) from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return root


def find_or_paint(root: str | Path, seed: int = 0) -> Path:
    """Find a museum's folder as `dataset.find` does; paint the default one where `root` is called `synthetic`.

    So a notebook that is opened first of all has a museum, and a mistyped path to your own is still an error.
    """
    try:
        return dataset.find(root)
    except FileNotFoundError:
        if Path(root).name != "synthetic":
            raise
        return write_museum(root, seed=seed)


def recorded(root: Path) -> dict[str, Any] | None:
    """Read what a museum was made with; None where there's no synthetic museum."""
    try:
        return json.loads((root / "museum.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def fill(folder: Path, catalogue: Catalogue, size: int, workers: int) -> None:
    """Write ground truth and images of a museum into an empty folder."""
    rows = range(len(catalogue.ids))
    attributes = []
    for row in rows:
        line = asdict(catalogue.exhibit(row))
        attributes.append({k: v for k, v in line.items() if not k.endswith("key")})
    files = {
        "MET_database": catalogue.database(rows),
        "mini_MET_database": catalogue.mini(),
        "valset": catalogue.split("val"),
        "testset": catalogue.split("test"),
        "attributes": attributes,
    }
    for name, lines in files.items():
        with replacing(folder / "ground_truth" / f"{name}.json", "w") as file:
            json.dump(lines, file, indent=0)
    for name in ("MET", "test_met", "test_other", "test_noart"):
        (folder / "images" / name).mkdir(parents=True)
    jobs = [(folder / "images", catalogue.seed, size, catalogue.exhibit(r), int(catalogue.photos[r])) for r in rows]
    tours = [
        (
            folder / "images" / catalogue.file(split, kind, k),
            catalogue.seed,
            size,
            split,
            kind,
            k,
            catalogue.exhibit(row) if row >= 0 else None,
        )
        for split, queries in catalogue.queries.items()
        for row, kind, k in queries
    ]
    total = int(catalogue.photos.sum()) + len(tours)
    with track(total=total, label="painting", unit="image") as bar:
        if workers == 1:
            for n in map(paint, [*jobs, *tours]):
                bar.update(n)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            for n in pool.map(paint, [*jobs, *tours], chunksize=8):
                bar.update(n)


def paint(job: tuple[Any, ...]) -> int:
    """Do one job, an exhibit's studio photographs or one query; returns the number of images written."""
    if len(job) == 5:
        images, _, size, exhibit, photos = job
        (images / "MET" / str(exhibit.id)).mkdir()
        for view in range(photos):
            picture = to_image(studio(exhibit, view, size))
            picture.save(images / "MET" / str(exhibit.id) / f"{view}.jpg", quality=90)
        return photos
    path, seed, size, split, folder, number, exhibit = job
    rng = default_rng([seed, 20, len(split), len(folder), number])
    if folder == "test_noart":
        w, h = (round(side * size) for side in FORMATS[int(rng.integers(3))])
        picture = visit(rng, NOT_ART[subject(number)](rng, w * 5 // 4, h * 5 // 4), w, h)
    else:
        picture = query(rng, exhibit or stranger(seed, split, number), size)
    picture.save(path, quality=int(rng.integers(40, 93)))
    return 1
