"""Block-local learning: forward blocks, feedback blocks, and the messages between them (Kappel et al., poster).

    network = block_local.divide(build_network("resnet50"), decoupling, num_classes=10)
    losses = network.backward(images, labels, LocalLoss())      # a step; or training.train, or pipeline.train

Block k holds the forward block f_k and, but for the first, the feedback block g_k. From below comes what block k-1
computed, whose average over a grid of cells is the message alpha_{k-1}; from above beta_k, one message for each
class. From the first the block computes alpha_k and hands it up, from the second beta_{k-1} and hands it down. f_k
learns from alpha_k and beta_k, g_k from alpha_{k-1} and beta_{k-1} (`block_losses`); all of that is at hand inside
the block, and no gradient leaves it.

Both chains are pipelined: the beta_k of a step is what block k+1 sent `lag` steps ago, so that no block waits for
those above it. What it costs is that the target's word comes down N-k lags late; the messages do not depend on
pictures and change slowly. The source says nothing about the optimiser, the latent variables of a convolutional
network or the architecture of feedback blocks: all values in `BlockLocalConfig` are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sedona_nb import block_losses, families
from sedona_nb.blocks import Block, BlockNetwork, LocalLoss
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, choose
from sedona_nb.feedback import FeedbackBlock, Latent, one_hot_message
from sedona_nb.layered import LayeredNetwork, Shape, initialize
from sedona_nb.precision import Arithmetic, full
from sedona_nb.seeds import mix


@dataclass(frozen=True)
class BlockLocalConfig:
    """What a network trained by block-local learning is made of, besides its layers."""

    family: str = "gaussian"  # of the latent variables between blocks; the target's is categorical
    split: str = "evidence"  # of the loss: `block_losses.SPLITS`
    message_size: int = 512  # natural parameters of a message, at most; but no fewer than channels
    hidden: int = 256  # width of a feedback block
    lag: int = 1  # steps from sending a feedback message to its use

    def __post_init__(self) -> None:
        choose(self.family, families.FAMILIES, "family")
        choose(self.split, block_losses.SPLITS, "split")
        for name in ("message_size", "hidden", "lag"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SedonaError(f"{name} {value!r} is not allowed; allowed: whole numbers from 1 on")


class Readout(nn.Module):
    """The message alpha that a block's output is: averages over a grid of cells, or every position by itself.

    Args:
        shape: (C, H, W) of the output.
        message_size: most natural parameters; the finest grid whose sides divide H and W is taken. One cell, that
            is a parameter a channel, is the least.
        per_position: every position has a latent variable, and a label, of its own, as in sequences.
    """

    def __init__(self, shape: Shape, message_size: int, per_position: bool = False):
        super().__init__()
        channels, height, width = shape
        self.per_position = per_position
        sides = [(h, height // h) for h in range(height, 0, -1) if height % h == 0 and width % (height // h) == 0]
        fitting = [h for h, cell in sides if channels * h * (width // cell) <= message_size]
        self.rows = 1 if per_position or not fitting else fitting[0]
        self.columns = 1 if per_position else self.rows * width // height
        self.latent = Latent(channels, self.rows * self.columns)

    def forward(self, activations: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, positions), or with a label a position (B H W, C, 1)."""
        if self.per_position:
            return full(activations).flatten(2).transpose(1, 2).flatten(0, 1)[:, :, None]
        return nn.functional.adaptive_avg_pool2d(full(activations), (self.rows, self.columns)).flatten(2)


class MessageHead(nn.Module):
    """Class scores of a block: how well its message fits those that came back, by `block_losses.scores`.

    Attributes:
        heard: (classes, channels, positions), the beta of the latest step.
    """

    def __init__(self, family: families.Family, readout: Readout, num_classes: int, split: str = "evidence"):
        super().__init__()
        self.family, self.readout, self.split = family, readout, split
        self.register_buffer("heard", torch.zeros(num_classes, readout.latent.channels, readout.latent.positions))

    def forward(self, activations: Tensor) -> Tensor:
        """(B, C, H, W) -> (rows, classes)."""
        with torch.autocast(activations.device.type, enabled=False):
            alpha, beta = self.readout(activations), self.heard.detach()
            return block_losses.scores(self.family, alpha, beta, self.split)


class LocalBlock(Block):
    """A forward block f_k with its feedback block g_k.

    Args:
        layers, head, first, last, out_shape: as in `Block`; the head is a `MessageHead`, or the classifier.
        config: of the method.
        below: how the block below reads its message; None for the first block, which gives no feedback.
        feedback: g_k; None for the first block.
        num_classes: how many feedback messages there are.

    Attributes:
        said: (lag, classes, channels, positions): the last messages that g_k sent, oldest first.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        head: nn.Module,
        first: int,
        last: int,
        out_shape: Shape | None,
        config: BlockLocalConfig,
        below: Readout | None,
        feedback: FeedbackBlock | None,
        num_classes: int,
    ):
        super().__init__(layers, head, first, last, out_shape)
        self.config, self.below, self.feedback, self.num_classes = config, below, feedback, num_classes
        if feedback is not None:
            lower = feedback.lower
            size = config.lag, num_classes, lower.channels, lower.positions
            self.register_buffer("said", feedback.outer.weight.new_zeros(size))

    @property
    def heard(self) -> Tensor:
        """beta_k, the message that the block has from above; the last block's is the target itself."""
        if isinstance(self.head, MessageHead):
            return self.head.heard.detach()
        return one_hot_message(self.num_classes, next(self.parameters()))

    def hear(self, message: Tensor) -> None:
        """Take in a message from above, (classes, channels, positions).

        Raises:
            SedonaError: the last block, which hears the target alone; or a message of another shape.
        """
        if not isinstance(self.head, MessageHead):
            raise SedonaError("the last block hears the target; allowed: a message to any block below")
        if message.shape != self.head.heard.shape:
            wanted = tuple(self.head.heard.shape)
            raise SedonaError(f"a message of {tuple(message.shape)} for a block; allowed: {wanted}")
        self.head.heard.copy_(message.detach())

    def loss(self, activations: Tensor, scores: Tensor, labels: Tensor, config: LocalLoss) -> Tensor:
        """What f_k lowers; for the last block the classifier's cross-entropy."""
        if not isinstance(self.head, MessageHead) or self.config.split in ("evidence", "likelihood"):
            return super().loss(activations, scores, labels, config)
        return self._loss(block_losses.forward_loss, self.head.readout(activations), self.heard, labels, config)

    def local_step(
        self,
        x: Tensor,
        labels: Tensor,
        config: LocalLoss,
        seed: int,
        hand_on: Callable[[Tensor], None] | None = None,
        arithmetic: Arithmetic | None = None,
        say: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A step of f_k, as `Block.local_step`, and one of g_k.

        `say` gets g_k's message before anything else is computed; `said` takes it in as well.
        """
        feedback = None
        if self.feedback is not None:
            message = self.feedback(self.heard)
            if say is not None:
                say(message.detach())
            self.said.copy_(torch.cat([self.said[1:], message.detach()[None]]))
            feedback = self._loss(block_losses.feedback_loss, self.below(x.detach()), message, labels, config)
        outcome = super().local_step(x, labels, config, seed, hand_on, arithmetic)
        if feedback is not None:
            (arithmetic or Arithmetic()).scaled(feedback).backward()
        return outcome

    def _loss(self, kind: Callable, alpha: Tensor, beta: Tensor, labels: Tensor, config: LocalLoss) -> Tensor:
        family = families.family(self.config.family)
        with torch.autocast(alpha.device.type, enabled=False):
            return kind(family, alpha, beta, labels, self.config.split, config.smoothing, config.convention)


class BlockLocalNetwork(BlockNetwork):
    """All blocks, one behind the other; in a step each hears what the next one said `lag` steps ago.

    Args:
        blocks: from the first to the last.
        per_position: every position of a sequence has a label.
    """

    def __init__(self, blocks: list[LocalBlock], per_position: bool = False):
        super().__init__(blocks)
        self.per_position = per_position
        self.sweep()

    @torch.no_grad()
    def sweep(self) -> None:
        """Send the target's word down through all feedback blocks at once: the state before the first step."""
        for lower, upper in reversed(list(zip(self.blocks, self.blocks[1:], strict=False))):
            message = upper.feedback(upper.heard)
            upper.said.copy_(message.expand_as(upper.said))
            lower.hear(message)

    def backward(self, images, labels, config, seed=0, arithmetics=None) -> Tensor:
        """`LocalBlock.local_step` of every block, from the first to the last; as `BlockNetwork.backward`.

        Raises:
            SedonaError: labels that are no classes; on a GPU PyTorch itself refuses values out of range.
        """
        rows = len(images) * (images[0, 0].numel() if self.per_position else 1)
        block_losses.check_labels(labels, self.blocks[-1].num_classes, rows)
        for lower, upper in zip(self.blocks, self.blocks[1:], strict=False):
            lower.hear(upper.said[0])
        return super().backward(images, labels, config, seed, arithmetics)


def divide(
    network: LayeredNetwork,
    decoupling: Decoupling,
    num_classes: int,
    config: BlockLocalConfig | None = None,
    seed: int | None = None,
) -> BlockLocalNetwork:
    """Cut `network` into forward blocks and give each boundary a feedback block.

    Args:
        network: L layers and a classifier, which are used, not copied.
        decoupling: where to cut; its heads are not built.
        num_classes: how many messages each feedback block sends.
        config: of the method.
        seed: initialise feedback blocks from this seed; a block's weights depend on the seed and its layer alone.

    Returns:
        a network of the type and on the device of `network`.

    Raises:
        SedonaError: the decoupling is for another number of layers, or the classifier for one of classes.
    """
    config = config or BlockLocalConfig()
    decoupling.require(network.num_layers, network.name)
    known = [part.out_features for part in network.classifier.modules() if isinstance(part, nn.Linear)]
    if known and known[-1] != num_classes:
        raise SedonaError(f"num_classes is {num_classes}; allowed: the classifier's {known[-1]}")
    like = next(network.parameters())
    shapes = [network.cut_shapes[last - 1] for _, last in decoupling.blocks[:-1]]
    readouts = [Readout(shape, config.message_size, network.per_position) for shape in shapes]
    latents = [*(readout.latent for readout in readouts), Latent(num_classes, 1)]
    blocks = []
    for k, (first, last) in enumerate(decoupling.blocks):
        head, out_shape, below, feedback = network.classifier, None, None, None
        if k < len(readouts):
            head = MessageHead(families.family(config.family), readouts[k], num_classes, config.split).to(like)
            out_shape = shapes[k]
        if k > 0:
            below, feedback = readouts[k - 1], FeedbackBlock(latents[k], latents[k - 1], config.hidden)
            initialize(feedback, None if seed is None else mix(seed, "feedback", first))
            feedback = feedback.to(like)
        layers = list(network.layers[first - 1 : last])
        blocks.append(LocalBlock(layers, head, first, last, out_shape, config, below, feedback, num_classes))
    return BlockLocalNetwork(blocks, network.per_position)
