"""The report of a run: executed notebooks as linked HTML pages, a first page that tells how far it is, the scores."""

import base64
import copy
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any, Literal

import jinja2
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from PIL import Image

from metlib.common.files import replacing
from metlib.dataset import DISTRACTOR, Museum

TEMPLATES = Path(__file__).parent / "templates"
SCORES = "00_the_whole_thing.csv"
TABLES = {
    "results.csv": "The results table: one row per run and split, in percent, with its settings.",
    "attributes.csv": "The results table of labelled collections; `metlib transfer --results` adds to it.",
    "load.csv": "Load checks, run by hand: see benchmarks/README.md.",
}
METRICS = {"gap": "GAP", "gap_minus": "GAP⁻", "acc": "ACC"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PATHS = ("data_root", "work_dir", "figures_dir")  # parameters that name folders of one machine, and aren't shown


@dataclass(frozen=True)
class Entry:
    """A notebook of the report: `stem` NN_slug, the notebook as far as it was executed, the seconds that took."""

    stem: str
    notebook: NotebookNode
    state: Literal["to come", "running", "finished", "failed", "stopped"] = "to come"
    seconds: float = 0
    reason: str = ""  # why it failed

    @property
    def number(self) -> str:
        return self.stem[:2]

    @property
    def title(self) -> str:
        """The first heading, without the number that the course gives it."""
        heading = re.search(r"^# (.+)$", self._prose, re.MULTILINE)
        return _plain(re.sub(r"^\d\d\W+", "", heading[1])) if heading else self.stem

    @property
    def question(self) -> str:
        question = re.search(r"\*\*Question\.?\*\*:?(.+?)(?:\n\s*\n|\Z)", self._prose, re.DOTALL)
        return _plain(question[1]) if question else ""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the runner passed, without folders."""
        given = self.notebook.metadata.get("papermill", {}).get("parameters", {})
        return {name: value for name, value in given.items() if name not in PATHS}

    @property
    def _prose(self) -> str:
        return next((cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"), "")

    @cached_property  # the first page is written again and again
    def thumbnail(self) -> tuple[str, str] | None:
        """The first picture as a data URI, scaled down to 640 pixels, with its alt text; None where there is none."""
        outputs = (output for cell in self.notebook.cells for output in cell.get("outputs", []))
        if (output := next((output for output in outputs if "image/png" in output.get("data", {})), None)) is None:
            return None
        picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
        picture.thumbnail((640, 640))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", alt


def _plain(markdown: str) -> str:
    """One line of text without Markdown's marks."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return " ".join(re.sub(r"\*+|`|<[^>]+>", "", text).split())


def read_scores(figures: Path) -> list[dict[str, str]]:
    """Read the rows of the course's table of scores, as text; an empty list if the file is missing."""
    path = figures / SCORES
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def percent(row: dict[str, str], metric: str) -> tuple[str, str]:
    """A score and its interval in percent, such as ("91.7", "88.2–94.6"); empty texts if the table has none."""
    try:
        value, low, high = (100 * float(row.get(metric + part) or "nan") for part in ("", "_low", "_high"))
    except ValueError:
        return "", ""
    return "" if isnan(value) else f"{value:.1f}", "" if isnan(low + high) else f"{low:.1f}–{high:.1f}"


def format_scores(scores: Sequence[dict[str, str]]) -> str:
    """Format the table of scores for a terminal: percentages with intervals; rows tuned on themselves are marked."""
    if not scores:
        return "(no table of scores: notebook 00 was not run, or saved none)"
    rows = [["queries of", "tuned on", "queries", *METRICS.values(), "dim", "k", "tau", "backbone"]]
    for row in scores:
        scored = [percent(row, metric) for metric in METRICS]
        cells = [f"{value} [{interval}]" if interval else value for value, interval in scored]
        settings = [row.get(name, "") for name in ("dim", "k", "tau", "backbone")]
        same = " (itself)" if row.get("tuned_on") == row.get("split") else ""
        sizes = f"{row.get('queries', '')} ({row.get('positives', '')} with an exhibit)"
        rows.append([row.get("split", ""), row.get("tuned_on", "") + same, sizes, *cells, *settings])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def write_index(
    entries: Sequence[Entry],
    folder: Path,
    museum: Museum,
    backbone: str,
    scores: Sequence[dict[str, str]],
    minutes: float,
) -> Path:
    """Write `index.html`, which tells of every notebook whether it's done, and return its path.

    While notebooks run or are to come, the page reloads itself. `minutes` count from the start of the run.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    text = environment.get_template("index.html.j2").render(
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        museum=museum,
        splits=[(name, len(split), int((split.labels != DISTRACTOR).sum())) for split, name in museum.splits()],
        exhibits=len(set(museum.database.labels.tolist())),
        backbone=Path(backbone).name,
        untrained=backbone == "random",
        scores=[(row, [percent(row, metric) for metric in METRICS]) for row in scores],
        metrics=list(METRICS.values()),
        entries=entries,
        counts=Counter(entry.state for entry in entries),
        minutes=minutes,
    )
    with replacing(folder / "index.html", "w") as file:
        file.write(text)
    return folder / "index.html"


def write_page(entry: Entry, entries: Sequence[Entry], folder: Path) -> None:
    """Write the HTML page of one of the course's `entries`, with links to those before and after; it needs no network.

    Every entry is linked whether or not its page is there yet: all are once the run is over.
    """
    place = [other.stem for other in entries].index(entry.stem)
    course = {
        "style": (TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "title": f"{entry.number} · {entry.title}",
        "previous": entries[place - 1] if place else None,
        "next": entries[place + 1] if place + 1 < len(entries) else None,
    }
    with replacing(folder / f"{entry.stem}.html", "w") as file:
        file.write(_page(entry.notebook, course, {other.stem for other in entries}))


def _page(notebook: NotebookNode, course: dict[str, Any], pages: set[str]) -> str:
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)], embed_images=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = exporter.exclude_anchor_links = True
    body, _ = exporter.from_notebook_node(_for_a_page(notebook), resources={"course": course})
    links = re.compile(r'<a href="(?:\./)?(\d\d_[\w-]+)\.ipynb">(.*?)</a>', re.DOTALL)
    # A notebook that wasn't run has no page to link to.
    return links.sub(lambda link: f'<a href="{link[1]}.html">{link[2]}</a>' if link[1] in pages else link[2], str(body))


def _for_a_page(notebook: NotebookNode) -> NotebookNode:
    """A copy without what needs a network or a kernel: the Colab badge's picture, and widgets."""
    page = copy.deepcopy(notebook)
    page.metadata.pop("widgets", None)
    for cell in page.cells:
        cell.source = re.sub(r"<!-- badge -->.*?<!-- /badge -->", "", cell.source, flags=re.DOTALL)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return page


def write_figures_readme(executed: Sequence[Entry], folder: Path) -> Path | None:
    """Write README.md beside the pictures: which notebook, parameters and data made each; None without a picture.

    Alt text and the stamp of the data are read from the PNG files, so the list always fits them.
    """
    pictures = sorted(folder.glob("[0-9][0-9]_*.png"))
    if not pictures:
        return None
    notebooks = {notebook.number: notebook for notebook in executed}
    parts = ["# Figures", "Written by `make report`; every picture carries its text in its own metadata."]
    for path in pictures:
        with Image.open(path) as picture:
            texts = {str(name): text for name, text in picture.info.items() if isinstance(text, str)}
        alt = " ".join(texts.get("Description", texts.get("Title", "no description")).split()).replace("]", ")")
        source = f"{path.stem[:2]}, in an earlier run"
        if notebook := notebooks.get(path.stem[:2]):
            settings = ", ".join(f"`{name}={value!r}`" for name, value in notebook.parameters.items())
            source = f"{notebook.stem}, with {settings}" if settings else notebook.stem
        facts = [f"- notebook: {source}", f"- data: {texts.get('Source', 'not stamped')}"]
        if path.with_suffix(".csv").is_file():
            facts.append(f"- numbers: [{path.stem}.csv]({path.stem}.csv)")
        parts += [f"## {path.name}", f"![{alt}]({path.name})", alt, "\n".join(facts)]
    for name, what in TABLES.items():
        if (folder / name).is_file():
            parts += [f"## {name}", what]
    if (folder / "benchmarks.png").is_file():
        parts += ["## benchmarks.png", "![How fast it is, by figure.](benchmarks.png)"]
        parts += ["Written by `make bench`; numbers: [benchmarks.csv](benchmarks.csv)."]
    with replacing(folder / "README.md", "w") as file:
        file.write("\n\n".join(parts) + "\n")
    return folder / "README.md"
