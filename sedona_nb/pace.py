"""How long a search takes on this machine: a few steps of its own network are timed at small batches.

    seconds = pace.measure(pictures, network, config, heads, device)   # Seconds, after about 10 seconds

Every kind of step costs a fixed time and a time a picture: two batch sizes give both. An outer step is linear in T
as well: two values of T give the cost of the first inner step and of each further one, two outer batches that of a
validation picture.

These are measurements: they vary by some 10 % from call to call, more on a busy machine. Left out are making
batches (a few percent) and writing files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from sedona_nb.footprint import PictureSizes
from sedona_nb.heads import HeadConfig
from sedona_nb.networks import NetworkConfig
from sedona_nb.search_config import SearchConfig
from sedona_nb.search_pieces import Pieces, Work, fastest

USUAL = 8  # pictures in the first batch
RATIO = 4  # of both batch sizes
LONG = 20.0  # seconds; if the first size takes longer, the second is not larger but smaller
MORE = 4  # times as many validation pictures, for the cost of one


@dataclass(frozen=True)
class Seconds:
    """Of a whole search, by what they are spent on."""

    pretraining: float
    evaluations: float
    search: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.pretraining + self.evaluations + self.search


@dataclass(frozen=True)
class _Round:
    """Seconds at one batch size: a pretraining step, an outer step of the fewest inner steps, one of one more."""

    size: int
    step: float
    few: float
    more: float


def measure(
    pictures: PictureSizes,
    network: NetworkConfig,
    config: SearchConfig,
    heads: HeadConfig | None = None,
    device: torch.device | str = "cpu",
) -> Seconds:
    """Time a few steps and extrapolate; PyTorch's present number of threads counts.

    Raises:
        SedonaError: as `networks.build_network` and `bilevel.hypergradient`.
    """
    probe = _Probe(pictures, network, config, heads, torch.device(device))
    rounds = probe.rounds()
    small, large = rounds[0], rounds[-1]
    size, outer = config.inner.batch_size, min(config.outer_batch_size, pictures.held_out(config))

    def at(count: int, kind: str) -> float:
        low, high = getattr(small, kind), getattr(large, kind)
        slope = (high - low) / (large.size - small.size) if large.size > small.size else high / large.size
        return max(high + slope * (count - large.size), 0.0)

    step = at(size, "step")
    inner = at(size, "few") + (config.inner.steps - probe.fewest) * (at(size, "more") - at(size, "few"))
    if config.objective == "validation":  # the rounds had as many validation pictures as others
        inner += (outer - size) * probe.validation_picture(large)
    evaluations = -(-config.pretrain_steps // config.snapshot_every)
    batches = -(-pictures.held_out(config) // outer)
    looked_at = min(batches, config.snapshot_batches or batches) * outer
    return Seconds(
        pretraining=config.pretrain_steps * step,
        evaluations=evaluations * looked_at * probe.evaluation(large.size) if evaluations else 0.0,
        search=config.outer_steps * (inner + step),
    )


class _Probe:
    """The pieces of a search, and what they take here."""

    def __init__(
        self,
        pictures: PictureSizes,
        network: NetworkConfig,
        config: SearchConfig,
        heads: HeadConfig | None,
        device: torch.device,
    ):
        self.config = config
        picture = pictures.in_channels, pictures.image_size, pictures.image_size
        self.pieces = Pieces(network, pictures.num_classes, picture, config, heads, device)
        # The cheapest first step differs from further ones; the released objective leaves out the last one.
        self.fewest = min(config.inner.steps, 2 if config.objective == "released" else 1)

    def rounds(self) -> list[_Round]:
        """At two batch sizes, in ascending order; at one, if the search's own are no larger."""
        most = self.config.inner.batch_size
        began = time.perf_counter()
        first = self._round(min(USUAL, most))
        slow = time.perf_counter() - began > LONG
        second = min(first.size // RATIO if slow else first.size * RATIO, most)
        found = {one.size: one for one in (first, self._round(second) if 0 < second != first.size else first)}
        return [found[size] for size in sorted(found)]

    def _round(self, size: int) -> _Round:
        few, more = (self._seconds(self.pieces.hypergradient(size, size, self.fewest + n)) for n in (0, 1))
        return _Round(size, self._seconds(self.pieces.step(size)), few, more)

    def validation_picture(self, large: _Round) -> float:
        """Seconds that one more picture in the outer batch costs."""
        more = self._seconds(self.pieces.hypergradient(large.size, MORE * large.size, self.fewest))
        return max(more - large.few, 0.0) / ((MORE - 1) * large.size)

    def evaluation(self, size: int) -> float:
        """Seconds a picture for the error of the classifier."""
        return self._seconds(self.pieces.evaluation(MORE * size)) / (MORE * size)

    def _seconds(self, work: Work) -> float:
        return fastest(work, self.pieces.device)
