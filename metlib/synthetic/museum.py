"""A museum painted by code, in the Met's layout.

What makes the Met hard is there: confusable series, single studio photographs, hasty visitors, many distractors.
"""

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from operator import call
from pathlib import Path

from numpy.random import default_rng

from metlib import dataset
from metlib.common.checks import check_integer
from metlib.common.drawing import to_image
from metlib.common.files import explained, replacing
from metlib.common.progress import track
from metlib.synthetic.catalogue import Catalogue, plan
from metlib.synthetic.photographs import FORMATS, NOT_ART, Exhibit, query, studio
from metlib.visits import visit

DRAWING_VERSION = 1  # raise it when the same seed gives other pictures; museum.json has it under "painter"
VAL_MOST, TEST_MOST = 129, 1003  # the Met's own numbers of queries that have an exhibit


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

    The same arguments give the same files, with any number of `workers` (processes); another `seed`, another museum.
    `size` is the longer side of every image in pixels, at least 64. `n_val` and `n_test` count the queries that have an
    exhibit (by default a fifth and two fifths of the exhibits, at most as many as the Met has); `distractors` is the
    number of queries without one for each of them, from 0 to 100: of seven, four show artworks of other museums and
    three no art. The folder appears whole or not at all. A museum made before with the same arguments is left as it is.
    Raises ValueError for an impossible argument, FileExistsError where something else lies at `root`.
    """
    root = Path(root)
    n_val = min(max(1, n_exhibits // 5), VAL_MOST) if n_val is None else n_val
    n_test = min(max(1, 2 * n_exhibits // 5), TEST_MOST) if n_test is None else n_test
    counts = {"n_exhibits": n_exhibits, "seed": seed, "size": size, "n_val": n_val, "n_test": n_test}
    for name, value in {**counts, "workers": workers}.items():
        check_integer(name, value, {"n_exhibits": 2, "seed": 0, "size": 64}.get(name, 1))
    if not 0 <= distractors <= 100:
        raise ValueError(f"distractors = {distractors!r}: expected a number of queries per positive one, from 0 to 100")
    given = {"painter": DRAWING_VERSION, **{k: int(v) for k, v in counts.items()}, "distractors": float(distractors)}
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        try:
            found = json.loads((root / "museum.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found == given:
            return root
        held = f"{root} holds {found or 'something that is no synthetic museum'}, and {given} was asked for"
        raise FileExistsError(f"{held}: choose another folder, or remove this one yourself")
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".tmp", dir=root.parent))
    try:
        temporary.chmod(0o755)
        fill(temporary, plan(n_exhibits, seed, n_val, n_test, distractors), size, workers)
        with replacing(temporary / "museum.json", "w") as file:
            json.dump(given, file, indent=1)
        if root.is_dir():
            root.rmdir()  # empty, as checked above; Windows doesn't rename onto a folder
        temporary.replace(root)
    except OSError as error:
        raise explained(error, root) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def find_or_paint(root: str | Path, seed: int = 0) -> Path:
    """Find a museum as `dataset.find` does, or raise FileNotFoundError; a missing one called `synthetic` is painted."""
    try:
        return dataset.find(root)
    except FileNotFoundError:
        if Path(root).name != "synthetic":
            raise
        return write_museum(root, seed=seed)


def fill(folder: Path, catalogue: Catalogue, size: int, workers: int) -> None:
    """Write ground truth and images of a museum into an empty folder."""
    rows = range(len(catalogue.ids))
    exhibits = [catalogue.exhibit(row) for row in rows]
    files = {
        "MET_database": catalogue.database(rows),
        "mini_MET_database": catalogue.mini(),
        "valset": catalogue.split("val"),
        "testset": catalogue.split("test"),
        "attributes": [{k: v for k, v in asdict(e).items() if not k.endswith("key")} for e in exhibits],
    }
    for name, lines in files.items():
        with replacing(folder / "ground_truth" / f"{name}.json", "w") as file:
            json.dump(lines, file, indent=0)
    images = folder / "images"
    for name in ("MET", "test_met", "test_other", "test_noart"):
        (images / name).mkdir(parents=True)
    jobs: list[Callable[[], int]] = [
        partial(paint_exhibit, images / "MET" / str(e.id), e, int(n), size)
        for e, n in zip(exhibits, catalogue.photos, strict=True)
    ]
    for split, queries in catalogue.queries.items():
        for row, kind, k in queries:
            shown, key = catalogue.shown(split, row, kind, k), (catalogue.seed, 20, len(split), len(kind), k)
            jobs.append(partial(paint_query, images / catalogue.file(split, kind, k), shown, key, size))
    total = int(catalogue.photos.sum()) + len(files["valset"]) + len(files["testset"])
    with track(total=total, label="painting", unit="image") as bar:
        if workers == 1:
            for n in map(call, jobs):
                bar.update(n)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            for n in pool.map(call, jobs, chunksize=8):
                bar.update(n)


def paint_exhibit(folder: Path, exhibit: Exhibit, photos: int, size: int) -> int:
    """Write an exhibit's studio photographs; returns how many."""
    folder.mkdir()
    for view in range(photos):
        to_image(studio(exhibit, view, size)).save(folder / f"{view}.jpg", quality=90)
    return photos


def paint_query(path: Path, shown: Exhibit | str, key: tuple[int, ...], size: int) -> int:
    """Write one query, the random generator's seed in `key`; returns 1, the number of images."""
    rng = default_rng(key)
    if isinstance(shown, str):
        w, h = (round(side * size) for side in FORMATS[int(rng.integers(3))])
        picture = visit(rng, NOT_ART[shown](rng, w * 5 // 4, h * 5 // 4), w, h)
    else:
        picture = query(rng, shown, size)
    picture.save(path, quality=int(rng.integers(40, 93)))
    return 1
