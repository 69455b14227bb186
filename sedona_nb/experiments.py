"""Which runs stand behind each table and figure of the two sources, and one question of our own.

    cells = experiments.load("table02", protocols.load("short", "vgg19"), store)

Nothing is trained here: `grid` does that. The paper's numbers come from `paper` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sedona_nb import baselines
from sedona_nb.decoupling import Decoupling
from sedona_nb.entries import Entry, entry, published, random_splits, searched
from sedona_nb.errors import choose
from sedona_nb.heads import HEADS
from sedona_nb.protocols import NAMES, NUM_LAYERS, UNPRINTED, Protocol
from sedona_nb.store import RunStore

BLOCKS = (2, 4, 8, 12, 16)  # K of Figures 3 and 7
RANDOM_CONFIGURATIONS = 30  # Figure 6
RELEASED = "own search (released objective)"
# Experiments of the protocols that are not on CIFAR-10; all others are about that.
ON_LARGE = {"tiny-imagenet": ("table02",), "imagenet": ("table03", "table07"), "imagenet-dgl": ("table05",)}
POSTER_NETWORKS = {"poster_table1": ("resnet18", "resnet50"), "poster_figure3": ("resnet50", "transformer20")}
POSTER_BLOCKS = {"resnet50": (2, 4, 8, 16), "transformer20": (2, 4, 10, 20)}  # poster, Figures 3A and 3C
MANY_SEEDS = tuple(range(10))  # Figure 6
CIFAR10 = ("cifar10", "cifar10-jpeg")  # whose numbers the tables print


def table02(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 2 (a); beside SEDONA as the paper cuts, our own search, the released objective, and even cost.

    Under the protocol tiny-imagenet Table 2 (b), with the paper's four methods.
    """
    printed = _printed_table02(protocol)
    cells = [
        entry(protocol, store, method, method, published(protocol, 4), printed=printed.get(method))
        for method in ("backprop", "predsim", "dgl", "sedona")
    ]
    if protocol.name == "tiny-imagenet":
        lacking = "PredSim's optimiser and batches of 40 classes, which it has on these pictures, are not built"
        return [replace(e, runs=(), needs=(), lacks=lacking) if e.variant == "predsim" else e for e in cells]
    even = baselines.even_cost(protocol.profile.network, 4)
    return [
        *cells,
        entry(protocol, store, "own search", "sedona", protocol.search),
        entry(protocol, store, RELEASED, "sedona", searched(protocol, objective="released")),
        entry(protocol, store, "even cost", "given", lambda seed: even),
    ]


def table03(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 3: ImageNet; its ensembles are other evaluations of the runs with K = 4."""
    return _on_imagenet(
        protocol, store, "table3", (("backprop", 1), ("dgl", 2), ("dgl", 4), ("sedona", 2), ("sedona", 4))
    )


def figure03(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 3: error against K; the figure prints no numbers, Table 2 those of K = 4 and of backprop."""
    return _sweep(protocol, store, ("predsim", "dgl", "sedona"))


def table04(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 4: learned splits and heads, random splits, random heads; a draw a seed."""
    network = protocol.profile.network.name
    printed = _printed("table4", protocol, "variant")
    learned = Decoupling.published(network, 4)
    cuts = {
        "sedona": ("sedona", lambda seed: learned),
        "random alpha": ("given", lambda seed: random_splits(network, 4, seed)),
        "random beta": ("given", lambda seed: learned.with_random_heads(seed)),
    }
    return [
        entry(protocol, store, variant, method, cut, printed=printed.get(variant))
        for variant, (method, cut) in cuts.items()
    ]


def table05(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 5: ImageNet in DGL's setting, K = 2."""
    return _on_imagenet(protocol, store, "table5", (("backprop", 1), ("dgl", 2), ("sedona", 2)))


def table06(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 6: with and without discretization, ours from our own search as the paper's are from its own."""
    printed = _printed("table6", protocol, "method")
    rows = (("backprop", "backprop", None), ("continuous", "continuous", protocol.search))
    rows = (*rows, ("own search", "sedona", protocol.search))
    return [
        entry(protocol, store, variant, method, cut, printed=printed.get(method)) for variant, method, cut in rows
    ]


def table07(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 7: errors on training pictures beside the others; ImageNet's val errors are those of Table 3."""
    if protocol.name == "imagenet":
        return _on_imagenet(protocol, store, "table3", (("backprop", 1), ("dgl", 4), ("sedona", 4)))
    return [
        entry(protocol, store, method, method, published(protocol, 4)) for method in ("backprop", "dgl", "sedona")
    ]


def table08(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Table 8: parts of the search left out one after another; each variant searches and trains."""
    resnet = protocol.profile.network.name == "resnet101"
    printed = _printed("table8", protocol, "variant", "cifar10_error") if resnet else {}
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
        entry(protocol, store, v, "sedona", searched(protocol, **c), printed=printed.get(v))
        for v, c in changes.items()
    ]


def figure06(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 6: 30 random configurations, and backprop and SEDONA with ten seeds."""
    return [
        entry(protocol, store, "backprop", "backprop", seeds=MANY_SEEDS),
        entry(protocol, store, "sedona", "sedona", published(protocol, 4), seeds=MANY_SEEDS),
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
    """Figure 7: Figure 3 with Features Replay, of which no number is printed."""
    return _sweep(protocol, store, ("features-replay", "predsim", "dgl", "sedona"))


def figure08(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Figure 8: the runs of DGL and SEDONA, compared with backprop's gradients on the way."""
    train = protocol.profile.train
    looks = train.alignment_every or max(1, train.steps // 64)
    watched = replace(protocol, profile=replace(protocol.profile, train=replace(train, alignment_every=looks)))
    return [entry(watched, store, method, method, published(watched, 4)) for method in ("dgl", "sedona")]


def first_head(protocol: Protocol, store: RunStore) -> list[Entry]:
    """A question of our own, from the runs of Table 4: two cuts, and every head in turn on their first block.

    Nothing else changes. The printed cut with its printed head is SEDONA of the other experiments, and the even
    cut with Aux 1 that of `table02`.
    """
    network = protocol.profile.network
    printed = Decoupling.published(network.name, 4)
    entries = []
    for name, cut in (("printed", printed), ("even cost", baselines.even_cost(network, 4))):
        for head in HEADS:
            swapped = replace(cut, heads=(head, *cut.heads[1:]))
            method = "sedona" if swapped == printed else "given"
            entries.append(entry(protocol, store, f"{name} + {head}", method, lambda seed, cut=swapped: cut))
    return entries


def poster_table1(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Poster, Table 1, as errors; the source says neither K nor which Pred-Sim: 4 blocks here."""
    data = "cifar10" if protocol.profile.data in CIFAR10 else protocol.profile.data
    pictures = (*CIFAR10, "fashion-mnist")
    printed = _printed("poster_table1", protocol, "method", "accuracy", pictures, data=data)
    compared = ("backprop", "feedback-alignment", "predsim", "block-local")
    return [entry(protocol, store, m, m, printed=100 - printed[m] if m in printed else None) for m in compared]


def poster_figure3(protocol: Protocol, store: RunStore) -> list[Entry]:
    """Poster, Figures 3A (ResNet-50) and 3B, 3C (transformer): block-local learning against K."""
    blocks = POSTER_BLOCKS[protocol.profile.network.name]
    points = [entry(protocol, store, "block-local", "block-local", num_blocks=k) for k in blocks]
    return [entry(protocol, store, "backprop", "backprop"), *points]


EXPERIMENTS: dict[str, Callable[[Protocol, RunStore], list[Entry]]] = {
    function.__name__: function
    for function in (
        *(table02, table03, figure03, table04, table05, table06, table07, table08, figure06, figure07, figure08),
        *(first_head, poster_table1, poster_figure3),
    )
}


def load(name: str, protocols: Protocol | Sequence[Protocol], store: RunStore) -> list[Entry]:
    """The entries of an experiment, under one protocol or one protocol after another.

    There are none under a protocol whose network or pictures the experiment is not about.

    Raises:
        SedonaError: an unknown name.
    """
    experiment = EXPERIMENTS[choose(name, EXPERIMENTS, "experiment")]
    listed = [protocols] if isinstance(protocols, Protocol) else protocols
    fitting = [p for p in listed if p.profile.network.name in networks(name) and _is_about(name, p.name)]
    return [entry for protocol in fitting for entry in experiment(protocol, store)]


def networks(name: str) -> tuple[str, ...]:
    """The networks that an experiment has entries for."""
    deep = {"table03": ("resnet101", "resnet152"), "table05": ("resnet152",)}
    return {**POSTER_NETWORKS, **deep}.get(name, tuple(n for n in NUM_LAYERS if n not in UNPRINTED))


def protocol_names(name: str) -> tuple[str, ...]:
    """The protocols under which an experiment has entries."""
    return tuple(protocol for protocol in NAMES if _is_about(name, protocol))


def _is_about(name: str, protocol: str) -> bool:
    """On other pictures than CIFAR-10, only what the paper has of them; all else under any other protocol."""
    return name in ON_LARGE[protocol] if protocol in ON_LARGE else name not in ("table03", "table05")


def _on_imagenet(protocol: Protocol, store: RunStore, table: str, cells: Sequence[tuple[str, int]]) -> list[Entry]:
    from sedona_nb import paper  # needs pandas, and a grid does not

    frame = getattr(paper, table)()
    for column, value in (("network", protocol.profile.network.name), ("ensemble", False)):
        frame = frame[frame[column] == value] if column in frame else frame
    printed = frame.set_index(["method", "num_blocks"])["top1_error"]
    return [entry(protocol, store, m, m, published(protocol, k), k, float(printed[m, k])) for m, k in cells]


def _sweep(protocol: Protocol, store: RunStore, compared: Sequence[str]) -> list[Entry]:
    printed = _printed_table02(protocol)
    points = [entry(protocol, store, "backprop", "backprop", printed=printed.get("backprop"))]
    for method in compared:
        numbers = {4: printed.get(method)}  # by K
        points += [
            entry(protocol, store, method, method, published(protocol, k), k, numbers.get(k)) for k in BLOCKS
        ]
    return points


def _printed_table02(protocol: Protocol) -> dict[str, float]:
    """Table 2's errors by method, at K = 4."""
    if protocol.name == "tiny-imagenet":
        return _printed("table2", protocol, "method", pictures=("tiny-imagenet",), data="tiny-imagenet")
    return _printed("table2", protocol, "method", data="cifar10")


def _printed(
    table: str,
    protocol: Protocol,
    key: str,
    number: str = "error",
    pictures: Sequence[str] = CIFAR10,
    **only: str,
) -> dict[str, float]:
    """The numbers of one of `paper`'s tables for the protocol's network, by `key`.

    None for a protocol on other `pictures`: what is printed for one data set says nothing about another.
    """
    if protocol.profile.data not in pictures:
        return {}
    from sedona_nb import paper  # needs pandas, and a grid does not

    frame = getattr(paper, table)()
    conditions = {**({"network": protocol.profile.network.name} if "network" in frame else {}), **only}
    for column, value in conditions.items():
        frame = frame[frame[column] == value]
    return dict(zip(frame[key], frame[number].astype(float), strict=True))
