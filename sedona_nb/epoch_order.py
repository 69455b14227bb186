"""Which pictures a training batch shows, as a function of (seed, number of the batch)."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from sedona_nb.errors import SedonaError
from sedona_nb.seeds import mix


class EpochOrder:
    """Batches by number: epoch e holds the batches e*batches_per_epoch up to (e+1)*batches_per_epoch - 1.

    Each epoch visits each index at most once, in its own order, and drops the last short batch.

    Args:
        indices: which pictures, (n,) int64 on the CPU.
        batch_size: B, pictures a batch.
        seed: integer of at least 0.

    Raises:
        SedonaError: fewer pictures than one batch holds, or a bad seed.
    """

    def __init__(self, indices: Tensor, batch_size: int, seed: int):
        if len(indices) < batch_size:
            raise SedonaError(f"{len(indices):,} pictures are fewer than one batch of {batch_size:,}")
        if not isinstance(seed, Integral) or seed < 0:
            raise SedonaError(f"seed {seed!r} is not allowed; allowed: integers of at least 0")
        self.indices, self.batch_size, self.seed = indices, batch_size, int(seed)
        self._held = (0, self._shuffled(0))  # the epoch at hand

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the pictures."""
        return len(self.indices) // self.batch_size

    def items(self, number: int) -> Tensor:
        """Which pictures batch `number` (from 0) shows: (B,) int64 on the CPU.

        Raises:
            SedonaError: a batch number that is no integer of at least 0.
        """
        if not isinstance(number, Integral) or number < 0:
            raise SedonaError(f"batch number {number!r} is not allowed; allowed: integers of at least 0")
        epoch, place = divmod(int(number), self.batches_per_epoch)
        held, order = self._held
        if held != epoch:
            order = self._shuffled(epoch)
            self._held = (epoch, order)
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def _shuffled(self, epoch: int) -> Tensor:
        order = np.random.default_rng(mix(self.seed, "epoch", epoch)).permutation(len(self.indices))
        return self.indices[torch.from_numpy(order)]
