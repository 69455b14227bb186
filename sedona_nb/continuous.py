"""Training under the continuous decisions, before discretization (Table 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sedona_nb import relaxed as relax
from sedona_nb.blocks import LocalLoss, seeded_dropout
from sedona_nb.losses import cross_entropy
from sedona_nb.precision import Arithmetic, full
from sedona_nb.relaxed import RelaxedNetwork


class ContinuousNetwork(nn.Module):
    """A relaxed network that trains with fixed alpha and beta; its one group of parameters has one optimiser.

    Args:
        relaxed: network with all heads.
        alpha, beta: the learned decisions, (L-1, 2) and (L-1, M).

    Raises:
        SedonaError: alpha or beta of another shape.
    """

    def __init__(self, relaxed: RelaxedNetwork, alpha: Tensor, beta: Tensor):
        super().__init__()
        relax.check_decisions(relaxed, alpha, beta)
        self.relaxed = relaxed
        self.register_buffer("abar", alpha.detach().softmax(1))
        self.register_buffer("bbar", beta.detach().softmax(1))

    @property
    def names(self) -> list[str]:
        """What a person calls each of the L losses: "layer 3"."""
        return [f"layer {layer}" for layer in range(1, self.relaxed.num_layers + 1)]

    def groups(self) -> list[list[nn.Parameter]]:
        """All parameters as one group."""
        return [list(self.parameters())]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Scores (B, classes) of the mixed heads of layers 1 .. L-1 and of the classifier."""
        return [full(scores) for scores in self.relaxed(images, self.bbar).scores]

    def backward(
        self,
        images: Tensor,
        labels: Tensor,
        config: LocalLoss,
        seed: int = 0,
        arithmetics: Sequence[Arithmetic] | None = None,
    ) -> Tensor:
        """The mixed gradient (Eqs. 4-6) is put into `.grad`; returns the L losses, detached, (L,).

        In float16 all losses have one scale, since one gradient is made of all of them.
        """
        (arithmetic,) = arithmetics or [Arithmetic()]
        with arithmetic.autocast(), seeded_dropout(self, seed):
            outputs = self.relaxed(images, self.bbar)
        losses = [
            cross_entropy(full(scores), labels, config.smoothing, config.convention) for scores in outputs.scores
        ]
        parameters = dict(self.relaxed.named_parameters())
        scaled = [arithmetic.scaled(loss) for loss in losses]
        gradient = relax.mixed_gradient(self.relaxed, parameters, outputs.activations, scaled, self.abar)
        for name, parameter in parameters.items():
            parameter.grad = gradient[name]
        return torch.stack([loss.detach() for loss in losses])
