"""A transformer that gives every position of a sequence a class, as layers to cut (poster, Figures 3B and 3C).

A sequence is a picture of height 1 with a channel for each symbol, one-hot; so the parts of this package that know
pictures know sequences. The source says 20 layers with a single attention head each; width, MLP, normalisation and
initialisation are ours: LayerNorm before attention and MLP, which is four times as wide, positions learned, and
what a layer adds scaled down at the beginning so that the sum over all layers has the size of one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedona_nb.layered import LayeredNetwork, scaled

TRANSFORMER_DEPTHS = {"transformer4": 4, "transformer20": 20}  # 4: for tests
FULL_WIDTH = 256


class Embedding(nn.Module):
    """(B, symbols, 1, T) one-hot -> (B, C, 1, T): a vector for the symbol plus one for the position."""

    def __init__(self, symbols: int, length: int, channels: int):
        super().__init__()
        self.symbols = nn.Linear(symbols, channels, bias=False)
        self.positions = nn.Parameter(torch.empty(length, channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return as_map(self.symbols(as_tokens(x)) + self.positions)


class TransformerLayer(nn.Module):
    """(B, C, 1, T) -> the same: attention with one head, then an MLP, each added to what came in."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.attention_out = nn.Linear(channels, channels)
        self.mlp_in = nn.Linear(channels, 4 * channels)
        self.mlp_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = as_tokens(x)
        queries, keys, values = self.queries_keys_values(self.attention_norm(tokens)).chunk(3, dim=2)
        tokens = tokens + self.attention_out(F.scaled_dot_product_attention(queries, keys, values))
        tokens = tokens + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(tokens))))
        return as_map(tokens)


class PositionClassifier(nn.Module):
    """(B, C, 1, T) -> scores (B T, classes), sequence after sequence."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.linear(self.norm(as_tokens(x))).flatten(0, 1)


def build_transformer(
    depth: int, width: float, num_classes: int, length: int, symbols: int, name: str = "transformer"
) -> LayeredNetwork:
    """A transformer of `depth` layers and 256 * `width` channels; its weights are drawn by `initialize`."""
    channels = scaled(FULL_WIDTH, width)
    layers: list[nn.Module] = [TransformerLayer(channels) for _ in range(depth)]
    layers[0] = nn.Sequential(Embedding(symbols, length, channels), layers[0])
    shapes = [(channels, 1, length)] * depth
    return LayeredNetwork(name, layers, PositionClassifier(channels, num_classes), shapes, per_position=True)


@torch.no_grad()
def initialize_transformer(network: LayeredNetwork, seed: int | None = None) -> None:
    """Normal weights with variance 1 / fan-in, zero biases; what layers add is divided by sqrt(2 L)."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for name, part in network.named_modules():
        if isinstance(part, nn.Linear):
            added = name.endswith(("attention_out", "mlp_out"))
            scale = (2 * network.num_layers) ** -0.5 if added else 1.0
            part.weight.normal_(0.0, scale * part.in_features**-0.5, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, Embedding):
            part.positions.normal_(0.0, 1.0, generator=generator)


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, 1, T) -> (B, T, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor) -> Tensor:
    """(B, T, C) -> (B, C, 1, T)."""
    return tokens.transpose(1, 2)[:, :, None]
