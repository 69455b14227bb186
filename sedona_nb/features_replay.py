"""Features Replay (Huo, Gu and Huang, NeurIPS 2018), the delayed-gradient baseline of Figure 7, serially.

K blocks and one loss, the classifier's. At step t every block is played: it computes its output from today's batch
with today's weights, and keeps its input. Then every block is replayed and learns. The last one learns from
today's loss. Block k takes the input that it kept K-k steps ago, computes the output once more with today's
weights, and receives for it the error gradient that block k+1 worked out one step ago. So no block waits for
another one within a step, and the gradient at block k is K-k steps old; with one block this is backpropagation.

The source leaves open what happens before the first gradient arrives (here: the block does not move), and how
often running statistics see a batch (here: once, when it is played).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sedona_nb.alignment import fixed_statistics
from sedona_nb.blocks import LocalLoss, seeded_dropout
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError
from sedona_nb.layered import LayeredNetwork
from sedona_nb.losses import cross_entropy
from sedona_nb.precision import Arithmetic, full, reduced
from sedona_nb.seeds import mix


class ReplayNetwork(nn.Module):
    """A network in K blocks that train by Features Replay.

    Args:
        network: L layers and a classifier, which are used, not copied.
        decoupling: where to cut; its heads are not built.

    Raises:
        SedonaError: the decoupling is for another number of layers.
    """

    def __init__(self, network: LayeredNetwork, decoupling: Decoupling):
        super().__init__()
        decoupling.require(network.num_layers, network.name)
        parts = [list(network.layers[first - 1 : last]) for first, last in decoupling.blocks]
        self.blocks = nn.ModuleList(nn.Sequential(*layers) for layers in parts)
        self.classifier = network.classifier
        self.firsts = [first for first, _ in decoupling.blocks]  # as in `blocks.Block`, for dropout
        # Inputs of each block but the last, oldest first, each with the seed of its step.
        self.kept: list[list[tuple[Tensor, int]]] = [[] for _ in parts[:-1]]
        self.errors: list[Tensor | None] = [None for _ in parts[:-1]]  # from the block above, one step ago

    @property
    def names(self) -> list[str]:
        """What a person calls the one loss."""
        return ["the classifier"]

    def groups(self) -> list[list[nn.Parameter]]:
        """The parameters of each block; the classifier belongs to the last."""
        *lower, last = (list(block.parameters()) for block in self.blocks)
        return [*lower, last + list(self.classifier.parameters())]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Scores (B, classes) of the classifier."""
        x = images
        for block in self.blocks:
            x = block(x)
        return [full(self.classifier(x))]

    def backward(
        self,
        images: Tensor,
        labels: Tensor,
        config: LocalLoss,
        seed: int = 0,
        arithmetics: Sequence[Arithmetic] | None = None,
    ) -> Tensor:
        """Play and replay every block; the gradients are put into `.grad`.

        Returns:
            the classifier's loss, detached, (1,).

        Raises:
            SedonaError: float16, whose scales belong to blocks while errors travel between them.
        """
        arithmetic = (arithmetics or [Arithmetic()])[0]
        if arithmetic.scaler is not None:
            raise SedonaError("precision 'float16' is not for Features Replay; allowed: float32, bfloat16")
        with arithmetic.autocast():
            x = self._play(images, seed).requires_grad_(len(self.blocks) > 1)
            last = len(self.blocks) - 1
            with seeded_dropout(self, mix(seed, "block", self.firsts[-1])):
                scores = full(self.classifier(reduced(self.blocks[last](x))))
            loss = cross_entropy(scores, labels, config.smoothing, config.convention)
        loss.backward()
        found = [None] * last
        for k, error in enumerate(self.errors):
            if error is None:  # nothing has come down to this block yet
                continue
            past = self._replay(k, error, arithmetic)
            if k > 0:
                found[k - 1] = past.grad
        if last:
            found[-1] = x.grad
        self.errors = found
        return loss.detach()[None]

    @torch.no_grad()
    def _play(self, images: Tensor, seed: int) -> Tensor:
        """Today's batch through all blocks but the last, whose input is returned; inputs are kept."""
        x = images.detach()
        for k, block in enumerate(self.blocks[:-1]):
            self.kept[k] = [*self.kept[k], (x, seed)][k - len(self.blocks) :]  # K-k of them
            with seeded_dropout(block, mix(seed, "block", self.firsts[k])):
                x = reduced(block(x))
        return x.detach()

    def _replay(self, k: int, error: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Block k on its oldest input with today's weights, and back; returns the input, with its gradient."""
        past, seed = self.kept[k][0]
        past = past.detach().requires_grad_(k > 0)
        block, draw = self.blocks[k], mix(seed, "block", self.firsts[k])
        with arithmetic.autocast(), fixed_statistics(block), seeded_dropout(block, draw):
            output = reduced(block(past))
        output.backward(error)
        return past

    def in_flight(self) -> dict[str, Any]:
        """What is between blocks, for checkpoints: kept inputs with their seeds, and errors on their way down."""
        return {"kept": [[list(entry) for entry in entries] for entries in self.kept], "errors": self.errors}

    def load_in_flight(self, state: dict[str, Any]) -> None:
        """Take up what `in_flight` gave."""
        self.kept = [[(x, seed) for x, seed in entries] for entries in state["kept"]]
        self.errors = list(state["errors"])
