"""One cell of a table or one point of a figure: the paper's number, and the specs of the runs that give ours.

An entry may depend on something not yet recorded: a search, or the choice of a learning rate. It names these specs
in `needs`, and says its `runs` as soon as they have records.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from sedona_nb import released
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, TieWarning
from sedona_nb.heads import HEADS
from sedona_nb.protocols import Protocol, chosen
from sedona_nb.records import RunSpec, SearchSpec, Spec
from sedona_nb.runs import RunStore, search_result
from sedona_nb.seeds import torch_generator

WHOLE = ("backprop", "feedback-alignment", "continuous")  # methods that cut nothing
Cut = Callable[[int], "Decoupling | SearchSpec"]  # by seed: a decoupling, or the search that finds one


@dataclass(frozen=True)
class Entry:
    """One cell of a table or one point of a figure.

    Attributes:
        network, variant, num_blocks: what it is; `variant` is a method or a variant of one, as the table calls it.
        printed: the paper's number; None where it prints none.
        runs: the specs whose records give ours, a seed or a draw each.
        needs: specs whose records decide what `runs` are, searches and choices of a rate; `runs` is empty as long
            as one of them has no record.
        protocol: name of the protocol that `runs` and `needs` are of.
        lacks: why there can be no runs here, whatever is recorded; "": they can.
        draws: the runs are random draws of a configuration, not seeds of one.
    """

    network: str
    variant: str
    num_blocks: int
    printed: float | None
    runs: tuple[RunSpec, ...] = ()
    needs: tuple[Spec, ...] = ()
    protocol: str = ""
    lacks: str = ""
    draws: bool = False


class NotAtHand(SedonaError):
    """A decoupling that depends on files which are not here."""


def entry(
    protocol: Protocol,
    store: RunStore,
    variant: str,
    method: str,
    cut: Cut | None = None,
    num_blocks: int = 4,
    printed: float | None = None,
    seeds: Iterable[int] | None = None,
    draws: bool = False,
) -> Entry:
    """The entry of one variant of one method.

    Args:
        protocol: of all its runs.
        store: where searches and choices of rates are looked up.
        variant: its name in the table.
        method: of `records.METHODS`.
        cut: for "sedona", "given" and "continuous"; called with each seed.
        num_blocks: K.
        printed: the paper's number.
        seeds: default: the protocol's.
        draws: the seeds are for `cut`; all runs are trained with the protocol's first seed.
    """
    seeds = protocol.seeds if seeds is None else tuple(seeds)
    blocks = 1 if method in WHOLE else num_blocks
    shown = protocol.profile.network.name, variant, blocks, printed
    try:
        cuts = {seed: cut(seed) if cut else None for seed in seeds}
    except NotAtHand as error:
        return Entry(*shown, protocol=protocol.name, lacks=str(error))
    searches = {seed: one for seed, one in cuts.items() if isinstance(one, SearchSpec)}
    found = {seed: store.load(spec) for seed, spec in searches.items()}
    needs: list[Spec] = list(searches.values())
    if None in found.values():
        return Entry(*shown, needs=tuple(needs), protocol=protocol.name)
    results = {seed: search_result(record) for seed, record in found.items()}
    first = results[seeds[0]] if method == "continuous" else None
    setting = chosen(protocol, method, store, first)
    needs += protocol.tuning(method, first).values()
    if setting is None:
        return Entry(*shown, needs=tuple(needs), protocol=protocol.name)
    runs = []
    for seed in seeds:
        decoupling = cuts[seed] if isinstance(cuts[seed], Decoupling) else None
        trained = protocol.seeds[0] if draws else seed
        runs.append(protocol.spec(method, trained, setting, num_blocks, decoupling, results.get(seed)))
    return Entry(*shown, tuple(runs), tuple(needs), protocol.name, draws=draws)


def random_splits(network: str, num_blocks: int, seed: int) -> Decoupling:
    """Table 4's random alpha: splits drawn with equal chance, each with the head that was learned for its layer.

    Heads are the printed ones; of the two deep networks, which print 16 layers, the released ones.

    Raises:
        NotAtHand: heads that are neither printed nor in the released files, as far as they are here.
    """
    from sedona_nb import paper  # needs pandas

    rows = paper.NUM_LAYERS[network] - 1
    layers, heads = paper.LEARNED[network]
    if len(layers) == rows:
        beta = torch.zeros(rows, len(HEADS))
        beta[torch.tensor(layers) - 1, torch.tensor(heads) - 1] = 1.0
    else:
        files = released.load(network)
        if files is None:
            raise NotAtHand(f"heads of all layers of {network} are in the authors' files alone (SEDONA_RELEASED)")
        beta = files.beta
    alpha = torch.rand(rows, 2, generator=torch_generator(seed, "random alpha"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # equal heads in the released files; the draw is random anyway
        return Decoupling.from_search(alpha, beta, num_blocks, f"random alpha, seed {seed}")


def published(protocol: Protocol, num_blocks: int) -> Cut:
    """The paper's decoupling, whatever the seed."""
    return lambda seed: Decoupling.published(protocol.profile.network.name, num_blocks)


def searched(protocol: Protocol, **changes: object) -> Cut:
    """What our own search finds, one for each seed; `changes` of its `SearchConfig`."""
    return lambda seed: protocol.search(seed, **changes)
