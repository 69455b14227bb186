"""What "ours" stands for in a table: pictures, network, schedule, seeds, and how a method got its learning rate.

    short = protocols.load("short", "vgg19")
    short.spec("dgl", seed=0, setting=short.settings[1])

"paper": Appendix E on CIFAR-10 letter by letter, and nothing to choose: rate 0.1, no warm-up; beside it those of
`large_protocols` on other pictures. "short": what two CPU cores
reach in minutes a run. A short schedule at the paper's rate is not neutral: backprop through a VGG-19 is still
near chance after 2,000 steps at 0.1, where a network in four blocks has long started to learn. So under "short"
every method gets the same small budget: it is trained once with each of a few settings, with a seed that no table
uses, and the setting with the lowest validation error (`chosen`) is the method's for all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sedona_nb import data as data_sets
from sedona_nb import known_pictures, methods
from sedona_nb.data import Pictures
from sedona_nb.decoupling import Decoupling
from sedona_nb.errors import SedonaError, choose
from sedona_nb.known_pictures import PictureName
from sedona_nb.places import home
from sedona_nb.profiles import Profile
from sedona_nb.profiles import load as load_profile
from sedona_nb.records import RunSpec, SearchSpec
from sedona_nb.runs import RunStore
from sedona_nb.search_config import SearchResult

MAIN = ("short", "paper", "smoke")
LARGE = ("tiny-imagenet", "imagenet", "imagenet-dgl")  # the paper's on other pictures than CIFAR-10
NAMES = (*MAIN, *LARGE)
NUM_LAYERS = {
    "vgg11": 8,
    "vgg19": 16,
    "resnet18": 8,
    "resnet50": 16,
    "resnet101": 33,
    "resnet152": 50,
    "transformer20": 20,
}
# Of the pictures in the records of this repository, of scikit-learn's, and of Zalando's with a border to 32x32.
FINGERPRINTS = {
    "cifar10-jpeg": "84b4120a6f84dc0a",
    "digits": "27c6215336539eaa",
    "fashion-mnist": "26de4164e1f5cb9c",
}
UNPRINTED = ("vgg11", "resnet18", "transformer20")  # networks that SEDONA's paper does not have
BLOCKWISE = (
    "predsim",
    "dgl",
    "sedona",
    "given",
)  # methods whose gradients `alignment` can compare with backprop's
# Decouplings that nobody tuned take the setting of SEDONA's published one, which is one like them.
TUNED_AS = {"given": "sedona"}


@dataclass(frozen=True)
class Setting:
    """What a method may choose for itself under a short schedule."""

    lr: float
    warmup_steps: int

    def __str__(self) -> str:
        return f"rate {self.lr:g}, warm-up {self.warmup_steps}"


@dataclass(frozen=True)
class Protocol:
    """Everything that runs of one table have in common.

    Attributes:
        name: one of `NAMES`.
        profile: data, network, schedule, search, K.
        fingerprint: of the pictures; "": not known here, so that no record fits.
        seeds: of the runs that count.
        settings: what a method may choose; one: nothing to choose.
        tuning_seed: of the runs that choose.
    """

    name: str
    profile: Profile
    fingerprint: str
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: tuple[Setting, ...] = field(default=(Setting(0.1, 0),))
    tuning_seed: int = 100

    @property
    def num_layers(self) -> int:
        """L of the network."""
        return NUM_LAYERS[self.profile.network.name]

    @property
    def label(self) -> str:
        """One line for captions: what ran, but for what the method chose."""
        return f"{self.profile.protocol}, {self.profile.data}"

    @property
    def pictures(self) -> PictureName:
        """What specs say about the pictures."""
        return PictureName(self.profile.data, self.fingerprint)

    def on(self, pictures: Pictures) -> Protocol:
        """The same with other pictures, under their own name."""
        return replace(self, profile=replace(self.profile, data=pictures.name), fingerprint=pictures.fingerprint)

    def spec(
        self,
        method: str,
        seed: int,
        setting: Setting,
        num_blocks: int = 4,
        decoupling: Decoupling | None = None,
        found: SearchResult | None = None,
    ) -> RunSpec:
        """The run of `method`; arguments as in `methods.run_spec`."""
        train = replace(self.profile.train, lr=setting.lr, warmup_steps=setting.warmup_steps)
        if method not in BLOCKWISE:
            train = replace(train, alignment_every=0)
        profile = replace(self.profile, train=train, num_blocks=num_blocks)
        return methods.run_spec(method, profile, self.pictures, self.num_layers, seed, found, decoupling)

    def search(self, seed: int, **changes: object) -> SearchSpec:
        """The search, or with `changes` of its `SearchConfig` a variant of it."""
        profile = replace(self.profile, search=replace(self.profile.search, **changes))
        return methods.search_spec(profile, self.pictures, seed)

    def tuning(self, method: str, found: SearchResult | None = None) -> dict[Setting, RunSpec]:
        """The runs that decide about the setting of `method`; none where there is nothing to choose.

        `found`: of the search with the first seed, for "continuous"; "sedona" is tuned as published.
        """
        if len(self.settings) == 1:
            return {}
        method = TUNED_AS.get(method, method)
        plain = replace(self.profile, train=replace(self.profile.train, train_pictures=0, alignment_every=0))
        cut = Decoupling.published(self.profile.network.name, 4) if method == "sedona" else None
        own = replace(self, profile=plain)
        return {s: own.spec(method, self.tuning_seed, s, 4, cut, found) for s in self.settings}


def chosen(protocol: Protocol, method: str, store: RunStore, found: SearchResult | None = None) -> Setting | None:
    """The setting with which `method` runs: that of its `Protocol.tuning` run with the lowest validation error.

    The earliest among equals; the test pictures have no say, and a run that diverged is the worst. None: some of
    these runs have no record yet.
    """
    if len(protocol.settings) == 1:
        return protocol.settings[0]
    errors = {}
    for setting, spec in protocol.tuning(method, found).items():
        record = store.load(spec)
        if record is None:
            return None
        errors[setting] = math.inf if record.diverged else record.result["best"]["validation"]["top1"]
    return min(errors, key=errors.__getitem__)


def load(name: str, network: str = "vgg19", store: RunStore | None = None, data: str | None = None) -> Protocol:
    """The protocol `name` with one of the networks of the two sources.

    Args:
        name: one of `NAMES`.
        network: one of the paper's; "short" and "smoke" are made for those in `short_protocols.SIZES`.
        store: where "paper" looks up its pictures, the original CIFAR-10 or, where its runs were made with them,
            the same as JPEG files; without one, or without such a record, none fits until `gather`.
        data: name of other pictures than the protocol's own; if `FINGERPRINTS` does not know them, no record fits
            until `Protocol.on`.

    Raises:
        SedonaError: an unknown name, or a network for which the protocol is not made.
    """
    choose(name, NAMES, "protocol")
    if name in LARGE:
        from sedona_nb import large_protocols  # which makes some of these

        choose(network, large_protocols.NETWORKS[name], f"network for protocol {name!r}")
        made = large_protocols.load(name, network)
        records = store.records() if store else []
        made = replace(made, fingerprint=known_pictures.fingerprint(made.profile, records))
    elif name == "paper":
        choose(network, tuple(n for n in NUM_LAYERS if n not in UNPRINTED), "network")
        profile = load_profile("paper", network=network)
        pictures = known_pictures.of_the_paper(profile, store.records() if store else [])
        made = Protocol(name, replace(profile, data=pictures.name), pictures.fingerprint)
    else:
        from sedona_nb import short_protocols  # which makes some of these

        choose(network, short_protocols.SIZES, f"network for protocol {name!r}")
        made = {"short": short_protocols.short, "smoke": short_protocols.smoke}[name](network)
        folders = {part: home() / getattr(made.profile, part) for part in ("results", "figures")}
        made = replace(made, profile=replace(made.profile, **folders))
    if data in (None, made.profile.data):
        return made
    return replace(made, profile=replace(made.profile, data=data), fingerprint=FINGERPRINTS.get(data, ""))


def beside(protocols: Sequence[Protocol], networks: Iterable[str], store: RunStore) -> list[Protocol]:
    """The paper's protocol for those of `networks` that `protocols` do not have under it already."""
    there = {protocol.profile.network.name for protocol in protocols if protocol.name == "paper"}
    return [load("paper", network, store) for network in networks if network not in there]


def gather(protocols: Sequence[Protocol]) -> tuple[tuple[Protocol, ...], tuple[Pictures, ...]]:
    """Protocols that can be run here: each on its pictures as they are at hand, and these pictures.

    What has no fingerprint yet gets it here, under the name of what was found: where the original CIFAR-10 is
    missing, "cifar10" becomes "cifar10-jpeg".

    Raises:
        SedonaError: pictures that are not at hand, or others under their name.
    """
    pictures = {name: data_sets.load(name) for name in dict.fromkeys(p.profile.data for p in protocols)}
    for protocol in protocols:
        found = pictures[protocol.profile.data]
        if protocol.fingerprint and protocol.pictures != PictureName(found.name, found.fingerprint):
            raise SedonaError(
                f"protocol {protocol.name!r} has pictures {protocol.profile.data} ({protocol.fingerprint}), at "
                f"hand are {found.name} ({found.fingerprint}); allowed: the same, or others by their own name"
            )
    return tuple(p.on(pictures[p.profile.data]) for p in protocols), tuple(pictures.values())
