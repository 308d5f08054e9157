"""Left of the descriptors: decoding and the network, on this machine's processor and on its GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import product_rate, row, take_turns
from metlib import backbone, extract
from metlib.backbone import Embedder, Recipe
from metlib.dataset import Split
from metlib.extract import SCALES

LONGEST = 500  # pixels of the longer side, as the Met's photographs have


def photographs(folder: Path, n: int, shapes: int) -> Split:
    """Write n JPEGs of 500 pixels cut from scikit-learn's two sample photographs, of `shapes` different shapes."""
    rng = np.random.default_rng(0)
    samples = [Image.fromarray(image) for image in load_sample_images().images]
    sides = rng.permutation(np.arange(280, LONGEST))[:shapes]
    names = []
    for i in range(n):
        short = int(sides[i % shapes])
        width, height = (LONGEST, short) if i % 2 else (short, LONGEST)
        sample = samples[i % 2]
        left, top = rng.integers(0, 30, 2)
        box = (int(left), int(top), sample.width - int(rng.integers(30)), sample.height - int(rng.integers(30)))
        names.append(f"{i}.jpg")
        sample.resize((width, height), box=box).save(folder / names[-1], quality=90)
    return Split(np.array(names), np.zeros(n, np.int64), folder)


def eager(embedder: Embedder, pixels: NDArray[np.uint8], device: str = "cpu") -> torch.Tensor:
    """The published way: one image, one scale after the other, plain PyTorch; (1, D)."""
    image = torch.tensor(pixels, device=device).permute(2, 0, 1)[None].float().div(255).contiguous()
    total = torch.zeros(1, embedder.dim, device=device)
    with torch.inference_mode():
        for scale in SCALES:
            total += embedder(image, scale)
        return F.normalize(total)


def cpu(n: int = 48, repeats: int = 5) -> list[dict[str, Any]]:
    """Extraction on the processor: bookkeeping against the forward passes, those against plain eager PyTorch."""
    lines = []
    for arch in ("mobilenetv2_100", "resnet18"):
        embedder = backbone.build(Recipe(arch, seed=0), arch)
        ready = extract.prepare(embedder, "cpu")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            split = photographs(folder, n, shapes=8)
            plan = extract.shards.plan(split, folder / "plan", extract.make_recipe(split, embedder))
            pixels = [extract.read_pixels(split.file(i)) for i in plan.order]
            lines += _cpu_lines(arch, embedder, ready, split, pixels, folder, repeats)
    return lines


def _cpu_lines(
    arch: str,
    embedder: Embedder,
    ready: Embedder,
    split: Split,
    pixels: Sequence[NDArray[np.uint8]],
    folder: Path,
    repeats: int,
) -> list[dict[str, Any]]:
    run = iter(range(10_000))
    stacks = list(extract._batches(pixels, None, extract._PIXELS["cpu"], "raise"))

    def forward() -> torch.Tensor:
        return torch.cat([extract.multiscale(ready, stack) for _, stack in stacks])

    def one_by_one() -> torch.Tensor:
        return torch.cat([eager(embedder, image) for image in pixels])

    def whole() -> None:
        extract.extract(split, embedder, folder / f"run{next(run)}", device="cpu")

    with FlopCounterMode(display=False) as counted:
        one_by_one()
    places = [place for found, _ in stacks for place in found]
    worst = (1 - (forward() * one_by_one()[places]).sum(dim=1)).abs().max().item()
    seconds = take_turns({"eager": one_by_one, "forward": forward, "whole": whole}, repeats)
    share = counted.get_total_flops() / seconds["forward"] / product_rate()
    work = f"{arch}, 500 px, three scales"
    return [
        row("extraction on CPU", work, "decoding and bookkeeping, of the forward", whole_share(seconds), "<= 0.05"),
        row("extraction on CPU", work, "faster than eager one by one", seconds["eager"] / seconds["forward"], ">= 1.5"),
        row("extraction on CPU", work, "cosine distance to eager", worst, "<= 0.0001"),
        row("extraction on CPU", work, "of the float32 product rate", share, ""),
        row("extraction on CPU", work, "images a second", len(pixels) / seconds["whole"], ""),
    ]


def whole_share(seconds: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """What extraction takes beyond its forward passes, as a share of them."""
    return seconds["whole"] / seconds["forward"] - 1


def gpu(n: int = 2048, repeats: int = 3) -> list[dict[str, Any]]:
    """Extraction on a GPU, where there is one: against resident batches, one by one, and in half precision."""
    if not torch.cuda.is_available():
        return []
    return [line for arch in ("resnet18", "resnet50") for line in _gpu_lines(arch, "cuda", n, repeats)]


def _gpu_lines(arch: str, device: str, n: int, repeats: int) -> list[dict[str, Any]]:
    embedder = backbone.build(Recipe(arch, seed=0), arch)
    run = iter(range(10_000))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = photographs(folder, n, shapes=64)

        def whole(precision: str = "float32") -> Path:
            out = folder / f"run{next(run)}"
            return extract.extract(split, embedder, out, device=device, precision=precision)

        ready = extract.prepare(embedder, device)
        alone = backbone.build(Recipe(arch, seed=0), arch).to(device)
        pixels = [extract.read_pixels(split.file(i)) for i in range(min(n, 256))]
        pixels.sort(key=lambda image: image.shape)
        stacks = [stack.to(device) for _, stack in extract._batches(pixels, None, extract._PIXELS["gpu"], "raise")]

        def forward() -> None:
            for stack in stacks:
                extract.multiscale(ready, stack).cpu()

        def one_by_one() -> None:
            for image in pixels[:64]:
                eager(alone, image, device).cpu()

        def decode() -> None:
            cores = os.cpu_count() or 4
            with ThreadPoolExecutor(cores) as pool:
                for _ in extract.decode_ahead([split.file(i) for i in range(len(pixels))], pool, 4 * cores):
                    pass

        steps: dict[str, Callable[[], Any]] = {"whole": whole, "forward": forward, "alone": one_by_one}
        seconds = take_turns(steps | {"decode": decode, "half": lambda: whole("float16")}, repeats)
        rate = n / seconds["whole"]
        bare, decoders = len(pixels) / seconds["forward"], len(pixels) / seconds["decode"]
        full, half = (extract.load_descriptors(whole(precision)) for precision in ("float32", "float16"))
    work = f"{arch}, 500 px, three scales, {torch.cuda.get_device_name() if device == 'cuda' else device}"
    least = np.minimum(bare, decoders)
    return [
        row("extraction on a GPU", work, "of the bare forward or the decoders", rate / least, ">= 0.8"),
        row("extraction on a GPU", work, "faster than one by one", rate / (64 / seconds["alone"]), ">= 8"),
        row(
            "extraction on a GPU", work, "half precision: cosine distance", (1 - (full * half).sum(1)).max(), "<= 0.001"
        ),
        row("extraction on a GPU", work, "half precision: images a second", n / seconds["half"], ""),
        row("extraction on a GPU", work, "images a second", rate, ""),
    ]
