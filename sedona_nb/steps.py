"""One step of training, whatever the method: gradients, then an optimiser a group of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from sedona_nb.blocks import LocalLoss
from sedona_nb.errors import Diverged
from sedona_nb.precision import Arithmetic
from sedona_nb.seeds import mix
from sedona_nb.train_config import TrainConfig


class Trainable(Protocol):
    """What `training.train` needs of a network; those of `blocks`, `continuous` and `features_replay` have it.

    One that keeps more than parameters and buffers from step to step also has `in_flight()`, which gives it as
    plain containers of tensors, and `load_in_flight(state)`.
    """

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
        Diverged: a loss that is not finite.
    """
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        index, block = bad[0].tolist()
        raise Diverged(
            f"the loss of {names[block]} is {losses[index, block].item():g} at step "
            f"{step - len(losses) + index}; lower the learning rate (here {rate:g})"
        )
