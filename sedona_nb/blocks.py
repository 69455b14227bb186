"""A network cut into gradient-isolated blocks, and the greedy step that trains them (Section 2, Figure 1b).

Each block holds consecutive layers, an auxiliary head (for the last block the classifier) and a local loss. What a
block hands on is detached, so no gradient crosses a boundary, and it is what the block computed before its own
update: with one block this is plain backpropagation, operation for operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedona_nb.decoupling import Decoupling
from sedona_nb.heads import HeadConfig, PredSimHead, build_head
from sedona_nb.layered import LayeredNetwork
from sedona_nb.losses import cross_entropy, predsim_loss
from sedona_nb.precision import Arithmetic, full, reduced
from sedona_nb.seeds import mix


@dataclass(frozen=True)
class LocalLoss:
    """The loss of every block (Appendix E.2)."""

    smoothing: float = 0.1
    convention: str = "uniform"  # released code: "others"
    similarity_share: float = 0.99  # PredSim's heads only; the paper smooths no labels of a PredSim network


class Block(nn.Module):
    """Layers `first` .. `last` (1-based) with their head.

    Attributes:
        layers: Sequential of the block's layers, the network's own.
        head: (B, C, H, W) -> (B, classes).
        first, last: 1-based numbers of the block's layers.
        out_shape: (C', H', W') of what it hands on; None for the last block, which hands on nothing.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        head: nn.Module,
        first: int,
        last: int,
        out_shape: tuple[int, int, int] | None = None,
    ):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = head
        self.first, self.last, self.out_shape = first, last, out_shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> activations to hand on (B, C', H', W'), and scores (B, classes), at least float32."""
        activations = reduced(self.layers(x))
        return activations, full(self.head(activations))

    def loss(self, activations: Tensor, scores: Tensor, labels: Tensor, config: LocalLoss) -> Tensor:
        """The local loss: cross-entropy, and for a PredSim head the mixture of Nokland & Eidnes."""
        if isinstance(self.head, PredSimHead):
            features = full(self.head.similarity_features(activations))
            with torch.autocast(features.device.type, enabled=False):  # would reduce the similarities themselves
                return predsim_loss(scores, features, labels, config.similarity_share)
        return cross_entropy(scores, labels, config.smoothing, config.convention)

    def local_step(
        self,
        x: Tensor,
        labels: Tensor,
        config: LocalLoss,
        seed: int,
        hand_on: Callable[[Tensor], None] | None = None,
        arithmetic: Arithmetic | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forward pass, and backward pass of the own loss; gradients are added to `.grad`.

        Args:
            x: what the block below handed on; no gradient goes back through it.
            labels: (B,).
            config: of the loss.
            seed: of the step, for dropout: its masks depend on this and on the block alone.
            hand_on: gets the activations, detached, before the head and the backward pass begin.
            arithmetic: in which numbers; None: float32. In float16 gradients come scaled, for `Arithmetic.step`.

        Returns:
            activations to hand on, in the arithmetic's type, and the loss, not scaled; both detached.
        """
        arithmetic = arithmetic or Arithmetic()
        with arithmetic.autocast():
            with seeded_dropout(self, mix(seed, "block", self.first)):
                activations = reduced(self.layers(x.detach()))
                if hand_on is not None:
                    hand_on(activations.detach())
                scores = full(self.head(activations))
            loss = self.loss(activations, scores, labels, config)
        arithmetic.scaled(loss).backward()
        return activations.detach(), loss.detach()


class BlockNetwork(nn.Module):
    """All blocks of a decoupled network, one behind the other."""

    def __init__(self, blocks: list[Block]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    @property
    def names(self) -> list[str]:
        """What a person calls each block: "block 2 (layers 7-13)"."""
        return [f"block {k} (layers {b.first}-{b.last})" for k, b in enumerate(self.blocks, 1)]

    def groups(self) -> list[list[nn.Parameter]]:
        """The parameters of each block; each group gets an optimiser of its own."""
        return [list(block.parameters()) for block in self.blocks]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Scores (B, classes) of every block's head; no gradient crosses a boundary."""
        scores, x = [], images
        for block in self.blocks:
            x, block_scores = block(x.detach())
            scores.append(block_scores)
        return scores

    def backward(
        self,
        images: Tensor,
        labels: Tensor,
        config: LocalLoss,
        seed: int = 0,
        arithmetics: Sequence[Arithmetic] | None = None,
    ) -> Tensor:
        """`Block.local_step` of every block, from the first to the last; `arithmetics`: one a block.

        Returns:
            the K local losses, detached, (K,).
        """
        losses, x = [], images
        for block, arithmetic in zip(self.blocks, arithmetics or [None] * len(self.blocks), strict=True):
            x, loss = block.local_step(x, labels, config, seed, None, arithmetic)
            losses.append(loss)
        return torch.stack(losses)


@contextmanager
def seeded_dropout(module: nn.Module, seed: int) -> Iterator[None]:
    """Draw the masks of dropout inside from `seed`, if `module` drops anything; other random numbers go on."""
    if not any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules()):
        yield
        return
    device = next(module.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def decouple(
    network: LayeredNetwork,
    decoupling: Decoupling,
    num_classes: int,
    width: float,
    heads: HeadConfig | None = None,
    seed: int | None = None,
) -> BlockNetwork:
    """Cut `network` as `decoupling` says; layers and classifier are used, not copied.

    Args:
        network: L layers and a classifier.
        decoupling: where to cut, and which head each block but the last gets.
        num_classes: class scores of each head.
        width: the network's width factor, which sets the width of Aux heads.
        heads: readings of the heads' description.
        seed: initialise the heads from this seed; a head's weights depend on the seed and its layer alone.

    Raises:
        SedonaError: the decoupling is for another number of layers.
    """
    decoupling.require(network.num_layers, network.name)
    blocks = []
    for (first, last), name in zip(decoupling.blocks, (*decoupling.heads, None), strict=True):
        out_shape = None
        if name is None:
            head: nn.Module = network.classifier
        else:
            channels, size, _ = network.cut_shapes[last - 1]
            out_shape = channels, size, size
            head_seed = None if seed is None else mix(seed, "heads", last)
            head = build_head(name, channels, size, num_classes, width, heads, seed=head_seed)
        blocks.append(Block(list(network.layers[first - 1 : last]), head, first, last, out_shape))
    return BlockNetwork(blocks)


def ensemble_scores(scores: list[Tensor], last: int) -> Tensor:
    """Sum of the log-softmax scores of the last `last` heads (Section 4.3): (B, classes)."""
    return torch.stack([F.log_softmax(part, dim=1) for part in scores[-last:]]).sum(0)
