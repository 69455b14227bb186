"""The paper's base networks by name; `vgg` and `resnet` build them, `layered` says what they have in common.

Where the paper and its released code differ, the paper's reading is the default and the other one a named option:

====================  =======================================  =========================================
option                paper                                    released
====================  =======================================  =========================================
`pool` (VGG)          "before_cut": a layer contains its       "after_cut": pooling opens the next layer,
                      pooling, heads see the pooled map        heads see the map before pooling
`dropout` (VGG)       0.0 (Appendix D.1)                       0.5 twice in the final MLP
====================  =======================================  =========================================

`bottleneck_stride` is "3x3" in both: the paper cites the original ResNet, which strides in the first 1x1
convolution, but only the 3x3 reading reproduces the FLOP column of Table 1. The original is there as "1x1".
"""

from __future__ import annotations

from dataclasses import dataclass

from sedona_nb.errors import SedonaError, choose
from sedona_nb.layered import LayeredNetwork, initialize
from sedona_nb.resnet import BOTTLENECK_STRIDES, RESNET_DEPTHS, Residual, build_resnet
from sedona_nb.transformer import TRANSFORMER_DEPTHS, build_transformer, initialize_transformer
from sedona_nb.vgg import POOLS, VGG_CHANNELS, build_vgg

__all__ = [
    "BOTTLENECK_STRIDES",
    "NETWORKS",
    "POOLS",
    "RESNET_DEPTHS",
    "TRANSFORMER_DEPTHS",
    "VARIANTS",
    "VGG_CHANNELS",
    "LayeredNetwork",
    "NetworkConfig",
    "Residual",
    "build_network",
    "build_resnet",
    "build_vgg",
    "initialize",
]

NETWORKS = (*VGG_CHANNELS, *RESNET_DEPTHS, *TRANSFORMER_DEPTHS)
VARIANTS = ("paper", "released")


@dataclass(frozen=True)
class NetworkConfig:
    """A base network as a value: arguments of `build_network` that do not depend on the data."""

    name: str = "vgg19"
    width: float = 0.25  # the paper's on CIFAR-10; 1 on Tiny-ImageNet and ImageNet
    variant: str = "paper"
    pool: str | None = None
    dropout: float | None = None
    bottleneck_stride: str = "3x3"

    def __post_init__(self) -> None:
        choose(self.name, NETWORKS, "network")
        choose(self.variant, VARIANTS, "variant")

    def build(
        self, num_classes: int, image_size: int, in_channels: int = 3, seed: int | None = None
    ) -> LayeredNetwork:
        """The network for pictures of `image_size` and `in_channels`; see `build_network`."""
        return build_network(
            self.name,
            self.width,
            num_classes,
            image_size,
            in_channels,
            self.variant,
            self.pool,
            self.dropout,
            self.bottleneck_stride,
            seed,
        )


def build_network(
    name: str,
    width: float = 0.25,
    num_classes: int = 10,
    image_size: int = 32,
    in_channels: int = 3,
    variant: str = "paper",
    pool: str | None = None,
    dropout: float | None = None,
    bottleneck_stride: str = "3x3",
    seed: int | None = None,
) -> LayeredNetwork:
    """Build one of `NETWORKS` (Appendix D.1); VGG-11 is not in the paper, it serves where VGG-19 is too slow.

    Args:
        name: one of `NETWORKS`.
        width: factor on every channel count; 0.25 on CIFAR-10, 1 on Tiny-ImageNet and ImageNet (Section 4.1).
        num_classes: outputs of the classifier.
        image_size: side of the square pictures, in pixels; decides stem and map sizes. For a transformer: how
            many positions a sequence has.
        in_channels: 3 for colour, 1 for grey pictures. For a transformer: how many symbols there are.
        variant: "paper" or "released": sets `pool` and `dropout` where they are not given.
        pool: "before_cut" or "after_cut" (VGG only).
        dropout: probability in the final MLP (VGG only).
        bottleneck_stride: "3x3" or "1x1" (ResNet-50 and deeper only).
        seed: initialise from this seed; None leaves PyTorch's own random state to decide.

    Raises:
        SedonaError: unknown name or option, a width that leaves no channel, a picture too small for the network.
    """
    choose(name, NETWORKS, "network")
    choose(variant, VARIANTS, "variant")
    pool = choose(pool or ("before_cut" if variant == "paper" else "after_cut"), POOLS, "pool")
    choose(bottleneck_stride, BOTTLENECK_STRIDES, "bottleneck_stride")
    if not width > 0 or num_classes < 2 or image_size < 4 or in_channels < 1:
        raise SedonaError(
            f"width {width}, num_classes {num_classes}, image_size {image_size}, in_channels {in_channels}: "
            "allowed are a positive width, at least 2 classes, 4 pixels and 1 channel"
        )
    if dropout is None:
        dropout = 0.0 if variant == "paper" else 0.5
    if name in TRANSFORMER_DEPTHS:
        depth = TRANSFORMER_DEPTHS[name]
        network = build_transformer(depth, width, num_classes, image_size, in_channels, name=name)
        initialize_transformer(network, seed)
        return network
    if name in VGG_CHANNELS:
        plan = VGG_CHANNELS[name]
        network = build_vgg(
            plan, width, num_classes, image_size, in_channels, pool=pool, dropout=dropout, name=name
        )
    else:
        network = build_resnet(
            RESNET_DEPTHS[name],
            width,
            num_classes,
            image_size,
            in_channels,
            bottleneck=name != "resnet18",
            bottleneck_stride=bottleneck_stride,
            name=name,
        )
    initialize(network, seed)
    return network
