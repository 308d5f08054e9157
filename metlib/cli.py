"""The command `metlib`: what the package does, one sub-command a verb, and the one place that turns errors into a line.

Packages that take long to import are imported where a command needs them, so `metlib --help` answers at once.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from metlib import NETWORK, VISITS

NEXT = """\
metlib: a visitor photographs a work; which exhibit is it, how sure are we, and is it in the collection at all?

  metlib report                         run the course on a painted museum, and leave reports/index.html
  metlib report --data MUSEUM           the same on your own museum, in the Met's layout
  metlib evaluate descriptors.pkl --ground-truth data/met
                                        score the authors' descriptors, or your own
  metlib --help                         every command
"""

COURSE, DATA, MEASURE, TRAIN = "Run the course", "Look after data", "Measure", "Train"

Method: TypeAlias = Literal["contrastive", "simsiam", "byol", "parametric"]
Pairs: TypeAlias = Literal["syn", "syn+real", "syn+real-closest", "visit", "syn-alone"]


def _read_scales(text: str) -> tuple[float, ...]:
    try:
        if scales := tuple(float(item) for item in _items(text)):
            return scales
    except ValueError:
        pass
    raise typer.BadParameter(f"expected numbers separated by commas, such as 1,0.707,0.5, got {text!r}")


def _items(text: str | None) -> list[str]:
    """The items of a list as options take it: separated by commas."""
    return [item.strip() for item in text.split(",") if item.strip()] if text else []


Database: TypeAlias = Annotated[Literal["full", "mini"], typer.Option(help="The whole database or the mini one.")]
Museum: TypeAlias = Annotated[Path, typer.Argument(metavar="MUSEUM", help="A museum in the Met's layout.")]
Network: TypeAlias = Annotated[
    str, typer.Argument(metavar="[NETWORK]", help="A recipe (see README), timm name or checkpoint.")
]
Weights: TypeAlias = Annotated[Path | None, typer.Option(help="A folder of weights, or the file of one network.")]
Whitening: TypeAlias = Annotated[
    Literal["auto", "learned", "pca", "none"],
    typer.Option(help="learned: from simulated visits (auto: where there are some); pca: of the database."),
]
Dim: TypeAlias = Annotated[int | None, typer.Option(help="Whitened dimensions (default: val chooses).")]
Shrinkage: TypeAlias = Annotated[float | None, typer.Option(help="Of the whitening (default: val chooses; pca: 1).")]
Visits: TypeAlias = Annotated[int, typer.Option(help="Simulated visits of each image, for learned whitening.")]
Work: TypeAlias = Annotated[Path, typer.Option(help="Folder for what is kept between runs.")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cuda, mps or cpu (default: the fastest that is here).")]
Table: TypeAlias = Annotated[Path | None, typer.Option(help="A results table (CSV) that the rows are added to.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Of the draws behind the 95 % intervals.")]


class _Commands(TyperGroup):
    """The sub-commands, with the one handler of errors: a sentence on stderr, and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a sub-command, and turn its errors into an exit status."""
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            print("\ninterrupted: the same command again keeps the steps that were finished", file=sys.stderr)
            raise typer.Exit(130) from None
        except (OSError, ValueError, RuntimeError, ModuleNotFoundError, MemoryError) as error:
            print(f"error: {' '.join(str(error).splitlines()) or type(error).__name__}", file=sys.stderr)
            raise typer.Exit(getattr(error, "exit_status", 2)) from None


app = typer.Typer(
    cls=_Commands, add_completion=False, pretty_exceptions_enable=False, context_settings={"max_content_width": 120}
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

    0: done; 1: a notebook failed, or images can't be used; 2: what was asked for can't be done; 130: interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without the sign ⁻ shows another for it
        sys.stdout.reconfigure(errors="replace")
    try:
        app(args=None if arguments is None else [str(word) for word in arguments], prog_name="metlib")
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Instance-level recognition of artworks: which exhibit is it, how sure are we, is it in the collection at all?"""
    if version:
        from metlib import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(NEXT, end="")


# --- the course ---


@app.command(rich_help_panel=COURSE)
def report(
    data: Annotated[Path | None, typer.Option(help="A museum (default: one painted by code).")] = None,
    backbone: Annotated[str, typer.Option(help="A recipe such as R18IN, timm name or checkpoint.")] = NETWORK,
    database: Database = "full",
    work: Annotated[Path | None, typer.Option(help="Descriptors, kept between runs (default: work).")] = None,
    reports: Annotated[Path | None, typer.Option(help="Executed notebooks and pages (default: reports).")] = None,
    figures: Annotated[Path | None, typer.Option(help="Pictures (default: figures, or REPORTS/figures).")] = None,
    only: Annotated[str | None, typer.Option(help="These notebooks only, such as 00,02.", metavar="NN,NN")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Of the notebooks.")] = None,
    seed: Annotated[int, typer.Option(help="Of the museum, and of what notebooks draw.")] = 0,
    timeout: Annotated[int | None, typer.Option(help="Seconds for one cell (default: none).")] = None,
    jobs: Annotated[int | None, typer.Option(help="Notebooks side by side (default: by cores and memory).")] = None,
    notebooks: Annotated[Path | None, typer.Option(help="The folder of the notebooks.")] = None,
) -> None:
    """Run the notebooks headless, side by side, check that every cell ran, and leave the report."""
    from metlib.notebooks import course

    options: dict[str, Any] = {"database": database, "seed": seed, "timeout": timeout, "jobs": jobs}
    given = {"data": data, "work": work, "reports": reports, "figures": figures, "notebooks": notebooks}
    options |= {name: value for name, value in given.items() if value is not None}
    print(f"report: {course(backbone=backbone, only=_items(only), parameters=parameter or (), **options)}")


@app.command(rich_help_panel=COURSE)
def paint(
    root: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Default: data/synthetic.")] = None,
    exhibits: Annotated[int, typer.Option(help="How many exhibits.")] = 300,
    seed: Annotated[int, typer.Option(help="Another seed, another museum.")] = 0,
    size: Annotated[int, typer.Option(help="Longer side of an image in pixels.")] = 320,
    workers: Annotated[int, typer.Option(help="Processes that paint.")] = 1,
) -> None:
    """Paint the synthetic museum, in the Met's layout."""
    from metlib import notebooks, synthetic

    if root is None:
        if (exhibits, size, workers) != (300, 320, 1):
            raise ValueError("--exhibits, --size and --workers need a FOLDER: metlib paint data/small --exhibits 50")
        print(f"museum: {notebooks.paint_default(seed)}")
        return
    print(f"museum: {synthetic.write_museum(root, exhibits, seed, size=size, workers=workers)}")


@app.command(rich_help_panel=COURSE)
def stamp(notebooks: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Of the notebooks.")] = None) -> None:
    """Renew the notebooks' setup cells and badges, and strip their outputs (for people who edit them)."""
    from metlib import notebooks as course

    changed = course.stamp(*([notebooks] if notebooks else []))
    print("\n".join(f"stamped {path}" for path in changed) or "nothing to stamp")


# --- data ---


@app.command(rich_help_panel=DATA)
def download(
    root: Annotated[Path, typer.Option(help="The museum's folder.")] = Path("data/met"),
    part: Annotated[str, typer.Option(help="mini (3 GB), full, or an archive: ground_truth, test_met, ...")] = "mini",
    url: Annotated[str | None, typer.Option(help="Another address of the archives.")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep them after unpacking.")] = False,
) -> None:
    """Fetch, check and unpack a part of the Met dataset; the same command goes on where it was stopped."""
    from metlib.dataset import archives

    archives.download(root, part, url=url or archives.URL, keep_archives=keep_archives)
    print(f"{part} lies in {root}")


@app.command(rich_help_panel=DATA)
def verify(museum: Museum, database: Database = "full") -> None:
    """Decode every image of a museum and name those that can't be used."""
    from metlib import dataset

    checked = dataset.load(dataset.find(museum), database)
    problems = dataset.verify(checked)
    for problem in problems:
        print(f"{problem.reason}\t{problem.path}")
    print(f"{sum(len(split) for split, _ in checked.splits())} images, {len(problems)} unusable")
    raise typer.Exit(1 if problems else 0)


@app.command(rich_help_panel=DATA)
def labels(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A labelled collection.")],
    attributes: Annotated[
        str | None, typer.Option(help="These only (default: the format's own).", metavar="A,B")
    ] = None,
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Leave out rows without their image.")] = False,
    decode: Annotated[bool, typer.Option("--verify", help="Decode every image.")] = False,
) -> None:
    """Summarise a labelled collection (style, genre, artist): what is in it, and what is wrong with it."""
    from metlib import labelled

    options: dict[str, Any] = {"attributes": _items(attributes)} if attributes else {}
    options |= {"on_missing": "skip"} if skip_missing else {}
    read = labelled.read(collection, **options)
    missing, shared = labelled.find_missing_classes(read), labelled.find_shared(read)
    problems = labelled.verify(read) if decode else []
    counts = {split: len(read.rows(split)) for split in (*labelled.SPLITS, "")}
    print(
        f"{read.name}: {len(read):,} images, "
        + ", ".join(f"{n:,} in {s or 'no split'}" for s, n in counts.items() if n)
    )
    for note in read.notes:
        print(f"note: {note}")
    print(labelled.summarise(read).to_string(index=False))
    for title, table in (("classes missing from a split", missing), ("identical images in two splits", shared)):
        print(f"{title}: {len(table) or 'none'}")
        if len(table):
            print(table.to_string(index=False))
    for problem in problems:
        print(f"{problem.reason}\t{problem.path}")
    if decode:
        print(f"{len(read):,} images, {len(problems)} unusable")
    raise typer.Exit(1 if problems else 0)


# --- measuring ---


@app.command(rich_help_panel=MEASURE)
def extract(
    museum: Museum,
    backbone: Network = NETWORK,
    database: Database = "full",
    whitening: Annotated[
        Literal["learned", "pca", "none"], typer.Option(help="learned: describe simulated visits of the database too.")
    ] = "learned",
    visits: Visits = VISITS,
    work: Work = Path("work"),
    scales: Annotated[Any, typer.Option(parser=_read_scales, metavar="S,S", help="Default: 1,0.707,0.5.")] = None,
    precision: Annotated[Literal["float32", "float16", "bfloat16"], typer.Option(help="Of the network.")] = "float32",
    batch_size: Annotated[int | None, typer.Option(help="Images of one shape at once.")] = None,
    shard_size: Annotated[int, typer.Option(help="Images between two points from which a killed run resumes.")] = 512,
    on_error: Annotated[Literal["raise", "skip"], typer.Option(help="If an image can't be read.")] = "raise",
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Threads that decode; with --ray, processes.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On a Ray cluster (extra: scale).")] = False,
    address: Annotated[str | None, typer.Option(help="--ray: the cluster's, such as auto.")] = None,
    images: Annotated[str | None, typer.Option(help="--ray: the images' address, such as s3://...")] = None,
    cpus: Annotated[int, typer.Option(help="--ray: cores of a worker.")] = 1,
    gpus: Annotated[float, typer.Option(help="--ray: GPUs of a worker, such as 1 or 0.5.")] = 0,
) -> None:
    """Describe all images of a museum, and simulated visits of its database; the same command resumes.

    Under torchrun, every process takes a share: torchrun --nproc-per-node 4 -m metlib extract MUSEUM NETWORK
    """
    from metlib import backbone as backbones
    from metlib import dataset
    from metlib import extract as extraction

    if not ray and (address or images or cpus != 1 or gpus):
        raise ValueError("--address, --images, --cpus and --gpus are options of --ray: add it, or leave them out")
    if ray and device:
        raise ValueError("--device is for this machine: with --ray, ask for --gpus")
    read, network = dataset.load(dataset.find(museum), database), backbones.load(backbone)
    options: dict[str, Any] = {"precision": precision, "batch_size": batch_size, "shard_size": shard_size}
    options |= {"on_error": on_error} | ({"scales": scales} if scales else {})
    options |= {"workers": workers} if workers is not None else {}
    count = visits if whitening == "learned" else 0
    if not ray:
        for name, path, done in extraction.extract_museum(read, network, work, visits=count, device=device, **options):
            waits = f"rank {os.environ.get('RANK', 0)} is done, others aren't"
            print(f"{name}: {path if done else waits}", flush=True)
        return
    from metlib.scale import on_ray

    ray_options: dict[str, Any] = {"address": address, "images": images, "cpus": cpus, "gpus": gpus}
    for name, path in on_ray.extract_museum(read, network, work, **options, **ray_options):
        print(f"{name}: {path}", flush=True)
    if count:
        print("visits aren't simulated on Ray: the same command without --ray adds them")


@app.command(rich_help_panel=MEASURE)
def evaluate(
    descriptors: Annotated[list[Path], typer.Argument(metavar="DESCRIPTORS", help="descriptors.pkl, or folders.")],
    ground_truth: Annotated[Path, typer.Option(help="A museum, or its folder of ground truth.")],
    database: Database = "full",
    whitening: Whitening = "auto",
    dim: Dim = None,
    shrinkage: Shrinkage = None,
    k: Annotated[int | None, typer.Option(help="Fix the number of neighbours.")] = None,
    tau: Annotated[float | None, typer.Option(help="Fix the temperature.")] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="Where to search: cpu, cuda or mps.")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="Where scores go (default: beside the first input).")] = None,
    results: Table = None,
    name: Annotated[str | None, typer.Option(help="The network's name in the results table.")] = None,
) -> None:
    """Score descriptors by the study's protocol: whitening from the database, k and tau from val. No image is needed.

    Whitening is learned where simulated visits were described beside the museum (`metlib extract` does so).

    The authors' released tool tunes only tau, at k = 1, because its --k defaults to 1; its published figures came from
    the whole grid (36.1 GAP becomes about 23 otherwise). Here the whole grid is the default; --k 1 --whitening pca
    --dim 512 does as their tool.
    """
    from metlib import dataset
    from metlib import evaluate as protocol

    museum = dataset.load(dataset.find(ground_truth), database)
    options: dict[str, Any] = {"whitening": whitening, "dim": dim, "shrinkage": shrinkage, "k": k, "tau": tau}
    measured, described = protocol.measure_files(descriptors, museum, **options, seed=seed, device=device)
    print(protocol.format_evaluation(measured, described.museum))
    print(protocol.RELEASED_TOOL)
    print(f"scores are in {protocol.write_scores(measured, described, descriptors, json)}")
    if results:
        if not (name or described.made_by.get("backbone")):
            raise ValueError(f"{descriptors[0]} doesn't say which network made it: the results table needs its --name")
        from metlib.analysis import results as table  # with pandas, which the scores don't need

        table.append(results, table.rows_of(measured, described, name=name))
        print(f"rows of val and test are in {results}")


@app.command(rich_help_panel=MEASURE)
def compare(
    museum: Museum,
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Recipes, timm names, checkpoints; A,B joins.")
    ] = None,
    database: Database = "full",
    whitening: Whitening = "learned",
    dim: Dim = None,
    shrinkage: Shrinkage = None,
    visits: Visits = VISITS,
    single_scale: Annotated[bool, typer.Option("--single-scale", help="Full size only, not three scales.")] = False,
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Leave such images out.")] = False,
    weights: Weights = None,
    work: Work = Path("work"),
    results: Annotated[Path, typer.Option(help="The results table (CSV).")] = Path("figures/results.csv"),
    seed: Seed = 0,
) -> None:
    """Describe a museum with each network, score it, and add two rows a network, val and test, to the results table."""
    from metlib import dataset
    from metlib import evaluate as protocol
    from metlib.analysis import compare as comparison

    options: dict[str, Any] = {"whitening": whitening, "dim": dim, "shrinkage": shrinkage, "visits": visits}
    options |= {"scales": (1,)} if single_scale else {}
    options |= {"on_error": "skip"} if skip_unreadable else {}
    read = dataset.load(dataset.find(museum), database)
    measured = comparison.measure_all(
        read, networks or [NETWORK], work, weights=weights, seed=seed, results=results, **options
    )
    for title, evaluation, described in measured:
        print(f"{title}\n{protocol.format_evaluation(evaluation, described)}", end="\n\n", flush=True)
    print(f"rows are in {results}")


# --- training ---


@app.command(rich_help_panel=TRAIN)
def train(
    method: Annotated[Method, typer.Argument(metavar="METHOD", help="contrastive: pairs; parametric: classes.")],
    data: Annotated[Path, typer.Option(help="A museum in the Met's layout.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, history and state; resumes what is there.")],
    backbone: Annotated[str, typer.Option(help="A recipe, timm name or checkpoint to start from.")] = NETWORK,
    database: Database = "full",
    weights: Weights = None,
    preset: Annotated[Literal["paper", "small"], typer.Option(help="Settings to start from.")] = "paper",
    pairs: Annotated[Pairs | None, typer.Option(help="contrastive: what is drawn together.")] = None,
    margin: Annotated[float | None, typer.Option(help="contrastive: how far negatives are pushed (1.8).")] = None,
    hardest: Annotated[int | None, typer.Option(help="contrastive: negatives to draw from (10).")] = None,
    temperature: Annotated[float | None, typer.Option(help="contrastive: the batch's others are negatives.")] = None,
    loss: Annotated[Literal["arcface", "softmax"] | None, typer.Option(help="parametric: the loss.")] = None,
    views: Annotated[int | None, typer.Option(help="parametric: of every image an epoch (1).")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's rate for the network.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="Adam's rate for what a method puts on top.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Adam's weight decay.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    step: Annotated[int | None, typer.Option(help="Epochs after which the rates are multiplied by gamma.")] = None,
    gamma: Annotated[float | None, typer.Option(help="The factor of --step.")] = None,
    batch: Annotated[int | None, typer.Option(help="Items of one step.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts of a batch, where memory is short.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a view in pixels.")] = None,
    crop: Annotated[float | None, typer.Option(help="Least share of the area that a view shows.")] = None,
    colour: Annotated[bool | None, typer.Option(help="Views with other colours.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Views mirrored.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better one that end training.")] = None,
    projector: Annotated[int | None, typer.Option(help="Dimensions of a linear layer on top.")] = None,
    last: Annotated[int | None, typer.Option(help="Train only so many last stages.")] = None,
    scale: Annotated[float | None, typer.Option(help="Of images at validation.")] = None,
    frozen_norm: Annotated[bool | None, typer.Option(help="Keep batch norm's statistics.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bf16.")] = None,
    checkpointing: Annotated[bool | None, typer.Option(help="Compute activations twice, to save memory.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all draws.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load views.")] = None,
    device: Device = None,
    log: Annotated[bool | None, typer.Option(help="Write TensorBoard's files.")] = None,
    verbose: Annotated[bool | None, typer.Option(help="Print a line an epoch.")] = None,
) -> None:
    """Train a network on a museum; the same command goes on after a kill. Under torchrun, every process takes a share.

    Settings that aren't given are the preset's: paper, the published ones, or small, for a few minutes on two cores.
    """
    given = {name: value for name, value in locals().items() if value is not None}  # before anything else has a name
    import importlib
    from dataclasses import fields, replace

    from metlib import backbone as backbones
    from metlib import dataset
    from metlib.train.settings import PRESETS, Settings

    of_method = {"contrastive": ("pairs", "margin", "hardest", "temperature"), "parametric": ("loss", "views")}
    own = {name: given[name] for names in of_method.values() for name in names if name in given}
    if strange := sorted(set(own) - set(of_method.get(method, ()))):
        owner = next(owner for owner, names in of_method.items() if strange[0] in names)
        raise ValueError(f"--{strange[0]} is an option of {owner}, not of {method}: leave it out, or train {owner}")
    changed: dict[str, Any] = {field.name: given[field.name] for field in fields(Settings) if field.name in given}
    museum = dataset.load(dataset.find(data), database)
    run = importlib.import_module(f"metlib.train.{method}").train
    print(run(museum, backbones.load(backbone, weights), out, settings=replace(PRESETS[preset], **changed), **own))


@app.command(rich_help_panel=TRAIN)
def transfer(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A labelled collection.")],
    backbone: Network = NETWORK,
    regimes: Annotated[str, typer.Option(help="Also frozen, scratch, art-to-art.")] = "probe,fine-tuned",
    attributes: Annotated[str | None, typer.Option(help="Default: those of the format.", metavar="A,B")] = None,
    together: Annotated[bool, typer.Option("--together", help="One network for all attributes.")] = False,
    other: Annotated[Path | None, typer.Option(help="The collection that art-to-art learns first.")] = None,
    seeds: Annotated[int, typer.Option(help="Training runs to average.")] = 3,
    size: Annotated[int | None, typer.Option(help="Images are resized to the area of SIZE x SIZE pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of one step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's rate for the network.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="Adam's rate for the heads.")] = None,
    work: Work = Path("work"),
    results: Table = None,
) -> None:
    """Learn the labels of a collection: a probe, frozen features, fine-tuning, from scratch, or by way of another."""
    from dataclasses import replace

    from metlib import backbone as backbones
    from metlib import labelled
    from metlib.labelled import transfer as regime

    chosen = _items(regimes)
    if not chosen or not {*chosen} <= {*regime.REGIMES}:
        raise ValueError(f"--regimes {regimes!r}: expected some of {', '.join(regime.REGIMES)}, separated by commas")
    if "art-to-art" in chosen and not other:
        raise ValueError("art-to-art needs another collection to learn first: name it with --other")
    changed: dict[str, Any] = {"size": size, "epochs": epochs, "batch": batch, "lr": lr, "head_lr": head_lr}
    settings = replace(regime.BUDGET, **{name: value for name, value in changed.items() if value is not None})
    whole = labelled.prepare_splits(
        labelled.read(collection, **({"attributes": _items(attributes)} if attributes else {}))
    )
    first = labelled.prepare_splits(labelled.read(other)) if other else None
    print("\n".join(whole.notes))
    network = backbones.load(backbone)
    for part in [whole] if together else [whole.select(name) for name in whole.attributes]:
        runs: dict[str, Any] = {"settings": settings, "seeds": range(seeds), "other": first}
        outcomes = [regime.run_regime(part, network, work, name, **runs) for name in chosen]
        scores = regime.score(part, outcomes)
        print(scores.round(3).to_string(index=False), flush=True)
        if results:
            from metlib.analysis import results as table

            table.append(results, regime.result_rows(part, scores, network, settings, other=first), table.ATTRIBUTES)
