"""The serial trainer: the reference semantics of every method (Appendix E.2).

    network = blocks.decouple(...)                    # backprop, DGL, PredSim, SEDONA: a Decoupling each
    outcome = training.train(network, pictures, TrainConfig(), seed=0)

Part of the training pictures is held out and decides which checkpoint is the best; the test pictures are looked at
twice at the end, for the best and the last checkpoint, and decide nothing. (With `TrainConfig(held_out=0)`, the
released code's way on ImageNet, nothing is held out and the test pictures decide.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sedona_nb import data, devices, evaluate, progress, run_pictures
from sedona_nb.atomic import load_tensors, save_checkpoint
from sedona_nb.blocks import LocalLoss
from sedona_nb.errors import SedonaError
from sedona_nb.precision import Arithmetic
from sedona_nb.seeds import mix
from sedona_nb.train_config import Checkpoint, TrainConfig, TrainOutcome

EVALUATION_BATCH = 500  # pictures; no result depends on it, running statistics are fixed in evaluation


class Trainable(Protocol):
    """What `train` needs of a network; `blocks.BlockNetwork` and `continuous.ContinuousNetwork` have it."""

    names: list[str]  # of the local losses, for messages

    def groups(self) -> list[list[nn.Parameter]]:
        """Parameters, one group an optimiser."""

    def backward(
        self,
        images: Tensor,
        labels: Tensor,
        config: LocalLoss,
        seed: int,
        arithmetics: Sequence[Arithmetic] | None,
    ) -> Tensor:
        """Fill `.grad` and return the local losses; `seed` is for dropout, `arithmetics` one an optimiser."""


def make_optimizers(network: Trainable, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One optimiser a group of parameters, so that a block can step whenever its own gradients are there.

    Not fused in float16: PyTorch's fused SGD touches the momentum even if a step is skipped, and a step skipped at
    the very beginning leaves it uninitialised (seen in 2.15).
    """
    if config.optimizer == "adam":
        return [torch.optim.Adam(group, config.lr, weight_decay=config.weight_decay) for group in network.groups()]
    fused = config.precision != "float16"
    return [
        torch.optim.SGD(group, config.lr, config.momentum, weight_decay=config.weight_decay, fused=fused)
        for group in network.groups()
    ]


def train_step(
    network: Trainable,
    optimizers: list[torch.optim.Optimizer],
    batch: tuple[Tensor, Tensor],
    lr: float,
    loss: LocalLoss,
    seed: int = 0,
    arithmetics: Sequence[Arithmetic] | None = None,
) -> Tensor:
    """One greedy step of every block; returns the local losses before it, detached.

    Args:
        network: what to train.
        optimizers: of its groups.
        batch: images (B, C, H, W) and labels (B,).
        lr: learning rate of this step.
        loss: of every block.
        seed: for dropout.
        arithmetics: in which numbers, one an optimiser; None: float32.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = lr
    arithmetics = arithmetics or [Arithmetic() for _ in optimizers]
    losses = network.backward(*batch, loss, seed, arithmetics)
    for optimizer, arithmetic in zip(optimizers, arithmetics, strict=True):
        arithmetic.step(optimizer)
    return losses


def train(
    network: nn.Module,
    pictures: data.Pictures,
    config: TrainConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | str | None = None,
    label: str = "training",
    on_step: Callable[[int], None] | None = None,
) -> TrainOutcome:
    """Train, select, test; from wherever `folder` says the run stands.

    Args:
        network: a `Trainable` module; changed in place, ends with its last weights.
        pictures: the data set.
        config: the schedule.
        seed: of the split and the batches.
        device: where to compute.
        folder: for a checkpoint at every evaluation; None: a killed run is lost.
        label: in front of the progress bar.
        on_step: called with the number of steps done after each of them.

    Raises:
        SedonaError: a local loss that is not finite (which block, which step), a folder of another run, or
            float16 anywhere but on CUDA.
    """
    run = _Run(network, pictures, config, seed, torch.device(device), None if folder is None else Path(folder))
    run.resume()
    with closing(run.pictures), progress.bar(config.steps, label) as bar:
        bar.update(run.step)
        while run.step < config.steps:
            run.advance()
            if run.step % config.evaluate_every == 0 or run.step == config.steps:
                run.evaluate()
                bar.update(0, loss=run.curve[-1][1][-1], validation_error=run.curve[-1][2])
            bar.update()
            if on_step is not None:
                on_step(run.step)
    return run.outcome()


class _Run:
    """A training run in progress."""

    def __init__(self, network, pictures, config, seed, device, folder):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.config, self.device, self.folder = config, device, folder
        self.optimizers = make_optimizers(network, config)
        self.arithmetics = [Arithmetic(config.precision, device) for _ in self.optimizers]
        self.pictures = run_pictures.prepare(pictures, config, seed, device)
        self.seed = seed
        self.identity = repr((pictures.fingerprint, config, seed))
        self.step = 0
        self.curve: list[tuple[int, tuple[float, ...], float]] = []
        self.best: dict | None = None  # step, error, and the network's state
        self.seconds = 0.0
        self.pending: list[Tensor] = []  # losses since the last evaluation, left on the device
        self.clock = time.perf_counter()

    def advance(self) -> None:
        """One step."""
        self.network.train()
        batch, rate = self.pictures.batch(self.step), self.config.rate(self.step)
        draw = dropout_seed(self.seed, self.step)
        losses = train_step(self.network, self.optimizers, batch, rate, self.config.loss, draw, self.arithmetics)
        self.pending.append(losses)
        self.step += 1

    def evaluate(self) -> None:
        """Validation error, the best checkpoint so far, a checkpoint on disk."""
        losses = torch.stack(self.pending)  # (steps, blocks)
        refuse_non_finite(losses, self.network.names, self.step, self.config.lr)
        self.pending = []
        found = self.errors("validation", ensembles=1)
        self.curve.append((self.step, tuple(mean_losses(losses)), found.top1))
        if self.best is None or found.top1 < self.best["error"]:
            state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            self.best = {"step": self.step, "error": found.top1, "state": state}
        self._save()

    def errors(self, split: str, ensembles: int | None = None) -> evaluate.Errors:
        """Errors on the "validation" or "test" pictures."""
        batches = self.pictures.evaluation(split, EVALUATION_BATCH)
        return evaluate.errors(self.network, batches, ensembles, self.arithmetics[0])

    def outcome(self) -> TrainOutcome:
        """Test the last and the best checkpoint; the network ends with its last weights."""
        last = Checkpoint(self.step, self.errors("validation"), self.errors("test"))
        final = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.best["state"])
        best = Checkpoint(self.best["step"], self.errors("validation"), self.errors("test"))
        self.network.load_state_dict(final)
        return TrainOutcome(best, last, self.curve, self._elapsed())

    def resume(self) -> None:
        """Take up the checkpoint of the folder, if there is one."""
        if self.folder is None or not (self.folder / "training.pt").is_file():
            return
        saved = load_tensors(self.folder / "training.pt", self.device)
        if saved["identity"] != self.identity:
            raise SedonaError(f"{self.folder} holds a run with other settings; choose another folder")
        self.network.load_state_dict(saved["network"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for arithmetic, state in zip(self.arithmetics, saved["arithmetics"], strict=True):
            arithmetic.load_state_dict(state)
        self.step, self.curve, self.best, self.seconds = (
            saved[key] for key in ("step", "curve", "best", "seconds")
        )

    def _save(self) -> None:
        if self.folder is None:
            return
        self.seconds = self._elapsed()
        self.clock = time.perf_counter()
        save_checkpoint(
            self.folder / "training.pt",
            {
                "identity": self.identity,
                "network": self.network.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "arithmetics": [arithmetic.state_dict() for arithmetic in self.arithmetics],
                "step": self.step,
                "curve": self.curve,
                "best": self.best,
                "seconds": self.seconds,
            },
        )

    def _elapsed(self) -> float:
        devices.synchronize(self.device)
        return self.seconds + time.perf_counter() - self.clock


def dropout_seed(seed: int, step: int) -> int:
    """What the masks of dropout depend on in a run's step, besides the block."""
    return mix(seed, "dropout", step)


def mean_losses(losses: Tensor) -> list[float]:
    """(steps, blocks) -> the mean of each block; the same numbers if each block is averaged by itself."""
    return [column.mean().item() for column in losses.t().contiguous()]


def refuse_non_finite(losses: Tensor, names: list[str], step: int, rate: float) -> None:
    """Check the last steps' losses.

    Args:
        losses: (steps, blocks).
        names: of the blocks.
        step: steps done.
        rate: the run's learning rate.

    Raises:
        SedonaError: a loss that is not finite.
    """
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        index, block = bad[0].tolist()
        raise SedonaError(
            f"the loss of {names[block]} is {losses[index, block].item():g} at step "
            f"{step - len(losses) + index}; lower the learning rate (here {rate:g})"
        )
