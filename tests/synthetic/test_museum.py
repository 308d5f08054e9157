"""The painted museum: its layout, its determinism, and that it appears whole or not at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metlib import cli, synthetic
from metlib.dataset import DISTRACTOR, Museum, Split, load
from metlib.synthetic import museum as painting
from metlib.synthetic import write_museum
from metlib.synthetic.catalogue import plan
from metlib.synthetic.colours import PALETTES
from metlib.synthetic.photographs import FORMATS, SCHOOLS


def small(root: Path, seed: int = 0) -> Path:
    return write_museum(root, 8, seed, size=64, n_val=2, n_test=4, distractors=3.5)


def files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("museums") / "small")


@pytest.fixture(scope="module")
def museum(root: Path) -> Museum:
    return load(root)


def splits(museum: Museum) -> tuple[Split, ...]:
    return museum.database, museum.val, museum.test


@pytest.mark.slow
def test_the_layout_loads_with_the_numbers_asked_for(museum: Museum, root: Path) -> None:
    catalogue = plan(8, 0, 2, 4, 3.5)
    assert len(museum.database) == catalogue.photos.sum()
    assert sorted(set(museum.database.labels)) == catalogue.ids.tolist()
    for split, positive in ((museum.val, 2), (museum.test, 4)):
        folders = Counter(str(path).split("/")[0] for path in split.paths)
        assert folders == {"test_met": positive, "test_other": 2 * positive, "test_noart": round(1.5 * positive)}
        assert ((split.labels == DISTRACTOR) == [not p.startswith("test_met/") for p in split.paths]).all()
        assert all(re.fullmatch(r"test_\w+/[0-9a-f]{12}\.jpg", str(path)) for path in split.paths)
    assert set(museum.val.labels) | set(museum.test.labels) <= {*museum.database.labels, DISTRACTOR}
    assert len(files(root / "images")) == sum(map(len, splits(museum)))


def test_no_photograph_and_no_exhibit_is_both_val_and_test(museum: Museum) -> None:
    paths = np.concatenate([split.paths for split in splits(museum)])
    assert len(set(paths)) == len(paths)
    assert not set(museum.val.labels) & set(museum.test.labels) - {DISTRACTOR}
    contents = {split.file(i).read_bytes() for split in (museum.val, museum.test) for i in range(len(split))}
    assert len(contents) == len(museum.val) + len(museum.test)


def test_the_mini_database_keeps_every_exhibit_that_is_asked_for(museum: Museum, root: Path) -> None:
    mini = load(root, "mini")
    asked = {*museum.val.labels, *museum.test.labels} - {DISTRACTOR}
    assert asked <= set(mini.database.labels) <= set(museum.database.labels)
    assert set(mini.database.paths) <= set(museum.database.paths)


def test_every_image_decodes_in_one_of_few_shapes(museum: Museum) -> None:
    shapes = set()
    for split in splits(museum):
        for i in range(len(split)):
            with Image.open(split.file(i)) as image:
                image.load()
                assert image.mode == "RGB"
                assert np.asarray(image).std() > 2, f"{split.file(i)} is blank"
                shapes.add(image.size)
    assert max(max(shape) for shape in shapes) == 64
    assert len(shapes) <= len(FORMATS)


def test_attributes_describe_every_exhibit(museum: Museum, root: Path) -> None:
    rows = json.loads((root / "ground_truth" / "attributes.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == sorted(set(museum.database.labels))
    for row in rows:
        assert row["school"] in SCHOOLS[row["kind"]]
        assert row["palette"] in PALETTES
        assert row["maker"] and row["title"]


@pytest.mark.slow
def test_the_same_seed_paints_the_same_museum(root: Path, tmp_path: Path) -> None:
    again = small(tmp_path / "again")
    assert files(again) == files(root)
    for path in files(root):
        if path.suffix == ".json":
            assert (again / path).read_bytes() == (root / path).read_bytes(), path
        else:
            with Image.open(root / path) as one, Image.open(again / path) as other:
                assert np.array_equal(np.asarray(one), np.asarray(other)), path


@pytest.mark.slow
def test_another_seed_paints_another_museum(root: Path, tmp_path: Path) -> None:
    other = small(tmp_path / "other", seed=1)
    assert load(other).database.labels.tolist() != load(root).database.labels.tolist()
    assert not set(load(other).test.paths) & set(load(root).test.paths)


@pytest.mark.slow
def test_workers_change_nothing(root: Path, tmp_path: Path) -> None:
    parallel = write_museum(tmp_path / "parallel", 8, 0, size=64, n_val=2, n_test=4, distractors=3.5, workers=2)
    assert files(parallel) == files(root)
    assert all((parallel / path).read_bytes() == (root / path).read_bytes() for path in files(root))


@pytest.mark.parametrize("n", [2, 3])
def test_the_smallest_museums_hold_something_of_everything(n: int, tmp_path: Path) -> None:
    museum = load(write_museum(tmp_path / "tiny", n, size=64))
    for split in (museum.val, museum.test):
        assert {str(path).split("/")[0] for path in split.paths} == {"test_met", "test_other", "test_noart"}


def test_a_finished_museum_is_left_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "fill", lambda *_: pytest.fail("painted again"))
    assert small(root) == root


def test_other_arguments_or_older_drawing_code_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(root)
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_museum(root, 9, size=64)
    monkeypatch.setattr(painting, "DRAWING_VERSION", painting.DRAWING_VERSION + 1)
    with pytest.raises(FileExistsError, match="painter"):
        small(root)
    assert files(root) == before


@pytest.mark.parametrize("content", ["notes", "{}", "[1]"])
def test_a_foreign_folder_is_refused_and_kept(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "museum.json").write_text(content)
    with pytest.raises(FileExistsError, match="mine"):
        small(tmp_path / "mine")
    with pytest.raises(FileExistsError, match=r"museum\.json"):
        small(tmp_path / "mine" / "museum.json")
    assert files(tmp_path) == [Path("mine/museum.json")]


@pytest.mark.slow
def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert load(write_museum(tmp_path / "empty", 2, size=64)).database.labels.size


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint, calls = painting.paint_exhibit, []

    def interrupted(*job: Any) -> int:
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return paint(*job)

    monkeypatch.setattr(painting, "paint_exhibit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "museum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("n_exhibits", 1), ("n_exhibits", 2.5), ("seed", -1), ("size", 63), ("n_val", 0), ("n_test", 0)],
        *[("workers", 0), ("distractors", -1), ("distractors", float("nan"))],
    ],
)
def test_an_impossible_argument_is_named(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{name} .*{re.escape(repr(value))}"):
        write_museum(tmp_path / "museum", **{name: value})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_paints_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["paint", str(tmp_path / "museum"), "--exhibits", "2", "--size", "64"]) == 0
    assert str(tmp_path / "museum") in capsys.readouterr().out
    assert cli.main(["paint", str(tmp_path / "other"), "--exhibits", "1"]) == 2
    refused = capsys.readouterr().err
    assert "n_exhibits" in refused and "got 1" in refused


def test_no_distractors_means_none(tmp_path: Path) -> None:
    museum = load(write_museum(tmp_path / "calm", n_exhibits=3, size=64, distractors=0))
    assert (museum.val.labels >= 0).all() and (museum.test.labels >= 0).all()


def test_a_notebook_paints_the_default_museum_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted: list[Path] = []
    monkeypatch.setattr(painting, "write_museum", lambda root, seed: painted.append(Path(root)) or Path(root))
    with pytest.raises(FileNotFoundError, match="my-museum"):
        synthetic.find_or_paint(tmp_path / "my-museum")
    assert synthetic.find_or_paint(tmp_path / "synthetic", 3) == tmp_path / "synthetic" == painted[0]
    (tmp_path / "there").mkdir()
    assert synthetic.find_or_paint(tmp_path / "there") == tmp_path / "there" and len(painted) == 1
