"""Results tables: CSV files in git, one row a measured network and split, in percent, with all that it depended on.

`figures/results.csv` follows the schema RETRIEVAL, `figures/attributes.csv` ATTRIBUTES. A repeated run takes the place
of its row, so git shows only what changed.
"""

import csv
import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from metlib.common.files import lock_beside, replacing
from metlib.descriptors import Described
from metlib.evaluate import Evaluation

TITLES = {"gap": "GAP", "gap_minus": "GAP⁻", "acc": "ACC"}
SCORES = tuple(f"{score}{end}" for score in TITLES for end in ("", "_low", "_high"))

COLUMNS = (
    *("date", "museum", "lists", "database", "images", "network", "weights", "scales", "whitening"),
    *("split", "tuned_on", "k", "tau", "queries", "positives", *SCORES, "seed", "note"),
)
"""The columns of RETRIEVAL: whose data, what described them, how k and tau came about, what was scored (percent)."""


class Schema(NamedTuple):
    """The columns of a results table: all, the integers, other numbers, percentages, and those that identify a run."""

    columns: tuple[str, ...]
    integers: tuple[str, ...]
    numbers: tuple[str, ...]
    percentages: tuple[str, ...]
    identity: tuple[str, ...]


RETRIEVAL = Schema(
    columns=COLUMNS,
    integers=("images", "k", "queries", "positives", "seed"),
    numbers=("tau",),
    percentages=SCORES,
    identity=(
        *("museum", "lists", "database", "split", "network", "weights", "scales", "whitening", "tuned_on"),
        *("k", "tau", "seed"),
    ),
)
"""The study's protocol: GAP, GAP⁻ and ACC."""

_ACCURACIES = ("accuracy", "accuracy_low", "accuracy_high", "seed_std", "majority")

ATTRIBUTES = Schema(
    columns=(
        *("date", "collection", "attribute", "labels", "classes", "train", "test", "network", "weights", "method"),
        *("pixels", "epochs", "settings", "seeds", *_ACCURACIES, "note"),
    ),
    integers=("classes", "train", "test", "pixels", "epochs", "seeds"),
    numbers=(),
    percentages=_ACCURACIES,
    identity=("collection", "attribute", "labels", "network", "weights", "method", "pixels", "settings", "seeds"),
)
"""Labelled collections: test accuracy of an attribute, beside that of always naming the largest class.

`labels` is a hash of images, splits and labels; `train` and `test` count labelled images, `pixels` is the side of the
square whose area images were brought to, `epochs` the most that training had (0: none), `settings` a hash of all its
settings, `seed_std` the standard deviation over training seeds.
"""


def rows_of(
    evaluation: Evaluation, described: Described, *, name: str | None = None, note: str = "", date: str | None = None
) -> list[dict[str, Any]]:
    """Make the two rows of one evaluation, of val and of test, in percent with two decimals.

    `name` is the network's, by default that which the descriptors know; `date` an ISO date, by default today's.
    `lists` is a hash of the three lists of images. `scales` is "ms" for the paper's three, else they are joined by "+".
    `whitening` is "none", or "pca" or "learned" with its dimension and shrinkage (PCA's: where it isn't 1). `tuned_on`
    is "val" where k and tau were, else it names what was, as "val (tau)", or is "given". Raises ValueError for a
    network without a name, and a date of another form.
    """
    made_by, museum = described.made_by, described.museum
    network = name or made_by.get("backbone")
    if not network:
        raise ValueError("these descriptors don't name the network that made them: give its name (name=..., or --name)")
    day = _iso(date) if date else datetime.date.today().isoformat()
    weights = "+".join(part[:8] for part in str(made_by.get("weights") or "").split("+"))
    whitening = evaluation.whitening if evaluation.dim is None else f"{evaluation.whitening} {evaluation.dim}"
    if (evaluation.whitening, evaluation.shrinkage) not in (("none", None), ("pca", 1.0)):
        whitening += f" (shrinkage {evaluation.shrinkage:g})"
    tuning = evaluation.tuning
    tried = {"k": len(tuning.ks) > 1, "tau": len(tuning.taus) > 1, "dimension": evaluation.dims is not None}
    chosen = " and ".join(name for name in tried if tried[name])
    by_val = "val" if tried["k"] and tried["tau"] else f"val ({chosen})"
    common: dict[str, Any] = {"date": day, "museum": museum.name, "lists": museum.sha256[:8], "database": museum.kind}
    common |= {"images": len(described.database), "network": network, "weights": weights, "note": note}
    common |= {"scales": _format_scales(made_by.get("scales")), "whitening": whitening, "seed": int(evaluation.seed)}
    common |= {"tuned_on": by_val if chosen else "given", "k": int(tuning.k), "tau": float(tuning.tau)}
    rows = []
    for split, scored in (("val", evaluation.val), ("test", evaluation.test)):
        counts = {name: int(scored[name]) for name in ("queries", "positives")}
        scores = {name: round(100 * float(scored[name]), 2) for name in SCORES}
        row = common | {"split": split} | counts | scores
        rows.append({column: row[column] for column in COLUMNS})
    return rows


def append(path: str | Path, rows: Iterable[Mapping[str, Any]], schema: Schema = RETRIEVAL) -> Path:
    """Write rows into the results table at `path`, each in the place of the row of the same run, and give the path.

    The same run agrees in the schema's identity; k or tau belong to it where they were given, not where they were
    tuned. Where all its numbers are the same, its date stays: a repeated run leaves the file as it is, to the byte.
    Rows are sorted by identity. Processes that append at the same time wait for each other.
    Raises ValueError for a damaged table, another CSV file, and rows of other columns; the file then stays as it was.
    """
    path = Path(path)
    lines = [_as_text(row, schema) for row in rows]
    new = pd.DataFrame(lines, columns=list(schema.columns), dtype=object)
    where = [f"the row of {line['network']} on {line.get('split') or line['attribute']}" for line in lines]
    _check(new, where, "make it with results.rows_of, or transfer.result_rows", schema)
    with lock_beside(path):
        table = pd.concat([_load(path, schema), new] if path.exists() else [new], ignore_index=True)
        runs = _identities(table, schema)
        same = table.drop(columns=["date", "note"]).assign(run=runs).duplicated(keep="first")
        first = table.groupby(runs)["date"].transform("first")
        table["date"] = table["date"].where(~same, first)
        table, runs = table[~runs.duplicated(keep="last")], runs[~runs.duplicated(keep="last")]
        table = table.loc[sorted(table.index, key=lambda row: _natural_key(runs[row]))]
        with replacing(path, "w") as file:
            table.to_csv(file, index=False, lineterminator="\n")
    return path


def read(path: str | Path, schema: Schema = RETRIEVAL) -> pd.DataFrame:
    """Read a results table as a DataFrame of its schema's columns, scores in percent; errors as for `append`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no results table {path}: the first `results.append` makes it")
    types: dict[str, Any] = dict.fromkeys(schema.integers, "int64")
    return _load(path, schema).astype(types | dict.fromkeys((*schema.numbers, *schema.percentages), "float64"))


def protocol(row: Mapping[str, Any]) -> str:
    """Describe a row's `database`, `split` and `tuned_on`, as "full database, scored on test, tuned on val"."""
    base, _, part = str(row["tuned_on"]).rstrip(")").partition(" (")
    where = "the same queries" if base == row["split"] else base
    tuned = "k and tau given" if base == "given" else f"{part} tuned on {where}".strip()
    return f"{row['database']} database, scored on {row['split']}, {tuned}"


def format_rows(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a reader wants them, in percent: the network, how it was used, and "36.1 [33.0, 39.2]"."""
    formatted = []
    for row in pd.DataFrame(rows).to_dict("records"):
        scores = {
            title: f"{row[score]:.1f} [{row[f'{score}_low']:.1f}, {row[f'{score}_high']:.1f}]"
            for score, title in TITLES.items()
        }
        kept = {name: row[name] for name in ("network", "scales", "whitening", "k", "tau", "note")}
        formatted.append(kept | {"protocol": protocol(row)} | scores)
    return pd.DataFrame(formatted)


def _format_scales(scales: Any) -> str:
    if scales is None or isinstance(scales, str):
        return scales or ""
    if len(scales) == 3 and all(math.isclose(a, b) for a, b in zip(scales, (1, 2**-0.5, 0.5), strict=True)):
        return "ms"
    return "+".join(f"{scale:.3g}" for scale in scales)


def _iso(date: str) -> str:
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise ValueError(f"date {date!r}: expected an ISO date such as 2024-05-17") from None


def _as_text(row: Mapping[str, Any], schema: Schema) -> dict[str, str]:
    """A row as its line is written: texts on one line, tau short, scores with two decimals."""
    if set(row) != set(schema.columns):
        wrong = ", ".join(sorted(map(str, set(row) ^ set(schema.columns))))
        raise ValueError(f"a row lacks, or has too much: {wrong}; make it with results.rows_of")
    digits = dict.fromkeys(schema.percentages, ".2f") | dict.fromkeys(schema.numbers, "g")
    return {
        column: format(row[column], digits[column]) if column in digits else " ".join(str(row[column]).split())
        for column in schema.columns
    }


def _check(table: pd.DataFrame, where: Sequence[str], way_out: str, schema: Schema) -> None:
    """Refuse the first row (of a table of texts) whose numbers aren't, or whose scores aren't percentages."""
    for column in (*schema.integers, *schema.numbers, *schema.percentages):
        values = pd.to_numeric(table[column], errors="coerce")
        most = 100 if column in schema.percentages else 2**63
        good = (values >= 0) & (values <= most)
        good &= table[column].str.fullmatch(r"\d+") if column in schema.integers else True
        if not good.all():
            row, expected = int((~good).to_numpy().argmax()), "a percentage" if most == 100 else "a number of 0 or more"
            raise ValueError(f"{where[row]}: {column} is {table[column].iloc[row]!r}, expected {expected}; {way_out}")
    for row, date in enumerate(table["date"]):
        try:
            _iso(date)
        except ValueError as error:
            raise ValueError(f"{where[row]}: {error}; {way_out}") from None


def _load(path: Path, schema: Schema) -> pd.DataFrame:
    """Read a results table as texts, every row checked."""
    way_out = "mend it, bring the file back from git, or move it away and run again"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first, *rows = list(csv.reader(file)) or [[]]
        if tuple(first) != tuple(schema.columns):
            raise ValueError(f"its first line names the columns {', '.join(first)[:80] or 'nothing'}")
        for line, row in enumerate(rows, start=2):
            if any("\n" in value for value in row):
                raise ValueError(f"line {line} has a quote that doesn't close on its line")
            if len(row) != len(first):
                raise ValueError(f"line {line} has {len(row)} values, expected {len(first)}")
        table = pd.DataFrame(rows, columns=first, dtype=object)
        _check(table, [f"line {row + 2}" for row in table.index], "it was edited, or merged, by hand", schema)
        twice = _identities(table, schema).duplicated()
        if twice.any():
            raise ValueError(f"line {int(twice.to_numpy().argmax()) + 2} is of the same run as a line above")
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is no results table, or damaged: {error}; {way_out}") from None
    return table


def _identities(table: pd.DataFrame, schema: Schema) -> pd.Series:
    """What each row's run is known by, a tuple; k and tau only where they were given, not where val chose them."""
    known = table[list(schema.identity)].copy()
    if "tuned_on" in known:
        for name in ("k", "tau"):
            chosen = (known["tuned_on"] == "val") | known["tuned_on"].str.contains(rf"\b{name}\b")
            known.loc[chosen, name] = ""
    return pd.Series(list(known.itertuples(index=False, name=None)), index=table.index, dtype=object)


def _natural_key(identity: Sequence[str]) -> list[list[Any]]:
    """Sort numbers inside names as numbers: R18, R50, R101."""
    return [[int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", text))] for text in identity]
