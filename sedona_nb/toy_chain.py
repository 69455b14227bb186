"""Eq. 4 on three layers that each multiply by one number: every gradient is a number, and one sees its origin.

    for one in toy_chain.mixtures((0.5, 0.5)):
        print(one.layer, one.local, one.from_above, one.mixed)

The chain of notebook 03: a_l = w_l a_(l-1), with the loss (a_l - y)^2 / 2 at every layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sedona_nb.errors import SedonaError


@dataclass(frozen=True)
class Chain:
    """Weights w_1 .. w_L, input x and target y."""

    weights: tuple[float, ...] = (2.0, 0.5, 3.0)
    x: float = 1.0
    y: float = 1.0

    @property
    def local(self) -> tuple[float, ...]:
        """d loss_l / d a_l = a_l - y of each layer, (L,)."""
        activations = itertools.accumulate(self.weights, lambda a, w: w * a, initial=self.x)
        return tuple(a - self.y for a in itertools.islice(activations, 1, None))


@dataclass(frozen=True)
class Mixture:
    """What one layer hears.

    Attributes:
        layer: 1-based.
        share: alpha_1-bar, of its own head's gradient; 1 at the top, where there is nothing above.
        local: gradient of its own loss.
        from_above: what the layer above passes down; 0 at the top.
        parts: what each loss contributes to the mixture, (L,); losses further down contribute nothing.
    """

    layer: int
    share: float
    local: float
    from_above: float
    parts: tuple[float, ...]

    @property
    def mixed(self) -> float:
        """Delta-bar of Eq. 4."""
        return self.share * self.local + (1 - self.share) * self.from_above


def mixtures(shares: Sequence[float], chain: Chain | None = None) -> list[Mixture]:
    """Eq. 4 at every layer, from the first to the last.

    Args:
        shares: alpha_1-bar of the layers 1 .. L-1, each in 0..1.
        chain: default: that of notebook 03.

    Raises:
        SedonaError: not L-1 shares, or one outside 0..1.
    """
    chain = chain or Chain()
    layers = len(chain.weights)
    if len(shares) != layers - 1 or not all(0 <= share <= 1 for share in shares):
        raise SedonaError(f"shares are {tuple(shares)}; allowed for {layers} layers: {layers - 1} numbers in 0..1")
    local, found = chain.local, []
    above = (0.0,) * layers  # what each loss contributes to the gradient that arrives from above
    for layer in range(layers, 0, -1):
        share = shares[layer - 1] if layer < layers else 1.0
        parts = [(1 - share) * part for part in above]
        parts[layer - 1] += share * local[layer - 1]
        found.append(Mixture(layer, share, local[layer - 1], sum(above), tuple(parts)))
        above = tuple(chain.weights[layer - 1] * part for part in parts)
    return found[::-1]


def extremes(chain: Chain | None = None) -> tuple[float, float]:
    """The least and the greatest number that any shares can give: ends of an axis that need not move with them."""
    chain = chain or Chain()
    corners = itertools.product((0.0, 1.0), repeat=len(chain.weights) - 1)  # Eq. 4 is linear in every share
    rows = [one for corner in corners for one in mixtures(corner, chain)]
    numbers = [0.0, *(value for one in rows for value in (one.local, one.from_above, one.mixed))]
    return min(numbers), max(numbers)
