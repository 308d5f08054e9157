"""The catalogue of a painted museum: which exhibits there are, how often each is photographed, and in which split."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import default_rng

from metlib.common.drawing import Array
from metlib.synthetic.colours import PALETTES
from metlib.synthetic.photographs import KINDS, NOT_ART, SCHOOLS, SHARES, Exhibit

SINGLE = 0.6  # share of exhibits with one photograph, as in the Met
MOST = 10  # photographs of one exhibit

FIRST = "Ada Bram Cilla Dorre Edda Fenn Gisl Hanno Ilse Joos Kaia Lorne Mira Oda"
LAST = "Alder Brandt Corvane Dunmore Elswick Farrow Greel Hollin Imber Jessamy Kestle"
MAKERS = {"painting": "{maker}", "vessel": "Workshop of {maker}", "coin": "{school}", "textile": "Loom of {maker}"}
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


def make_exhibit(museum: Sequence[int], number: int, series: int, place: int, kinds: Sequence[float]) -> Exhibit:
    """Decide what one exhibit is, from its museum's key, its number, its series and its place there."""
    key = (*museum, 1, series)
    rng = default_rng([*key, 9])
    kind = str(rng.choice(KINDS, p=kinds))
    school, palette = str(rng.choice(SCHOOLS[kind])), str(rng.choice(list(PALETTES)))
    name = f"{rng.choice(FIRST.split())} {rng.choice(LAST.split())}"
    maker = MAKERS[kind].format(maker=name, school=school.capitalize())
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
        return make_exhibit((self.seed,), int(self.ids[row]), int(self.series[row]), int(self.places[row]), SHARES)

    def shown(self, split: str, row: int, folder: str, number: int) -> Exhibit | str:
        """Give what a query shows: an exhibit, one of another museum (the same schools), or a kind of `NOT_ART`."""
        if folder == "test_noart":
            return tuple(NOT_ART)[number % len(NOT_ART)]
        if folder == "test_other":
            return make_exhibit((self.seed, 77, len(split)), number, number, 0, (0.7, 0.12, 0.06, 0.12))
        return self.exhibit(row)

    def file(self, split: str, folder: str, number: int) -> str:
        """Name a query's file as the Met does: twelve hexadecimal digits that don't depend on what it shows."""
        digest = hashlib.blake2b(f"{self.seed} {split} {folder} {number}".encode(), digest_size=6)
        return f"{folder}/{digest.hexdigest()}.jpg"

    def database(self, rows: Iterable[int]) -> list[dict[str, Any]]:
        """Give the ground truth of some exhibits' studio photographs."""
        files = ((int(self.ids[row]), k) for row in rows for k in range(self.photos[row]))
        return [{"id": exhibit, "path": f"MET/{exhibit}/{k}.jpg"} for exhibit, k in files]

    def mini(self) -> list[dict[str, Any]]:
        """Give the mini database: every exhibit that a query shows and a third of the others."""
        asked = {row for rows in self.queries.values() for row, _, _ in rows}
        chosen = default_rng([self.seed, 5]).random(len(self.ids)) < 1 / 3
        return self.database(r for r in range(len(self.ids)) if chosen[r] or r in asked)

    def split(self, name: str) -> list[dict[str, Any]]:
        """Give the ground truth of the queries of "val" or "test"."""
        lines: list[dict[str, Any]] = []
        for row, folder, number in self.queries[name]:
            path = self.file(name, folder, number)
            if row >= 0:
                lines.append({"MET_id": int(self.ids[row]), "path": path, "photographer": "synthetic", "url": "None"})
            else:
                what = self.shown(name, row, folder, number)
                category = what if isinstance(what, str) else what.school.capitalize()
                lines.append({"path": path, "url": "None", "category": category})
        return lines


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
        queries[name] = [(int(row), "test_met", k) for k, row in enumerate(asked[(start + np.arange(n)) % len(asked)])]
        start += n + int(start + n < len(asked) and asked[start + n] == asked[start + n - 1])
        other, plain = (max(int(distractors > 0), round(n * distractors * share)) for share in (4 / 7, 3 / 7))
        queries[name] += [(-1, "test_other", k) for k in range(other)] + [(-1, "test_noart", k) for k in range(plain)]
    return Catalogue(seed, ids, photos, series, places, queries)
