"""Errors against K from the records of a store: which there are, and in words which are not.

points = errors_by_k.load("vgg19", "short", store)
points.table     # a row a point: network, variant, K, ours, spread, n, ...; for `viz.errors_by_blocks`
points.missing   # lines that say what has no record
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sedona_nb import experiments, protocols, verdicts
from sedona_nb.entries import Entry
from sedona_nb.errors import SedonaError
from sedona_nb.store import RunStore

NETWORKS = ("vgg19", "resnet50", "resnet101", "resnet152", "transformer20")  # of figures with K on an axis
METHODS = ("backprop", "predsim", "dgl", "sedona", "features-replay", "block-local")
FIGURES = ("figure07", "poster_figure3")  # figure07: figure03 and Features Replay


@dataclass(frozen=True)
class Points:
    """Errors of one network under one protocol.

    Attributes:
        entries: what the figures of the two sources ask for.
        table: of `verdicts.side_by_side`, a row an entry.
        missing: in words, what has no record, or why there is nothing at all.
        label: what ran, for captions.
    """

    entries: tuple[Entry, ...]
    table: pd.DataFrame
    missing: tuple[str, ...]
    label: str

    def of(self, methods: Sequence[str], store: RunStore) -> Points:
        """Only these methods; one that no figure of the two sources has for this network is among the missing."""
        if not self.entries:
            return self
        chosen = tuple(entry for entry in self.entries if entry.variant in methods)
        known = {entry.variant for entry in self.entries}
        unknown = [f"{method}: in no figure of this network" for method in methods if method not in known]
        rows = self.table[self.table["variant"].isin(methods)]
        return Points(chosen, rows, (*verdicts.missing(chosen, store), *unknown), self.label)


def load(network: str, protocol: str, store: RunStore) -> Points:
    """All points of `network` under `protocol`; none, and the reason in words, where the two do not go together.

    Raises:
        SedonaError: a record of the store is damaged.
    """
    nothing = verdicts.side_by_side((), store, against=None)
    try:
        ours = protocols.load(protocol, network, store)
    except SedonaError as error:
        return Points((), nothing, (f"Nothing to draw: {error}.",), "")
    found = {}
    for name in FIGURES:
        for entry in experiments.load(name, ours, store):
            found.setdefault((entry.variant, entry.num_blocks), entry)
    entries = tuple(found.values())
    table = verdicts.side_by_side(entries, store, against=None)
    return Points(entries, table, tuple(verdicts.missing(entries, store)), ours.label)
