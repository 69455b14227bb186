"""Auxiliary heads: small networks that turn a layer's activations into class scores and a local loss.

The pool of the search (Section 4.1, Table 9) is Aux 1-4. MLP-SR is the head of DGL, PredSim that of Nokland
and Eidnes.

The paper describes its heads three times, and not alike. The defaults here are the readings that reproduce the
paper's own Table 1; the others are named options:

================  =================================================  ========================================
option            default                                            the other reading
================  =================================================  ========================================
`inner_width`     "quarter": C/4 channels inside Aux heads, as       "full": C channels, as Table 9 prints
                  counted in Table 1
`strides`         "fixed": as printed in Table 9                     "guarded" (released code): a block strides
                                                                     and widens only if its map is at least 2x2
`mlp_layers`      4 linear maps in MLP-SR's MLP, as counted in       3, as the text says
                  Table 1
================  =================================================  ========================================

Aux i has i-1 inverted residual blocks (Section 4.1); the caption of Table 9 removes one too many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sedona_nb.errors import SedonaError, choose
from sedona_nb.layered import conv_bn, initialize, scaled

HEADS = ("aux1", "aux2", "aux3", "aux4")  # the search pool: column m-1 of beta is Aux m
ALL_HEADS = (*HEADS, "mlp-sr", "predsim")
NO_HEAD = "none"  # of a block that has no loss of its own: Features Replay
INNER_WIDTHS = ("quarter", "full")
STRIDES = ("fixed", "guarded")


@dataclass(frozen=True)
class HeadConfig:
    """Readings of the heads' description, see the module's docstring."""

    inner_width: str = "quarter"
    strides: str = "fixed"
    mlp_layers: int = 4

    def __post_init__(self) -> None:
        choose(self.inner_width, INNER_WIDTHS, "inner_width")
        choose(self.strides, STRIDES, "strides")
        if self.mlp_layers < 1:
            raise SedonaError(f"mlp_layers {self.mlp_layers}: at least 1 is needed")

    @classmethod
    def released(cls) -> HeadConfig:
        """What the released code builds."""
        return cls(strides="guarded")


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; identity added where shapes allow (MobileNetV2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int = 4):
        super().__init__()
        inside = expansion * in_channels
        self.body = nn.Sequential(
            *conv_bn(in_channels, inside, 1),
            nn.ReLU(inplace=True),
            *conv_bn(inside, inside, 3, stride, groups=inside),
            nn.ReLU(inplace=True),
            *conv_bn(inside, out_channels, 1),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return x + self.body(x) if self.residual else self.body(x)


def aux_head(
    depth: int, in_channels: int, size: int, num_classes: int, width: float, config: HeadConfig
) -> nn.Sequential:
    """Aux `depth` (Table 9): pointwise, depthwise, depth-1 inverted residuals, pointwise, pool, linear."""
    channels = max(1, in_channels // 4) if config.inner_width == "quarter" else in_channels
    wide = math.ceil(1.5 * channels)
    parts: list[nn.Module] = [*conv_bn(in_channels, channels, 1), nn.ReLU(inplace=True)]
    parts += [*conv_bn(channels, channels, 3, 2, groups=channels), nn.ReLU(inplace=True)]
    size = -(-size // 2)
    plan = [(channels, 1), (wide, 2), (wide, 1)][
        : depth - 1
    ]  # (output channels, stride) of the inverted residuals
    for target, stride in plan:
        if config.strides == "guarded" and size < 2:
            target, stride = channels, 1
        parts.append(InvertedResidual(channels, target, stride))
        channels, size = target, -(-size // stride)
    last = scaled(2048, width)
    parts += [*conv_bn(channels, last, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))


def mlp_sr_head(in_channels: int, size: int, num_classes: int, mlp_layers: int) -> nn.Sequential:
    """MLP-SR of DGL: pool to a quarter, three 1x1 convolutions, pool to 2x2, an MLP as wide as its input."""
    pooled = -(-size // 4)
    side = min(pooled, 2)
    parts: list[nn.Module] = [nn.AdaptiveAvgPool2d(pooled)]
    for _ in range(3):
        parts += [*conv_bn(in_channels, in_channels, 1), nn.ReLU(inplace=True)]
    parts += [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    units = in_channels * side * side
    for _ in range(mlp_layers - 1):
        parts += [nn.Linear(units, units), nn.BatchNorm1d(units), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.Linear(units, num_classes))


class PredSimHead(nn.Module):
    """The two heads of PredSim: a linear classifier on pooled activations and a convolution for similarities.

    `forward` gives the class scores; `similarity_features` feeds the similarity loss (`losses.predsim_loss`).
    Activations are pooled, halving height and width in turn, until they fit into `features` numbers
    (Appendix D.2: 512 on CIFAR-10, 2048 at full width).
    """

    def __init__(self, in_channels: int, size: int, num_classes: int, features: int):
        super().__init__()
        kernel, rows, columns = [1, 1], size, size
        while in_channels * rows * columns > features and kernel[1] < size:
            kernel[0] *= 2
            rows = -(-size // kernel[0])
            if in_channels * rows * columns > features:
                kernel[1] *= 2
                columns = -(-size // kernel[1])
        self.pool = nn.AdaptiveAvgPool2d((rows, columns))
        self.classifier = nn.Linear(in_channels * rows * columns, num_classes)
        self.similarity = nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return self.classifier(self.pool(x).flatten(1))

    def similarity_features(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """The activations whose pairwise similarities are matched to those of the labels."""
        return self.similarity(x)


def build_head(
    name: str,
    in_channels: int,
    spatial_size: int,
    num_classes: int,
    width: float,
    config: HeadConfig | None = None,
    predsim_features: int | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Build an auxiliary head: (B, C, H, W) -> (B, classes).

    Args:
        name: one of `ALL_HEADS`.
        in_channels: C, channels of the layer's output.
        spatial_size: H = W, side of the layer's output.
        num_classes: number of class scores.
        width: the base network's width factor; Aux heads end in 2048 * width channels (512 at 0.25).
        config: readings of the paper's description; default `HeadConfig()`.
        predsim_features: upper limit of PredSim's flattened input; default 2048 * width.
        seed: initialise from this seed; None leaves PyTorch's own random state to decide.

    Raises:
        SedonaError: unknown name or option.
    """
    choose(name, ALL_HEADS, "head")
    config = config or HeadConfig()
    if in_channels < 1 or spatial_size < 1:
        raise SedonaError(f"in_channels {in_channels}, spatial_size {spatial_size}: at least 1 each")
    if name == "mlp-sr":
        head: nn.Module = mlp_sr_head(in_channels, spatial_size, num_classes, config.mlp_layers)
    elif name == "predsim":
        features = predsim_features or scaled(2048, width)
        head = PredSimHead(in_channels, spatial_size, num_classes, features)
    else:
        head = aux_head(int(name[-1]), in_channels, spatial_size, num_classes, width, config)
    initialize(head, seed)
    return head


class MixedHead(nn.Module):
    """All heads of one layer; their scores are mixed by softmax(beta) (Eq. 3)."""

    def __init__(self, heads: list[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, activations: Tensor, mixture: Tensor) -> Tensor:
        """Activations (B, C, H, W) and a softmaxed mixture (M,) -> (B, classes)."""
        scores = torch.stack([head(activations) for head in self.heads])  # (M, B, classes)
        return torch.einsum("m,mbc->bc", mixture, scores)
