"""The published numbers of the Met, each with its protocol: numbers of different protocols don't compare.

They are `published.csv` beside this file, in percent as printed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metlib.analysis.results import SCORES, protocol
from metlib.dataset import MET_IMAGES, Museum

SOURCES = {
    "met2021": (
        "N.-A. Ypsilantis, N. Garcia, G. Han, S. Ibrahimi, N. van Noord, G. Tolias: The Met Dataset: Instance-level "
        "Recognition for Artworks. NeurIPS 2021, Datasets and Benchmarks. https://arxiv.org/abs/2202.01747"
    ),
    "report2022": (
        "The 2022 student report on the Met dataset with ten pretrained backbones; its tables are val scores, tuned on "
        "the same val. No public address is known"
    ),
    "dinov2": (
        "M. Oquab et al.: DINOv2: Learning Robust Visual Features without Supervision. TMLR 2024. "
        "https://arxiv.org/abs/2304.07193"
    ),
    "dinov3": "O. Siméoni et al.: DINOv3. 2025. https://arxiv.org/abs/2508.10104",
}
"""The citation and address of each `source`."""

PUBLISHED = Path(__file__).with_name("published.csv")

# The Met's own lists (`Split.sha256`): scores of other queries, or against another database, measure something else.
_MET_VAL = "ad83c9d1037be3361a02710e150b2a8469e7922548bff57c8432495d72ccc890"
_MET_TEST = "a82810e7b38298dcb8d28c682c0a6cc7a6e61b4f0fbefac184662243da6b5cf4"
_MET_MINI = "e32f60b9834ae306acfce51763d2c7b682e2a90795afcf54f7dfd6343241c571"


def read() -> pd.DataFrame:
    """The published numbers of the Met in percent as printed, NaN where none is, with `museum` and `protocol`.

    `source` is a key of `SOURCES`. `training` is "met" where the network was trained on the Met's own database;
    `scales` "ms" means three, as in `extract.SCALES`, and nothing that the source doesn't say.
    """
    table = pd.read_csv(PUBLISHED, dtype={"whitened_dim": "Int64", "k": "Int64"}).fillna({"scales": ""})
    return table.assign(museum="met", protocol=[protocol(row) for row in table.to_dict("records")])


def comparable(museum: Museum, *, split: str, tuned_on: str = "val", training: str | None = "none") -> pd.DataFrame:
    """The published rows of the same protocol on this museum: empty unless it is the Met, and of its database only.

    `training` "none" gives pretrained networks as they come, "met" those trained on the Met's database, None both.
    `split="val"` gives numbers that were tuned on the same val. Raises ValueError for a split other than val and test.
    """
    if split not in ("val", "test"):
        raise ValueError(f"split {split!r}: expected 'val' or 'test', the queries that were scored")
    table = read()
    same = (table.database == museum.kind) & (table.split == split) & (table.tuned_on == tuned_on)
    same &= (table.training == training) | (training is None)
    return table[same & is_met(museum)].reset_index(drop=True)


def is_met(museum: Museum) -> bool:
    """Whether these are the Met's own val and test, against its own mini or full (by its number of images) database."""
    same_queries = (museum.val.sha256, museum.test.sha256) == (_MET_VAL, _MET_TEST)
    if museum.kind == "mini":
        return same_queries and museum.database.sha256 == _MET_MINI
    return same_queries and museum.kind == "full" and len(museum.database) == MET_IMAGES["full"]


def beside(rows: pd.DataFrame | Sequence[Mapping[str, Any]], numbers: pd.DataFrame) -> pd.DataFrame:
    """Join rows of a results table with published ones for `plots.score_bars`: fractions, `label`, `published` (bool).

    Take `numbers` from `comparable`; it may be empty. Raises ValueError for several protocols, or lists of images.
    """
    ours = pd.DataFrame(rows).assign(published=False)
    ours["label"] = ours["network"].astype(str)
    for column in ("scales", "whitening", "seed"):  # labels of one network's rows name what differs
        if (ours.groupby("network")[column].nunique() > 1).any():
            ours["label"] += f", {column} " + ours[column].astype(str)
    parts = [ours]
    if len(numbers):
        parts.append(numbers.assign(label=numbers.model + " (" + numbers.source + ")", published=True))
    protocols = sorted({protocol(row) for part in parts for row in part.to_dict("records")})
    museums = ours["lists"].nunique()
    if len(protocols) > 1 or museums > 1:
        raise ValueError(
            f"rows of {museums} museum(s) and {len(protocols)} protocol(s): {'; '.join(protocols)}. "
            "They don't compare: choose one museum, database, split and tuning"
        )
    both = pd.concat([part.reindex(columns=["label", "published", *SCORES]) for part in parts], ignore_index=True)
    return both.assign(**{score: both[score].astype("float64") / 100 for score in SCORES}, protocol=protocols[0])
