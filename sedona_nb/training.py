"""The serial trainer: the reference semantics of every method (Appendix E.2).

    network = blocks.decouple(...)                    # backprop, DGL, PredSim, SEDONA: a Decoupling each
    outcome = training.train(network, pictures, TrainConfig(), seed=0)

Part of the training pictures is held out and decides which checkpoint is the best; the test pictures are looked at
twice at the end, for the best and the last checkpoint, and decide nothing. (With `TrainConfig(held_out=0)`, the
released code's way on ImageNet, nothing is held out and the test pictures decide.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn

from sedona_nb import alignment, data, devices, evaluate, progress, run_pictures
from sedona_nb.atomic import load_tensors, save_checkpoint
from sedona_nb.blocks import BlockNetwork
from sedona_nb.errors import Paused, SedonaError
from sedona_nb.precision import Arithmetic
from sedona_nb.steps import (
    dropout_seed,
    make_optimizers,
    mean_losses,
    refuse_non_finite,
    train_step,
)
from sedona_nb.train_config import Checkpoint, TrainConfig, TrainOutcome

__all__ = ["TrainConfig", "TrainOutcome", "make_optimizers", "train", "train_step"]

EVALUATION_BATCH = 500  # pictures; no result depends on it, running statistics are fixed in evaluation


def train(
    network: nn.Module,
    pictures: data.Pictures,
    config: TrainConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | str | None = None,
    label: str = "training",
    on_step: Callable[[int], None] | None = None,
    pause: Callable[[], bool] | None = None,
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
        pause: asked after each step whether to stop there; needs a folder, in which the run can be taken up again.

    Raises:
        Diverged: a local loss that is not finite (which block, which step).
        SedonaError: a folder of another run, float16 anywhere but on CUDA, or a comparison with backprop's
            gradients for a network without blocks.
        Paused: `pause` said so; the checkpoint is written.
    """
    if pause is not None and folder is None:
        raise SedonaError("pause without a folder: there would be nothing to go on from")
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
            if pause is not None and run.step < config.steps and pause():
                run.save()
                raise Paused(f"paused at step {run.step:,} of {config.steps:,}")
    return run.outcome()


class _Run:
    """A training run in progress."""

    def __init__(self, network, pictures, config, seed, device, folder):
        if config.alignment_every and not isinstance(network, BlockNetwork):
            raise SedonaError("alignment_every compares blocks with backprop; allowed for this method: 0")
        self.network = network.to(device, memory_format=torch.channels_last)
        self.config, self.device, self.folder = config, device, folder
        self.optimizers = make_optimizers(network, config)
        self.arithmetics = [Arithmetic(config.precision, device) for _ in self.optimizers]
        self.pictures = run_pictures.prepare(pictures, config, seed, device)
        self.seed = seed
        self.identity = repr((pictures.fingerprint, config, seed))
        self.step = 0
        self.curve: list[tuple[int, tuple[float, ...], float]] = []
        self.alignment: list[tuple[int, tuple[float, ...]]] = []
        self.best: dict | None = None  # step, error, and the network's state
        self.seconds = self.processor_seconds = 0.0  # up to the last checkpoint
        self.pending: list[Tensor] = []  # losses since the last evaluation, left on the device
        self.clock, self.processor_clock = time.perf_counter(), time.process_time()

    def advance(self) -> None:
        """One step."""
        self.network.train()
        batch, rate = self.pictures.batch(self.step), self.config.rate(self.step)
        draw = dropout_seed(self.seed, self.step)
        if self.config.alignment_every and self.step % self.config.alignment_every == 0:
            arithmetic = self.arithmetics[0]
            cosines = alignment.gradient_cosines(self.network, *batch, self.config.loss, draw, arithmetic)
            self.alignment.append((self.step, tuple(cosines.tolist())))
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
        self.save()

    def errors(self, split: str, ensembles: int | None = None) -> evaluate.Errors:
        """Errors on a split of `run_pictures.SPLITS`."""
        batches = self.pictures.evaluation(split, EVALUATION_BATCH)
        return evaluate.errors(self.network, batches, ensembles, self.arithmetics[0])

    def outcome(self) -> TrainOutcome:
        """Test the last and the best checkpoint; the network ends with its last weights."""
        splits = run_pictures.tested(self.config)
        last = Checkpoint(self.step, *map(self.errors, splits))
        final = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.best["state"])
        best = Checkpoint(self.best["step"], *map(self.errors, splits))
        self.network.load_state_dict(final)
        return TrainOutcome(best, last, self.curve, *self._elapsed(), self.alignment)

    def resume(self) -> None:
        """Take up the checkpoint of the folder, if there is one."""
        if self.folder is None or not (self.folder / "training.pt").is_file():
            return
        saved = load_tensors(self.folder / "training.pt", self.device)
        if saved["identity"] != self.identity:
            raise SedonaError(f"{self.folder} holds a run with other settings; choose another folder")
        names = ("step", "curve", "alignment", "best", "seconds", "processor_seconds", "pending")
        if not {*names, "in_flight"} <= saved.keys():
            raise SedonaError(f"{self.folder} holds a checkpoint of another version; remove it to start anew")
        self.network.load_state_dict(saved["network"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for arithmetic, state in zip(self.arithmetics, saved["arithmetics"], strict=True):
            arithmetic.load_state_dict(state)
        for name in names:
            setattr(self, name, saved[name])
        if saved["in_flight"] is not None:
            self.network.load_in_flight(saved["in_flight"])

    def save(self) -> None:
        """Write where the run stands."""
        if self.folder is None:
            return
        self.seconds, self.processor_seconds = self._elapsed()
        self.clock, self.processor_clock = time.perf_counter(), time.process_time()
        save_checkpoint(
            self.folder / "training.pt",
            {
                "identity": self.identity,
                "network": self.network.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "arithmetics": [arithmetic.state_dict() for arithmetic in self.arithmetics],
                "step": self.step,
                "curve": self.curve,
                "alignment": self.alignment,
                "pending": self.pending,
                "in_flight": self.network.in_flight() if hasattr(self.network, "in_flight") else None,
                "best": self.best,
                "seconds": self.seconds,
                "processor_seconds": self.processor_seconds,
            },
        )

    def _elapsed(self) -> tuple[float, float]:
        """Seconds by the clock and by the processor."""
        devices.synchronize(self.device)
        processor = time.process_time() - self.processor_clock
        return self.seconds + time.perf_counter() - self.clock, self.processor_seconds + processor
