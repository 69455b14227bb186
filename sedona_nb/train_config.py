"""What a training run is asked for and what it leaves, as values; `training.train` leads from one to the other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sedona_nb.blocks import LocalLoss
from sedona_nb.errors import SedonaError, choose
from sedona_nb.evaluate import Errors
from sedona_nb.precision import PRECISIONS
from sedona_nb.rates import cosine, stairs
from sedona_nb.search_config import LATER

OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True)
class TrainConfig:
    """The evaluation stage; defaults are the paper's on CIFAR-10."""

    steps: int = 64_000
    batch_size: int = 128
    optimizer: str = "sgd"  # "adam": PredSim on Tiny-ImageNet
    lr: float = 0.1
    lr_min: float = 0.001  # end of the cosine
    warmup_steps: int = 0  # the paper has none; short schedules may need it
    momentum: float = 0.9
    weight_decay: float = 1e-4  # ResNet-152: 2e-4
    loss: LocalLoss = field(default_factory=LocalLoss)
    held_out: float = 0.1  # share of the training pictures that selects the best checkpoint; 0: the test pictures
    evaluate_every: int = 100  # not in the paper; the released code's
    padding: int | None = None  # crop padding; None: the data set's own; released code on CIFAR-10: 2
    # 0: cosine; else the steps after which the rate is divided by 10, again and again: DGL on ImageNet (Table 5)
    decay_every: int = field(default=0, metadata=LATER)
    precision: str = field(default="float32", metadata=LATER)  # "bfloat16"; "float16" on CUDA alone: `precision`
    train_pictures: int = field(default=0, metadata=LATER)  # at the end tested on so many of them, too (Table 7)
    alignment_every: int = field(default=0, metadata=LATER)  # steps between two looks at `alignment`; 0: none

    def __post_init__(self) -> None:
        choose(self.precision, PRECISIONS, "precision")
        choose(self.optimizer, OPTIMIZERS, "optimizer")
        for name in ("decay_every", "train_pictures", "alignment_every"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise SedonaError(f"{name} {value!r} is not allowed; allowed: whole numbers, or 0: none")
        if self.steps < 1 or self.evaluate_every < 1 or not 0 <= self.warmup_steps < self.steps:
            raise SedonaError(
                f"{self.steps} steps, evaluated every {self.evaluate_every}, {self.warmup_steps} of warm-up: "
                "allowed are at least one step, one step between evaluations, and a warm-up shorter than the run"
            )

    def rate(self, step: int) -> float:
        """Learning rate of `step`: a linear warm-up, then a cosine to `lr_min`, or stairs (`decay_every`)."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.decay_every:
            return stairs(step - self.warmup_steps, self.decay_every, self.lr)
        return cosine(step - self.warmup_steps, self.steps - self.warmup_steps, self.lr, self.lr_min)


@dataclass(frozen=True)
class Checkpoint:
    """A state of the network that was tested: after `step` steps, with errors in percent.

    `train`: on `TrainConfig.train_pictures` of the pictures it learned from, shown as test pictures are.
    """

    step: int
    validation: Errors
    test: Errors
    train: Errors | None = None


@dataclass(frozen=True)
class TrainOutcome:
    """What a training run leaves.

    Attributes:
        best: the checkpoint with the lowest validation error (the earliest, among equals).
        last: the final weights.
        curve: rows (step, mean local losses since the row before, validation error in percent).
        seconds: time spent, over all pieces of a resumed run, evaluation included.
        processor_seconds: the same as time of this process on all cores.
        alignment: rows (step, cosine of each layer), see `alignment`, every `TrainConfig.alignment_every` steps.
    """

    best: Checkpoint
    last: Checkpoint
    curve: list[tuple[int, tuple[float, ...], float]]
    seconds: float
    processor_seconds: float = 0.0
    alignment: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)


def outcome_from_json(text: str) -> TrainOutcome:
    """Read what `json.dumps(asdict(outcome))` wrote."""
    content = json.loads(text)
    best, last = (
        Checkpoint(part["step"], *(_errors(part.get(split)) for split in ("validation", "test", "train")))
        for part in (content["best"], content["last"])
    )
    curve = [(step, tuple(losses), error) for step, losses, error in content["curve"]]
    alignment = [(step, tuple(cosines)) for step, cosines in content.get("alignment", [])]
    return TrainOutcome(best, last, curve, content["seconds"], content.get("processor_seconds", 0.0), alignment)


def _errors(content: dict | None) -> Errors | None:
    if content is None:
        return None
    lists = {name: tuple(content[name]) for name in ("heads", "ensembles")}
    if content.get("ensembles_top5") is not None:
        lists["ensembles_top5"] = tuple(content["ensembles_top5"])
    return Errors(**{**content, **lists})
