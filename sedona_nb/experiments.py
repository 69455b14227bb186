"""Which runs stand behind each table and figure: a list of entries, each with the paper's number and our specs.

    entries = experiments.load("table02", protocols.load("short", "vgg19"), store)

Nothing is trained here. An entry whose specs depend on something not yet recorded, a search or the choice of a
learning rate, names these in `needs`; when they have records, `load` gives the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from sedona_nb import baselines, paper, released
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import HEADS
from sedona_nb.protocols import Protocol, chosen
from sedona_nb.records import RunSpec, SearchSpec, Spec
from sedona_nb.runs import RunStore, search_result
from sedona_nb.seeds import torch_generator

BLOCKS = (2, 4, 8, 12, 16)  # K of Figures 3 and 7
RANDOM_CONFIGURATIONS = 30  # Figure 6
MANY_SEEDS = tuple(range(10))  # Figure 6
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
    """

    network: str
    variant: str
    num_blocks: int
    printed: float | None
    runs: tuple[RunSpec, ...] = ()
    needs: tuple[Spec, ...] = ()


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
    cuts = {seed: cut(seed) if cut else None for seed in seeds}
    searches = {seed: one for seed, one in cuts.items() if isinstance(one, SearchSpec)}
    found = {seed: store.load(spec) for seed, spec in searches.items()}
    needs: list[Spec] = list(searches.values())
    blocks = 1 if method == "backprop" else num_blocks
    shown = protocol.profile.network.name, variant, blocks, printed
    if None in found.values():
        return Entry(*shown, needs=tuple(needs))
    results = {seed: search_result(record) for seed, record in found.items()}
    first = results[seeds[0]] if method == "continuous" else None
    setting = chosen(protocol, method, store, first)
    needs += protocol.tuning(method, first).values()
    if setting is None:
        return Entry(*shown, needs=tuple(needs))
    runs = []
    for seed in seeds:
        decoupling = cuts[seed] if isinstance(cuts[seed], Decoupling) else None
        trained = protocol.seeds[0] if draws else seed
        runs.append(protocol.spec(method, trained, setting, num_blocks, decoupling, results.get(seed)))
    return Entry(*shown, tuple(runs), tuple(needs))


# -- tables and figures ----------------------------------------------------------------------------------------


def table02(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 2 (a); beside SEDONA as the paper cuts, our own search, the released objective, and even cost."""
    network, data = (
        protocol.profile.network.name,
        "tiny-imagenet" if "tiny" in protocol.profile.data else "cifar10",
    )
    table = paper.table2().set_index(["data", "network", "method"])["error"]
    entries = [
        entry(protocol, store, method, method, _published(protocol, 4), printed=table[data, network, method])
        for method in ("backprop", "predsim", "dgl", "sedona")
    ]
    even = baselines.even_cost(protocol.profile.network, 4)
    return [
        *entries,
        entry(protocol, store, "own search", "sedona", protocol.search),
        entry(
            protocol, store, "own search, released objective", "sedona", _searched(protocol, objective="released")
        ),
        entry(protocol, store, "even cost", "given", lambda seed: even),
    ]


def figure03(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 3: error against K; the figure prints no numbers."""
    return _sweep(protocol, store, ("predsim", "dgl", "sedona"))


def table04(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 4: learned splits and heads, random splits, random heads; a draw a seed."""
    network = protocol.profile.network.name
    table = paper.table4().set_index(["network", "variant"])["error"]
    learned = Decoupling.published(network, 4)
    cuts = {
        "sedona": ("sedona", lambda seed: learned),
        "random alpha": ("given", lambda seed: random_splits(network, 4, seed)),
        "random beta": ("given", lambda seed: learned.with_random_heads(seed)),
    }
    return [
        entry(protocol, store, variant, method, cut, printed=table.get((network, variant)))
        for variant, (method, cut) in cuts.items()
    ]


def table06(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 6: with and without discretization, ours from our own search as the paper's are from its own."""
    table = paper.table6().set_index(["network", "method"])["error"]
    network = protocol.profile.network.name
    rows = (("backprop", "backprop", None), ("continuous", "continuous", protocol.search))
    rows = (*rows, ("own search", "sedona", protocol.search))
    return [
        entry(protocol, store, variant, method, cut, printed=table[network, method])
        for variant, method, cut in rows
    ]


def table07(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 7: errors on training pictures beside the others; the paper's are ImageNet's, and not printed here."""
    return [
        entry(protocol, store, method, method, _published(protocol, 4)) for method in ("backprop", "dgl", "sedona")
    ]


def table08(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 8: parts of the search left out one after another; each variant searches and trains."""
    table = paper.table8().set_index("variant")["cifar10_error"]
    printed = table.to_dict() if protocol.profile.network.name == "resnet101" else {}
    search = protocol.profile.search
    one = {"inner": replace(search.inner, steps=1)}
    single = {**one, "memory_size": 1, "keep": "last"}
    changes = {
        "sedona": {},
        "- extra inner steps": one,
        "- weight sampling": single,
        "- pretraining": {**single, "pretrain_steps": 0, "outer_steps": 5 * search.outer_steps},  # 2K + 8K
    }
    return [
        entry(protocol, store, v, "sedona", _searched(protocol, **c), printed=printed.get(v))
        for v, c in changes.items()
    ]


def figure06(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 6: 30 random configurations, and backprop and SEDONA with ten seeds."""
    return [
        entry(protocol, store, "backprop", "backprop", seeds=MANY_SEEDS),
        entry(protocol, store, "sedona", "sedona", _published(protocol, 4), seeds=MANY_SEEDS),
        entry(
            protocol,
            store,
            "random",
            "given",
            lambda draw: Decoupling.random(protocol.num_layers, 4, draw),
            seeds=range(RANDOM_CONFIGURATIONS),
            draws=True,
        ),
    ]


def figure07(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 7: Figure 3 with Features Replay."""
    return _sweep(protocol, store, ("features-replay", "predsim", "dgl", "sedona"))


def figure08(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 8: the runs of DGL and SEDONA, compared with backprop's gradients on the way."""
    train = protocol.profile.train
    looks = train.alignment_every or max(1, train.steps // 64)
    watched = replace(protocol, profile=replace(protocol.profile, train=replace(train, alignment_every=looks)))
    return [entry(watched, store, method, method, _published(watched, 4)) for method in ("dgl", "sedona")]


EXPERIMENTS: dict[str, Callable[[Protocol, RunStore], list[Entry]]] = {
    function.__name__: function
    for function in (table02, figure03, table04, table06, table07, table08, figure06, figure07, figure08)
}


def load(name: str, protocol: Protocol, store: RunStore) -> list[Entry]:
    """The entries of an experiment.

    Raises:
        SedonaError: an unknown name.
    """
    return EXPERIMENTS[choose(name, EXPERIMENTS, "experiment")](protocol, store)


# -- cuts ------------------------------------------------------------------------------------------------------


def random_splits(network: str, num_blocks: int, seed: int) -> Decoupling:
    """Table 4's random alpha: splits drawn with equal chance, each with the head that was learned for its layer.

    Heads are the printed ones; of the two deep networks, which print 16 layers, the released ones.

    Raises:
        SedonaError: heads that are neither printed nor at hand.
    """
    rows = paper.NUM_LAYERS[network] - 1
    layers, heads = paper.LEARNED[network]
    if len(layers) == rows:
        beta = torch.zeros(rows, len(HEADS))
        beta[torch.tensor(layers) - 1, torch.tensor(heads) - 1] = 1.0
    else:
        files = released.load(network)
        if files is None:
            raise SedonaError(f"heads of all layers of {network} are in the released files alone: SEDONA_RELEASED")
        beta = files.beta
    alpha = torch.rand(rows, 2, generator=torch_generator(seed, "random alpha"))
    return Decoupling.from_search(alpha, beta, num_blocks, f"random alpha, seed {seed}")


def _published(protocol: Protocol, num_blocks: int) -> Cut:
    return lambda seed: Decoupling.published(protocol.profile.network.name, num_blocks)


def _searched(protocol: Protocol, **changes: object) -> Cut:
    return lambda seed: protocol.search(seed, **changes)


def _sweep(protocol: Protocol, store: RunStore, compared: Sequence[str]) -> list[Entry]:
    points = [entry(protocol, store, "backprop", "backprop")]
    for method in compared:
        points += [entry(protocol, store, method, method, _published(protocol, k), k) for k in BLOCKS]
    return points
