"""The ledgers of results, and the published numbers with the protocol of each: what may stand beside what.

`figures/results.csv` has one row a run and split, in percent; `figures/attributes.csv` one row a labelled collection,
attribute and way to learn it. A run that is repeated takes the place of its row, so
the file shows in git only what changed. The published numbers are `published.csv` beside this file, in percent as
printed; what each was scored and tuned on is part of it, because two numbers of different protocols don't compare.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metlib.common.files import replacing
from metlib.dataset import Museum
from metlib.descriptors import Described
from metlib.evaluate import Evaluation

_TITLES = {"gap": "GAP", "gap_minus": "GAP⁻", "acc": "ACC"}
_SCORES = tuple(f"{score}{end}" for score in _TITLES for end in ("", "_low", "_high"))

COLUMNS = (
    *("date", "museum", "lists", "database", "images", "network", "weights", "scales", "whitening"),
    *("split", "tuned_on", "k", "tau", "queries", "positives", *_SCORES, "seed", "note"),
)
"""The ledger's columns: whose data, what described them, how k and tau came about, and what was scored (percent)."""


@dataclass(frozen=True)
class Form:
    """What a ledger's columns are: all of them, the whole numbers, other numbers, percentages, and a run's identity."""

    columns: tuple[str, ...]
    integers: tuple[str, ...]
    numbers: tuple[str, ...]
    percentages: tuple[str, ...]
    identity: tuple[str, ...]


RETRIEVAL = Form(
    columns=COLUMNS,
    integers=("images", "k", "queries", "positives", "seed"),
    numbers=("tau",),
    percentages=_SCORES,
    identity=(
        *("museum", "lists", "database", "split", "network", "weights", "scales", "whitening", "tuned_on"),
        *("k", "tau", "seed"),
    ),
)
"""The ledger of the study's protocol: GAP, GAP⁻ and ACC."""

_ACCURACIES = ("accuracy", "accuracy_low", "accuracy_high", "seed_std", "majority")

ATTRIBUTES = Form(
    columns=(
        *("date", "collection", "attribute", "labels", "classes", "train", "test", "network", "weights", "method"),
        *("pixels", "epochs", "settings", "seeds", *_ACCURACIES, "note"),
    ),
    integers=("classes", "train", "test", "pixels", "epochs", "seeds"),
    numbers=(),
    percentages=_ACCURACIES,
    identity=("collection", "attribute", "labels", "network", "weights", "method", "pixels", "settings", "seeds"),
)
"""The ledger of labelled collections: test accuracy of an attribute, beside always naming the largest class.

`labels` names images, splits and labels by hash; `train` and `test` count labelled images, `pixels` is the side of
the square whose area images were brought to, `epochs` the most that training had (0: none), `settings` names all of
its settings by hash, `seed_std` the standard
deviation over training seeds.
"""

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
"""Where the published numbers stand: the citation and address of each `source`."""

PUBLISHED = Path(__file__).with_name("published.csv")

# The Met's own lists (`Split.sha256`): whoever scores other queries, or another database, measures something else.
_MET_VAL = "ad83c9d1037be3361a02710e150b2a8469e7922548bff57c8432495d72ccc890"
_MET_TEST = "a82810e7b38298dcb8d28c682c0a6cc7a6e61b4f0fbefac184662243da6b5cf4"
_MET_MINI = "e32f60b9834ae306acfce51763d2c7b682e2a90795afcf54f7dfd6343241c571"
_MET_FULL_IMAGES = 397_121


def rows_of(
    evaluation: Evaluation,
    described: Described,
    *,
    name: str | None = None,
    note: str = "",
    date: str | None = None,
) -> list[dict[str, Any]]:
    """Give the ledger's two rows of one run, of val and of test, in percent with two decimals.

    `name` is the network's, by default that which the descriptors know; `date` an ISO date, by default today's.
    `lists` names the three lists of images by hash, so equal names with other data differ. `scales` is "ms" for the
    paper's three scales, else the scales joined by "+". `whitening` is the dimension, "raw" where there is none.
    `tuned_on` is "val" where k and tau were, else it names what was, as "val (tau)", or is "given".
    Raises ValueError where nobody says which network it was, and for a date of another form.
    """
    made_by, museum, run = described.made_by, described.museum, evaluation
    network = name or made_by.get("backbone")
    if not network:
        raise ValueError("these descriptors don't say which network made them: give its name (name=..., or --name)")
    common = {
        "date": _iso(date) if date else datetime.date.today().isoformat(),
        "museum": museum.name,
        "lists": museum.sha256[:8],
        "database": museum.kind,
        "images": len(described.database),
        "network": network,
        "weights": "+".join(part[:8] for part in str(made_by.get("weights") or "").split("+")),
        "scales": _format_scales(made_by.get("scales")),
        "whitening": _format_whitening(run.dim, run.shrinkage),
        "tuned_on": _format_tuned(run),
        "k": int(run.tuning.k),
        "tau": float(run.tuning.tau),
        "seed": int(run.seed),
        "note": note,
    }
    rows = []
    for split, scored in (("val", run.val), ("test", run.test)):
        counts = {name: int(scored[name]) for name in ("queries", "positives")}
        scores = {name: round(100 * float(scored[name]), 2) for name in _SCORES}
        row = common | {"split": split} | counts | scores
        rows.append({column: row[column] for column in COLUMNS})
    return rows


def append(path: str | Path, rows: Iterable[Mapping[str, Any]], form: Form = RETRIEVAL) -> Path:
    """Write rows into the ledger at `path`, each in the place of the row of the same run, and give the path.

    The same run agrees in the identity of the form. For the study's protocol these are: museum and lists, database,
    network and weights, scales, whitening, split, tuning and seed; k or tau belong to it where they were given, not
    where they were tuned. Where all its numbers are the same, its date stays: a repeated run leaves the file as it is,
    to the byte. Rows are sorted by these names.
    Raises ValueError for a damaged ledger, another CSV file, and rows that don't have the columns; the file then
    stays as it was.
    """
    path = Path(path)
    ledger = {_identity(line, form): line for line in (_load(path, form) if path.exists() else [])}
    for row in rows:
        line = _as_text(row, form)
        where = line.get("split") or line["attribute"]
        _check(
            line,
            f"the row of {line['network']} on {where}",
            "make it with ledger.rows_of, or transfer.ledger_rows",
            form,
        )
        old = ledger.get(_identity(line, form))
        if old and all(line[column] == old[column] for column in form.columns if column not in ("date", "note")):
            line["date"] = old["date"]
        ledger[_identity(line, form)] = line
    with replacing(path, "w") as file:
        writer = csv.DictWriter(file, form.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ledger[key] for key in sorted(ledger, key=_naturally))
    return path


def read(path: str | Path, form: Form = RETRIEVAL) -> pd.DataFrame:
    """Read a ledger as a DataFrame of its form's columns, scores in percent; errors as for `append`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no ledger {path}: the first `ledger.append` makes it")
    types: dict[str, Any] = dict.fromkeys(form.integers, "int64")
    types |= dict.fromkeys((*form.numbers, *form.percentages), "float64")
    return pd.DataFrame(_load(path, form), columns=list(form.columns)).astype(types)


def published() -> pd.DataFrame:
    """The published numbers of the Met in percent as printed, NaN where none is, with `museum` and `protocol`.

    `source` is a key of `SOURCES`. `training` is "met" where the network was trained on the Met's own database;
    `scales` "ms" means three, as in `extract.SCALES`, and nothing that the source doesn't say.
    """
    table = pd.read_csv(PUBLISHED, dtype={"whitened_dim": "Int64", "k": "Int64"}).fillna({"scales": ""})
    return table.assign(museum="met", protocol=[protocol(row) for row in table.to_dict("records")])


def protocol(row: Mapping[str, Any]) -> str:
    """Say how a row came about: "full database, scored on test, tuned on val".

    `row` has `database`, `split` and `tuned_on`, as the rows of the ledger and of `published` do.
    """
    base, _, part = str(row["tuned_on"]).rstrip(")").partition(" (")
    where = "the same queries" if base == row["split"] else base
    tuned = "k and tau given" if base == "given" else f"{part} tuned on {where}".strip()
    return f"{row['database']} database, scored on {row['split']}, {tuned}"


def comparable(museum: Museum, *, split: str, tuned_on: str = "val", training: str | None = "none") -> pd.DataFrame:
    """The published rows of the same protocol on this museum: empty unless it is the Met, and of its database only.

    `training` "none" gives pretrained networks as they come, "met" those trained on the Met's database, None both.
    `split="val"` gives numbers that were tuned on the same val. A museum that isn't the Met has no published numbers,
    whatever its name. Raises ValueError for a split other than val and test.
    """
    if split not in ("val", "test"):
        raise ValueError(f"split {split!r}: expected 'val' or 'test', the queries that were scored")
    table = published()
    same = (table.database == museum.kind) & (table.split == split) & (table.tuned_on == tuned_on)
    same &= (table.training == training) | (training is None)
    return table[same & is_met(museum)].reset_index(drop=True)


def is_met(museum: Museum) -> bool:
    """Whether these are the Met's own val and test, against its own full or mini database; its name isn't asked.

    Of the full database only the number of images is compared: 397,121.
    """
    if museum.val.sha256 != _MET_VAL or museum.test.sha256 != _MET_TEST:
        return False
    if museum.kind == "mini":
        return museum.database.sha256 == _MET_MINI
    return museum.kind == "full" and len(museum.database) == _MET_FULL_IMAGES


def beside(rows: pd.DataFrame | Sequence[Mapping[str, Any]], numbers: pd.DataFrame) -> pd.DataFrame:
    """Join rows of the ledger with published ones for `plots.score_bars`: fractions, `label` and `published` (bool).

    Take `numbers` from `comparable`; it may be empty. Raises ValueError where the rows are of more than one protocol,
    or of more than one museum's lists.
    """
    ours = pd.DataFrame(rows)
    label = ours["network"].astype(str)
    for column in ("scales", "whitening", "seed"):  # rows of one network say in what they differ
        if (ours.groupby("network")[column].nunique() > 1).any():
            label = label + f", {column} " + ours[column].astype(str)
    ours = ours.assign(label=label, published=False)
    parts = [ours]
    if len(numbers):
        parts.append(numbers.assign(label=numbers.model + " (" + numbers.source + ")", published=True))
    protocols = sorted({protocol(row) for part in parts for row in part.to_dict("records")})
    if len(protocols) > 1 or ours["lists"].nunique() > 1:
        raise ValueError(
            f"rows of {ours['lists'].nunique()} museum(s) and {len(protocols)} protocol(s): {'; '.join(protocols)}. "
            "They don't compare: choose one museum, database, split and tuning before they stand side by side"
        )
    columns = ["label", "published", *_SCORES]
    both = pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)
    return both.assign(**{score: both[score].astype("float64") / 100 for score in _SCORES}, protocol=protocols[0])


def table(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a reader wants them, in percent: the network, how it was used, and "36.1 [33.0, 39.2]"."""
    records = pd.DataFrame(rows).to_dict("records")
    return pd.DataFrame(
        [
            {name: row[name] for name in ("network", "scales", "whitening", "k", "tau", "note")}
            | {"protocol": protocol(row)}
            | {
                title: f"{row[score]:.1f} [{row[f'{score}_low']:.1f}, {row[f'{score}_high']:.1f}]"
                for score, title in _TITLES.items()
            }
            for row in records
        ]
    )


def _format_scales(scales: Any) -> str:
    if scales is None or isinstance(scales, str):
        return scales or ""
    if len(scales) == 3 and all(math.isclose(a, b) for a, b in zip(scales, (1, 2**-0.5, 0.5), strict=True)):
        return "ms"
    return "+".join(f"{scale:.3g}" for scale in scales)


def _format_whitening(dim: int | None, shrinkage: float) -> str:
    if dim is None:
        return "raw"
    if shrinkage == 1:
        return str(dim)
    return f"{dim} (PCA)" if shrinkage == 0 else f"{dim} (shrinkage {shrinkage:g})"


def _format_tuned(run: Evaluation) -> str:
    if len(run.tuning.ks) > 1 and len(run.tuning.taus) > 1:
        return "val"
    choices = {"k": len(run.tuning.ks) > 1, "tau": len(run.tuning.taus) > 1, "dimension": run.dims is not None}
    chosen = [name for name, by_val in choices.items() if by_val]
    return f"val ({' and '.join(chosen)})" if chosen else "given"


def _iso(date: str) -> str:
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise ValueError(f"date {date!r}: expected an ISO date such as 2024-05-17") from None


def _as_text(row: Mapping[str, Any], form: Form) -> dict[str, str]:
    """A row as its line is written: texts on one line, tau short, scores with two decimals."""
    if set(row) != set(form.columns):
        wrong = ", ".join(sorted(map(str, set(row) ^ set(form.columns))))
        raise ValueError(f"a row of the ledger lacks, or has too much: {wrong}; make it with ledger.rows_of")
    digits = dict.fromkeys(form.percentages, ".2f") | dict.fromkeys(form.numbers, "g")
    return {
        column: format(row[column], digits[column]) if column in digits else " ".join(str(row[column]).split())
        for column in form.columns
    }


def _check(line: Mapping[str, str], where: str, way_out: str, form: Form) -> None:
    """Refuse a line whose numbers aren't, or whose scores aren't percentages."""
    for column in (*form.integers, *form.numbers, *form.percentages):
        try:
            value = int(line[column]) if column in form.integers else float(line[column])
        except ValueError:
            value = math.nan
        if not (0 <= value <= 100 if column in form.percentages else 0 <= value < math.inf):
            expected = "a percentage" if column in form.percentages else "a number of 0 or more"
            raise ValueError(f"{where}: {column} is {line[column]!r}, expected {expected}; {way_out}")
    try:
        _iso(line["date"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {way_out}") from None


def _load(path: Path, form: Form) -> list[dict[str, str]]:
    """Read a ledger's lines as text, every one checked."""
    way_out = "mend it, bring the file back from git, or move it away and run again"
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != list(form.columns):
                raise ValueError(f"its first line names the columns {', '.join(header)[:80] or 'nothing'}")
            for values in reader:
                where = f"line {reader.line_num}"
                if len(values) != len(form.columns):
                    raise ValueError(f"{where} has {len(values)} values, expected {len(form.columns)}")
                line = dict(zip(form.columns, values, strict=True))
                _check(line, where, "it was edited, or merged, by hand", form)
                if _identity(line, form) in lines:
                    raise ValueError(f"{where} is of the same run as a line above")
                lines[_identity(line, form)] = line
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is no ledger of results, or damaged: {error}; {way_out}") from None
    return list(lines.values())


def _identity(line: Mapping[str, str], form: Form) -> tuple[str, ...]:
    """What a run is known by; k and tau only where they were given, not where val chose them."""
    tuned_on = line.get("tuned_on", "")
    chosen = re.findall(r"\b(k|tau)\b", "k tau" if tuned_on == "val" else tuned_on)
    return tuple("" if column in chosen else line[column] for column in form.identity)


def _naturally(key: tuple[str, ...]) -> list[list[Any]]:
    """Sort numbers inside names as numbers: R18, R50, R101."""
    return [[int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", text))] for text in key]
