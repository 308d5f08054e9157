"""The settings of a training run, checked when they are made, and two presets of them."""

from dataclasses import asdict, dataclass
from typing import Any

from metlib.common.checks import check_integer

FREE = ("workers", "device", "log", "verbose")  # may change when a run is resumed: they change no result


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the published ones (Ypsilantis et al., 2021, section 5 and supplement).

    `lr` is Adam's rate for the network, `head_lr` for what a method puts on top of it; both are multiplied by `gamma`
    after every `step` epochs. `batch` items make one step of the optimiser, computed in `accumulate` parts where memory
    is short; `checkpointing` saves memory too, and computes activations twice.
    Views are square, `size` pixels, crops of `crop` to all of the area, with other colours (`colour`), mirrored only
    if `flip` is set. `patience` ends training after so many epochs without a better one (None: never).
    `projector` is the dimension of a linear layer that starts as PCA whitening learned on the database (None: no such
    layer). `last` trains only so many of the network's last stages, as timm groups them, and what is on top (None: all
    of it). `frozen_norm` keeps the loaded statistics of batch norm; training from scratch must learn them (False).
    Epochs are validated on images at `scale` times their size, a single one.
    `precision` is "float32" or "bf16", automatic mixed precision. `device` None takes a GPU if there is one; `log`
    writes TensorBoard's files, `verbose` prints a line an epoch. Raises ValueError for a wrong type or range.
    """

    lr: float = 1e-7
    head_lr: float = 1e-3
    weight_decay: float = 1e-6
    epochs: int = 10
    step: int = 6
    gamma: float = 0.1
    batch: int = 64
    accumulate: int = 1
    size: int = 500
    crop: float = 0.7
    colour: bool = True
    flip: bool = False
    patience: int | None = None
    projector: int | None = None
    last: int | None = None
    frozen_norm: bool = True
    scale: float = 1.0
    precision: str = "float32"
    checkpointing: bool = False
    seed: int = 0
    workers: int = 4
    device: str | None = None
    log: bool = False
    verbose: bool = True

    def __post_init__(self) -> None:
        least = {"epochs": 1, "step": 1, "batch": 2, "accumulate": 1, "size": 32, "seed": 0, "workers": 0}
        least |= {name: 1 for name in ("projector", "last", "patience") if getattr(self, name) is not None}
        for name, low in least.items():
            check_integer(name, getattr(self, name), low)
            object.__setattr__(self, name, int(getattr(self, name)))  # JSON has no integers of numpy
        ranges = {"lr": (0, 1e9), "head_lr": (0, 1e9), "weight_decay": (-1e-9, 1e9), "gamma": (0, 1), "crop": (0, 1)}
        ranges["scale"] = (0, 1)
        for name, (above, most) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
                kind = "at least 0" if above < 0 else "positive" if most > 1 else "above 0 and at most 1"
                raise ValueError(f"{name} must be a number, {kind}, got {value!r}")
        for name in ("colour", "flip", "frozen_norm", "checkpointing", "log", "verbose"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be 'float32' or 'bf16', got {self.precision!r}")
        if self.accumulate > 1 and self.batch < 2 * self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} parts need a batch of {2 * self.accumulate} or more")

    @property
    def lasting(self) -> dict[str, Any]:
        """The settings that decide the result, without those that a resumed run may change."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


PRESETS = {
    "paper": Settings(),
    "small": Settings(lr=1e-4, epochs=1, batch=32, size=160, last=1, scale=0.5, workers=0),
}
"""The published settings, and some for half a minute on two cores: the last stage alone, small images, one epoch.

These have no workers: a notebook's kernel has hung on them.
"""
