"""Feedback blocks: from what the target says about a block's output to what it says about the block's input.

The chain runs backwards from the one-hot target, and sees no picture: for a classification it has as many
different inputs as there are classes, so one sweep over all classes gives every message, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedona_nb.errors import SedonaError


@dataclass(frozen=True)
class Latent:
    """What a message between two blocks is about: a latent variable's parts, `channels` at each of `positions`."""

    channels: int
    positions: int

    @property
    def size(self) -> int:
        """Natural parameters of a message."""
        return self.channels * self.positions


class FeedbackBlock(nn.Module):
    """g_k: natural parameters of beta_k to those of beta_{k-1}. The source has no architecture; this one is ours.

    LayerNorm without weights, a hidden layer with ReLU, and an output that starts small enough for agreements of
    order one: its scale is 1 / sqrt(natural parameters).

    Args:
        upper: of the message that comes in; for the last block's feedback, as many channels as classes.
        lower: of the message that goes out.
        hidden: width of the hidden layer.
    """

    def __init__(self, upper: Latent, lower: Latent, hidden: int = 128):
        super().__init__()
        self.upper, self.lower = upper, lower
        self.inner = nn.Linear(upper.size, hidden)
        self.outer = nn.Linear(hidden, lower.size)

    def forward(self, beta: Tensor) -> Tensor:
        """(classes, channels, positions) of `upper` -> the same of `lower`.

        Raises:
            SedonaError: a message about another latent variable.
        """
        expected = self.upper.channels, self.upper.positions
        if tuple(beta.shape[1:]) != expected:
            raise SedonaError(f"a message of {tuple(beta.shape[1:])} for a feedback block; allowed: {expected}")
        flat = F.layer_norm(beta.flatten(1), (self.upper.size,))
        out = self.outer(self.inner(flat).relu()) / self.lower.size**0.5
        return out.view(-1, self.lower.channels, self.lower.positions)


def one_hot_message(num_classes: int, like: Tensor) -> Tensor:
    """What every target says about the last block's output: (classes, classes, 1), mean parameters.

    Its type and device are those of `like`.
    """
    return torch.eye(num_classes, dtype=like.dtype, device=like.device)[:, :, None]
