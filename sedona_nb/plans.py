"""A grid as it will be with all its records: what waits today for a search or a choice of rates included.

    plans.complete(grid).open()     # every run that is still to be done, some of them with assumed rates or cuts

How many runs there are, of which network, method and length, does not depend on what a search finds or which rate
wins. So a missing search is taken to have found something at random, a missing choice to have chosen the first.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from sedona_nb.grid import Grid
from sedona_nb.heads import HEADS
from sedona_nb.protocols import NUM_LAYERS
from sedona_nb.provenance import Provenance
from sedona_nb.records import Record, SearchSpec, Spec, spec_hash
from sedona_nb.seeds import torch_generator
from sedona_nb.store import RunStore

NOWHERE = Provenance("", 0, 0.0, 0, "", "", "", "", None, "assumed")


def complete(grid: Grid) -> Grid:
    """`grid` with all entries' runs; only for looking at, its store writes nothing that was not made."""
    return replace(grid, store=_Assumed(grid.store.folder))


class _Assumed(RunStore):
    """A store that answers for records that are not there yet."""

    def load(self, spec: Spec) -> Record | None:
        found = super().load(spec)
        return Record(spec, _result(spec), NOWHERE) if found is None else found


def _result(spec: Spec) -> dict:
    """As much of a result as experiments look at."""
    if not isinstance(spec, SearchSpec):
        return {"best": {"validation": {"top1": 0.0}}}
    rows, generator = NUM_LAYERS[spec.network.name] - 1, torch_generator(spec_hash(spec), "assumed")
    alpha, beta = (torch.rand(rows, columns, generator=generator).tolist() for columns in (2, len(HEADS)))
    histories = ("alpha_history", "beta_history", "alpha_gradients", "outer_losses", "pretraining")
    return {"alpha": alpha, "beta": beta, **{name: [] for name in histories}, "seconds": 0.0}
