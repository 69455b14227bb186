"""A network's decoupling by where it comes from: the paper's tables, the authors' files, our records, even cost.

found = cut_sources.find("own search", "vgg19", 4, cut_sources.searches(store))
found.cut      # a Decoupling, or None where this source has none
found.words    # which one it is, or why there is none
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from sedona_nb import baselines, released
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, TieWarning, choose
from sedona_nb.networks import NetworkConfig
from sedona_nb.protocols import NUM_LAYERS
from sedona_nb.records import Record, SearchSpec, protocol
from sedona_nb.runs import search_result
from sedona_nb.store import RunStore

SOURCES = ("published", "released", "own search", "even cost")
NETWORKS = ("vgg19", "resnet50", "resnet101", "resnet152")  # those that the paper cuts


@dataclass(frozen=True)
class Found:
    """A decoupling with what is to be said about it; None with the reason why there is none."""

    cut: Decoupling | None
    words: tuple[str, ...]


def searches(store: RunStore) -> tuple[Record, ...]:
    """The records of searches in a store, the longest first.

    That is the one with the most inner steps in all, then with the longest pretraining, then with the lowest seed.

    Raises:
        SedonaError: a file of the store is no record.
    """
    found = [record for record in store.records() if isinstance(record.spec, SearchSpec)]

    def order(record: Record) -> tuple[int, int, int]:
        config = record.spec.search
        return -config.outer_steps * config.inner.steps, -config.pretrain_steps, record.spec.seed

    return tuple(sorted(found, key=order))


def search_of(network: str, recorded: Sequence[Record]) -> Record | None:
    """The first of `recorded` that is of this network and of the paper's objective; None: there is none."""
    fitting = (record for record in recorded if record.spec.network.name == network)
    return next((record for record in fitting if record.spec.search.objective == "validation"), None)


def find(source: str, network: str, num_blocks: int, recorded: Sequence[Record] = ()) -> Found:
    """The decoupling of `network` into `num_blocks` blocks from one of `SOURCES`.

    Args:
        source: "published": as printed in Tables 10-13. "released": by the authors' files, where they are at hand.
            "own search": by the first of `recorded` that is of this network and of the paper's objective. "even
            cost": blocks of even multiply-accumulates with the head Aux 1, learned by nobody.
        network: one of `NETWORKS`.
        num_blocks: K.
        recorded: of `searches`.

    Raises:
        SedonaError: another source or network. What a source does not have is no error: `Found.words` says it.
    """
    choose(source, SOURCES, "source of a decoupling")
    choose(network, NETWORKS, "network")
    with warnings.catch_warnings(record=True) as ties:
        warnings.simplefilter("always", TieWarning)
        try:
            cut, words = _cut(source, network, num_blocks, recorded)
        except SedonaError as error:
            return Found(None, (f"No decoupling from this source: {error}.",))
    return Found(cut, (words, *(f"Tie: {tie.message}." for tie in ties)))


def _cut(source: str, network: str, num_blocks: int, recorded: Sequence[Record]) -> tuple[Decoupling, str]:
    """The decoupling, and where it comes from.

    Raises:
        SedonaError: there is none.
    """
    if source == "published":
        cut = Decoupling.published(network, num_blocks)
        return cut, f"Printed in the {cut.source}."
    if source == "released":
        files = released.load(network)
        if files is None:
            raise SedonaError(
                f"the authors' files of {network} are not here; {released.VARIABLE} names their folder"
            )
        return Decoupling.from_search(*files, num_blocks, "released files"), "From the authors' released files."
    if source == "even cost":
        words = "Blocks of even multiply-accumulates, all with Aux 1; nothing was searched."
        return baselines.even_cost(NetworkConfig(network), num_blocks), words
    own = search_of(network, recorded)
    if own is None:
        raise SedonaError(f"the records hold no search of {network} ({NUM_LAYERS[network]} layers)")
    found = search_result(own)
    cut = Decoupling.from_search(found.alpha, found.beta, num_blocks, f"own search, seed {own.spec.seed}")
    return cut, f"Our own search: {protocol(own.spec)}, seed {own.spec.seed}."
